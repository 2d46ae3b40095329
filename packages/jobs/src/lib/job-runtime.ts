import type { JobSpec } from "./job-spec.ts";
import type { Owner } from "./owner.ts";

/** What a runtime says of something that it started, so that it can find and stop it later, in another process too. */
export type StartedHandle = { readonly [key: string]: unknown };

/** A run, as a runtime is told of it. */
export interface RunReference {
  readonly job: string;
  readonly runId: string;
  /** Where the run's files are for the stager; absolute. */
  readonly directory: string;
  /** Who stages; a run of a dead owner is an orphan. */
  readonly owner: Owner;
}

export interface RunPlan extends RunReference {
  readonly spec: JobSpec;
}

export interface PreparedRun {
  /** Where the command will see the run's directory. */
  readonly directory: string;
  /** The command mounts the workspaces read-only at the same paths, or is trusted as the stager is: `partial` inputs may be links. */
  readonly linkPartial: boolean;
  /** Where pre and post step find workspaces' volumes, by name in the job. */
  readonly volumePaths?: Readonly<Record<string, string>> | undefined;
}

/** What is to be run; plain data. */
export type JobStep = StageStep | MainStep;

/** Pre or post step: `@stowage/jobs/step` as a process of its own. */
export interface StageStep {
  readonly role: "pre" | "post";
  readonly run: RunReference;
  /** The first line for its standard input, which stays open for further lines and tells by its end that the runner is gone. */
  readonly request: string;
}

export interface MainStep {
  readonly role: "main";
  readonly run: RunReference;
  /** Never empty. */
  readonly command: readonly string[];
  /** Absolute. */
  readonly workingDirectory: string;
  /** All of it, but for what the platform needs (`PATH`, `HOME`, `LANG`). */
  readonly environment: Readonly<Record<string, string>>;
}

export interface StepIo {
  /** Aborts: ask it to end (SIGTERM, or the line `cancel` for a stage step), and kill it after `graceMs`. */
  readonly signal: AbortSignal;
  readonly graceMs: number;
  /** Await it before the step does anything: recorded first, then started, where that is possible. */
  onStarted(handle: StartedHandle): Promise<void>;
  /** Standard output and error; of a stage step only what is no message. Wait for it before reading more. */
  onOutput(stream: "stdout" | "stderr", chunk: Uint8Array): Promise<void> | void;
  /** A message of a stage step, as one line; `reply` sends one back. */
  onMessage?(line: string, reply: (line: string) => void): void;
}

export type StepExit =
  | { readonly status: "exited"; readonly exitCode: number | null; readonly signal: string | null }
  /** It could not be started; `message` says why and what to do. */
  | { readonly status: "not-started"; readonly message: string };

/** Where a job runs: processes of this machine, or containers. One object may serve many runs at once. */
export interface JobRuntime {
  /** `local`, `docker`. */
  readonly type: string;
  /** Makes what the run needs before its first step. Repeatable. */
  prepare(run: RunPlan, signal: AbortSignal | undefined): Promise<PreparedRun>;
  /** Runs one step to its end; nothing that it started runs any more when this settles. */
  runStep(step: JobStep, io: StepIo): Promise<StepExit>;
  /**
   * Stops what an earlier owner of the run, by now dead, left running; gives what could not be stopped. `isStarting`: that owner died when it was about
   * to start something of which it could not tell any more.
   */
  stop(run: RunReference, started: readonly StartedHandle[], state: { readonly isStarting: boolean }): Promise<readonly string[]>;
  /** Removes what `prepare` made and the files that steps left in the run's directory; gives what could not be removed. */
  remove(run: RunReference): Promise<readonly string[]>;
  /** Finds and stops what runs of dead owners, with directories in `scratch`, left anywhere, also when these are gone; gives their names. */
  sweep(scratch: string): Promise<readonly string[]>;
}
