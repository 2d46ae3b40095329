import { escapePath, type ListProblem, type Outcome, type Progress, StowageError, TransferError } from "@stowage/core";
import { describeError, EXIT_CODES, exitCodeFor } from "./exit.ts";
import { formatBytes, formatCount, formatDuration } from "./format.ts";
import type { Output } from "./output.ts";
import { createProgressBar } from "./progress.ts";

/** An item of a batch, with the names that a person knows it by. */
export interface NamedItem {
  /** `data:raw/a.csv`, or a local path. Not escaped. */
  readonly from: string;
  /** Where it goes; absent for deletions. */
  readonly to?: string | undefined;
  /** Bytes, where known. */
  readonly size?: number | undefined;
}

/** The words for what a command does. */
export interface Operation {
  /** For `--json`. */
  readonly name: "copy" | "move" | "delete";
  /** `copied`. */
  readonly past: string;
  /** `copy`, as in "would copy". */
  readonly present: string;
}

export interface Tally {
  done: number;
  skipped: number;
  planned: number;
  failed: number;
  cancelled: number;
  bytes: number;
  /** Things that a listing came upon and that were left out. */
  problems: number;
  firstError: unknown;
}

/** More items than this are not counted beforehand: then the bar has no end to show. */
const COUNTED_ITEMS = 10_000;

/** Reports a batch while it goes on: a line or a bar for people, records for programs, failures on standard error. */
export interface BatchReport {
  readonly tally: Tally;
  readonly onProgress: (progress: Progress) => void;
  readonly onProblem: (problem: ListProblem) => void;
  /** Passes items on; on a terminal it reads ahead, to know how many there are. */
  items<I extends NamedItem>(items: AsyncIterable<I>): AsyncIterable<I>;
  /** Reads a batch to its end. */
  read<I extends NamedItem>(outcomes: AsyncIterable<Outcome<I>>): Promise<void>;
  /** One outcome, for whoever reads the batch. */
  tell(outcome: Outcome<NamedItem>): void;
  /** The last word; gives the exit code. */
  end(): number;
}

export function createBatchReport(output: Output, operation: Operation): BatchReport {
  const startedAt = performance.now();
  const tally: Tally = { done: 0, skipped: 0, planned: 0, failed: 0, cancelled: 0, bytes: 0, problems: 0, firstError: undefined };
  const expected: { files?: number | undefined; bytes?: number | undefined } = {};
  const bar = createProgressBar(
    output,
    () => expected,
    (item) => (item as NamedItem | undefined)?.from,
  );
  let isCancelled = false;
  let only: Extract<Outcome<NamedItem>, { status: "done" }> | undefined;

  const report: BatchReport = {
    tally,
    onProgress: (progress) => bar.update(progress),
    onProblem: (problem) => {
      tally.problems++;
      tally.firstError ??= problem.error;
      output.record({ event: "problem", path: problem.path, message: describeError(problem.error) });
      output.failure(describeProblem(problem));
    },
    async *items(items) {
      if (!output.isWatched) {
        yield* items;
        return;
      }
      const ahead: NamedItem[] = [];
      const iterator = items[Symbol.asyncIterator]();
      try {
        let ended = false;
        while (!ended && ahead.length < COUNTED_ITEMS) {
          const next = await iterator.next();
          if (next.done) ended = true;
          else ahead.push(next.value);
        }
        if (ended) {
          expected.files = ahead.length;
          if (ahead.every((item) => item.size !== undefined)) expected.bytes = ahead.reduce((sum, item) => sum + (item.size ?? 0), 0);
        }
        type Item = typeof items extends AsyncIterable<infer T> ? T : never;
        for (const item of ahead.splice(0)) yield item as Item;
        if (!ended) yield* { [Symbol.asyncIterator]: () => iterator };
      } finally {
        await iterator.return?.();
      }
    },
    async read(outcomes) {
      const { failed, cancelled } = tally;
      try {
        for await (const outcome of outcomes) report.tell(outcome);
      } catch (error) {
        // Every outcome has been told. What has none is an error about the batch itself: it ended before it began with the rest.
        if (!TransferError.is(error)) throw error;
        if (error.code === "CANCELLED") isCancelled = true;
        else if (tally.failed === failed && tally.cancelled === cancelled) throw error;
        tally.firstError ??= error;
      } finally {
        bar.end();
      }
    },
    tell(outcome) {
      tally[outcome.status]++;
      if (outcome.status === "done") {
        tally.bytes += outcome.bytes;
        only = tally.done === 1 ? outcome : undefined;
      } else if (outcome.status === "planned") {
        tally.bytes += outcome.bytes;
      } else if (outcome.status === "failed") {
        tally.firstError ??= outcome.error;
      }
      output.record(toRecord(outcome, operation));
      if (outcome.status === "failed") output.failure(describeFailure(outcome));
      else if (outcome.status === "planned" || !output.isWatched || output.isVerbose) {
        const line = describeOutcome(outcome, operation);
        if (line !== undefined) output.line(line);
      }
      if ("leftovers" in outcome && outcome.leftovers.length > 0) {
        output.notice(`left behind, for "stowage sweep": ${outcome.leftovers.map(escapePath).join(", ")}`);
      }
    },
    end() {
      bar.end();
      const durationMs = Math.round(performance.now() - startedAt);
      const { done, skipped, planned, failed, cancelled, bytes, problems } = tally;
      output.record({
        event: "summary",
        operation: operation.name,
        done,
        skipped,
        planned,
        failed,
        cancelled,
        problems,
        bytes,
        durationMs,
      });
      // A single file that failed has had its one line.
      if (done + skipped + planned + cancelled > 0 || failed + problems > 1) output.line(describeTally(tally, operation, durationMs, only));
      if ((isCancelled || cancelled > 0) && failed === 0) return EXIT_CODES.interrupted;
      return failed + problems > 0 ? exitCodeFor(tally.firstError) : EXIT_CODES.success;
    },
  };
  return report;
}

