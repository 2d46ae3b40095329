import type { BatchResult } from "../broker.ts";
import { addLeftover } from "../local-file.ts";
import { StowageError } from "../stowage-error.ts";
import type { ChildHandle } from "./child-handle.ts";
import { type ChildPool, createChildPool, type SubmittedTask } from "./child-pool.ts";
import { decodeResult } from "./child-protocol.ts";
import { createStreams } from "./child-streams.ts";
import { cleanTemporaries } from "./clean-temporaries.ts";
import { DIRECTORIES_AHEAD, DIRECTORIES_TOGETHER, type DirectoryPage, type DirectoryReader, nextListing, walkFiles } from "./list-files.ts";
import { splitPath } from "./pinned-directory.ts";
import type { PosixCommand, PosixExecutor, PosixHooks, PosixResult, PosixVolume } from "./posix-commands.ts";
import type { VolumeFacts } from "./posix-session.ts";
import { createResultQueue } from "./result-queue.ts";

/** Commands that a child is given at once. */
const GROUP_SIZE = 256;
/** Fewer are not worth a message, while there are others. */
const LEAST_GROUP_SIZE = 16;
/** Groups that a child has at once: while it works on one the next is there already. */
const GROUPS_PER_CHILD = 2;
/** Results of a batch that nobody has taken hold back what has not begun. */
const RESULTS_WAITING = 1024;
const STREAM_CHILDREN = 4;

export interface ProcessExecutorOptions {
  readonly localRecords: string | undefined;
  readonly children: number;
  readonly commandTimeoutMs: number | undefined;
  readonly idleMs: number;
}

export interface ProcessExecutor extends PosixExecutor {
  /** Opens the volume in the first child, and tells what it found. */
  open(signal?: AbortSignal | undefined): Promise<VolumeFacts>;
  /** Starts a child, if there is none. */
  warm(): void;
  /** Whether a child could begin at once. */
  readonly isReady: boolean;
  readonly readDirectories: DirectoryReader;
  forgetListing(listing: number): void;
}

/** A command, and what has become of it so far. */
interface Item {
  /** Its place in the batch. */
  readonly index: number;
  readonly command: PosixCommand;
  /** Children that were lost with it in their hands. */
  readonly losses: number;
}

/** So often may a child be lost with a command in its hands before it is the command that is suspected. */
const LOSSES = 2;

type Settle = (result: BatchResult<unknown>) => void;

