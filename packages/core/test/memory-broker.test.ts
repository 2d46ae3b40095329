import { createHash } from "node:crypto";
import { appendFile, mkdtemp, readdir, readFile, rm, stat, truncate, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { OperationContext } from "../src/lib/broker.ts";
import { digestOf } from "../src/lib/digest.ts";
import type { FilePath, StoredFile } from "../src/lib/files.ts";
import { createMemoryBroker, type MemoryBroker, memoryBroker } from "../src/lib/memory-broker.ts";
import { collect, operationContext, storedFile } from "./support/operation-context.ts";

let folder: string;
let broker: MemoryBroker;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "stowage-memory-"));
  broker = createMemoryBroker();
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function localFile(name: string, content: string | Uint8Array): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, content);
  return path;
}

async function put(path: string, content: string | Uint8Array, context: Partial<OperationContext> = {}, facts: Partial<StoredFile> = {}) {
  const writer = await broker.openWrite(storedFile(path, facts), {}, operationContext(context));
  await writer.write(Buffer.from(content));
  return writer.commit();
}

async function read(path: string, range?: { start: number; end?: number }): Promise<string> {
  const reader = await broker.openRead(storedFile(path), { range }, operationContext());
  return Buffer.concat(await collect(reader)).toString();
}

const code = (expected: string) => expect.objectContaining({ code: expected });

