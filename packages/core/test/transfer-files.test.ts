import { mkdir, readdir, readFile, stat, utimes } from "node:fs/promises";
import { afterEach, describe, expect, test, vi } from "vitest";
import type { Broker, FileReader, FileWriter } from "../src/lib/broker.ts";
import { digestOf } from "../src/lib/digest.ts";
import { createLimits } from "../src/lib/limits.ts";
import { createMemoryBroker } from "../src/lib/memory-broker.ts";
import { sleep } from "../src/lib/retry.ts";
import { StowageError } from "../src/lib/stowage-error.ts";
import { transferFiles } from "../src/lib/transfer-files.ts";
import { Workspace, type WorkspaceInit } from "../src/lib/workspace.ts";
import { DriverError, forever } from "./support/brokers.ts";
import { drain, statusOf, stowageErrorOf, streamOf, transferErrorOf } from "./support/outcomes.ts";
import { useTemporaryDirectory } from "./support/temporary-directory.ts";

const directory = useTemporaryDirectory();
const opened: Workspace[] = [];
const quick = { baseDelayMs: 1, maxDelayMs: 2 };

function workspaceOf(name: string, broker: Broker = createMemoryBroker(), init: Partial<WorkspaceInit> = {}): Workspace {
  const workspace = new Workspace({ name, broker, ...init });
  opened.push(workspace);
  return workspace;
}

afterEach(async () => {
  vi.unstubAllEnvs();
  await Promise.all(opened.splice(0).map((workspace) => workspace.close({ signal: AbortSignal.abort() }).catch(() => undefined)));
});

async function put(workspace: Workspace, path: string, content: string | Uint8Array): Promise<void> {
  const localPath = await directory.write("put", content);
  await workspace.uploadFiles([{ file: path, localPath }]);
}

async function contentOf(workspace: Workspace, path: string): Promise<string> {
  const localPath = directory.join("got");
  await workspace.downloadFiles([{ file: path, localPath }]);
  return readFile(localPath, "utf8");
}

/** A broker whose calls are noted. */
function noted(broker: Broker): { broker: Broker; calls: string[] } {
  const calls: string[] = [];
  const note = new Set(["copyFile", "openRead", "openWrite", "uploadFile", "downloadFile"]);
  const entries = Object.entries(broker).map(([name, value]) => {
    if (typeof value !== "function" || !note.has(name)) return [name, value];
    return [
      name,
      (...parameters: never[]) => {
        calls.push(name);
        return (value as (...all: never[]) => unknown)(...parameters);
      },
    ];
  });
  return { broker: Object.fromEntries(entries) as Broker, calls };
}

function without(broker: Broker, ...methods: (keyof Broker)[]): Broker {
  return Object.fromEntries(Object.entries(broker).filter(([name]) => !methods.includes(name as keyof Broker))) as unknown as Broker;
}

