import { randomBytes } from "node:crypto";
import type { OperationContext } from "./broker.ts";
import { RESERVED_PREFIX } from "./file-path.ts";
import type { Limits } from "./limits.ts";
import { StowageError } from "./stowage-error.ts";

/** How long after an abort a broker's call is waited for, in milliseconds. Callers are promised one second in all. */
const SETTLEMENT_MS = 850;

/** What an epilogue that begins when this time is over gets still. */
const LEAST_EPILOGUE_MS = 50;

export const DEFAULT_STALL_TIMEOUT_MS = 120_000;

/** The longest time that Node's timers take. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

export interface ScopeOptions {
  readonly signal?: AbortSignal | undefined;
  readonly deadline?: Date | undefined;
  /** Milliseconds; 0 never. Defaults to 120,000. */
  readonly stallTimeoutMs?: number | undefined;
  readonly limits: Limits;
  readonly journal: OperationContext["journal"];
  readonly log: OperationContext["log"];
  readonly durability?: OperationContext["durability"] | undefined;
  readonly checksum?: OperationContext["checksum"] | undefined;
  readonly ifExists?: OperationContext["ifExists"] | undefined;
}

/** How one call of a broker ended. */
export type AttemptResult<T> =
  | {
      readonly ok: true;
      readonly value: T;
      /** Why the call had been aborted, if it had: it succeeded in spite of that. */
      readonly reason: StowageError | undefined;
    }
  | {
      readonly ok: false;
      /** What the broker threw; when it was abandoned, `reason`. */
      readonly error: unknown;
      /** Why the call had been aborted, if it had. */
      readonly reason: StowageError | undefined;
      /** The broker did not settle in time after the abort: what it holds is unknown. */
      readonly abandoned: boolean;
      readonly temporaryId: string;
      readonly leftovers: readonly string[];
    };

/**
 * The time in which one batch or one single call runs: makes a context for each attempt, ends all of them when the caller, the
 * deadline or `cancel` says so, and one when it stalls.
 */
export interface OperationScope {
  /** Why nothing more may run: `CANCELLED`, `CLOSED` or `TIMEOUT`. */
  readonly ended: StowageError | undefined;
  /** Aborts when the scope ends, for waits between attempts. */
  readonly signal: AbortSignal;
  /** Ends the scope. Attempts that run are aborted and settle within a second. */
  cancel(reason: StowageError): void;
  /** Calls a broker. Never rejects; settles within a second of an abort, whatever the broker does. */
  run<T>(operation: (context: OperationContext) => Promise<T>, options?: RunOptions): Promise<AttemptResult<T>>;
  /** Makes a context for a sequence of calls. */
  lease(): Lease;
  /** Calls `listener` once when the scope ends; returns what takes it back. */
  onEnd(listener: () => void): () => void;
  /** Takes back every timer and listener. Call when nothing runs any more. */
  dispose(): void;
}

export interface RunOptions {
  /** For a call about one item: what its first attempt was known by, `"first"` for that attempt. */
  readonly itemId?: string | undefined;
  readonly onProgress?: ((bytes: number) => void) | undefined;
  /**
   * What must follow on something that has happened (recording it, undoing it): runs although the scope has ended, is not aborted,
   * and may stall. Abandoned, as all else, when a second has passed since the scope ended.
   */
  readonly epilogue?: boolean | undefined;
}

/** A context that outlives single calls: of a listing, a reader, a writer. */
export interface Lease {
  readonly context: OperationContext;
  /** Makes one call. Rejects with the reason once the scope has ended, within a second also when the call does not settle. Between calls nothing stalls. */
  guard<T>(call: () => Promise<T>): Promise<T>;
  /** A call begins, in place of `guard` where a closure a call is too dear: `abandon` is called when it does not settle in time. */
  enter(abandon: (reason: StowageError) => void): void;
  /** That call has ended. */
  leave(abandon: (reason: StowageError) => void): void;
  release(): void;
}

interface Attempt {
  /** Progress has been heard of since the watchdog last looked. */
  touched: boolean;
  /** How many waits for limits are under way: those are no stalls. */
  waits: number;
  /** The watchdog leaves it alone. */
  exempt: boolean;
  quietSince: number;
  /** Its place in the list of those that run. */
  slot: number;
  abort(reason: StowageError): void;
}

interface OpenAttempt extends Attempt {
  readonly temporaryId: string;
  readonly context: OperationContext;
  /** Why it was aborted. */
  reason: StowageError | undefined;
  /** Ends it; false when it had ended before. */
  settle(): boolean;
}

