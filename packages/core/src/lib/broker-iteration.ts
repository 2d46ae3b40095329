import type { OperationContext } from "./broker.ts";
import type { Lease, OperationScope } from "./operation-context.ts";
import { nextRetryDelay, resolveRetryOptions, sleep } from "./retry.ts";
import { StowageError } from "./stowage-error.ts";
import { type Access, createScope, type WorkspaceRuntime } from "./workspace-runtime.ts";

export interface IterationCall {
  /** As it goes after "cannot": `list`, `sweep`. */
  readonly operation: string;
  readonly file?: string | undefined;
  readonly access: Access;
  readonly signal?: AbortSignal | undefined;
}

export interface IterationHooks<T> {
  /** Whether a value may be given to the consumer; one that may not is passed over. What it throws ends the iteration. */
  accept?(value: T): boolean;
  /** Called when the broker has given everything. What it throws is what the iteration ends with. */
  end?(): void;
}

/**
 * Goes through what a broker yields. Ends within a second of an abort, whatever the broker does; repeats the start when it fails, and only
 * that, for nothing may come twice; lets the broker clean up when the consumer stops, and waits for it. Begins at the first `next`.
 *
 * Written by hand, not as async generators, of which it would take two: listings have a million entries, and each layer of
 * generators costs as much for an entry as all of this.
 */
export function iterateBroker<T>(
  runtime: WorkspaceRuntime,
  call: IterationCall,
  open: (context: OperationContext) => AsyncIterable<T>,
  hooks: IterationHooks<T> = {},
): AsyncIterableIterator<T, undefined> {
  const done: IteratorResult<T, undefined> = { done: true, value: undefined };
  const closed = (): StowageError => runtime.refusal("look") ?? new StowageError("closed", { code: "CLOSED" });
  const wrap = (error: unknown): StowageError => runtime.wrap(error, call.operation, call.file === "" ? undefined : call.file);

  let state: "new" | "open" | "ended" = "new";
  let scope: OperationScope | undefined;
  let starting: Promise<unknown> | undefined;
  let running: { readonly lease: Lease; readonly iterator: AsyncIterator<T> } | undefined;
  /** Who waits for what the broker is being asked for; nobody: the consumer is busy, or gone. */
  let consumer: Consumer<T> | undefined;
  /** What was promised last, for calls that do not wait for each other. */
  let last: Promise<unknown> = Promise.resolve();
  /** What the next call throws when the end came between two calls. */
  let endedBy: StowageError | undefined;
  let closing = false;
  let stopped: Promise<void> | undefined;
  let leave = (): void => undefined;

  const stop = (): Promise<void> => {
    state = "ended";
    stopped ??= (async () => {
      await starting?.catch(() => undefined);
      const unfinished = running?.iterator;
      // Cleaning up is allowed after an abort too, but not for ever.
      if (unfinished?.return !== undefined) await scope?.run(async () => unfinished.return?.(), { epilogue: true });
      running?.lease.release();
      scope?.dispose();
      leave();
    })();
    return stopped;
  };
  /** Ends what waits for its consumer: nobody knows whether that comes back. */
  const stopIfIdle = (reason: StowageError): void => {
    if (consumer !== undefined || state !== "open") return;
    endedBy = wrap(reason);
    void stop();
  };

  const take = (): Consumer<T> | undefined => {
    const waiting = consumer;
    consumer = undefined;
    if (waiting !== undefined) running?.lease.leave(abandon);
    return waiting;
  };
  const fail = (error: unknown): void => {
    const waiting = take();
    if (waiting !== undefined) void stop().then(() => waiting.reject(wrap(scope?.ended ?? error)));
  };
  const abandon = (reason: StowageError): void => fail(reason);

  const ask = (iterator: AsyncIterator<T>): void => {
    try {
      iterator.next().then(onResult, fail);
    } catch (error) {
      fail(error);
    }
  };
  const onResult = (result: IteratorResult<T, unknown>): void => {
    // Nobody waits any more: it was abandoned, or the consumer has left.
    if (consumer === undefined || running === undefined) return;
    if (result.done !== true && closing) {
      fail(closed());
      return;
    }
    let waiting: Consumer<T> | undefined;
    try {
      if (result.done === true) {
        waiting = take();
        running.lease.release();
        running = undefined;
        hooks.end?.();
        void stop().then(() => waiting?.resolve(done));
      } else if (hooks.accept?.(result.value) ?? true) {
        take()?.resolve(result);
      } else {
        ask(running.iterator);
      }
    } catch (error) {
      // The caller's own: not to be wrapped.
      waiting ??= take();
      void stop().then(() => waiting?.reject(error));
    }
  };

  const start = async (): Promise<IteratorResult<T, unknown>> => {
    const refusal = runtime.refusal(call.access);
    if (refusal !== undefined) throw refusal;
    const created = createScope(runtime, { signal: call.signal });
    scope = created;
    leave = runtime.begin({
      closing() {
        closing = true;
        stopIfIdle(closed());
      },
      cancel: created.cancel,
    });
    created.onEnd(() => stopIfIdle(created.ended ?? closed()));
    const policy = resolveRetryOptions();
    const startedAt = performance.now();
    for (let attempts = 1; ; attempts++) {
      if (created.ended !== undefined) throw created.ended;
      const lease = created.lease();
      try {
        const iterator = open(lease.context)[Symbol.asyncIterator]();
        const result = await lease.guard(() => iterator.next());
        running = { lease, iterator };
        return result;
      } catch (error) {
        lease.release();
        const delay = nextRetryDelay(runtime.classify(error), policy, { attempts, startedAt });
        if (created.ended !== undefined || delay === undefined) throw error;
        runtime.log("info", "an attempt failed and will be repeated", { attempt: attempts, delayMs: Math.round(delay) });
        await sleep(delay, created.signal).catch(() => undefined);
      }
    }
  };

  const request = (waiting: Consumer<T>): void => {
    if (state === "new") {
      state = "open";
      consumer = waiting;
      starting = start();
      starting.then((result) => onResult(result as IteratorResult<T, unknown>), fail);
    } else if (state === "open" && running !== undefined && scope?.ended !== undefined) {
      // The end came while the broker was being asked, and it gave one more all the same.
      const error = wrap(scope.ended);
      void stop().then(() => waiting.reject(error));
    } else if (state === "open" && running !== undefined) {
      consumer = waiting;
      running.lease.enter(abandon);
      ask(running.iterator);
    } else {
      const error = endedBy;
      endedBy = undefined;
      if (error === undefined) waiting.resolve(done);
      else waiting.reject(error);
    }
  };

  const iteration: AsyncIterableIterator<T, undefined> & AsyncDisposable = {
    [Symbol.asyncIterator]: () => iteration,
    next() {
      const next = (): Promise<IteratorResult<T, undefined>> => new Promise((resolve, reject) => request({ resolve, reject }));
      const result = consumer === undefined ? next() : last.then(next, next);
      last = result;
      return result;
    },
    async return() {
      endedBy = undefined;
      if (state === "new") state = "ended";
      if (state === "ended") {
        await stopped;
        return done;
      }
      const waiting = take();
      if (waiting !== undefined) scope?.cancel(new StowageError("cancelled: the consumer stopped", { code: "CANCELLED" }));
      await stop();
      waiting?.resolve(done);
      return done;
    },
    async [Symbol.asyncDispose]() {
      await iteration.return?.();
    },
  };
  return iteration;
}

interface Consumer<T> {
  resolve(result: IteratorResult<T, undefined>): void;
  reject(error: unknown): void;
}
