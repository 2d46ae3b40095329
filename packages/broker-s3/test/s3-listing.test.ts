import { randomBytes } from "node:crypto";
import { CreateMultipartUploadCommand, S3Client } from "@aws-sdk/client-s3";
import { createS3Broker, type S3BrokerConfig, s3Broker } from "@stowage/broker-s3";
import { createTestContext } from "@stowage/broker-testkit";
import { importScaleWorkspace, type ListProblem, openWorkspace, Workspace } from "@stowage/core";
import { parseFilePath } from "@stowage/core/broker";
import * as fc from "fast-check";
import { afterEach, describe, expect, test } from "vitest";
import { createKeySpace, decodeKey } from "../src/lib/keys.ts";
import { FAKE_ACCESS_KEY, FAKE_SECRET_KEY, type FakeS3Traits } from "./support/fake-s3.ts";
import { failureOf, MiB, type Opened, openFake } from "./support/opened.ts";

let opened: Opened;
afterEach(() => opened?.close());

const list = async (problems?: ListProblem[]): Promise<string[]> =>
  (await Array.fromAsync(opened.workspace.listFiles("", { recursive: true, onProblem: (problem) => problems?.push(problem) }))).map(
    ({ file }) => file.path,
  );

describe("a listing", () => {
  test("hides the marks of directories and our own records, and reports what no path can name", async () => {
    opened = await openFake({ prefix: "root" });
    const keys = [
      "root/",
      "root/dir/",
      "root/dir/a+b",
      "root/dir/100% ü",
      "root/.stowage/inflight/x",
      "root/a//b",
      "root/./c",
      "root/full/",
      "rootless",
      "root/empty",
    ];
    for (const key of keys) opened.fake.seed("data", key, Buffer.from(key.endsWith("/") && key !== "root/full/" ? "" : "x"));
    const problems: ListProblem[] = [];
    expect(await list(problems)).toEqual(["dir/100% ü", "dir/a+b", "empty"]);
    expect(problems.map(({ path }) => path).toSorted()).toEqual(["root/./c", "root/a//b", "root/full/"]);
  });

  test("that is cut without a place to go on is an error, not an end", async () => {
    opened = await openFake({ listPageSize: 2 }, { losesTokens: true });
    for (const key of ["a", "b", "c"]) opened.fake.seed("data", key, Buffer.from("x"));
    const error = await failureOf(Array.fromAsync(opened.workspace.listFiles("", { recursive: true })));
    expect(error).toMatchObject({ code: "UNAVAILABLE" });
    expect(error.message).toContain("does not say where it goes on");
  });

  test("of a page that fails for a reason that passes goes on with that page", async () => {
    opened = await openFake({ listPageSize: 2 });
    for (const key of ["a", "b", "c", "d", "e"]) opened.fake.seed("data", key, Buffer.from("x"));
    let lists = 0;
    opened.fake.fault = ({ kind }) => (kind === "list" && ++lists === 2 ? { do: "answer", status: 503, code: "SlowDown" } : undefined);
    expect(await list()).toEqual(["a", "b", "c", "d", "e"]);
  });
});

test("every path has one key, and comes back from it", () => {
  const segment = fc
    .string({ unit: "binary", minLength: 1, maxLength: 12 })
    .filter((text) => text.isWellFormed() && !/[/\0]/.test(text) && text !== "." && text !== ".." && !text.startsWith(".stowage"));
  const keys = createKeySpace("some/prefix/");
  void fc.assert(
    fc.property(fc.array(segment, { minLength: 1, maxLength: 4 }), (segments) => {
      const path = parseFilePath(segments.join("/"));
      const key = keys.keyOf(path);
      expect(keys.nameOf(key)).toEqual({ kind: "file", path });
      expect(decodeKey(encodeURIComponent(key).replaceAll("%20", "+"))).toBe(key);
    }),
  );
  expect(() => keys.keyOf(parseFilePath("ü".repeat(600)))).toThrow(/1024/);
});

