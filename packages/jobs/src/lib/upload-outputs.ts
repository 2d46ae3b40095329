import type { FileHandle } from "node:fs/promises";
import { join } from "node:path";
import type { FileRecord, Outcome, Workspace } from "@stowage/core";
import { createDigester, type Digest, escapePath, type FileDetails, StowageError, sameDigest } from "@stowage/core/broker";
import type { StoredOutput } from "./job-result.ts";
import type { JobOutput, JobSpec } from "./job-spec.ts";
import { mapConcurrently } from "./map-concurrently.ts";
import type { JobWorkspaces } from "./open-workspaces.ts";
import { handlePath, type PinnedDirectory } from "./pinned-directory.ts";
import { type PlannedOutput, refuse } from "./plan-outputs.ts";
import { isUnchanged, openScannedFile, pinOutputDirectory } from "./scan-outputs.ts";
import type { OutputTarget, StageOutOptions, StoredItem } from "./stage-out.ts";
import { collectOutcomes, createProgressMeter, type ProgressMeter } from "./transfer-chunks.ts";

/** Files that are held open and given to a workspace at once. */
const CHUNK = 64;

/** Files that are announced to the journal at once. */
const ANNOUNCED = 1024;

/** Small calls (open, stat) that are made at once. */
const CALLS_AT_ONCE = 16;

/** Stores planned files, group by group, and verifies them. What fails ends it, after its group. */
export async function storeOutputs(
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
  let announced = 0;
  try {
    for (const group of groupUploads(planned)) {
      options.signal?.throwIfAborted();
      const workspace = await workspaces.get(group[0]!.output.workspace);
      if (outputs.length + group.length > announced) {
        const next = planned.slice(announced, outputs.length + ANNOUNCED);
        await options.onBegin?.(next.map(({ output, target }) => ({ workspace: output.workspace, path: target })));
        announced += next.length;
      }
      outputs.push(...(await uploader.storeGroup(group, workspace, root)));
    }
  } finally {
    // What was stored must be written down also when something else failed.
    await uploader.recorded().finally(() => root.handle.close());
  }
  const order = new Map(planned.map(({ output, scanned }, index) => [`${output.name}\0${scanned.path}`, index]));
  const rank = ({ output, source }: StoredOutput): number => order.get(`${output}\0${source}`)!;
  return outputs.sort((left, right) => rank(left) - rank(right));
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
  #recording: Promise<void> = Promise.resolve();

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
    await mapConcurrently(group, CALLS_AT_ONCE, async (item) => {
      const target = { workspace: item.output.workspace, path: item.target };
      const known = this.#stored.get(targetKey(target));
      if (known !== undefined && (await this.#isStillStored(known, item, workspace))) outputs.push(known);
      else if (this.#begun.has(targetKey(target)) && (await this.#maySkipSame(item, workspace, root))) begun.push(item);
      else fresh.push(item);
    });
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

  /** Resolves when everything that was stored has been written down. */
  recorded(): Promise<void> {
    return this.#recording;
  }

  /** Whether what an interrupted run stored is there, as it was stored, and of the file as it is now. */
  async #isStillStored(known: StoredOutput, item: PlannedOutput, workspace: Workspace): Promise<boolean> {
    if (known.size !== item.scanned.size || known.source !== item.scanned.path) return false;
    const details = await workspace.statFile(known.path, { signal: this.#options.signal });
    return details !== undefined && details.size === known.size && sameDigest(details.file.digest, known.digest) !== false;
  }

  /** Where nothing may be replaced, only our own file of an earlier attempt may be there. */
  async #maySkipSame(item: PlannedOutput, workspace: Workspace, root: PinnedDirectory): Promise<boolean> {
    if (item.output.ifExists !== "fail") return true;
    const details = await workspace.statFile(item.target, { signal: this.#options.signal });
    if (details === undefined || details.size !== item.scanned.size) return false;
    if (details.modified !== undefined && BigInt(details.modified.getTime()) === item.scanned.identity.modifiedNs / 1_000_000n) return true;
    return this.#hasSameContent(item, details, workspace, root);
  }

  async #hasSameContent(item: PlannedOutput, details: FileDetails, workspace: Workspace, root: PinnedDirectory): Promise<boolean> {
    const { signal } = this.#options;
    const algorithm = details.file.digest?.algorithm ?? "sha256";
    const handle = await openScannedFile(root, item.scanned);
    if (handle === undefined) return false;
    try {
      const own = await digestChunks(handle.createReadStream({ autoClose: false, signal }), algorithm);
      if (details.file.digest !== undefined) return sameDigest(own, details.file.digest) === true;
      const reader = await workspace.openRead(item.target, { signal });
      try {
        return sameDigest(own, await digestChunks(reader, algorithm)) === true;
      } finally {
        await reader.close();
      }
    } catch (error) {
      // Nobody can tell whose it is: then it is somebody else's.
      if (StowageError.is(error) && (error.code === "UNSUPPORTED" || error.code === "FILE_NOT_FOUND")) return false;
      throw error;
    } finally {
      await handle.close();
    }
  }

  async #upload(
    items: readonly PlannedOutput[],
    ifExists: JobOutput["ifExists"],
    workspace: Workspace,
    root: PinnedDirectory,
  ): Promise<StoredOutput[]> {
    if (items.length === 0) return [];
    const { signal, concurrency, store } = this.#options;
    const held: HeldUpload[] = [];
    try {
      await mapConcurrently(items, CALLS_AT_ONCE, async (item) => {
        held.push(await holdFile(item, root));
      });
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
      await mapConcurrently(outcomes, CALLS_AT_ONCE, async (outcome) => {
        if (outcome.status !== "done" && outcome.status !== "skipped") return;
        try {
          stored.push(await this.#verify(outcome, workspace));
        } catch (problem) {
          failure ??= problem;
        }
      });
      // Also what was stored beside something that failed: a resumed run need not store it again.
      await this.#record(stored);
      for (const output of stored) this.#tell(output);
      if (failure !== undefined) throw failure;
      this.#meter.settle(
        stored.length,
        stored.reduce((sum, { size }) => sum + size, 0),
      );
      return stored;
    } finally {
      await Promise.all(held.map(({ handle }) => handle.close()));
    }
  }

  /** Is not waited for: the next files may be on their way meanwhile. What a crash loses was announced, and will be compared. */
  async #record(stored: readonly StoredOutput[]): Promise<void> {
    await this.#recording;
    this.#recording = (async () => this.#options.onStored?.(stored))();
    // Thrown by whoever waits for it next.
    this.#recording.catch(() => undefined);
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
    throw refuse(
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

async function digestChunks(chunks: AsyncIterable<Uint8Array>, algorithm: Digest["algorithm"]): Promise<Digest> {
  const digester = createDigester(algorithm);
  for await (const chunk of chunks) digester.update(chunk);
  return digester.digest();
}

function describeItem({ output, scanned }: HeldUpload): StoredItem {
  return { output: output.name, source: scanned.path };
}

function targetKey({ workspace, path }: OutputTarget): string {
  return `${workspace}\0${path}`;
}
