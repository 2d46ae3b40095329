import { describe, expect, test } from "vitest";
import type { BatchResult, Broker, OperationContext } from "../src/lib/broker.ts";
import { BROKER_METHODS, type BrokerMember, type BrokerMethodName } from "../src/lib/broker-methods.ts";
import type { FilePath } from "../src/lib/files.ts";
import { createLimits } from "../src/lib/limits.ts";
import { createMemoryBroker } from "../src/lib/memory-broker.ts";
import { StowageError } from "../src/lib/stowage-error.ts";
import { withLimits } from "../src/lib/with-limits.ts";
import { withLog } from "../src/lib/with-log.ts";
import { withPrefix } from "../src/lib/with-prefix.ts";
import { withReadOnly } from "../src/lib/with-read-only.ts";
import { withRetry } from "../src/lib/with-retry.ts";
import { type BrokerAround, wrapBroker } from "../src/lib/wrap-broker.ts";
import { collect, operationContext, storedFile } from "./support/operation-context.ts";

const members = Object.entries(BROKER_METHODS) as [keyof Broker, BrokerMember][];
const methodNames = members.filter(([, { shape }]) => shape !== "value").map(([name]) => name as BrokerMethodName);
const optionalNames = members.filter(([, { optional }]) => optional).map(([name]) => name);

/** A broker with every method, each of which tells `calls` of itself and answers with its own name. */
function recordingBroker(calls: { method: string; parameters: unknown[]; self: unknown }[]): Required<Broker> {
  // Its type makes this list as complete as the contract.
  const complete: { [Name in keyof Required<Broker>]: true } = {
    capabilities: true,
    downloadFile: true,
    uploadFile: true,
    moveFile: true,
    deleteFile: true,
    statFile: true,
    listFiles: true,
    errorCode: true,
    close: true,
    getFileSystemPath: true,
    downloadFiles: true,
    uploadFiles: true,
    moveFiles: true,
    deleteFiles: true,
    copyFile: true,
    openRead: true,
    openWrite: true,
    createSignedUrl: true,
    sweep: true,
  };
  const broker: Required<Broker> = new Proxy(complete as unknown as Required<Broker>, {
    get(_target, name) {
      const method = String(name);
      if (method === "capabilities") return { atomicReplace: true, ifAbsent: "exact" };
      if (!Object.hasOwn(complete, method)) return undefined;
      return function (this: unknown, ...parameters: unknown[]) {
        calls.push({ method, parameters, self: this });
        const { shape } = BROKER_METHODS[method as keyof Broker];
        if (shape === "pure") return method;
        if (shape === "stream") return oneOf(method);
        if (shape === "batch") return oneOf({ index: 0, ok: true, value: method } satisfies BatchResult<unknown>);
        return Promise.resolve(method);
      };
    },
  });
  return broker;
}

async function* oneOf<T>(value: T): AsyncGenerator<T> {
  yield value;
}

const isIterable = (value: unknown): value is AsyncIterable<unknown> =>
  typeof value === "object" && value !== null && Symbol.asyncIterator in value;

type AnyMethods = Record<string, (...parameters: unknown[]) => unknown>;

async function callAll(broker: Broker, context: OperationContext): Promise<Record<string, unknown>> {
  const answers: Record<string, unknown> = {};
  for (const name of methodNames) {
    const { shape } = BROKER_METHODS[name];
    const parameters =
      shape === "pure"
        ? [`${name}-first`]
        : shape === "close"
          ? []
          : shape === "batch"
            ? [[`${name}-item`], context]
            : [`${name}-first`, {}, context];
    const answer = (broker as unknown as AnyMethods)[name]!(...parameters);
    answers[name] = isIterable(answer) ? await collect(answer) : await answer;
  }
  return answers;
}

describe("the table of methods", () => {
  test("has every member of a full broker, and no other", () => {
    expect(members.map(([name]) => name).sort()).toEqual(Object.keys(recordingBroker([])).sort());
  });

  test("calls optional what a least broker may leave out, and only that", () => {
    const required: { [Name in keyof Broker as Pick<Broker, Name> extends Required<Pick<Broker, Name>> ? Name : never]: true } = {
      capabilities: true,
      downloadFile: true,
      uploadFile: true,
      moveFile: true,
      deleteFile: true,
      statFile: true,
      listFiles: true,
      errorCode: true,
      close: true,
    };
    expect(
      members
        .filter(([, { optional }]) => !optional)
        .map(([name]) => name)
        .sort(),
    ).toEqual(Object.keys(required).sort());
  });
});

