import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { createTestContext } from "@stowage/broker-testkit";
import { digestOf, parseFilePath } from "@stowage/core/broker";
import { afterEach, expect, test } from "vitest";
import { failureOf, MiB, type Opened, openFake } from "./support/opened.ts";

let opened: Opened;
afterEach(() => opened?.close());

const QUICK = { retry: { attempts: 3, baseDelayMs: 1, maxDelayMs: 5 } } as const;
const path = parseFilePath("dir/file.bin");

test.each(["md5", "crc32"] as const)("bodies have a known length and a %s in a header, never chunks with a trailer", async (integrity) => {
  opened = await openFake({ integrity });
  const uploads = [3, 12 * MiB].map((size) => ({ file: `f/${size}`, localPath: opened.localFile(randomBytes(size)) }));
  const outcomes = await opened.workspace.uploadFiles(uploads);
  expect(outcomes.map((outcome) => outcome.status === "done" && [outcome.method, outcome.verified])).toEqual([
    ["stream", "digest"],
    ["multipart", "digest"],
  ]);
  const sent = opened.requests("put", "upload-part").filter(({ key }) => !key?.startsWith(".stowage/"));
  expect(sent).toHaveLength(4);
  for (const { headers, bodyLength } of sent) {
    expect(Number(headers["content-length"])).toBe(bodyLength);
    expect(headers["transfer-encoding"]).toBeUndefined();
    expect(headers["x-amz-trailer"]).toBeUndefined();
    expect(headers["content-encoding"]).toBeUndefined();
    expect(headers[integrity === "md5" ? "content-md5" : "x-amz-checksum-crc32"]).toBeTypeOf("string");
  }
});

test("a part that fails is sent again, and no other", async () => {
  opened = await openFake();
  let failures = 2;
  opened.fake.fault = ({ kind, query }) =>
    kind === "upload-part" && query.get("partNumber") === "2" && failures-- > 0
      ? { do: "answer", status: 503, code: "SlowDown" }
      : undefined;
  const bytes = randomBytes(16 * MiB);
  const context = createTestContext();
  await opened.broker.uploadFile({ file: { path }, localPath: opened.localFile(bytes) }, context);
  const parts = opened.requests("upload-part").map(({ query }) => query.get("partNumber"));
  expect(parts.toSorted()).toEqual(["1", "2", "2", "2", "3", "4"]);
  expect(context.record.progressed).toBe(bytes.length);
  expect(opened.fake.object("data", path)?.bytes.equals(bytes)).toBe(true);
});

test("bytes that the server stores wrong are found by the ETag, and the object does not stay", async () => {
  opened = await openFake({ integrity: "none" });
  opened.fake.fault = ({ kind }) => (kind === "put" ? { do: "store-corrupt" } : undefined);
  const error = await failureOf(opened.workspace.uploadFiles([{ file: path, localPath: opened.localFile("content") }], QUICK));
  expect(error.code).toBe("CHECKSUM_MISMATCH");
  expect(opened.fake.keys("data")).toEqual([]);
});

test("a part that the server stores wrong is sent again before there is an object", async () => {
  opened = await openFake({ integrity: "none" });
  let strikes = 1;
  opened.fake.fault = ({ kind }) => (kind === "upload-part" && strikes-- > 0 ? { do: "store-corrupt" } : undefined);
  const bytes = randomBytes(11 * MiB);
  await opened.workspace.uploadFiles([{ file: path, localPath: opened.localFile(bytes) }]);
  expect(opened.requests("upload-part")).toHaveLength(4);
  expect(opened.fake.object("data", path)?.bytes.equals(bytes)).toBe(true);
});

test("where ETags are no MD5s nothing is mistaken for corruption", async () => {
  opened = await openFake({ etag: "opaque" }, { etag: "random" });
  const bytes = randomBytes(11 * MiB);
  const outcomes = await opened.workspace.uploadFiles([
    { file: "small", localPath: opened.localFile("small") },
    { file: "large", localPath: opened.localFile(bytes) },
  ]);
  expect(outcomes.every(({ status }) => status === "done")).toBe(true);
  await opened.workspace.downloadFiles([{ file: "large", localPath: `${opened.scratch}/back` }]);
  expect((await opened.workspace.statFile("small"))?.file.digest).toBeUndefined();
});

