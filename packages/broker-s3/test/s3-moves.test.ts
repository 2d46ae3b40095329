import { randomBytes } from "node:crypto";
import { createTestContext } from "@stowage/broker-testkit";
import { parseFilePath } from "@stowage/core/broker";
import { afterEach, expect, test } from "vitest";
import { failureOf, MiB, type Opened, openFake } from "./support/opened.ts";

let opened: Opened;
afterEach(() => opened?.close());

const QUICK = { retry: { attempts: 2, baseDelayMs: 1, maxDelayMs: 5 } } as const;

test.each(["full", "put"] as const)(
  "a file above the size of one copy moves in parts, with its metadata and tags (conditions: %s)",
  async (conditions) => {
    opened = await openFake({ multipartCopyThresholdBytes: 5 * MiB, conditionalWrites: conditions }, { conditions });
    const bytes = randomBytes(12 * MiB);
    await opened.workspace.uploadFiles([
      { file: { path: "a", mediaType: "image/tiff", metadata: { sample: "17" } }, localPath: opened.localFile(bytes) },
    ]);
    const before = opened.fake.object("data", "a");
    Object.assign(before ?? {}, { tags: "kind=scene&owner=me" });
    opened.requests();
    const [outcome] = await opened.workspace.moveFiles([{ file: "a", newPath: "b" }]);
    expect(outcome).toMatchObject({ status: "done", method: "server-copy", bytes: bytes.length });
    const copies = opened.requests("copy-part");
    expect(copies).toHaveLength(3);
    for (const { headers } of copies) expect(headers["x-amz-copy-source-if-match"]).toBe(`"${before?.etag}"`);
    expect(opened.fake.keys("data")).toEqual(["b"]);
    const moved = opened.fake.object("data", "b");
    expect(moved?.bytes.equals(bytes)).toBe(true);
    expect(moved?.tags).toBe("kind=scene&owner=me");
    expect((await opened.workspace.statFile("b"))?.file).toMatchObject({ mediaType: "image/tiff", metadata: { sample: "17" } });
  },
);

test("onto itself nothing is asked of the server but what is there", async () => {
  opened = await openFake();
  opened.fake.seed("data", "a", Buffer.from("x"));
  const path = parseFilePath("a");
  const details = await opened.broker.moveFile({ file: { path }, newPath: path }, createTestContext());
  expect(details).toMatchObject({ bytes: 1, file: { path: "a" } });
  expect(opened.requests().map(({ kind }) => kind)).toEqual(["head"]);
});

test("a source that is replaced after it was copied is not deleted", async () => {
  opened = await openFake();
  opened.fake.seed("data", "a", Buffer.from("old"));
  let copied = false;
  opened.fake.fault = ({ kind, key }) => {
    if (kind === "copy") copied = true;
    if (copied && kind === "head" && key === "b") opened.fake.seed("data", "a", Buffer.from("newer"));
    return undefined;
  };
  const error = await failureOf(opened.workspace.moveFiles([{ file: "a", newPath: "b" }], QUICK));
  expect(error.code).toBe("SOURCE_CHANGED");
  expect(opened.fake.object("data", "a")?.bytes.toString()).toBe("newer");
  expect(opened.fake.object("data", "b")?.bytes.toString()).toBe("old");
});

test("a copy that is not what was copied is found, and the source stays", async () => {
  opened = await openFake();
  opened.fake.seed("data", "a", Buffer.from("content"));
  let copied = false;
  opened.fake.fault = ({ kind, key }) => {
    if (kind === "copy") copied = true;
    if (copied && kind === "head" && key === "b" && opened.fake.object("data", "b")?.bytes.length === 7) {
      const object = opened.fake.object("data", "b");
      Object.assign(object ?? {}, { bytes: Buffer.from("conten") });
    }
    return undefined;
  };
  const error = await failureOf(opened.workspace.moveFiles([{ file: "a", newPath: "b" }], QUICK));
  expect(error.code).toBe("CHECKSUM_MISMATCH");
  expect(opened.fake.keys("data")).toContain("a");
});

test("a move that ended between copy and deletion is taken up by the same move, although its target exists", async () => {
  opened = await openFake();
  opened.fake.seed("data", "a", Buffer.from("content"));
  opened.fake.fault = ({ kind }) => (kind === "delete" ? { do: "answer", status: 403, code: "AccessDenied" } : undefined);
  const error = await failureOf(opened.workspace.moveFiles([{ file: "a", newPath: "b" }], QUICK));
  expect(error.code).toBe("PERMISSION_DENIED");
  expect(error.message).toContain("both exist");
  expect(opened.fake.keys("data")).toEqual(["a", "b"]);
  opened.fake.fault = () => undefined;
  opened.requests();
  await opened.workspace.moveFiles([{ file: "a", newPath: "b" }]);
  expect(opened.fake.keys("data")).toEqual(["b"]);
  expect(opened.requests("copy")).toEqual([]);
});

test("a move onto somebody else's file of the same content is FILE_EXISTS", async () => {
  opened = await openFake();
  opened.fake.seed("data", "a", Buffer.from("content"));
  await opened.workspace.copyFiles([{ file: "a", newPath: "b" }]);
  expect((await failureOf(opened.workspace.moveFiles([{ file: "a", newPath: "b" }], QUICK))).code).toBe("FILE_EXISTS");
  expect(opened.fake.keys("data")).toEqual(["a", "b"]);
});

test("a copy in parts that fails leaves no upload behind", async () => {
  opened = await openFake({ multipartCopyThresholdBytes: 5 * MiB });
  opened.fake.seed("data", "a", randomBytes(11 * MiB));
  opened.fake.fault = ({ kind, query }) =>
    kind === "copy-part" && query.get("partNumber") === "2" ? { do: "answer", status: 403, code: "AccessDenied" } : undefined;
  expect((await failureOf(opened.workspace.moveFiles([{ file: "a", newPath: "b" }], QUICK))).code).toBe("PERMISSION_DENIED");
  expect(opened.fake.uploads("data")).toEqual([]);
  expect(opened.fake.keys("data")).toEqual(["a"]);
});

test("keys with every sort of character are copied from and to", async () => {
  opened = await openFake();
  for (const name of ["a+b", "100%", "%2F", "a b", "ü東🚢", "q?x=1&y", "#h", "'()*!", "tab\there"]) {
    opened.fake.seed("data", name, Buffer.from(name));
    await opened.workspace.moveFiles([{ file: name, newPath: "moved/x" }]);
    expect(opened.fake.object("data", "moved/x")?.bytes.toString()).toBe(name);
    await opened.workspace.deleteFiles(["moved/x"]);
    expect(opened.fake.keys("data")).toEqual([]);
  }
});
