import type { Outcome } from "../../src/lib/outcome.ts";
import { TransferError } from "../../src/lib/outcome.ts";
import { StowageError } from "../../src/lib/stowage-error.ts";

/** The `TransferError` that a batch ends with. */
export async function transferErrorOf(batch: Promise<unknown>): Promise<TransferError> {
  const error = await batch.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!TransferError.is(error)) throw new Error(`a TransferError was expected, not ${String(error)}`, { cause: error });
  return error;
}

/** The `StowageError` that something rejects with. */
export async function stowageErrorOf(promise: Promise<unknown>): Promise<StowageError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!StowageError.is(error)) throw new Error(`a StowageError was expected, not ${String(error)}`, { cause: error });
  return error;
}

/** `done`, `skipped same`, `failed FILE_NOT_FOUND`. */
export function statusOf(outcome: Outcome<unknown>): string {
  if (outcome.status === "failed") return `failed ${(outcome.error as StowageError).code}`;
  if (outcome.status === "skipped") return `skipped ${outcome.reason}`;
  return outcome.status;
}

/** Everything that a stream of outcomes gives, and what it ends with. */
export async function drain<T>(stream: AsyncIterable<T>): Promise<{ readonly values: T[]; readonly error: unknown }> {
  const values: T[] = [];
  try {
    for await (const value of stream) values.push(value);
  } catch (error) {
    return { values, error };
  }
  return { values, error: undefined };
}

export async function* streamOf<T>(values: Iterable<T>): AsyncGenerator<T> {
  yield* values;
}
