import { StowageError } from "../stowage-error.ts";
import { type ChildHandle, startChild } from "./child-handle.ts";
import { decodeError, type StreamRequest, type TaskReply, type WorkRequest } from "./child-protocol.ts";
import type { PosixVolume } from "./posix-commands.ts";
import type { VolumeFacts } from "./posix-session.ts";

/** How long a child may take to stop what it was told to stop, in milliseconds; then it is killed. Callers are promised one second in all. */
const GRACE_MS = 450;

/** How long opening the volume may take in a child, in milliseconds. */
const OPEN_MS = 15_000;

/** After one that did not even open the volume, no other is started for so long, in milliseconds, while there is one that did. */
const PATIENCE_MS = 1000;

/** Something for a child to do. Its end is told once, by `onEnded` or by `onLost`. */
export interface ChildTask {
  /** Others may wait behind it. */
  readonly isShort: boolean;
  request(task: number): WorkRequest | StreamRequest;
  /** What the child has to tell on the way. */
  onReply(reply: TaskReply): void;
  onChunk?(chunk: Buffer): void;
  /** The child is done with it; or no child was ever found for it. */
  onEnded(error: Error | undefined): void;
  /** The child is gone, or was given up. `hasBegun`: nobody knows how far it came. */
  onLost(cause: Error, hasBegun: boolean): void;
}

export interface SubmittedTask {
  readonly id: number;
  /** Where it runs; `undefined` while it waits. */
  readonly child: ChildHandle | undefined;
  /** Stops it: its end is told within half a second, if need be by killing the child. */
  cancel(): void;
}

export interface ChildPoolOptions {
  readonly volume: PosixVolume;
  readonly localRecords: string | undefined;
  readonly changeDirectory: boolean;
  /** The most children at once. */
  readonly children: number;
  /** Tasks that a child is given before it has ended the first, once there are all children: for work, 2, of what is `isShort`; for streams any number. */
  readonly tasksPerChild: number;
  /** A child that has tasks and says nothing for so long is killed. Milliseconds; `undefined`: never. */
  readonly commandTimeoutMs: number | undefined;
  /** A child that has nothing to do ends after so long. Milliseconds. */
  readonly idleMs: number;
}

/** Children that work on one volume: started when there is work, replaced when they are lost, ended when there is none. */
export interface ChildPool {
  submit(task: ChildTask, preferred?: ChildHandle | undefined): SubmittedTask;
  /** Tells it to every child. */
  broadcast(listing: number): void;
  /** Starts a child if there is none. */
  warm(): void;
  /** Whether there is a child that could begin at once. */
  readonly isReady: boolean;
  /** How many children are alive. */
  readonly size: number;
  /** What the first child found, or why there is none. */
  ready(signal?: AbortSignal | undefined): Promise<VolumeFacts>;
  close(): Promise<void>;
}

interface Slot {
  readonly handle: ChildHandle;
  readonly tasks: Map<number, Running>;
  readonly begun: Set<number>;
  /** Gets nothing more to do, and ends with what it has. */
  isWorn: boolean;
  timer: NodeJS.Timeout | undefined;
}

interface Running extends SubmittedTask {
  readonly task: ChildTask;
  readonly preferred: ChildHandle | undefined;
  slot: Slot | undefined;
  isOver: boolean;
}

