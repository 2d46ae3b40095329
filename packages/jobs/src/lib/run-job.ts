import { lstat, mkdir, unlink } from "node:fs/promises";
import { tmpdir, userInfo } from "node:os";
import { dirname, join, resolve } from "node:path";
import type { BrokerSource, FileRecord, Workspace } from "@stowage/core";
import { StowageError } from "@stowage/core/broker";
import { exitCodeOf } from "./exit-codes.ts";
import { JobError } from "./job-error.ts";
import type { JobEvent } from "./job-event.ts";
import type { JobResult } from "./job-result.ts";
import { JobRun } from "./job-run.ts";
import type { JobRuntime } from "./job-runtime.ts";
import { invalidJob, type JobSpec, type JobSpecInput, parseJobSpec } from "./job-spec.ts";
import { resolveJobWorkspaces } from "./job-workspaces.ts";
import { createLocalRuntime } from "./local-runtime.ts";
import { describeFailures } from "./stage-failure.ts";
import { writeJsonFile } from "./write-json.ts";

export interface RunJobOptions {
  /** Where the steps run. Defaults to `createLocalRuntime()`. */
  readonly runtime?: JobRuntime | undefined;
  /** Broker types as values: pre and post step run in this process. Defaults to those of the default registry. Not with `brokerModules`. */
  readonly brokers?: BrokerSource | undefined;
  /** Modules that hold the broker types, as one would import them from a file in `baseDirectory`: pre and post step run as processes of their own. */
  readonly brokerModules?: readonly string[] | undefined;
  /** Configurations of the workspaces that the job may name, by name, as in `stowage.yaml`. */
  readonly workspaces?: Readonly<Record<string, unknown>> | undefined;
  /** Workspaces that are open already, by their name in the job; they stay open. Not with `brokerModules`. */
  readonly openWorkspaces?: Readonly<Record<string, Workspace>> | undefined;
  /** Where workspaces' volumes are mounted, by their name in the job. */
  readonly volumePaths?: Readonly<Record<string, string>> | undefined;
  /** The job file's folder: relative working directories and broker modules begin here. Defaults to the working directory. */
  readonly baseDirectory?: string | undefined;
  /**
   * Where runs have their directories, `<scratch>/<job name>` each; on a local disk. One run of a job at a time. Defaults to a directory of this user's
   * in the system's temporary directory.
   */
  readonly scratch?: string | undefined;
  /** Names the run in paths and records: 1 to 100 letters, digits, `.`, `_`, `-`. Defaults to a new one. */
  readonly runId?: string | undefined;
  /** Go on where an interrupted or failed run of this job in the same scratch directory stopped; begin anew when there is none. Defaults to false: what is left of one is removed. */
  readonly resume?: boolean | undefined;
  /** Cancels the run. */
  readonly signal?: AbortSignal | undefined;
  /** Told of everything as it happens. What it throws is ignored. */
  readonly onEvent?: ((event: JobEvent) => void) | undefined;
  /** As in core, for stored outputs; `item` is a `StoredItem`. Ids repeat when the run is resumed. */
  readonly store?: ((record: FileRecord) => void | Promise<void>) | undefined;
  /** Where to write the result, atomically; a previous file is removed when the run begins. */
  readonly resultFile?: string | undefined;
  /** How many files move at once. Defaults to 8. */
  readonly concurrency?: number | undefined;
  /** Whether the run's directory stays when it ends. Defaults to `failed`: it can be looked at and resumed; the next run or `sweepJobs` removes it. */
  readonly keepDirectory?: "never" | "failed" | "always" | undefined;
}

/** What a `JobRun` needs: everything decided. */
export interface ResolvedRunOptions extends RunJobOptions {
  readonly runtime: JobRuntime;
  readonly baseDirectory: string;
  readonly scratch: string;
}

const RUN_ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/u;

/**
 * Runs a job: stages its inputs, runs its command, stores and verifies its outputs. Resolves with what became of it, also when it failed or was cancelled: see
 * `exitCode`. Rejects for what keeps it from beginning: an invalid job (`JobError` `invalid-job`), bad options, another live run of it (`already-running`).
 */
