import { randomUUID } from "node:crypto";
import { lstat, mkdir } from "node:fs/promises";
import { join, posix, resolve } from "node:path";
import type { Outcome, Workspace } from "@stowage/core";
import { escapePath, type FileDetails, StowageError } from "@stowage/core/broker";
import { parseGlob } from "./glob.ts";
import { jobDirectory } from "./job-directory.ts";
import { JobError } from "./job-error.ts";
import { type JobManifest, type ManifestFile, readJobManifest, type StagedJob } from "./job-manifest.ts";
import { type JobInput, type JobSpec, type JobSpecInput, parseJobSpec } from "./job-spec.ts";
import { mapConcurrently } from "./map-concurrently.ts";
import { type JobWorkspaces, openJobWorkspaces } from "./open-workspaces.ts";
import type { StageOptions } from "./stage-options.ts";
import { removeStrayInputs } from "./staged-files.ts";
import { collectOutcomes, createProgressMeter, type ProgressMeter } from "./transfer-chunks.ts";
import { writeJsonFile } from "./write-json.ts";

export interface StageInOptions extends StageOptions {
  /** The job's program mounts the same volumes read-only at the same paths, so inputs marked `partial` may be links into them. Defaults to false. */
  readonly linkPartial?: boolean | undefined;
  /** Keep what an interrupted run has staged, where it is still the same. Defaults to false. */
  readonly resume?: boolean | undefined;
}

interface PlannedFile {
  readonly details: FileDetails;
  /** Relative to the job's directory. */
  readonly staged: string;
}

interface PlannedInput {
  readonly input: JobInput;
  readonly files: readonly PlannedFile[];
}

/** Files that one call to the workspace is given. */
const CHUNK = 1000;

/** Small calls (stat) that are made at once. */
const CALLS_AT_ONCE = 16;

/**
 * Fetches a job's inputs into `directory` and writes `input.json`: `input/<input name>/<file name>` for a path, `input/<input name>/<path below the
 * glob's base>` for a glob. Nothing is fetched before all inputs are known to be there. Throws `FILE_NOT_FOUND` for a missing one that is not
 * optional, `TransferError` when a transfer fails.
 */
export async function stageIn(job: JobSpec | JobSpecInput, options: StageInOptions): Promise<StagedJob> {
  const spec = parseJobSpec(job);
  const directory = resolve(options.directory);
  const layout = jobDirectory(directory);
  for (const path of [layout.input, layout.output, layout.temporary]) await mkdir(path, { recursive: true });
  const workspaces = openJobWorkspaces(spec, "read", options);
  try {
    const inputs = await planInputs(spec, workspaces, options);
    const manifest: JobManifest = {
      version: 1,
      job: spec.name,
      run: options.runId ?? randomUUID(),
      startedAt: (options.startedAt ?? new Date()).toISOString(),
      inputs: await fetchInputs(spec, inputs, directory, workspaces, options),
    };
    await writeJsonFile(layout.manifest, manifest);
  } finally {
    await workspaces.close();
  }
  return readJobManifest(directory);
}

async function planInputs(job: JobSpec, workspaces: JobWorkspaces, options: StageInOptions): Promise<PlannedInput[]> {
  const planned: PlannedInput[] = [];
  const missing: string[] = [];
  let room = job.limits.inputFiles;
  for (const input of job.inputs) {
    options.signal?.throwIfAborted();
    const files = await planInput(job, input, await workspaces.get(input.workspace), room, options);
    room -= files.length;
    if (files.length === 0 && !input.optional) missing.push(describeMissing(input));
    assertNoFileInTheWay(input, files);
    planned.push({ input, files });
  }
  if (missing.length > 0) {
    throw new StowageError(`${missing.join("; ")}; put it there, or mark the input as optional`, { code: "FILE_NOT_FOUND" });
  }
  return planned;
}

async function planInput(
  job: JobSpec,
  input: JobInput,
  workspace: Workspace,
  room: number,
  options: StageInOptions,
): Promise<PlannedFile[]> {
  const { signal } = options;
  if (input.path !== undefined) {
    const details = await workspace.statFile(input.path, { signal });
    if (details !== undefined && room < 1) throw tooManyFiles(job, input);
    return details === undefined ? [] : [{ details, staged: posix.join("input", input.name, posix.basename(input.path)) }];
  }
  const glob = parseGlob(input.glob!);
  const files: PlannedFile[] = [];
  for await (const details of workspace.listFiles(glob.base, { recursive: glob.recursive, signal })) {
    const { path } = details.file;
    if (!glob.matches(path)) continue;
    if (files.length >= room) throw tooManyFiles(job, input);
    files.push({ details, staged: posix.join("input", input.name, glob.base === "" ? path : path.slice(glob.base.length + 1)) });
  }
  return files;
}

