import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, test } from "vitest";
import type { Broker, TransferDetails } from "../src/lib/broker.ts";
import { createMemoryBroker } from "../src/lib/memory-broker.ts";
import type { Outcome } from "../src/lib/outcome.ts";
import { TransferError } from "../src/lib/outcome.ts";
import { sleep } from "../src/lib/retry.ts";
import { StowageError } from "../src/lib/stowage-error.ts";
import { Workspace } from "../src/lib/workspace.ts";
import { batchBroker, forever, singleBroker } from "./support/brokers.ts";
import { drain, statusOf, streamOf } from "./support/outcomes.ts";
import { useTemporaryDirectory } from "./support/temporary-directory.ts";

const directory = useTemporaryDirectory();

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

interface Item {
  readonly file: string;
  readonly localPath: string;
}

const upload = (name: string): Item => ({ file: name, localPath: `/nowhere/${name}` });

function workspaceOf(broker: Broker): Workspace {
  return new Workspace({ name: "data", broker, brokerType: "test" });
}

function detailsOf(file: TransferDetails["file"]): TransferDetails {
  return { file, method: "copy", bytes: 1, verified: "length" };
}

const instant = (): Broker => singleBroker({ uploadFile: async ({ file }) => detailsOf(file) });

const instantBatch = (): Broker =>
  batchBroker({
    uploadFile: async ({ file }) => detailsOf(file),
    async *uploadFiles(uploads) {
      for (const [index, { file }] of uploads.entries()) yield { index, ok: true, value: detailsOf(file) };
    },
  });

/** Counts what is taken from it, and whether it was ended. */
function countedInput(count: number, before?: (index: number) => Promise<void> | void) {
  const state = { pulled: 0, ended: false };
  async function* generate(): AsyncGenerator<Item> {
    try {
      for (let index = 0; index < count; index++) {
        await before?.(index);
        state.pulled++;
        yield upload(`f${index}`);
      }
    } finally {
      state.ended = true;
    }
  }
  return { state, input: generate() };
}

describe("a batch of a stream", () => {
  test("gives outcomes as they come, each with the caller's own object", async () => {
    const broker = singleBroker({
      async uploadFile({ file }) {
        await sleep(file.path === "slow" ? 60 : 1);
        return detailsOf(file);
      },
    });
    const items = ["slow", "b", "c"].map(upload);
    const { values, error } = await drain(workspaceOf(broker).uploadFiles(streamOf(items)));
    expect(error).toBeUndefined();
    expect(values.map(({ item }) => item.file)).toEqual(["b", "c", "slow"]);
    expect(values[2]!.item).toBe(items[0]);
  });

  test("does nothing until somebody asks, and ends once", async () => {
    const { state, input } = countedInput(3);
    const stream = workspaceOf(instant()).uploadFiles(input);
    await sleep(10);
    expect(state.pulled).toBe(0);
    const iterator = stream[Symbol.asyncIterator]();
    for (let index = 0; index < 3; index++) expect((await iterator.next()).done).toBe(false);
    expect(await iterator.next()).toEqual({ done: true, value: undefined });
    expect(await iterator.next()).toEqual({ done: true, value: undefined });
  });

  test("of nothing ends at once", async () => {
    expect(await drain(workspaceOf(instant()).uploadFiles(streamOf([])))).toEqual({ values: [], error: undefined });
  });

  test("ends by throwing when anything failed, after every outcome was given", async () => {
    const broker = singleBroker({
      async uploadFile({ file }) {
        if (file.path === "b") throw new StowageError("full", { code: "NO_SPACE" });
        return detailsOf(file);
      },
    });
    const { values, error } = await drain(workspaceOf(broker).uploadFiles(streamOf(["a", "b", "../c", "d"].map(upload))));
    expect(values.map(statusOf).sort()).toEqual(["done", "done", "failed INVALID_PATH", "failed NO_SPACE"]);
    expect(TransferError.is(error) && error.counts).toEqual({ done: 2, skipped: 0, planned: 0, failed: 2, cancelled: 0 });
    expect(TransferError.is(error) && error.outcomes.map(({ status }) => status)).toEqual(["failed", "failed"]);
  });

  test("the error at the end holds the first hundred that failed, and the number of all", async () => {
    const broker = singleBroker({ uploadFile: async () => Promise.reject(new StowageError("no", { code: "NO_SPACE" })) });
    const items = Array.from({ length: 250 }, (_, index) => upload(`f${index}`));
    const { values, error } = await drain(workspaceOf(broker).uploadFiles(streamOf(items)));
    expect(values).toHaveLength(250);
    expect(TransferError.is(error) && [error.outcomes.length, error.counts.failed]).toEqual([100, 250]);
  });

  test.each([
    ["single", instant, 8],
    ["batch", instantBatch, 1024],
  ] as const)("pulls no more than fits (%s) while the consumer does not take", async (_kind, broker, capacity) => {
    const { state, input } = countedInput(5000);
    const iterator = workspaceOf(broker()).uploadFiles(input)[Symbol.asyncIterator]();
    await iterator.next();
    await sleep(50);
    expect(state.pulled).toBeLessThanOrEqual(capacity + 1);
    let taken = 1;
    while ((await iterator.next()).done !== true) taken++;
    expect(taken).toBe(5000);
  });

  test("starts items while the input is still slow to come", async () => {
    const started: string[] = [];
    const broker = batchBroker({
      uploadFile: async ({ file }) => {
        started.push(file.path);
        return detailsOf(file);
      },
      async *uploadFiles(uploads) {
        for (const [index, { file }] of uploads.entries()) {
          started.push(file.path);
          yield { index, ok: true, value: detailsOf(file) };
        }
      },
    });
    let secondPulledAfter = 0;
    const { input } = countedInput(2, async (index) => {
      if (index === 0) return;
      await sleep(60);
      secondPulledAfter = started.length;
    });
    await drain(workspaceOf(broker).uploadFiles(input));
    expect(secondPulledAfter).toBe(1);
  });

  test("forms chunks of what is ready", async () => {
    const sizes: number[] = [];
    const broker = batchBroker({
      async *uploadFiles(uploads) {
        sizes.push(uploads.length);
        for (const [index, { file }] of uploads.entries()) yield { index, ok: true, value: detailsOf(file) };
      },
    });
    const { input } = countedInput(1000);
    expect((await drain(workspaceOf(broker).uploadFiles(input))).values).toHaveLength(1000);
    expect(sizes.length).toBeLessThan(12);
    expect(Math.max(...sizes)).toBe(256);
  });
});