describe("uploads and downloads", () => {
  test("a file comes back as it was stored, with its time and a CRC32", async () => {
    const content = Buffer.alloc(2_500_000, "stowage ");
    const localPath = await localFile("in", content);
    await utimes(localPath, new Date(), new Date("2020-02-02T02:02:02.500Z"));
    const progress: number[] = [];
    const uploaded = await broker.uploadFile(
      { file: storedFile("a/b.bin", { mediaType: "text/plain", metadata: { by: "me" } }), localPath },
      operationContext({ progress: (bytes) => progress.push(bytes) }),
    );
    expect(uploaded).toEqual({
      file: { path: "a/b.bin", size: content.length, digest: digestOf(content, "crc32"), mediaType: "text/plain", metadata: { by: "me" } },
      method: "stream",
      bytes: content.length,
      digest: digestOf(content, "crc32"),
      verified: "digest",
    });
    expect(progress.reduce((sum, bytes) => sum + bytes, 0)).toBe(content.length);
    expect(progress.length).toBeGreaterThan(1);

    const target = join(folder, "out");
    const downloaded = await broker.downloadFile({ file: storedFile("a/b.bin"), localPath: target }, operationContext());
    expect(downloaded).toMatchObject({ verified: "digest", digest: digestOf(content, "crc32"), bytes: content.length });
    expect((await readFile(target)).equals(content)).toBe(true);
    expect((await stat(target)).mtime.toISOString()).toBe("2020-02-02T02:02:02.500Z");
    expect((await readdir(folder)).sort()).toEqual(["in", "out"]);
  });

  test("an empty file is a file", async () => {
    await broker.uploadFile({ file: storedFile("empty"), localPath: await localFile("in", "") }, operationContext());
    expect(await broker.statFile(storedFile("empty"), operationContext())).toMatchObject({
      size: 0,
      file: { digest: { value: "00000000" } },
    });
    expect((await collect(broker.listFiles("", { recursive: true, onProblem: () => {} }, operationContext()))).length).toBe(1);
    await broker.downloadFile({ file: storedFile("empty"), localPath: join(folder, "out") }, operationContext());
    expect((await readFile(join(folder, "out"))).length).toBe(0);
  });

  test("a digest that is asked for is computed, reported and kept; none is computed for `none`", async () => {
    const localPath = await localFile("in", "abc");
    const sha256 = { algorithm: "sha256", value: createHash("sha256").update("abc").digest("hex") };
    const hashed = await broker.uploadFile({ file: storedFile("a"), localPath }, operationContext({ checksum: "sha256" }));
    expect(hashed).toMatchObject({ verified: "digest", digest: sha256, file: { digest: sha256 } });
    const plain = await broker.uploadFile({ file: storedFile("b"), localPath }, operationContext({ checksum: "none" }));
    expect(plain.verified).toBe("length");
    expect(plain.digest).toBeUndefined();
    const target = join(folder, "out");
    expect((await broker.downloadFile({ file: storedFile("b"), localPath: target }, operationContext())).verified).toBe("length");
    expect(await broker.downloadFile({ file: storedFile("b"), localPath: target }, operationContext({ checksum: "md5" }))).toMatchObject({
      verified: "digest",
      digest: { algorithm: "md5", value: "900150983cd24fb0d6963f7d28e17f72" },
    });
  });

  test("a size or digest that does not hold fails the upload and keeps the previous file", async () => {
    await put("a", "previous");
    const localPath = await localFile("in", "abc");
    const wrong = { algorithm: "sha1", value: "00".repeat(20) } as const;
    await expect(broker.uploadFile({ file: storedFile("a", { size: 4 }), localPath }, operationContext())).rejects.toEqual(
      code("SHORT_SOURCE"),
    );
    await expect(broker.uploadFile({ file: storedFile("a", { size: 2 }), localPath }, operationContext())).rejects.toEqual(
      code("SOURCE_CHANGED"),
    );
    await expect(broker.uploadFile({ file: storedFile("a", { digest: wrong }), localPath }, operationContext())).rejects.toEqual(
      code("CHECKSUM_MISMATCH"),
    );
    await expect(
      broker.uploadFile({ file: storedFile("a", { digest: wrong }), localPath }, operationContext({ checksum: "none" })),
    ).rejects.toEqual(code("CHECKSUM_MISMATCH"));
    expect(await read("a")).toBe("previous");
  });

  test("a size or digest that does not hold fails the download and leaves nothing", async () => {
    await put("a", "abc");
    const localPath = join(folder, "out");
    const wrong = { algorithm: "crc32", value: "00000000" } as const;
    for (const [facts, expected] of [
      [{ size: 4 }, "SHORT_SOURCE"],
      [{ size: 1 }, "SOURCE_CHANGED"],
      [{ digest: wrong }, "CHECKSUM_MISMATCH"],
    ] as const) {
      await expect(broker.downloadFile({ file: storedFile("a", facts), localPath }, operationContext())).rejects.toEqual(code(expected));
    }
    expect(await readdir(folder)).toEqual([]);
  });

  test("what is not there is FILE_NOT_FOUND, a directory as a source is NOT_A_FILE", async () => {
    const localPath = join(folder, "out");
    await expect(broker.downloadFile({ file: storedFile("a"), localPath }, operationContext())).rejects.toEqual(code("FILE_NOT_FOUND"));
    await expect(broker.uploadFile({ file: storedFile("a"), localPath }, operationContext())).rejects.toEqual(code("FILE_NOT_FOUND"));
    await expect(broker.uploadFile({ file: storedFile("a"), localPath: folder }, operationContext())).rejects.toEqual(code("NOT_A_FILE"));
    await expect(broker.openRead(storedFile("a"), {}, operationContext())).rejects.toEqual(code("FILE_NOT_FOUND"));
    await expect(broker.moveFile({ file: storedFile("a"), newPath: "b" as FilePath }, operationContext())).rejects.toEqual(
      code("FILE_NOT_FOUND"),
    );
  });

  test("a source that is cut or changed while it is read is an error, and nothing is stored", async () => {
    const localPath = join(folder, "in");
    for (const [change, expected] of [
      [() => truncate(localPath, 10), "SHORT_SOURCE"],
      [() => appendFile(localPath, "more"), "SOURCE_CHANGED"],
      [() => utimes(localPath, 1, 1), "SOURCE_CHANGED"],
    ] as const) {
      await writeFile(localPath, Buffer.alloc(2_000_000));
      const context = operationContext({ throttle: async () => void (await change()) });
      await expect(broker.uploadFile({ file: storedFile("a"), localPath }, context)).rejects.toEqual(code(expected));
      expect(await broker.statFile(storedFile("a"), operationContext())).toBeUndefined();
    }
  });

  test("an abort between two chunks ends an upload with nothing stored, a download with nothing left", async () => {
    const localPath = await localFile("in", Buffer.alloc(3_000_000));
    const upload = new AbortController();
    const failedUpload = broker.uploadFile(
      { file: storedFile("a"), localPath },
      operationContext({ signal: upload.signal, progress: () => upload.abort() }),
    );
    await expect(failedUpload).rejects.toMatchObject({ name: "AbortError" });
    expect(await broker.statFile(storedFile("a"), operationContext())).toBeUndefined();

    await broker.uploadFile({ file: storedFile("a"), localPath }, operationContext());
    const download = new AbortController();
    const failedDownload = broker.downloadFile(
      { file: storedFile("a"), localPath: join(folder, "out") },
      operationContext({ signal: download.signal, progress: () => download.abort() }),
    );
    await expect(failedDownload).rejects.toMatchObject({ name: "AbortError" });
    expect(await readdir(folder)).toEqual(["in"]);
  });

  test("memory is reserved and bandwidth asked for before bytes are read", async () => {
    const events: string[] = [];
    const context = operationContext({
      reserve: async (bytes) => {
        events.push(`reserve ${bytes}`);
        return { [Symbol.dispose]: () => events.push("release") };
      },
      throttle: async (bytes) => {
        events.push(`throttle ${bytes}`);
      },
      progress: (bytes) => events.push(`progress ${bytes}`),
    });
    await broker.uploadFile({ file: storedFile("a"), localPath: await localFile("in", "abc") }, context);
    expect(events).toEqual(["throttle 3", "reserve 3", "progress 3", "release"]);
  });
});

