import { runChunk } from "./batch-chunk.ts";
import { type BatchLedger, type BatchSink, type BatchTotals, createBatchLedger, type Entry } from "./batch-ledger.ts";
import type { ErrorFacts, OperationContext } from "./broker.ts";
import { createGate, forEachConcurrently } from "./concurrency.ts";
import type { StoredFile } from "./files.ts";
import { leftoversOf, type OperationScope } from "./operation-context.ts";
import type { Outcome } from "./outcome.ts";
import type { ProgressPart } from "./progress.ts";
import { nextRetryDelay, resolveRetryOptions, sleep } from "./retry.ts";
import { runOperation } from "./run-operation.ts";
import { recordChange } from "./store-hook.ts";
import { StowageError } from "./stowage-error.ts";
import type { TransferOptions } from "./transfer-options.ts";
import type { Call, Ending, Verb } from "./verb.ts";
import { createScope } from "./workspace-runtime.ts";

const DEFAULT_CONCURRENCY = 8;

/** The most items that a broker is given at once. */
const MAXIMUM_GROUP = 256;

/** How many groups a broker is given at the same time. */
const MAXIMUM_GROUP_LANES = 4;

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
  readonly fail: BatchLedger<Item, Parsed>["fail"];
  /** Makes an outcome for an item that never started. */
  readonly cancel: BatchLedger<Item, Parsed>["endEarly"];
  /** Takes everything back; what `close` of the workspaces waits for has ended. The error says what did not go well. */
  end(outcomes: readonly Outcome<Item>[] | undefined): StowageError | undefined;
}