describe("items of a stream on the same files", () => {
  test("go one after the other, as they came", async () => {
    const first = await directory.write("first", "1");
    const second = await directory.write("second", "22");
    const workspace = workspaceOf(createMemoryBroker());
    const uploads = [
      { file: "a", localPath: first },
      { file: "b", localPath: first },
      { file: "a", localPath: second },
    ];
    const { values, error } = await drain(workspace.uploadFiles(streamOf(uploads)));
    expect(error).toBeUndefined();
    expect(values.map(statusOf)).toEqual(["done", "done", "done"]);
    expect((await workspace.statFile("a"))?.size).toBe(2);
    const moves = [
      { file: "a", newPath: "c" },
      { file: "c", newPath: "d" },
      { file: "b", newPath: "a" },
    ];
    expect((await drain(workspace.moveFiles(streamOf(moves)))).values.map(statusOf)).toEqual(["done", "done", "done"]);
    expect([await workspace.statFile("d"), await workspace.statFile("a"), await workspace.statFile("c")].map((file) => file?.size)).toEqual(
      [2, 1, undefined],
    );
  });

  test("never overlap, in chunks or alone", async () => {
    for (const batched of [false, true]) {
      const active = new Set<string>();
      const overlaps: string[] = [];
      const act = async (path: string): Promise<void> => {
        if (active.has(path)) overlaps.push(path);
        active.add(path);
        await sleep(1);
        active.delete(path);
      };
      const broker = batchBroker({
        async uploadFile({ file }) {
          await act(file.path);
          return detailsOf(file);
        },
        async *uploadFiles(uploads) {
          if (new Set(uploads.map(({ file }) => file.path)).size !== uploads.length) overlaps.push("in a chunk");
          for (const [index, { file }] of uploads.entries()) {
            await act(file.path);
            yield { index, ok: true, value: detailsOf(file) };
          }
        },
      });
      if (!batched) delete (broker as { uploadFiles?: unknown }).uploadFiles;
      const items = Array.from({ length: 120 }, (_, index) => upload(`f${(index * 7) % 10}`));
      const { values, error } = await drain(workspaceOf(broker).uploadFiles(streamOf(items)));
      expect(error).toBeUndefined();
      expect(values).toHaveLength(120);
      expect(overlaps).toEqual([]);
    }
  });
});