describe("existing targets", () => {
  for (const ifExists of ["fail", "skip"] as const) {
    test(`\`${ifExists}\` is FILE_EXISTS for every verb and leaves the target as it is`, async () => {
      await put("taken", "old");
      await put("source", "new");
      const localPath = await localFile("in", "new");
      const file = storedFile("taken");
      const move = { file: storedFile("source"), newPath: "taken" as FilePath };
      await expect(broker.uploadFile({ file, localPath }, operationContext({ ifExists }))).rejects.toEqual(code("FILE_EXISTS"));
      await expect(broker.openWrite(file, {}, operationContext({ ifExists }))).rejects.toEqual(code("FILE_EXISTS"));
      await expect(broker.moveFile(move, operationContext({ ifExists }))).rejects.toEqual(code("FILE_EXISTS"));
      await expect(broker.copyFile(move, operationContext({ ifExists }))).rejects.toEqual(code("FILE_EXISTS"));
      await expect(broker.downloadFile({ file, localPath }, operationContext({ ifExists }))).rejects.toEqual(code("FILE_EXISTS"));
      expect(await read("taken")).toBe("old");
      expect(await read("source")).toBe("new");
      expect(await readFile(localPath, "utf8")).toBe("new");
    });
  }

  test("of many writers with `fail` exactly one succeeds, also when all had begun before", async () => {
    const writers = await Promise.all(
      Array.from({ length: 20 }, () => broker.openWrite(storedFile("one"), {}, operationContext({ ifExists: "fail" }))),
    );
    await Promise.all(writers.map((writer, index) => writer.write(Buffer.from(`writer ${index}`))));
    const ends = await Promise.allSettled(writers.map((writer) => writer.commit()));
    expect(ends.filter((end) => end.status === "fulfilled")).toHaveLength(1);
    for (const end of ends) if (end.status === "rejected") expect(end.reason).toEqual(code("FILE_EXISTS"));
    expect(await read("one")).toBe(`writer ${ends.findIndex((end) => end.status === "fulfilled")}`);
  });

  test("readers of a file that is overwritten all the time see whole versions", async () => {
    const version = (letter: string) => Buffer.alloc(200_000, letter);
    await put("a", version("0"));
    const writes = Promise.all(["1", "2", "3", "4"].map((letter) => put("a", version(letter))));
    const reads = await Promise.all(Array.from({ length: 20 }, () => read("a")));
    await writes;
    for (const content of reads) {
      expect(content.length).toBe(200_000);
      expect(new Set(content).size).toBe(1);
    }
  });
});