/** Runs commands in child processes, which can be killed when the file system hangs. */
export function createProcessExecutor(volume: PosixVolume, options: ProcessExecutorOptions): ProcessExecutor {
  const { localRecords, children, commandTimeoutMs, idleMs } = options;
  const common = { volume, localRecords, commandTimeoutMs, idleMs };
  const pool = createChildPool({ ...common, changeDirectory: true, children, tasksPerChild: GROUPS_PER_CHILD });
  // Readers, writers and sweeps last; they must not stand in the way of what is quick. A stream that nobody reads from is no sign of a hang.
  const streamPool = createChildPool({
    ...common,
    changeDirectory: false,
    children: STREAM_CHILDREN,
    tasksPerChild: Number.POSITIVE_INFINITY,
    commandTimeoutMs: undefined,
  });
  const streams = createStreams(streamPool, pool);
  /** Batches under way. */
  let batches = 0;
  const readDirectories = createDirectoryReader(pool);

  return {
    kind: "process",
    open: (signal) => pool.ready(signal),
    warm: () => pool.warm(),
    get isReady() {
      return pool.isReady;
    },
    readDirectories,
    forgetListing: (listing) => pool.broadcast(listing),

    async run<C extends PosixCommand>(command: C, hooks: PosixHooks): Promise<PosixResult<C>> {
      hooks.signal.throwIfAborted();
      let result: BatchResult<unknown> | undefined;
      const single: PosixHooks = { signal: hooks.signal, progress: (bytes) => hooks.progress(bytes) };
      await runGroup(pool, [{ index: 0, command, losses: 0 }], single, (settled) => {
        result = settled;
      });
      if (result === undefined) throw new Error("a group ended without a result");
      if (!result.ok) throw result.error;
      return result.value as PosixResult<C>;
    },

    async *runBatch<C extends PosixCommand>(commands: readonly C[], hooks: PosixHooks): AsyncGenerator<BatchResult<PosixResult<C>>> {
      hooks.signal.throwIfAborted();
      batches++;
      // Other batches keep the children busy, too: the more there are, the less this one need be cut.
      const groups = groupCommands(commands, Math.max(1, Math.ceil((children * GROUPS_PER_CHILD) / batches)));
      // Ends the work when the consumer does.
      const ending = new AbortController();
      const onAbort = (): void => ending.abort(hooks.signal.reason);
      hooks.signal.addEventListener("abort", onAbort, { once: true });
      const inner: PosixHooks = { signal: ending.signal, progress: (bytes, index) => hooks.progress(bytes, index) };
      const running = new Set<Promise<void>>();
      let next = 0;
      const results = createResultQueue<BatchResult<PosixResult<C>>>(() => pump());
      const pump = (): void => {
        while (
          next < groups.length &&
          running.size < children * GROUPS_PER_CHILD &&
          results.waiting < RESULTS_WAITING &&
          !ending.signal.aborted
        ) {
          const group: Promise<void> = runGroup(pool, groups[next++]!, inner, (result) =>
            results.push(result as BatchResult<PosixResult<C>>),
          )
            .catch(results.fail)
            .then(() => {
              running.delete(group);
              pump();
            });
          running.add(group);
        }
        if (running.size > 0) return;
        if (ending.signal.aborted && next < groups.length) results.fail(ending.signal.reason);
        else if (next >= groups.length) results.end();
      };
      pump();
      try {
        yield* results;
      } finally {
        hooks.signal.removeEventListener("abort", onAbort);
        ending.abort(hooks.signal.reason ?? new StowageError("nobody waits for this batch any more", { code: "CANCELLED" }));
        while (running.size > 0) await Promise.all(running);
        batches--;
      }
    },

    async *list(command, hooks) {
      const listing = nextListing();
      try {
        yield* walkFiles(command, readDirectories, { listing, together: DIRECTORIES_TOGETHER, ahead: DIRECTORIES_AHEAD }, hooks);
      } finally {
        pool.broadcast(listing);
      }
    },

    openRead: streams.openRead,
    openWrite: streams.openWrite,
    sweep: streams.sweep,
    async close() {
      await Promise.all([pool.close(), streamPool.close()]);
    },
  };
}

// ---------- groups ----------

/** Together what works in one directory, in groups that keep every child busy. */
function groupCommands(commands: readonly PosixCommand[], lanes: number): Item[][] {
  const size = Math.min(GROUP_SIZE, Math.max(LEAST_GROUP_SIZE, Math.ceil(commands.length / lanes)));
  const byDirectory = new Map<string, Item[]>();
  for (const [index, command] of commands.entries()) {
    const { directory } = splitPath("newPath" in command ? command.newPath : command.file.path);
    const items = byDirectory.get(directory);
    const item: Item = { index, command, losses: 0 };
    if (items === undefined) byDirectory.set(directory, [item]);
    else items.push(item);
  }
  const groups: Item[][] = [];
  let group: Item[] = [];
  for (const items of byDirectory.values()) {
    for (const item of items) {
      group.push(item);
      if (group.length < size) continue;
      groups.push(group);
      group = [];
    }
  }
  if (group.length > 0) groups.push(group);
  return groups;
}

/** Whether it may simply be done again when nobody knows how far it came. */
function mayRepeat(command: PosixCommand): boolean {
  switch (command.verb) {
    case "stat":
    case "delete":
      return true;
    case "move":
      return false;
    default:
      // Otherwise it would find its own file and take it for another's.
      return command.ifExists === "replace";
  }
}

