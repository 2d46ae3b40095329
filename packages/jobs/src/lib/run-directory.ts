import { mkdir, rmdir } from "node:fs/promises";
import { join } from "node:path";
import { isSystemError, StowageError } from "@stowage/core/broker";
import { type JobDirectory, jobDirectory } from "./job-directory.ts";
import type { JobSpec } from "./job-spec.ts";
import { type Journal, openJournal } from "./journal.ts";
import { emptyDirectory, removeTree } from "./remove-tree.ts";
import type { ResolvedRunOptions } from "./run-job.ts";
import { fingerprintJob, type RunLine, type RunState, replayRun } from "./run-journal.ts";
import { acquireRunLock, type RunLock } from "./run-lock.ts";

/** A run's directory that is ours. */
export interface TakenDirectory {
  readonly layout: JobDirectory;
  readonly lock: RunLock;
  readonly journal: Journal<RunLine>;
  /** The run that is to be resumed; without one the directory is empty. */
  readonly earlier: RunState | undefined;
}

/** Takes the directory of a job's run: stops what a dead owner left running, and removes what it left there unless it is to be resumed. */
export async function takeRunDirectory(spec: JobSpec, options: ResolvedRunOptions): Promise<TakenDirectory> {
  const layout = jobDirectory(join(options.scratch, spec.name));
  const lock = await acquireRunLock(layout.lock);
  let journal: Journal<RunLine> | undefined;
  try {
    journal = await openRunJournal(layout, options);
    const known = replayRun(journal.lines);
    if (known !== undefined) await stopEarlier(known, spec, layout, lock, options);
    if (known !== undefined && options.resume === true) {
      assertResumable(known, spec, options);
      return { layout, lock, journal, earlier: known };
    }
    await journal.close();
    await clearRunDirectory(layout);
    journal = await openJournal<RunLine>(layout.journal);
    return { layout, lock, journal, earlier: undefined };
  } catch (error) {
    await journal?.close();
    await lock.release();
    throw error;
  }
}

/** Removes what is left of a run once its files are gone; somebody who takes the directory meanwhile keeps it. */
export async function removeRunDirectory(layout: JobDirectory, lock: RunLock): Promise<readonly string[]> {
  const leftovers = await emptyDirectory(layout.state, ["lock"]);
  if (leftovers.length > 0) return leftovers;
  await lock.remove();
  for (const directory of [layout.state, layout.path]) {
    try {
      await rmdir(directory);
    } catch (error) {
      if (!isSystemError(error, "ENOENT", "ENOTEMPTY", "EEXIST")) throw error;
    }
  }
  return [];
}

/** Makes a directory that holds nothing, whatever stood in its place. */
export async function makeEmptyDirectory(path: string): Promise<void> {
  const leftovers = await removeTree(path);
  if (leftovers.length > 0) {
    throw new StowageError(`cannot empty "${path}": ${leftovers.slice(0, 5).join(", ")}`, { code: "PERMISSION_DENIED" });
  }
  await mkdir(path);
}

async function openRunJournal(layout: JobDirectory, options: ResolvedRunOptions): Promise<Journal<RunLine>> {
  try {
    return await openJournal<RunLine>(layout.journal);
  } catch (error) {
    if (options.resume === true || !StowageError.is(error) || error.code !== "CONFLICT") throw error;
    // Damaged, and nobody wants to resume it. What it started can still be found by its marks.
    await options.runtime.sweep(options.scratch);
    await removeTree(layout.journal);
    return openJournal<RunLine>(layout.journal);
  }
}

async function stopEarlier(
  known: RunState,
  spec: JobSpec,
  layout: JobDirectory,
  lock: RunLock,
  options: ResolvedRunOptions,
): Promise<void> {
  const reference = { job: spec.name, runId: known.run, directory: layout.path, owner: known.owner ?? lock.owner };
  const left = await options.runtime.stop(reference, known.started, { isStarting: known.isStarting });
  if (left.length === 0) return;
  throw new StowageError(`what an earlier run left running cannot be stopped: ${left.join(", ")}; stop it by hand`, {
    code: "UNAVAILABLE",
  });
}

function assertResumable(earlier: RunState, spec: JobSpec, options: ResolvedRunOptions): void {
  if (earlier.fingerprint !== fingerprintJob(spec)) {
    throw new StowageError(`the job "${spec.name}" is not what it was when the run ${earlier.run} began; run it anew, without resuming`, {
      code: "INVALID_ARGUMENT",
    });
  }
  if (options.runId !== undefined && options.runId !== earlier.run) {
    throw new StowageError(`the run to be resumed is ${earlier.run}, not ${options.runId}; leave the id out, or run the job anew`, {
      code: "INVALID_ARGUMENT",
    });
  }
}

/** The journal goes first: a directory that is half empty must not be taken for a run that can be resumed. */
async function clearRunDirectory(layout: JobDirectory): Promise<void> {
  const leftovers = [...(await emptyDirectory(layout.state, ["lock"])), ...(await emptyDirectory(layout.path, [".stowage"]))];
  if (leftovers.length === 0) return;
  throw new StowageError(
    `what an earlier run left cannot be removed: ${leftovers.slice(0, 5).join(", ")}; remove it, or give another scratch directory`,
    {
      code: "PERMISSION_DENIED",
    },
  );
}