/** An object store may hold both `a` and `a/b`; a directory cannot. */
function assertNoFileInTheWay(input: JobInput, files: readonly PlannedFile[]): void {
  const directories = new Map<string, string>();
  for (const { staged, details } of files) {
    for (let parent = posix.dirname(staged); !directories.has(parent) && parent !== "input"; parent = posix.dirname(parent)) {
      directories.set(parent, details.file.path);
    }
  }
  for (const { staged, details } of files) {
    const below = directories.get(staged);
    if (below === undefined) continue;
    throw new StowageError(
      `the input "${input.name}" matches both "${escapePath(details.file.path)}" and "${escapePath(below)}": one name cannot be a file and a directory; match only one of them`,
      { code: "CONFLICT", workspace: input.workspace, file: details.file.path },
    );
  }
}

async function fetchInputs(
  job: JobSpec,
  inputs: readonly PlannedInput[],
  directory: string,
  workspaces: JobWorkspaces,
  options: StageInOptions,
): Promise<JobManifest["inputs"]> {
  const all = inputs.flatMap(({ files }) => files);
  if (options.resume === true) {
    const leftovers = await removeStrayInputs(
      directory,
      all.map(({ staged }) => staged),
      inputs.map(({ input }) => input.name),
    );
    if (leftovers.length > 0) {
      throw new StowageError(`what an earlier run left among the inputs cannot be removed: ${leftovers.slice(0, 5).join(", ")}`, {
        code: "PERMISSION_DENIED",
      });
    }
  }
  const meter = createProgressMeter(
    "pre",
    { files: all.length, bytes: all.reduce((sum, { details }) => sum + details.size, 0) },
    options.onEvent,
  );
  const staged: JobManifest["inputs"][number][] = [];
  for (const { input, files } of inputs) {
    await mkdir(join(directory, "input", input.name), { recursive: true });
    const workspace = await workspaces.get(input.workspace);
    const fetched: ManifestFile[] = [];
    for (let start = 0; start < files.length; start += CHUNK) {
      fetched.push(...(await fetchChunk(job, input, files.slice(start, start + CHUNK), directory, workspace, meter, options)));
    }
    staged.push({ name: input.name, workspace: input.workspace, kind: input.path === undefined ? "files" : "file", files: fetched });
  }
  return staged;
}

async function fetchChunk(
  job: JobSpec,
  input: JobInput,
  files: readonly PlannedFile[],
  directory: string,
  workspace: Workspace,
  meter: ProgressMeter,
  options: StageInOptions,
): Promise<ManifestFile[]> {
  const items = files.map((planned) => ({
    // The size, digest and version that the listing told: what has changed since is an error, not another file.
    file: { ...planned.details.file, size: planned.details.size },
    localPath: join(directory, planned.staged),
    partial: input.partial,
    planned,
  }));
  const { outcomes, error } = await collectOutcomes(
    workspace.downloadFiles(items, {
      signal: options.signal,
      concurrency: options.concurrency,
      checksum: job.checksum,
      linkPartial: options.linkPartial,
      ifExists: options.resume === true ? "skip-same" : "replace",
      onProgress: meter.report,
    }),
  );
  if (error !== undefined) throw error;
  meter.settle(
    files.length,
    files.reduce((sum, { details }) => sum + details.size, 0),
  );
  const fetched = await mapConcurrently(outcomes, CALLS_AT_ONCE, (outcome) =>
    describeFetched(outcome, outcome.item.planned, outcome.item.localPath),
  );
  for (const { path, size, method, digest, verified } of fetched) {
    options.onEvent?.({ type: "file", step: "pre", name: input.name, workspace: input.workspace, path, size, method, digest, verified });
  }
  return fetched;
}

async function describeFetched(outcome: Outcome<unknown>, planned: PlannedFile, localPath: string): Promise<ManifestFile> {
  const { details, staged } = planned;
  const stats = await lstat(localPath);
  const common = { path: details.file.path, staged, modified: stats.mtime.toISOString(), version: details.file.version };
  if (outcome.status === "done") {
    if (outcome.method !== "link" && stats.size !== outcome.bytes) throw wrongLength(details, stats.size);
    const { bytes: size, digest = details.file.digest, verified } = outcome;
    // No transfer that went well deletes.
    const method = outcome.method === "delete" ? undefined : outcome.method;
    return { ...common, size, digest, method, verified: verified === "none" && method !== "link" ? "length" : verified };
  }
  if (stats.size !== details.size) throw wrongLength(details, stats.size);
  return { ...common, size: details.size, digest: details.file.digest, verified: "length" };
}

function wrongLength(details: FileDetails, size: number): StowageError {
  return new StowageError(
    `"${escapePath(details.file.path)}" should have ${details.size} bytes and has ${size} after it was fetched; try again`,
    {
      code: "SHORT_SOURCE",
      file: details.file.path,
    },
  );
}

function describeMissing({ name, workspace, path, glob }: JobInput): string {
  return path === undefined
    ? `nothing in the workspace "${workspace}" matches "${glob}" of the input "${name}"`
    : `the input "${name}" is missing: there is no "${escapePath(path)}" in the workspace "${workspace}"`;
}

function tooManyFiles(job: JobSpec, input: JobInput): JobError {
  const limit = job.limits.inputFiles;
  return new JobError(`with the input "${input.name}" the inputs are more than ${limit} files; raise limits.inputFiles or match fewer`, {
    reason: "step-failed",
  });
}
