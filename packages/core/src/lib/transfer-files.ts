import { type BatchInput, type BatchOutput, runBatch } from "./batch-forms.ts";
import type { TransferDetails } from "./broker.ts";
import { escapePath, parseTargetPath } from "./file-path.ts";
import type { FileDetails, FileInput, FilePath } from "./files.ts";
import type { Limits } from "./limits.ts";
import type { Outcome } from "./outcome.ts";
import { isSameState } from "./same-file.ts";
import { assertPromises, parseFile } from "./stored-file.ts";
import { StowageError } from "./stowage-error.ts";
import type { TransferOptions } from "./transfer-options.ts";
import { type ParsedTransfer, transferFile } from "./transfer-routes.ts";
import type { Call, Ending, Verb } from "./verb.ts";
import type { Workspace } from "./workspace.ts";
import type { WorkspaceRuntime } from "./workspace-runtime.ts";

/** Store `file` of the source workspace in the target workspace. */
export interface FileTransfer {
  readonly file: FileInput;
  /** Its path there. Defaults to that of `file`. */
  readonly newPath?: string | undefined;
}

/**
 * Copies files from one workspace to another, or to other places in the same; nothing is removed from the source. Goes the cheapest way that
 * both can: by the backend itself inside one workspace, by a kernel copy or reflink between mounted ones, else as a stream whose digest is
 * computed as it flows, and through a temporary file where a side cannot stream. Existing files are replaced unless `ifExists` says
 * otherwise. Errors of the source name the source workspace. Array and stream forms, and failures, as those of `Workspace`.
 */
export function transferFiles<const I extends FileTransfer>(
  source: Workspace,
  target: Workspace,
  transfers: readonly I[],
  options?: TransferOptions,
): Promise<Outcome<I>[]>;
export function transferFiles<I extends FileTransfer>(
  source: Workspace,
  target: Workspace,
  transfers: AsyncIterable<I>,
  options?: TransferOptions,
): AsyncIterable<Outcome<I>>;
export function transferFiles<I extends FileTransfer>(
  source: Workspace,
  target: Workspace,
  transfers: BatchInput<I>,
  options: TransferOptions = {},
): BatchOutput<I> {
  const [from, to] = [source["~runtime"], target["~runtime"]];
  const limits = options.limits ?? combineLimits(from.limits, to.limits);
  const refusal = (): StowageError | undefined => to.refusal("write") ?? from.refusal("read");
  return runBatch(transferVerb<I>(from, to, limits, options), transfers, { ...options, limits }, refusal);
}

function transferVerb<Item extends FileTransfer>(
  source: WorkspaceRuntime,
  target: WorkspaceRuntime,
  limits: Limits,
  options: TransferOptions,
): Verb<Item, ParsedTransfer, TransferDetails> {
  const ifExists = options.ifExists ?? "replace";
  const replaces = ifExists === "replace" || ifExists === "skip-same";
  const isSameWorkspace = source.broker === target.broker;
  // With limits of the caller's own, the source is not held to other ones.
  const route = { source: options.limits === undefined ? source : { ...source, limits }, target, limits };

  const findSource = async ({ file }: ParsedTransfer, call: Call): Promise<FileDetails> => {
    const found = await call(async (context) => {
      try {
        return await source.broker.statFile(file, context);
      } catch (error) {
        throw source.wrap(error, "stat", file.path);
      }
    });
    if (found === undefined) {
      throw source.wrap(new StowageError("no such file", { code: "FILE_NOT_FOUND", file: file.path }), "read", file.path);
    }
    assertPromises(file, { size: found.size, digest: found.file.digest });
    return found;
  };
  const findTarget = (newPath: FilePath, call: Call): Promise<FileDetails | undefined> =>
    call((context) => target.broker.statFile({ path: newPath }, context));
  const isSame = (from: FileDetails, to: FileDetails): boolean =>
    isSameState({ ...from, digest: from.file.digest }, { ...to, digest: to.file.digest });
  const isOntoItself = ({ file, newPath }: ParsedTransfer): boolean => isSameWorkspace && file.path === newPath;

  return {
    operation: "copy",
    runtime: target,
    participants: source === target ? [target] : [target, source],
    conflicts: true,
    parse(item) {
      const file = parseFile(item.file);
      return { file, newPath: parseTargetPath(item.newPath ?? file.path) };
    },
    path: ({ newPath }) => newPath,
    size: ({ file }) => file.size,
    footprint: (transfer) => ({
      writes: [transfer.newPath],
      reads: isSameWorkspace && !isOntoItself(transfer) ? [transfer.file.path] : [],
    }),

    async prepare(transfer, notes, call) {
      if (isOntoItself(transfer)) {
        notes.existed = true;
        const { file, size } = await findSource(transfer, call);
        return { status: "done", facts: { file: { ...file, size }, method: "copy", bytes: size, verified: "none" } };
      }
      if (ifExists === "skip-same" || (options.store !== undefined && replaces)) {
        const there = await findTarget(transfer.newPath, call);
        notes.existed = there !== undefined;
        if (ifExists === "skip-same" && there !== undefined && isSame(await findSource(transfer, call), there)) {
          return { status: "skipped", reason: "same", file: { ...there.file, size: there.size } };
        }
      } else {
        notes.existed = false;
      }
      return undefined;
    },

    async plan(transfer, call): Promise<Ending> {
      const found = await findSource(transfer, call);
      if (isOntoItself(transfer)) return { status: "planned", bytes: found.size, wouldReplace: false };
      const there = await findTarget(transfer.newPath, call);
      if (there !== undefined && !replaces) {
        throw new StowageError(`"${escapePath(transfer.newPath)}" exists already`, { code: "FILE_EXISTS", file: transfer.newPath });
      }
      if (ifExists === "skip-same" && there !== undefined && isSame(found, there)) return { status: "skipped", reason: "same" };
      return { status: "planned", bytes: found.size, wouldReplace: there !== undefined };
    },

    one: (transfer, context) => transferFile(route, transfer, context),
    conclude: (_transfer, details) => ({ status: "done", facts: details }),
    change: (transfer, file) => ({ operation: "copy", workspace: target.name, file, previousPath: transfer.file.path }),
    undo: (transfer, context) => target.broker.deleteFile({ path: transfer.newPath }, context),
  };
}

const lockOrder = new WeakMap<Limits, number>();
let lockCount = 0;

function orderOf(limits: Limits): number {
  let order = lockOrder.get(limits);
  if (order === undefined) {
    order = lockCount++;
    lockOrder.set(limits, order);
  }
  return order;
}

/** A place at both sides; always in the same order, so that a transfer there and one back do not wait for each other. */
function combineLimits(source: Limits, target: Limits): Limits {
  if (source === target) return target;
  const [first, second] = orderOf(source) < orderOf(target) ? [source, target] : [target, source];
  return {
    async acquireFile(signal) {
      const one = await first.acquireFile(signal);
      try {
        const other = await second.acquireFile(signal);
        return {
          [Symbol.dispose]() {
            other[Symbol.dispose]();
            one[Symbol.dispose]();
          },
        };
      } catch (error) {
        one[Symbol.dispose]();
        throw error;
      }
    },
    reserve: (bytes, signal) => target.reserve(bytes, signal),
    throttle: (bytes, signal) => target.throttle(bytes, signal),
    bytesPerSecond: strictest(source.bytesPerSecond, target.bytesPerSecond),
  };
}

function strictest(one: number | undefined, other: number | undefined): number | undefined {
  return one === undefined || other === undefined ? (one ?? other) : Math.min(one, other);
}