export function createBatch<Item, Parsed, Value>(
  verb: Verb<Item, Parsed, Value>,
  options: TransferOptions,
  sink: BatchSink<Item, Parsed>,
  closing: () => void,
): Batch<Item, Parsed> {
  const { runtime, operation } = verb;
  const { store, batchId, deadline, dryRun = false } = options;
  const ifExists = options.ifExists ?? (operation === "move" ? "fail" : "replace");
  const concurrency = resolveConcurrency(options.concurrency);
  const limits = options.limits ?? runtime.limits;
  const scope = createScope(runtime, {
    signal: options.signal,
    deadline,
    stallTimeoutMs: options.stallTimeoutMs,
    durability: options.durability,
    checksum: options.checksum,
    ifExists: ifExists === "skip-same" ? "replace" : ifExists,
    limits,
  });
  const participants = verb.participants.map((participant) => participant.begin({ closing, cancel: scope.cancel }));
  const ledger = createBatchLedger(verb, options, scope, sink);
  const { succeed, fail, endEarly } = ledger;
  const gate = createGate(concurrency);
  const settings = { policy: resolveRetryOptions(options.retry), deadline, log: runtime.log, classify: runtime.classify };

  const call: Call = async (body) => {
    const result = await runOperation(scope, body, settings);
    if (result.ok) return result.value;
    throw result.ended ?? result.error;
  };

  // ---------- records ----------

  const record = async (entry: Entry<Item, Parsed>, ending: Ending, file: StoredFile): Promise<void> => {
    const change = verb.change(entry.parsed, file);
    const recorded = await gate(() =>
      scope.run(async () => store && recordChange(store, change, { batchId, item: entry.item, signal: scope.signal }), { epilogue: true }),
    );
    if (recorded.ok) {
      succeed(entry, ending);
      return;
    }
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

  const fileToRecord = (ending: Ending): StoredFile | undefined => {
    if (store === undefined) return undefined;
    if (ending.status === "done") return ending.facts.file;
    // An earlier run of this batch may have changed it and crashed before it was recorded.
    return ending.status === "skipped" && batchId !== undefined ? ending.file : undefined;
  };

  /** Synchronous where nothing is to be recorded: most items of most batches. */
  const finish = (entry: Entry<Item, Parsed>, ending: Ending): Promise<void> | undefined => {
    const file = fileToRecord(ending);
    if (file !== undefined) return record(entry, ending, file);
    succeed(entry, ending);
    return undefined;
  };

  const finishWith = (entry: Entry<Item, Parsed>, value: Value): Promise<void> | undefined => {
    const ending = verb.conclude(entry.parsed, value, entry.attempts);
    if (ending.status !== "done" || isComplete(ending.facts)) return finish(entry, ending);
    fail(entry, new StowageError("the broker did not say what became of the file", { code: "UNKNOWN" }));
    return undefined;
  };

  /** Makes an outcome of a failure that is final. */
  const finishFailed = async (entry: Entry<Item, Parsed>, error: unknown, facts: ErrorFacts): Promise<void> => {
    if (facts.code === "FILE_EXISTS" && ifExists === "skip") {
      succeed(entry, { status: "skipped", reason: "exists" });
      return;
    }
    if (facts.code === "FILE_NOT_FOUND" && store !== undefined && batchId !== undefined && verb.recover !== undefined) {
      // The item has failed by itself; that it cannot be looked into is not the news.
      const recovered = await verb.recover(entry.parsed, call).catch(() => undefined);
      if (recovered !== undefined) {
        await finish(entry, recovered);
        return;
      }
    }
    fail(entry, error);
  };

  // ---------- one item, one chunk ----------

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
      entry.leftovers = leftoversOf(error);
      if (scope.ended !== undefined) endEarly(entry.item, entry.index, entry);
      else await finishFailed(entry, error, runtime.classify(error));
    }
    return false;
  };

  const runOne = async (entry: Entry<Item, Parsed>): Promise<void> => {
    entry.part = ledger.tracker?.part(entry.item, verb.size(entry.parsed));
    const { part, span } = entry;
    const attempt = (context: OperationContext): Promise<Value> =>
      span === undefined ? verb.one(entry.parsed, context) : span.run(() => verb.one(entry.parsed, context));
    const result = await runOperation(scope, attempt, { ...settings, limits, onProgress: part?.add, onAttempt: part?.begin });
    entry.attempts = result.attempts;
    if (result.ok) {
      await finishWith(entry, result.value);
    } else {
      entry.leftovers = result.leftovers;
      if (result.ended !== undefined) endEarly(entry.item, entry.index, entry);
      else await finishFailed(entry, result.error, runtime.classify(result.error));
    }
    part?.close();
  };

  /** Gives entries to the broker as one; what failed and may be repeated comes back, with the time to wait before. */
  const runMany = async (
    many: NonNullable<typeof verb.many>,
    entries: readonly Entry<Item, Parsed>[],
    part: ProgressPart | undefined,
  ): Promise<{ readonly repeat: Entry<Item, Parsed>[]; readonly delayMs: number }> => {
    const repeat: Entry<Item, Parsed>[] = [];
    const finishing: (Promise<void> | undefined)[] = [];
    let delayMs = 0;
    await runChunk(entries, part, {
      scope,
      limits,
      many,
      onResult(entry, value) {
        const finished = finishWith(entry, value);
        if (finished !== undefined) finishing.push(finished);
      },
      onFailure(entry, error) {
        if (scope.ended !== undefined) {
          endEarly(entry.item, entry.index, entry);
          return;
        }
        const facts = runtime.classify(error);
        const { attempts, startedAt } = entry;
        const delay = nextRetryDelay(facts, settings.policy, { attempts, startedAt, deadline });
        if (delay === undefined) {
          finishing.push(finishFailed(entry, error, facts));
          return;
        }
        const fields = { attempt: attempts, code: facts.code, delayMs: Math.round(delay) };
        runtime.log("info", "an attempt failed and will be repeated", fields);
        delayMs = Math.max(delayMs, delay);
        repeat.push(entry);
      },
      onStrangeIndex(index) {
        runtime.log("warn", "a broker gave a second outcome for an item, or one for an item that it was not given", { index });
      },
      trace: (body) => (ledger.span === undefined ? body() : ledger.span.run(body)),
    });
    await Promise.all(finishing);
    return { repeat, delayMs };
  };

  const runChunks = async (many: NonNullable<typeof verb.many>, entries: readonly Entry<Item, Parsed>[]): Promise<void> => {
    const part = ledger.tracker?.part();
    for (const entry of entries) entry.part = part;
    let pending = entries;
    while (pending.length > 0) {
      const { repeat, delayMs } = await runMany(many, pending, part);
      pending = repeat;
      if (pending.length === 0) break;
      await sleep(delayMs, scope.signal).catch(() => undefined);
      if (scope.ended !== undefined) {
        for (const entry of pending) endEarly(entry.item, entry.index, entry);
        break;
      }
    }
    part?.close();
  };

  const batch: Batch<Item, Parsed> = {
    scope,
    lanes: verb.many === undefined || dryRun ? concurrency : Math.min(concurrency, MAXIMUM_GROUP_LANES),
    groupSize: verb.many === undefined || dryRun ? 1 : MAXIMUM_GROUP,
    get stopped() {
      return ledger.failedFast || scope.ended !== undefined;
    },
    begin: ledger.begin,
    fail,
    cancel: endEarly,

    admit(item, index) {
      try {
        const parsed = verb.parse(item);
        return { index, item, parsed, existed: undefined, attempts: 0, startedAt: 0, leftovers: [], part: undefined, span: undefined };
      } catch (error) {
        ledger.reject(item, index, describeInvalidItem(error));
        return undefined;
      }
    },

    async run(entries) {
      const now = performance.now();
      for (const entry of entries) {
        entry.startedAt = now;
        entry.span = ledger.span?.item(verb.path(entry.parsed));
      }
      let ready: readonly Entry<Item, Parsed>[] = entries;
      if (dryRun || verb.prepare !== undefined || batch.stopped) {
        const prepared: Entry<Item, Parsed>[] = [];
        await forEachConcurrently(entries, concurrency, async (entry) => {
          if (await prepare(entry)) prepared.push(entry);
        });
        ready = prepared;
      }
      if (verb.many === undefined || ready.length === 1) await forEachConcurrently(ready, concurrency, runOne);
      else await runChunks(verb.many, ready);
    },

    end(outcomes) {
      scope.dispose();
      for (const leave of participants) leave();
      return ledger.end(outcomes);
    },
  };
  return batch;
}

/** Rejects what is no number of files. Infinity is taken, and means as many as there are up to 1,024. */
function resolveConcurrency(value: number | undefined): number {
  if (value === undefined) return DEFAULT_CONCURRENCY;
  if (!(value >= 1)) throw new StowageError(`concurrency must be at least 1, got ${value}`, { code: "INVALID_ARGUMENT" });
  return Math.min(1024, Math.floor(value));
}

/** A broker in plain JavaScript may answer with anything. */
function isComplete(facts: unknown): boolean {
  return typeof facts === "object" && facts !== null && typeof (facts as { file?: { path?: unknown } }).file?.path === "string";
}

function describeInvalidItem(error: unknown): StowageError {
  if (StowageError.is(error)) return error;
  const problem = error instanceof Error ? error.message : String(error);
  return new StowageError(`not a valid item: ${problem}`, { code: "INVALID_ARGUMENT", cause: error });
}
