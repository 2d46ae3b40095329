import { escapePath, type Progress } from "@stowage/core";
import { formatBytes, formatDuration } from "./format.ts";
import { type Output, shorten } from "./output.ts";

/** What a batch is known to amount to before it begins; absent where nobody counted. */
export interface ExpectedWork {
  readonly files?: number | undefined;
  readonly bytes?: number | undefined;
}

/** A bar on a terminal, nothing elsewhere. */
export interface ProgressBar {
  update(progress: Progress): void;
  end(): void;
}

const REDRAW_MS = 100;
const BAR_COLUMNS = 24;

/** `describeItem` gives the name of the file that a report is about. */
export function createProgressBar(
  output: Output,
  expected: () => ExpectedWork,
  describeItem: (item: unknown) => string | undefined,
): ProgressBar {
  if (!output.isWatched) return { update: () => {}, end: () => {} };
  const startedAt = performance.now();
  let drawnAt = Number.NEGATIVE_INFINITY;
  return {
    update(progress) {
      const now = performance.now();
      if (now - drawnAt < REDRAW_MS) return;
      drawnAt = now;
      output.status(drawProgress(progress, expected(), now - startedAt, output.columns, describeItem(progress.item)));
    },
    end: () => output.status(undefined),
  };
}

/** One line of at most `columns` columns. */
export function drawProgress(
  progress: Progress,
  expected: ExpectedWork,
  elapsedMs: number,
  columns: number,
  name: string | undefined,
): string {
  const totalBytes = expected.bytes ?? progress.totalBytes;
  const totalFiles = expected.files ?? progress.total;
  const rate = elapsedMs < 500 ? 0 : (progress.bytes / elapsedMs) * 1000;
  const parts: string[] = [];
  if (totalBytes !== undefined && totalBytes > 0) {
    const share = Math.min(1, progress.bytes / totalBytes);
    const filled = Math.round(share * BAR_COLUMNS);
    parts.push(`${"█".repeat(filled)}${"░".repeat(BAR_COLUMNS - filled)} ${String(Math.floor(share * 100)).padStart(3)} %`);
    parts.push(`${formatBytes(progress.bytes)} of ${formatBytes(totalBytes)}`);
  } else {
    parts.push(formatBytes(progress.bytes));
  }
  if (totalFiles !== 1) parts.push(totalFiles === undefined ? `${progress.done} files` : `${progress.done} of ${totalFiles} files`);
  if (rate > 0) parts.push(`${formatBytes(rate)}/s`);
  if (rate > 0 && totalBytes !== undefined && totalBytes > progress.bytes) {
    parts.push(`${formatDuration(((totalBytes - progress.bytes) / rate) * 1000)} left`);
  }
  let line = parts.join("  ");
  const room = columns - 1 - line.length - 2;
  if (name !== undefined && room >= 12) line += `  ${shorten(escapePath(name), room)}`;
  return shorten(line, columns - 1);
}
