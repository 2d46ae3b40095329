import { createQueue } from "./queue.ts";
import { processWide } from "./registry.ts";
import { sleep } from "./retry.ts";

export interface LimitsOptions {
  /** How many files move at once, over everything that shares these limits; a batch that a broker moves as one counts as one. Defaults to no limit. */
  readonly files?: number | undefined;
  /** Bytes of buffers in use at once. Defaults to 256 MiB. */
  readonly memoryBytes?: number | undefined;
  /** Bytes per second, over everything that shares these limits. Defaults to no limit. */
  readonly bytesPerSecond?: number | undefined;
}

/** Limits shared by whoever is given the same object. Whoever asks first is served first. */
export interface Limits {
  /** Waits for a free place; dispose to leave it. */
  acquireFile(signal?: AbortSignal | undefined): Promise<Disposable>;
  /** Waits for room in the memory budget; dispose to give it back. More than the whole budget waits for all of it. */
  reserve(bytes: number, signal?: AbortSignal | undefined): Promise<Disposable>;
  /** Waits until the bandwidth limit lets `bytes` pass. */
  throttle(bytes: number, signal?: AbortSignal | undefined): Promise<void>;
  /** What `throttle` keeps; absent without a limit. */
  readonly bytesPerSecond?: number | undefined;
}

const DEFAULT_MEMORY_BYTES = 256 * 1024 * 1024;

/** How far bandwidth may be used ahead of time, in milliseconds: smooths without bursts that a meter would see. */
const BURST_MS = 100;

const NOTHING_HELD: Disposable = { [Symbol.dispose](): void {} };
const FREE: Promise<Disposable> = Promise.resolve(NOTHING_HELD);
const PASSED: Promise<void> = Promise.resolve();

/** Makes limits; throws a RangeError for what is no positive number. Calls that wait reject with the signal's reason when it aborts. */
export function createLimits(options: LimitsOptions = {}): Limits {
  const files = options.files === undefined ? undefined : createBudget(positive("files", Math.floor(options.files)));
  const memory = createBudget(positive("memoryBytes", options.memoryBytes ?? DEFAULT_MEMORY_BYTES));
  const throttle = options.bytesPerSecond === undefined ? undefined : createThrottle(positive("bytesPerSecond", options.bytesPerSecond));
  return {
    acquireFile: (signal) => (files === undefined ? FREE : files(1, signal)),
    reserve: (bytes, signal) => memory(bytes, signal),
    throttle: (bytes, signal) => throttle?.(bytes, signal) ?? PASSED,
    bytesPerSecond: options.bytesPerSecond,
  };
}

/** What a workspace uses that was given no limits: one memory budget for the whole process, whichever copies of this package run in it. */
export function defaultLimits(): Limits {
  const shared = processWide() as { limits?: Limits };
  shared.limits ??= createLimits();
  return shared.limits;
}

interface Waiter {
  readonly amount: number;
  cancelled: boolean;
  grant(): void;
}

function createBudget(capacity: number): (amount: number, signal?: AbortSignal) => Promise<Disposable> {
  let used = 0;
  const waiting = createQueue<Waiter>();

  const hold = (amount: number): Disposable => {
    used += amount;
    let held = true;
    return {
      [Symbol.dispose](): void {
        if (!held) return;
        held = false;
        used -= amount;
        admit();
      },
    };
  };
  const admit = (): void => {
    for (let next = waiting.peek(); next !== undefined; next = waiting.peek()) {
      if (!next.cancelled) {
        if (used + next.amount > capacity) return;
        next.grant();
      }
      waiting.shift();
    }
  };

  return (requested, signal) => {
    if (signal?.aborted) return Promise.reject(signal.reason);
    const amount = Math.min(Math.max(0, requested), capacity);
    if (waiting.peek() === undefined && used + amount <= capacity) return Promise.resolve(hold(amount));
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        amount,
        cancelled: false,
        grant() {
          signal?.removeEventListener("abort", onAbort);
          resolve(hold(amount));
        },
      };
      const onAbort = (): void => {
        waiter.cancelled = true;
        reject(signal?.reason);
        admit();
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      waiting.push(waiter);
    });
  };
}

function createThrottle(bytesPerSecond: number): (bytes: number, signal?: AbortSignal) => Promise<void> {
  // When everything that was let through so far has passed at the allowed rate.
  let busyUntil = 0;
  return async (bytes, signal) => {
    signal?.throwIfAborted();
    const cost = (Math.max(0, bytes) / bytesPerSecond) * 1000;
    busyUntil = Math.max(performance.now(), busyUntil) + cost;
    const wait = busyUntil - performance.now() - BURST_MS;
    if (wait <= 0) return;
    try {
      await sleep(wait, signal);
    } catch (error) {
      busyUntil -= cost;
      throw error;
    }
  };
}

function positive(name: string, value: number): number {
  if (!(value > 0)) throw new RangeError(`limits.${name} must be a positive number, got ${value}`);
  return value;
}
