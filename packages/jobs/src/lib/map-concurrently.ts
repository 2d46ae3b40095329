/** `map` over all values, at most `concurrency` at once; results in the order of the values. After a failure nothing new starts, and it rejects when all that had started has settled. */
export async function mapConcurrently<T, R>(values: readonly T[], concurrency: number, map: (value: T) => Promise<R>): Promise<R[]> {
  const results = new Array<R>(values.length);
  let next = 0;
  let failure: { readonly error: unknown } | undefined;
  const work = async (): Promise<void> => {
    while (next < values.length && failure === undefined) {
      const index = next++;
      try {
        results[index] = await map(values[index]!);
      } catch (error) {
        failure ??= { error };
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(concurrency, values.length) }, work));
  if (failure !== undefined) throw failure.error;
  return results;
}
