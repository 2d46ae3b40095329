import type { ErrorFacts, OperationContext } from "./broker.ts";
import type { Limits } from "./limits.ts";
import type { OperationScope } from "./operation-context.ts";
import { nextRetryDelay, type RetryPolicy, sleep } from "./retry.ts";
import type { StowageError } from "./stowage-error.ts";

export interface OperationSettings {
  readonly policy: RetryPolicy;
  classify(error: unknown): ErrorFacts;
  readonly deadline?: Date | undefined;
  /** Take a place among the files that move at once. */
  readonly limits?: Limits | undefined;
  readonly log?: OperationContext["log"] | undefined;
  onProgress?: ((bytes: number) => void) | undefined;
  /** Told before each attempt. */
  onAttempt?: ((attempt: number) => void) | undefined;
}

/** How a call ended after all its attempts. */
export type OperationResult<T> =
  | { readonly ok: true; readonly value: T; readonly attempts: number }
  | {
      readonly ok: false;
      /** What the last attempt threw, or why it was aborted. */
      readonly error: unknown;
      /** The scope had ended: the call was not allowed to go on. */
      readonly ended: StowageError | undefined;
      readonly attempts: number;
      readonly leftovers: readonly string[];
    };

/** Calls a broker, again and again while its failures are retryable. Never rejects. */
export async function runOperation<T>(
  scope: OperationScope,
  operation: (context: OperationContext) => Promise<T>,
  settings: OperationSettings,
): Promise<OperationResult<T>> {
  const startedAt = performance.now();
  let leftovers: readonly string[] = [];
  let itemId = "first";
  for (let attempts = 1; ; attempts++) {
    const place = settings.limits === undefined ? undefined : await acquire(settings.limits, scope);
    if (scope.ended !== undefined) {
      place?.[Symbol.dispose]();
      return { ok: false, error: scope.ended, ended: scope.ended, attempts: attempts - 1, leftovers };
    }
    settings.onAttempt?.(attempts);
    const result = await scope.run(operation, { onProgress: settings.onProgress, itemId });
    place?.[Symbol.dispose]();
    if (result.ok) return { ok: true, value: result.value, attempts };

    if (attempts === 1) itemId = result.temporaryId;
    if (result.leftovers.length > 0) leftovers = [...leftovers, ...result.leftovers];
    if (scope.ended !== undefined) return { ok: false, error: scope.ended, ended: scope.ended, attempts, leftovers };
    const error = result.reason ?? result.error;
    const facts = settings.classify(error);
    const delay = nextRetryDelay(facts, settings.policy, { attempts, startedAt, deadline: settings.deadline });
    if (delay === undefined) return { ok: false, error, ended: undefined, attempts, leftovers };
    settings.log?.("info", "an attempt failed and will be repeated", { attempt: attempts, code: facts.code, delayMs: Math.round(delay) });
    await sleep(delay, scope.signal).catch(() => undefined);
  }
}

async function acquire(limits: Limits, scope: OperationScope): Promise<Disposable | undefined> {
  try {
    return await limits.acquireFile(scope.signal);
  } catch (error) {
    // Rejects when the scope has ended, which the caller sees for itself.
    if (scope.ended === undefined) throw error;
    return undefined;
  }
}
