import type { ErrorFacts } from "./broker.ts";
import { isRetryableCode } from "./error-codes.ts";

/** When a failed attempt is repeated. Only what is retryable is; the last failure is always raised. */
export interface RetryOptions {
  /** The most attempts, the first included; 1 never repeats. Defaults to 4. */
  readonly attempts?: number | undefined;
  /** The wait before attempt n is random between 0 and `baseDelayMs * 2 ** (n - 2)`. Defaults to 200. */
  readonly baseDelayMs?: number | undefined;
  /** The longest random wait; a `retryAfterMs` of the backend may be longer. Defaults to 20,000. */
  readonly maxDelayMs?: number | undefined;
  /** No attempt begins later than this after the first one did. Defaults to 120,000. */
  readonly budgetMs?: number | undefined;
}

/** `RetryOptions` with every default filled in. */
export type RetryPolicy = { readonly [Key in keyof RetryOptions]-?: number };

export function resolveRetryOptions(options?: RetryOptions | undefined): RetryPolicy {
  return {
    attempts: Math.max(1, options?.attempts ?? 4),
    baseDelayMs: Math.max(0, options?.baseDelayMs ?? 200),
    maxDelayMs: Math.max(0, options?.maxDelayMs ?? 20_000),
    budgetMs: Math.max(0, options?.budgetMs ?? 120_000),
  };
}

export interface RetryState {
  /** Attempts made so far. */
  readonly attempts: number;
  /** `performance.now()` when the first of them began. */
  readonly startedAt: number;
  readonly deadline?: Date | undefined;
}

/** How long to wait before the next attempt, in milliseconds; `undefined` when the failure is final. Full jitter; a backend's `retryAfterMs` is never undercut. */
export function nextRetryDelay(facts: ErrorFacts, policy: RetryPolicy, state: RetryState): number | undefined {
  if (!(facts.retryable ?? isRetryableCode(facts.code))) return undefined;
  if (state.attempts >= policy.attempts) return undefined;
  const ceiling = Math.min(policy.maxDelayMs, policy.baseDelayMs * 2 ** (state.attempts - 1));
  const delay = Math.max(Math.random() * ceiling, facts.retryAfterMs ?? 0);
  if (performance.now() - state.startedAt + delay > policy.budgetMs) return undefined;
  if (state.deadline !== undefined && Date.now() + delay >= state.deadline.getTime()) return undefined;
  return delay;
}

export interface RetryContext {
  readonly options?: RetryOptions | undefined;
  readonly signal?: AbortSignal | undefined;
  classify(error: unknown): ErrorFacts;
  /** No wait goes beyond it. */
  readonly deadline?: Date | undefined;
  /** Told of every failure that is followed by another attempt. */
  onRetry?(error: unknown, facts: ErrorFacts, attempt: number, delayMs: number): void;
}

/** Repeats `operation` (which is given the attempt's number, from 1) while its failures are retryable. Rejects with the last failure, or with the signal's reason. */
export async function retry<T>(
  operation: (attempt: number) => Promise<T>,
  context: RetryContext,
): Promise<{ readonly value: T; readonly attempts: number }> {
  const policy = resolveRetryOptions(context.options);
  const startedAt = performance.now();
  for (let attempt = 1; ; attempt++) {
    context.signal?.throwIfAborted();
    try {
      return { value: await operation(attempt), attempts: attempt };
    } catch (error) {
      if (context.signal?.aborted) throw error;
      const facts = context.classify(error);
      const delay = nextRetryDelay(facts, policy, { attempts: attempt, startedAt, deadline: context.deadline });
      if (delay === undefined) throw error;
      context.onRetry?.(error, facts, attempt, delay);
      await sleep(delay, context.signal);
    }
  }
}

/** Waits `milliseconds`, or rejects with the signal's reason as soon as it aborts. */
export function sleep(milliseconds: number, signal?: AbortSignal | undefined): Promise<void> {
  if (signal?.aborted) return Promise.reject(signal.reason);
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}
