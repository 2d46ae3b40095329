import { isRetryableCode, type StowageErrorCode } from "./error-codes.ts";

export interface StowageErrorOptions {
  readonly code: StowageErrorCode;
  /** Path of the file concerned, inside its workspace. */
  readonly file?: string | undefined;
  /** Name of the workspace concerned. */
  readonly workspace?: string | undefined;
  /** Defaults to what `isRetryableCode` says of the code. */
  readonly retryable?: boolean | undefined;
  readonly retryAfterMs?: number | undefined;
  /** Names of temporary files, uploads or other remains that could not be cleaned up; `sweep` will find them. */
  readonly leftovers?: readonly string[] | undefined;
  readonly cause?: unknown;
}

/**
 * Every error that this SDK raises. Recognise it with `StowageError.is`, never with `instanceof`:
 * an application and a broker may each have a copy of this package.
 */
export class StowageError extends Error {
  readonly isStowageError = true as const;
  readonly code: StowageErrorCode;
  readonly file: string | undefined;
  readonly workspace: string | undefined;
  readonly retryable: boolean;
  readonly retryAfterMs: number | undefined;
  readonly leftovers: readonly string[];

  constructor(message: string, options: StowageErrorOptions) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "StowageError";
    this.code = options.code;
    this.file = options.file;
    this.workspace = options.workspace;
    this.retryable = options.retryable ?? isRetryableCode(options.code);
    this.retryAfterMs = options.retryAfterMs;
    this.leftovers = options.leftovers ?? [];
  }

  static is(error: unknown): error is StowageError {
    return typeof error === "object" && error !== null && (error as { isStowageError?: unknown }).isStowageError === true;
  }
}