test("when the answer to a completion is lost the object is known again as our own", async () => {
  opened = await openFake();
  let strikes = 1;
  opened.fake.fault = ({ kind }) => (kind === "complete" && strikes-- > 0 ? { do: "lose-answer" } : undefined);
  const [outcome] = await opened.workspace.uploadFiles([{ file: path, localPath: opened.localFile(randomBytes(6 * MiB)) }], {
    ifExists: "fail",
  });
  expect(outcome).toMatchObject({ status: "done", attempts: 1 });
  expect(opened.fake.uploads("data")).toEqual([]);
  expect(opened.fake.keys("data")).toEqual([path]);
});

test("when the answer to a conditional write is lost the next attempt of the same item knows it again; another item does not", async () => {
  opened = await openFake();
  const localPath = opened.localFile("mine");
  const context = () => ({ ...createTestContext({ ifExists: "fail" }), itemId: "item-1" });
  opened.fake.fault = ({ kind }) => (kind === "put" ? { do: "lose-answer" } : undefined);
  const lost = await opened.broker
    .uploadFile({ file: { path }, localPath }, context())
    .catch((error: unknown) => opened.broker.errorCode(error));
  expect(lost).toMatchObject({ code: "UNAVAILABLE" });
  opened.fake.fault = () => undefined;
  expect(await opened.broker.uploadFile({ file: { path }, localPath }, context())).toMatchObject({ bytes: 4, file: { path } });
  const other = await opened.broker
    .uploadFile({ file: { path }, localPath }, { ...createTestContext({ ifExists: "fail" }), itemId: "item-2" })
    .catch((error: unknown) => opened.broker.errorCode(error));
  expect(other).toMatchObject({ code: "FILE_EXISTS" });
});

test("an aborted upload has ended its parts at the server before it rejects, and settled its journal", async () => {
  opened = await openFake();
  const stop = new AbortController();
  opened.fake.fault = ({ kind, query }) => {
    if (kind !== "upload-part" || query.get("partNumber") !== "3") return undefined;
    setTimeout(() => stop.abort(), 20);
    return { do: "delay", ms: 5_000 };
  };
  const context = createTestContext({ signal: stop.signal });
  await expect(opened.broker.uploadFile({ file: { path }, localPath: opened.localFile(randomBytes(20 * MiB)) }, context)).rejects.toThrow();
  expect(opened.fake.uploads("data")).toEqual([]);
  expect(opened.fake.keys("data")).toEqual([]);
  expect(context.record.recorded).toHaveLength(1);
  expect(context.record.settled).toEqual(context.record.recorded);
});

test("an upload that cannot be ended is named as left over, and its journal entry stays", async () => {
  opened = await openFake();
  opened.fake.fault = ({ kind }) =>
    kind === "upload-part" || kind === "abort" ? { do: "answer", status: 403, code: "AccessDenied" } : undefined;
  const context = createTestContext();
  const error: unknown = await opened.broker
    .uploadFile({ file: { path }, localPath: opened.localFile(randomBytes(6 * MiB)) }, context)
    .catch((reason: unknown) => reason);
  expect((error as { leftovers?: string[] }).leftovers?.[0]).toMatch(/^multipart upload .* of "dir\/file\.bin"$/);
  expect(context.record.settled).toEqual([]);
});

test("a source that changes while its parts are sent is refused, and nothing is stored", async () => {
  opened = await openFake();
  const localPath = opened.localFile(randomBytes(11 * MiB));
  opened.fake.fault = ({ kind, query }) => {
    if (kind === "upload-part" && query.get("partNumber") === "2") writeFileSync(localPath, randomBytes(11 * MiB));
    return undefined;
  };
  const error = await failureOf(opened.workspace.uploadFiles([{ file: path, localPath }], { retry: { attempts: 1 } }));
  expect(error.code).toBe("SOURCE_CHANGED");
  expect(opened.fake.keys("data")).toEqual([]);
  expect(opened.fake.uploads("data")).toEqual([]);
});