describe("moves, copies and deletions", () => {
  test("a move takes the file away, a copy leaves it", async () => {
    await put("a", "content", {}, { mediaType: "text/plain" });
    expect(await broker.copyFile({ file: storedFile("a"), newPath: "x/copy" as FilePath }, operationContext())).toMatchObject({
      method: "server-copy",
      file: { path: "x/copy", mediaType: "text/plain" },
      bytes: 7,
      verified: "length",
    });
    expect(await broker.moveFile({ file: storedFile("a"), newPath: "x/moved" as FilePath }, operationContext())).toMatchObject({
      method: "rename",
      file: { path: "x/moved" },
      bytes: 7,
    });
    expect(await read("x/copy")).toBe("content");
    expect(await read("x/moved")).toBe("content");
    expect(await broker.statFile(storedFile("a"), operationContext())).toBeUndefined();
  });

  test("a move onto itself loses nothing", async () => {
    await put("a", "content");
    await broker.moveFile({ file: storedFile("a"), newPath: "a" as FilePath }, operationContext({ ifExists: "fail" }));
    expect(await read("a")).toBe("content");
  });

  test("a move whose promises do not hold changes nothing", async () => {
    await put("a", "content");
    const digest = { algorithm: "md5", value: "00".repeat(16) } as const;
    const move = (facts: Partial<StoredFile>) =>
      broker.moveFile({ file: storedFile("a", facts), newPath: "b" as FilePath }, operationContext());
    await expect(move({ size: 8 })).rejects.toEqual(code("SHORT_SOURCE"));
    await expect(move({ digest })).rejects.toEqual(code("CHECKSUM_MISMATCH"));
    expect(await read("a")).toBe("content");
    expect(await move({ size: 7, digest: digestOf(Buffer.from("content"), "md5") })).toMatchObject({
      verified: "digest",
      digest: { algorithm: "md5" },
    });
  });

  test("deleting says whether the file was there, and never takes what lies below a name", async () => {
    await put("a/b", "x");
    expect(await broker.deleteFile(storedFile("a"), operationContext())).toBe("missing");
    expect(await broker.deleteFile(storedFile("a/b"), operationContext())).toBe("deleted");
    expect(await broker.deleteFile(storedFile("a/b"), operationContext())).toBe("missing");
  });
});

describe("listings", () => {
  const list = async (directory: string, options: { recursive?: boolean; startAfter?: string } = {}) =>
    (
      await collect(
        broker.listFiles(
          directory as FilePath,
          { recursive: options.recursive ?? false, startAfter: options.startAfter as FilePath | undefined, onProblem: () => {} },
          operationContext(),
        ),
      )
    ).map((details) => details.file.path);

  test("a flat listing gives what lies directly in the directory, a recursive one everything below", async () => {
    for (const path of ["b", "a/2", "a/1", "a/c/3", "ab/4"]) await put(path, path);
    expect(await list("")).toEqual(["b"]);
    expect(await list("a")).toEqual(["a/1", "a/2"]);
    expect(await list("a", { recursive: true })).toEqual(["a/1", "a/2", "a/c/3"]);
    expect(await list("", { recursive: true })).toEqual(["a/1", "a/2", "a/c/3", "ab/4", "b"]);
    expect(await list("missing", { recursive: true })).toEqual([]);
  });

  test("any set of files is listed in byte order, and from any place in it", async () => {
    const segment = fc.string({
      unit: fc.constantFrom("a", "b", "-", "é", "\u{e000}", "\u{ffff}", "\u{10000}", "\u{10ffff}"),
      minLength: 1,
      maxLength: 3,
    });
    const paths = fc.uniqueArray(
      fc.array(segment, { minLength: 1, maxLength: 3 }).map((segments) => segments.join("/")),
      { minLength: 1, maxLength: 20 },
    );
    await fc.assert(
      fc.asyncProperty(paths, fc.nat(), async (names, place) => {
        broker = createMemoryBroker();
        for (const name of names) await put(name, "");
        const sorted = [...names].sort((left, right) => Buffer.compare(Buffer.from(left), Buffer.from(right)));
        expect(await list("", { recursive: true })).toEqual(sorted);
        const startAfter = sorted[place % sorted.length]!;
        expect(await list("", { recursive: true, startAfter })).toEqual(sorted.slice((place % sorted.length) + 1));
        const directory = sorted[place % sorted.length]!.split("/")[0]!;
        expect(await list(directory, { recursive: true })).toEqual(sorted.filter((name) => name.startsWith(`${directory}/`)));
      }),
      { numRuns: 100 },
    );
  });

  test("a listing sees what came since the one before", async () => {
    await put("b", "");
    expect(await list("")).toEqual(["b"]);
    await put("a", "");
    expect(await list("")).toEqual(["a", "b"]);
    await broker.moveFile({ file: storedFile("b"), newPath: "c" as FilePath }, operationContext());
    expect(await list("")).toEqual(["a", "c"]);
  });

  test("a listing survives files that come and go meanwhile, and ends on abort", async () => {
    for (const path of ["1", "2", "3", "4"]) await put(path, path);
    const seen: string[] = [];
    const controller = new AbortController();
    const listing = broker.listFiles("", { recursive: true, onProblem: () => {} }, operationContext({ signal: controller.signal }));
    await expect(
      (async () => {
        for await (const { file } of listing) {
          seen.push(file.path);
          if (file.path === "1") {
            await broker.deleteFile(storedFile("2"), operationContext());
            await put("0", "");
          }
          if (file.path === "3") controller.abort();
        }
      })(),
    ).rejects.toMatchObject({ name: "AbortError" });
    expect(seen).toEqual(["1", "3"]);
  });
});

