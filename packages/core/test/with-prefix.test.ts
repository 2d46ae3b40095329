import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Broker, ListProblem } from "../src/lib/broker.ts";
import type { FilePath } from "../src/lib/files.ts";
import { createMemoryBroker, type MemoryBroker } from "../src/lib/memory-broker.ts";
import { StowageError } from "../src/lib/stowage-error.ts";
import { withPrefix } from "../src/lib/with-prefix.ts";
import { collect, operationContext, storedFile } from "./support/operation-context.ts";

let folder: string;
let whole: MemoryBroker;
let part: Broker;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "stowage-prefix-"));
  whole = createMemoryBroker();
  part = withPrefix(whole, "team/a");
  for (const path of ["team/a/1", "team/a/deep/2", "team/ab/3", "team/4", "5"]) await put(whole, path, path);
});
afterEach(() => rm(folder, { recursive: true }));

async function put(broker: Broker, path: string, content: string) {
  const writer = await broker.openWrite!(storedFile(path), {}, operationContext());
  await writer.write(Buffer.from(content));
  return writer.commit();
}

async function list(broker: Broker, directory = "", startAfter?: string): Promise<string[]> {
  const options = { recursive: true, startAfter: startAfter as FilePath | undefined, onProblem: () => {} };
  return (await collect(broker.listFiles(directory as FilePath, options, operationContext()))).map(({ file }) => file.path);
}

const path = (text: string) => text as FilePath;

test("a listing gives what lies below the prefix, and nothing beside it that begins alike", async () => {
  expect(await list(part)).toEqual(["1", "deep/2"]);
  expect(await list(part, "deep")).toEqual(["deep/2"]);
  expect(await list(part, "", "1")).toEqual(["deep/2"]);
  expect(await list(withPrefix(whole, "team/a/"))).toEqual(["1", "deep/2"]);
  expect(await list(withPrefix(whole, ""))).toHaveLength(5);
});

test("every verb reads and writes below the prefix and answers with its own paths", async () => {
  const localPath = join(folder, "file");
  await writeFile(localPath, "content");
  const context = operationContext();
  expect(await part.uploadFile({ file: storedFile("up"), localPath }, context)).toMatchObject({ file: { path: "up" } });
  expect(await part.copyFile!({ file: storedFile("up"), newPath: path("copy") }, context)).toMatchObject({ file: { path: "copy" } });
  expect(await part.moveFile({ file: storedFile("up"), newPath: path("moved") }, context)).toMatchObject({ file: { path: "moved" } });
  expect(await part.downloadFile({ file: storedFile("moved"), localPath: join(folder, "out") }, context)).toMatchObject({
    file: { path: "moved" },
  });
  expect(await readFile(join(folder, "out"), "utf8")).toBe("content");
  expect(await put(part, "written", "abc")).toMatchObject({ file: { path: "written" } });
  const reader = await part.openRead!(storedFile("written"), { range: { start: 1 } }, context);
  expect([reader.file.path, reader.size]).toEqual(["written", 2]);
  expect(Buffer.concat(await collect(reader)).toString()).toBe("bc");
  await reader.close();
  expect(await part.statFile(storedFile("copy"), context)).toMatchObject({ file: { path: "copy" }, size: 7 });
  expect(await part.statFile(storedFile("4"), context)).toBeUndefined();
  expect(await part.deleteFile(storedFile("copy"), context)).toBe("deleted");
  expect(await list(whole)).toEqual(["5", "team/4", "team/a/1", "team/a/deep/2", "team/a/moved", "team/a/written", "team/ab/3"]);
});

test("so does every batch", async () => {
  const localPath = join(folder, "file");
  await writeFile(localPath, "content");
  const context = operationContext();
  expect(await collect(part.uploadFiles!([{ file: storedFile("x"), localPath }], context))).toMatchObject([
    { ok: true, value: { file: { path: "x" } } },
  ]);
  expect(await collect(part.moveFiles!([{ file: storedFile("x"), newPath: path("y") }], context))).toMatchObject([
    { ok: true, value: { file: { path: "y" } } },
  ]);
  expect(await collect(part.downloadFiles!([{ file: storedFile("y"), localPath: join(folder, "out") }], context))).toMatchObject([
    { ok: true, value: { file: { path: "y" } } },
  ]);
  expect(await collect(part.deleteFiles!([storedFile("y"), storedFile("4")], context))).toEqual([
    { index: 0, ok: true, value: "deleted" },
    { index: 1, ok: true, value: "missing" },
  ]);
});

test("paths of the file system and signed URLs are those of the inner file", async () => {
  const broker = withPrefix(
    { ...whole, getFileSystemPath: (file) => `/mnt/${file.path}`, createSignedUrl: async (file) => `https://x/${file.path}` },
    "team/a",
  );
  expect(broker.getFileSystemPath!(storedFile("1"))).toBe("/mnt/team/a/1");
  expect(await broker.createSignedUrl!(storedFile("1"), { method: "GET", expiresInSeconds: 1 }, operationContext())).toBe(
    "https://x/team/a/1",
  );
});

