import { statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BatchResult } from "../broker.ts";
import { isCannotStart } from "./child-handle.ts";
import { createInlineExecutor } from "./inline-executor.ts";
import { type DirectoryReader, walkFiles } from "./list-files.ts";
import { readMounts } from "./mountinfo.ts";
import type { PosixCommand, PosixExecutor, PosixHooks, PosixResult, PosixVolume } from "./posix-commands.ts";
import { openPosixSession, type PosixSession, type VolumeFacts } from "./posix-session.ts";
import { createProcessExecutor, nextListing, type ProcessExecutor } from "./process-executor.ts";
import { fileSystemOfType } from "./volume-root.ts";

export type { VolumeFacts } from "./posix-session.ts";

export interface PosixExecutorOptions {
  /**
   * `"process"`: in child processes, which can be killed when the file system hangs. `"inline"`: in this process. `"auto"`: in children where the file
   * system may hang (network, FUSE); elsewhere small work here, and in children large batches, large copies and large listings; all of it here where no
   * child can be started. Defaults to `"auto"`.
   */
  readonly mode?: "auto" | "inline" | "process" | undefined;
  /** The most children for commands and listings; streams have others. Defaults to 2. */
  readonly children?: number | undefined;
  /** A child that has work and says nothing for so long is killed, and what it did fails with `TIMEOUT`. Milliseconds. Defaults to never: aborts do as much. */
  readonly commandTimeoutMs?: number | undefined;
  /** A child with nothing to do ends after so long. Milliseconds. Defaults to 5,000. */
  readonly idleMs?: number | undefined;
}

export interface OpenedPosixExecutor extends PosixExecutor {
  readonly facts: VolumeFacts;
}

/** The folder of this machine where downloads of this user are noted, so that a crash leaves nothing beside their targets for ever. */
export function localRecordsFolder(): string | undefined {
  const uid = process.geteuid?.();
  return uid === undefined ? undefined : join(tmpdir(), `.stowage-inflight-${uid}`);
}

/** Opens the volume. Throws what `openVolumeRoot` throws. */
export async function createPosixExecutor(
  volume: PosixVolume,
  options: PosixExecutorOptions = {},
  signal?: AbortSignal | undefined,
): Promise<OpenedPosixExecutor> {
  signal?.throwIfAborted();
  const { mode = "auto", children = 2, commandTimeoutMs, idleMs = 5000 } = options;
  const localRecords = localRecordsFolder();
  const createProcess = (): ProcessExecutor => createProcessExecutor(volume, { localRecords, children, commandTimeoutMs, idleMs });

  if (mode === "process" || (mode === "auto" && mayHang(volume.rootPath))) {
    const executor = createProcess();
    try {
      // Opening in the child comes first: what hangs there can be killed.
      return withFacts(executor, await executor.open(signal));
    } catch (error) {
      await executor.close();
      if (mode === "process" || !isCannotStart(error)) throw error;
    }
  }
  const session = openPosixSession(volume, { changeDirectory: false, localRecords });
  const inline = createInlineExecutor(session);
  return withFacts(mode === "auto" ? createAutoExecutor(session, inline, createProcess()) : inline, session.facts);
}

/** Opens a volume, tells what was found, and closes it. Throws as opening it for use would. */
export async function inspectVolume(volume: PosixVolume, signal?: AbortSignal | undefined): Promise<VolumeFacts> {
  const executor = await createPosixExecutor(volume, {}, signal);
  await executor.close();
  return executor.facts;
}

function withFacts(executor: PosixExecutor, facts: VolumeFacts): OpenedPosixExecutor {
  const { kind, run, runBatch, list, openRead, openWrite, sweep, close } = executor;
  return { facts, kind, run, runBatch, list, openRead, openWrite, sweep, close };
}

/** Judged by the path alone: looking at it is what might hang. */
function mayHang(rootPath: string): boolean {
  let longest: { readonly mountPoint: string; readonly type: string } | undefined;
  try {
    for (const mount of readMounts()) {
      const { mountPoint } = mount;
      const covers = mountPoint === "/" || rootPath === mountPoint || rootPath.startsWith(`${mountPoint}/`);
      // Of several at one place the last one is seen.
      if (covers && mountPoint.length >= (longest?.mountPoint.length ?? 0)) longest = mount;
    }
  } catch {
    return false;
  }
  return longest !== undefined && fileSystemOfType(longest.type).kind !== "local";
}

// ---------- auto ----------

/** Copies of so many bytes go to a child, where the kernel does them and a kill ends them. */
const LARGE_FILE_BYTES = 64 * 1024 * 1024;
/** Batches of so many commands go to children that are there already. */
const LARGE_BATCH = 32;
/** So many commands in batches, one soon after the other, are worth starting children for; until they are there, the work begins here. */
const COMMANDS_WORTH_CHILDREN = 512;
/** Batches that are further apart than this do not belong together. Milliseconds. */
const SOON_MS = 1000;
/** Commands that are run here before looking whether children are there. */
const SLICE = 32;
/** Listings that read so many directories are worth starting children for. */
const DIRECTORIES_WORTH_CHILDREN = 64;