describe("streams", () => {
  test("ranges are cut at the end of the file", async () => {
    const writer = await broker.openWrite(storedFile("a"), {}, operationContext());
    for (const piece of ["012", "345", "6789"]) await writer.write(Buffer.from(piece));
    await writer.commit();
    expect(await read("a", { start: 2, end: 7 })).toBe("23456");
    expect(await read("a", { start: 8 })).toBe("89");
    expect(await read("a", { start: 8, end: 100 })).toBe("89");
    expect(await read("a", { start: 100 })).toBe("");
    const reader = await broker.openRead(storedFile("a"), { range: { start: 8, end: 100 } }, operationContext());
    expect(reader.size).toBe(2);
  });

  test("a reader keeps the version that it opened, gives copies, and refuses to go on once closed", async () => {
    await put("a", "first");
    const reader = await broker.openRead(storedFile("a"), {}, operationContext());
    await put("a", "second");
    const [chunk] = await collect(reader);
    expect(Buffer.from(chunk!).toString()).toBe("first");
    const second = await broker.openRead(storedFile("a"), {}, operationContext());
    for await (const piece of second) piece.fill(0);
    expect(await read("a")).toBe("second");
    const closed = await broker.openRead(storedFile("a"), {}, operationContext());
    await closed.close();
    await closed.close();
    await expect(collect(closed)).rejects.toEqual(code("CLOSED"));
  });

  test("a reader checks what it was promised", async () => {
    await put("a", "abc");
    await expect(broker.openRead(storedFile("a", { size: 4 }), {}, operationContext())).rejects.toEqual(code("SHORT_SOURCE"));
    const digest = { algorithm: "sha256", value: "00".repeat(32) } as const;
    const reader = await broker.openRead(storedFile("a", { digest }), {}, operationContext());
    await expect(collect(reader)).rejects.toEqual(code("CHECKSUM_MISMATCH"));
  });

  test("a writer publishes at commit, keeps its time, and copies chunks that the caller uses again", async () => {
    const modified = new Date("2021-01-01T00:00:00.001Z");
    const writer = await broker.openWrite(storedFile("a"), { size: 6, modified }, operationContext());
    const chunk = Buffer.from("abc");
    await writer.write(chunk);
    chunk.write("def");
    await writer.write(chunk);
    expect(await broker.statFile(storedFile("a"), operationContext())).toBeUndefined();
    expect(await writer.commit()).toMatchObject({ bytes: 6, verified: "digest" });
    expect(await read("a")).toBe("abcdef");
    expect((await broker.statFile(storedFile("a"), operationContext()))?.modified).toEqual(modified);
  });

  test("a writer that is short, or aborted, leaves the previous file", async () => {
    await put("a", "previous");
    const short = await broker.openWrite(storedFile("a"), { size: 6 }, operationContext());
    await short.write(Buffer.from("abc"));
    await expect(short.commit()).rejects.toEqual(code("SHORT_SOURCE"));
    const torn = await broker.openWrite(storedFile("a", { size: 5 }), { size: 6 }, operationContext());
    await expect(torn.commit()).rejects.toEqual(code("INVALID_ARGUMENT"));
    const given = await broker.openWrite(storedFile("a"), {}, operationContext());
    await given.write(Buffer.from("abc"));
    await given.abort(new Error("no more"));
    await expect(given.commit()).rejects.toEqual(code("CLOSED"));
    expect(await read("a")).toBe("previous");
  });

  test("sweep takes only writers that have been idle for long enough", async () => {
    const idle = await broker.openWrite(storedFile("a"), {}, operationContext({ temporaryId: "idle" }));
    const sweep = (olderThanMs: number) => collect(broker.sweep({ olderThanMs }, operationContext()));
    expect(await sweep(60_000)).toEqual([]);
    expect(await sweep(0)).toEqual([".stowage-idle"]);
    await expect(idle.write(Buffer.from("x"))).rejects.toEqual(code("CLOSED"));
    expect(await sweep(0)).toEqual([]);
  });
});

