import { inspect } from "node:util";
import fc from "fast-check";
import { afterEach, describe, expect, expectTypeOf, test } from "vitest";
import type { Broker, ListProblem } from "../src/lib/broker.ts";
import type { FileDetails, FilePath } from "../src/lib/files.ts";
import { createMemoryBroker } from "../src/lib/memory-broker.ts";
import type { Outcome } from "../src/lib/outcome.ts";
import { sleep } from "../src/lib/retry.ts";
import { Workspace, type WorkspaceInit } from "../src/lib/workspace.ts";
import { batchBroker, DriverError, forever, singleBroker, untilAborted } from "./support/brokers.ts";
import { drain, statusOf, stowageErrorOf, streamOf, transferErrorOf } from "./support/outcomes.ts";
import { useTemporaryDirectory } from "./support/temporary-directory.ts";

const directory = useTemporaryDirectory();
const opened: Workspace[] = [];

function workspaceOf(init: Partial<WorkspaceInit> = {}): Workspace {
  const workspace = new Workspace({ name: "data", broker: createMemoryBroker(), brokerType: "test", ...init });
  opened.push(workspace);
  return workspace;
}

afterEach(async () => {
  await Promise.all(opened.splice(0).map((workspace) => workspace.close({ signal: AbortSignal.abort() }).catch(() => undefined)));
});

async function filled(names: readonly string[], init: Partial<WorkspaceInit> = {}): Promise<Workspace> {
  const workspace = workspaceOf(init);
  const localPath = await directory.write("content", "content");
  await workspace.uploadFiles(names.map((file) => ({ file, localPath })));
  return workspace;
}

function entry(path: string): FileDetails {
  return { file: { path: path as FilePath }, size: 1 };
}

async function pathsOf(listing: AsyncIterable<FileDetails>): Promise<string[]> {
  const paths: string[] = [];
  for await (const { file } of listing) paths.push(file.path);
  return paths;
}

describe("types", () => {
  test("an array gives a promise, a stream a stream, of the caller's own items", () => {
    const workspace = workspaceOf();
    const check = (): void => {
      const items = [{ file: "a", localPath: "/a", id: 7 as number }];
      expectTypeOf(workspace.uploadFiles(items)).resolves.toEqualTypeOf<Outcome<{ file: string; localPath: string; id: number }>[]>();
      expectTypeOf(workspace.uploadFiles(streamOf(items))).toEqualTypeOf<
        AsyncIterable<Outcome<{ file: string; localPath: string; id: number }>>
      >();
      // @ts-expect-error a move has a newPath
      void workspace.moveFiles([{ file: "a" }]);
    };
    expect(check).toBeTypeOf("function");
  });
});

describe("stat", () => {
  test("gives details, or nothing for what is missing", async () => {
    const workspace = await filled(["a/b"]);
    expect(await workspace.statFile("a/b")).toMatchObject({ size: 7, file: { path: "a/b" } });
    expect(await workspace.statFile({ path: "a/b" })).toBeDefined();
    expect(await workspace.statFile("a")).toBeUndefined();
    expect((await stowageErrorOf(workspace.statFile("/a"))).code).toBe("INVALID_PATH");
  });

  test("is repeated when it fails for now, and wraps what it fails with", async () => {
    let calls = 0;
    const broker = singleBroker({
      async statFile() {
        if (++calls < 3) throw new DriverError("ETIMEDOUT");
        return undefined;
      },
    });
    expect(await workspaceOf({ broker }).statFile("a")).toBeUndefined();
    expect(calls).toBe(3);
    const denied = workspaceOf({ broker: singleBroker({ statFile: async () => Promise.reject(new DriverError("EACCES", "no way")) }) });
    expect(await stowageErrorOf(denied.statFile("a"))).toMatchObject({
      code: "PERMISSION_DENIED",
      file: "a",
      workspace: "data",
      message: 'cannot stat "a" (workspace "data"): no way',
    });
  });

  test("settles within a second of an abort, and at its deadline", async () => {
    const workspace = workspaceOf({ broker: singleBroker({ statFile: () => forever() }) });
    const before = performance.now();
    const signal = AbortSignal.timeout(20);
    expect((await stowageErrorOf(workspace.statFile("a", { signal }))).code).toBe("CANCELLED");
    expect(performance.now() - before).toBeLessThan(1020);
    expect((await stowageErrorOf(workspace.statFile("a", { deadline: new Date(Date.now() + 10) }))).code).toBe("TIMEOUT");
  });
});