describe("the way that a transfer takes", () => {
  test("inside one workspace the backend copies", async () => {
    const { broker, calls } = noted(createMemoryBroker());
    const workspace = workspaceOf("one", broker);
    await put(workspace, "a", "content");
    calls.length = 0;
    const [outcome] = await transferFiles(workspace, workspace, [{ file: "a", newPath: "b" }]);
    expect(outcome).toMatchObject({ status: "done", method: "server-copy", file: { path: "b" } });
    expect(calls).toEqual(["copyFile"]);
    expect(await contentOf(workspace, "b")).toBe("content");
  });

  test("from a reader whose file can be opened by path, the target uploads it", async () => {
    const local = await directory.write("behind-a-reader", "content");
    const memory = createMemoryBroker();
    let closed = 0;
    const source: Broker = {
      ...memory,
      getFileSystemPath: () => local,
      async openRead(file): Promise<FileReader> {
        return {
          file,
          size: 7,
          localPath: local,
          [Symbol.asyncIterator]: () => {
            throw new Error("must not be read");
          },
          close: async () => void closed++,
        };
      },
    };
    const { broker, calls } = noted(createMemoryBroker());
    const target = workspaceOf("target", broker);
    const [outcome] = await transferFiles(workspaceOf("source", source), target, [{ file: "a", newPath: "x/b" }]);
    expect(outcome).toMatchObject({ status: "done", file: { path: "x/b", size: 7 } });
    expect(calls).toEqual(["uploadFile"]);
    expect(closed).toBe(1);
    expect((await target.statFile("x/b"))?.modified).toEqual((await stat(local)).mtime);
  });

  test("otherwise bytes flow from reader to writer, keeping time, type and metadata", async () => {
    const source = workspaceOf("source");
    const writer = await source.openWrite({ path: "a", mediaType: "text/plain", metadata: { by: "me" } }, { modified: new Date(1234) });
    await writer.write(Buffer.from("content"));
    await writer.commit();
    const { broker, calls } = noted(createMemoryBroker());
    const target = workspaceOf("target", broker);
    const [outcome] = await transferFiles(source, target, [{ file: "a" }]);
    expect(outcome).toMatchObject({
      status: "done",
      method: "stream",
      verified: "digest",
      bytes: 7,
      digest: digestOf(Buffer.from("content"), "crc32"),
    });
    expect(calls).toEqual(["openWrite"]);
    expect(await target.statFile("a")).toMatchObject({
      size: 7,
      modified: new Date(1234),
      file: { mediaType: "text/plain", metadata: { by: "me" } },
    });
  });

  test.each([
    ["source", ["openRead"], []],
    ["target", [], ["openWrite"]],
  ] as const)("where the %s cannot stream, through a temporary file that is gone afterwards", async (_side, sourceLacks, targetLacks) => {
    const spool = directory.join(`spool-${_side}`);
    await mkdir(spool);
    vi.stubEnv("TMPDIR", spool);
    const source = workspaceOf("source", without(createMemoryBroker(), ...sourceLacks));
    await put(source, "a", "content");
    const spooled: number[] = [];
    const memory = without(createMemoryBroker(), ...targetLacks);
    const { broker, calls } = noted({
      ...memory,
      async uploadFile(upload, context) {
        spooled.push((await readdir(spool)).length);
        return memory.uploadFile(upload, context);
      },
    });
    const target = workspaceOf("target", broker);
    const [outcome] = await transferFiles(source, target, [{ file: "a" }]);
    expect(outcome).toMatchObject({ status: "done", verified: "digest", bytes: 7 });
    expect(calls).toEqual(["uploadFile"]);
    expect(await contentOf(target, "a")).toBe("content");
    expect((await target.statFile("a"))?.modified).toEqual((await source.statFile("a"))?.modified);
    expect(spooled).toEqual([1]);
    expect(await readdir(spool)).toEqual([]);
  });

  test("a detour is verified no better than its weaker half", async () => {
    const memory = createMemoryBroker();
    const unsure: Broker = {
      ...without(memory, "openRead"),
      downloadFile: async (download, context) => ({
        ...(await memory.downloadFile(download, context)),
        digest: undefined,
        verified: "length",
      }),
    };
    const source = workspaceOf("source", unsure);
    await put(source, "a", "content");
    const [outcome] = await transferFiles(source, workspaceOf("target"), [{ file: "a" }]);
    expect(outcome).toMatchObject({ status: "done", verified: "length", digest: undefined });
  });
});