/** Runs a group; every item settles, whatever becomes of children. */
function runGroup(pool: ChildPool, items: readonly Item[], hooks: PosixHooks, settle: Settle): Promise<void> {
  return new Promise((resolve, reject) => {
    const pending = new Map(items.map((item, position) => [position, item]));
    const isExact = items.some(({ command }) => !mayRepeat(command));

    const finish = (): void => {
      hooks.signal.removeEventListener("abort", cancel);
      resolve();
    };
    const failAll = (error: unknown): void => {
      for (const { index } of pending.values()) settle({ index, ok: false, error });
      finish();
    };

    const submitted: SubmittedTask = pool.submit({
      isShort: items.length > 1,
      request: (task) => ({ kind: "run", task, commands: items.map(({ command }) => command), exact: isExact }),
      onReply(reply) {
        if (reply.kind === "progress") {
          const item = pending.get(reply.index);
          if (item !== undefined) hooks.progress(reply.bytes, item.index);
        } else if (reply.kind === "results") {
          for (const encoded of reply.results) {
            const item = pending.get(encoded[0]);
            if (item === undefined) continue;
            pending.delete(encoded[0]);
            if (encoded.length === 3 && encoded[2] !== 0) hooks.progress(encoded[2], item.index);
            settle(finishResult(item, decodeResult(item.command.verb, encoded), hooks.signal));
          }
        }
      },
      onEnded(error) {
        if (pending.size === 0) finish();
        else failAll(hooks.signal.aborted ? hooks.signal.reason : (error ?? new Error("a child ended a group without all results")));
      },
      onLost(cause, hasBegun) {
        hooks.signal.removeEventListener("abort", cancel);
        void recover(pool, [...pending.values()], { cause, hasBegun, isExact }, hooks, settle).then(resolve, reject);
      },
    });
    const cancel = (): void => submitted.cancel();
    if (hooks.signal.aborted) cancel();
    else hooks.signal.addEventListener("abort", cancel, { once: true });
  });
}

function finishResult(item: Item, result: BatchResult<unknown>, signal: AbortSignal): BatchResult<unknown> {
  const { index } = item;
  if (result.ok) {
    // The child that was lost may have deleted it.
    const isUnknown = item.command.verb === "delete" && item.losses > 0 && result.value === "missing";
    return { index, ok: true, value: isUnknown ? "unknown" : result.value };
  }
  // The child has another word for it.
  const isOurs =
    signal.aborted && StowageError.is(result.error) && result.error.code === "CANCELLED" && result.error.leftovers.length === 0;
  return { index, ok: false, error: isOurs ? signal.reason : result.error };
}

/** After a child was lost: does again what may be done again, says of the rest that it is not known, and cleans up. */
async function recover(
  pool: ChildPool,
  items: readonly Item[],
  loss: { readonly cause: Error; readonly hasBegun: boolean; readonly isExact: boolean },
  hooks: PosixHooks,
  settle: Settle,
): Promise<void> {
  const { cause, hasBegun, isExact } = loss;
  if (items.length === 0) return;
  const suspects = hasBegun ? (isExact ? items.slice(0, 1) : items) : [];
  const leftovers = await clean(pool, suspects, hooks.signal);
  if (hooks.signal.aborted) {
    for (const item of items) settle({ index: item.index, ok: false, error: cancelled(hooks.signal.reason, leftovers.get(item)) });
    return;
  }
  const again: Promise<void>[] = [];
  const untouched = items.slice(suspects.length);
  if (untouched.length > 0) again.push(runGroup(pool, untouched, hooks, settle));
  const isTimeout = StowageError.is(cause) && cause.code === "TIMEOUT";
  for (const item of suspects) {
    const isLast = item.losses >= LOSSES || (isTimeout && suspects.length === 1);
    if (mayRepeat(item.command) && !isLast) {
      // Alone: whichever of them it is that no child survives, the others go on.
      again.push(runGroup(pool, [{ ...item, command: renewTemporary(item.command), losses: item.losses + 1 }], hooks, settle));
    } else {
      settle({ index: item.index, ok: false, error: lost(item.command, cause, leftovers.get(item)) });
    }
  }
  await Promise.all(again);
}