describe("a wrapped broker", () => {
  const throughAll: BrokerAround = {
    promise: (call, next) => next(call.context),
    stream: (call, next) => next(call.context),
    batch: (call, next) => next(call.items, call.context),
  };

  for (const [how, around] of [
    ["with nothing around", {}],
    ["with something around every method", throughAll],
  ] as const) {
    test(`passes every call, its parameters, itself and the answer through, ${how}`, async () => {
      const direct: { method: string; parameters: unknown[]; self: unknown }[] = [];
      const wrapped: typeof direct = [];
      const context = operationContext();
      const inner = recordingBroker(wrapped);
      const expected = await callAll(recordingBroker(direct), context);
      expect(await callAll(wrapBroker(inner, around), context)).toEqual(expected);
      expect(wrapped.map(({ method, parameters }) => ({ method, parameters }))).toEqual(
        direct.map(({ method, parameters }) => ({ method, parameters })),
      );
      expect(wrapped.map(({ method }) => method)).toEqual(methodNames);
      for (const { self } of wrapped) expect(self).toBe(inner);
    });
  }

  test("surrounds each method once, and the methods with a rule of their own by that alone", async () => {
    const seen: string[] = [];
    const around: BrokerAround = {
      promise: (call, next) => {
        seen.push(call.method);
        return next(call.context);
      },
      stream: (call, next) => {
        seen.push(call.method);
        return next(call.context);
      },
      batch: (call, next) => {
        seen.push(call.method);
        return next(call.items, call.context);
      },
      methods: {
        close: async (next) => {
          seen.push("own close");
          await next();
        },
        errorCode: (next, error) => {
          seen.push("own errorCode");
          return next(error);
        },
        getFileSystemPath: (next, file) => {
          seen.push("own getFileSystemPath");
          return next(file);
        },
        statFile: (next, file, context) => {
          seen.push("own statFile");
          return next(file, context);
        },
      },
    };
    await callAll(wrapBroker(recordingBroker([]), around), operationContext());
    const own = ["close", "errorCode", "getFileSystemPath", "statFile"];
    expect(seen).toEqual(methodNames.map((name) => (own.includes(name) ? `own ${name}` : name)));
  });

  test("sees the methods of an instance of a class, also one that is replaced later", async () => {
    class Counter {
      #count = 0;
      capabilities = { atomicReplace: true, ifAbsent: "exact" } as const;
      async statFile(): Promise<undefined> {
        this.#count++;
      }
      getFileSystemPath(): string {
        return String(this.#count);
      }
    }
    const inner = new Counter() as unknown as Broker;
    const wrapped = wrapBroker(inner, {});
    await wrapped.statFile(storedFile("a"), operationContext());
    expect(wrapped.getFileSystemPath!(storedFile("a"))).toBe("1");
    inner.getFileSystemPath = () => "replaced";
    expect(wrapped.getFileSystemPath!(storedFile("a"))).toBe("replaced");
  });

  const wrappers: Record<string, (broker: Broker) => Broker> = {
    wrapBroker: (broker) => wrapBroker(broker, throughAll),
    withRetry: (broker) => withRetry(broker),
    withLimits: (broker) => withLimits(broker, createLimits()),
    withLog: (broker) => withLog(broker, () => {}),
    withReadOnly,
    withPrefix: (broker) => withPrefix(broker, "prefix"),
  };
  for (const [name, wrap] of Object.entries(wrappers)) {
    test(`${name} keeps exactly the optional methods that there are`, () => {
      const memory = createMemoryBroker();
      for (const absent of [undefined, ...optionalNames]) {
        const full = { ...memory, getFileSystemPath: () => "/", createSignedUrl: async () => "https://x" } as Record<string, unknown>;
        if (absent !== undefined) delete full[absent];
        const expected = Object.keys(full)
          // Stated where it is documented: a part of a broker cannot be swept.
          .filter((key) => !(name === "withPrefix" && key === "sweep"))
          .sort();
        const wrapped = wrap(full as unknown as Broker);
        expect(Object.keys(wrapped).sort()).toEqual(expected);
        expect(wrapped.capabilities).toBe(full.capabilities);
      }
    });
  }
});

describe("withReadOnly", () => {
  test("refuses every method that changes something before the broker hears of it, and passes the others", async () => {
    const calls: { method: string; parameters: unknown[]; self: unknown }[] = [];
    const broker = withReadOnly(recordingBroker(calls));
    const context = operationContext();
    const refused: string[] = [];
    for (const name of methodNames) {
      const { shape } = BROKER_METHODS[name];
      const parameters = shape === "batch" ? [[], context] : shape === "pure" ? [""] : [storedFile("a"), { method: "GET" }, context];
      try {
        const answer = (broker as unknown as AnyMethods)[name]!(...parameters);
        await (isIterable(answer) ? collect(answer) : answer);
      } catch (error) {
        expect(error).toMatchObject({ code: "READ_ONLY" });
        refused.push(name);
      }
    }
    const changing = ["uploadFile", "moveFile", "deleteFile", "uploadFiles", "moveFiles", "deleteFiles", "copyFile", "openWrite", "sweep"];
    expect(refused.sort()).toEqual(changing.sort());
    expect(calls.map(({ method }) => method).sort()).toEqual(methodNames.filter((name) => !changing.includes(name)).sort());
    await expect(broker.createSignedUrl!(storedFile("a"), { method: "PUT", expiresInSeconds: 1 }, context)).rejects.toMatchObject({
      code: "READ_ONLY",
    });
  });
});

describe("withLog", () => {
  test("tells of the end of every operation, of how it failed, and of nothing secret", async () => {
    const lines: [string, string, Record<string, unknown> | undefined][] = [];
    const memory = createMemoryBroker();
    const broker = withLog({ ...memory, statFile: async () => Promise.reject(new Error("the token hunter2 is wrong")) }, (...line) =>
      lines.push(line as (typeof lines)[number]),
    );
    const context = operationContext();
    const writer = await broker.openWrite!(storedFile("a\nb"), {}, context);
    await writer.commit();
    await broker.copyFile!({ file: storedFile("a\nb"), newPath: "c" as FilePath }, context);
    await expect(broker.statFile(storedFile("a"), context)).rejects.toThrow("hunter2");
    for await (const _file of broker.listFiles("", { recursive: true, onProblem: () => {} }, context)) break;
    await collect(broker.deleteFiles!([storedFile("c"), storedFile("zz")], context));
    await collect(broker.downloadFiles!([{ file: storedFile("gone"), localPath: "/nowhere" }], context));
    expect(lines).toEqual([
      ["debug", "openWrite ended", { method: "openWrite", file: "a\\u{a}b", durationMs: expect.any(Number) }],
      ["debug", "copyFile ended", { method: "copyFile", file: "a\\u{a}b", newPath: "c", durationMs: expect.any(Number), bytes: 0 }],
      ["warn", "statFile failed", { method: "statFile", file: "a", durationMs: expect.any(Number), code: "UNKNOWN" }],
      ["debug", "listFiles ended", { method: "listFiles", file: "", durationMs: expect.any(Number), results: 1 }],
      ["debug", "deleteFiles ended", { method: "deleteFiles", items: 2, durationMs: expect.any(Number), results: 2, failed: 0 }],
      [
        "warn",
        "downloadFiles failed",
        { method: "downloadFiles", items: 1, durationMs: expect.any(Number), results: 1, failed: 1, code: "FILE_NOT_FOUND" },
      ],
    ]);
  });

  test("logs messages when it is told how to redact them, and does not fail when the log does", async () => {
    const lines: unknown[] = [];
    const failing = { ...createMemoryBroker(), statFile: async () => Promise.reject(new Error("the token hunter2 is wrong")) };
    const log = (_level: string, _message: string, fields?: Readonly<Record<string, unknown>>) => {
      lines.push(fields?.message);
      throw new Error("disk full");
    };
    const broker = withLog(failing, log, { redact: (text) => text.replaceAll("hunter2", "***") });
    await expect(broker.statFile(storedFile("a"), operationContext())).rejects.toThrow("hunter2");
    expect(await broker.deleteFile(storedFile("a"), operationContext())).toBe("missing");
    expect(lines).toEqual(["the token *** is wrong", undefined]);
  });
});

describe("withLimits", () => {
  function gate(): { wait: Promise<void>; open: () => void } {
    const { promise, resolve } = Promise.withResolvers<void>();
    return { wait: promise, open: resolve };
  }

  test("lets so many files move at once, also over brokers that share the limits, and does not count looking", async () => {
    const limits = createLimits({ files: 2 });
    const { wait, open } = gate();
    let active = 0;
    let most = 0;
    const slow = (): Broker => ({
      ...createMemoryBroker(),
      deleteFile: async () => {
        most = Math.max(most, ++active);
        await wait;
        active--;
        return "deleted";
      },
    });
    const [one, two] = [withLimits(slow(), limits), withLimits(slow(), limits)];
    const deletions = [one, two, one, two, one].map((broker) => broker.deleteFile(storedFile("a"), operationContext()));
    expect(await one.statFile(storedFile("a"), operationContext())).toBeUndefined();
    expect(active).toBe(2);
    open();
    await Promise.all(deletions);
    expect(most).toBe(2);
  });

  test("counts a reader and a writer until they end, however they do", async () => {
    const broker = withLimits(createMemoryBroker(), createLimits({ files: 1 }));
    const refuse = () => operationContext({ signal: AbortSignal.timeout(20) });
    const isFull = () => expect(broker.deleteFile(storedFile("zz"), refuse())).rejects.toMatchObject({ name: "TimeoutError" });
    const isFree = async () => expect(await broker.deleteFile(storedFile("zz"), operationContext())).toBe("missing");

    const writer = await broker.openWrite!(storedFile("a"), {}, operationContext());
    await isFull();
    await writer.write(Buffer.from("abc"));
    await writer.commit();
    await isFree();
    const aborted = await broker.openWrite!(storedFile("a"), {}, operationContext());
    await isFull();
    await aborted.abort(new Error("no"));
    await isFree();
    const failing = await broker.openWrite!(storedFile("a"), { size: 5 }, operationContext());
    await expect(failing.commit()).rejects.toMatchObject({ code: "SHORT_SOURCE" });
    await isFree();
    const reader = await broker.openRead!(storedFile("a"), {}, operationContext());
    expect(reader.size).toBe(3);
    expect(Buffer.concat(await collect(reader)).toString()).toBe("abc");
    await isFull();
    await reader.close();
    await reader.close();
    await isFree();
    await expect(broker.openRead!(storedFile("none"), {}, operationContext())).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await isFree();
  });

  test("counts a batch as one, and frees its place when the consumer stops early", async () => {
    const broker = withLimits(createMemoryBroker(), createLimits({ files: 1 }));
    for await (const _result of broker.deleteFiles!([storedFile("a"), storedFile("b")], operationContext())) break;
    expect(await broker.deleteFile(storedFile("zz"), operationContext())).toBe("missing");
  });

  test("adds its memory and bandwidth to those of the caller, and gives both back", async () => {
    const events: string[] = [];
    const outer = operationContext({
      reserve: async (bytes) => {
        events.push(`outer ${bytes}`);
        return { [Symbol.dispose]: () => events.push("outer back") };
      },
      throttle: async (bytes) => void events.push(`outer throttle ${bytes}`),
    });
    const limits = createLimits({ memoryBytes: 10 });
    const inner: Broker = {
      ...createMemoryBroker(),
      deleteFile: async (_file, context) => {
        const room = await context.reserve(10);
        await context.throttle(3);
        const second = limits.reserve(10);
        expect(await Promise.race([second, Promise.resolve("full")])).toBe("full");
        room[Symbol.dispose]();
        (await second)[Symbol.dispose]();
        return "deleted";
      },
    };
    await withLimits(inner, limits).deleteFile(storedFile("a"), outer);
    expect(events).toEqual(["outer 10", "outer throttle 3", "outer back"]);
    const held = await limits.reserve(10);
    const waiting = withLimits(inner, limits).deleteFile(storedFile("a"), { ...outer, signal: AbortSignal.timeout(20) });
    await expect(waiting).rejects.toMatchObject({ name: "TimeoutError" });
    expect(events.slice(3)).toEqual(["outer 10", "outer back"]);
    held[Symbol.dispose]();
  });
});

describe("withRetry", () => {
  const quick = { baseDelayMs: 0, attempts: 3 };
  const unavailable = () => new StowageError("try later", { code: "UNAVAILABLE" });

  /** Fails so many times with `error`, then does what it should. */
  function failing<Parameters extends unknown[], Result>(
    times: number,
    run: (...parameters: Parameters) => Result,
    error: () => Error = unavailable,
  ) {
    let left = times;
    return (...parameters: Parameters): Result => {
      if (left-- > 0) throw error();
      return run(...parameters);
    };
  }

  test("repeats what may succeed, with a temporary name of its own for each attempt", async () => {
    const memory = createMemoryBroker();
    const names: string[] = [];
    const inner: Broker = {
      ...memory,
      openWrite: (file, options, context) => {
        names.push(context.temporaryId);
        return failTwice(file, options, context);
      },
    };
    const failTwice = failing(2, memory.openWrite);
    const writer = await withRetry(inner, quick).openWrite!(storedFile("a"), {}, operationContext({ temporaryId: "t" }));
    await writer.commit();
    expect(names).toEqual(["t", "tr2", "tr3"]);
  });

  test("raises the last failure when attempts are used up, and the first that is final at once", async () => {
    const memory = createMemoryBroker();
    let calls = 0;
    const inner = (error: () => Error): Broker => ({
      ...memory,
      statFile: async () => {
        calls++;
        throw error();
      },
    });
    await expect(withRetry(inner(unavailable), quick).statFile(storedFile("a"), operationContext())).rejects.toMatchObject({
      code: "UNAVAILABLE",
    });
    expect(calls).toBe(3);
    const denied = () => Object.assign(new Error("no"), { code: "EACCES" });
    await expect(withRetry(inner(denied), quick).statFile(storedFile("a"), operationContext())).rejects.toMatchObject({ code: "EACCES" });
    expect(calls).toBe(4);
  });

  test("says `unknown` of a deletion whose first attempt may have succeeded", async () => {
    const memory = createMemoryBroker();
    const inner: Broker = { ...memory, deleteFile: failing(1, memory.deleteFile) };
    expect(await withRetry(inner, quick).deleteFile(storedFile("a"), operationContext())).toBe("unknown");
    expect(await withRetry(memory, quick).deleteFile(storedFile("a"), operationContext())).toBe("missing");
  });

  test("repeats a listing that has given nothing yet, never one that has", async () => {
    const memory = createMemoryBroker();
    for (const name of ["a", "b", "c"]) await (await memory.openWrite(storedFile(name), {}, operationContext())).commit();
    let begun = 0;
    const inner = (failAfter: number): Broker => ({
      ...memory,
      async *listFiles(...parameters) {
        if (begun++ === 0) {
          let given = 0;
          for await (const file of memory.listFiles(...parameters)) {
            if (given++ === failAfter) throw unavailable();
            yield file;
          }
        } else {
          yield* memory.listFiles(...parameters);
        }
      },
    });
    const list = (broker: Broker) => withRetry(broker, quick).listFiles("", { recursive: true, onProblem: () => {} }, operationContext());
    expect((await collect(list(inner(0)))).map(({ file }) => file.path)).toEqual(["a", "b", "c"]);
    expect(begun).toBe(2);
    begun = 0;
    await expect(collect(list(inner(1)))).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect(begun).toBe(1);
  });

  test("closes a listing that the consumer leaves early, and gives an empty one", async () => {
    let closed = false;
    const inner: Broker = {
      ...createMemoryBroker(),
      async *listFiles() {
        try {
          for (let index = 0; ; index++) yield { file: storedFile(`f${index}`), size: 0 };
        } finally {
          closed = true;
        }
      },
    };
    for await (const _file of withRetry(inner).listFiles("", { recursive: true, onProblem: () => {} }, operationContext())) break;
    expect(closed).toBe(true);
    expect(
      await collect(withRetry(createMemoryBroker()).listFiles("", { recursive: true, onProblem: () => {} }, operationContext())),
    ).toEqual([]);
  });

  test("repeats only the items of a batch that failed, and answers each once with its own place", async () => {
    const asked: string[][] = [];
    const attemptsOf = new Map<string, number>();
    const inner: Broker = {
      ...createMemoryBroker(),
      async *deleteFiles(files) {
        asked.push(files.map(({ path }) => path));
        // Backwards: the order of answers is the broker's.
        for (const [index, { path }] of [...files.entries()].reverse()) {
          const attempt = (attemptsOf.get(path) ?? 0) + 1;
          attemptsOf.set(path, attempt);
          if (path.startsWith("final")) yield { index, ok: false, error: new StowageError("no", { code: "PERMISSION_DENIED" }) };
          else if (path.startsWith("flaky") && attempt < 3) yield { index, ok: false, error: unavailable() };
          else if (path.startsWith("down")) yield { index, ok: false, error: unavailable() };
          else yield { index, ok: true, value: "deleted" };
        }
      },
    };
    const files = ["good", "flaky1", "final", "down", "flaky2"].map((path) => storedFile(path));
    const results = await collect(withRetry(inner, quick).deleteFiles!(files, operationContext()));
    expect(results.map(({ index }) => index).sort()).toEqual([0, 1, 2, 3, 4]);
    expect(
      results
        .filter(({ ok }) => ok)
        .map(({ index }) => index)
        .sort(),
    ).toEqual([0, 1, 4]);
    expect(asked).toEqual([
      ["good", "flaky1", "final", "down", "flaky2"],
      ["flaky1", "down", "flaky2"],
      ["flaky1", "down", "flaky2"],
    ]);
  });

  test("repeats what a batch that broke off has not answered", async () => {
    let calls = 0;
    const inner: Broker = {
      ...createMemoryBroker(),
      async *deleteFiles(files) {
        calls++;
        yield { index: 0, ok: true, value: "deleted" };
        if (calls === 1) throw unavailable();
        for (let index = 1; index < files.length; index++) yield { index, ok: true, value: "deleted" };
      },
    };
    const files = ["a", "b", "c"].map((path) => storedFile(path));
    const results = await collect(withRetry(inner, quick).deleteFiles!(files, operationContext()));
    expect(results.map(({ index }) => index)).toEqual([0, 1, 2]);
    expect(calls).toBe(2);
  });

  test("passes on what concerns a whole batch, after the answers that there are", async () => {
    const results: number[] = [];
    const inner: Broker = {
      ...createMemoryBroker(),
      async *deleteFiles() {
        yield { index: 0, ok: false, error: unavailable() };
        throw new StowageError("never", { code: "UNAUTHENTICATED" });
      },
    };
    const batch = withRetry(inner, quick).deleteFiles!([storedFile("a"), storedFile("b")], operationContext());
    await expect(
      (async () => {
        for await (const { index } of batch) results.push(index);
      })(),
    ).rejects.toMatchObject({ code: "UNAUTHENTICATED" });
    expect(results).toEqual([0]);
    const forgetful: Broker = { ...inner, async *deleteFiles() {} };
    await expect(collect(withRetry(forgetful, quick).deleteFiles!([storedFile("a")], operationContext()))).rejects.toThrow(
      "without an answer for 1 of 1",
    );
  });

  test("does not wait for longer than the caller does", async () => {
    const inner: Broker = {
      ...createMemoryBroker(),
      statFile: async () => Promise.reject(new StowageError("later", { code: "RATE_LIMITED", retryAfterMs: 60_000 })),
    };
    const started = performance.now();
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 20);
    await expect(withRetry(inner, quick).statFile(storedFile("a"), operationContext({ signal: controller.signal }))).rejects.toMatchObject({
      name: "AbortError",
    });
    await expect(
      withRetry(inner, quick).statFile(storedFile("a"), operationContext({ deadline: new Date(Date.now() + 1000) })),
    ).rejects.toMatchObject({ code: "RATE_LIMITED" });
    expect(performance.now() - started).toBeLessThan(1000);
  });
});