test("a server that knows no conditions is looked at before each write", async () => {
  opened = await openFake({}, { conditions: "501" });
  const localPath = opened.localFile("x");
  await opened.workspace.uploadFiles([{ file: "new", localPath }], { ifExists: "fail" });
  const error = await failureOf(opened.workspace.uploadFiles([{ file: "new", localPath }], { ifExists: "fail" }));
  expect(error.code).toBe("FILE_EXISTS");
  // Asked once, not with every file.
  expect(opened.requests("put").filter(({ headers }) => headers["if-none-match"] !== undefined)).toHaveLength(1);
});

test("a large file that exists already is not sent", async () => {
  opened = await openFake();
  opened.fake.seed("data", path, Buffer.from("there"));
  const error = await failureOf(
    opened.workspace.uploadFiles([{ file: path, localPath: opened.localFile(randomBytes(6 * MiB)) }], { ifExists: "fail" }),
  );
  expect(error.code).toBe("FILE_EXISTS");
  expect(opened.requests("upload-part", "create-upload")).toEqual([]);
});

test("media type and metadata are kept, beyond ASCII too, and ours are not shown", async () => {
  opened = await openFake();
  const metadata = { sample: "17", place: "Zürich 東京", padded: " x " };
  await opened.workspace.uploadFiles([
    { file: { path: "a.tif", metadata }, localPath: opened.localFile("x") },
    { file: { path: "b.tif", mediaType: "image/x-special" }, localPath: opened.localFile("x") },
  ]);
  const found = await opened.workspace.statFile("a.tif");
  expect(found?.file).toMatchObject({ mediaType: "image/tiff", metadata });
  expect((await opened.workspace.statFile("b.tif"))?.file).toMatchObject({ mediaType: "image/x-special", metadata: undefined });
  for (const bad of [{ "stowage-item": "x" }, { mtime: "1" }, { "Upper Case": "x" }, { big: "x".repeat(3_000) }]) {
    const error = await failureOf(
      opened.workspace.uploadFiles([{ file: { path: "c", metadata: bad }, localPath: opened.localFile("x") }], QUICK),
    );
    expect(error.code).toBe("INVALID_ARGUMENT");
  }
});

test.each([
  [{ storageClass: "STANDARD_IA" }, { "x-amz-storage-class": "STANDARD_IA" }],
  [{ serverSideEncryption: { kind: "s3" } }, { "x-amz-server-side-encryption": "AES256" }],
  [
    { serverSideEncryption: { kind: "kms", keyId: "key-1", bucketKey: true } },
    {
      "x-amz-server-side-encryption": "aws:kms",
      "x-amz-server-side-encryption-aws-kms-key-id": "key-1",
      "x-amz-server-side-encryption-bucket-key-enabled": "true",
    },
  ],
  [
    { serverSideEncryption: { kind: "customer", key: Buffer.alloc(32, 7).toString("base64") } },
    {
      "x-amz-server-side-encryption-customer-algorithm": "AES256",
      "x-amz-server-side-encryption-customer-key": Buffer.alloc(32, 7).toString("base64"),
    },
  ],
  [{ requesterPays: true }, { "x-amz-request-payer": "requester" }],
] as const)("with %j every new object is asked for so", async (config, headers) => {
  opened = await openFake({ ...config, etag: "opaque" });
  await opened.workspace.uploadFiles([
    { file: "small", localPath: opened.localFile("x") },
    { file: "large", localPath: opened.localFile(randomBytes(6 * MiB)) },
  ]);
  const requests = opened.requests("put", "create-upload");
  expect(requests.map(({ kind }) => kind)).toEqual(expect.arrayContaining(["put", "create-upload"]));
  for (const request of requests) expect(request.headers).toMatchObject(headers);
});

test("a writer sends parts as they fill, and its object is whole", async () => {
  opened = await openFake({ integrity: "crc32" });
  const bytes = randomBytes(13 * MiB + 17);
  const writer = await opened.workspace.openWrite("stream");
  for (let offset = 0; offset < bytes.length; offset += 999_999) await writer.write(bytes.subarray(offset, offset + 999_999));
  expect(opened.requests("upload-part")).toHaveLength(2);
  const details = await writer.commit();
  expect(details).toMatchObject({ bytes: bytes.length, method: "multipart", verified: "digest", digest: digestOf(bytes, "crc32") });
  expect(opened.fake.object("data", "stream")?.bytes.equals(bytes)).toBe(true);
  expect(opened.fake.keys("data")).toEqual(["stream"]);
});