function createAutoExecutor(session: PosixSession, inline: PosixExecutor, children: ProcessExecutor): PosixExecutor {
  /** Children cannot be started in this program. */
  let isAlone = false;
  let commandsSeen = 0;
  let batchesSeenAt = 0;

  const inChildren = async <T>(work: () => Promise<T>, here: () => Promise<T>): Promise<T> => {
    if (isAlone) return here();
    try {
      return await work();
    } catch (error) {
      if (!isCannotStart(error)) throw error;
      isAlone = true;
      return here();
    }
  };

  return {
    kind: "inline",
    async run<C extends PosixCommand>(command: C, hooks: PosixHooks): Promise<PosixResult<C>> {
      if (hooks.throttle !== undefined || !(await isLarge(session, command, hooks))) return inline.run(command, hooks);
      return inChildren(
        () => children.run(command, hooks),
        () => inline.run(command, hooks),
      );
    },

    async *runBatch<C extends PosixCommand>(commands: readonly C[], hooks: PosixHooks): AsyncGenerator<BatchResult<PosixResult<C>>> {
      if (commands.length < LARGE_BATCH || isAlone) {
        yield* runHere(commands, 0, commands.length);
        return;
      }
      if (performance.now() - batchesSeenAt > SOON_MS) commandsSeen = 0;
      batchesSeenAt = performance.now();
      commandsSeen += commands.length;
      if (commandsSeen >= COMMANDS_WORTH_CHILDREN) children.warm();
      let done = 0;
      while (done < commands.length && !children.isReady) {
        const end = Math.min(done + SLICE, commands.length);
        yield* runHere(commands, done, end);
        done = end;
      }
      if (done < commands.length) yield* shift(children.runBatch(commands.slice(done), shiftHooks(hooks, done)), done);

      /** Small ones here, large ones in children. */
      async function* runHere(all: readonly C[], from: number, to: number): AsyncGenerator<BatchResult<PosixResult<C>>> {
        const large: number[] = [];
        const small: C[] = [];
        const places: number[] = [];
        for (let index = from; index < to; index++) {
          const command = all[index]!;
          if (!isAlone && (await isLarge(session, command, hooks))) {
            large.push(index);
          } else {
            small.push(command);
            places.push(index);
          }
        }
        const placed: PosixHooks = { signal: hooks.signal, progress: (bytes, index) => hooks.progress(bytes, places[index ?? 0]) };
        for await (const result of inline.runBatch(small, placed)) yield { ...result, index: places[result.index]! };
        if (large.length === 0) return;
        const commandsInChildren = large.map((index) => all[index]!);
        const elsewhere: PosixHooks = { signal: hooks.signal, progress: (bytes, index) => hooks.progress(bytes, large[index ?? 0]) };
        for await (const result of children.runBatch(commandsInChildren, elsewhere)) {
          if (!result.ok && isCannotStart(result.error)) {
            isAlone = true;
            const index = large[result.index]!;
            yield* runHere(all, index, index + 1);
          } else {
            yield { ...result, index: large[result.index]! };
          }
        }
      }
    },

    async *list(command, hooks) {
      const listing = nextListing();
      let directories = 0;
      const read: DirectoryReader = async (requests, signal) => {
        if (children.isReady) return children.readDirectories(requests, signal);
        directories += requests.length;
        const pages = await session.pages.read(requests, signal);
        const isWorthwhile = directories >= DIRECTORIES_WORTH_CHILDREN || pages.some(({ next }) => next !== undefined);
        if (isWorthwhile && !isAlone) children.warm();
        return pages;
      };
      try {
        yield* walkFiles(command, read, { listing, ...children.walkOptions }, hooks);
      } finally {
        session.pages.forget(listing);
        children.forgetListing(listing);
      }
    },

    openRead: inline.openRead,
    openWrite: inline.openWrite,
    sweep: inline.sweep,
    async close() {
      await Promise.all([inline.close(), children.close()]);
    },
  };
}

function shiftHooks(hooks: PosixHooks, by: number): PosixHooks {
  return { signal: hooks.signal, progress: (bytes, index) => hooks.progress(bytes, index === undefined ? undefined : index + by) };
}

async function* shift<T>(results: AsyncIterable<BatchResult<T>>, by: number): AsyncGenerator<BatchResult<T>> {
  for await (const result of results) yield { ...result, index: result.index + by };
}

/** Whether a command may copy more than is good for a process that cannot stop the kernel. */
async function isLarge(session: PosixSession, command: PosixCommand, hooks: PosixHooks): Promise<boolean> {
  switch (command.verb) {
    case "stat":
    case "delete":
      return false;
    case "upload":
      return (command.file.size ?? localSizeOf(command.localPath)) > LARGE_FILE_BYTES;
    case "download":
    case "copy":
    case "move": {
      const size = command.file.size ?? (await sizeOf(session, command, hooks));
      return size > LARGE_FILE_BYTES;
    }
  }
}

function localSizeOf(localPath: string): number {
  try {
    return statSync(localPath).size;
  } catch {
    return 0;
  }
}

/** What cannot be looked at is small: the command itself will say why. */
async function sizeOf(session: PosixSession, command: PosixCommand, hooks: PosixHooks): Promise<number> {
  try {
    return (await session.run({ verb: "stat", file: { path: command.file.path } }, hooks))?.size ?? 0;
  } catch {
    return 0;
  }
}
