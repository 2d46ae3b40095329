/** The middle value; the mean of the two middle ones for an even number of values. Throws when there is none. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle];
  if (upper === undefined) throw new RangeError("the median of nothing");
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] as number) + upper) / 2;
}

export interface Summary {
  readonly median: number;
  readonly minimum: number;
  readonly maximum: number;
  /** (maximum − minimum) ÷ median: how far the rounds disagree. */
  readonly spread: number;
}

export function summarise(values: readonly number[]): Summary {
  const middle = median(values);
  const minimum = Math.min(...values);
  const maximum = Math.max(...values);
  return { median: middle, minimum, maximum, spread: middle === 0 ? 0 : (maximum - minimum) / middle };
}

/** The order of a round: everyone takes every place in turn, so that no one always runs after the same neighbour's mess. */
export function rotate<T>(values: readonly T[], by: number): T[] {
  const start = values.length === 0 ? 0 : by % values.length;
  return [...values.slice(start), ...values.slice(0, start)];
}
