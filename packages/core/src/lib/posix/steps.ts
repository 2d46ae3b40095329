/**
 * Work that is synchronous until it must wait: a generator that yields the promises it waits for. Run by `runSteps` it costs no promise and no turn of the
 * event loop where there is nothing to wait for (a small file), and reads like an async function where there is (a large one).
 */
export type Steps<T> = Generator<PromiseLike<unknown>, T, unknown>;

/** Waits inside steps: `const value = yield* wait(promise)`. */
export function* wait<T>(promise: PromiseLike<T>): Steps<T> {
  return (yield promise) as T;
}

/** Runs steps at once, as far as they go without waiting: gives the value itself when that is to the end. Throws and rejects with what they throw. */
export function runSteps<T>(steps: Steps<T>): T | Promise<T> {
  const first = steps.next();
  return first.done ? first.value : finishSteps(steps, first.value);
}

async function finishSteps<T>(steps: Steps<T>, first: PromiseLike<unknown>): Promise<T> {
  let waited = first;
  for (;;) {
    let next: IteratorResult<PromiseLike<unknown>, T>;
    let value: unknown;
    try {
      value = await waited;
    } catch (error) {
      next = steps.throw(error);
      if (next.done) return next.value;
      waited = next.value;
      continue;
    }
    next = steps.next(value);
    if (next.done) return next.value;
    waited = next.value;
  }
}