describe("a stream whose items come slowly or end slowly", () => {
  test("an item that had to wait for a chunk starts when that has ended, not when the next item comes", async () => {
    const started = new Map<string, number>();
    const broker = batchBroker({
      async uploadFile({ file }) {
        started.set(file.path, performance.now());
        await sleep(40);
        return detailsOf(file);
      },
    });
    const { input } = countedInput(3, (index) => sleep(index === 1 ? 10 : index === 2 ? 400 : 0));
    await drain(workspaceOf(broker).uploadFiles(input, { concurrency: 1 }));
    expect(started.get("f1")! - started.get("f0")!).toBeLessThan(300);
  });

  test("an item that takes long is remembered, however many come and go meanwhile", async () => {
    const active = new Set<string>();
    let overlapped = false;
    const broker = singleBroker({
      async uploadFile({ file }) {
        if (active.has(file.path)) overlapped = true;
        active.add(file.path);
        if (file.path === "slow") await sleep(300);
        active.delete(file.path);
        return detailsOf(file);
      },
    });
    async function* items(): AsyncGenerator<Item> {
      yield upload("slow");
      for (let index = 0; index < 6000; index++) yield upload(`f${index}`);
      yield upload("slow");
    }
    const { values, error } = await drain(workspaceOf(broker).uploadFiles(items()));
    expect([values.length, error]).toEqual([6002, undefined]);
    expect(overlapped).toBe(false);
  });
});

