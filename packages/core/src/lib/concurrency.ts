/** Runs `body` for each value, at most `concurrency` at once. Rejects with the first rejection, after all that run have ended. */
export async function forEachConcurrently<T>(values: readonly T[], concurrency: number, body: (value: T) => Promise<void>): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < values.length) await body(values[next++]!);
  };
  const lanes = Array.from({ length: Math.min(concurrency, values.length) }, lane);
  const results = await Promise.allSettled(lanes);
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

/** Lets at most `count` bodies run at once, in the order in which they were given. */
export function createGate(count: number): <T>(body: () => Promise<T>) => Promise<T> {
  let free = count;
  const waiting: (() => void)[] = [];
  return async (body) => {
    if (free > 0) free--;
    else await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      return await body();
    } finally {
      const next = waiting.shift();
      if (next === undefined) free++;
      else next();
    }
  };
}