describe("listing", () => {
  test("gives full paths, of one directory or of all below it, from where it is told", async () => {
    const workspace = await filled(["a", "d/b", "d/c", "d/e/f", "dd"]);
    expect(await pathsOf(workspace.listFiles())).toEqual(["a", "dd"]);
    expect(await pathsOf(workspace.listFiles("d"))).toEqual(["d/b", "d/c"]);
    expect(await pathsOf(workspace.listFiles("d/"))).toEqual(["d/b", "d/c"]);
    expect(await pathsOf(workspace.listFiles("", { recursive: true }))).toEqual(["a", "d/b", "d/c", "d/e/f", "dd"]);
    expect(await pathsOf(workspace.listFiles("d", { recursive: true, startAfter: "d/b" }))).toEqual(["d/c", "d/e/f"]);
    expect(await pathsOf(workspace.listFiles("nothing"))).toEqual([]);
  });

  test.each(["/d", "d//", "../d", "a\0b"])("of %j is refused", async (path) => {
    expect((await stowageErrorOf(pathsOf(workspaceOf().listFiles(path)))).code).toBe("INVALID_PATH");
  });

  test("names that a hostile backend makes up never come through", async () => {
    const hostile = [
      "../../etc/passwd",
      "/etc/shadow",
      "a//b",
      "a/./b",
      "x\0y",
      ".stowage-1",
      "",
      "\ud800",
      "d/../../x",
      undefined as never,
      "elsewhere/x",
    ];
    const broker = batchBroker({
      async *listFiles() {
        yield entry("d/good");
        for (const path of hostile) yield entry(path);
        yield entry("d/better");
      },
    });
    const problems: ListProblem[] = [];
    const paths = await pathsOf(
      workspaceOf({ broker }).listFiles("d", { recursive: true, onProblem: (problem) => void problems.push(problem) }),
    );
    expect(paths).toEqual(["d/good", "d/better"]);
    expect(problems).toHaveLength(hostile.length);
    for (const { error, path } of problems) {
      expect(error).toMatchObject({ code: "INVALID_PATH", workspace: "data" });
      expect(path.isWellFormed()).toBe(true);
      expect(path).not.toContain("\0");
    }
  });

  test("whatever a backend names, only parsed paths below the directory are given, and nothing is dropped", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.oneof(fc.string({ unit: "binary" }), fc.constantFrom("d/a", "d/a/b", "d", "dx"))), async (names) => {
        const broker = batchBroker({
          async *listFiles() {
            for (const name of names) yield entry(name);
          },
        });
        let problems = 0;
        const paths = await pathsOf(workspaceOf({ broker }).listFiles("d", { recursive: true, onProblem: () => problems++ }));
        expect(paths.length + problems).toBe(names.length);
        for (const path of paths) expect(path).toMatch(/^d\/(?!\/)/u);
      }),
    );
  });

  test("without onProblem gives everything readable, then ends with the first problem and their number", async () => {
    const broker = batchBroker({
      async *listFiles(_directory, { onProblem }) {
        yield entry("a");
        onProblem({ path: "b\\u{0}", error: new DriverError("EACCES", "not yours") });
        onProblem({ path: "c", error: new DriverError("EIO") });
        yield entry("d");
      },
    });
    const { values, error } = await drain(workspaceOf({ broker }).listFiles());
    expect(values.map(({ file }) => file.path)).toEqual(["a", "d"]);
    expect(error).toMatchObject({ code: "PERMISSION_DENIED", message: expect.stringMatching(/ 2 .*not yours/u), file: "b\\u{0}" });
  });

  test("what onProblem throws reaches the caller, not the broker", async () => {
    let seen: unknown;
    const broker = batchBroker({
      async *listFiles(_directory, { onProblem }) {
        try {
          onProblem({ path: "b", error: new Error("x") });
        } catch (error) {
          seen = error;
        }
        yield entry("a");
      },
    });
    const failure = new Error("stop listing");
    const { values, error } = await drain(
      workspaceOf({ broker }).listFiles("", {
        onProblem: () => {
          throw failure;
        },
      }),
    );
    expect(error).toBe(failure);
    expect(values).toEqual([]);
    expect(seen).toBeUndefined();
  });

  test("a consumer that stops early lets the broker close what it opened, before it goes on", async () => {
    let open = 0;
    const broker = batchBroker({
      async *listFiles() {
        open++;
        try {
          for (let index = 0; ; index++) yield entry(`f${index}`);
        } finally {
          await sleep(10);
          open--;
        }
      },
    });
    for await (const { file } of workspaceOf({ broker }).listFiles()) if (file.path === "f3") break;
    expect(open).toBe(0);
  });

  test("is repeated when it cannot begin, not when it breaks in the middle", async () => {
    let starts = 0;
    const broker = batchBroker({
      async *listFiles() {
        if (++starts < 3) throw new DriverError("ECONNRESET");
        yield entry("a");
        throw new DriverError("ECONNRESET");
      },
    });
    const { values, error } = await drain(workspaceOf({ broker }).listFiles());
    expect(values).toHaveLength(1);
    expect(error).toMatchObject({ code: "UNAVAILABLE", workspace: "data" });
    expect(starts).toBe(3);
  });

  test("an abort ends it within a second, though the broker hangs; and before it begins", async () => {
    const broker = batchBroker({
      async *listFiles() {
        yield entry("a");
        await forever();
      },
    });
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 20);
    const before = performance.now();
    const { values, error } = await drain(workspaceOf({ broker }).listFiles("", { signal: controller.signal }));
    expect(performance.now() - before).toBeLessThan(1020);
    expect(values).toHaveLength(1);
    expect(error).toMatchObject({ code: "CANCELLED" });
    const early = await drain(workspaceOf({ broker }).listFiles("", { signal: AbortSignal.abort() }));
    expect([early.values.length, (early.error as { code: string }).code]).toEqual([0, "CANCELLED"]);
  });

  test("several who ask at once get entries one after the other, and all hear of the end", async () => {
    const broker = batchBroker({
      async *listFiles() {
        for (const name of ["a", "b", "c"]) {
          await sleep(2);
          yield entry(name);
        }
      },
    });
    const iterator = workspaceOf({ broker }).listFiles()[Symbol.asyncIterator]();
    const results = await Promise.all(Array.from({ length: 5 }, () => iterator.next()));
    expect(results.map((result) => (result.done === true ? undefined : result.value.file.path))).toEqual([
      "a",
      "b",
      "c",
      undefined,
      undefined,
    ]);
  });

  test("a broker that goes on giving entries after an abort is not asked for another", async () => {
    const cancel = new AbortController();
    let given = 0;
    let ended = false;
    const broker = batchBroker({
      async *listFiles() {
        try {
          for (;;) {
            await new Promise((resolve) => setImmediate(resolve));
            given++;
            // In the midst of an answer: it is given nevertheless.
            if (given === 3) cancel.abort();
            const path = `file-${given}` as FilePath;
            yield { file: { path, size: 1 }, size: 1 };
          }
        } finally {
          ended = true;
        }
      },
    });
    const before = performance.now();
    const listing = (async () => {
      for await (const _ of workspaceOf({ broker }).listFiles("", { signal: cancel.signal }));
    })();
    await expect(listing).rejects.toMatchObject({ code: "CANCELLED" });
    expect(given).toBe(3);
    expect(ended).toBe(true);
    expect(performance.now() - before).toBeLessThan(800);
  });

  test("to stop while an entry is awaited stops the broker too", async () => {
    let ended = false;
    const broker = batchBroker({
      async *listFiles(_directory, _options, { signal }) {
        try {
          yield entry("a");
          await untilAborted(signal);
        } finally {
          ended = true;
        }
      },
    });
    const iterator = workspaceOf({ broker }).listFiles()[Symbol.asyncIterator]();
    await iterator.next();
    const waiting = iterator.next();
    await sleep(5);
    await iterator.return?.();
    expect(await waiting).toEqual({ done: true, value: undefined });
    expect(ended).toBe(true);
  });

  test("to stop while the first entry is awaited waits until the broker has cleaned up", async () => {
    let ended = false;
    const broker = batchBroker({
      async *listFiles(_directory, _options, { signal }) {
        try {
          yield await untilAborted(signal);
        } finally {
          await sleep(20);
          ended = true;
        }
      },
    });
    const iterator = workspaceOf({ broker }).listFiles()[Symbol.asyncIterator]();
    const waiting = iterator.next();
    await sleep(5);
    await iterator.return?.();
    expect(ended).toBe(true);
    expect((await waiting).done).toBe(true);
  });

  test("does nothing until somebody asks", async () => {
    let begun = 0;
    const broker = batchBroker({
      async *listFiles() {
        begun++;
        yield entry("a");
      },
    });
    const workspace = workspaceOf({ broker });
    const iterator = workspace.listFiles()[Symbol.asyncIterator]();
    await sleep(5);
    expect(begun).toBe(0);
    await iterator.return?.();
    expect((await iterator.next()).done).toBe(true);
    expect(begun).toBe(0);
    // Nothing that never began keeps the workspace open.
    workspace.listFiles()[Symbol.asyncIterator]();
    await workspace.close();
  });

  test("an abort while the consumer is busy ends it at the next entry, and the broker cleans up", async () => {
    let open = 0;
    const broker = batchBroker({
      async *listFiles() {
        open++;
        try {
          for (let index = 0; ; index++) yield entry(`f${index}`);
        } finally {
          open--;
        }
      },
    });
    const controller = new AbortController();
    const run = drain(
      (async function* () {
        for await (const details of workspaceOf({ broker }).listFiles("", { signal: controller.signal })) {
          yield details;
          controller.abort();
        }
      })(),
    );
    const { values, error } = await run;
    expect(values).toHaveLength(1);
    expect(error).toMatchObject({ code: "CANCELLED" });
    expect(open).toBe(0);
  });
});

