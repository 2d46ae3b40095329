import { StowageError, type StowageErrorCode, systemErrorCode } from "@stowage/core/broker";
import { JobError, type JobErrorReason } from "./job-error.ts";

/**
 * What `stowage` and a job's run exit with. A job's own command keeps its code: these are 160 to 191, and the result file says for
 * certain whose code it was.
 */
export const EXIT_CODES = {
  success: 0,
  badArguments: 160,
  invalidConfiguration: 161,
  invalidJob: 162,
  inputMissing: 163,
  stageInFailed: 164,
  commandNotStarted: 165,
  timedOut: 166,
  outputsRefused: 167,
  stageOutFailed: 168,
  verificationFailed: 169,
  accessRefused: 170,
  noSpace: 171,
  unreachable: 172,
  conflict: 173,
  unsupported: 174,
  notRecorded: 175,
  killed: 176,
  interrupted: 180,
  alreadyRunning: 190,
  internalError: 191,
} as const;

export type ExitCodeName = keyof typeof EXIT_CODES;
export type ExitCode = (typeof EXIT_CODES)[ExitCodeName];

/** One line on each code, for help texts and documentation. */
export const EXIT_CODE_MEANINGS: Readonly<Record<ExitCodeName, string>> = {
  success: "everything was done",
  badArguments: "bad arguments",
  invalidConfiguration: "invalid configuration",
  invalidJob: "invalid job",
  inputMissing: "an input file is missing",
  stageInFailed: "staging in failed",
  commandNotStarted: "the command could not be started",
  timedOut: "the command ran into its time limit",
  outputsRefused: "outputs were refused: hostile, over a limit, or a required one is missing",
  stageOutFailed: "staging out failed",
  verificationFailed: "verification failed",
  accessRefused: "access was refused",
  noSpace: "no space is left",
  unreachable: "the storage cannot be reached",
  conflict: "the target exists or is in conflict",
  unsupported: "the storage cannot do this",
  notRecorded: "stored, but not recorded",
  killed: "the command was killed by a signal, which the result file names",
  interrupted: "interrupted",
  alreadyRunning: "another run of the same job is active",
  internalError: "internal error",
};

/** `undefined`: the code says nothing of its own, the step decides. */
const BY_CODE: Readonly<Record<StowageErrorCode, ExitCodeName | undefined>> = {
  FILE_NOT_FOUND: "inputMissing",
  FILE_DELETED: "inputMissing",
  FILE_EXISTS: "conflict",
  NOT_A_FILE: undefined,
  PERMISSION_DENIED: "accessRefused",
  UNAUTHENTICATED: "accessRefused",
  INVALID_CONFIGURATION: "invalidConfiguration",
  UNKNOWN_BROKER_TYPE: "invalidConfiguration",
  CONTRACT_MISMATCH: "invalidConfiguration",
  INVALID_PATH: "invalidConfiguration",
  INVALID_ARGUMENT: "badArguments",
  CHECKSUM_MISMATCH: "verificationFailed",
  SHORT_SOURCE: "verificationFailed",
  SOURCE_CHANGED: "verificationFailed",
  VOLUME_NOT_MOUNTED: "unreachable",
  STALE_HANDLE: "unreachable",
  READ_ONLY: "accessRefused",
  NO_SPACE: "noSpace",
  QUOTA_EXCEEDED: "noSpace",
  ARCHIVED: "accessRefused",
  UNSUPPORTED: "unsupported",
  RATE_LIMITED: "unreachable",
  TIMEOUT: "unreachable",
  STALLED: "unreachable",
  UNAVAILABLE: "unreachable",
  CONFLICT: "conflict",
  NOT_RECORDED: "notRecorded",
  CLOSED: undefined,
  CANCELLED: "interrupted",
  UNKNOWN: undefined,
};

const BY_REASON: Readonly<Record<JobErrorReason, ExitCodeName | undefined>> = {
  "invalid-job": "invalidJob",
  "already-running": "alreadyRunning",
  "command-not-started": "commandNotStarted",
  "timed-out": "timedOut",
  killed: "killed",
  "outputs-refused": "outputsRefused",
  "main-failed": undefined,
  "step-failed": undefined,
};

/** Which part of a run an error comes from; decides where the error's own code says nothing. */
export type ExitCodeStep = "pre" | "main" | "post";

/** The exit code for an error, by its cause. Errors that are not ours are internal errors, or failures of the step that they stopped. */
export function exitCodeOf(error: unknown, step?: ExitCodeStep): ExitCode {
  return EXIT_CODES[exitCodeNameOf(error, step)];
}

function exitCodeNameOf(error: unknown, step: ExitCodeStep | undefined): ExitCodeName {
  if (JobError.is(error)) {
    const name = BY_REASON[error.reason];
    if (name !== undefined) return name;
  }
  if (StowageError.is(error)) {
    // A newer core may know codes that this table does not.
    const name = Object.hasOwn(BY_CODE, error.code) ? BY_CODE[error.code] : undefined;
    // What is missing while outputs are stored is no input.
    if (name === "inputMissing" && step === "post") return "stageOutFailed";
    if (name !== undefined) return name;
    if (error.code === "NOT_A_FILE" && step === undefined) return "inputMissing";
  } else if (isAbortError(error)) {
    return "interrupted";
  } else {
    // The operating system's word on space and access counts; a file of our own that is not there is no missing input.
    const code = systemErrorCode(error);
    const name = code === undefined || code === "FILE_NOT_FOUND" ? undefined : BY_CODE[code];
    if (name !== undefined) return name;
  }
  return step === "pre" ? "stageInFailed" : step === "post" ? "stageOutFailed" : "internalError";
}

function isAbortError(error: unknown): boolean {
  return typeof error === "object" && error !== null && (error as { name?: unknown }).name === "AbortError";
}
