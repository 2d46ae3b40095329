import { join } from "node:path";
import { jobDirectory } from "./job-directory.ts";
import { JobError } from "./job-error.ts";
import type { StagedJob } from "./job-manifest.ts";
import type { StepExit } from "./job-runtime.ts";
import { inputVariable, type JobSpec } from "./job-spec.ts";

/** The longest time that a timer takes. */
const MAXIMUM_TIMER_MS = 2 ** 31 - 1;

/** What the command finds in its environment, beside what the platform needs. */
export function mainEnvironment(spec: JobSpec, runId: string, directory: string, staged: StagedJob): Record<string, string> {
  const { input, output, temporary, manifest } = jobDirectory(directory);
  const environment: Record<string, string> = {
    TMPDIR: temporary,
    ...spec.environment,
    STOWAGE_JOB: spec.name,
    STOWAGE_RUN: runId,
    STOWAGE_JOB_DIRECTORY: directory,
    STOWAGE_JOB_MANIFEST: manifest,
    STOWAGE_INPUT: input,
    STOWAGE_OUTPUT: output,
  };
  for (const { name, kind, files } of staged.inputs) {
    const [first] = files;
    if (kind === "files") environment[inputVariable(name)] = join(input, name);
    else if (first !== undefined) environment[inputVariable(name)] = join(directory, first.staged);
  }
  return environment;
}

export interface Stop {
  readonly signal: AbortSignal;
  isTimedOut(): boolean;
  end(): void;
}

/** Aborts when the caller does, or when the time is over. */
export function createStop(signal: AbortSignal | undefined, timeoutSeconds: number | undefined): Stop {
  const controller = new AbortController();
  const onAbort = (): void => controller.abort(signal?.reason);
  if (signal?.aborted === true) onAbort();
  else signal?.addEventListener("abort", onAbort, { once: true });
  let timer: NodeJS.Timeout | undefined;
  let timedOut = false;
  const until = timeoutSeconds === undefined ? undefined : performance.now() + timeoutSeconds * 1000;
  const arm = (): void => {
    if (until === undefined) return;
    const rest = until - performance.now();
    timer = setTimeout(
      () => {
        if (rest > MAXIMUM_TIMER_MS) return arm();
        timedOut = !controller.signal.aborted;
        controller.abort(new JobError("the command ran into its time limit", { reason: "timed-out" }));
      },
      Math.max(1, Math.min(rest, MAXIMUM_TIMER_MS)),
    );
  };
  arm();
  return {
    signal: controller.signal,
    isTimedOut: () => timedOut,
    end: () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    },
  };
}

/** Why the command did not do well; `undefined` when it did. */
export function describeBadExit(exit: StepExit, timedOut: boolean, { command, limits }: JobSpec): JobError | undefined {
  if (exit.status === "not-started") return new JobError(exit.message, { reason: "command-not-started" });
  const [program] = command;
  if (timedOut) {
    return new JobError(
      `the command "${program}" ran into its time limit of ${limits.timeoutSeconds} s and was stopped; raise limits.timeoutSeconds or give it less to do`,
      { reason: "timed-out" },
    );
  }
  if (exit.signal !== null) return new JobError(`the command "${program}" was killed by ${exit.signal}`, { reason: "killed" });
  if (exit.exitCode === 0) return undefined;
  return new JobError(`the command "${program}" failed with exit code ${exit.exitCode}; see what it wrote`, { reason: "main-failed" });
}
