export { loadBrokerModules } from "./lib/broker-modules.ts";
export { EXIT_CODE_MEANINGS, EXIT_CODES, type ExitCode, type ExitCodeName, type ExitCodeStep, exitCodeOf } from "./lib/exit-codes.ts";
export { escapeGlob, type Glob, parseGlob } from "./lib/glob.ts";
export { type JobDirectory, jobDirectory } from "./lib/job-directory.ts";
export { JobError, type JobErrorOptions, type JobErrorReason, type JobProblem } from "./lib/job-error.ts";
export type { JobEvent, StepName, StepStatus, TransferEvent } from "./lib/job-event.ts";
export {
  type JobManifest,
  type ManifestFile,
  type ManifestInput,
  readJobManifest,
  type StagedFile,
  type StagedInput,
  type StagedJob,
} from "./lib/job-manifest.ts";
export type { JobFailure, JobResult, LogResult, MainResult, StepResult, StoredOutput, UsedInput } from "./lib/job-result.ts";
export type {
  JobRuntime,
  JobStep,
  MainStep,
  PreparedRun,
  RunPlan,
  RunReference,
  StageStep,
  StartedHandle,
  StepExit,
  StepIo,
} from "./lib/job-runtime.ts";
export {
  DEFAULT_JOB_LIMITS,
  DEFAULT_OUTPUT_PATH,
  inputVariable,
  type JobInput,
  type JobInputOptions,
  type JobLimits,
  type JobOutput,
  type JobOutputOptions,
  type JobSpec,
  type JobSpecInput,
  type JobWorkspace,
  jobSpecJsonSchema,
  parseJobSpec,
} from "./lib/job-spec.ts";
export { type JobWorkspaceConfiguration, resolveJobWorkspaces } from "./lib/job-workspaces.ts";
export { createLocalRuntime, type LocalRuntimeOptions } from "./lib/local-runtime.ts";
export { describeOwner, type Liveness, type Owner, ownerLiveness } from "./lib/owner.ts";
export { PATH_TEMPLATE_VARIABLES, type PathTemplateVariable } from "./lib/path-template.ts";
export { defaultScratch, type RunJobOptions, runJob } from "./lib/run-job.ts";
export {
  type Refusal,
  type RefusalReason,
  type ScanLimits,
  type ScannedFile,
  type ScanOptions,
  type ScanResult,
  scanOutputs,
} from "./lib/scan-outputs.ts";
export { type StageInOptions, stageIn } from "./lib/stage-in.ts";
export type { StageOptions } from "./lib/stage-options.ts";
export {
  type EarlierStageOut,
  type OutputTarget,
  type StageOutOptions,
  type StageOutResult,
  type StoredItem,
  stageOut,
} from "./lib/stage-out.ts";
export { type SweepJobsOptions, type SweepJobsReport, sweepJobs } from "./lib/sweep-jobs.ts";
