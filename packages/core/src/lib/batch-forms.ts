import { type Batch, createBatch } from "./batch.ts";
import { createNamesInUse, rejectConflicts } from "./batch-conflicts.ts";
import type { BatchTotals, Entry } from "./batch-ledger.ts";
import { type Outcome, type OutcomeCounts, TransferError } from "./outcome.ts";
import { createQueue } from "./queue.ts";
import { StowageError } from "./stowage-error.ts";
import type { TransferOptions } from "./transfer-options.ts";
import type { Verb } from "./verb.ts";

/** How long the caller's iterator is waited for when it is told to end, in milliseconds. */
const INPUT_END_MS = 850;

/** How long a group of a stream that could be larger is held back, in milliseconds. */
const LINGER_MS = 2;

/** What a batch is given: an array in, a promise of an array out; a stream in, a stream out. */
export type BatchInput<Item> = readonly Item[] | AsyncIterable<Item>;
export type BatchOutput<Item> = Promise<Outcome<Item>[]> | AsyncIterable<Outcome<Item>>;

/** Runs a batch in the form that its input has. `refusal` says why it may not begin. */
export function runBatch<Item, Parsed, Value>(
  verb: Verb<Item, Parsed, Value>,
  input: BatchInput<Item>,
  options: TransferOptions,
  refusal: () => StowageError | undefined,
): BatchOutput<Item> {
  if (isAsyncIterable(input)) return streamBatch(verb, input, options, refusal);
  return runArray(verb, input, options, refusal);
}

function isAsyncIterable<Item>(input: BatchInput<Item>): input is AsyncIterable<Item> {
  return typeof input === "object" && input !== null && Symbol.asyncIterator in input;
}

// ---------- array ----------

async function runArray<Item, Parsed, Value>(
  verb: Verb<Item, Parsed, Value>,
  input: readonly Item[],
  options: TransferOptions,
  refusal: () => StowageError | undefined,
): Promise<Outcome<Item>[]> {
  if (!Array.isArray(input)) {
    throw new StowageError(`${verb.operation}: an array or an async iterable of items was expected`, { code: "INVALID_ARGUMENT" });
  }
  // A copy: the caller may go on using the array.
  const items: readonly Item[] = [...input];
  const refused = refusal();
  if (refused !== undefined) throw refuseAll(items, refused);

  const outcomes: Outcome<Item>[] = new Array(items.length);
  const batch = createBatch(
    verb,
    options,
    (outcome, index) => {
      outcomes[index] = outcome;
    },
    () => undefined,
  );
  let error: StowageError | undefined;
  try {
    const totals: BatchTotals = { total: items.length };
    await batch.begin(totals);
    if (batch.scope.ended === undefined) await runEntries(batch, verb, items, totals);
    else for (const [index, item] of items.entries()) batch.cancel(item, index);
  } finally {
    error = batch.end(outcomes);
  }
  if (error !== undefined) throw error;
  return outcomes;
}

async function runEntries<Item, Parsed, Value>(
  batch: Batch<Item, Parsed>,
  verb: Verb<Item, Parsed, Value>,
  items: readonly Item[],
  totals: BatchTotals,
): Promise<void> {
  const admitted: Entry<Item, Parsed>[] = [];
  for (const [index, item] of items.entries()) {
    const entry = batch.admit(item, index);
    if (entry !== undefined) admitted.push(entry);
  }
  totals.totalBytes = sumOfSizes(admitted, verb);
  const entries = rejectConflicts(batch, verb, admitted);
  // Every lane gets work before any gets much.
  const size = Math.max(1, Math.min(batch.groupSize, Math.ceil(entries.length / batch.lanes)));
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < entries.length && !batch.stopped) {
      const group = entries.slice(next, next + size);
      next += size;
      await batch.run(group);
    }
  };
  await Promise.all(Array.from({ length: Math.min(batch.lanes, Math.ceil(entries.length / size)) }, lane));
  for (const entry of entries.slice(next)) batch.cancel(entry.item, entry.index, entry);
}

function sumOfSizes<Item, Parsed, Value>(entries: readonly Entry<Item, Parsed>[], verb: Verb<Item, Parsed, Value>): number | undefined {
  let sum = 0;
  for (const entry of entries) {
    const size = verb.size(entry.parsed);
    if (size === undefined) return undefined;
    sum += size;
  }
  return sum;
}

