import { afterEach, describe, expect, test } from "vitest";
import type { Broker, FileWriter } from "../src/lib/broker.ts";
import { createMemoryBroker } from "../src/lib/memory-broker.ts";
import { sleep } from "../src/lib/retry.ts";
import { Workspace, type WorkspaceInit } from "../src/lib/workspace.ts";
import { DriverError, forever, singleBroker, untilAborted } from "./support/brokers.ts";
import { stowageErrorOf } from "./support/outcomes.ts";

const opened: Workspace[] = [];

function workspaceOf(init: Partial<WorkspaceInit> = {}): Workspace {
  const workspace = new Workspace({ name: "data", broker: createMemoryBroker(), ...init });
  opened.push(workspace);
  return workspace;
}

afterEach(async () => {
  await Promise.all(opened.splice(0).map((workspace) => workspace.close({ signal: AbortSignal.abort() }).catch(() => undefined)));
});

async function store(workspace: Workspace, path: string, content: string): Promise<void> {
  const writer = await workspace.openWrite(path);
  await writer.write(Buffer.from(content));
  await writer.commit();
}

async function read(workspace: Workspace, path: string, range?: { start: number; end?: number }): Promise<string> {
  const reader = await workspace.openRead(path, { range });
  try {
    return Buffer.concat(await Array.fromAsync(reader)).toString();
  } finally {
    await reader.close();
  }
}

/** A broker whose writers note what is called. */
function watched(overrides: Partial<FileWriter> = {}): { broker: Broker; calls: string[] } {
  const calls: string[] = [];
  const memory = createMemoryBroker();
  const broker: Broker = {
    ...memory,
    async openWrite(file, options, context) {
      const writer = await memory.openWrite(file, options, context);
      return {
        write: async (chunk) => {
          calls.push("write");
          await (overrides.write ?? writer.write)(chunk);
        },
        commit: async () => {
          calls.push("commit");
          return (overrides.commit ?? writer.commit)();
        },
        abort: async (reason) => {
          calls.push("abort");
          await writer.abort(reason);
        },
      };
    },
  };
  return { broker, calls };
}

