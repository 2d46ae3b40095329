import { type Outcome, type Progress, TransferError } from "@stowage/core";
import type { TransferEvent } from "./job-event.ts";

/** The outcomes of a batch in input order, and the error that it ended with. Throws what is no outcome of single files. */
export interface ChunkResult<Item> {
  readonly outcomes: readonly Outcome<Item>[];
  readonly error: unknown;
}

export async function collectOutcomes<Item>(batch: Promise<Outcome<Item>[]>): Promise<ChunkResult<Item>> {
  try {
    return { outcomes: await batch, error: undefined };
  } catch (error) {
    if (TransferError.is(error)) return { outcomes: error.outcomes as readonly Outcome<Item>[], error };
    throw error;
  }
}

/** Makes one report of the progress of several batches, one after the other. */
export interface ProgressMeter {
  /** Give this to a batch as `onProgress`. */
  report(progress: Progress): void;
  /** A batch, which has reported its own end, has ended with so many files and bytes. */
  settle(files: number, bytes: number): void;
  /** So many files and bytes needed no batch. */
  advance(files: number, bytes: number): void;
}

export function createProgressMeter(
  step: "pre" | "post",
  totals: { readonly files: number; readonly bytes: number },
  onEvent: ((event: TransferEvent) => void) | undefined,
): ProgressMeter {
  let files = 0;
  let bytes = 0;
  const tell = (done: number, moved: number): void =>
    onEvent?.({ type: "progress", step, done, total: totals.files, bytes: Math.min(moved, totals.bytes), totalBytes: totals.bytes });
  const settle = (moreFiles: number, moreBytes: number): void => {
    files += moreFiles;
    bytes += moreBytes;
  };
  return {
    report: (progress) => tell(files + progress.done, bytes + progress.bytes),
    settle,
    advance: (moreFiles, moreBytes) => {
      settle(moreFiles, moreBytes);
      tell(files, bytes);
    },
  };
}
