import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createMemoryBroker } from "@stowage/core";
import { type Broker, type FilePath, type OperationContext, parseFilePath, StowageError } from "@stowage/core/broker";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  corruptingBroker,
  createFaultyBroker,
  createRandom,
  createTestContext,
  createWorkload,
  duplicatingBroker,
  InjectedFault,
  invalidPath,
  oddPath,
  omittingBroker,
  reorderingBroker,
  truncatingBroker,
  writeWorkload,
} from "../src/index.ts";

let directory: string;
let local: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "stowage-faults-"));
  local = join(directory, "source");
  await writeFile(local, "twelve bytes");
});
afterEach(() => rm(directory, { recursive: true, force: true }));

function path(name: string): FilePath {
  return parseFilePath(name);
}

async function upload(broker: Broker, name: string, context: OperationContext = createTestContext()): Promise<unknown> {
  return broker.uploadFile({ file: { path: path(name) }, localPath: local }, context);
}

async function list(broker: Broker): Promise<string[]> {
  const entries = await Array.fromAsync(broker.listFiles("", { recursive: true, onProblem: () => undefined }, createTestContext()));
  return entries.map(({ file }) => file.path);
}

describe("a faulty broker", () => {
  test("works until it is told to fail, fails as often as it was told, and works again", async () => {
    const { broker, faults } = createFaultyBroker(createMemoryBroker());
    await upload(broker, "a");
    await faults.inject({ kind: "unavailable", operation: "upload", times: 2 });
    for (let count = 0; count < 2; count++) await expect(upload(broker, "b")).rejects.toBeInstanceOf(InjectedFault);
    await upload(broker, "c");
    expect(faults.struck()).toBe(2);
    expect(await list(broker)).toEqual(["a", "c"]);
  });

  test("strikes only the operation that it was told of, until it is cleared", async () => {
    const { broker, faults } = createFaultyBroker(createMemoryBroker());
    await faults.inject({ kind: "denied", operation: "delete", times: Number.POSITIVE_INFINITY });
    await upload(broker, "a");
    const error: unknown = await broker.deleteFile({ path: path("a") }, createTestContext()).catch((reason: unknown) => reason);
    expect(broker.errorCode(error)).toMatchObject({ code: "PERMISSION_DENIED" });
    await faults.clear();
    expect(await broker.deleteFile({ path: path("a") }, createTestContext())).toBe("deleted");
  });

  test("has done what it was asked when only its answer is lost", async () => {
    const { broker, faults } = createFaultyBroker(createMemoryBroker());
    await faults.inject({ kind: "lost-response", operation: "upload", times: 1 });
    await expect(upload(broker, "a")).rejects.toThrow("lost-response");
    expect(await list(broker)).toEqual(["a"]);
  });

  test("breaks in the middle of the bytes and leaves nothing", async () => {
    const { broker, faults } = createFaultyBroker(createMemoryBroker());
    await faults.inject({ kind: "reset", operation: "upload", times: 1 });
    await expect(upload(broker, "a")).rejects.toThrow("reset");
    expect(await list(broker)).toEqual([]);
  });

  test("is silent until its caller gives up, or until it is cleared", async () => {
    const { broker, faults } = createFaultyBroker(createMemoryBroker());
    await faults.inject({ kind: "stall", operation: "stat", times: Number.POSITIVE_INFINITY });
    const stop = new AbortController();
    const given = broker.statFile({ path: path("a") }, createTestContext({ signal: stop.signal }));
    setTimeout(() => stop.abort(new Error("enough")), 10);
    await expect(given).rejects.toThrow("enough");
    const waiting = broker.statFile({ path: path("a") }, createTestContext());
    setTimeout(() => void faults.clear(), 10);
    await expect(waiting).rejects.toThrow("stall");
  });

  test("tells when to come back, and calls its errors by their causes", () => {
    const { broker } = createFaultyBroker(createMemoryBroker());
    const fault = new InjectedFault(
      { kind: "rate-limited", operation: "upload", times: 1, retryAfterMs: 70 },
      { code: "RATE_LIMITED", retryAfterMs: 70 },
    );
    expect(broker.errorCode(fault)).toEqual({ code: "RATE_LIMITED", retryAfterMs: 70 });
    expect(broker.errorCode(new StowageError("x", { code: "CONFLICT" }))).toMatchObject({ code: "CONFLICT" });
  });

  test("can fail each step of a move that is a copy and a deletion", async () => {
    const { broker, faults } = createFaultyBroker(createMemoryBroker(), { movesByCopy: true });
    await upload(broker, "a");
    const move = (): Promise<unknown> => broker.moveFile({ file: { path: path("a") }, newPath: path("b") }, createTestContext());
    await faults.inject({ kind: "unavailable", operation: "move", step: "copy", times: 1 });
    await expect(move()).rejects.toThrow();
    expect(await list(broker)).toEqual(["a"]);
    await faults.inject({ kind: "unavailable", operation: "move", step: "delete", times: 1 });
    await expect(move()).rejects.toThrow();
    expect(await list(broker)).toEqual(["a", "b"]);
    await move();
    expect(await list(broker)).toEqual(["b"]);
  });

  test("says which faults it can have", () => {
    const plain = createFaultyBroker(createMemoryBroker()).faults;
    expect(plain.supports({ kind: "unavailable", operation: "list" })).toBe(true);
    expect(plain.supports({ kind: "reset", operation: "delete" })).toBe(false);
    expect(plain.supports({ kind: "corrupt-read", operation: "download" })).toBe(false);
    expect(plain.supports({ kind: "unavailable", operation: "move", step: "copy" })).toBe(false);
    const copying = createFaultyBroker(createMemoryBroker(), { movesByCopy: true }).faults;
    expect(copying.supports({ kind: "unavailable", operation: "move", step: "copy" })).toBe(true);
    expect(copying.supports({ kind: "unavailable", operation: "move" })).toBe(false);
  });
});