describe("deleting many", () => {
  test("is one request with Content-MD5 and no newer checksum, and each key has its own end", async () => {
    opened = await openFake({}, { contentMd5: "required-for-delete" });
    const names = ["a", "b&<>\"'", "denied", "tab\there"];
    for (const name of names) opened.fake.seed("data", name, Buffer.from("x"));
    opened.fake.keyFault = (key) => (key === "denied" ? "AccessDenied" : undefined);
    const results = await Array.fromAsync(
      opened.broker.deleteFiles(
        names.map((name) => ({ path: parseFilePath(name) })),
        createTestContext(),
      ),
    );
    expect(results.toSorted((a, b) => a.index - b.index).map(({ ok }) => ok)).toEqual([true, true, false, true]);
    const denied = results.find(({ index }) => index === 2);
    expect(opened.broker.errorCode(denied?.ok === false ? denied.error : undefined)).toMatchObject({ code: "PERMISSION_DENIED" });
    expect(opened.fake.keys("data")).toEqual(["denied"]);
    const [many, ...others] = opened.requests("delete-many", "delete");
    expect(many?.headers["content-md5"]).toBeTypeOf("string");
    expect(Object.keys(many?.headers ?? {}).filter((name) => /checksum/.test(name))).toEqual([]);
    expect(others.map(({ key }) => key)).toEqual(["tab\there"]);
  });

  test("goes one by one where the server does not know how", async () => {
    opened = await openFake();
    for (const name of ["a", "b"]) opened.fake.seed("data", name, Buffer.from("x"));
    opened.fake.fault = ({ kind }) => (kind === "delete-many" ? { do: "answer", status: 501, code: "NotImplemented" } : undefined);
    await opened.workspace.deleteFiles(["a", "b"]);
    expect(opened.fake.keys("data")).toEqual([]);
  });
});

describe("sweep", () => {
  test("ends the uploads that crashed sessions left, and leaves those of others alone unless it is deep", async () => {
    opened = await openFake({ prefix: "root" });
    const writer = await opened.broker.openWrite({ path: parseFilePath("left") }, {}, createTestContext());
    await writer.write(randomBytes(11 * MiB));
    const { endpoint } = opened.config;
    const client = new S3Client({
      endpoint: String(endpoint),
      region: "us-east-1",
      forcePathStyle: true,
      credentials: { accessKeyId: FAKE_ACCESS_KEY, secretAccessKey: FAKE_SECRET_KEY },
    });
    for (const Key of ["root/others", "elsewhere"]) await client.send(new CreateMultipartUploadCommand({ Bucket: "data", Key }));
    client.destroy();
    expect(opened.fake.keys("data")).toHaveLength(1);
    expect(await Array.fromAsync(opened.workspace.sweep({ olderThanMs: 3_600_000 }))).toEqual([]);
    expect(opened.fake.uploads("data")).toHaveLength(3);
    const swept = await Array.fromAsync(opened.workspace.sweep({ olderThanMs: 0 }));
    expect(swept).toHaveLength(2);
    expect(swept[0]).toMatch(/^multipart upload .* of "left"$/);
    expect(opened.fake.uploads("data")).toEqual(["root/others", "elsewhere"]);
    expect(opened.fake.keys("data")).toEqual([]);
    expect(await Array.fromAsync(opened.workspace.sweep({ olderThanMs: 3_600_000, deep: true }))).toEqual([]);
    await Array.fromAsync(opened.workspace.sweep({ olderThanMs: 0, deep: true }));
    expect(opened.fake.uploads("data")).toEqual(["elsewhere"]);
  });

  test("removes a record that says nothing, and ends nothing for it", async () => {
    opened = await openFake();
    opened.fake.seed("data", ".stowage/inflight/cut", Buffer.from('{"ke'));
    opened.fake.seed("data", ".stowage/inflight/odd", Buffer.from('{"key":7}'));
    expect(await Array.fromAsync(opened.workspace.sweep({ olderThanMs: 0 }))).toEqual([".stowage/inflight/cut", ".stowage/inflight/odd"]);
    expect(opened.fake.keys("data")).toEqual([]);
  });
});

describe("signed URLs", () => {
  test("fetch and store without credentials, and only what they were made for", async () => {
    opened = await openFake();
    const put = await opened.workspace.fileUrl("a b/ü+.txt", { method: "PUT", expiresInSeconds: 60 });
    expect((await fetch(String(put), { method: "PUT", body: "by URL" })).status).toBe(200);
    const get = String(await opened.workspace.fileUrl("a b/ü+.txt", { method: "GET", expiresInSeconds: 60 }));
    expect(await (await fetch(get)).text()).toBe("by URL");
    expect((await fetch(get, { method: "DELETE" })).status).toBe(403);
    expect((await fetch(get.replace("X-Amz-Expires=60", "X-Amz-Expires=600"))).status).toBe(403);
    expect(get).not.toContain(FAKE_SECRET_KEY);
  });

  test("are refused beyond seven days", async () => {
    opened = await openFake();
    const url = opened.broker.createSignedUrl(
      { path: parseFilePath("a") },
      { method: "GET", expiresInSeconds: 604_801 },
      createTestContext(),
    );
    await expect(url).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
  });
});