test("errors, their leftovers and those of batches speak of the paths that the caller knows", async () => {
  const context = operationContext();
  const missing = { code: "FILE_NOT_FOUND", file: "gone", message: 'no such file: "gone"' };
  await expect(part.openRead!(storedFile("gone"), {}, context)).rejects.toMatchObject(missing);
  await expect(part.moveFile({ file: storedFile("gone"), newPath: path("x") }, context)).rejects.toMatchObject(missing);
  const results = await collect(part.downloadFiles!([{ file: storedFile("gone"), localPath: join(folder, "out") }], context));
  expect(results).toMatchObject([{ index: 0, ok: false, error: missing }]);

  const raw = Object.assign(new Error("no space"), { code: "ENOSPC", leftovers: ["team/a/.stowage-1", "elsewhere"] });
  const failing = withPrefix({ ...whole, statFile: async () => Promise.reject(raw) }, "team/a");
  const error = await failing.statFile(storedFile("1"), context).catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: "NO_SPACE", leftovers: [".stowage-1", "elsewhere"], cause: raw });
  expect(failing.errorCode(error)).toMatchObject({ code: "NO_SPACE" });
});

test("an error that names no path is the broker's own, and classified by it", async () => {
  const raw = Object.assign(new Error("odd"), { code: "ODD" });
  const failing = withPrefix(
    { ...whole, statFile: async () => Promise.reject(raw), errorCode: (error) => (error === raw ? "RATE_LIMITED" : "UNKNOWN") },
    "team/a",
  );
  await expect(failing.statFile(storedFile("1"), operationContext())).rejects.toBe(raw);
  expect(failing.errorCode(raw)).toEqual({ code: "RATE_LIMITED" });
});

test("errors of streams are translated wherever they come up", async () => {
  const inner = new StowageError('cannot read "team/a/1"', { code: "SHORT_SOURCE", file: "team/a/1" });
  const outer = { code: "SHORT_SOURCE", file: "1", message: 'cannot read "1"' };
  const rejecting = async () => Promise.reject(inner);
  const throwing = {
    [Symbol.asyncIterator]: () => ({ next: rejecting }),
  };
  const broker = withPrefix(
    {
      ...whole,
      listFiles: () => throwing,
      deleteFiles: () => throwing,
      openRead: async (file) => ({ file, size: 1, close: async () => {}, ...throwing }),
      openWrite: async () => ({ write: rejecting, commit: rejecting, abort: async () => {} }),
    },
    "team/a",
  );
  const context = operationContext();
  await expect(list(broker)).rejects.toMatchObject(outer);
  await expect(collect(broker.deleteFiles!([], context))).rejects.toMatchObject(outer);
  await expect(collect(await broker.openRead!(storedFile("1"), {}, context))).rejects.toMatchObject(outer);
  const writer = await broker.openWrite!(storedFile("1"), {}, context);
  await expect(writer.write(new Uint8Array(1))).rejects.toMatchObject(outer);
  await expect(writer.commit()).rejects.toMatchObject(outer);
  await writer.abort(undefined);
});

test("what a broker at fault reports from outside is refused, in a listing through onProblem", async () => {
  const outside = ["team/ab/3", "5", "team/a/../4", "team/a//x", "team/a/", "/etc/passwd", "team/a/.stowage-1"];
  let closed = 0;
  const hostile = withPrefix(
    {
      ...whole,
      async *listFiles(_directory, options) {
        options.onProblem({ path: "team/a/odd\\xff", error: new Error("not UTF-8") });
        for (const name of ["team/a/1", ...outside]) yield { file: storedFile(name), size: 0 };
      },
      statFile: async () => ({ file: storedFile("5"), size: 0 }),
      openRead: async () => ({
        file: storedFile("5"),
        size: 0,
        close: async () => {
          closed++;
        },
        async *[Symbol.asyncIterator]() {},
      }),
      async *uploadFiles() {
        yield { index: 0, ok: true, value: { file: storedFile("5"), method: "stream", bytes: 0, verified: "none" } };
      },
    },
    "team/a",
  );
  const problems: ListProblem[] = [];
  const listing = hostile.listFiles("", { recursive: true, onProblem: (problem) => problems.push(problem) }, operationContext());
  expect((await collect(listing)).map(({ file }) => file.path)).toEqual(["1"]);
  expect(problems.map((problem) => problem.path)).toEqual(["odd\\xff", ...outside]);
  for (const { error } of problems.slice(1)) expect(error).toMatchObject({ code: "INVALID_PATH" });
  await expect(hostile.statFile(storedFile("5"), operationContext())).rejects.toMatchObject({ code: "INVALID_PATH" });
  await expect(hostile.openRead!(storedFile("5"), {}, operationContext())).rejects.toMatchObject({ code: "INVALID_PATH" });
  expect(closed).toBe(1);
  const results = await collect(hostile.uploadFiles!([{ file: storedFile("5"), localPath: "/x" }], operationContext()));
  expect(results).toMatchObject([{ index: 0, ok: false, error: { code: "INVALID_PATH" } }]);
});

test("a prefix is a path like any other", () => {
  for (const prefix of ["..", "/etc", "a//b", "a/../b", ".stowage"]) {
    expect(() => withPrefix(whole, prefix)).toThrow(expect.objectContaining({ code: "INVALID_PATH" }));
  }
});
