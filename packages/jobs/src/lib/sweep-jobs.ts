import { readdir, rmdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { isSystemError, StowageError } from "@stowage/core/broker";
import { jobDirectory } from "./job-directory.ts";
import { JobError } from "./job-error.ts";
import type { JobRuntime, RunReference } from "./job-runtime.ts";
import { readJournal } from "./journal.ts";
import { createLocalRuntime } from "./local-runtime.ts";
import { removeRunDirectory } from "./run-directory.ts";
import { defaultScratch } from "./run-job.ts";
import { type RunLine, type RunState, replayRun } from "./run-journal.ts";
import { acquireRunLock, type RunLock } from "./run-lock.ts";

export interface SweepJobsOptions {
  /** Defaults to `createLocalRuntime()`. */
  readonly runtime?: JobRuntime | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface SweepJobsReport {
  /** Names of the jobs whose runs were removed. */
  readonly removed: readonly string[];
  /** Names of the jobs that are running, and were left alone. */
  readonly live: readonly string[];
  /** Processes and containers that were stopped, beside those of the removed runs. */
  readonly stopped: readonly string[];
  /** What could not be removed, and why. */
  readonly leftovers: readonly string[];
}

/**
 * Removes what runs of dead owners left in a scratch directory, and stops what they left running; also runs that have ended and whose directory was kept. Never
 * touches a live one's, nor what is no run of ours. Two sweeps at once do no harm.
 */
export async function sweepJobs(scratch: string = defaultScratch(), options: SweepJobsOptions = {}): Promise<SweepJobsReport> {
  const runtime = options.runtime ?? createLocalRuntime();
  const root = resolve(scratch);
  const removed: string[] = [];
  const live: string[] = [];
  const leftovers: string[] = [];
  for (const name of await readNames(root)) {
    options.signal?.throwIfAborted();
    try {
      const end = await sweepRun(name, join(root, name), runtime, leftovers);
      if (end === "removed") removed.push(name);
      else if (end === "live") live.push(name);
    } catch (error) {
      leftovers.push(`${name}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  return { removed, live, stopped: await runtime.sweep(root), leftovers };
}

async function sweepRun(name: string, path: string, runtime: JobRuntime, leftovers: string[]): Promise<"removed" | "live" | "foreign"> {
  const layout = jobDirectory(path);
  if (!(await isRunDirectory(layout.state))) return (await removeEmpty(layout.lock, layout.state, layout.path)) ? "removed" : "foreign";
  let lock: RunLock;
  try {
    lock = await acquireRunLock(layout.lock);
  } catch (error) {
    if (JobError.is(error) && error.reason === "already-running") return "live";
    throw error;
  }
  try {
    const state = await readState(layout.journal);
    const reference: RunReference = { job: name, runId: state?.run ?? "", directory: path, owner: state?.owner ?? lock.owner };
    const left = [
      ...(await runtime.stop(reference, state?.started ?? [], { isStarting: state?.isStarting === true })),
      ...(await runtime.remove(reference)),
    ];
    if (left.length === 0) left.push(...(await removeRunDirectory(layout, lock)));
    leftovers.push(...left.map((what) => `${name}: ${what}`));
    return left.length === 0 ? "removed" : "foreign";
  } finally {
    await lock.release();
  }
}

async function readState(journal: string): Promise<RunState | undefined> {
  try {
    return replayRun(await readJournal<RunLine>(journal));
  } catch (error) {
    // Damaged: there is nothing to go on with, and what it started is found by its marks.
    if (StowageError.is(error)) return undefined;
    throw error;
  }
}

/** A run that was killed before it had its lock leaves nothing but empty directories. */
async function isRunDirectory(state: string): Promise<boolean> {
  try {
    const names = await readdir(join(state, "lock"));
    return names.length > 0 || (await readdir(state)).some((name) => name !== "lock");
  } catch (error) {
    if (isSystemError(error, "ENOENT", "ENOTDIR")) return false;
    throw error;
  }
}

async function removeEmpty(...directories: readonly string[]): Promise<boolean> {
  for (const directory of directories) {
    try {
      await rmdir(directory);
    } catch (error) {
      if (isSystemError(error, "ENOENT")) continue;
      if (isSystemError(error, "ENOTEMPTY", "EEXIST", "ENOTDIR")) return false;
      throw error;
    }
  }
  return true;
}

async function readNames(scratch: string): Promise<string[]> {
  try {
    const entries = await readdir(scratch, { withFileTypes: true });
    return entries
      .filter((entry) => entry.isDirectory() && /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/u.test(entry.name))
      .map((entry) => entry.name)
      .sort();
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return [];
    throw error;
  }
}
