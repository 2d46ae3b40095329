/** Gives `change` of each value in the values' order, with at most `count` of them under way. Stops asking for values when a change fails or the consumer leaves. */
export async function* mapConcurrently<A, B>(values: AsyncIterable<A>, count: number, change: (value: A) => Promise<B>): AsyncGenerator<B> {
  const running: Promise<B>[] = [];
  const iterator = values[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await iterator.next();
      if (next.done) break;
      const promise = change(next.value);
      // Looked at in its turn; a failure before that is no unhandled one.
      promise.catch(() => {});
      running.push(promise);
      if (running.length >= count) yield await running.shift()!;
    }
    while (running.length > 0) yield await running.shift()!;
  } finally {
    await iterator.return?.();
    await Promise.allSettled(running);
  }
}