describe("batches", () => {
  test("each item is answered, and one failure does not stop the others", async () => {
    const localPath = await localFile("in", "abc");
    const uploads = await collect(
      broker.uploadFiles(
        [
          { file: storedFile("a"), localPath },
          { file: storedFile("b"), localPath: join(folder, "missing") },
          { file: storedFile("c"), localPath },
        ],
        operationContext(),
      ),
    );
    expect(uploads).toMatchObject([
      { index: 0, ok: true, value: { bytes: 3 } },
      { index: 1, ok: false, error: { code: "FILE_NOT_FOUND" } },
      { index: 2, ok: true },
    ]);
    const moves = await collect(broker.moveFiles([{ file: storedFile("a"), newPath: "d" as FilePath }], operationContext()));
    expect(moves).toMatchObject([{ index: 0, ok: true, value: { file: { path: "d" } } }]);
    const out = (name: string) => ({ file: storedFile(name), localPath: join(folder, name) });
    expect(await collect(broker.downloadFiles([out("c"), out("d")], operationContext()))).toMatchObject([{ ok: true }, { ok: true }]);
    const deletions = await collect(broker.deleteFiles([storedFile("c"), storedFile("zz")], operationContext()));
    expect(deletions).toEqual([
      { index: 0, ok: true, value: "deleted" },
      { index: 1, ok: true, value: "missing" },
    ]);
  });

  test("an abort ends a batch for what has not been answered", async () => {
    const controller = new AbortController();
    await put("a", "");
    await put("b", "");
    const deletions = broker.deleteFiles([storedFile("a"), storedFile("b")], operationContext({ signal: controller.signal }));
    const answered: number[] = [];
    await expect(
      (async () => {
        for await (const { index } of deletions) {
          answered.push(index);
          controller.abort();
        }
      })(),
    ).rejects.toMatchObject({ name: "AbortError" });
    expect(answered).toEqual([0]);
    expect(await broker.statFile(storedFile("b"), operationContext())).toBeDefined();
  });
});

describe("the broker as a whole", () => {
  test("brokers opened with one name share their files, those without have their own", async () => {
    const open = (name?: string) => memoryBroker.open(memoryBroker.config.parse({ name }), { signal: new AbortController().signal });
    const name = `shared ${Math.random()}`;
    broker = createMemoryBroker({ name });
    await put("a", "content");
    await broker.close();
    const other = await open(name);
    expect(await other.statFile(storedFile("a"), operationContext())).toMatchObject({ size: 7 });
    expect(await (await open()).statFile(storedFile("a"), operationContext())).toBeUndefined();
  });

  test("after close every operation is refused with CLOSED", async () => {
    await broker.close();
    await expect(broker.statFile(storedFile("a"), operationContext())).rejects.toEqual(code("CLOSED"));
    await expect(collect(broker.listFiles("", { recursive: true, onProblem: () => {} }, operationContext()))).rejects.toEqual(
      code("CLOSED"),
    );
  });

  test("errors are classified by cause", () => {
    expect(broker.errorCode(Object.assign(new Error("full"), { code: "ENOSPC" }))).toBe("NO_SPACE");
    expect(broker.errorCode(new DOMException("stop", "AbortError"))).toBe("CANCELLED");
    expect(broker.errorCode(new DOMException("late", "TimeoutError"))).toBe("TIMEOUT");
    expect(broker.errorCode(new Error("what"))).toBe("UNKNOWN");
    expect(broker.errorCode(null)).toBe("UNKNOWN");
  });

  test("what a caller does to a result does not reach the store", async () => {
    const { file } = await put("a", "x", {}, { metadata: { by: "me" } });
    expect(() => Object.assign(file, { size: 9 })).toThrow(TypeError);
    expect(() => Object.assign(file.metadata!, { by: "you" })).toThrow(TypeError);
  });
});