describe("brokers that lie", () => {
  async function download(broker: Broker): Promise<string> {
    const localPath = join(directory, "down");
    await broker.downloadFile({ file: { path: path("a") }, localPath }, createTestContext());
    return readFile(localPath, "utf8");
  }
  async function read(broker: Broker): Promise<string> {
    const reader = await broker.openRead!({ path: path("a") }, {}, createTestContext());
    const chunks = await Array.fromAsync(reader);
    await reader.close();
    return Buffer.concat(chunks).toString();
  }

  test("cut the end off", async () => {
    const memory = createMemoryBroker();
    await upload(memory, "a");
    expect(await download(truncatingBroker(memory, 3))).toBe("twelve by");
    expect(await read(truncatingBroker(memory, 3))).toBe("twelve by");
    expect(await read(truncatingBroker(memory, 99))).toBe("");
  });

  test("change a byte", async () => {
    const memory = createMemoryBroker();
    await upload(memory, "a");
    expect(await download(corruptingBroker(memory, 0))).toBe("uwelve bytes");
    expect(await read(corruptingBroker(memory, 1))).toBe("tvelve bytes");
    expect(await read(memory)).toBe("twelve bytes");
  });

  test("list in another order, twice, or not at all", async () => {
    const memory = createMemoryBroker();
    for (const name of ["a", "b", "c", "d", "e"]) await upload(memory, name);
    expect(await list(reorderingBroker(memory, 2))).toEqual(["b", "a", "d", "c", "e"]);
    expect(await list(duplicatingBroker(memory, 2))).toEqual(["a", "b", "b", "c", "d", "d", "e"]);
    expect(await list(omittingBroker(memory, (_entry, index) => index === 3))).toEqual(["a", "b", "c", "e"]);
  });
});

describe("workloads and names", () => {
  test("the same seed makes the same files, another one others", () => {
    const describeAll = (seed: string): unknown =>
      createWorkload({ seed, files: 20 }).map(({ path: name, size, digest }) => [name, size, digest.value]);
    expect(describeAll("one")).toEqual(describeAll("one"));
    expect(describeAll("two")).not.toEqual(describeAll("one"));
  });

  test("a workload's digests are those of its bytes, on disk too", async () => {
    const files = createWorkload({ seed: 7, files: 30, names: "odd", sizes: { minimum: 0, maximum: 5_000 } });
    const root = join(directory, "tree");
    await writeWorkload(root, files);
    expect((await readdir(root, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile())).toHaveLength(30);
    for (const file of files) {
      const bytes = await readFile(join(root, file.path));
      expect(bytes.length).toBe(file.size);
      expect(createHash("sha256").update(bytes).digest("hex")).toBe(file.digest.value);
    }
  });

  test("odd paths are valid and invalid ones are not, whatever the seed", () => {
    const random = createRandom("paths");
    for (let count = 0; count < 2_000; count++) {
      expect(() => parseFilePath(oddPath(random))).not.toThrow();
      const bad = invalidPath(random);
      expect(() => parseFilePath(bad), JSON.stringify(bad)).toThrow();
    }
  });

  test("random numbers keep to their bounds and are spread over them", () => {
    const random = createRandom(1);
    const seen = new Set<number>();
    for (let count = 0; count < 1_000; count++) {
      const value = random.integer(-2, 3);
      expect(value >= -2 && value <= 3).toBe(true);
      seen.add(value);
    }
    expect(seen.size).toBe(6);
    expect(new Set(random.shuffle([1, 2, 3, 4, 5, 6]))).toEqual(new Set([1, 2, 3, 4, 5, 6]));
    expect(random.bytes(33)).toHaveLength(33);
    expect(() => random.pick([])).toThrow(RangeError);
  });
});

describe("a context for calling a broker directly", () => {
  test("keeps account of what the broker does with it", async () => {
    const context = createTestContext({ memoryBytes: 10 });
    context.progress(3);
    context.progress(4);
    await context.throttle(5);
    await context.journal.record("a");
    await context.journal.settle("a");
    context.log("info", "hello", { to: "you" });
    expect(context.record).toMatchObject({ progressed: 7, progressCalls: 2, throttled: 5, recorded: ["a"], settled: ["a"] });
    expect(context.record.logged).toEqual(['info hello {"to":"you"}']);
  });

  test("grants no more memory at once than it has, in order, and more than the whole budget as all of it", async () => {
    const context = createTestContext({ memoryBytes: 10 });
    const order: string[] = [];
    const first = await context.reserve(8);
    const second = context.reserve(5).then((room) => {
      order.push("second");
      return room;
    });
    const third = context.reserve(100).then((room) => {
      order.push("third");
      return room;
    });
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(order).toEqual([]);
    first[Symbol.dispose]();
    first[Symbol.dispose]();
    (await second)[Symbol.dispose]();
    (await third)[Symbol.dispose]();
    expect(order).toEqual(["second", "third"]);
    expect(context.record).toMatchObject({ reserved: 0, mostReserved: 10 });
  });
});
