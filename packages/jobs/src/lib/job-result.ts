import type { Digest, StowageErrorCode, TransferMethod, Verification } from "@stowage/core/broker";
import type { StepName, StepStatus } from "./job-event.ts";
import type { Refusal } from "./scan-outputs.ts";

/** One stored file. */
export interface StoredOutput {
  /** Of the output in the job. */
  readonly output: string;
  readonly workspace: string;
  /** Path in the workspace. */
  readonly path: string;
  /** Path inside the output directory. */
  readonly source: string;
  /** Bytes. */
  readonly size: number;
  readonly digest?: Digest | undefined;
  readonly version?: string | undefined;
  /** Absent: it was stored already, and the same. */
  readonly method?: TransferMethod | undefined;
  readonly verified: Exclude<Verification, "none">;
}

/** One input file, as the result tells of it. */
export interface UsedInput {
  readonly input: string;
  readonly workspace: string;
  /** Path in the workspace. */
  readonly path: string;
  /** Relative to the run's directory. */
  readonly staged: string;
  readonly size: number;
  readonly digest?: Digest | undefined;
  readonly version?: string | undefined;
  readonly method?: TransferMethod | undefined;
  readonly verified: Verification;
}

export interface StepResult {
  readonly step: StepName;
  readonly status: StepStatus;
  /** ISO 8601; absent for a step that did not run. */
  readonly startedAt?: string | undefined;
  readonly durationMs: number;
}

/** How the command ended. */
export interface MainResult {
  /** `null` when a signal ended it. */
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly timedOut: boolean;
}

/** An error as the result tells of it: no stack, no cause, no secret. */
export interface JobFailure {
  readonly step?: StepName | undefined;
  readonly code: StowageErrorCode;
  readonly message: string;
  readonly workspace?: string | undefined;
  readonly file?: string | undefined;
  readonly retryable: boolean;
}

export interface LogResult {
  /** Absolute; absent when it was removed with the run's directory. */
  readonly path?: string | undefined;
  /** Bytes that the command wrote. */
  readonly bytes: number;
  /** Whether the file holds fewer. */
  readonly truncated: boolean;
}

/** What became of a run: also the content of the result file. */
export interface JobResult {
  readonly version: 1;
  /** `""` when the job could not even be read. */
  readonly job: string;
  readonly run: string;
  readonly resumed: boolean;
  readonly status: "succeeded" | "failed" | "cancelled";
  /** The command's own when it failed by itself; else see `EXIT_CODES`. */
  readonly exitCode: number;
  readonly startedAt: string;
  readonly endedAt: string;
  readonly durationMs: number;
  /** Absent when the command was never started. */
  readonly main?: MainResult | undefined;
  readonly steps: readonly StepResult[];
  readonly inputs: readonly UsedInput[];
  readonly outputs: readonly StoredOutput[];
  /** Files of the output directory that no output matches, at most 100 of them. */
  readonly unmatched: readonly string[];
  readonly unmatchedCount: number;
  readonly refusals: readonly Refusal[];
  readonly refusalCount: number;
  readonly logs: { readonly stdout?: LogResult | undefined; readonly stderr?: LogResult | undefined };
  readonly errors: readonly JobFailure[];
  /** The run's directory, where it was kept. */
  readonly directory?: string | undefined;
  /** What could not be removed. */
  readonly leftovers: readonly string[];
}
