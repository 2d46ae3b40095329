import { randomUUID } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { FileRecord, Outcome, Workspace } from "@stowage/core";
import { escapePath, type FileDetails, type FilePath, StowageError, sameDigest } from "@stowage/core/broker";
import { parseGlob } from "./glob.ts";
import { jobDirectory } from "./job-directory.ts";
import { JobError } from "./job-error.ts";
import { readJobManifest } from "./job-manifest.ts";
import type { StoredOutput } from "./job-result.ts";
import { type JobOutput, type JobSpec, type JobSpecInput, parseJobSpec } from "./job-spec.ts";
import { type JobWorkspaces, openJobWorkspaces } from "./open-workspaces.ts";
import { expandPathTemplate, parsePathTemplate } from "./path-template.ts";
import { handlePath, type PinnedDirectory } from "./pinned-directory.ts";
import {
  isUnchanged,
  MAXIMUM_REFUSALS,
  openScannedFile,
  pinOutputDirectory,
  type Refusal,
  type ScannedFile,
  type ScanResult,
  scanOutputs,
} from "./scan-outputs.ts";
import type { StageOptions } from "./stage-options.ts";
import { collectOutcomes, createProgressMeter, type ProgressMeter } from "./transfer-chunks.ts";

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
  /** Called before files are stored and after they are, for a journal; awaited. */
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

interface PlannedOutput {
  readonly output: JobOutput;
  readonly scanned: ScannedFile;
  readonly target: FilePath;
}

/** Files that are held open and given to a workspace at once. */
const CHUNK = 64;

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
  const { planned, unmatched, unmatchedCount } = planOutputs(spec, scan, run, options);
  const workspaces = openJobWorkspaces(spec, "write", options);
  try {
    const outputs = await storeOutputs(spec, planned, run.id, layout.output, workspaces, options);
    return { outputs, unmatched, unmatchedCount };
  } finally {
    await workspaces.close();
  }
}

interface RunIdentity {
  readonly id: string;
  readonly startedAt: Date;
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

interface OutputPlan extends Omit<StageOutResult, "outputs"> {
  readonly planned: readonly PlannedOutput[];
}

/** Decides everything before anything is stored. */
function planOutputs(job: JobSpec, scan: ScanResult, run: RunIdentity, options: StageOutOptions): OutputPlan {
  const refusals = createRefusals(scan);
  const planned: PlannedOutput[] = [];
  const matched = new Set<FilePath>();
  for (const output of job.outputs) {
    const glob = parseGlob(output.glob);
    const template = parsePathTemplate(output.path);
    const files = scan.files.filter(({ path }) => glob.matches(path));
    for (const scanned of files) {
      matched.add(scanned.path);
      try {
        const target = expandPathTemplate(template, {
          job: job.name,
          run: run.id,
          output: output.name,
          path: scanned.path,
          date: run.startedAt,
        });
        planned.push({ output, scanned, target });
      } catch (error) {
        if (!StowageError.is(error)) throw error;
        refusals.add({
          path: escapePath(scanned.path),
          reason: "name",
          message: `the output "${output.name}" makes no path of it: ${error.message}`,
        });
      }
    }
    if (files.length === 0 && output.required) {
      refusals.add({
        path: "",
        reason: "missing",
        message: `nothing matches "${output.glob}" of the output "${output.name}"; the command must write it, or mark it as not required`,
      });
    }
  }
  refusals.throwIfAny(options);
  assertNoConflict(planned);
  const unmatched = scan.files.filter(({ path }) => !matched.has(path));
  return {
    planned,
    unmatched: unmatched.slice(0, MAXIMUM_REFUSALS).map(({ path }) => escapePath(path)),
    unmatchedCount: unmatched.length,
  };
}

interface Refusals {
  add(refusal: Refusal): void;
  throwIfAny(options: StageOutOptions): void;
}

function createRefusals(scan: Pick<ScanResult, "refusals" | "refusalCount">): Refusals {
  const refusals = [...scan.refusals];
  let count = scan.refusalCount;
  return {
    add: (refusal) => {
      count++;
      if (refusals.length < MAXIMUM_REFUSALS) refusals.push(refusal);
    },
    throwIfAny: (options) => {
      if (count === 0) return;
      for (const refusal of refusals) options.onEvent?.({ type: "refused", step: "post", refusal });
      throw refused(refusals, count);
    },
  };
}

function refused(refusals: readonly Refusal[], refusalCount: number): JobError {
  const described = refusals.slice(0, 10).map(({ path, message }) => (path === "" ? message : `"${path}": ${message}`));
  const more = refusalCount > described.length ? `; and ${refusalCount - described.length} more` : "";
  return new JobError(`the outputs were refused, nothing more was stored: ${described.join("; ")}${more}`, {
    reason: "outputs-refused",
    refusals,
    refusalCount,
  });
}

function assertNoConflict(planned: readonly PlannedOutput[]): void {
  const targets = new Map<string, PlannedOutput>();
  for (const item of planned) {
    const key = `${item.output.workspace}\0${item.target}`;
    const other = targets.get(key);
    if (other !== undefined) {
      throw new StowageError(
        `"${escapePath(other.scanned.path)}" of the output "${other.output.name}" and "${escapePath(item.scanned.path)}" of the output "${item.output.name}" would both be stored as ` +
          `"${escapePath(item.target)}"; nothing was stored: make their paths differ, with {path} or {output} for instance`,
        { code: "CONFLICT", workspace: item.output.workspace, file: item.target },
      );
    }
    targets.set(key, item);
  }
}

async function storeOutputs(
  job: JobSpec,
  planned: readonly PlannedOutput[],
  runId: string,
  outputDirectory: string,
  workspaces: JobWorkspaces,
  options: StageOutOptions,
): Promise<StoredOutput[]> {
  const totals = { files: planned.length, bytes: planned.reduce((sum, { scanned }) => sum + scanned.size, 0) };
  const uploader = new OutputUploader(job, runId, options, createProgressMeter("post", totals, options.onEvent));
  const outputs: StoredOutput[] = [];
  if (planned.length === 0) return outputs;
  const root = await pinOutputDirectory(outputDirectory);
  try {
    for (const group of groupUploads(planned)) {
      options.signal?.throwIfAborted();
      const workspace = await workspaces.get(group[0]!.output.workspace);
      outputs.push(...(await uploader.storeGroup(group, workspace, root)));
    }
  } finally {
    await root.handle.close();
  }
  return outputs;
}

/** Neighbours that go to one workspace in one manner, at most `CHUNK` of them. */
function groupUploads(planned: readonly PlannedOutput[]): PlannedOutput[][] {
  const groups: PlannedOutput[][] = [];
  for (const item of planned) {
    const group = groups.at(-1);
    const first = group?.[0]?.output;
    if (
      group === undefined ||
      group.length >= CHUNK ||
      first?.workspace !== item.output.workspace ||
      first.ifExists !== item.output.ifExists
    )
      groups.push([item]);
    else group.push(item);
  }
  return groups;
}

interface HeldUpload extends PlannedOutput {
  readonly file: { readonly path: string; readonly size: number };
  readonly localPath: string;
  readonly handle: FileHandle;
}

class OutputUploader {
  readonly #job: JobSpec;
  readonly #runId: string;
  readonly #options: StageOutOptions;
  readonly #meter: ProgressMeter;
  readonly #begun: ReadonlySet<string>;
  readonly #stored: ReadonlyMap<string, StoredOutput>;

