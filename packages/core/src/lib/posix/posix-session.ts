import { accessSync, constants, realpathSync } from "node:fs";
import type { FileReader, FileWriter } from "../broker.ts";
import { escapePath } from "../file-path.ts";
import { StowageError } from "../stowage-error.ts";
import { createInflightRecords } from "./inflight-records.ts";
import { createDirectoryPages, type DirectoryPages } from "./list-files.ts";
import type { PosixCommand, PosixHooks, PosixResult, PosixVolume, ReadCommand, WriteCommand } from "./posix-commands.ts";
import { openPosixOperations, type PosixOperations } from "./posix-operations.ts";
import type { VolumeFileSystem, VolumeRoot } from "./volume-root.ts";

/** What was found out about a volume when it was opened. */
export interface VolumeFacts {
  readonly fileSystem: VolumeFileSystem;
  readonly containment: VolumeRoot["containment"];
  /** Whether this process may make files in the root itself. */
  readonly isWritable: boolean;
}

export interface PosixSessionOptions {
  /** See `PosixOperationsOptions`. */
  readonly changeDirectory: boolean;
  /** The folder of this machine for records of downloads; `undefined` keeps none. */
  readonly localRecords: string | undefined;
}

/** An opened volume in one process, with its records of what a crash would leave. Both executors work through it: one here, one in children. */
export interface PosixSession {
  readonly facts: VolumeFacts;
  readonly pages: DirectoryPages;
  run<C extends PosixCommand>(command: C, hooks: PosixHooks): Promise<PosixResult<C>>;
  runBatch: PosixOperations["runBatch"];
  openRead(command: ReadCommand, hooks: PosixHooks): Promise<FileReader>;
  openWrite(command: WriteCommand, hooks: PosixHooks): Promise<FileWriter>;
  removeTemporary: PosixOperations["removeTemporary"];
  sweep(options: { readonly olderThanMs: number; readonly deep: boolean }, hooks: PosixHooks): AsyncIterable<string>;
  /** See `PosixOperations`. */
  readonly abandonedCopies: number;
  close(): Promise<void>;
}

/** How long work may hold the event loop, in milliseconds. */
const TURN_MS = 8;

/** Opens the volume. Throws what `openVolumeRoot` throws, and `INVALID_CONFIGURATION` when the root is not inside of what was demanded. */
export function openPosixSession(volume: PosixVolume, { changeDirectory, localRecords }: PosixSessionOptions): PosixSession {
  const operations = openPosixOperations(volume, { changeDirectory, beforeTemporary: (directory) => records.note(directory) });
  const { directories, root } = operations;
  try {
    assertInside(root, volume.insideOneOf);
  } catch (error) {
    void operations.close();
    throw error;
  }
  const records = createInflightRecords(directories, localRecords);
  const pages = createDirectoryPages(directories, { symlinks: volume.symlinks, pause: createPause() });

  const noteDownload = (command: PosixCommand): void => {
    if (command.verb === "download") records.noteLocal(directoryOf(command.localPath));
  };
  const keepLeftovers = (error: unknown): void => {
    const leftovers = (error as { leftovers?: unknown } | null)?.leftovers;
    if (Array.isArray(leftovers) && leftovers.length > 0) records.keep();
  };

  return {
    facts: { fileSystem: root.fileSystem, containment: root.containment, isWritable: isWritable(root) },
    pages,
    async run<C extends PosixCommand>(command: C, hooks: PosixHooks): Promise<PosixResult<C>> {
      if (command.verb === "stat" || command.verb === "delete") return operations.run(command, hooks);
      const end = records.begin();
      try {
        noteDownload(command);
        return await operations.run(command, hooks);
      } catch (error) {
        keepLeftovers(error);
        throw error;
      } finally {
        end();
      }
    },
    async runBatch(commands, hooks, settle) {
      const end = records.begin();
      try {
        for (const command of commands) noteDownload(command);
        await operations.runBatch(commands, hooks, (result) => {
          if (!result.ok) keepLeftovers(result.error);
          settle(result);
        });
      } finally {
        end();
      }
    },
    openRead: (command, hooks) => operations.openRead(command, hooks),
    async openWrite(command, hooks) {
      const end = records.begin();
      try {
        const writer = await operations.openWrite(command, hooks);
        return {
          write: (chunk) => writer.write(chunk),
          commit: () =>
            writer.commit().then(
              (details) => {
                end();
                return details;
              },
              (error: unknown) => {
                keepLeftovers(error);
                end();
                throw error;
              },
            ),
          abort: (reason) => writer.abort(reason).finally(end),
        };
      } catch (error) {
        keepLeftovers(error);
        end();
        throw error;
      }
    },
    removeTemporary: (command) => operations.removeTemporary(command),
    async *sweep(options, hooks) {
      // Few sessions ever sweep.
      const { sweepVolume } = await import("./sweep-volume.ts");
      yield* sweepVolume(directories, { ...options, localRecords }, hooks);
    },
    get abandonedCopies() {
      return operations.abandonedCopies;
    },
    async close() {
      records.close();
      await operations.close();
    },
  };
}

/** Makes a function that gives a promise of the event loop's next turn when this process has worked for long without one. */
export function createPause(turnMs: number = TURN_MS): () => Promise<void> | undefined {
  let turned = performance.now();
  return () => {
    if (performance.now() - turned < turnMs) return undefined;
    return new Promise((resolve) => {
      setImmediate(() => {
        turned = performance.now();
        resolve();
      });
    });
  };
}

function directoryOf(localPath: string): string {
  return localPath.slice(0, Math.max(1, localPath.lastIndexOf("/")));
}

/** Judges where the open root really is: a link below an allowed directory may lead anywhere. */
function assertInside(root: VolumeRoot, allowed: readonly string[] | undefined): void {
  if (allowed === undefined) return;
  for (const directory of allowed) {
    let real: string;
    try {
      real = realpathSync(directory);
    } catch {
      // What does not exist holds nothing.
      continue;
    }
    if (real === "/" || root.realPath === real || root.realPath.startsWith(`${real}/`)) return;
  }
  throw new StowageError(
    `the workspace's root "${escapePath(root.rootPath)}" really is "${escapePath(root.realPath)}", which lies outside of what is allowed here: ${allowed.join(", ")}`,
    { code: "INVALID_CONFIGURATION" },
  );
}

function isWritable(root: VolumeRoot): boolean {
  try {
    accessSync(root.address === "" ? "/" : root.address, constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
