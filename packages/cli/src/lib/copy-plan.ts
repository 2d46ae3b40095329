import { stat } from "node:fs/promises";
import { join } from "node:path";
import { escapePath, StowageError, type Workspace } from "@stowage/core";
import { type Address, formatAddress, joinPath, type LocalAddress, parseAddress, type WorkspaceAddress } from "./address.ts";
import type { NamedItem } from "./batch-report.ts";
import type { CommandContext } from "./context.ts";
import {
  holdsFiles,
  type Operand,
  placeOperands,
  resolveLocalOperand,
  resolveWorkspaceOperand,
  type SelectedFile,
  type SelectOptions,
} from "./selection.ts";

/** One file on its way. */
export interface PlannedFile extends NamedItem {
  readonly source: SelectedFile;
  /** A path of this machine, or one inside the target workspace. */
  readonly targetPath: string;
}

/** What `cp` and `mv` are asked to do, looked up but not begun. */
export interface CopyPlan {
  /** `undefined`: this machine. */
  readonly source: Workspace | undefined;
  readonly target: Workspace | undefined;
  files(options: SelectOptions): AsyncIterable<PlannedFile>;
}

export interface PlanFlags {
  readonly recursive?: true;
  readonly literal?: true;
}

/** Sources and the target, of one kind each. Throws `INVALID_ARGUMENT` for what does not go together. */
export function parseSourcesAndTarget(texts: readonly string[]): { readonly sources: readonly Address[]; readonly target: Address } {
  if (texts.length < 2)
    throw invalid(
      `one address is too few; name a source and then the target${texts[0] === undefined ? "" : `, such as "${escapePath(texts[0])} data:"`}`,
    );
  const addresses = texts.map(parseAddress);
  const target = addresses.at(-1)!;
  const sources = addresses.slice(0, -1);
  const first = sources[0]!;
  for (const source of sources) {
    if (placeOf(source) !== placeOf(first))
      throw invalid(`sources lie in ${placeOf(first)} and in ${placeOf(source)}; name sources of one place at a time`);
  }
  return { sources, target };
}

function placeOf(address: Address): string {
  return address.kind === "workspace"
    ? `the workspace "${address.workspace}"`
    : address.kind === "local"
      ? "this machine"
      : "the standard stream";
}

/** Looks everything up, so that a mistake is found before anything is copied. */
export async function planCopy(
  sources: readonly (WorkspaceAddress | LocalAddress)[],
  target: WorkspaceAddress | LocalAddress,
  flags: PlanFlags,
  context: CommandContext,
): Promise<CopyPlan> {
  const { session, signal } = context;
  const options = { signal, recursive: flags.recursive === true, literal: flags.literal === true };
  const [first] = sources;
  const sourceWorkspace = first?.kind === "workspace" ? await session.open(first.workspace) : undefined;
  const operands: Operand[] = [];
  for (const source of sources) {
    operands.push(
      source.kind === "workspace"
        ? await resolveWorkspaceOperand(await session.open(source.workspace), source, options)
        : await resolveLocalOperand(source, options),
    );
  }
  const targetWorkspace = target.kind === "workspace" ? await session.open(target.workspace) : undefined;
  const [only] = operands;
  const isExact = operands.length === 1 && only!.kind === "file" && !(await isDirectory(target, targetWorkspace, signal));
  if (!isExact && target.kind === "local") await assertNoFile(target.path);
  const overlaps =
    sourceWorkspace !== undefined && sourceWorkspace === targetWorkspace ? findOverlaps(operands, target.path, isExact) : undefined;
  const place = placeOperands(operands);
  const targetPath = (operand: Operand, file: SelectedFile): string => {
    if (isExact) return target.path;
    const below = place(operand, file);
    return target.kind === "local" ? join(target.path, below) : joinPath(target.path, below);
  };
  return {
    source: sourceWorkspace,
    target: targetWorkspace,
    async *files(select) {
      if (overlaps?.isSnapshot) {
        // Listed to its end before anything is stored: a listing must not come upon what this very command has put there.
        const all: PlannedFile[] = [];
        for await (const file of plan(select)) all.push(file);
        yield* all;
      } else {
        yield* plan(select);
      }
    },
  };

  async function* plan(select: SelectOptions): AsyncGenerator<PlannedFile> {
    // Only several patterns can lead to one target; everything else has been looked at.
    const taken = operands.length > 1 && operands.some((operand) => operand.kind === "glob") ? new Set<string>() : undefined;
    for (const operand of operands) {
      for await (const source of operand.files(select)) {
        if (operand.kind === "glob" && overlaps?.isTarget(source.path)) continue;
        const path = targetPath(operand, source);
        const from = nameOf(sourceWorkspace, source.path);
        if (taken?.has(path)) {
          const shown = escapePath(from);
          select.onProblem({
            path: shown,
            error: new StowageError(`"${shown}" was left out: another source goes to "${escapePath(path)}" already`, { code: "CONFLICT" }),
          });
          continue;
        }
        taken?.add(path);
        yield { source, targetPath: path, from, to: nameOf(targetWorkspace, path), size: source.size };
      }
    }
  }
}

/** Inside one workspace a target may lie in a source. A directory cannot go into itself; a pattern leaves out what lies in the target already. */
function findOverlaps(
  operands: readonly Operand[],
  target: string,
  isExact: boolean,
): { readonly isSnapshot: boolean; isTarget(path: string): boolean } {
  if (isExact) return { isSnapshot: false, isTarget: () => false };
  for (const operand of operands) {
    if (operand.kind === "directory" && liesIn(target, operand.path)) {
      throw invalid(`the target lies in the source "${operand.shown}"; choose one outside of it`);
    }
  }
  return {
    isSnapshot: operands.some((operand) => operand.kind !== "file" && (liesIn(operand.path, target) || liesIn(target, operand.path))),
    isTarget: (path) => target !== "" && liesIn(path, target),
  };
}

function liesIn(path: string, directory: string): boolean {
  return directory === "" || path === directory || path.startsWith(`${directory}/`);
}

/** `name:path` or a local path, as people know it; not escaped. */
export function nameOf(workspace: Workspace | undefined, path: string): string {
  return workspace === undefined ? path : `${workspace.name}:${path}`;
}

async function isDirectory(
  target: WorkspaceAddress | LocalAddress,
  workspace: Workspace | undefined,
  signal: AbortSignal,
): Promise<boolean> {
  if (target.isDirectory) return true;
  if (workspace !== undefined) return holdsFiles(workspace, target.path, signal);
  return (await kindOf(target.path)) === "directory";
}

async function assertNoFile(path: string): Promise<void> {
  if ((await kindOf(path)) !== "file") return;
  throw invalid(`the target "${escapePath(path)}" is a file, and there is more than one file to copy; name a directory`);
}

async function kindOf(path: string): Promise<"directory" | "file" | undefined> {
  try {
    return (await stat(path)).isDirectory() ? "directory" : "file";
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw error;
  }
}

/** Used in examples of errors. */
export function shownAddress(address: Address): string {
  return address.kind === "workspace"
    ? formatAddress(address.workspace, address.path)
    : address.kind === "local"
      ? escapePath(address.path)
      : "-";
}

function invalid(message: string): StowageError {
  return new StowageError(message, { code: "INVALID_ARGUMENT" });
}
