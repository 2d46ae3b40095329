import { getEventListeners } from "node:events";
import { readFile, stat } from "node:fs/promises";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { BatchResult, Broker, TransferDetails } from "../src/lib/broker.ts";
import type { StowageErrorCode } from "../src/lib/error-codes.ts";
import { createLimits } from "../src/lib/limits.ts";
import { createMemoryBroker } from "../src/lib/memory-broker.ts";
import type { Outcome } from "../src/lib/outcome.ts";
import { sleep } from "../src/lib/retry.ts";
import { StowageError } from "../src/lib/stowage-error.ts";
import type { Progress } from "../src/lib/transfer-options.ts";
import { Workspace } from "../src/lib/workspace.ts";
import { batchBroker, DriverError, forever, singleBroker, untilAborted } from "./support/brokers.ts";
import { statusOf, transferErrorOf } from "./support/outcomes.ts";
import { useTemporaryDirectory } from "./support/temporary-directory.ts";

const directory = useTemporaryDirectory();
const quick = { baseDelayMs: 1, maxDelayMs: 2 };

function workspaceOf(broker: Broker): Workspace {
  return new Workspace({ name: "data", broker, brokerType: "test" });
}

function detailsOf(file: TransferDetails["file"]): TransferDetails {
  return { file, method: "copy", bytes: 1, verified: "length" };
}

const upload = (name: string): { file: string; localPath: string } => ({ file: name, localPath: `/nowhere/${name}` });

/** A broker that stores nothing and says that it did, or whatever `one` does. */
function scripted(one: (path: string, attempt: number, signal: AbortSignal) => Promise<void> | void): {
  broker: Broker;
  attempts: Map<string, number>;
} {
  const attempts = new Map<string, number>();
  const broker = singleBroker({
    async uploadFile({ file }, { signal }) {
      const attempt = (attempts.get(file.path) ?? 0) + 1;
      attempts.set(file.path, attempt);
      await one(file.path, attempt, signal);
      return detailsOf(file);
    },
    errorCode: (error) => (error instanceof DriverError ? (error.code as StowageErrorCode) : "UNKNOWN"),
  });
  return { broker, attempts };
}

