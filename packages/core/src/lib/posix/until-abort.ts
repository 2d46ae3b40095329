/**
 * Waits for `work`, but no longer than until the signal aborts: a thread that hangs in a file system stays where it is. `onAbandoned` is told of work that nobody
 * waits for any more: +1, and -1 when it has ended after all.
 */
export async function untilAbort<T>(work: Promise<T>, signal: AbortSignal, onAbandoned?: (change: 1 | -1) => void): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) onAbort();
  let isSettled = false;
  const settle = (): void => {
    isSettled = true;
  };
  work.then(settle, settle);
  try {
    return await Promise.race([work, aborted]);
  } catch (error) {
    if (!isSettled && onAbandoned !== undefined) abandon(work, onAbandoned);
    throw error;
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** Tells of work that goes on although nobody waits for it. */
export function abandon(work: Promise<unknown>, onAbandoned: (change: 1 | -1) => void): void {
  onAbandoned(1);
  const ended = (): void => onAbandoned(-1);
  work.then(ended, ended);
}