function refuseAll<Item>(items: readonly Item[], error: StowageError): StowageError {
  if (items.length === 0) return error;
  const outcomes = items.map((item): Outcome<Item> => ({ status: "failed", item, error, leftovers: [], attempts: 0, durationMs: 0 }));
  const counts: OutcomeCounts = { done: 0, skipped: 0, planned: 0, failed: items.length, cancelled: 0 };
  return new TransferError<Item>(error.message, { code: error.code, outcomes, counts, cause: error, workspace: error.workspace });
}

// ---------- stream ----------

const STOPPED: unique symbol = Symbol("stopped");

type Step<Item> = IteratorResult<Item, unknown> | { readonly thrown: unknown } | typeof STOPPED;

/**
 * Outcomes in the order of completion. Starts at the first `next`; pulls an item only when one that was pulled before has been
 * taken by the consumer or a place is free, so neither input nor outcomes pile up.
 */
function streamBatch<Item, Parsed, Value>(
  verb: Verb<Item, Parsed, Value>,
  input: AsyncIterable<Item>,
  options: TransferOptions,
  refusal: () => StowageError | undefined,
): AsyncIterableIterator<Outcome<Item>> {
  const outcomes = createOutcomeQueue<Outcome<Item>>(() => {
    outstanding--;
    changed();
  });
  const names = createNamesInUse();
  /** Items that were pulled and whose outcomes the consumer has not taken. */
  let outstanding = 0;
  let group: Entry<Item, Parsed>[] = [];
  let busyLanes = 0;
  let closing = false;
  /** A fault of ours, which must not go unseen. */
  let broken: { readonly thrown: unknown } | undefined;
  let lingered = false;
  let lingerTimer: NodeJS.Timeout | undefined;
  let batch: Batch<Item, Parsed> | undefined;
  let running: Promise<void> | undefined;
  let wake: (() => void) | undefined;
  let stopWaiting: (() => void) | undefined;

  const changed = (): void => {
    wake?.();
    wake = undefined;
  };
  const change = (): Promise<void> =>
    new Promise((resolve) => {
      wake = resolve;
    });
  const stopPulling = (): void => {
    stopWaiting?.();
    changed();
  };

  const start = async (): Promise<void> => {
    const refused = refusal();
    if (refused !== undefined) throw refused;
    const created = createBatch(
      verb,
      options,
      (outcome, _index, entry) => {
        if (entry !== undefined) names.leave(verb.footprint(entry.parsed));
        outcomes.push(outcome);
        if (created.stopped) stopPulling();
        else changed();
      },
      () => {
        closing = true;
        stopPulling();
      },
    );
    created.scope.onEnd(stopPulling);
    batch = created;
    await pump(created);
  };

  const flush = (running: Batch<Item, Parsed>): void => {
    if (group.length === 0 || busyLanes >= running.lanes) return;
    const entries = group;
    group = [];
    clearTimeout(lingerTimer);
    lingered = false;
    busyLanes++;
    void running
      .run(entries)
      .catch((thrown: unknown) => {
        broken ??= { thrown };
        running.scope.cancel(new StowageError("cancelled: the engine failed", { code: "CANCELLED", cause: thrown }));
      })
      .finally(() => {
        busyLanes--;
        if (lingered) flush(running);
        changed();
      });
  };

  const pump = async (running: Batch<Item, Parsed>): Promise<void> => {
    const { lanes, groupSize } = running;
    const capacity = lanes * groupSize;
    const isOver = (): boolean => running.stopped || closing;
    let inputError: { readonly thrown: unknown } | undefined;
    let iterator: AsyncIterator<Item> | undefined;
    let exhausted = false;

    const enter = async (entry: Entry<Item, Parsed>): Promise<void> => {
      const footprint = verb.footprint(entry.parsed);
      // Items on the same files go one after the other, as they came.
      while (names.clashes(footprint) && !isOver()) {
        flush(running);
        await change();
      }
      names.enter(footprint);
      group.push(entry);
      if (group.length >= groupSize) {
        flush(running);
      } else if (group.length === 1) {
        lingered = false;
        lingerTimer = setTimeout(() => {
          lingered = true;
          flush(running);
        }, LINGER_MS);
      }
    };

    try {
      await running.begin({});
      if (!isOver()) iterator = input[Symbol.asyncIterator]();
      for (let index = 0; iterator !== undefined && !isOver(); ) {
        if (outstanding >= capacity || group.length >= groupSize) {
          flush(running);
          if (outstanding >= capacity || group.length >= groupSize) await change();
          continue;
        }
        const step = await nextStep(iterator);
        if (step === STOPPED) break;
        if ("thrown" in step) {
          inputError = step;
          exhausted = true;
          break;
        }
        if (step.done === true) {
          exhausted = true;
          break;
        }
        outstanding++;
        const entry = running.admit(step.value, index);
        index++;
        if (entry !== undefined) await enter(entry);
      }
      const ending = exhausted || iterator?.return === undefined ? undefined : endInput(iterator);
      while (busyLanes > 0 || group.length > 0) {
        if (running.stopped) for (const entry of group.splice(0)) running.cancel(entry.item, entry.index, entry);
        flush(running);
        if (busyLanes > 0) await change();
      }
      await ending;
    } catch (error) {
      // What the caller's own iterator throws where an iterator should not.
      inputError ??= { thrown: error };
    } finally {
      clearTimeout(lingerTimer);
    }
    const error = running.end(undefined);
    if (broken !== undefined) throw broken.thrown;
    if (inputError !== undefined) throw inputError.thrown;
    if (closing) throw verb.runtime.refusal("look") ?? new StowageError("the workspace was closed", { code: "CLOSED" });
    if (error !== undefined) throw error;
  };

  const nextStep = (iterator: AsyncIterator<Item>): Promise<Step<Item>> =>
    new Promise((resolve) => {
      stopWaiting = () => resolve(STOPPED);
      iterator.next().then(resolve, (thrown: unknown) => resolve({ thrown }));
    });

  const stream: AsyncIterableIterator<Outcome<Item>> & AsyncDisposable = {
    [Symbol.asyncIterator]: () => stream,
    next() {
      if (running === undefined) {
        running = start();
        running.then(
          () => outcomes.end(),
          (error: unknown) => outcomes.end({ error }),
        );
      }
      return outcomes.next();
    },
    async return() {
      if (running === undefined) {
        running = Promise.resolve();
        outcomes.end();
      }
      outcomes.discard();
      batch?.scope.cancel(new StowageError("cancelled: the consumer of the outcomes stopped", { code: "CANCELLED" }));
      await running.catch(() => undefined);
      return { done: true, value: undefined };
    },
    async [Symbol.asyncDispose]() {
      await stream.return?.();
    },
  };
  return stream;
}

