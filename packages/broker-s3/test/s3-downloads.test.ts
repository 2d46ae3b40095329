import { randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { s3Broker } from "@stowage/broker-s3";
import { createTestContext } from "@stowage/broker-testkit";
import { openWorkspace } from "@stowage/core";
import { parseFilePath } from "@stowage/core/broker";
import { afterEach, describe, expect, test } from "vitest";
import { failureOf, MiB, type Opened, openFake } from "./support/opened.ts";

let opened: Opened;
afterEach(() => opened?.close());

const QUICK = { retry: { attempts: 2, baseDelayMs: 1, maxDelayMs: 5 } } as const;
const target = (): string => join(opened.scratch, "target");

test("a small file is one request, a large one ranges that name one state of the object", async () => {
  opened = await openFake();
  const bytes = randomBytes(17 * MiB);
  opened.fake.seed("data", "small", bytes.subarray(0, 100));
  opened.fake.seed("data", "large", bytes);
  await opened.workspace.downloadFiles([{ file: "small", localPath: join(opened.scratch, "small") }]);
  expect(opened.requests()).toHaveLength(1);
  await opened.workspace.downloadFiles([{ file: "large", localPath: target() }]);
  expect(readFileSync(target()).equals(bytes)).toBe(true);
  const [first, ...rest] = opened.requests();
  expect(first?.headers["if-match"]).toBeUndefined();
  expect(rest).toHaveLength(3);
  for (const { headers } of rest) expect(headers["if-match"]).toBe(`"${opened.fake.object("data", "large")?.etag}"`);
});

test("a connection that breaks is taken up where it broke, not from the start", async () => {
  opened = await openFake();
  const bytes = randomBytes(4 * MiB);
  opened.fake.seed("data", "a", bytes);
  let strikes = 2;
  opened.fake.fault = ({ kind }) => (kind === "get" && strikes-- > 0 ? { do: "cut-answer", share: 0.5 } : undefined);
  const context = createTestContext();
  const details = await opened.broker.downloadFile({ file: { path: parseFilePath("a") }, localPath: target() }, context);
  expect(details.verified).toBe("digest");
  expect(readFileSync(target()).equals(bytes)).toBe(true);
  const starts = opened.requests("get").map(({ headers }) => Number(/^bytes=(\d+)-/.exec(String(headers.range))?.[1]));
  expect(starts).toHaveLength(3);
  expect(starts[1]).toBeGreaterThan(MiB);
  expect(starts[2]).toBeGreaterThan(starts[1] ?? 0);
  expect(context.record.progressed).toBe(bytes.length);
});

test("an object that is replaced while it is read is never a mixture", async () => {
  opened = await openFake();
  opened.fake.seed("data", "a", Buffer.alloc(17 * MiB, 1));
  let gets = 0;
  opened.fake.fault = ({ kind }) => {
    if (kind === "get" && ++gets === 3) opened.fake.seed("data", "a", Buffer.alloc(17 * MiB, 2));
    return undefined;
  };
  const error = await failureOf(opened.workspace.downloadFiles([{ file: "a", localPath: target() }], { retry: { attempts: 1 } }));
  expect(error.code).toBe("SOURCE_CHANGED");
  expect(readdirSync(opened.scratch)).toEqual([]);
  await opened.workspace.downloadFiles([{ file: "a", localPath: target() }]);
  expect(readFileSync(target()).every((byte) => byte === 2)).toBe(true);
});

test.each([3, 17 * MiB])("a server that takes no notice of ranges still gives %i bytes whole", async (size) => {
  opened = await openFake({}, { ranges: "ignored" });
  const bytes = randomBytes(size);
  opened.fake.seed("data", "a", bytes);
  let strikes = 1;
  opened.fake.fault = ({ kind }) => (kind === "get" && strikes-- > 0 ? { do: "cut-answer", share: 0.5 } : undefined);
  await opened.workspace.downloadFiles([{ file: "a", localPath: target() }]);
  expect(readFileSync(target()).equals(bytes)).toBe(true);
});

test("bytes that change on the way are found by the ETag of a small object and by the checksum of a large one", async () => {
  opened = await openFake({ integrity: "crc32" });
  const bytes = randomBytes(11 * MiB);
  await opened.workspace.uploadFiles([
    { file: "small", localPath: opened.localFile("small") },
    { file: "large", localPath: opened.localFile(bytes) },
  ]);
  opened.fake.fault = ({ kind }) => (kind === "get" ? { do: "corrupt-answer" } : undefined);
  for (const file of ["small", "large"]) {
    expect((await failureOf(opened.workspace.downloadFiles([{ file, localPath: target() }], QUICK))).code).toBe("CHECKSUM_MISMATCH");
  }
  opened.fake.fault = () => undefined;
  const [outcome] = await opened.workspace.downloadFiles([{ file: "large", localPath: target() }]);
  expect(outcome).toMatchObject({ verified: "digest", digest: { algorithm: "crc32" } });
});

test("a server that goes silent is STALLED, and no connection stays open behind it", async () => {
  opened = await openFake();
  opened.fake.seed("data", "a", randomBytes(12 * MiB));
  opened.fake.fault = ({ kind }) => (kind === "get" ? { do: "stall-answer", share: 0.3 } : undefined);
  const error = await failureOf(
    opened.workspace.downloadFiles([{ file: "a", localPath: target() }], { stallTimeoutMs: 300, retry: { attempts: 1 } }),
  );
  expect(error.code).toBe("STALLED");
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(opened.fake.openConnections()).toBe(0);
});

test("an older version is fetched by its id, and a state that is gone is an error", async () => {
  opened = await openFake({}, { versioned: true });
  const [first] = await opened.workspace.uploadFiles([{ file: "a", localPath: opened.localFile("first") }]);
  await opened.workspace.uploadFiles([{ file: "a", localPath: opened.localFile("second") }]);
  const version = first?.status === "done" ? first.file.version : undefined;
  expect(version).toBe(opened.fake.object("data", "a") && version);
  await opened.workspace.downloadFiles([{ file: { path: "a", version: String(version) }, localPath: target() }]);
  expect(readFileSync(target(), "utf8")).toBe("first");
  const gone = await failureOf(opened.workspace.downloadFiles([{ file: { path: "a", version: '"0123"' }, localPath: target() }], QUICK));
  expect(gone.code).toBe("SOURCE_CHANGED");
});

test("a reader takes up a broken connection and finds changed bytes at its end", async () => {
  opened = await openFake();
  const bytes = randomBytes(3 * MiB);
  opened.fake.seed("data", "a", bytes);
  let strikes = 1;
  opened.fake.fault = ({ kind }) => (kind === "get" && strikes-- > 0 ? { do: "cut-answer", share: 0.4 } : undefined);
  const reader = await opened.workspace.openRead("a");
  expect(Buffer.concat(await Array.fromAsync(reader)).equals(bytes)).toBe(true);
  opened.fake.fault = ({ kind }) => (kind === "get" ? { do: "corrupt-answer" } : undefined);
  const corrupt = await opened.workspace.openRead("a");
  await expect(Array.fromAsync(corrupt)).rejects.toMatchObject({ code: "CHECKSUM_MISMATCH" });
});

describe("a download marked partial", () => {
  async function openMounted(): Promise<{ mount: string; download(file: string): Promise<unknown>; close(): Promise<void> }> {
    opened = await openFake({ prefix: "jobs" });
    const mount = join(opened.scratch, "mount");
    mkdirSync(join(mount, "jobs"), { recursive: true });
    const workspace = await openWorkspace(
      { name: "mounted", broker: { type: "s3", ...opened.config, hostPath: mount } },
      { brokers: [s3Broker] },
    );
    expect(workspace.volume).toEqual({ kind: "bind", source: mount });
    return {
      mount,
      download: async (file) => (await workspace.downloadFiles([{ file, localPath: target(), partial: true }], { linkPartial: true }))[0],
      close: () => workspace.close(),
    };
  }

  test("is a link into the mount when the file there has the size that S3 says", async () => {
    const { mount, download, close } = await openMounted();
    opened.fake.seed("data", "jobs/a", Buffer.from("12345"));
    writeFileSync(join(mount, "jobs/a"), "12345");
    expect(await download("a")).toMatchObject({ status: "done", method: "link", file: { path: "a" } });
    expect(readlinkSync(target())).toBe(join(mount, "jobs/a"));
    expect(opened.requests("get")).toEqual([]);
    await close();
  });

  test.each([
    ["is stale", "123"],
    ["is missing", undefined],
  ])("is fetched when the file there %s", async (_, there) => {
    const { mount, download, close } = await openMounted();
    opened.fake.seed("data", "jobs/a", Buffer.from("12345"));
    if (there !== undefined) writeFileSync(join(mount, "jobs/a"), there);
    expect(await download("a")).toMatchObject({ status: "done", method: "stream" });
    expect(readFileSync(target(), "utf8")).toBe("12345");
    expect(there === undefined ? [] : readFileSync(join(mount, "jobs/a"), "utf8")).toEqual(there ?? []);
    await close();
  });
});