export function createChildPool(options: ChildPoolOptions): ChildPool {
  const areStreams = options.tasksPerChild === Number.POSITIVE_INFINITY;
  const slots: Slot[] = [];
  let queue: Running[] = [];
  const waiting: { resolve(facts: VolumeFacts): void; reject(error: Error): void }[] = [];
  let facts: VolumeFacts | undefined;
  let nextId = 1;
  let isClosed = false;
  let startAgainAt = 0;

  const start = (): void => {
    let openTimer: NodeJS.Timeout | undefined;
    const handle = startChild({
      volume: options.volume,
      changeDirectory: options.changeDirectory,
      localRecords: options.localRecords,
      onReady(found) {
        clearTimeout(openTimer);
        facts = found;
        for (const { resolve } of waiting.splice(0)) resolve(found);
        settleIdle(slot);
        dispatch();
      },
      onReply: (reply) => onReply(slot, reply),
      onChunk: (task, chunk) => {
        watch(slot);
        slot.tasks.get(task)?.task.onChunk?.(chunk);
      },
      onLost(cause) {
        clearTimeout(openTimer);
        onSlotLost(slot, cause);
      },
    });
    const slot: Slot = { handle, tasks: new Map(), begun: new Set(), isWorn: false, timer: undefined };
    slots.push(slot);
    openTimer = setTimeout(() => {
      handle.kill(
        new StowageError(`the volume at "${options.volume.rootPath}" did not answer within ${OPEN_MS / 1000} s when it was opened`, {
          code: "TIMEOUT",
        }),
      );
    }, OPEN_MS);
    openTimer.unref();
    // Somebody may be waiting for this one.
    handle.setBusy(true);
  };

  const onReply = (slot: Slot, reply: TaskReply): void => {
    watch(slot);
    const running = slot.tasks.get(reply.task);
    if (reply.kind === "begun") {
      slot.begun.add(reply.task);
    } else if (reply.kind === "ended") {
      slot.begun.delete(reply.task);
      slot.tasks.delete(reply.task);
      slot.isWorn ||= reply.worn === true;
      if (running !== undefined && !running.isOver) {
        running.isOver = true;
        running.task.onEnded(reply.error === undefined ? undefined : decodeError(reply.error));
      }
      settleIdle(slot);
      dispatch();
    } else if (running !== undefined && !running.isOver) {
      running.task.onReply(reply);
    }
  };

  const onSlotLost = (slot: Slot, cause: Error): void => {
    clearTimeout(slot.timer);
    slots.splice(slots.indexOf(slot), 1);
    if (!slot.handle.isReady) {
      startAgainAt = performance.now() + PATIENCE_MS;
      // Another one would hardly fare better.
      if (slots.length === 0) refuseAll(cause);
    }
    for (const [id, running] of slot.tasks) {
      if (running.isOver) continue;
      running.isOver = true;
      running.task.onLost(cause, slot.begun.has(id));
    }
    dispatch();
  };

  /** Begins the time after which a child is too quiet, or too idle. */
  const watch = (slot: Slot): void => {
    clearTimeout(slot.timer);
    if (slot.tasks.size === 0) {
      slot.timer = setTimeout(() => endSlot(slot), options.idleMs);
    } else if (options.commandTimeoutMs !== undefined) {
      slot.timer = setTimeout(() => {
        slot.handle.kill(new StowageError(`the file system did not answer for ${options.commandTimeoutMs! / 1000} s`, { code: "TIMEOUT" }));
      }, options.commandTimeoutMs);
    }
    slot.timer?.unref();
  };

  const settleIdle = (slot: Slot): void => {
    if (slot.tasks.size > 0) return;
    if (slot.isWorn) {
      slot.handle.kill(new StowageError("replaced: copies that were given up still ran in it", { code: "UNAVAILABLE" }));
      return;
    }
    slot.handle.setBusy(false);
    watch(slot);
  };

  const endSlot = (slot: Slot): void => {
    clearTimeout(slot.timer);
    slots.splice(slots.indexOf(slot), 1);
    void slot.handle.end();
  };

  const dispatch = (): void => {
    if (isClosed) return;
    const left: Running[] = [];
    for (const running of queue) {
      const slot = choose(running);
      if (slot === undefined) left.push(running);
      else give(running, slot);
    }
    queue = left;
    if (wantsAnother()) startQuietly();
  };

  const choose = ({ preferred, task }: Running): Slot | undefined => {
    const usable = slots.filter(({ isWorn }) => !isWorn);
    const ready = usable.filter(({ handle }) => handle.isReady);
    const holder = ready.find(({ handle }) => handle === preferred);
    if (holder !== undefined) return hasRoom(holder, task) ? holder : undefined;
    const idle = ready.find(({ tasks }) => tasks.size === 0);
    // Better to wait for another child than behind something that may take long.
    if (idle !== undefined || usable.length < options.children) return idle;
    let best: Slot | undefined;
    for (const slot of ready) {
      if (hasRoom(slot, task) && (best === undefined || slot.tasks.size < best.tasks.size)) best = slot;
    }
    return best;
  };

  const hasRoom = ({ tasks }: Slot, task: ChildTask): boolean => {
    if (tasks.size === 0 || areStreams) return true;
    return tasks.size < options.tasksPerChild && task.isShort && [...tasks.values()].every((running) => running.task.isShort);
  };

  const give = (running: Running, slot: Slot): void => {
    running.slot = slot;
    slot.tasks.set(running.id, running);
    if (slot.tasks.size === 1) {
      slot.handle.setBusy(true);
      watch(slot);
    }
    slot.handle.send(running.task.request(running.id));
  };

  /** While something waits, and nobody is on the way. */
  const wantsAnother = (): boolean => {
    if (slots.filter(({ isWorn }) => !isWorn).length >= options.children) return false;
    if (queue.length === 0 || slots.some(({ handle }) => !handle.isReady)) return false;
    return slots.length === 0 || performance.now() >= startAgainAt;
  };

  const startQuietly = (): void => {
    try {
      start();
    } catch (error) {
      // Cannot be started at all here. Not told in the same turn: whoever submits does not expect it.
      const cause = error instanceof Error ? error : new Error(String(error));
      queueMicrotask(() => refuseAll(cause));
    }
  };

  const refuseAll = (cause: Error): void => {
    for (const { reject } of waiting.splice(0)) reject(cause);
    for (const running of queue.splice(0)) {
      running.isOver = true;
      running.task.onEnded(cause);
    }
  };

  const giveUp = (running: Running): void => {
    const { slot } = running;
    if (running.isOver || slot === undefined) return;
    const cause = new StowageError("a child process for file work did not stop when it was told to, and was killed", { code: "CANCELLED" });
    const hasBegun = slot.begun.has(running.id);
    // One that works on nothing and yet says nothing hangs, too. But what stands behind other work has not begun: the child reads that it was
    // cancelled before it comes to it.
    const hangs = hasBegun || slot.begun.size === 0;
    const isAlone = slot.tasks.size === 1 || !areStreams;
    if (hangs && isAlone) {
      slot.handle.kill(cause);
      return;
    }
    if (hangs) slot.isWorn = true;
    running.isOver = true;
    running.task.onLost(cause, hasBegun);
  };

  return {
    submit(task, preferred) {
      const id = nextId++;
      const running: Running = {
        id,
        task,
        preferred,
        slot: undefined,
        isOver: false,
        get child() {
          return running.slot?.handle;
        },
        cancel() {
          if (running.isOver) return;
          if (running.slot === undefined) {
            running.isOver = true;
            queue = queue.filter((other) => other !== running);
            task.onEnded(new StowageError("cancelled", { code: "CANCELLED" }));
            return;
          }
          running.slot.handle.send({ kind: "abort", task: id });
          setTimeout(() => giveUp(running), GRACE_MS).unref();
        },
      };
      if (isClosed) {
        running.isOver = true;
        queueMicrotask(() => task.onEnded(new StowageError("this broker is closed", { code: "CLOSED" })));
        return running;
      }
      queue.push(running);
      dispatch();
      return running;
    },
    broadcast(listing) {
      for (const { handle } of slots) handle.send({ kind: "forget", listing });
    },
    warm() {
      if (!isClosed && slots.length === 0) startQuietly();
    },
    get isReady() {
      return slots.some(({ handle, isWorn }) => handle.isReady && !isWorn);
    },
    get size() {
      return slots.length;
    },
    async ready(signal) {
      if (facts !== undefined) return facts;
      const { promise, resolve, reject } = Promise.withResolvers<VolumeFacts>();
      waiting.push({ resolve, reject });
      if (slots.length === 0) startQuietly();
      const onAbort = (): void => {
        reject(signal?.reason);
        for (const { handle } of [...slots]) handle.kill(new StowageError("opening was given up", { code: "CANCELLED" }));
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      try {
        return await promise;
      } finally {
        signal?.removeEventListener("abort", onAbort);
      }
    },
    async close() {
      isClosed = true;
      for (const running of queue.splice(0)) {
        running.isOver = true;
        running.task.onEnded(new StowageError("this broker is closed", { code: "CLOSED" }));
      }
      const ending = slots.splice(0);
      for (const slot of ending) clearTimeout(slot.timer);
      await Promise.all(ending.map(({ handle }) => handle.end()));
    },
  };
}
