import type { Progress } from "./transfer-options.ts";

/** At most ten reports a second for each item. */
const INTERVAL_MS = 100;

/** Bytes of one item or chunk that moves; made anew for each, told of each attempt. */
export interface ProgressPart {
  /** The next attempt starts from nothing; what was reported stays. */
  begin(): void;
  /** `bytes` more have moved in this attempt. */
  add(bytes: number): void;
  /** One item of this part has ended; `bytes` is its size when it is done. */
  itemEnded(item: unknown, total: number | undefined, bytes: number | undefined): void;
  /** Nothing of this part moves any more. */
  close(): void;
}

/** Counts the bytes and items of one batch and reports them. */
export interface ProgressTracker {
  /** `item` is absent for a chunk that the broker moves as one. */
  part(item?: unknown, total?: number | undefined): ProgressPart;
  /** An item has ended that never moved. */
  itemEnded(item: unknown, total: number | undefined): void;
}

/**
 * Reports to `onProgress`. The bytes of an item and of the batch never fall, also when attempts are repeated or items fail after
 * bytes of them have moved.
 */
export function createProgressTracker(
  onProgress: (progress: Progress) => void,
  totals: { readonly total?: number | undefined; readonly totalBytes?: number | undefined },
): ProgressTracker {
  let done = 0;
  /** Bytes of items that are done. */
  let settledBytes = 0;
  /** Bytes of what moves now. */
  let movingBytes = 0;
  let reportedBytes = 0;

  const report = (item: unknown, itemBytes: number, itemTotal: number | undefined): void => {
    reportedBytes = Math.max(reportedBytes, settledBytes + movingBytes);
    const progress = { itemBytes, itemTotal, bytes: reportedBytes, totalBytes: totals.totalBytes, done, total: totals.total };
    try {
      onProgress(item === undefined ? progress : { item, ...progress });
    } catch {
      // A display that fails is no reason to stop a transfer.
    }
  };

  return {
    part(item, total) {
      let attemptBytes = 0;
      let highest = 0;
      /** Bytes of the items of this part that are done, so that they do not count twice. */
      let partSettled = 0;
      let counted = 0;
      let lastReport = Number.NEGATIVE_INFINITY;

      const count = (): void => {
        const moving = Math.max(0, highest - partSettled);
        movingBytes += moving - counted;
        counted = moving;
      };
      return {
        begin() {
          attemptBytes = 0;
          // A repeated chunk holds only the items that are left.
          if (item === undefined) {
            highest = 0;
            partSettled = 0;
            count();
          }
        },
        add(bytes) {
          attemptBytes += bytes;
          if (attemptBytes > highest) {
            highest = attemptBytes;
            count();
          }
          const now = performance.now();
          if (now - lastReport < INTERVAL_MS) return;
          lastReport = now;
          report(item, highest, total);
        },
        itemEnded(ended, endedTotal, bytes) {
          done++;
          if (bytes !== undefined) {
            settledBytes += bytes;
            partSettled += bytes;
            count();
          }
          report(ended, Math.max(item === undefined ? 0 : highest, bytes ?? 0), endedTotal ?? bytes);
        },
        close() {
          movingBytes -= counted;
          counted = 0;
        },
      };
    },
    itemEnded(item, total) {
      done++;
      report(item, 0, total);
    },
  };
}
