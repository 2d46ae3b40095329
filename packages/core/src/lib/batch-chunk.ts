import type { Entry } from "./batch-ledger.ts";
import type { BatchResult, OperationContext } from "./broker.ts";
import type { Limits } from "./limits.ts";
import { leftoversOf, type OperationScope } from "./operation-context.ts";
import type { ProgressPart } from "./progress.ts";
import { StowageError } from "./stowage-error.ts";

export interface ChunkSettings<Item, Parsed, Value> {
  readonly scope: OperationScope;
  readonly limits: Limits;
  many(parsed: readonly Parsed[], context: OperationContext): AsyncIterable<BatchResult<Value>>;
  onResult(entry: Entry<Item, Parsed>, value: Value): void;
  /** Also called for what the broker gave no result for; `entry.leftovers` is up to date. */
  onFailure(entry: Entry<Item, Parsed>, error: unknown): void;
  onStrangeIndex(index: number): void;
  /** Makes the broker's call a child of the batch's span. */
  trace<T>(body: () => T): T;
}

/** Gives entries to a batch method of a broker once. Every entry comes back, once, as a result or a failure. */
export async function runChunk<Item, Parsed, Value>(
  entries: readonly Entry<Item, Parsed>[],
  part: ProgressPart | undefined,
  settings: ChunkSettings<Item, Parsed, Value>,
): Promise<void> {
  const { scope, limits, onFailure } = settings;
  const unsettled: (Entry<Item, Parsed> | undefined)[] = [...entries];
  let open = true;

  const take = (result: BatchResult<Value>): void => {
    const entry = unsettled[result.index];
    if (entry === undefined) {
      settings.onStrangeIndex(result.index);
      return;
    }
    unsettled[result.index] = undefined;
    if (result.ok) {
      settings.onResult(entry, result.value);
    } else {
      entry.leftovers = [...entry.leftovers, ...leftoversOf(result.error)];
      onFailure(entry, result.error);
    }
  };
  const parsed = entries.map((entry) => entry.parsed);
  const pull = async (context: OperationContext): Promise<void> => {
    for await (const result of settings.many(parsed, context)) {
      // Abandoned: what comes now is too late, everybody has been told.
      if (!open) return;
      take(result);
    }
  };

  const place = await limits.acquireFile(scope.signal).catch(() => undefined);
  if (scope.ended === undefined) for (const entry of entries) entry.attempts++;
  part?.begin();
  const result = await scope.run((context) => settings.trace(() => pull(context)), { onProgress: part?.add });
  open = false;
  place?.[Symbol.dispose]();

  let unclaimed = result.ok || result.abandoned ? [] : [...result.leftovers];
  for (const [index, entry] of unsettled.entries()) {
    if (entry === undefined) continue;
    if (result.ok) {
      onFailure(entry, result.reason ?? new StowageError("the broker gave no outcome", { code: "UNKNOWN" }));
      continue;
    }
    if (result.abandoned) {
      entry.leftovers = [...entry.leftovers, ...result.leftovers.map((name) => `${name}-${index}`)];
    } else if (unclaimed.length > 0) {
      // Names end in the index of their item; one that does not goes to the first that is left.
      const own = unclaimed.filter((name) => name.endsWith(`-${index}`) || !/-\d+$/u.test(name));
      unclaimed = unclaimed.filter((name) => !own.includes(name));
      entry.leftovers = [...entry.leftovers, ...own];
    }
    onFailure(entry, result.reason ?? result.error);
  }
}