interface OpenOptions extends RunOptions {
  /** Nothing is under way that could be abandoned. */
  isIdle?(): boolean;
  /** It did not settle in time after an abort. */
  onAbandon(reason: StowageError): void;
}

// Unique per process and unpredictable enough that nobody has made such a name before; one call of the generator, not one an attempt.
const idPrefix = randomBytes(8).toString("hex");
let idCounter = 0;

/** Letters and digits, never the same twice. */
export function createTemporaryId(): string {
  return `${idPrefix}${(idCounter++).toString(36)}`;
}

export function createOperationScope(options: ScopeOptions): OperationScope {
  const { limits, journal, log, deadline } = options;
  const durability = options.durability ?? "process";
  const checksum = options.checksum ?? "auto";
  const ifExists = options.ifExists ?? "replace";
  const stallTimeoutMs = options.stallTimeoutMs ?? DEFAULT_STALL_TIMEOUT_MS;

  // An array, not a Set: what a Set outgrows refers to what comes next, so that a young Set that never rests keeps garbage alive.
  const running: Attempt[] = [];
  const listeners = new Set<() => void>();
  let ended: StowageError | undefined;
  let endedAt = 0;
  const scopeController = new AbortController();
  let deadlineTimer: NodeJS.Timeout | undefined;
  let watchdog: NodeJS.Timeout | undefined;

  const cancel = (reason: StowageError): void => {
    if (ended !== undefined) return;
    ended = reason;
    endedAt = performance.now();
    scopeController.abort(reason);
    for (const attempt of [...running]) attempt.abort(reason);
    for (const listener of [...listeners]) listener();
    listeners.clear();
  };

  // Linked by hand, once for the scope: `AbortSignal.any` for each file leaks on Node 22.
  const onCallerAbort = (): void => {
    cancel(new StowageError("cancelled by the caller", { code: "CANCELLED", cause: options.signal?.reason }));
  };

  const armDeadline = (): void => {
    if (deadline === undefined) return;
    const rest = deadline.getTime() - Date.now();
    if (rest > 0) deadlineTimer = setTimeout(armDeadline, Math.min(rest, LONGEST_TIMER_MS));
    else cancel(new StowageError(`not finished by the deadline, ${deadline.toISOString()}`, { code: "TIMEOUT", retryable: false }));
  };

  const watch = (): void => {
    const now = performance.now();
    for (const attempt of [...running]) {
      if (attempt.touched || attempt.exempt || attempt.waits > 0) {
        attempt.touched = false;
        attempt.quietSince = now;
      } else if (now - attempt.quietSince >= stallTimeoutMs) {
        attempt.abort(new StowageError(`no byte moved for ${stallTimeoutMs} ms`, { code: "STALLED" }));
      }
    }
  };

  const open = (openOptions: OpenOptions): OpenAttempt => {
    const { onProgress, epilogue = false } = openOptions;
    const temporaryId = createTemporaryId();
    const controller = new AbortController();
    let settlementTimer: NodeJS.Timeout | undefined;
    let settled = false;

    const attempt: OpenAttempt = {
      temporaryId,
      reason: undefined,
      touched: false,
      waits: 0,
      exempt: epilogue,
      quietSince: performance.now(),
      slot: -1,
      abort(why) {
        if (settled || attempt.reason !== undefined) return;
        attempt.reason = why;
        if (openOptions.isIdle?.() !== true) {
          const patience = epilogue ? Math.max(LEAST_EPILOGUE_MS, endedAt + SETTLEMENT_MS - performance.now()) : SETTLEMENT_MS;
          settlementTimer = setTimeout(() => {
            if (openOptions.isIdle?.() === true) return;
            log("warn", "a call did not settle after it was aborted; it is no longer waited for", { temporaryId });
            openOptions.onAbandon(why);
          }, patience);
        }
        if (!epilogue) controller.abort(why);
      },
      settle() {
        if (settled) return false;
        settled = true;
        const last = running.pop();
        if (last !== undefined && last !== attempt) {
          running[attempt.slot] = last;
          last.slot = attempt.slot;
        }
        clearTimeout(settlementTimer);
        return true;
      },
      context: {
        signal: controller.signal,
        deadline,
        durability,
        checksum,
        ifExists,
        temporaryId,
        itemId: openOptions.itemId === "first" ? temporaryId : openOptions.itemId,
        progress(bytes) {
          attempt.touched = true;
          if (onProgress !== undefined && !settled && bytes !== 0) onProgress(bytes);
        },
        reserve: (bytes) => waited(attempt, limits.reserve(bytes, attempt.context.signal)),
        throttle: (bytes) => waited(attempt, limits.throttle(bytes, attempt.context.signal)),
        bytesPerSecond: limits.bytesPerSecond,
        journal,
        log,
      },
    };
    if (watchdog === undefined && !epilogue && stallTimeoutMs > 0) {
      watchdog = setInterval(watch, Math.min(LONGEST_TIMER_MS, Math.max(5, stallTimeoutMs / 4)));
    }
    attempt.slot = running.push(attempt) - 1;
    if (ended !== undefined) attempt.abort(ended);
    return attempt;
  };

  const run = <T>(operation: (context: OperationContext) => Promise<T>, runOptions?: RunOptions | undefined): Promise<AttemptResult<T>> => {
    if (ended !== undefined && runOptions?.epilogue !== true) {
      return Promise.resolve({ ok: false, error: ended, reason: ended, abandoned: false, temporaryId: createTemporaryId(), leftovers: [] });
    }
    return new Promise((resolve) => {
      const settle = (result: AttemptResult<T>): void => {
        if (attempt.settle()) resolve(result);
      };
      const attempt = open({
        onProgress: runOptions?.onProgress,
        epilogue: runOptions?.epilogue,
        itemId: runOptions?.itemId,
        onAbandon(reason) {
          const { temporaryId } = attempt;
          settle({ ok: false, error: reason, reason, abandoned: true, temporaryId, leftovers: [`${RESERVED_PREFIX}-${temporaryId}`] });
        },
      });
      start(() => operation(attempt.context)).then(
        (value) => settle({ ok: true, value, reason: attempt.reason }),
        (error: unknown) => {
          const { reason, temporaryId } = attempt;
          settle({ ok: false, error, reason, abandoned: false, temporaryId, leftovers: leftoversOf(error) });
        },
      );
    });
  };

  const lease = (): Lease => {
    const calls: ((reason: StowageError) => void)[] = [];
    const attempt = open({
      isIdle: () => calls.length === 0,
      onAbandon(reason) {
        for (const abandon of [...calls]) abandon(reason);
      },
    });
    attempt.exempt = true;

    const enter: Lease["enter"] = (abandon) => {
      calls.push(abandon);
      attempt.exempt = false;
      attempt.touched = true;
    };
    const leave: Lease["leave"] = (abandon) => {
      if (calls.at(-1) === abandon) calls.pop();
      else if (calls.includes(abandon)) calls.splice(calls.indexOf(abandon), 1);
      attempt.exempt = calls.length === 0;
    };
    return {
      context: attempt.context,
      guard(call) {
        if (attempt.reason !== undefined) return Promise.reject(attempt.reason);
        return new Promise((resolve, reject) => {
          const abandon = (reason: StowageError): void => {
            leave(abandon);
            reject(reason);
          };
          enter(abandon);
          start(call).then(
            (value) => {
              leave(abandon);
              resolve(value);
            },
            (error: unknown) => {
              leave(abandon);
              reject(attempt.reason ?? error);
            },
          );
        });
      },
      enter,
      leave,
      release: () => {
        attempt.settle();
      },
    };
  };

  if (options.signal?.aborted) onCallerAbort();
  else options.signal?.addEventListener("abort", onCallerAbort, { once: true });
  if (ended === undefined) armDeadline();

  return {
    get ended() {
      return ended;
    },
    signal: scopeController.signal,
    cancel,
    run,
    lease,
    onEnd(listener) {
      if (ended !== undefined) {
        listener();
        return () => undefined;
      }
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    dispose() {
      options.signal?.removeEventListener("abort", onCallerAbort);
      clearTimeout(deadlineTimer);
      clearInterval(watchdog);
      listeners.clear();
    },
  };
}

function start<T>(call: () => Promise<T>): Promise<T> {
  try {
    return call();
  } catch (error) {
    return Promise.reject(error);
  }
}

async function waited<T>(attempt: Attempt, wait: Promise<T>): Promise<T> {
  attempt.waits++;
  try {
    return await wait;
  } finally {
    attempt.waits--;
    attempt.touched = true;
  }
}

/** What an error says could not be cleaned up. */
export function leftoversOf(error: unknown): readonly string[] {
  const names = typeof error === "object" && error !== null ? (error as { leftovers?: unknown }).leftovers : undefined;
  return Array.isArray(names) ? names.filter((name) => typeof name === "string") : [];
}