describe("a batch of an array", () => {
  test("gives outcomes in input order with the caller's own objects", async () => {
    const items = Array.from({ length: 20 }, (_, index) => ({ ...upload(`f${index}`), note: { index } }));
    const { broker } = scripted((path) => sleep(path.endsWith("0") ? 15 : 1));
    const outcomes = await workspaceOf(broker).uploadFiles(items);
    expect(outcomes).toHaveLength(20);
    for (const [index, outcome] of outcomes.entries()) {
      expect(outcome.item).toBe(items[index]);
      expect(outcome).toMatchObject({ status: "done", method: "copy", bytes: 1, verified: "length", attempts: 1 });
    }
  });

  test("of nothing is nothing", async () => {
    expect(await workspaceOf(createMemoryBroker()).uploadFiles([])).toEqual([]);
  });

  test("never lets more files move than `concurrency`", async () => {
    let moving = 0;
    let most = 0;
    const { broker } = scripted(async () => {
      most = Math.max(most, ++moving);
      await sleep(2);
      moving--;
    });
    const items = Array.from({ length: 30 }, (_, index) => upload(`f${index}`));
    await workspaceOf(broker).uploadFiles(items, { concurrency: 3 });
    expect(most).toBe(3);
    most = 0;
    await workspaceOf(broker).uploadFiles(items);
    expect(most).toBe(8);
  });

  test("obeys limits that it shares with another batch", async () => {
    const limits = createLimits({ files: 2 });
    let moving = 0;
    let most = 0;
    const { broker } = scripted(async () => {
      most = Math.max(most, ++moving);
      await sleep(2);
      moving--;
    });
    const workspace = workspaceOf(broker);
    const items = (prefix: string) => Array.from({ length: 10 }, (_, index) => upload(`${prefix}${index}`));
    await Promise.all([workspace.uploadFiles(items("a"), { limits }), workspace.uploadFiles(items("b"), { limits })]);
    expect(most).toBe(2);
  });

  test("a chunk counts as one file for the limits", async () => {
    const limits = createLimits({ files: 1 });
    let running = 0;
    let most = 0;
    const broker = batchBroker({
      async *uploadFiles(uploads) {
        most = Math.max(most, ++running);
        await sleep(5);
        running--;
        for (const [index, { file }] of uploads.entries()) yield { index, ok: true, value: detailsOf(file) };
      },
    });
    await workspaceOf(broker).uploadFiles(
      Array.from({ length: 20 }, (_, index) => upload(`f${index}`)),
      { limits },
    );
    expect(most).toBe(1);
  });

  test("one that fails stops no other, and the error holds every outcome", async () => {
    const { broker } = scripted((path) => {
      if (path === "f1") throw new DriverError("PERMISSION_DENIED", "no entry");
    });
    const items = ["f0", "f1", "f2", "f3"].map(upload);
    const error = await transferErrorOf(workspaceOf(broker).uploadFiles(items, { concurrency: 1 }));
    expect(error.outcomes.map(statusOf)).toEqual(["done", "failed PERMISSION_DENIED", "done", "done"]);
    expect(error).toMatchObject({ code: "PERMISSION_DENIED", workspace: "data", counts: { done: 3, failed: 1, cancelled: 0 } });
    expect(error.outcomes[1]).toMatchObject({ attempts: 1, leftovers: [], error: { file: "f1", workspace: "data" } });
    expect(error.message).toContain("1 of 4");
    expect(error.message).toContain("no entry");
  });

  test("a bad path fails its item alone, without a call of the broker", async () => {
    const { broker, attempts } = scripted(() => undefined);
    const items = ["good", "../bad", "a//b", "tab\there", "also/good", ""].map(upload);
    const error = await transferErrorOf(workspaceOf(broker).uploadFiles(items));
    expect(error.outcomes.map(statusOf)).toEqual([
      "done",
      "failed INVALID_PATH",
      "failed INVALID_PATH",
      "failed INVALID_PATH",
      "done",
      "failed INVALID_PATH",
    ]);
    expect([...attempts.keys()]).toEqual(["good", "also/good"]);
    expect(error.outcomes[1]).toMatchObject({ attempts: 0 });
  });

  test("items that are no items fail alone too", async () => {
    const { broker } = scripted(() => undefined);
    const odd = [null, 3, {}, { file: "x" }, { file: { path: "x", size: -1 }, localPath: "/x" }, { file: "ok", localPath: "/x" }];
    const error = await transferErrorOf(workspaceOf(broker).uploadFiles(odd as never));
    expect(error.outcomes.map(({ status }) => status)).toEqual(["failed", "failed", "failed", "failed", "failed", "done"]);
    for (const outcome of error.outcomes.slice(0, 5)) {
      expect(statusOf(outcome)).toMatch(/^failed INVALID_(ARGUMENT|PATH)$/u);
    }
  });

  test("something that is no batch is refused with a clear error", async () => {
    await expect(workspaceOf(createMemoryBroker()).uploadFiles("f" as never)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    const run = workspaceOf(createMemoryBroker()).uploadFiles([upload("f")], { concurrency: 0 });
    await expect(run).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
  });

  test("with failFast nothing new starts after a failure; what runs may end", async () => {
    const { broker, attempts } = scripted(async (path) => {
      if (path === "f1") throw new DriverError("PERMISSION_DENIED");
      await sleep(20);
    });
    const items = Array.from({ length: 10 }, (_, index) => upload(`f${index}`));
    const error = await transferErrorOf(workspaceOf(broker).uploadFiles(items, { concurrency: 2, failFast: true }));
    expect(error.outcomes.map(statusOf)).toEqual(["done", "failed PERMISSION_DENIED", ...Array.from({ length: 8 }, () => "cancelled")]);
    expect([...attempts.keys()]).toEqual(["f0", "f1"]);
  });

  test("every item has exactly one outcome, whatever brokers do with it", async () => {
    const fate = fc.constantFrom("done", "fail", "retry once", "exists", "invalid", "silent", "twice", "throw all");
    await fc.assert(
      fc.asyncProperty(
        fc.array(fate, { maxLength: 40 }),
        fc.integer({ min: 1, max: 5 }),
        fc.boolean(),
        fc.boolean(),
        async (fates, concurrency, batched, failFast) => {
          const seen = new Set<number>();
          const fateOf = (path: string): string => fates[Number(path.slice(1))]!;
          const act = (path: string): void => {
            const index = Number(path.slice(1));
            switch (fateOf(path)) {
              case "fail":
                throw new DriverError("CONFLICT");
              case "exists":
                throw new DriverError("FILE_EXISTS");
              case "retry once":
                if (seen.has(index)) return;
                seen.add(index);
                throw new DriverError("UNAVAILABLE");
            }
          };
          const { broker } = scripted(act);
          const many: Broker = {
            ...broker,
            async *uploadFiles(uploads): AsyncGenerator<BatchResult<TransferDetails>> {
              for (const [index, { file }] of uploads.entries()) {
                const fateHere = fateOf(file.path);
                if (fateHere === "silent") continue;
                if (fateHere === "throw all") throw new DriverError("NO_SPACE");
                try {
                  act(file.path);
                  yield { index, ok: true, value: detailsOf(file) };
                  if (fateHere === "twice") yield { index, ok: false, error: new Error("again") };
                } catch (error) {
                  yield { index, ok: false, error };
                }
              }
            },
          };
          const items = fates.map((kind, index) => upload(kind === "invalid" ? `../${index}` : `f${index}`));
          const told: unknown[] = [];
          const run = workspaceOf(batched ? many : broker).uploadFiles(items, {
            concurrency,
            failFast,
            retry: quick,
            ifExists: "skip",
            onProgress: ({ done }) => told.push(done),
          });
          const outcomes = await run.catch((error: { outcomes: Outcome<unknown>[] }) => error.outcomes);
          expect(outcomes.map(({ item }) => item)).toEqual(items);
          expect(told.at(-1) ?? 0).toBe(items.length);
          for (const [index, outcome] of outcomes.entries()) {
            if (outcome.status === "cancelled") expect(failFast).toBe(true);
            else if (!batched && fates[index] === "done") expect(outcome.status).toBe("done");
            else if (fates[index] === "exists" && !batched) expect(statusOf(outcome)).toBe("skipped exists");
            else if (fates[index] === "invalid") expect(statusOf(outcome)).toBe("failed INVALID_PATH");
          }
        },
      ),
      { numRuns: 150 },
    );
  });
});

describe("retrying", () => {
  test("repeats what is retryable and counts the attempts", async () => {
    const { broker } = scripted((_path, attempt) => {
      if (attempt < 3) throw new DriverError("UNAVAILABLE");
    });
    const [outcome] = await workspaceOf(broker).uploadFiles([upload("f")], { retry: quick });
    expect(outcome).toMatchObject({ status: "done", attempts: 3 });
  });

  test("raises the last failure when attempts are used up", async () => {
    const { broker, attempts } = scripted((_path, attempt) => {
      throw new DriverError("UNAVAILABLE", `failure ${attempt}`);
    });
    const error = await transferErrorOf(workspaceOf(broker).uploadFiles([upload("f")], { retry: { ...quick, attempts: 3 } }));
    expect(error.outcomes[0]).toMatchObject({
      status: "failed",
      attempts: 3,
      error: { code: "UNAVAILABLE", cause: { message: "failure 3" } },
    });
    expect(attempts.get("f")).toBe(3);
  });

  test("never repeats what is not", async () => {
    const { broker, attempts } = scripted(() => {
      throw new DriverError("NO_SPACE");
    });
    await transferErrorOf(workspaceOf(broker).uploadFiles([upload("f")], { retry: quick }));
    expect(attempts.get("f")).toBe(1);
  });

  test("waits as long as the backend asks for", async () => {
    const broker = singleBroker({
      uploadFile: failingOnce(new Error("slow down"), async ({ file }) => detailsOf(file)),
      errorCode: () => ({ code: "RATE_LIMITED", retryAfterMs: 80 }),
    });
    const before = performance.now();
    await workspaceOf(broker).uploadFiles([upload("f")], { retry: quick });
    expect(performance.now() - before).toBeGreaterThanOrEqual(79);
  });

  test("waits as long as the backend asks for in chunks too", async () => {
    let calls = 0;
    const broker = batchBroker({
      async *uploadFiles(uploads) {
        calls++;
        for (const [index, { file }] of uploads.entries()) {
          if (calls === 1 && index === 1) yield { index, ok: false, error: new Error("slow down") };
          else yield { index, ok: true, value: detailsOf(file) };
        }
      },
      errorCode: () => ({ code: "RATE_LIMITED", retryAfterMs: 80 }),
    });
    broker.uploadFile = async ({ file }) => detailsOf(file);
    const before = performance.now();
    const outcomes = await workspaceOf(broker).uploadFiles(["a", "b"].map(upload), { retry: quick, concurrency: 1 });
    expect(outcomes.map((outcome) => outcome.status === "done" && outcome.attempts)).toEqual([1, 2]);
    expect(performance.now() - before).toBeGreaterThanOrEqual(79);
  });

  test("each attempt has a new temporary id, the item's own id stays, and progress starts anew", async () => {
    const ids: string[] = [];
    const itemIds: (string | undefined)[] = [];
    const reports: Progress[] = [];
    const broker = singleBroker({
      async uploadFile({ file }, { temporaryId, itemId, progress }) {
        ids.push(temporaryId);
        itemIds.push(itemId);
        progress(60);
        await sleep(110);
        progress(20);
        if (ids.length === 1) throw new DriverError("UNAVAILABLE");
        progress(20);
        return { ...detailsOf(file), bytes: 100 };
      },
      errorCode: () => "UNAVAILABLE",
    });
    await workspaceOf(broker).uploadFiles([upload("f")], { retry: quick, onProgress: (progress) => reports.push(progress) });
    expect(new Set(ids).size).toBe(2);
    expect(itemIds).toEqual([ids[0], ids[0]]);
    const bytes = reports.map((progress) => progress.bytes);
    expect(bytes).toEqual(bytes.toSorted((one, other) => one - other));
    expect(bytes[0]).toBe(60);
    // The bytes of the first attempt do not count again.
    expect(bytes.at(-2)).toBe(80);
    expect(reports.at(-1)).toMatchObject({ itemBytes: 100, bytes: 100, done: 1, total: 1 });
  });
});

test("a part that is sent again inside one attempt does not count twice", async () => {
  const reports: Progress[] = [];
  const broker = singleBroker({
    async uploadFile({ file }, { progress }) {
      for (const bytes of [50, -50, 50, 50]) {
        progress(bytes);
        await sleep(110);
      }
      return { ...detailsOf(file), bytes: 100 };
    },
  });
  await workspaceOf(broker).uploadFiles([upload("f")], { onProgress: (progress) => reports.push(progress) });
  expect(Math.max(...reports.map(({ bytes }) => bytes))).toBe(100);
  expect(reports.at(-1)).toMatchObject({ itemBytes: 100, bytes: 100 });
});

/** Fails the first time. */
function failingOnce(error: unknown, then: Broker["uploadFile"]): Broker["uploadFile"] {
  let first = true;
  return async (item, context) => {
    if (first) {
      first = false;
      throw error;
    }
    return then(item, context);
  };
}

describe("a broker with batch methods", () => {
  test("gets at most 256 items at once, several chunks at the same time", async () => {
    const sizes: number[] = [];
    let running = 0;
    let most = 0;
    const broker = batchBroker({
      async *uploadFiles(uploads) {
        sizes.push(uploads.length);
        most = Math.max(most, ++running);
        await sleep(5);
        running--;
        for (const [index, { file }] of uploads.entries()) yield { index, ok: true, value: detailsOf(file) };
      },
    });
    const items = Array.from({ length: 3000 }, (_, index) => upload(`f${index}`));
    const outcomes = await workspaceOf(broker).uploadFiles(items);
    expect(outcomes.every(({ status }) => status === "done")).toBe(true);
    expect(Math.max(...sizes)).toBe(256);
    expect(sizes.reduce((sum, size) => sum + size)).toBe(3000);
    expect(most).toBe(4);
  });

  test("few items are spread over several chunks", async () => {
    const sizes: number[] = [];
    const broker = batchBroker({
      async *deleteFiles(files) {
        sizes.push(files.length);
        for (const index of files.keys()) yield { index, ok: true, value: "deleted" };
      },
    });
    await workspaceOf(broker).deleteFiles(Array.from({ length: 40 }, (_, index) => `f${index}`));
    expect(sizes).toEqual([10, 10, 10, 10]);
  });

  test("only the items that failed and may be repeated are, with a new temporary id", async () => {
    const calls: { paths: string[]; id: string }[] = [];
    const broker = batchBroker({
      async *uploadFiles(uploads, { temporaryId }) {
        calls.push({ paths: uploads.map(({ file }) => file.path), id: temporaryId });
        const first = calls.length === 1;
        for (const [index, { file }] of uploads.entries()) {
          if (first && file.path === "b") yield { index, ok: false, error: new DriverError("UNAVAILABLE") };
          else if (first && file.path === "d") yield { index, ok: false, error: new DriverError("UNAVAILABLE") };
          else if (file.path === "c") yield { index, ok: false, error: new DriverError("NO_SPACE") };
          else yield { index, ok: true, value: detailsOf(file) };
        }
      },
      errorCode: (error) => (error as DriverError).code as StowageErrorCode,
    });
    const items = ["a", "b", "c", "d"].map(upload);
    const error = await transferErrorOf(workspaceOf(broker).uploadFiles(items, { retry: quick, concurrency: 1 }));
    expect(error.outcomes.map(statusOf)).toEqual(["done", "done", "failed NO_SPACE", "done"]);
    expect(error.outcomes.map((outcome) => "attempts" in outcome && outcome.attempts)).toEqual([1, 2, 1, 2]);
    expect(calls.map(({ paths }) => paths)).toEqual([
      ["a", "b", "c", "d"],
      ["b", "d"],
    ]);
    expect(calls[0]!.id).not.toBe(calls[1]!.id);
  });

  test("results may come in any order", async () => {
    const broker = batchBroker({
      async *uploadFiles(uploads) {
        for (const [index, { file }] of [...uploads.entries()].reverse()) yield { index, ok: true, value: detailsOf(file) };
      },
    });
    const outcomes = await workspaceOf(broker).uploadFiles(["a", "b", "c"].map(upload), { concurrency: 1 });
    expect(outcomes.map((outcome) => outcome.status === "done" && outcome.file.path)).toEqual(["a", "b", "c"]);
  });

  test("a generator that throws fails the rest of its chunk, and no other", async () => {
    const broker = batchBroker({
      async *uploadFiles(uploads) {
        for (const [index, { file }] of uploads.entries()) {
          if (file.path === "b") throw new DriverError("NO_SPACE", "disk full");
          yield { index, ok: true, value: detailsOf(file) };
        }
      },
      errorCode: (error) => (error as DriverError).code as StowageErrorCode,
    });
    const error = await transferErrorOf(workspaceOf(broker).uploadFiles(["a", "b", "c", "d", "e", "f"].map(upload), { concurrency: 2 }));
    expect(error.outcomes.map(statusOf)).toEqual(["done", "failed NO_SPACE", "failed NO_SPACE", "done", "done", "done"]);
  });

  test("what a generator that throws could not clean up is named with its items", async () => {
    const broker = batchBroker({
      async *uploadFiles(uploads) {
        yield { index: 0, ok: true, value: detailsOf(uploads[0]!.file) };
        throw Object.assign(new DriverError("NO_SPACE"), { leftovers: [".stowage-x-3", ".stowage-x-1", "session"] });
      },
      errorCode: () => "NO_SPACE",
    });
    const error = await transferErrorOf(workspaceOf(broker).uploadFiles(["a", "b", "c", "d"].map(upload), { concurrency: 1 }));
    const leftovers = error.outcomes.map((outcome) => ("leftovers" in outcome ? outcome.leftovers : undefined));
    expect(leftovers).toEqual([undefined, [".stowage-x-1", "session"], [], [".stowage-x-3"]]);
  });

  test("a retryable throw repeats what is left of the chunk", async () => {
    let calls = 0;
    const broker = batchBroker({
      async *uploadFiles(uploads) {
        calls++;
        for (const [index, { file }] of uploads.entries()) {
          if (calls === 1 && index === 1) throw new DriverError("UNAVAILABLE");
          yield { index, ok: true, value: detailsOf(file) };
        }
      },
      errorCode: (error) => (error as DriverError).code as StowageErrorCode,
    });
    const outcomes = await workspaceOf(broker).uploadFiles(["a", "b", "c"].map(upload), { concurrency: 1, retry: quick });
    expect(outcomes.map((outcome) => outcome.status === "done" && outcome.attempts)).toEqual([1, 2, 2]);
  });

  test("an item without a result has failed, and is not repeated", async () => {
    let calls = 0;
    const broker = batchBroker({
      async *uploadFiles(uploads) {
        calls++;
        yield { index: 0, ok: true, value: detailsOf(uploads[0]!.file) };
        yield { index: 7, ok: true, value: detailsOf(uploads[0]!.file) };
      },
    });
    const error = await transferErrorOf(workspaceOf(broker).uploadFiles(["a", "b"].map(upload), { concurrency: 1, retry: quick }));
    expect(error.outcomes.map(statusOf)).toEqual(["done", "failed UNKNOWN"]);
    expect(error.message).toContain("the broker gave no outcome");
    expect(calls).toBe(1);
  });

  test("an answer that says nothing is a failure, not a loss", async () => {
    const nothing = undefined as unknown as TransferDetails;
    const single = singleBroker({ uploadFile: async () => nothing });
    const batched = batchBroker({
      async *uploadFiles(uploads) {
        for (const index of uploads.keys()) yield index === 1 ? (undefined as never) : { index, ok: true, value: nothing };
      },
    });
    for (const broker of [single, batched]) {
      const error = await transferErrorOf(workspaceOf(broker).uploadFiles(["a", "b", "c"].map(upload), { concurrency: 1 }));
      expect(error.outcomes.map(statusOf)).toEqual(["failed UNKNOWN", "failed UNKNOWN", "failed UNKNOWN"]);
    }
  });

  test("one item alone goes to the single method", async () => {
    const broker = batchBroker({
      uploadFiles: () => {
        throw new Error("must not be called");
      },
      uploadFile: async ({ file }) => detailsOf(file),
    });
    expect((await workspaceOf(broker).uploadFiles([upload("a")]))[0]!.status).toBe("done");
  });

  test("skip and missing are outcomes of batches too", async () => {
    const local = await directory.write("same", "content");
    const workspace = workspaceOf(createMemoryBroker());
    await workspace.uploadFiles([{ file: "a", localPath: local }]);
    const items = ["a", "b"].map((file) => ({ file, localPath: local }));
    expect((await workspace.uploadFiles(items, { ifExists: "skip", concurrency: 1 })).map(statusOf)).toEqual(["skipped exists", "done"]);
    expect((await workspace.deleteFiles(["a", "zzz", "b"], { concurrency: 1 })).map(statusOf)).toEqual(["done", "skipped missing", "done"]);
  });

  test.each(["throws", "throws something else", "ends"])(
    "a chunk that does not move a byte is stalled as one, and repeated (its generator %s)",
    async (way) => {
      let calls = 0;
      const broker = batchBroker({
        async *uploadFiles(uploads, { signal }) {
          calls++;
          for (const [index, { file }] of uploads.entries()) {
            if (calls === 1 && index === 1) {
              if (way === "throws") await untilAborted(signal);
              await untilAborted(signal).catch(() => undefined);
              if (way === "throws something else") throw new StowageError("socket destroyed", { code: "PERMISSION_DENIED" });
              return;
            }
            yield { index, ok: true, value: detailsOf(file) };
          }
        },
      });
      const outcomes = await workspaceOf(broker).uploadFiles(["a", "b", "c"].map(upload), {
        stallTimeoutMs: 400,
        concurrency: 1,
        retry: quick,
      });
      expect(outcomes.map((outcome) => outcome.status === "done" && outcome.attempts)).toEqual([1, 2, 2]);
    },
  );
});

describe("cancelling and time", () => {
  test("an abort before the start touches nothing", async () => {
    const { broker, attempts } = scripted(() => undefined);
    const items = ["a", "../b"].map(upload);
    const error = await transferErrorOf(workspaceOf(broker).uploadFiles(items, { signal: AbortSignal.abort() }));
    expect(error).toMatchObject({ code: "CANCELLED", counts: { cancelled: 2 } });
    expect(attempts.size).toBe(0);
  });

  test.each(["single", "batch"])(
    "an abort settles within a second though the broker (%s) ignores it; leftovers are named",
    async (kind) => {
      const ids: string[] = [];
      const broker: Broker =
        kind === "single"
          ? singleBroker({
              uploadFile: ({ file }, { temporaryId }) => {
                ids.push(temporaryId);
                return file.path === "a" ? Promise.resolve(detailsOf(file)) : forever();
              },
            })
          : batchBroker({
              async *uploadFiles(uploads, { temporaryId }) {
                ids.push(temporaryId);
                yield { index: 0, ok: true, value: detailsOf(uploads[0]!.file) };
                await forever();
              },
            });
      const controller = new AbortController();
      const run = transferErrorOf(
        workspaceOf(broker).uploadFiles(["a", "b", "c", "d"].map(upload), {
          signal: controller.signal,
          concurrency: kind === "single" ? 2 : 1,
        }),
      );
      await sleep(30);
      const before = performance.now();
      controller.abort(new Error("changed my mind"));
      const error = await run;
      expect(performance.now() - before).toBeLessThan(1000);
      expect(error.outcomes.map(statusOf)).toEqual(["done", "cancelled", "cancelled", "cancelled"]);
      const leftovers = error.outcomes.map((outcome) => ("leftovers" in outcome ? outcome.leftovers : undefined));
      if (kind === "single") expect(leftovers.slice(1)).toEqual([[`.stowage-${ids[1]}`], [`.stowage-${ids[2]}`], []]);
      else expect(leftovers.slice(1)).toEqual([1, 2, 3].map((index) => [`.stowage-${ids[0]}-${index}`]));
      expect(error).toMatchObject({ code: "CANCELLED", cause: { cause: new Error("changed my mind") } });
    },
  );

  test("what arrives after a batch was abandoned changes nothing", async () => {
    let finish: (() => void) | undefined;
    const broker = batchBroker({
      async *uploadFiles(uploads) {
        await new Promise<void>((resolve) => {
          finish = resolve;
        });
        for (const [index, { file }] of uploads.entries()) yield { index, ok: true, value: detailsOf(file) };
      },
    });
    const controller = new AbortController();
    let ends = 0;
    const run = transferErrorOf(
      workspaceOf(broker).uploadFiles(["a", "b"].map(upload), { signal: controller.signal, concurrency: 1, onProgress: () => ends++ }),
    );
    await sleep(10);
    controller.abort();
    const error = await run;
    finish?.();
    await sleep(10);
    expect(error.outcomes.map(statusOf)).toEqual(["cancelled", "cancelled"]);
    expect(ends).toBe(2);
  });

  test("names of what could not be removed come from the broker's error", async () => {
    const controller = new AbortController();
    const broker = singleBroker({
      async uploadFile(_upload, { signal }) {
        await untilAborted(signal).catch(() => undefined);
        throw Object.assign(new Error("aborted"), { leftovers: ["upload-17"] });
      },
    });
    const run = transferErrorOf(workspaceOf(broker).uploadFiles([upload("a")], { signal: controller.signal }));
    await sleep(5);
    controller.abort();
    expect((await run).outcomes[0]).toMatchObject({ status: "cancelled", leftovers: ["upload-17"] });
  });

  test("leftovers of failed attempts are in the outcome", async () => {
    const broker = singleBroker({
      async uploadFile() {
        throw Object.assign(new DriverError("X"), { leftovers: [".stowage-x"] });
      },
    });
    const error = await transferErrorOf(workspaceOf(broker).uploadFiles([upload("a")]));
    expect(error.outcomes[0]).toMatchObject({ status: "failed", leftovers: [".stowage-x"], error: { leftovers: [".stowage-x"] } });
  });

  test("at the deadline what has not ended fails with TIMEOUT, also what has not begun", async () => {
    const { broker } = scripted((path, _attempt, signal) => (path === "a" ? undefined : untilAborted(signal)));
    const deadline = new Date(Date.now() + 60);
    const error = await transferErrorOf(workspaceOf(broker).uploadFiles(["a", "b", "c"].map(upload), { deadline, concurrency: 1 }));
    expect(error.outcomes.map(statusOf)).toEqual(["done", "failed TIMEOUT", "failed TIMEOUT"]);
    expect(error).toMatchObject({ code: "TIMEOUT", retryable: false });
  });

  test("a stall is an error and is repeated, not a hang", async () => {
    const { broker, attempts } = scripted((_path, attempt, signal) => (attempt === 1 ? untilAborted(signal) : undefined));
    const [outcome] = await workspaceOf(broker).uploadFiles([upload("a")], { stallTimeoutMs: 40, retry: quick });
    expect(outcome).toMatchObject({ status: "done", attempts: 2 });
    expect(attempts.get("a")).toBe(2);

    // What the broker throws when it is stopped is not what went wrong.
    const confused = scripted(async (_path, attempt, signal) => {
      if (attempt > 1) return;
      await untilAborted(signal).catch(() => undefined);
      throw new DriverError("PERMISSION_DENIED", "socket destroyed");
    });
    const [again] = await workspaceOf(confused.broker).uploadFiles([upload("a")], { stallTimeoutMs: 40, retry: quick });
    expect(again).toMatchObject({ status: "done", attempts: 2 });

    const always = scripted((_path, _attempt, signal) => untilAborted(signal));
    const error = await transferErrorOf(
      workspaceOf(always.broker).uploadFiles([upload("a")], { stallTimeoutMs: 30, retry: { ...quick, attempts: 2 } }),
    );
    expect(error.outcomes.map(statusOf)).toEqual(["failed STALLED"]);
  });

  test("an abort ends a back-off", async () => {
    const controller = new AbortController();
    const broker = singleBroker({
      uploadFile: async () => Promise.reject(new Error("busy")),
      errorCode: () => ({ code: "RATE_LIMITED", retryAfterMs: 60_000 }),
    });
    const run = transferErrorOf(workspaceOf(broker).uploadFiles([upload("a")], { signal: controller.signal }));
    await sleep(20);
    const before = performance.now();
    controller.abort();
    expect((await run).outcomes.map(statusOf)).toEqual(["cancelled"]);
    expect(performance.now() - before).toBeLessThan(500);
  });

  test("an abort ends the back-off of a chunk, and what waits in it is cancelled", async () => {
    const controller = new AbortController();
    const broker = batchBroker({
      async *uploadFiles(uploads) {
        for (const [index, { file }] of uploads.entries()) {
          if (index === 0) yield { index, ok: true, value: detailsOf(file) };
          else yield { index, ok: false, error: new Error("busy") };
        }
      },
      errorCode: () => ({ code: "RATE_LIMITED", retryAfterMs: 60_000 }),
    });
    const items = ["a", "b", "c"].map(upload);
    const run = transferErrorOf(workspaceOf(broker).uploadFiles(items, { signal: controller.signal, concurrency: 1 }));
    await sleep(20);
    const before = performance.now();
    controller.abort();
    expect((await run).outcomes.map(statusOf)).toEqual(["done", "cancelled", "cancelled"]);
    expect(performance.now() - before).toBeLessThan(500);
  });

  test("with failFast what is still being prepared for a chunk does not start", async () => {
    const local = await directory.write("fast", "x");
    const workspace = workspaceOf(createMemoryBroker());
    await workspace.uploadFiles(["a", "b", "c"].map((file) => ({ file, localPath: local })));
    const items = ["a", "b", "c"].map((file) => ({ file, localPath: file === "a" ? `${local}/below` : directory.join(`fast-${file}`) }));
    const error = await transferErrorOf(workspace.downloadFiles(items, { failFast: true, concurrency: 1 }));
    expect(error.outcomes.map(statusOf)).toEqual(["failed NOT_A_FILE", "cancelled", "cancelled"]);
  });

  test("a thousand files and many batches leave no listener on the caller's signal", async () => {
    const controller = new AbortController();
    const warnings: string[] = [];
    const onWarning = (warning: Error): void => void warnings.push(warning.name);
    process.on("warning", onWarning);
    const { broker } = scripted(() => undefined);
    const workspace = workspaceOf(broker);
    let most = 0;
    for (let round = 0; round < 20; round++) {
      const items = Array.from({ length: 50 }, (_, index) => upload(`f${index}`));
      await workspace.uploadFiles(items, {
        signal: controller.signal,
        concurrency: 30,
        onProgress: () => {
          most = Math.max(most, getEventListeners(controller.signal, "abort").length);
        },
      });
    }
    await sleep(0);
    process.off("warning", onWarning);
    expect(most).toBe(1);
    expect(getEventListeners(controller.signal, "abort")).toHaveLength(0);
    expect(warnings).toEqual([]);
  });
});

describe("items on the same files", () => {
  test("two uploads to one target conflict before anything starts; others go on", async () => {
    const { broker, attempts } = scripted(() => undefined);
    const error = await transferErrorOf(workspaceOf(broker).uploadFiles(["a", "b", "a", "c"].map(upload)));
    expect(error.outcomes.map(statusOf)).toEqual(["failed CONFLICT", "done", "failed CONFLICT", "done"]);
    expect(attempts.has("a")).toBe(false);
    expect(error.message).toContain('"a"');
  });

  test("chains, swaps and one source for two targets are conflicts of moves", async () => {
    const local = await directory.write("moved", "x");
    const workspace = workspaceOf(createMemoryBroker());
    const names = ["a", "b", "c", "d", "e", "f", "g"];
    await workspace.uploadFiles(names.map((file) => ({ file, localPath: local })));
    const error = await transferErrorOf(
      workspace.moveFiles([
        { file: "a", newPath: "a2" },
        { file: "a2", newPath: "a3" },
        { file: "b", newPath: "c" },
        { file: "c", newPath: "b" },
        { file: "d", newPath: "d2" },
        { file: "d", newPath: "d3" },
        { file: "e", newPath: "e2" },
      ]),
    );
    expect(error.outcomes.map(statusOf)).toEqual([...Array.from({ length: 6 }, () => "failed CONFLICT"), "done"]);
    expect(await workspace.statFile("a")).toBeDefined();
    expect(await workspace.statFile("e2")).toBeDefined();
  });

  test("a copy may have many targets, but its source may not be one", async () => {
    const local = await directory.write("copied", "x");
    const workspace = workspaceOf(createMemoryBroker());
    await workspace.uploadFiles([{ file: "a", localPath: local }]);
    const copies = await workspace.copyFiles([
      { file: "a", newPath: "b" },
      { file: "a", newPath: "c" },
    ]);
    expect(copies.map(statusOf)).toEqual(["done", "done"]);
    const error = await transferErrorOf(
      workspace.copyFiles([
        { file: "a", newPath: "b" },
        { file: "b", newPath: "d" },
      ]),
    );
    expect(error.outcomes.map(statusOf)).toEqual(["failed CONFLICT", "failed CONFLICT"]);
  });

  test("one local path for two downloads is a conflict, also when it is written in two ways", async () => {
    const local = await directory.write("original", "x");
    const workspace = workspaceOf(createMemoryBroker());
    await workspace.uploadFiles(["a", "b"].map((file) => ({ file, localPath: local })));
    const error = await transferErrorOf(
      workspace.downloadFiles([
        { file: "a", localPath: directory.join("same-target") },
        { file: "b", localPath: directory.join("other", "..", "same-target") },
      ]),
    );
    expect(error.outcomes.map(statusOf)).toEqual(["failed CONFLICT", "failed CONFLICT"]);
    await expect(stat(directory.join("same-target"))).rejects.toThrow();
    // One source for two targets is no conflict.
    const twice = await workspace.downloadFiles([
      { file: "a", localPath: directory.join("one") },
      { file: "a", localPath: directory.join("two") },
    ]);
    expect(twice.map(statusOf)).toEqual(["done", "done"]);
    expect(await readFile(directory.join("two"), "utf8")).toBe("x");
  });

  test("to delete a file twice is none", async () => {
    const workspace = workspaceOf(singleBroker());
    expect((await workspace.deleteFiles(["a", "a"])).map(statusOf)).toEqual(["skipped missing", "skipped missing"]);
  });
});

describe("progress of a batch", () => {
  test("tells bytes of item and batch, ends and totals", async () => {
    const local = await directory.write("ten", "0123456789");
    const reports: Progress[] = [];
    const items = ["a", "b", "c"].map((path) => ({ file: { path, size: 10 }, localPath: local }));
    await workspaceOf(singleBroker()).uploadFiles(items, { concurrency: 1, onProgress: (progress) => reports.push(progress) });
    expect(reports.filter(({ done }) => done > 0).at(-1)).toEqual({
      item: items[2],
      itemBytes: 10,
      itemTotal: 10,
      bytes: 30,
      totalBytes: 30,
      done: 3,
      total: 3,
    });
    expect(reports.map(({ bytes }) => bytes)).toEqual([...reports.map(({ bytes }) => bytes)].sort((a, b) => a - b));
  });

  test("a listener that throws disturbs nothing", async () => {
    const { broker } = scripted(() => undefined);
    const onProgress = (): never => {
      throw new Error("no terminal");
    };
    expect((await workspaceOf(broker).uploadFiles(["a", "b"].map(upload), { onProgress })).map(statusOf)).toEqual(["done", "done"]);
  });
});

test("a StowageError of a broker keeps its code and facts", async () => {
  const broker = singleBroker({
    uploadFile: async () => {
      throw new StowageError("the project is over quota", { code: "QUOTA_EXCEEDED" });
    },
    errorCode: () => "UNAVAILABLE",
  });
  const error = await transferErrorOf(workspaceOf(broker).uploadFiles([upload("a")], { retry: quick }));
  expect(error.outcomes[0]).toMatchObject({
    attempts: 1,
    error: { code: "QUOTA_EXCEEDED", retryable: false, file: "a", workspace: "data" },
  });
});
