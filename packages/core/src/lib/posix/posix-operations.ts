import type { BatchResult, FileReader, FileWriter } from "../broker.ts";
import type { PinnedDirectories } from "./pinned-directory.ts";
import type { PosixCommand, PosixHooks, PosixResult, ReadCommand, WriteCommand } from "./posix-commands.ts";
import type { VolumeRoot } from "./volume-root.ts";

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
}

/** File work on an opened volume, in this process. Every error is a `StowageError` that names files as their users know them, or what `hooks` threw. */
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
