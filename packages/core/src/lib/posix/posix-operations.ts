import { unlinkSync } from "node:fs";
import { dirname } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { BatchResult, FileReader, FileWriter } from "../broker.ts";
import { escapePath, parseFilePath } from "../file-path.ts";
import { StowageError } from "../stowage-error.ts";
import { deleteFile, statFile } from "./delete-file.ts";
import { downloadFile } from "./download-file.ts";
import { moveFile } from "./move-file.ts";
import { isStale, PinnedDirectories, splitPath } from "./pinned-directory.ts";
import type { PosixCommand, PosixHooks, PosixResult, PosixVolume, ReadCommand, WriteCommand } from "./posix-commands.ts";
import { describePosixError, isErrno } from "./posix-errors.ts";
import { runSteps, type Steps } from "./steps.ts";
import type { OperationEnvironment, OperationHooks } from "./store-file.ts";
import { openReader, openWriter } from "./stream-file.ts";
import { copyStoredFile, uploadFile } from "./upload-file.ts";
import { openVolumeRoot, type VolumeRoot } from "./volume-root.ts";

export interface PosixOperationsOptions {
  /**
   * This process is a child of ours that may be killed: it works with relative names from changing directories, sets the umask to 0, and lets the
   * kernel copy, which nothing but a kill can stop. Never in a user's process.
   */
  readonly changeDirectory: boolean;
  /**
   * Called before a temporary name is made in a directory of the volume (its path in the workspace, `""` for the root), for the first time and
   * perhaps again after its handle was let go. What it throws fails the command. Not called for local directories.
   */
  readonly beforeTemporary: (directory: string) => void;
  /** Directories held open beyond those in use. Defaults to 256. */
  readonly maximumHandles?: number | undefined;
  /** For tests: `"checked"` does without /proc where it is there. */
  readonly containment?: VolumeRoot["containment"] | undefined;
}

/** File work on an opened volume, in this process. Every error is a `StowageError` that names files as their users know them, or what `hooks` threw. Nothing may be called after `close`. */
export interface PosixOperations {
  readonly root: VolumeRoot;
  readonly directories: PinnedDirectories;
  /** Synchronous inside for small files: whoever calls in a loop lets the event loop turn between calls. */
  run<C extends PosixCommand>(command: C, hooks: PosixHooks): Promise<PosixResult<C>>;
  /**
   * Runs commands grouped by directory, and gives each result to `settle` as soon as it is there; never rejects. Lets the event loop turn at least every
   * 10 ms. After an abort what has not begun settles with the signal's reason.
   */
  runBatch<C extends PosixCommand>(
    commands: readonly C[],
    hooks: PosixHooks,
    settle: (result: BatchResult<PosixResult<C>>) => void,
  ): Promise<void>;
  openRead(command: ReadCommand, hooks: PosixHooks): Promise<FileReader>;
  openWrite(command: WriteCommand, hooks: PosixHooks): Promise<FileWriter>;
  /** Removes the temporary name that a command may have left whose process was killed. Returns the names of what could not be removed. */
  removeTemporary(command: PosixCommand | WriteCommand): string[];
  /**
   * Copies in the kernel that were given up (abort, a source that shrank) and still run: they hold a thread, perhaps for ever. A child in which this is not 0
   * should be replaced once its other work is done.
   */
  readonly abandonedCopies: number;
  close(): Promise<void>;
}

/** The longest stretch of a batch without a turn of the event loop, in milliseconds. */
const STRETCH_MS = 8;

/** Opens the volume for file work. Throws what `openVolumeRoot` throws. */
export function openPosixOperations(volume: PosixVolume, options: PosixOperationsOptions): PosixOperations {
  const root = openVolumeRoot(volume, options.containment);
  const directories = new PinnedDirectories(root, { ...volume, ...options });
  const umask = options.changeDirectory ? process.umask(0) : 0;
  const announced = new WeakSet<object>();
  let abandonedCopies = 0;
  const environment: OperationEnvironment = {
    directories,
    volume,
    isChild: options.changeDirectory,
    localFileMode: 0o666 & ~umask,
    announce(directory) {
      if (announced.has(directory)) return;
      options.beforeTemporary(directory.path);
      announced.add(directory);
    },
    onAbandoned(change) {
      abandonedCopies += change;
    },
  };

  return {
    root,
    directories,
    get abandonedCopies() {
      return abandonedCopies;
    },
    async run<C extends PosixCommand>(command: C, hooks: PosixHooks): Promise<PosixResult<C>> {
      directories.beginCall();
      return start(environment, command, hooks);
    },
    runBatch: (commands, hooks, settle) => runBatch(environment, commands, hooks, settle),
    async openRead(command, hooks) {
      directories.beginCall();
      parseFilePath(command.file.path);
      return onFreshHandles(environment, command.file.path, "open", () => openReader(environment, command, hooks));
    },
    async openWrite(command, hooks) {
      directories.beginCall();
      parseFilePath(command.file.path);
      return onFreshHandles(environment, command.file.path, "write", () => openWriter(environment, command, hooks));
    },
    removeTemporary: (command) => removeTemporary(environment, command),
    async close() {
      directories.close();
      root.close();
      if (options.changeDirectory) process.umask(umask);
    },
  };
}