describe("URLs and paths", () => {
  test("each segment is encoded as its bytes, so that decoding gives the very path", async () => {
    const workspace = workspaceOf({ baseUrl: "https://files.example/base/" });
    expect(await workspace.fileUrl("a b/ü+%2F?#&é.txt")).toBe("https://files.example/base/a%20b/%C3%BC%2B%252F%3F%23%26%C3%A9.txt");
    const segment = fc.string({ unit: "grapheme", minLength: 1 }).filter((text) => !/^\.{1,2}$|^\.stowage|[/\0]/u.test(text));
    await fc.assert(
      fc.asyncProperty(fc.array(segment, { minLength: 1, maxLength: 4 }), async (segments) => {
        const url = await workspace.fileUrl(segments.join("/"));
        const { origin, pathname, search, hash } = new URL(url!);
        expect([origin, search, hash]).toEqual(["https://files.example", "", ""]);
        expect(pathname.split("/").slice(2).map(decodeURIComponent)).toEqual(segments);
      }),
    );
  });

  test("a query of the base stays behind the path; no base, no URL", async () => {
    expect(await workspaceOf({ baseUrl: "https://x/y?sig=1" }).fileUrl("a/b")).toBe("https://x/y/a/b?sig=1");
    expect(await workspaceOf().fileUrl("a")).toBeUndefined();
    expect((await stowageErrorOf(workspaceOf({ baseUrl: "https://x" }).fileUrl("../a"))).code).toBe("INVALID_PATH");
  });

  test("is signed where that was asked for and can be done", async () => {
    const asked: unknown[] = [];
    const broker: Broker = {
      ...createMemoryBroker(),
      createSignedUrl: async (file, options) => {
        asked.push([file.path, options]);
        return "https://signed";
      },
    };
    const workspace = workspaceOf({ broker, baseUrl: "https://plain" });
    expect(await workspace.fileUrl("a", { method: "GET" })).toBe("https://signed");
    expect(await workspace.fileUrl("a", { method: "PUT", expiresInSeconds: 60 })).toBe("https://signed");
    expect(await workspace.fileUrl("a")).toBe("https://plain/a");
    expect(asked).toEqual([
      ["a", { method: "GET", expiresInSeconds: 3600 }],
      ["a", { method: "PUT", expiresInSeconds: 60 }],
    ]);
    expect((await stowageErrorOf(workspace.fileUrl("a", { method: "GET", expiresInSeconds: 0 }))).code).toBe("INVALID_ARGUMENT");
  });

  test("file system paths are those of the broker", () => {
    const broker: Broker = { ...createMemoryBroker(), getFileSystemPath: ({ path }) => `/mnt/${path}` };
    const workspace = workspaceOf({ broker });
    expect(workspace.getFileSystemPaths(["a", { path: "b/c" }])).toEqual(["/mnt/a", "/mnt/b/c"]);
    expect(() => workspace.getFileSystemPaths(["../x"])).toThrow(/invalid path/u);
  });
});