describe("validate", () => {
  const validate = async (config: Partial<S3BrokerConfig>, traits: Partial<FakeS3Traits>): Promise<string[]> => {
    opened = await openFake(config, traits);
    const warnings = await s3Broker.validate?.(s3Broker.config.parse(opened.config), { signal: new AbortController().signal });
    expect(opened.fake.keys("data")).toEqual([]);
    expect(opened.fake.uploads("data")).toEqual([]);
    return (warnings ?? []).map(({ name }) => name);
  };

  test.each<[string, Partial<S3BrokerConfig>, Partial<FakeS3Traits>, string[]]>([
    ["finds nothing wrong with what fits", {}, {}, []],
    ["finds a checksum that the server does not look at", { integrity: "crc32" }, { checksums: "ignored" }, ["checksum_ignored"]],
    ["finds a Content-MD5 that the server does not look at", { integrity: "md5" }, { contentMd5: "ignored" }, ["checksum_ignored"]],
    ["finds ETags that are no MD5s", {}, { etag: "random" }, ["etag_not_md5"]],
    ["finds conditions that are ignored", {}, { conditions: "ignored" }, ["conditions_ignored"]],
    ["finds conditions that are not known", {}, { conditions: "501" }, ["conditions_unknown"]],
    ["finds a bucket that is not there", { bucket: "nowhere" }, {}, ["bucket_missing"]],
  ])("%s", async (_, config, traits, expected) => {
    expect(await validate(config, traits)).toEqual(expected);
  });

  test("says what may not be done, and that a server is silent, within its time", async () => {
    opened = await openFake();
    const run = async (): Promise<string[]> =>
      ((await s3Broker.validate?.(s3Broker.config.parse(opened.config), { signal: new AbortController().signal })) ?? []).map(
        ({ name }) => name,
      );
    opened.fake.fault = ({ kind }) => (kind === "create-upload" ? { do: "answer", status: 403, code: "AccessDenied" } : undefined);
    expect(await run()).toEqual(["bucket_writing"]);
    opened.fake.fault = ({ kind }) =>
      kind === "list" || kind === "head-bucket" ? { do: "answer", status: 403, code: "AccessDenied" } : undefined;
    expect(await run()).toEqual(["bucket_listing"]);
    opened.fake.fault = () => ({ do: "delay", ms: 60_000 });
    const started = performance.now();
    expect(await run()).toEqual(["bucket_access"]);
    expect(performance.now() - started).toBeLessThan(10_000);
  });
});

describe("createS3Broker", () => {
  test("moves everything through a client that exists, with the SDK's own defaults, and leaves it open", async () => {
    opened = await openFake();
    const client = new S3Client({
      endpoint: String(opened.config.endpoint),
      region: "us-east-1",
      forcePathStyle: true,
      credentials: { accessKeyId: FAKE_ACCESS_KEY, secretAccessKey: FAKE_SECRET_KEY },
    });
    const broker = createS3Broker({ client, bucket: "data", prefix: "live", partSizeBytes: 5 * MiB });
    const workspace = new Workspace({ name: "live", broker });
    const bytes = randomBytes(7 * MiB);
    const [outcome] = await workspace.uploadFiles([{ file: "a", localPath: opened.localFile(bytes) }]);
    expect(outcome).toMatchObject({ status: "done", method: "multipart", verified: "digest" });
    await workspace.moveFiles([{ file: "a", newPath: "b" }]);
    expect(opened.fake.object("data", "live/b")?.bytes.equals(bytes)).toBe(true);
    await workspace.close();
    expect(await client.config.region()).toBe("us-east-1");
    client.destroy();
  });

  test("refuses options that are not valid", () => {
    const client = new S3Client({ region: "us-east-1" });
    expect(() => createS3Broker({ client, bucket: "a/b" })).toThrow(/bucket/);
  });
});

test("what Scale's workspaces translate to opens", async () => {
  opened = await openFake();
  const { config } = importScaleWorkspace({
    name: "old",
    json_config: {
      version: "1.0",
      broker: {
        type: "s3",
        bucket_name: "data",
        region_name: "us-east-1",
        credentials: { access_key_id: "a", secret_access_key: "b" },
        host_path: "/mnt/data",
      },
    },
  });
  const workspace = await openWorkspace(config, { brokers: [s3Broker] });
  expect(workspace.volume).toEqual({ kind: "bind", source: "/mnt/data" });
  await workspace.close();
});
