import { statSync } from "node:fs";
import type { BatchResult } from "../broker.ts";
import { isCannotStart } from "./child-command.ts";
import { DIRECTORIES_AHEAD, DIRECTORIES_TOGETHER, type DirectoryReader, nextListing, walkFiles } from "./list-files.ts";
import type { PosixCommand, PosixExecutor, PosixHooks, PosixResult } from "./posix-commands.ts";
import type { PosixSession } from "./posix-session.ts";
import type { ProcessExecutor } from "./process-executor.ts";

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

/** Small work here, large work in children, which `load` gives the executor of when there is use for it. */
export function createAutoExecutor(session: PosixSession, inline: PosixExecutor, load: () => Promise<ProcessExecutor>): PosixExecutor {
  let loading: Promise<ProcessExecutor> | undefined;
  let children: ProcessExecutor | undefined;
  const loadChildren = (): Promise<ProcessExecutor> => {
    loading ??= load().then((loaded) => {
      children = loaded;
      return loaded;
    });
    return loading;
  };
  const warm = (): void => {
    if (children !== undefined) children.warm();
    // What is wrong with it is told to whoever needs it.
    else
      loadChildren().then(
        (loaded) => loaded.warm(),
        () => undefined,
      );
  };
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
        async () => (await loadChildren()).run(command, hooks),
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
      if (commandsSeen >= COMMANDS_WORTH_CHILDREN) warm();
      let done = 0;
      while (done < commands.length && children?.isReady !== true) {
        const end = Math.min(done + SLICE, commands.length);
        yield* runHere(commands, done, end);
        done = end;
      }
      if (done < commands.length) yield* shift((await loadChildren()).runBatch(commands.slice(done), shiftHooks(hooks, done)), done);

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
        for await (const result of (await loadChildren()).runBatch(commandsInChildren, elsewhere)) {
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
        if (children?.isReady === true) return children.readDirectories(requests, signal);
        directories += requests.length;
        const pages = await session.pages.read(requests, signal);
        const isWorthwhile = directories >= DIRECTORIES_WORTH_CHILDREN || pages.some(({ next }) => next !== undefined);
        if (isWorthwhile && !isAlone) warm();
        return pages;
      };
      try {
        yield* walkFiles(command, read, { listing, together: DIRECTORIES_TOGETHER, ahead: DIRECTORIES_AHEAD }, hooks);
      } finally {
        session.pages.forget(listing);
        children?.forgetListing(listing);
      }
    },

    openRead: inline.openRead,
    openWrite: inline.openWrite,
    sweep: inline.sweep,
    async close() {
      await Promise.all([inline.close(), loading?.then((loaded) => loaded.close())]);
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