describe("sweeping", () => {
  test("passes age and depth on, with their defaults, and yields what was removed", async () => {
    const asked: unknown[] = [];
    const broker = batchBroker({
      async *sweep(options) {
        asked.push(options);
        yield "one";
        yield "two";
      },
    });
    const workspace = workspaceOf({ broker });
    expect(await Array.fromAsync(workspace.sweep())).toEqual(["one", "two"]);
    expect(await Array.fromAsync(workspace.sweep({ olderThanMs: 5, deep: true }))).toEqual(["one", "two"]);
    expect(asked).toEqual([
      { olderThanMs: 86_400_000, deep: false },
      { olderThanMs: 5, deep: true },
    ]);
    expect((await stowageErrorOf(Array.fromAsync(workspace.sweep({ olderThanMs: -1 })))).code).toBe("INVALID_ARGUMENT");
  });
});

describe("closing", () => {
  test("is done once, however often it is asked for, and everything afterwards is CLOSED", async () => {
    let closes = 0;
    const workspace = workspaceOf({ broker: { ...createMemoryBroker(), close: async () => void closes++ }, baseUrl: "https://x" });
    await Promise.all([workspace.close(), workspace.close()]);
    await workspace.close();
    await workspace[Symbol.asyncDispose]();
    expect(closes).toBe(1);
    const calls: (() => Promise<unknown>)[] = [
      () => workspace.uploadFiles([{ file: "a", localPath: "/a" }]),
      () => workspace.deleteFiles([]),
      async () => drain(workspace.deleteFiles(streamOf(["a"]))).then(({ error }) => Promise.reject(error)),
      () => workspace.statFile("a"),
      () => Array.fromAsync(workspace.listFiles()),
      () => workspace.openRead("a"),
      () => workspace.openWrite("a"),
      () => workspace.fileUrl("a"),
      () => Array.fromAsync(workspace.sweep()),
      async () => workspace.getFileSystemPaths(["a"]),
    ];
    for (const call of calls) expect((await stowageErrorOf(call())).code).toBe("CLOSED");
  });

  test("waits for what runs, then closes the broker", async () => {
    const order: string[] = [];
    const broker = singleBroker({
      async deleteFile() {
        await sleep(40);
        order.push("deleted");
        return "deleted";
      },
      close: async () => void order.push("closed"),
    });
    const workspace = workspaceOf({ broker });
    const batch = workspace.deleteFiles(["a", "b", "c"], { concurrency: 1 });
    await sleep(5);
    await workspace.close();
    expect(order).toEqual(["deleted", "deleted", "deleted", "closed"]);
    expect((await batch).map(statusOf)).toEqual(["done", "done", "done"]);
  });

  test("cancels what still runs when its signal aborts", async () => {
    const broker = singleBroker({ deleteFile: (_file, { signal }) => untilAborted(signal) });
    const workspace = workspaceOf({ broker });
    const batch = transferErrorOf(workspace.deleteFiles(["a"]));
    await sleep(5);
    const before = performance.now();
    await workspace.close({ signal: AbortSignal.timeout(20) });
    expect(performance.now() - before).toBeLessThan(500);
    expect((await batch).outcomes.map(statusOf)).toEqual(["cancelled"]);
  });

  test("a stream of outcomes takes no more input, finishes what runs, and ends with CLOSED", async () => {
    let pulled = 0;
    const workspace = workspaceOf({
      broker: singleBroker({
        deleteFile: async () => {
          await sleep(10);
          return "deleted";
        },
      }),
    });
    async function* names(): AsyncGenerator<string> {
      for (;;) {
        pulled++;
        yield `f${pulled}`;
      }
    }
    const iterator = workspace.deleteFiles(names(), { concurrency: 2 })[Symbol.asyncIterator]();
    await iterator.next();
    // Nobody takes more outcomes: closing must not wait for that.
    await workspace.close();
    const rest = await drain({ [Symbol.asyncIterator]: () => iterator });
    expect(rest.values.length).toBeLessThanOrEqual(3);
    expect(rest.values.every(({ status }) => status === "done")).toBe(true);
    expect(rest.error).toMatchObject({ code: "CLOSED" });
  });

  test("a listing that waits for its consumer is ended, the consumer told", async () => {
    let open = 0;
    const broker = batchBroker({
      async *listFiles() {
        open++;
        try {
          for (let index = 0; ; index++) yield entry(`f${index}`);
        } finally {
          open--;
        }
      },
    });
    const workspace = workspaceOf({ broker });
    const iterator = workspace.listFiles()[Symbol.asyncIterator]();
    await iterator.next();
    await workspace.close();
    expect(open).toBe(0);
    expect((await stowageErrorOf(iterator.next())).code).toBe("CLOSED");
  });

  test("a listing that waits for its broker is waited for, then ended; the broker is closed last", async () => {
    const order: string[] = [];
    const broker = batchBroker({
      async *listFiles() {
        try {
          yield entry("a");
          await sleep(30);
          order.push("found");
          yield entry("b");
        } finally {
          order.push("ended");
        }
      },
      close: async () => void order.push("closed"),
    });
    const workspace = workspaceOf({ broker });
    const iterator = workspace.listFiles()[Symbol.asyncIterator]();
    await iterator.next();
    const waiting = stowageErrorOf(iterator.next());
    await sleep(5);
    await workspace.close();
    expect((await waiting).code).toBe("CLOSED");
    expect(order).toEqual(["found", "ended", "closed"]);
  });

  test("a broker that cannot close is an error, told to everybody who closes", async () => {
    const workspace = workspaceOf({ broker: { ...createMemoryBroker(), close: async () => Promise.reject(new DriverError("EIO")) } });
    expect((await stowageErrorOf(workspace.close())).code).toBe("UNAVAILABLE");
    expect((await stowageErrorOf(workspace.close())).code).toBe("UNAVAILABLE");
  });
});

describe("secrets", () => {
  test("stay out of errors, causes and logs", async () => {
    const logged: unknown[] = [];
    const broker = singleBroker({
      async statFile(_file, { log }) {
        log("warn", "token hunter2 is old", { url: "https://x?token=hunter2" });
        throw new Error("401 for token hunter2", { cause: new Error("Authorization: hunter2") });
      },
    });
    const workspace = workspaceOf({
      broker,
      redact: (text) => text.replaceAll("hunter2", "•••"),
      log: (...line) => void logged.push(line),
    });
    const error = await stowageErrorOf(workspace.statFile("a"));
    expect(inspect(error, { depth: 9 })).toContain("•••");
    expect(inspect(error, { depth: 9 })).not.toContain("hunter2");
    expect(logged).toEqual([["warn", "token ••• is old", { url: "https://x?token=•••" }]]);
  });
});