describe("a streamed transfer", () => {
  /** A source of chunks, and what becomes of it. */
  function sourceOf(chunks: () => AsyncGenerator<Uint8Array>, size: number, extra: Partial<FileReader> = {}): Broker & { closed: number } {
    const broker = {
      ...createMemoryBroker(),
      closed: 0,
      openRead: async (file: FileReader["file"]): Promise<FileReader> => ({
        file,
        size,
        [Symbol.asyncIterator]: chunks,
        close: async () => void broker.closed++,
        ...extra,
      }),
    };
    return broker;
  }

  function watchedTarget(overrides: Partial<FileWriter> = {}): { broker: Broker; calls: string[] } {
    const memory = createMemoryBroker();
    const calls: string[] = [];
    return {
      calls,
      broker: {
        ...memory,
        async openWrite(file, options, context) {
          const writer = await memory.openWrite(file, options, context);
          return {
            write: overrides.write ?? writer.write,
            commit: () => {
              calls.push("commit");
              return (overrides.commit ?? writer.commit)();
            },
            abort: (reason) => {
              calls.push("abort");
              return writer.abort(reason);
            },
          };
        },
      },
    };
  }

  test("that the source breaks aborts the writer; nothing is there, the error names the source", async () => {
    const source = sourceOf(async function* () {
      yield Buffer.from("123");
      throw new DriverError("EACCES", "session ended");
    }, 10);
    const { broker, calls } = watchedTarget();
    const target = workspaceOf("target", broker);
    const error = await transferErrorOf(transferFiles(workspaceOf("source", source), target, [{ file: "a" }]));
    expect(error.outcomes[0]).toMatchObject({ status: "failed", error: { code: "PERMISSION_DENIED", workspace: "source", file: "a" } });
    expect(calls).toEqual(["abort"]);
    expect(source.closed).toBe(1);
    expect(await target.statFile("a")).toBeUndefined();
  });

  test("from a source that ends early, or gives more than it said, is an error", async () => {
    for (const [size, code] of [
      [10, "SHORT_SOURCE"],
      [2, "SOURCE_CHANGED"],
    ] as const) {
      const source = sourceOf(async function* () {
        yield Buffer.from("123");
      }, size);
      const { broker, calls } = watchedTarget();
      const target = workspaceOf("target", broker);
      const error = await transferErrorOf(transferFiles(workspaceOf("source", source), target, [{ file: "a" }]));
      expect(error.code).toBe(code);
      expect(calls).toEqual(["abort"]);
      expect(await target.statFile("a")).toBeUndefined();
    }
  });

  test("of bytes that are not those that source or caller promised is never committed", async () => {
    const digest = digestOf(Buffer.from("other"), "sha256");
    const chunks = async function* (): AsyncGenerator<Uint8Array> {
      yield Buffer.from("bytes");
    };
    for (const [source, file] of [
      [sourceOf(chunks, 5), { path: "a", digest }],
      [sourceOf(chunks, 5, { file: { path: "a" as never, digest } }), "a"],
    ] as const) {
      const { broker, calls } = watchedTarget();
      const target = workspaceOf("target", broker);
      const error = await transferErrorOf(transferFiles(workspaceOf("source", source), target, [{ file }]));
      expect(error.code).toBe("CHECKSUM_MISMATCH");
      expect(calls).toEqual(["abort"]);
      expect(await target.statFile("a")).toBeUndefined();
    }
  });

  test("whose target reports another digest than what was sent is an error, and the copy is taken away", async () => {
    const source = workspaceOf("source");
    await put(source, "a", "content");
    const memory = createMemoryBroker();
    const broker: Broker = {
      ...memory,
      async openWrite(file, options, context) {
        const writer = await memory.openWrite(file, options, context);
        return { ...writer, commit: async () => ({ ...(await writer.commit()), digest: { algorithm: "crc32", value: "deadbeef" } }) };
      },
    };
    const target = workspaceOf("target", broker);
    const error = await transferErrorOf(transferFiles(source, target, [{ file: "a" }]));
    expect(error.code).toBe("CHECKSUM_MISMATCH");
    expect(await target.statFile("a")).toBeUndefined();
  });

  test("computes the digest that was asked for", async () => {
    const source = workspaceOf("source");
    await put(source, "a", "content");
    const [outcome] = await transferFiles(source, workspaceOf("target"), [{ file: "a" }], { checksum: "sha256" });
    expect(outcome).toMatchObject({ verified: "digest", digest: digestOf(Buffer.from("content"), "sha256") });
  });

  test("is repeated from the start when it breaks for now", async () => {
    let opens = 0;
    const source = sourceOf(async function* () {
      yield Buffer.from("123");
      if (++opens < 3) throw new DriverError("ECONNRESET");
      yield Buffer.from("456");
    }, 6);
    const target = workspaceOf("target");
    const [outcome] = await transferFiles(workspaceOf("source", source), target, [{ file: "a" }], { retry: quick });
    expect(outcome).toMatchObject({ status: "done", attempts: 3 });
    expect(await contentOf(target, "a")).toBe("123456");
    expect(source.closed).toBe(3);
  });

  test("reads ahead while it writes, by one chunk and only where memory is free", async () => {
    for (const memoryBytes of [1000, 3]) {
      const events: string[] = [];
      const source = sourceOf(async function* () {
        for (let index = 0; index < 4; index++) {
          events.push(`read ${index}`);
          yield Buffer.from("12");
        }
      }, 8);
      let writes = 0;
      const { broker } = watchedTarget({
        write: async () => {
          const index = writes++;
          await sleep(5);
          events.push(`written ${index}`);
        },
        commit: async () => ({ file: { path: "a" as never }, method: "stream", bytes: 8, verified: "length" }),
      });
      const limits = createLimits({ memoryBytes });
      const held = await limits.reserve(2);
      await transferFiles(workspaceOf("source", source), workspaceOf("target", broker), [{ file: "a" }], { limits });
      const ahead = memoryBytes > 100;
      expect(events.indexOf("read 1") < events.indexOf("written 0")).toBe(ahead);
      expect(events.indexOf("read 2") < events.indexOf("written 0")).toBe(false);
      // Everything that was reserved is given back.
      held[Symbol.dispose]();
      (await limits.reserve(memoryBytes))[Symbol.dispose]();
    }
  });

  test("many at once need no more memory than there is, and do not wait for each other", async () => {
    const source = workspaceOf("source");
    const content = Buffer.alloc(3 * 1024 * 1024, "x");
    for (let index = 0; index < 6; index++) await put(source, `f${index}`, content);
    const items = Array.from({ length: 6 }, (_, index) => ({ file: `f${index}` }));
    const limits = createLimits({ memoryBytes: 1024 * 1024 });
    const outcomes = await transferFiles(source, workspaceOf("target"), items, { limits });
    expect(outcomes.map(statusOf)).toEqual(Array.from({ length: 6 }, () => "done"));
  });

  test("an abort settles within a second though the source hangs", async () => {
    const source = sourceOf(async function* () {
      yield Buffer.from("1");
      await forever();
    }, 10);
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 20);
    const before = performance.now();
    const error = await transferErrorOf(
      transferFiles(workspaceOf("source", source), workspaceOf("target"), [{ file: "a" }], { signal: controller.signal }),
    );
    expect(performance.now() - before).toBeLessThan(1020);
    expect(error.outcomes.map(statusOf)).toEqual(["cancelled"]);
  });

  test("counts its bytes once", async () => {
    const source = workspaceOf("source");
    await put(source, "a", "0123456789");
    const bytes: number[] = [];
    await transferFiles(source, workspaceOf("target"), [{ file: "a" }], { onProgress: (progress) => bytes.push(progress.bytes) });
    expect(bytes.at(-1)).toBe(10);
    expect(Math.max(...bytes)).toBe(10);
  });
});