/** Another temporary name: the first one may still be there. */
function renewTemporary(command: PosixCommand): PosixCommand {
  return "temporaryName" in command ? { ...command, temporaryName: `${command.temporaryName}-again` } : command;
}

function cancelled(reason: unknown, leftovers: readonly string[] = []): unknown {
  if (leftovers.length === 0) return reason;
  return new StowageError("cancelled, and what it had begun could not all be removed", { code: "CANCELLED", cause: reason, leftovers });
}

function lost(command: PosixCommand, cause: Error, leftovers: readonly string[] = []): Error {
  const canRetry = mayRepeat(command);
  const unknown = canRetry ? "" : "; whether it was done is not known, look before you do it again";
  const isTimeout = StowageError.is(cause) && cause.code === "TIMEOUT";
  const error = new StowageError(`the process that worked on it was lost: ${cause.message}${unknown}`, {
    code: isTimeout ? "TIMEOUT" : "UNAVAILABLE",
    retryable: canRetry,
    file: command.file.path,
    cause,
  });
  for (const name of leftovers) addLeftover(error, name);
  return error;
}

/** Cleans up after a lost child; gives, by item, what may still be there. */
async function clean(pool: ChildPool, items: readonly Item[], signal: AbortSignal): Promise<Map<Item, readonly string[]>> {
  const leftovers = await cleanTemporaries(
    pool,
    items.map(({ command }) => command),
    signal,
  );
  return new Map(items.map((item, position) => [item, leftovers[position] ?? []]));
}

// ---------- listing ----------

function createDirectoryReader(pool: ChildPool): DirectoryReader {
  /** Which child has the rest of a large directory. */
  const holders = new Map<string, ChildHandle>();

  const attempt: (...parameters: Parameters<DirectoryReader>) => Promise<{ pages: readonly DirectoryPage[] } | { lost: Error }> = (
    requests,
    signal,
  ) =>
    new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const first = requests[0]!;
      const key = `${first.listing}\0${first.path}`;
      const preferred = first.from === undefined ? undefined : holders.get(key);
      holders.delete(key);
      let pages: readonly DirectoryPage[] = [];
      const submitted = pool.submit(
        {
          isShort: true,
          request: (task) => ({ kind: "list", task, directories: requests }),
          onReply(reply) {
            if (reply.kind !== "pages") return;
            ({ pages } = reply);
            for (const [index, { next }] of pages.entries()) {
              const { listing, path } = requests[index]!;
              if (next !== undefined && submitted.child !== undefined) holders.set(`${listing}\0${path}`, submitted.child);
            }
          },
          onEnded(error) {
            signal.removeEventListener("abort", onAbort);
            if (error === undefined) resolve({ pages });
            else reject(error);
          },
          onLost(cause) {
            signal.removeEventListener("abort", onAbort);
            resolve({ lost: cause });
          },
        },
        preferred,
      );
      const onAbort = (): void => {
        reject(signal.reason);
        submitted.cancel();
      };
      signal.addEventListener("abort", onAbort, { once: true });
    });

  return async (requests, signal) => {
    for (let losses = 0; ; losses++) {
      const outcome = await attempt(requests, signal);
      if ("pages" in outcome) return outcome.pages;
      if (losses > 0) {
        throw new StowageError(`the process that was listing was lost: ${outcome.lost.message}`, {
          code: "UNAVAILABLE",
          cause: outcome.lost,
        });
      }
    }
  };
}