/** Tells the caller's iterator to end, and waits for it, but not for ever. */
async function endInput(iterator: AsyncIterator<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const patience = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, INPUT_END_MS);
  });
  const ended = (async () => {
    await iterator.return?.();
  })().catch(() => undefined);
  await Promise.race([ended, patience]);
  clearTimeout(timer);
}

interface OutcomeQueue<T> {
  push(value: T): void;
  end(failure?: { readonly error: unknown }): void;
  /** Nobody wants any more: whoever waits is told that it is over. */
  discard(): void;
  next(): Promise<IteratorResult<T, undefined>>;
}

/** `onTaken` is called for each value that a consumer has got. */
function createOutcomeQueue<T extends object>(onTaken: () => void): OutcomeQueue<T> {
  const values = createQueue<T>();
  let over: { failure: { readonly error: unknown } | undefined } | undefined;
  let discarded = false;
  const waiting: { resolve(result: IteratorResult<T, undefined>): void; reject(error: unknown): void }[] = [];

  const finish = (consumer: (typeof waiting)[number]): void => {
    const failure = over?.failure;
    // An iterator throws once, and is done after that.
    if (over !== undefined) over.failure = undefined;
    if (failure === undefined || discarded) consumer.resolve({ done: true, value: undefined });
    else consumer.reject(failure.error);
  };
  return {
    push(value) {
      if (discarded) return;
      const consumer = waiting.shift();
      if (consumer === undefined) {
        values.push(value);
      } else {
        consumer.resolve({ done: false, value });
        onTaken();
      }
    },
    end(failure) {
      over ??= { failure };
      for (const consumer of waiting.splice(0)) finish(consumer);
    },
    discard() {
      discarded = true;
      values.clear();
      for (const consumer of waiting.splice(0)) consumer.resolve({ done: true, value: undefined });
    },
    next() {
      const value = values.shift();
      if (value !== undefined) {
        onTaken();
        return Promise.resolve({ done: false, value });
      }
      return new Promise((resolve, reject) => {
        const consumer = { resolve, reject };
        if (over !== undefined || discarded) finish(consumer);
        else waiting.push(consumer);
      });
    },
  };
}
