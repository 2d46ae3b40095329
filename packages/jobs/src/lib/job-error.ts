import { StowageError, type StowageErrorCode } from "@stowage/core/broker";
import type { Refusal } from "./scan-outputs.ts";

/** Why a job did not do what it was asked for, where the error codes of storage do not say it. */
export type JobErrorReason =
  | "invalid-job"
  | "already-running"
  | "command-not-started"
  | "timed-out"
  | "killed"
  | "main-failed"
  | "outputs-refused"
  | "step-failed";

/** One thing that is wrong with a job specification. */
export interface JobProblem {
  /** Where, as one would write it in code: `inputs[0].glob`; empty for the job as a whole. */
  readonly path: string;
  /** What is wrong and what to do about it. */
  readonly message: string;
}

export interface JobErrorOptions {
  readonly reason: JobErrorReason;
  /** Defaults to the nearest one for the reason. */
  readonly code?: StowageErrorCode | undefined;
  readonly problems?: readonly JobProblem[] | undefined;
  readonly refusals?: readonly Refusal[] | undefined;
  /** How many refusals there were; defaults to the number of `refusals`. */
  readonly refusalCount?: number | undefined;
  readonly cause?: unknown;
}

const CODES: Readonly<Record<JobErrorReason, StowageErrorCode>> = {
  "invalid-job": "INVALID_CONFIGURATION",
  "already-running": "CONFLICT",
  "command-not-started": "INVALID_ARGUMENT",
  "timed-out": "TIMEOUT",
  killed: "UNKNOWN",
  "main-failed": "UNKNOWN",
  "outputs-refused": "UNSUPPORTED",
  "step-failed": "UNKNOWN",
};

/** An error that is about a job, not about a file. Recognise it with `JobError.is`, never with `instanceof`. */
export class JobError extends StowageError {
  readonly isJobError = true as const;
  readonly reason: JobErrorReason;
  /** For `invalid-job`: everything that was found wrong. */
  readonly problems: readonly JobProblem[];
  /** For `outputs-refused`: the first of what was refused. */
  readonly refusals: readonly Refusal[];
  readonly refusalCount: number;

  constructor(message: string, options: JobErrorOptions) {
    super(message, { code: options.code ?? CODES[options.reason], cause: options.cause, retryable: false });
    this.name = "JobError";
    this.reason = options.reason;
    this.problems = options.problems ?? [];
    this.refusals = options.refusals ?? [];
    this.refusalCount = options.refusalCount ?? this.refusals.length;
  }

  static override is(error: unknown): error is JobError {
    return StowageError.is(error) && (error as { isJobError?: unknown }).isJobError === true;
  }
}
