import type { BatchResult, ErrorFacts, OperationContext } from "./broker.ts";
import { createGate, forEachConcurrently } from "./concurrency.ts";
import { leftoversOf, type OperationScope } from "./operation-context.ts";
import { type Outcome, type OutcomeCounts, STREAM_ERROR_OUTCOMES, TransferError } from "./outcome.ts";
import { createProgressTracker, type ProgressPart, type ProgressTracker } from "./progress.ts";
import { nextRetryDelay, resolveRetryOptions, sleep } from "./retry.ts";
import { runOperation } from "./run-operation.ts";
import { recordChange } from "./store-hook.ts";
import { StowageError } from "./stowage-error.ts";
import { type BatchSpan, type ItemSpan, startBatchSpan } from "./telemetry.ts";
import type { TransferOptions } from "./transfer-options.ts";
import type { Call, Ending, Notes, Verb } from "./verb.ts";
import { createScope } from "./workspace-runtime.ts";

const DEFAULT_CONCURRENCY = 8;

/** The most items that a broker is given at once. */
const MAXIMUM_GROUP = 256;

/** How many groups a broker is given at the same time. */
const MAXIMUM_GROUP_LANES = 4;

/** One item on its way. */
export interface Entry<Item, Parsed> extends Notes {
  readonly index: number;
  readonly item: Item;
  readonly parsed: Parsed;
  attempts: number;
  /** `performance.now()` when work on it began. */
  startedAt: number;
  leftovers: readonly string[];
  /** Its own, or that of its group. */
  part: ProgressPart | undefined;
  span: ItemSpan | undefined;
}

/** What both forms of a batch, array and stream, are made of. */
export interface Batch<Item, Parsed> {
  readonly scope: OperationScope;
  /** How many groups may run at once. */
  readonly lanes: number;
  /** How many entries a group may have. */
  readonly groupSize: number;
  /** Nothing new may start: the scope has ended, or something failed and `failFast` was asked for. */
  readonly stopped: boolean;
  /** Call and await before the first group. */
  begin(totals: BatchTotals): Promise<void>;
  /** The parsed item; `undefined` when it is invalid, which has become its outcome by then. */
  admit(item: Item, index: number): Entry<Item, Parsed> | undefined;
  /** Sees a group to its end: an outcome for every entry. */
  run(entries: readonly Entry<Item, Parsed>[]): Promise<void>;
  fail(entry: Entry<Item, Parsed>, error: unknown): void;
  /** Makes an outcome for an item that never started. */
  cancel(item: Item, index: number, entry?: Entry<Item, Parsed> | undefined): void;
  /** Takes everything back; what `close` of the workspaces waits for has ended. The error says what did not go well. */
  end(outcomes: readonly Outcome<Item>[] | undefined): StowageError | undefined;
}

/** May become known while a batch runs. */
export interface BatchTotals {
  total?: number | undefined;
  totalBytes?: number | undefined;
}

/** `entry` is absent for an item that was not valid. */
export type BatchSink<Item, Parsed> = (outcome: Outcome<Item>, index: number, entry: Entry<Item, Parsed> | undefined) => void;