describe("a batch of transfers", () => {
  test("array and stream, with failures of their own", async () => {
    const source = workspaceOf("source");
    for (const name of ["a", "b", "c"]) await put(source, name, name);
    const target = workspaceOf("target");
    const items = [{ file: "a" }, { file: "zz" }, { file: "b", newPath: "../b" }, { file: "c", newPath: "d/c" }];
    const error = await transferErrorOf(transferFiles(source, target, items));
    expect(error.outcomes.map(statusOf)).toEqual(["done", "failed FILE_NOT_FOUND", "failed INVALID_PATH", "done"]);
    expect(error.outcomes[1]).toMatchObject({ error: { workspace: "source" } });
    expect(error.outcomes[3]!.item).toBe(items[3]);
    const streamed = await drain(transferFiles(source, target, streamOf([{ file: "a" }, { file: "b" }])));
    expect([streamed.values.length, streamed.error]).toEqual([2, undefined]);
  });

  test("run again with skip-same moves nothing", async () => {
    const source = workspaceOf("source");
    for (const name of ["a", "b"]) await put(source, name, name);
    const target = workspaceOf("target");
    const items = [{ file: "a" }, { file: "b" }];
    const options = { ifExists: "skip-same" } as const;
    expect((await transferFiles(source, target, items, options)).map(statusOf)).toEqual(["done", "done"]);
    expect((await transferFiles(source, target, items, options)).map(statusOf)).toEqual(["skipped same", "skipped same"]);
    await put(source, "b", "B");
    expect((await transferFiles(source, target, items, options)).map(statusOf)).toEqual(["skipped same", "done"]);
  });

  test("with skip-same a digest that both know counts more than the time", async () => {
    const [source, target] = [workspaceOf("source"), workspaceOf("target")];
    const time = new Date(1_000_000);
    for (const [workspace, content] of [
      [source, "one"],
      [target, "two"],
    ] as const) {
      const localPath = await directory.write("timed", content);
      await utimes(localPath, time, time);
      await workspace.uploadFiles([{ file: "a", localPath }]);
    }
    expect((await transferFiles(source, target, [{ file: "a" }], { ifExists: "skip-same" })).map(statusOf)).toEqual(["done"]);
    expect(await contentOf(target, "a")).toBe("one");
  });

  test("onto itself does nothing, and chains inside one workspace conflict", async () => {
    const workspace = workspaceOf("one");
    for (const name of ["a", "b"]) await put(workspace, name, name);
    expect(await transferFiles(workspace, workspace, [{ file: "a" }])).toMatchObject([{ status: "done", bytes: 1, file: { path: "a" } }]);
    const chain = [
      { file: "a", newPath: "b" },
      { file: "b", newPath: "c" },
    ];
    expect((await transferErrorOf(transferFiles(workspace, workspace, chain))).outcomes.map(statusOf)).toEqual([
      "failed CONFLICT",
      "failed CONFLICT",
    ]);
    // Between two workspaces the same names are different files.
    expect((await transferFiles(workspace, workspaceOf("two"), chain)).map(statusOf)).toEqual(["done", "done"]);
  });

  test("obeys what either workspace forbids", async () => {
    const plain = workspaceOf("plain");
    const codeOf = (source: Workspace, target: Workspace): Promise<string> =>
      stowageErrorOf(transferFiles(source, target, [{ file: "a" }])).then(({ code }) => code);
    expect(await codeOf(plain, workspaceOf("ro", createMemoryBroker(), { readOnly: true }))).toBe("READ_ONLY");
    expect(await codeOf(workspaceOf("old", createMemoryBroker(), { archived: true }), plain)).toBe("ARCHIVED");
    const closed = workspaceOf("closed");
    await closed.close();
    expect(await codeOf(closed, plain)).toBe("CLOSED");
    const readOnly = workspaceOf("ro-source", createMemoryBroker(), { readOnly: true });
    expect(await codeOf(readOnly, plain)).toBe("FILE_NOT_FOUND");
  });

  test("planned only, changes nothing", async () => {
    const source = workspaceOf("source");
    await put(source, "a", "12345");
    const target = workspaceOf("target");
    await put(target, "b", "1");
    const items = [{ file: "a" }, { file: "a", newPath: "b" }, { file: "zz" }];
    const error = await transferErrorOf(transferFiles(source, target, items, { dryRun: true }));
    expect(error.outcomes.map(statusOf)).toEqual(["planned", "planned", "failed FILE_NOT_FOUND"]);
    expect(error.outcomes.slice(0, 2)).toMatchObject([
      { bytes: 5, wouldReplace: false },
      { bytes: 5, wouldReplace: true },
    ]);
    expect(await target.statFile("a")).toBeUndefined();
  });

  test("is recorded as copies, undone when that fails and the file is new", async () => {
    const source = workspaceOf("source");
    await put(source, "a", "12345");
    const target = workspaceOf("target");
    const records: unknown[] = [];
    await transferFiles(source, target, [{ file: "a", newPath: "b" }], {
      store: ({ operation, workspace, file, previousPath }) => void records.push([operation, workspace, file.path, previousPath]),
    });
    expect(records).toEqual([["copy", "target", "b", "a"]]);
    const store = (): never => {
      throw new StowageError("no", { code: "UNAVAILABLE" });
    };
    await transferErrorOf(transferFiles(source, target, [{ file: "a", newPath: "c" }], { store }));
    expect(await target.statFile("c")).toBeUndefined();
  });

  test("closing either workspace waits for it", async () => {
    const memory = createMemoryBroker();
    let finished = false;
    const slow: Broker = {
      ...memory,
      openWrite: async (file, options, context) => {
        await sleep(50);
        finished = true;
        return memory.openWrite(file, options, context);
      },
    };
    const source = workspaceOf("source");
    await put(source, "a", "x");
    const run = transferFiles(source, workspaceOf("target", slow), [{ file: "a" }]);
    await sleep(5);
    await source.close();
    expect(finished).toBe(true);
    expect((await run).map(statusOf)).toEqual(["done"]);
  });

  test("two ways at once with one place each do not wait for each other for ever", async () => {
    const a = workspaceOf("a", createMemoryBroker(), { limits: createLimits({ files: 1 }) });
    const b = workspaceOf("b", createMemoryBroker(), { limits: createLimits({ files: 1 }) });
    const names = Array.from({ length: 10 }, (_, index) => `f${index}`);
    for (const name of names) {
      await put(a, `a${name}`, "x");
      await put(b, `b${name}`, "x");
    }
    const outcomes = await Promise.all([
      transferFiles(
        a,
        b,
        names.map((name) => ({ file: `a${name}` })),
      ),
      transferFiles(
        b,
        a,
        names.map((name) => ({ file: `b${name}` })),
      ),
    ]);
    expect(outcomes.flat().every(({ status }) => status === "done")).toBe(true);
  });

  test("is held to the bandwidth of both sides", async () => {
    const target = workspaceOf("target");
    const open = workspaceOf("source", createMemoryBroker());
    await put(open, "a", Buffer.alloc(40_000));
    const limited = workspaceOf("limited", open.broker, { limits: createLimits({ bytesPerSecond: 100_000 }) });
    const before = performance.now();
    await transferFiles(limited, target, [{ file: "a" }]);
    expect(performance.now() - before).toBeGreaterThan(250);
  });
});