  constructor(job: JobSpec, runId: string, options: StageOutOptions, meter: ProgressMeter) {
    this.#job = job;
    this.#runId = runId;
    this.#options = options;
    this.#meter = meter;
    this.#begun = new Set(options.earlier?.begun.map(targetKey));
    this.#stored = new Map(options.earlier?.stored.map((output) => [targetKey(output), output]));
  }

  async storeGroup(group: readonly PlannedOutput[], workspace: Workspace, root: PinnedDirectory): Promise<StoredOutput[]> {
    const outputs: StoredOutput[] = [];
    const fresh: PlannedOutput[] = [];
    const begun: PlannedOutput[] = [];
    for (const item of group) {
      const target = { workspace: item.output.workspace, path: item.target };
      const known = this.#stored.get(targetKey(target));
      if (known !== undefined && (await this.#isStillStored(known, item, workspace))) outputs.push(known);
      else if (this.#begun.has(targetKey(target)) && (await this.#maySkipSame(item, workspace))) begun.push(item);
      else fresh.push(item);
    }
    const reused = outputs.length;
    outputs.push(...(await this.#upload(fresh, group[0]!.output.ifExists, workspace, root)));
    // What an interrupted run had begun may be there already.
    outputs.push(...(await this.#upload(begun, "skip-same", workspace, root)));
    for (const output of outputs.slice(0, reused)) this.#tell(output);
    if (reused > 0) {
      this.#meter.advance(
        reused,
        outputs.slice(0, reused).reduce((sum, { size }) => sum + size, 0),
      );
    }
    return outputs;
  }

  /** Whether what an interrupted run stored is there, as it was stored, and of the file as it is now. */
  async #isStillStored(known: StoredOutput, item: PlannedOutput, workspace: Workspace): Promise<boolean> {
    if (known.size !== item.scanned.size || known.source !== item.scanned.path) return false;
    const details = await workspace.statFile(known.path, { signal: this.#options.signal });
    return details !== undefined && details.size === known.size && sameDigest(details.file.digest, known.digest) !== false;
  }

  /** Where nothing may be replaced, only our own file of an earlier attempt may be there. */
  async #maySkipSame(item: PlannedOutput, workspace: Workspace): Promise<boolean> {
    if (item.output.ifExists !== "fail") return true;
    const details = await workspace.statFile(item.target, { signal: this.#options.signal });
    if (details === undefined || details.size !== item.scanned.size) return false;
    return details.modified !== undefined && BigInt(details.modified.getTime()) === item.scanned.identity.modifiedNs / 1_000_000n;
  }

  async #upload(
    items: readonly PlannedOutput[],
    ifExists: JobOutput["ifExists"],
    workspace: Workspace,
    root: PinnedDirectory,
  ): Promise<StoredOutput[]> {
    if (items.length === 0) return [];
    const { signal, concurrency, store, onBegin, onStored } = this.#options;
    const held: HeldUpload[] = [];
    try {
      for (const item of items) held.push(await holdFile(item, root));
      await onBegin?.(items.map(({ output, target }) => ({ workspace: output.workspace, path: target })));
      const { outcomes, error } = await collectOutcomes(
        workspace.uploadFiles(held, {
          signal,
          concurrency,
          ifExists,
          checksum: this.#job.checksum,
          batchId: this.#runId,
          onProgress: this.#meter.report,
          ...(store === undefined
            ? {}
            : { store: (record: FileRecord) => store({ ...record, item: describeItem(record.item as HeldUpload) }) }),
        }),
      );
      const stored: StoredOutput[] = [];
      let failure = error;
      for (const outcome of outcomes) {
        if (outcome.status !== "done" && outcome.status !== "skipped") continue;
        try {
          stored.push(await this.#verify(outcome, workspace));
        } catch (problem) {
          failure ??= problem;
        }
      }
      // Also what was stored beside something that failed: a resumed run need not store it again.
      await onStored?.(stored);
      for (const output of stored) this.#tell(output);
      if (failure !== undefined) throw failure;
      this.#meter.settle(
        stored.length,
        stored.reduce((sum, { size }) => sum + size, 0),
      );
      return stored;
    } finally {
      for (const { handle } of held) await handle.close();
    }
  }

  /** At least by length, against what the workspace now says of the file; and the file itself must not have moved under the hand. */
  async #verify(outcome: Outcome<HeldUpload> & { readonly status: "done" | "skipped" }, workspace: Workspace): Promise<StoredOutput> {
    const { output, scanned, handle, target } = outcome.item;
    if (!(await isUnchanged(handle, scanned))) {
      throw new StowageError(
        `"${escapePath(scanned.path)}" changed while it was stored; the command must leave nothing behind that still writes`,
        {
          code: "SOURCE_CHANGED",
          workspace: output.workspace,
          file: target,
        },
      );
    }
    const done = outcome.status === "done" ? outcome : undefined;
    const path = done?.file.path ?? target;
    let details: FileDetails | undefined;
    if (done?.verified !== "digest") {
      details = await workspace.statFile(path, { signal: this.#options.signal });
      if (details?.size !== scanned.size || sameDigest(details.file.digest, done?.digest) === false) {
        throw new StowageError(
          `"${escapePath(path)}" was stored, but the workspace now has ${details === undefined ? "no such file" : `${details.size} bytes`} instead of ${scanned.size}; store it again`,
          { code: "CHECKSUM_MISMATCH", workspace: output.workspace, file: path },
        );
      }
    }
    return {
      output: output.name,
      workspace: output.workspace,
      path,
      source: scanned.path,
      size: scanned.size,
      digest: done?.digest ?? details?.file.digest,
      version: done?.file.version ?? details?.file.version,
      method: done === undefined || done.method === "delete" ? undefined : done.method,
      verified: done?.verified === "digest" ? "digest" : "length",
    };
  }

  #tell(output: StoredOutput): void {
    const { output: name, workspace, path, size, method, digest, verified } = output;
    this.#options.onEvent?.({ type: "file", step: "post", name, workspace, path, size, method, digest, verified });
  }
}

/** Opens the scanned file and keeps it open: from here on its name does not matter. */
async function holdFile(item: PlannedOutput, root: PinnedDirectory): Promise<HeldUpload> {
  const { scanned, target } = item;
  const handle = await openScannedFile(root, scanned);
  if (handle === undefined) {
    throw refused(
      [
        {
          path: escapePath(scanned.path),
          reason: "changed",
          message: "it was changed or replaced after the command had ended; the command must leave nothing behind that still writes",
        },
      ],
      1,
    );
  }
  return {
    ...item,
    file: { path: target, size: scanned.size },
    localPath: handlePath(handle) ?? join(root.path.toString(), scanned.path),
    handle,
  };
}

function describeItem({ output, scanned }: HeldUpload): StoredItem {
  return { output: output.name, source: scanned.path };
}

function targetKey({ workspace, path }: OutputTarget): string {
  return `${workspace}\0${path}`;
}