export function createBatch<Item, Parsed, Value>(
  verb: Verb<Item, Parsed, Value>,
  options: TransferOptions,
  sink: BatchSink<Item, Parsed>,
  closing: () => void,
): Batch<Item, Parsed> {
  const { runtime, operation } = verb;
  const { store, batchId, failFast = false, dryRun = false } = options;
  const ifExists = options.ifExists ?? (operation === "move" ? "fail" : "replace");
  const concurrency = resolveConcurrency(options.concurrency);
  const policy = resolveRetryOptions(options.retry);
  const limits = options.limits ?? runtime.limits;
  const scope = createScope(runtime, {
    signal: options.signal,
    deadline: options.deadline,
    stallTimeoutMs: options.stallTimeoutMs,
    durability: options.durability,
    checksum: options.checksum,
    ifExists: ifExists === "skip-same" ? "replace" : ifExists,
    limits,
  });
  const participants = verb.participants.map((participant) => participant.begin({ closing, cancel: scope.cancel }));
  const gate = createGate(concurrency);
  const counts = { done: 0, skipped: 0, planned: 0, failed: 0, cancelled: 0 };
  const bad: Outcome<Item>[] = [];
  let firstFailure: StowageError | undefined;
  let failedFast = false;
  let tracker: ProgressTracker | undefined;
  let batchSpan: BatchSpan | undefined;

  const settings = { policy, deadline: options.deadline, log: runtime.log, classify: runtime.classify };
  const call: Call = async (body) => {
    const result = await runOperation(scope, body, settings);
    if (result.ok) return result.value;
    throw result.ended ?? result.error;
  };

  // ---------- outcomes ----------

  const tell = (outcome: Outcome<Item>, index: number, entry: Entry<Item, Parsed> | undefined): void => {
    counts[outcome.status]++;
    if (outcome.status === "failed" || outcome.status === "cancelled") {
      if (bad.length < STREAM_ERROR_OUTCOMES) bad.push(outcome);
      if (outcome.status === "failed") {
        firstFailure ??= outcome.error as StowageError;
        if (failFast) failedFast = true;
      }
    }
    if (tracker !== undefined) {
      const total = entry === undefined ? undefined : verb.size(entry.parsed);
      if (entry?.part !== undefined) entry.part.itemEnded(outcome.item, total, outcome.status === "done" ? outcome.bytes : undefined);
      else tracker.itemEnded(outcome.item, total);
    }
    if (entry?.span !== undefined) endItemSpan(entry.span, outcome, entry.attempts);
    sink(outcome, index, entry);
  };

  const succeed = (entry: Entry<Item, Parsed>, ending: Ending): void => {
    const { item, index, attempts, startedAt } = entry;
    if (ending.status === "done") {
      const { file, method, bytes, digest, verified } = ending.facts;
      const durationMs = performance.now() - startedAt;
      tell({ status: "done", item, file, method, bytes, digest, verified, attempts, durationMs }, index, entry);
    } else if (ending.status === "skipped") {
      tell({ status: "skipped", item, reason: ending.reason }, index, entry);
    } else {
      tell({ status: "planned", item, bytes: ending.bytes, wouldReplace: ending.wouldReplace }, index, entry);
    }
  };

  const failItem = (item: Item, index: number, error: StowageError, entry: Entry<Item, Parsed> | undefined): void => {
    const { attempts = 0, startedAt = performance.now(), leftovers = [] } = entry ?? {};
    const names = [...new Set([...leftovers, ...error.leftovers])];
    const durationMs = performance.now() - startedAt;
    tell({ status: "failed", item, error, leftovers: names, attempts, durationMs }, index, entry);
  };

  const fail = (entry: Entry<Item, Parsed>, error: unknown): void => {
    failItem(entry.item, entry.index, runtime.wrap(error, operation, verb.path(entry.parsed)), entry);
  };

  /** The outcome of what the scope's end kept from ending well. */
  const endEarly = (item: Item, index: number, entry?: Entry<Item, Parsed> | undefined): void => {
    const path = entry === undefined ? undefined : verb.path(entry.parsed);
    if (scope.ended?.code === "TIMEOUT") failItem(item, index, runtime.wrap(scope.ended, operation, path), entry);
    else tell({ status: "cancelled", item, leftovers: [...new Set(entry?.leftovers)] }, index, entry);
  };

  // ---------- records ----------

  const conclude = async (entry: Entry<Item, Parsed>, ending: Ending, file: ReturnType<typeof fileToRecord>): Promise<void> => {
    if (store === undefined || file === undefined) return succeed(entry, ending);
    const change = verb.change(entry.parsed, file);
    const recorded = await gate(() =>
      scope.run(() => recordChange(store, change, { batchId, item: entry.item, signal: scope.signal }), { epilogue: true }),
    );
    if (recorded.ok) return succeed(entry, ending);

    let state = "it stays as it is now";
    if (ending.status === "done" && entry.existed === false && verb.undo !== undefined) {
      const undo = verb.undo;
      const undone = await scope.run((context) => undo(entry.parsed, context), { epilogue: true });
      state = undone.ok ? "it was new and has been removed again" : "it was new and could not be removed again";
      if (!undone.ok) entry.leftovers = [...entry.leftovers, verb.path(entry.parsed)];
    }
    const reason = recorded.error instanceof Error ? recorded.error.message : String(recorded.error);
    fail(entry, new StowageError(`stored, not recorded: ${reason}; ${state}`, { code: "NOT_RECORDED", cause: recorded.error }));
  };

  const fileToRecord = (ending: Ending): Parameters<typeof verb.change>[1] | undefined => {
    if (store === undefined) return undefined;
    if (ending.status === "done") return ending.facts.file;
    // An earlier run of this batch may have changed it and crashed before it was recorded.
    return ending.status === "skipped" && batchId !== undefined ? ending.file : undefined;
  };

  /** Synchronous where nothing is to be recorded: most items of most batches. */
  const finish = (entry: Entry<Item, Parsed>, ending: Ending): Promise<void> | undefined => {
    const file = fileToRecord(ending);
    if (file !== undefined) return conclude(entry, ending, file);
    succeed(entry, ending);
    return undefined;
  };

  /** Makes an outcome of a failure that is final. */
  const finishFailed = async (entry: Entry<Item, Parsed>, error: unknown, facts: ErrorFacts): Promise<void> => {
    if (facts.code === "FILE_EXISTS" && ifExists === "skip") return succeed(entry, { status: "skipped", reason: "exists" });
    if (facts.code === "FILE_NOT_FOUND" && store !== undefined && batchId !== undefined && verb.recover !== undefined) {
      try {
        const recovered = await verb.recover(entry.parsed, call);
        if (recovered !== undefined) return await finish(entry, recovered);
      } catch {
        // The item has failed by itself; that it cannot be looked into is not the news.
      }
    }
    fail(entry, error);
  };

  // ---------- one item, one group ----------

  const prepare = async (entry: Entry<Item, Parsed>): Promise<boolean> => {
    if (batch.stopped) {
      endEarly(entry.item, entry.index, entry);
      return false;
    }
    try {
      const ending = dryRun ? await verb.plan(entry.parsed, call) : await verb.prepare?.(entry.parsed, entry, call);
      if (ending === undefined) return true;
      await finish(entry, ending);
    } catch (error) {
      if (scope.ended !== undefined) endEarly(entry.item, entry.index, entry);
      else await finishFailed(entry, error, runtime.classify(error));
    }
    return false;
  };

  const runOne = async (entry: Entry<Item, Parsed>): Promise<void> => {
    entry.part = tracker?.part(entry.item, verb.size(entry.parsed));
    const { part, span } = entry;
    const attempt = (context: OperationContext): Promise<Value> =>
      span === undefined ? verb.one(entry.parsed, context) : span.run(() => verb.one(entry.parsed, context));
    const result = await runOperation(scope, attempt, { ...settings, limits, onProgress: part?.add, onAttempt: part?.begin });
    entry.attempts = result.attempts;
    if (result.ok) {
      await finish(entry, verb.conclude(entry.parsed, result.value, entry.attempts));
    } else {
      entry.leftovers = result.leftovers;
      if (result.ended !== undefined) endEarly(entry.item, entry.index, entry);
      else await finishFailed(entry, result.error, runtime.classify(result.error));
    }
    part?.close();
  };

  /** Gives entries to the broker as one batch; what failed and may be repeated comes back, with the time to wait before. */
  const runMany = async (
    many: NonNullable<typeof verb.many>,
    entries: readonly Entry<Item, Parsed>[],
    part: ProgressPart | undefined,
  ): Promise<{ readonly repeat: Entry<Item, Parsed>[]; readonly delayMs: number }> => {
    const unsettled: (Entry<Item, Parsed> | undefined)[] = [...entries];
    const repeat: Entry<Item, Parsed>[] = [];
    const finishing: Promise<void>[] = [];
    let delayMs = 0;
    let open = true;

    const settleFailure = (entry: Entry<Item, Parsed>, error: unknown): void => {
      if (scope.ended !== undefined) {
        endEarly(entry.item, entry.index, entry);
        return;
      }
      const facts = runtime.classify(error);
      const delay = nextRetryDelay(facts, policy, { attempts: entry.attempts, startedAt: entry.startedAt, deadline: options.deadline });
      if (delay === undefined) {
        finishing.push(finishFailed(entry, error, facts));
      } else {
        runtime.log("info", "an attempt failed and will be repeated", {
          attempt: entry.attempts,
          code: facts.code,
          delayMs: Math.round(delay),
        });
        delayMs = Math.max(delayMs, delay);
        repeat.push(entry);
      }
    };
    const take = (result: BatchResult<Value>): void => {
      const entry = unsettled[result.index];
      if (entry === undefined) {
        runtime.log("warn", "a broker gave a second outcome for an item, or one for an item that it was not given", {
          index: result.index,
        });
        return;
      }
      unsettled[result.index] = undefined;
      if (result.ok) {
        const finished = finish(entry, verb.conclude(entry.parsed, result.value, entry.attempts));
        if (finished !== undefined) finishing.push(finished);
      } else {
        entry.leftovers = [...entry.leftovers, ...leftoversOf(result.error)];
        settleFailure(entry, result.error);
      }
    };

    const place = await limits.acquireFile(scope.signal).catch(() => undefined);
    if (scope.ended === undefined) for (const entry of entries) entry.attempts++;
    part?.begin();
    const parsed = entries.map((entry) => entry.parsed);
    const pull = async (context: OperationContext): Promise<void> => {
      for await (const value of many(parsed, context)) {
        // Abandoned: what comes now is too late, everybody has been told.
        if (!open) return;
        take(value);
      }
    };
    const span = batchSpan;
    const result = await scope.run(span === undefined ? pull : (context) => span.run(() => pull(context)), { onProgress: part?.add });
    open = false;
    place?.[Symbol.dispose]();

    let unclaimed = result.ok || result.abandoned ? [] : [...result.leftovers];
    for (const [index, entry] of unsettled.entries()) {
      if (entry === undefined) continue;
      if (result.ok) {
        settleFailure(entry, result.reason ?? new StowageError("the broker gave no outcome", { code: "UNKNOWN" }));
        continue;
      }
      if (result.abandoned) {
        entry.leftovers = [...entry.leftovers, ...result.leftovers.map((name) => `${name}-${index}`)];
      } else if (unclaimed.length > 0) {
        const own = unclaimed.filter((name) => name.endsWith(`-${index}`) || !/-\d+$/u.test(name));
        unclaimed = unclaimed.filter((name) => !own.includes(name));
        entry.leftovers = [...entry.leftovers, ...own];
      }
      settleFailure(entry, result.reason ?? result.error);
    }
    await Promise.all(finishing);
    return { repeat, delayMs };
  };

  const batch: Batch<Item, Parsed> = {
    scope,
    lanes: verb.many === undefined || dryRun ? concurrency : Math.min(concurrency, MAXIMUM_GROUP_LANES),
    groupSize: verb.many === undefined || dryRun ? 1 : MAXIMUM_GROUP,
    get stopped() {
      return failedFast || scope.ended !== undefined;
    },

    async begin(totals) {
      if (options.onProgress !== undefined) tracker = createProgressTracker((progress) => options.onProgress?.(progress), totals);
      const starting = startBatchSpan({ operation, workspace: runtime.name, brokerType: runtime.brokerType });
      if (starting !== undefined) batchSpan = await starting;
    },

    admit(item, index) {
      try {
        const parsed = verb.parse(item);
        return {
          index,
          item,
          parsed,
          existed: undefined,
          attempts: 0,
          startedAt: 0,
          leftovers: [],
          part: undefined,
          span: undefined,
        };
      } catch (error) {
        const problem = StowageError.is(error)
          ? error
          : new StowageError(`not a valid item: ${error instanceof Error ? error.message : String(error)}`, {
              code: "INVALID_ARGUMENT",
              cause: error,
            });
        failItem(item, index, runtime.wrap(problem, operation, problem.file), undefined);
        return undefined;
      }
    },

    async run(entries) {
      const now = performance.now();
      for (const entry of entries) {
        entry.startedAt = now;
        entry.span = batchSpan?.item(verb.path(entry.parsed));
      }
      let ready: readonly Entry<Item, Parsed>[] = entries;
      if (dryRun || verb.prepare !== undefined || batch.stopped) {
        const prepared: Entry<Item, Parsed>[] = [];
        await forEachConcurrently(entries, concurrency, async (entry) => {
          if (await prepare(entry)) prepared.push(entry);
        });
        ready = prepared;
      }
      if (verb.many === undefined || ready.length === 1) {
        await forEachConcurrently(ready, concurrency, runOne);
        return;
      }
      const part = tracker?.part();
      for (const entry of ready) entry.part = part;
      while (ready.length > 0) {
        const { repeat, delayMs } = await runMany(verb.many, ready, part);
        ready = repeat;
        if (ready.length === 0) break;
        await sleep(delayMs, scope.signal).catch(() => undefined);
        if (scope.ended !== undefined) {
          for (const entry of ready) endEarly(entry.item, entry.index, entry);
          break;
        }
      }
      part?.close();
    },

    fail,

    cancel: endEarly,

    end(outcomes) {
      scope.dispose();
      for (const leave of participants) leave();
      const error = summarize(outcomes ?? bad, outcomes === undefined);
      batchSpan?.end(counts, error);
      return error;
    },
  };

  const summarize = (outcomes: readonly Outcome<Item>[], streamed: boolean): StowageError | undefined => {
    const { failed, cancelled } = counts;
    // A stream may have been cut off between two items.
    const cut = streamed ? scope.ended : undefined;
    if (failed === 0 && cancelled === 0 && cut === undefined) return undefined;
    const cause = firstFailure ?? scope.ended;
    const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
    const parts = [
      failed > 0 ? `${failed} of ${all} files failed` : undefined,
      cancelled > 0 ? `${cancelled} of ${all} were cancelled` : undefined,
    ].filter((part) => part !== undefined);
    const summary = `${operation}: ${parts.length > 0 ? parts.join(", ") : "ended early"}`;
    const message = cause === undefined ? summary : `${summary}; first: ${cause.message}`;
    const code = firstFailure?.code ?? (scope.ended?.code === "TIMEOUT" ? "TIMEOUT" : "CANCELLED");
    return new TransferError<Item>(message, {
      code,
      outcomes,
      counts: { ...counts } satisfies OutcomeCounts,
      cause,
      workspace: runtime.name,
    });
  };

  return batch;
}

/** Rejects what is no number of files. Infinity is taken, and means as many as there are up to 1,024. */
function resolveConcurrency(value: number | undefined): number {
  if (value === undefined) return DEFAULT_CONCURRENCY;
  if (!(value >= 1)) throw new StowageError(`concurrency must be at least 1, got ${value}`, { code: "INVALID_ARGUMENT" });
  return Math.min(1024, Math.floor(value));
}

function endItemSpan(span: ItemSpan, outcome: Outcome<unknown>, attempts: number): void {
  if (outcome.status === "done") {
    span.end({ outcome: "done", bytes: outcome.bytes, method: outcome.method, verified: outcome.verified, attempts }, undefined);
  } else {
    span.end({ outcome: outcome.status, attempts }, outcome.status === "failed" ? (outcome.error as StowageError) : undefined);
  }
}
