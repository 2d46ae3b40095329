import type { BatchResult, Broker, OperationContext } from "./broker.ts";
import { nextRetryDelay, type RetryOptions, resolveRetryOptions, retry, sleep } from "./retry.ts";
import { wrapBroker } from "./wrap-broker.ts";
import { classifyError } from "./wrap-error.ts";

/**
 * Repeats what fails for a retryable cause. In a batch only the items that failed are repeated. A listing or sweep is repeated only
 * while it has given nothing; of a reader or writer only its opening. A `Workspace` retries by itself: this is for brokers used
 * without one, or that other wrappers stand upon.
 */
export function withRetry(broker: Broker, options?: RetryOptions | undefined): Broker {
  const policy = resolveRetryOptions(options);

  const repeat = async <T>(
    context: OperationContext,
    operation: (context: OperationContext, attempt: number) => Promise<T>,
  ): Promise<T> => {
    const { value } = await retry((attempt) => operation(attemptContext(context, attempt), attempt), {
      options,
      signal: context.signal,
      deadline: context.deadline,
      classify: (error) => classifyError(error, broker),
      onRetry: (_error, facts, attempt, delayMs) => logRetry(context, facts.code, attempt, delayMs),
    });
    return value;
  };

  return wrapBroker(broker, {
    promise: (call, next) => repeat(call.context, next),

    async *stream<T>(call: { readonly context: OperationContext }, next: (context: OperationContext) => AsyncIterable<T>) {
      const { first, rest } = await repeat(call.context, async (context) => {
        const iterator = next(context)[Symbol.asyncIterator]();
        return { first: await iterator.next(), rest: iterator };
      });
      if (first.done === true) return;
      // From here on the consumer holds results: repeating would give them twice.
      let ended = false;
      try {
        yield first.value;
        for (;;) {
          const step = await rest.next().catch((error: unknown) => {
            ended = true;
            throw error;
          });
          ended = step.done === true;
          if (step.done === true) return;
          yield step.value;
        }
      } finally {
        if (!ended) await rest.return?.();
      }
    },

    async *batch<Item, T>(
      call: { readonly items: readonly Item[]; readonly context: OperationContext },
      next: (items: readonly Item[], context: OperationContext) => AsyncIterable<BatchResult<T>>,
    ) {
      const { context, items } = call;
      const startedAt = performance.now();
      let pending = items.map((_, index) => index);
      for (let attempt = 1; pending.length > 0; attempt++) {
        const state = { attempts: attempt, startedAt, deadline: context.deadline };
        const unanswered = new Set(pending);
        const again: { index: number; error: unknown }[] = [];
        let delay = 0;
        try {
          const asked = pending;
          for await (const result of next(
            asked.map((index) => items[index]!),
            attemptContext(context, attempt),
          )) {
            const index = asked[result.index]!;
            unanswered.delete(index);
            const wait =
              result.ok || context.signal.aborted ? undefined : nextRetryDelay(classifyError(result.error, broker), policy, state);
            if (result.ok || wait === undefined) {
              yield { ...result, index };
            } else {
              again.push({ index, error: result.error });
              delay = Math.max(delay, wait);
            }
          }
        } catch (error) {
          // About all that has not been answered, and only that.
          const wait = context.signal.aborted ? undefined : nextRetryDelay(classifyError(error, broker), policy, state);
          if (wait === undefined) {
            for (const failure of again) yield { index: failure.index, ok: false, error: failure.error };
            throw error;
          }
          for (const index of unanswered) again.push({ index, error });
          unanswered.clear();
          delay = Math.max(delay, wait);
        }
        if (unanswered.size > 0) {
          for (const failure of again) yield { index: failure.index, ok: false, error: failure.error };
          throw new Error(`a batch ended without an answer for ${unanswered.size} of ${pending.length} items`);
        }
        pending = again.map((failure) => failure.index).sort((left, right) => left - right);
        if (pending.length === 0) return;
        logRetry(context, classifyError(again[0]!.error, broker).code, attempt, delay);
        await sleep(delay, context.signal);
      }
    },

    methods: {
      deleteFile: (next, file, context) =>
        repeat(context, async (inner, attempt) => {
          const deletion = await next(file, inner);
          // The attempt before this one may have deleted it and lost the answer.
          return attempt > 1 && deletion === "missing" ? "unknown" : deletion;
        }),
    },
  });
}

/** Temporary names are never used twice: what a failed attempt left is not taken for this one's. */
function attemptContext(context: OperationContext, attempt: number): OperationContext {
  return attempt === 1 ? context : { ...context, temporaryId: `${context.temporaryId}r${attempt}` };
}

function logRetry(context: OperationContext, code: string, attempt: number, delayMs: number): void {
  context.log("info", "a failed attempt is repeated", { code, attempt, delayMs: Math.round(delayMs) });
}
