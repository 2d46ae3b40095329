import { stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { escapePath, type ListProblem, StowageError, type Workspace } from "@stowage/core";
import { type Glob, parseGlob } from "@stowage/jobs";
import { baseName, formatAddress, joinPath, type LocalAddress, type WorkspaceAddress } from "./address.ts";
import { walkLocal } from "./local-tree.ts";

/** One file that a command is about. */
export interface SelectedFile {
  /** A path of this machine, or one inside `workspace`. */
  readonly path: string;
  readonly workspace?: Workspace | undefined;
  /** Below whatever the files go to; never empty. */
  readonly relativePath: string;
  /** Bytes, where the selection came to know them. */
  readonly size?: number | undefined;
  readonly modified?: Date | undefined;
}

/** What one argument of the command stands for. */
export interface Operand {
  readonly kind: "file" | "directory" | "glob";
  /** As it is called in messages. */
  readonly shown: string;
  /** The file's or directory's path; of a pattern the directory below which everything lies that can match. */
  readonly path: string;
  /** Its own name: of several operands each keeps it. `""` for a root and for `.`. */
  readonly name: string;
  /** The files, in no order. */
  files(options: SelectOptions): AsyncIterable<SelectedFile>;
}

export interface SelectOptions {
  readonly signal: AbortSignal;
  /** Told of what is there but cannot be listed or named. */
  onProblem(problem: ListProblem): void;
}

export interface ResolveOptions {
  readonly signal: AbortSignal;
  /** Directories stand for all that is in them. Without it a directory is an error. */
  readonly recursive: boolean;
  /** Take `*`, `?`, `[` and `{` as letters. */
  readonly literal: boolean;
}

const GLOB_CHARACTERS = /[*?[{]|[@!+]\(/;

/** Whether a path is to be read as a pattern, unless a file has that very name. */
export function isPattern(path: string): boolean {
  return GLOB_CHARACTERS.test(path);
}

/** Looks a workspace's file, directory or pattern up. A file whose name looks like a pattern goes before what the pattern matches. Throws `FILE_NOT_FOUND`, `INVALID_ARGUMENT`. */
export async function resolveWorkspaceOperand(workspace: Workspace, address: WorkspaceAddress, options: ResolveOptions): Promise<Operand> {
  const { path, isDirectory } = address;
  const shown = formatAddress(address.workspace, path);
  if (!isDirectory) {
    const details = await workspace.statFile(path, { signal: options.signal });
    if (details !== undefined) {
      const { size, modified } = details;
      return {
        kind: "file",
        shown,
        path,
        name: baseName(path),
        files: () => only({ path, workspace, relativePath: baseName(path), size, modified }),
      };
    }
  }
  if (!options.literal && isPattern(path)) return workspaceGlob(workspace, address, options.recursive);
  // An empty workspace is no mistake; a directory that nobody has written to is.
  if (path !== "" && !(await holdsFiles(workspace, path, options.signal))) {
    const parent = formatAddress(address.workspace, parentOf(path));
    throw new StowageError(`"${shown}" does not exist; "stowage ls ${parent}" shows what there is`, {
      code: "FILE_NOT_FOUND",
      file: path,
      workspace: workspace.name,
    });
  }
  if (!options.recursive) throw isADirectory(shown);
  return { kind: "directory", shown, path, name: baseName(path), files: (select) => listWorkspace(workspace, path, path, select) };
}

/** The same for this machine. */
export async function resolveLocalOperand(address: LocalAddress, options: ResolveOptions): Promise<Operand> {
  const { path } = address;
  const shown = escapePath(path);
  let details: Awaited<ReturnType<typeof stat>>;
  try {
    details = await stat(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ENOTDIR") throw error;
    if (!options.literal && isPattern(path)) return localGlob(address, options.recursive);
    throw new StowageError(`the local file "${shown}" does not exist; check the path`, { code: "FILE_NOT_FOUND", file: path });
  }
  const name = /(?:^|\/)\.{1,2}\/?$/.test(path) ? "" : basename(path);
  if (details.isDirectory()) {
    if (!options.recursive) throw isADirectory(shown);
    return { kind: "directory", shown, path, name, files: (select) => listLocal(path, select) };
  }
  if (address.isDirectory)
    throw new StowageError(`the local file "${shown}" is no directory; leave the "/" at its end out`, { code: "INVALID_ARGUMENT" });
  return { kind: "file", shown, path, name, files: () => only({ path, relativePath: name, size: details.size, modified: details.mtime }) };
}

/** Whether anything lies below a directory of a workspace. */
export async function holdsFiles(workspace: Workspace, directory: string, signal: AbortSignal): Promise<boolean> {
  for await (const _ of workspace.listFiles(directory, { recursive: true, signal, onProblem: () => {} })) return true;
  return false;
}

function workspaceGlob(workspace: Workspace, address: WorkspaceAddress, recursive: boolean): Operand {
  const glob = parseGlob(address.path);
  const deep = recursive || glob.recursive;
  return {
    kind: "glob",
    shown: formatAddress(address.workspace, address.path),
    path: glob.base,
    name: "",
    async *files(options) {
      const { signal, onProblem } = options;
      for await (const { file, size, modified } of workspace.listFiles(glob.base, { recursive: deep, signal, onProblem })) {
        if (!matchesOrLiesIn(glob, file.path, recursive)) continue;
        const relativePath = glob.base === "" ? file.path : file.path.slice(glob.base.length + 1);
        yield { path: file.path, workspace, relativePath, size, modified };
      }
    },
  };
}

function localGlob(address: LocalAddress, recursive: boolean): Operand {
  // A glob is about a tree; what stands before its first special segment says which. `..` and a leading `/` may stand there.
  const segments = address.path.split("/");
  const first = segments.findIndex((segment) => GLOB_CHARACTERS.test(segment));
  const base = first === 0 ? "." : segments.slice(0, first).join("/") || "/";
  const glob = parseGlob(segments.slice(first).join("/"));
  return {
    kind: "glob",
    shown: escapePath(address.path),
    path: base,
    name: "",
    async *files(options) {
      const walk = {
        signal: options.signal,
        onProblem: options.onProblem,
        recursive: recursive || glob.recursive,
        wants: (path: string) => matchesOrLiesIn(glob, path, recursive),
      };
      for await (const file of walkLocal(base, walk)) {
        // As for a workspace: the path below the part of the pattern that is fixed.
        const relativePath = glob.base === "" ? file.path : file.path.slice(glob.base.length + 1);
        yield { path: base === "." ? file.path : join(base, file.path), relativePath, size: file.size, modified: file.modified };
      }
    },
  };
}

/** With `recursive` a pattern that matches a directory stands for all that is in it. */
export function matchesOrLiesIn(glob: Glob, path: string, recursive: boolean): boolean {
  if (glob.matches(path)) return true;
  if (!recursive) return false;
  for (let slash = path.indexOf("/", glob.base.length + 1); slash !== -1; slash = path.indexOf("/", slash + 1)) {
    if (glob.matches(path.slice(0, slash))) return true;
  }
  return false;
}

async function* listWorkspace(workspace: Workspace, directory: string, base: string, options: SelectOptions): AsyncGenerator<SelectedFile> {
  const { signal, onProblem } = options;
  for await (const { file, size, modified } of workspace.listFiles(directory, { recursive: true, signal, onProblem })) {
    const relativePath = base === "" ? file.path : file.path.slice(base.length + 1);
    yield { path: file.path, workspace, relativePath, size, modified };
  }
}

async function* listLocal(directory: string, options: SelectOptions): AsyncGenerator<SelectedFile> {
  for await (const file of walkLocal(directory, { signal: options.signal, onProblem: options.onProblem })) {
    yield { path: file.localPath, relativePath: file.path, size: file.size, modified: file.modified };
  }
}

async function* only(file: SelectedFile): AsyncGenerator<SelectedFile> {
  yield file;
}

function parentOf(path: string): string {
  const slash = path.lastIndexOf("/");
  return slash === -1 ? "" : path.slice(0, slash);
}

function isADirectory(shown: string): StowageError {
  return new StowageError(`"${shown}" is a directory; add -r for all that is in it`, { code: "INVALID_ARGUMENT" });
}

/** Where each operand's files go below the target. One directory's or pattern's files go right there, several operands keep their names. Throws `CONFLICT` when two have the same. */
export function placeOperands(operands: readonly Operand[]): (operand: Operand, file: SelectedFile) => string {
  if (operands.length > 1) {
    const names = new Map<string, Operand>();
    for (const operand of operands) {
      if (operand.kind === "glob" || operand.name === "") continue;
      const other = names.get(operand.name);
      if (other !== undefined) {
        throw new StowageError(
          `"${other.shown}" and "${operand.shown}" would both become "${escapePath(operand.name)}"; copy them one at a time`,
          { code: "CONFLICT" },
        );
      }
      names.set(operand.name, operand);
    }
  }
  return (operand, file) =>
    operand.kind === "directory" && operands.length > 1 ? joinPath(operand.name, file.relativePath) : file.relativePath;
}