export async function runJob(job: JobSpec | JobSpecInput, options: RunJobOptions = {}): Promise<JobResult> {
  const startedAt = new Date();
  const resultFile = options.resultFile === undefined ? undefined : resolve(options.resultFile);
  try {
    const resolved = resolveOptions(options);
    const spec = resolveSpec(job, resolved);
    await makeScratch(resolved.scratch, options.scratch === undefined);
    const run = await JobRun.begin(spec, resolved);
    // From here on nobody may take an earlier run's result for this one's.
    if (resultFile !== undefined) await clearResultFile(resultFile).catch((error: unknown) => run.abandon(error));
    return await run.complete(resultFile);
  } catch (error) {
    // The other run's result is not ours to replace.
    const isOther = JobError.is(error) && error.reason === "already-running";
    if (resultFile !== undefined && !isOther) await writeEarlyResult(resultFile, job, options, error, startedAt);
    throw error;
  }
}

/** The directory that runs have theirs in, unless another is given. */
export function defaultScratch(): string {
  return join(tmpdir(), `stowage-jobs-${userInfo().uid}`);
}

function resolveOptions(options: RunJobOptions): ResolvedRunOptions {
  const { brokers, brokerModules, openWorkspaces, runId } = options;
  if (brokerModules !== undefined && brokers !== undefined) {
    throw new StowageError(
      "both brokers and brokerModules were given; give the modules to have pre and post step run in processes of their own, else the values",
      {
        code: "INVALID_ARGUMENT",
      },
    );
  }
  if (brokerModules !== undefined && openWorkspaces !== undefined && Object.keys(openWorkspaces).length > 0) {
    throw new StowageError(
      "open workspaces cannot be handed to the other processes that brokerModules asks for; give brokers, or configurations",
      { code: "INVALID_ARGUMENT" },
    );
  }
  if (runId !== undefined && !RUN_ID.test(runId)) {
    throw new StowageError(
      'the run id is no name: begin with a letter or digit, then letters, digits, ".", "-" and "_", at most 100 characters',
      { code: "INVALID_ARGUMENT" },
    );
  }
  return {
    ...options,
    runtime: options.runtime ?? createLocalRuntime(),
    baseDirectory: resolve(options.baseDirectory ?? "."),
    scratch: resolve(options.scratch ?? defaultScratch()),
  };
}

function resolveSpec(job: JobSpec | JobSpecInput, options: ResolvedRunOptions): JobSpec {
  const spec = parseJobSpec(job);
  if (spec.command.length === 0) {
    throw invalidJob([{ path: "command", message: "is missing; give the program and each argument: [node, main.js]" }], spec.name);
  }
  return resolveJobWorkspaces(spec, options.workspaces, Object.keys(options.openWorkspaces ?? {}));
}

async function makeScratch(scratch: string, isDefault: boolean): Promise<void> {
  if (!isDefault) {
    await mkdir(scratch, { recursive: true });
    return;
  }
  // The temporary directory belongs to everybody: what stands there under our name must be ours, and closed to others.
  await mkdir(scratch, { recursive: true, mode: 0o700 });
  const stats = await lstat(scratch);
  if (stats.isDirectory() && stats.uid === process.geteuid?.() && (stats.mode & 0o022) === 0) return;
  throw new StowageError(`"${scratch}" belongs to somebody else or may be changed by others; give another scratch directory`, {
    code: "PERMISSION_DENIED",
  });
}

async function clearResultFile(path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await unlink(path).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  });
}

/** Of a run that did not begin. */
async function writeEarlyResult(path: string, job: unknown, options: RunJobOptions, error: unknown, startedAt: Date): Promise<void> {
  const name = typeof job === "object" && job !== null ? (job as { name?: unknown }).name : undefined;
  const endedAt = new Date();
  const result: JobResult = {
    version: 1,
    job: typeof name === "string" ? name : "",
    run: options.runId ?? "",
    resumed: false,
    status: "failed",
    exitCode: exitCodeOf(error),
    startedAt: startedAt.toISOString(),
    endedAt: endedAt.toISOString(),
    durationMs: endedAt.getTime() - startedAt.getTime(),
    steps: [],
    inputs: [],
    outputs: [],
    unmatched: [],
    unmatchedCount: 0,
    refusals: [],
    refusalCount: 0,
    logs: {},
    errors: describeFailures(error, undefined),
    leftovers: [],
  };
  try {
    await mkdir(dirname(path), { recursive: true });
    await writeJsonFile(path, result);
  } catch {
    // The error itself is thrown; that its record could not be written is not what the caller must hear of first.
  }
}