// ---------- one command ----------

/** Runs a command as far as it goes without waiting. */
function start<C extends PosixCommand>(
  environment: OperationEnvironment,
  command: C,
  hooks: PosixHooks,
  index?: number,
): PosixResult<C> | Promise<PosixResult<C>> {
  // What a command gives is fixed by its verb; the compiler loses that through the generic parameter.
  return runSteps(runOnFreshHandles(environment, command, hooks, index)) as PosixResult<C> | Promise<PosixResult<C>>;
}

/** Runs a command, and once more when a handle turned out to lead nowhere: the server has forgotten it, or the directory was removed. */
function* runOnFreshHandles(
  environment: OperationEnvironment,
  command: PosixCommand,
  hooks: PosixHooks,
  index: number | undefined,
): Steps<unknown> {
  hooks.signal.throwIfAborted();
  let moved = 0;
  const counted: OperationHooks = {
    signal: hooks.signal,
    progress(bytes) {
      moved += bytes;
      hooks.progress(bytes, index);
    },
    throttle: hooks.throttle,
  };
  for (let attempt = 1; ; attempt++) {
    try {
      return yield* stepsOf(environment, command, counted);
    } catch (error) {
      const described = describePosixError(error, { action: command.verb, path: command.file.path, side: "workspace" });
      if (attempt > 1 || !isStale(described) || hooks.signal.aborted) throw described;
      environment.directories.forget();
      if (moved !== 0) counted.progress(-moved);
    }
  }
}

function stepsOf(environment: OperationEnvironment, command: PosixCommand, hooks: OperationHooks): Steps<unknown> {
  // They were parsed where they came in. But this is the last place before the file system, and commands come through pipes.
  parseFilePath(command.file.path);
  if ("newPath" in command) parseFilePath(command.newPath);
  switch (command.verb) {
    case "upload":
      return uploadFile(environment, command, hooks);
    case "download":
      return downloadFile(environment, command, hooks);
    case "copy":
      return copyStoredFile(environment, command, hooks);
    case "move":
      return moveFile(environment, command, hooks);
    case "delete":
      return deleteFile(environment, command);
    case "stat":
      return statFile(environment, command);
    default:
      throw new StowageError(`"${escapePath(String((command satisfies never as { verb: unknown }).verb))}" is no posix command`, {
        code: "UNSUPPORTED",
      });
  }
}

function onFreshHandles<T>(environment: OperationEnvironment, path: string, action: string, open: () => T): T {
  for (let attempt = 1; ; attempt++) {
    try {
      return open();
    } catch (error) {
      const described = describePosixError(error, { action, path, side: "workspace" });
      if (attempt > 1 || !isStale(described)) throw described;
      environment.directories.forget();
    }
  }
}

// ---------- batches ----------

async function runBatch<C extends PosixCommand>(
  environment: OperationEnvironment,
  commands: readonly C[],
  hooks: PosixHooks,
  settle: (result: BatchResult<PosixResult<C>>) => void,
): Promise<void> {
  let turned = performance.now();
  for (const indexes of groupByDirectory(commands)) {
    environment.directories.beginCall();
    for (const index of indexes) {
      try {
        let value = start(environment, commands[index]!, hooks, index);
        if (value instanceof Promise) {
          value = await value;
          // Time has passed: what the directories' paths lead to is to be looked at again.
          environment.directories.beginCall();
          turned = performance.now();
        }
        settle({ index, ok: true, value });
      } catch (error) {
        settle({ index, ok: false, error });
      }
      if (performance.now() - turned > STRETCH_MS) {
        await nextTurn();
        turned = performance.now();
      }
    }
  }
}

/** The places of commands that work in one directory of the volume, together: every change of directory costs. */
function groupByDirectory(commands: readonly PosixCommand[]): Iterable<readonly number[]> {
  const groups = new Map<string, number[]>();
  for (const [index, command] of commands.entries()) {
    const { directory } = splitPath("newPath" in command ? command.newPath : command.file.path);
    const group = groups.get(directory);
    if (group === undefined) groups.set(directory, [index]);
    else group.push(index);
  }
  return groups.values();
}

// ---------- after a kill ----------

function removeTemporary({ directories }: OperationEnvironment, command: PosixCommand | WriteCommand): string[] {
  if (!("temporaryName" in command)) return [];
  const { temporaryName } = command;
  const isDownload = "verb" in command && command.verb === "download";
  if (isDownload) return removeName(`${dirname(command.localPath).replace(/\/$/, "")}/${temporaryName}`, (path) => path);
  const path = "newPath" in command ? command.newPath : command.file.path;
  const parent = splitPath(path).directory;
  const name = parent === "" ? temporaryName : `${parent}/${temporaryName}`;
  directories.beginCall();
  try {
    const directory = directories.find(parent);
    if (directory === undefined) return [];
    try {
      return removeName(name, () => directories.entry(directory, temporaryName));
    } finally {
      directories.release(directory);
    }
  } catch {
    return [name];
  }
}

function removeName(name: string, address: (name: string) => string): string[] {
  try {
    unlinkSync(address(name));
    return [];
  } catch (error) {
    return isErrno(error, "ENOENT", "ENOTDIR") ? [] : [name];
  }
}
