import type { StowageErrorCode } from "./error-codes.ts";
import type { Digest, StoredFile, TransferMethod, Verification } from "./files.ts";
import { StowageError } from "./stowage-error.ts";

/** How one item of a batch ended. `item` is the caller's own object. */
export type Outcome<Item> =
  | {
      readonly status: "done";
      readonly item: Item;
      readonly file: StoredFile;
      readonly method: TransferMethod | "delete";
      /** The file's size in bytes; 0 for a deletion. */
      readonly bytes: number;
      readonly digest?: Digest | undefined;
      readonly verified: Verification;
      readonly attempts: number;
      readonly durationMs: number;
    }
  | { readonly status: "skipped"; readonly item: Item; readonly reason: "missing" | "exists" | "same" }
  | { readonly status: "planned"; readonly item: Item; readonly bytes: number; readonly wouldReplace: boolean }
  | {
      readonly status: "failed";
      readonly item: Item;
      readonly error: Error;
      /** What could not be cleaned up; `sweep` will find it. */
      readonly leftovers: readonly string[];
      readonly attempts: number;
      readonly durationMs: number;
    }
  | { readonly status: "cancelled"; readonly item: Item; readonly leftovers: readonly string[] };

export type OutcomeCounts = { readonly [Status in Outcome<unknown>["status"]]: number };

/** How many failed or cancelled outcomes the error of a streamed batch holds; the stream itself has given every one. */
export const STREAM_ERROR_OUTCOMES = 100;

/**
 * A batch that did not end well. `outcomes` holds, for an array, the outcome of every item in input order; for a stream the
 * first 100 that failed or were cancelled. `code` is the first failure's, or `CANCELLED`.
 */
export class TransferError<Item = unknown> extends StowageError {
  readonly isTransferError = true as const;
  readonly outcomes: readonly Outcome<Item>[];
  readonly counts: OutcomeCounts;

  constructor(
    message: string,
    options: {
      code: StowageErrorCode;
      outcomes: readonly Outcome<Item>[];
      counts: OutcomeCounts;
      cause?: unknown;
      workspace?: string | undefined;
    },
  ) {
    super(message, { code: options.code, cause: options.cause, workspace: options.workspace, retryable: false });
    this.name = "TransferError";
    this.outcomes = options.outcomes;
    this.counts = options.counts;
  }

  static override is(error: unknown): error is TransferError {
    return StowageError.is(error) && (error as { isTransferError?: unknown }).isTransferError === true;
  }
}