describe("ending a stream early", () => {
  test("a consumer that stops cancels what runs, waits for it, and ends the input", async () => {
    let running = 0;
    let aborted = 0;
    const broker = singleBroker({
      async uploadFile({ file }, { signal }) {
        if (file.path === "f0") {
          await sleep(10);
          return detailsOf(file);
        }
        running++;
        try {
          await new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }));
          throw new Error("unreachable");
        } finally {
          await sleep(30);
          running--;
          aborted++;
        }
      },
    });
    const { state, input } = countedInput(1000);
    for await (const outcome of workspaceOf(broker).uploadFiles(input)) {
      expect(outcome.status).toBe("done");
      break;
    }
    expect(running).toBe(0);
    expect(aborted).toBeGreaterThan(0);
    expect(state.ended).toBe(true);
    expect(state.pulled).toBeLessThan(20);
  });

  test("a consumer that stops is not kept longer than a second by a broker that hangs", async () => {
    const broker = singleBroker({ uploadFile: ({ file }) => (file.path === "f0" ? Promise.resolve(detailsOf(file)) : forever()) });
    const { input } = countedInput(10);
    const before = performance.now();
    for await (const _ of workspaceOf(broker).uploadFiles(input)) break;
    expect(performance.now() - before).toBeLessThan(1000);
  });

  test("return before the first next touches nothing", async () => {
    const { state, input } = countedInput(3);
    const iterator = workspaceOf(instant()).uploadFiles(input)[Symbol.asyncIterator]();
    await iterator.return?.();
    expect(await iterator.next()).toEqual({ done: true, value: undefined });
    expect(state.pulled).toBe(0);
  });

  test("return while a next is waiting ends both", async () => {
    const broker = singleBroker({ uploadFile: () => forever() });
    const iterator = workspaceOf(broker).uploadFiles(countedInput(1).input)[Symbol.asyncIterator]();
    const waiting = iterator.next();
    await sleep(5);
    await iterator.return?.();
    expect(await waiting).toEqual({ done: true, value: undefined });
  });

  test("an input that throws lets what runs end, gives its outcomes, then throws the input's own error", async () => {
    const broker = singleBroker({
      async uploadFile({ file }) {
        await sleep(20);
        return detailsOf(file);
      },
    });
    const failure = new Error("the listing broke");
    const { state, input } = countedInput(10, (index) => {
      if (index === 3) throw failure;
    });
    const { values, error } = await drain(workspaceOf(broker).uploadFiles(input));
    expect(values.map(statusOf)).toEqual(["done", "done", "done"]);
    expect(error).toBe(failure);
    expect(state.ended).toBe(true);
  });

  test("an input that cannot even begin ends the stream with its error", async () => {
    const failure = new Error("no iterator");
    const input = {
      [Symbol.asyncIterator](): AsyncIterator<Item> {
        throw failure;
      },
    };
    expect((await drain(workspaceOf(instant()).uploadFiles(input))).error).toBe(failure);
  });

  test("an abort gives what runs as cancelled within a second, even if the input hangs, then throws", async () => {
    const broker = singleBroker({ uploadFile: () => forever() });
    const controller = new AbortController();
    async function* hanging(): AsyncGenerator<Item> {
      yield upload("a");
      yield upload("b");
      await forever();
    }
    setTimeout(() => controller.abort(), 30);
    const before = performance.now();
    const { values, error } = await drain(workspaceOf(broker).uploadFiles(hanging(), { signal: controller.signal }));
    expect(performance.now() - before).toBeLessThan(1030);
    expect(values.map(statusOf)).toEqual(["cancelled", "cancelled"]);
    expect(TransferError.is(error) && error.code).toBe("CANCELLED");
  });

  test("an abort between items is not taken for the end", async () => {
    const controller = new AbortController();
    const { values, error } = await drain(
      workspaceOf(instant()).uploadFiles(
        (async function* () {
          yield upload("a");
          await sleep(20);
          controller.abort();
          await forever();
        })(),
        { signal: controller.signal },
      ),
    );
    expect(values.map(statusOf)).toEqual(["done"]);
    expect(TransferError.is(error) && [error.code, error.counts.cancelled]).toEqual(["CANCELLED", 0]);
  });

  test("an abort before the start leaves input and broker alone", async () => {
    const { state, input } = countedInput(3);
    const { values, error } = await drain(workspaceOf(instant()).uploadFiles(input, { signal: AbortSignal.abort() }));
    expect(values).toEqual([]);
    expect(TransferError.is(error) && error.code).toBe("CANCELLED");
    expect(state.pulled).toBe(0);
  });

  test("failFast takes no more input after a failure", async () => {
    const broker = singleBroker({
      async uploadFile({ file }) {
        if (file.path === "f2") throw new StowageError("no", { code: "NO_SPACE" });
        await sleep(2);
        return detailsOf(file);
      },
    });
    const { state, input } = countedInput(1000);
    const { values, error } = await drain(workspaceOf(broker).uploadFiles(input, { failFast: true, concurrency: 2 }));
    expect(values.filter(({ status }) => status === "failed")).toHaveLength(1);
    expect(TransferError.is(error) && error.code).toBe("NO_SPACE");
    expect(state.pulled).toBeLessThan(8);
    expect(state.ended).toBe(true);
  });

  test("failFast does not wait for an input that gives nothing more", async () => {
    const broker = singleBroker({ uploadFile: async () => Promise.reject(new StowageError("no", { code: "NO_SPACE" })) });
    async function* items(): AsyncGenerator<Item> {
      yield upload("a");
      await forever();
    }
    const { values, error } = await drain(workspaceOf(broker).uploadFiles(items(), { failFast: true }));
    expect(values.map(statusOf)).toEqual(["failed NO_SPACE"]);
    expect(error).toMatchObject({ code: "NO_SPACE" });
  });

  test("a refused stream takes no input", async () => {
    const { state, input } = countedInput(3);
    const workspace = new Workspace({ name: "data", broker: instant(), readOnly: true });
    const { error } = await drain(workspace.uploadFiles(input));
    expect(StowageError.is(error) && error.code).toBe("READ_ONLY");
    expect(state.pulled).toBe(0);
  });
});

describe("100,000 items by stream", () => {
  test.each([
    ["single", instant],
    ["batch", instantBatch],
  ] as const)("are quick and keep nothing (%s)", { timeout: 120_000 }, async (_kind, broker) => {
    const count = 100_000;
    const workspace = workspaceOf(broker());
    const measure = async (): Promise<{ heap: number; microseconds: number }> => {
      const cpu = process.cpuUsage();
      let taken = 0;
      let outcome: Outcome<Item> | undefined;
      for await (outcome of workspace.uploadFiles(countedInput(count).input)) taken++;
      const { user, system } = process.cpuUsage(cpu);
      expect(taken).toBe(count);
      expect(outcome?.status).toBe("done");
      // Two rounds: what died young may lie with the old.
      for (let round = 0; round < 2; round++) collectGarbage();
      return { heap: process.memoryUsage().heapUsed, microseconds: (user + system) / count };
    };
    const first = await measure();
    const second = await measure();
    // The figure is about 10 on a quiet machine; this bound is for a busy one.
    expect(Math.min(first.microseconds, second.microseconds)).toBeLessThan(60);
    expect(second.heap - first.heap).toBeLessThan(5 * 1024 * 1024);
  });
});