describe("writing a file as a stream", () => {
  test("shows it when it is committed, whole", async () => {
    const workspace = workspaceOf();
    const modified = new Date(1_000_000_000_123);
    const writer = await workspace.openWrite("a", { size: 6, modified });
    await writer.write(Buffer.from("one"));
    await writer.write(Buffer.from("two"));
    expect(await workspace.statFile("a")).toBeUndefined();
    expect(await writer.commit()).toMatchObject({ bytes: 6, verified: "digest" });
    expect(await workspace.statFile("a")).toMatchObject({ size: 6, modified });
    expect(await read(workspace, "a")).toBe("onetwo");
  });

  test("checks size and digest that were promised, keeping what was there before", async () => {
    const workspace = workspaceOf();
    await store(workspace, "a", "before");
    const short = await workspace.openWrite("a", { size: 10 });
    await short.write(Buffer.from("123"));
    expect((await stowageErrorOf(short.commit())).code).toBe("SHORT_SOURCE");
    const wrong = await workspace.openWrite({ path: "a", digest: { algorithm: "crc32", value: "00000000" } });
    await wrong.write(Buffer.from("123"));
    expect(await stowageErrorOf(wrong.commit())).toMatchObject({ code: "CHECKSUM_MISMATCH", file: "a", workspace: "data" });
    expect(await read(workspace, "a")).toBe("before");
  });

  test("refuses an existing file where asked to", async () => {
    const workspace = workspaceOf();
    await store(workspace, "a", "before");
    expect((await stowageErrorOf(workspace.openWrite("a", { ifExists: "fail" }))).code).toBe("FILE_EXISTS");
  });

  test("after abort nothing is there and the writer has ended", async () => {
    const { broker, calls } = watched();
    const workspace = workspaceOf({ broker });
    const writer = await workspace.openWrite("a");
    await writer.write(Buffer.from("x"));
    await writer.abort(new Error("no"));
    await writer.abort(new Error("again"));
    expect((await stowageErrorOf(writer.write(Buffer.from("y")))).code).toBe("CLOSED");
    expect((await stowageErrorOf(writer.commit())).code).toBe("CLOSED");
    expect(await workspace.statFile("a")).toBeUndefined();
    expect(calls).toEqual(["write", "abort"]);
  });

  test("a write that fails is not repeated; the commit after it aborts and fails with the same error", async () => {
    const { broker, calls } = watched({ write: async () => Promise.reject(new DriverError("ECONNRESET")) });
    const workspace = workspaceOf({ broker });
    const writer = await workspace.openWrite("a");
    const failure = await stowageErrorOf(writer.write(Buffer.from("x")));
    expect(failure).toMatchObject({ code: "UNAVAILABLE", file: "a" });
    expect(await stowageErrorOf(writer.commit())).toBe(failure);
    expect(calls).toEqual(["write", "abort"]);
  });

  test("a commit that fails is not followed by an abort, nor repeated", async () => {
    const { broker, calls } = watched({ commit: async () => Promise.reject(new DriverError("ECONNRESET")) });
    const workspace = workspaceOf({ broker });
    const writer = await workspace.openWrite("a");
    expect((await stowageErrorOf(writer.commit())).code).toBe("UNAVAILABLE");
    await writer.abort(new Error("too late"));
    expect(calls).toEqual(["commit"]);
  });

  test("writes that are not awaited reach the broker one at a time, and commit comes last", async () => {
    let active = 0;
    let most = 0;
    const { broker, calls } = watched({
      write: async () => {
        most = Math.max(most, ++active);
        await sleep(3);
        active--;
      },
    });
    const writer = await workspaceOf({ broker }).openWrite("a");
    const writes = [1, 2, 3].map(() => writer.write(Buffer.from("x")));
    await writer.commit();
    await Promise.all(writes);
    expect(most).toBe(1);
    expect(calls).toEqual(["write", "write", "write", "commit"]);
  });

  test("the caller's signal aborts the writer, within a second though a write hangs", async () => {
    const controller = new AbortController();
    const { broker, calls } = watched({ write: () => forever() });
    const writer = await workspaceOf({ broker }).openWrite("a", { signal: controller.signal });
    const write = stowageErrorOf(writer.write(Buffer.from("x")));
    await sleep(5);
    const before = performance.now();
    controller.abort();
    expect((await write).code).toBe("CANCELLED");
    await writer.abort(new Error("cleanup"));
    expect(performance.now() - before).toBeLessThan(1000);
    expect(calls).toEqual(["write", "abort"]);
  });

  test("an idle writer is aborted when its signal aborts, nobody need call", async () => {
    const controller = new AbortController();
    const { broker, calls } = watched();
    const writer = await workspaceOf({ broker }).openWrite("a", { signal: controller.signal });
    await writer.write(Buffer.from("x"));
    controller.abort();
    await sleep(10);
    expect(calls).toEqual(["write", "abort"]);
    expect((await stowageErrorOf(writer.commit())).code).toBe("CANCELLED");
  });

  test("closing the workspace ends a writer that nobody finishes", async () => {
    const { broker, calls } = watched();
    const workspace = workspaceOf({ broker });
    const writer = await workspace.openWrite("a");
    await writer.write(Buffer.from("x"));
    await workspace.close();
    expect(calls).toEqual(["write", "abort"]);
    expect((await stowageErrorOf(writer.write(Buffer.from("x")))).code).toBe("CLOSED");
  });

  test("to open is repeated when it fails for now", async () => {
    const memory = createMemoryBroker();
    let opens = 0;
    const broker: Broker = {
      ...memory,
      openWrite: async (file, options, context) => {
        if (++opens < 3) throw new DriverError("ECONNRESET");
        return memory.openWrite(file, options, context);
      },
    };
    const workspace = workspaceOf({ broker });
    await store(workspace, "a", "x");
    expect(opens).toBe(3);
  });

  test("a bad target is refused", async () => {
    expect((await stowageErrorOf(workspaceOf().openWrite("a\tb"))).code).toBe("INVALID_PATH");
  });
});

