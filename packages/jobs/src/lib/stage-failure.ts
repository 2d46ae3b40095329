import { TransferError } from "@stowage/core";
import { escapePath, StowageError } from "@stowage/core/broker";
import { EXIT_CODES, exitCodeOf } from "./exit-codes.ts";
import { JobError } from "./job-error.ts";
import type { StepName } from "./job-event.ts";
import type { JobFailure } from "./job-result.ts";
import type { StageFailure } from "./step-protocol.ts";

/** How many of the files that failed are told of one by one. */
const MAXIMUM_FAILURES = 20;

/** An error of a step in the form that results and step processes tell it: no stack, no cause. */
export function describeStageFailure(error: unknown, step: StepName, isCancelled: boolean): StageFailure {
  const refused = JobError.is(error) ? error : undefined;
  return {
    exitCode: isCancelled ? EXIT_CODES.interrupted : exitCodeOf(error, step),
    isCancelled,
    failures: describeFailures(error, step),
    refusals: refused?.refusals ?? [],
    refusalCount: refused?.refusalCount ?? 0,
  };
}

/** The error itself, or each file of a batch that failed. */
export function describeFailures(error: unknown, step: StepName | undefined): JobFailure[] {
  const failed = TransferError.is(error) ? error.outcomes.filter((outcome) => outcome.status === "failed").slice(0, MAXIMUM_FAILURES) : [];
  return failed.length === 0 ? [describeFailure(error, step)] : failed.map((outcome) => describeFailure(outcome.error, step));
}

export function describeFailure(error: unknown, step: StepName | undefined): JobFailure {
  if (StowageError.is(error)) {
    const { code, message, workspace, file, retryable } = error;
    return { step, code, message, workspace, file: file === undefined ? undefined : escapePath(file), retryable };
  }
  return { step, code: "UNKNOWN", message: error instanceof Error ? error.message : String(error), retryable: false };
}
