import type { OperationScope } from "./operation-context.ts";
import { type Outcome, STREAM_ERROR_OUTCOMES, TransferError } from "./outcome.ts";
import { createProgressTracker, type ProgressPart, type ProgressTracker } from "./progress.ts";
import type { StowageError } from "./stowage-error.ts";
import { type BatchSpan, type ItemSpan, startBatchSpan } from "./telemetry.ts";
import type { TransferOptions } from "./transfer-options.ts";
import type { Ending, Notes, Verb } from "./verb.ts";

/** One item on its way. */
export interface Entry<Item, Parsed> extends Notes {
  readonly index: number;
  readonly item: Item;
  readonly parsed: Parsed;
  attempts: number;
  /** `performance.now()` when work on it began. */
  startedAt: number;
  /** What its attempts left behind. The error of a chunk may name more than that. */
  leftovers: readonly string[];
  /** Its own, or that of its group. */
  part: ProgressPart | undefined;
  span: ItemSpan | undefined;
}

/** May become known while a batch runs. */
export interface BatchTotals {
  total?: number | undefined;
  totalBytes?: number | undefined;
}

/** `entry` is absent for an item that was not valid. */
export type BatchSink<Item, Parsed> = (outcome: Outcome<Item>, index: number, entry: Entry<Item, Parsed> | undefined) => void;

/** Where every item of a batch gets its one outcome: counted, shown as progress, ended as a span, told to the caller, summed up. */
export interface BatchLedger<Item, Parsed> {
  /** Something failed and `failFast` was asked for. */
  readonly failedFast: boolean;
  readonly tracker: ProgressTracker | undefined;
  readonly span: BatchSpan | undefined;
  begin(totals: BatchTotals): Promise<void>;
  succeed(entry: Entry<Item, Parsed>, ending: Ending): void;
  /** Wraps the error. */
  fail(entry: Entry<Item, Parsed>, error: unknown): void;
  /** For an item that could not be parsed. */
  reject(item: Item, index: number, error: StowageError): void;
  /** For what the end of the scope, or `failFast`, kept from ending by itself. */
  endEarly(item: Item, index: number, entry?: Entry<Item, Parsed> | undefined): void;
  /** What did not go well. `outcomes` are those of an array; a stream's error holds the first bad ones. */
  end(outcomes: readonly Outcome<Item>[] | undefined): StowageError | undefined;
}

export function createBatchLedger<Item, Parsed, Value>(
  verb: Verb<Item, Parsed, Value>,
  options: Pick<TransferOptions, "failFast" | "onProgress">,
  scope: OperationScope,
  sink: BatchSink<Item, Parsed>,
): BatchLedger<Item, Parsed> {
  const { operation, runtime } = verb;
  const counts = { done: 0, skipped: 0, planned: 0, failed: 0, cancelled: 0 };
  const bad: Outcome<Item>[] = [];
  let firstFailure: StowageError | undefined;
  let tracker: ProgressTracker | undefined;
  let span: BatchSpan | undefined;

  const tell = (outcome: Outcome<Item>, index: number, entry: Entry<Item, Parsed> | undefined): void => {
    counts[outcome.status]++;
    if (outcome.status === "failed" || outcome.status === "cancelled") {
      if (bad.length < STREAM_ERROR_OUTCOMES) bad.push(outcome);
      if (outcome.status === "failed") firstFailure ??= outcome.error as StowageError;
    }
    if (tracker !== undefined) {
      const total = entry === undefined ? undefined : verb.size(entry.parsed);
      if (entry?.part !== undefined) entry.part.itemEnded(outcome.item, total, outcome.status === "done" ? outcome.bytes : undefined);
      else tracker.itemEnded(outcome.item, total);
    }
    if (entry?.span !== undefined) endItemSpan(entry.span, outcome, entry.attempts);
    sink(outcome, index, entry);
  };

  const tellFailure = (item: Item, index: number, error: StowageError, entry: Entry<Item, Parsed> | undefined): void => {
    const { attempts = 0, startedAt = performance.now(), leftovers = [] } = entry ?? {};
    const durationMs = performance.now() - startedAt;
    tell({ status: "failed", item, error, leftovers: [...new Set(leftovers)], attempts, durationMs }, index, entry);
  };

  const summarize = (outcomes: readonly Outcome<Item>[] | undefined): StowageError | undefined => {
    const { failed, cancelled } = counts;
    // A stream may have been cut off between two items.
    const cut = outcomes === undefined ? scope.ended : undefined;
    if (failed === 0 && cancelled === 0 && cut === undefined) return undefined;
    const cause = firstFailure ?? scope.ended;
    const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
    const parts = [
      failed > 0 ? `${failed} of ${all} files failed` : undefined,
      cancelled > 0 ? `${cancelled} of ${all} were cancelled` : undefined,
    ].filter((part) => part !== undefined);
    const summary = `${operation}: ${parts.length > 0 ? parts.join(", ") : "ended early"}`;
    return new TransferError<Item>(cause === undefined ? summary : `${summary}; first: ${cause.message}`, {
      code: firstFailure?.code ?? (scope.ended?.code === "TIMEOUT" ? "TIMEOUT" : "CANCELLED"),
      outcomes: outcomes ?? bad,
      counts: { ...counts },
      cause,
      workspace: runtime.name,
    });
  };

  return {
    get failedFast() {
      return options.failFast === true && firstFailure !== undefined;
    },
    get tracker() {
      return tracker;
    },
    get span() {
      return span;
    },

    async begin(totals) {
      if (options.onProgress !== undefined) tracker = createProgressTracker((progress) => options.onProgress?.(progress), totals);
      const starting = startBatchSpan({ operation, workspace: runtime.name, brokerType: runtime.brokerType });
      if (starting !== undefined) span = await starting;
    },

    succeed(entry, ending) {
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
    },

    fail(entry, error) {
      tellFailure(entry.item, entry.index, runtime.wrap(error, operation, verb.path(entry.parsed)), entry);
    },

    reject(item, index, error) {
      tellFailure(item, index, runtime.wrap(error, operation, error.file), undefined);
    },

    endEarly(item, index, entry) {
      const path = entry === undefined ? undefined : verb.path(entry.parsed);
      if (scope.ended?.code === "TIMEOUT") tellFailure(item, index, runtime.wrap(scope.ended, operation, path), entry);
      else tell({ status: "cancelled", item, leftovers: [...new Set(entry?.leftovers)] }, index, entry);
    },

    end(outcomes) {
      const error = summarize(outcomes);
      span?.end(counts, error);
      return error;
    },
  };
}

function endItemSpan(span: ItemSpan, outcome: Outcome<unknown>, attempts: number): void {
  if (outcome.status === "done") {
    span.end({ outcome: "done", bytes: outcome.bytes, method: outcome.method, verified: outcome.verified, attempts }, undefined);
  } else {
    span.end({ outcome: outcome.status, attempts }, outcome.status === "failed" ? (outcome.error as StowageError) : undefined);
  }
}