function describeProblem({ path, error }: ListProblem): string {
  const message = describeError(error);
  return message.includes(path) ? message : `"${path}" was left out: ${message}`;
}

function describeFailure({ item, error }: Extract<Outcome<NamedItem>, { status: "failed" }>): string {
  const message = describeError(error);
  const file = StowageError.is(error) ? error.file : undefined;
  const named = [item.from, item.to, file].some((name) => name !== undefined && message.includes(escapePath(name)));
  return named ? message : `${describeNames(item)}: ${message}`;
}

function describeNames(item: NamedItem): string {
  return item.to === undefined ? escapePath(item.from) : `${escapePath(item.from)} → ${escapePath(item.to)}`;
}

function describeOutcome(outcome: Outcome<NamedItem>, operation: Operation): string | undefined {
  const names = describeNames(outcome.item);
  switch (outcome.status) {
    case "done":
      return outcome.method === "delete"
        ? `${operation.past} ${names}`
        : `${operation.past} ${names} (${formatBytes(outcome.bytes)}, ${describeMethod(outcome)})`;
    case "skipped":
      return `skipped ${names} (${SKIP_REASONS[outcome.reason]})`;
    case "planned":
      return `would ${operation.present} ${names}${operation.name === "delete" ? "" : ` (${formatBytes(outcome.bytes)}${outcome.wouldReplace ? ", replacing what is there" : ""})`}`;
    default:
      return undefined;
  }
}

const SKIP_REASONS = { missing: "not there", exists: "exists", same: "the same" } as const;

/** `reflink, verified by length`. */
function describeMethod(outcome: Extract<Outcome<unknown>, { status: "done" }>): string {
  if (outcome.verified === "none") return `${outcome.method}, not verified`;
  return `${outcome.method}, verified by ${outcome.verified === "digest" ? (outcome.digest?.algorithm ?? "digest") : "length"}`;
}

function describeTally(
  tally: Tally,
  operation: Operation,
  durationMs: number,
  only: Extract<Outcome<NamedItem>, { status: "done" }> | undefined,
): string {
  const parts: string[] = [];
  const isDeletion = operation.name === "delete";
  if (tally.done > 0 || (tally.planned === 0 && tally.skipped === 0)) {
    const rate = durationMs >= 500 && tally.bytes > 0 ? `, ${formatBytes((tally.bytes / durationMs) * 1000)}/s` : "";
    const how = only === undefined || only.method === "delete" ? "" : ` (${describeMethod(only)})`;
    const what = isDeletion ? "" : `, ${formatBytes(tally.bytes)}`;
    parts.push(`${formatCount(tally.done, "file")} ${operation.past}${what} in ${formatDuration(durationMs)}${rate}${how}`);
  }
  if (tally.planned > 0)
    parts.push(`${formatCount(tally.planned, "file")} would be ${operation.past}${isDeletion ? "" : `, ${formatBytes(tally.bytes)}`}`);
  if (tally.skipped > 0) parts.push(`${tally.skipped.toLocaleString("en-US")} skipped`);
  if (tally.failed > 0) parts.push(`${tally.failed.toLocaleString("en-US")} failed`);
  if (tally.problems > 0) parts.push(`${tally.problems.toLocaleString("en-US")} left out`);
  if (tally.cancelled > 0) parts.push(`${tally.cancelled.toLocaleString("en-US")} cancelled`);
  return parts.join("; ");
}

function toRecord(outcome: Outcome<NamedItem>, operation: Operation): object {
  const { item, status } = outcome;
  const names = { event: "file", operation: operation.name, status, from: item.from, to: item.to };
  switch (outcome.status) {
    case "done": {
      const { bytes, method, verified, digest, attempts, durationMs } = outcome;
      return { ...names, bytes, method, verified, digest, attempts, durationMs: Math.round(durationMs) };
    }
    case "skipped":
      return { ...names, reason: outcome.reason };
    case "planned":
      return { ...names, bytes: outcome.bytes, wouldReplace: outcome.wouldReplace };
    case "failed": {
      const { error, leftovers, attempts } = outcome;
      return {
        ...names,
        code: (error as { code?: unknown }).code,
        message: describeError(error),
        exitCode: exitCodeFor(error),
        leftovers,
        attempts,
      };
    }
    case "cancelled":
      return { ...names, leftovers: outcome.leftovers };
  }
}
