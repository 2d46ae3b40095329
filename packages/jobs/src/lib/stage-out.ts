import { randomUUID } from "node:crypto";
import { resolve } from "node:path";
import type { FileRecord } from "@stowage/core";
import { StowageError } from "@stowage/core/broker";
import { jobDirectory } from "./job-directory.ts";
import { readJobManifest } from "./job-manifest.ts";
import type { StoredOutput } from "./job-result.ts";
import { type JobSpec, type JobSpecInput, parseJobSpec } from "./job-spec.ts";
import { openJobWorkspaces } from "./open-workspaces.ts";
import { planOutputs, type RunIdentity } from "./plan-outputs.ts";
import { scanOutputs } from "./scan-outputs.ts";
import type { StageOptions } from "./stage-options.ts";
import { storeOutputs } from "./upload-outputs.ts";

/** What the `store` hook of a job is told of a stored file, beside the record itself. */
export interface StoredItem {
  /** Of the output in the job. */
  readonly output: string;
  /** Path inside the output directory. */
  readonly source: string;
}

export interface StageOutOptions extends StageOptions {
  /** As in core; `item` is a `StoredItem`, and ids repeat for the same run. */
  readonly store?: ((record: FileRecord) => void | Promise<void>) | undefined;
  /** For a journal: told of files before they are stored (up to 1,024 of them, and waited for), and of those that are (by the end). */
  readonly onBegin?: ((targets: readonly OutputTarget[]) => Promise<void>) | undefined;
  readonly onStored?: ((outputs: readonly StoredOutput[]) => Promise<void>) | undefined;
  /** What an interrupted run of the same id had begun and stored. */
  readonly earlier?: EarlierStageOut | undefined;
}

export interface OutputTarget {
  readonly workspace: string;
  readonly path: string;
}

export interface EarlierStageOut {
  readonly begun: readonly OutputTarget[];
  readonly stored: readonly StoredOutput[];
}

export interface StageOutResult {
  readonly outputs: readonly StoredOutput[];
  /** Files that no output matches, at most 100 of them, escaped for printing. */
  readonly unmatched: readonly string[];
  readonly unmatchedCount: number;
}

/**
 * Looks at everything in the output directory as hostile, then stores what the job's outputs match and verifies it. Nothing is stored when anything
 * is refused, missing or in conflict: a `JobError` `outputs-refused`, or `CONFLICT`. What is stored is the very file that was looked at.
 */
export async function stageOut(job: JobSpec | JobSpecInput, options: StageOutOptions): Promise<StageOutResult> {
  const spec = parseJobSpec(job);
  const directory = resolve(options.directory);
  const run = await identifyRun(directory, options);
  const layout = jobDirectory(directory);
  const scan = await scanOutputs(layout.output, { limits: spec.limits, signal: options.signal });
  const { planned, unmatched, unmatchedCount } = planOutputs(spec, scan, run, (refusal) =>
    options.onEvent?.({ type: "refused", step: "post", refusal }),
  );
  const workspaces = openJobWorkspaces(spec, "write", options);
  try {
    const outputs = await storeOutputs(spec, planned, run.id, layout.output, workspaces, options);
    return { outputs, unmatched, unmatchedCount };
  } finally {
    await workspaces.close();
  }
}

async function identifyRun(directory: string, options: StageOutOptions): Promise<RunIdentity> {
  const { runId, startedAt } = options;
  if (runId !== undefined && startedAt !== undefined) return { id: runId, startedAt };
  const manifest = await readJobManifest(directory).catch((error: unknown) => {
    if (StowageError.is(error) && error.code === "FILE_NOT_FOUND") return undefined;
    throw error;
  });
  return {
    id: runId ?? manifest?.run ?? randomUUID(),
    startedAt: startedAt ?? (manifest === undefined ? new Date() : new Date(manifest.startedAt)),
  };
}