describe("reading a file as a stream", () => {
  test("gives a range, end exclusive, cut at the end", async () => {
    const workspace = workspaceOf();
    await store(workspace, "a", "0123456789");
    expect(await read(workspace, "a")).toBe("0123456789");
    expect(await read(workspace, "a", { start: 2, end: 5 })).toBe("234");
    expect(await read(workspace, "a", { start: 8 })).toBe("89");
    expect(await read(workspace, "a", { start: 8, end: 99 })).toBe("89");
    expect(await read(workspace, "a", { start: 99 })).toBe("");
  });

  test.each([{ start: -1 }, { start: 1.5 }, { start: 5, end: 4 }, { start: Number.NaN }])("%o is no range", async (range) => {
    expect((await stowageErrorOf(workspaceOf().openRead("a", { range }))).code).toBe("INVALID_ARGUMENT");
  });

  test("of a missing file is FILE_NOT_FOUND", async () => {
    expect(await stowageErrorOf(workspaceOf().openRead("a"))).toMatchObject({ code: "FILE_NOT_FOUND", file: "a", workspace: "data" });
  });

  test("a reader may be closed twice, and in the middle; then it is CLOSED", async () => {
    const workspace = workspaceOf();
    await store(workspace, "a", "x");
    const reader = await workspace.openRead("a");
    await reader.close();
    await reader.close();
    expect((await stowageErrorOf(Array.fromAsync(reader))).code).toBe("CLOSED");
  });

  test("a failure in the middle is wrapped", async () => {
    const broker = singleBroker({
      openRead: async (file) => ({
        file,
        size: 10,
        async *[Symbol.asyncIterator]() {
          yield Buffer.from("12345");
          throw new DriverError("EIO");
        },
        close: async () => undefined,
      }),
    });
    const reader = await workspaceOf({ broker }).openRead("a");
    expect(await stowageErrorOf(Array.fromAsync(reader))).toMatchObject({ code: "UNAVAILABLE", file: "a", workspace: "data" });
  });

  test("leaving a loop lets the broker end its iteration", async () => {
    let ended = false;
    const broker = singleBroker({
      openRead: async (file) => ({
        file,
        size: 10,
        async *[Symbol.asyncIterator]() {
          try {
            for (;;) yield Buffer.from("x");
          } finally {
            ended = true;
          }
        },
        close: async () => undefined,
      }),
    });
    const reader = await workspaceOf({ broker }).openRead("a");
    for await (const _ of reader) break;
    expect(ended).toBe(true);
    await reader.close();
  });

  test("an abort ends a read that hangs within a second", async () => {
    const controller = new AbortController();
    const broker = singleBroker({
      openRead: async (file, _options, { signal }) => ({
        file,
        size: 10,
        async *[Symbol.asyncIterator]() {
          yield Buffer.from("1");
          await untilAborted(signal);
        },
        close: async () => undefined,
      }),
    });
    const reader = await workspaceOf({ broker }).openRead("a", { signal: controller.signal });
    setTimeout(() => controller.abort(), 10);
    const before = performance.now();
    expect((await stowageErrorOf(Array.fromAsync(reader))).code).toBe("CANCELLED");
    expect(performance.now() - before).toBeLessThan(1000);
  });

  test("closing the workspace closes readers that are open", async () => {
    let closed = 0;
    const memory = createMemoryBroker();
    const broker: Broker = {
      ...memory,
      async openRead(file, options, context) {
        const reader = await memory.openRead(file, options, context);
        return { ...reader, [Symbol.asyncIterator]: () => reader[Symbol.asyncIterator](), close: async () => void closed++ };
      },
    };
    const workspace = workspaceOf({ broker });
    await store(workspace, "a", "x");
    const reader = await workspace.openRead("a");
    await workspace.close();
    expect(closed).toBe(1);
    expect((await stowageErrorOf(Array.fromAsync(reader))).code).toBe("CLOSED");
  });
});
