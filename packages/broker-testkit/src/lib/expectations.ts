import assert from "node:assert/strict";
import { availableParallelism, loadavg } from "node:os";
import type { Outcome } from "@stowage/core";
import { type Broker, type ErrorFacts, isRetryableCode, StowageError, type StowageErrorCode } from "@stowage/core/broker";

/** The experiment ran, and showed nothing either way: the case fails, for a pass would be worth nothing. */
export class NothingProven extends Error {
  readonly isNothingProven = true as const;
  override readonly name = "NothingProven";
}

/** Thrown by a case that finds that it does not apply. */
export class CaseSkipped extends Error {
  readonly isCaseSkipped = true as const;
  override readonly name = "CaseSkipped";
}

type DoneOutcome<I> = Extract<Outcome<I>, { status: "done" }>;
type FailedOutcome<I> = Extract<Outcome<I>, { status: "failed" }>;

/** The outcomes of a batch, whether it ended well or rejected with them. What rejects otherwise is passed on. */
export async function outcomesOf<I>(batch: Promise<readonly Outcome<I>[]>): Promise<readonly Outcome<I>[]> {
  try {
    return await batch;
  } catch (error) {
    if (isTransferError<I>(error)) return error.outcomes;
    throw error;
  }
}

function isTransferError<I>(error: unknown): error is { readonly outcomes: readonly Outcome<I>[] } {
  return StowageError.is(error) && (error as { isTransferError?: unknown }).isTransferError === true;
}

/** The one outcome of a batch of one, which must be `done`. */
export async function expectDone<I>(batch: Promise<readonly Outcome<I>[]>, what: string): Promise<DoneOutcome<I>> {
  const outcome = only(await outcomesOf(batch), what);
  if (outcome.status === "failed") {
    throw new assert.AssertionError({ message: `${what}: failed, but should have been done: ${describeError(outcome.error)}` });
  }
  assert.equal(outcome.status, "done", `${what}: should be done`);
  return outcome as DoneOutcome<I>;
}

/** The one outcome of a batch of one, which must have failed, with one of these codes when any are given. */
export async function expectFailed<I>(
  batch: Promise<readonly Outcome<I>[]>,
  what: string,
  ...codes: readonly StowageErrorCode[]
): Promise<FailedOutcome<I>> {
  const outcome = only(await outcomesOf(batch), what);
  assert.equal(outcome.status, "failed", `${what}: should have failed${codes.length > 0 ? ` with ${codes.join(" or ")}` : ""}`);
  const failed = outcome as FailedOutcome<I>;
  expectCode(failed.error, what, ...codes);
  return failed;
}

/** A call that must reject with one of these codes (any when none is given); gives the error. */
export async function expectRejected(call: Promise<unknown>, what: string, ...codes: readonly StowageErrorCode[]): Promise<StowageError> {
  const error = await call.then(
    () => undefined,
    (reason: unknown) => reason ?? new Error("rejected with nothing"),
  );
  assert.ok(error !== undefined, `${what}: should have been refused${codes.length > 0 ? ` with ${codes.join(" or ")}` : ""}`);
  return expectCode(error, what, ...codes);
}

/** An error must be a `StowageError` with one of these codes. */
export function expectCode(error: unknown, what: string, ...codes: readonly StowageErrorCode[]): StowageError {
  if (!StowageError.is(error)) {
    throw new assert.AssertionError({ message: `${what}: should raise a StowageError, but raised ${describeError(error)}` });
  }
  if (codes.length > 0 && !codes.includes(error.code)) {
    throw new assert.AssertionError({
      message: `${what}: should fail with ${codes.join(" or ")}, but did with ${describeError(error)}`,
      actual: error.code,
      expected: codes.join(" or "),
    });
  }
  return error;
}

/** What a broker says of an error that it has thrown. */
export function classify(broker: Broker, error: unknown): ErrorFacts & { readonly retryable: boolean } {
  if (StowageError.is(error)) return { code: error.code, retryable: error.retryable, retryAfterMs: error.retryAfterMs };
  const facts = broker.errorCode(error);
  const full = typeof facts === "string" ? { code: facts } : facts;
  return { ...full, retryable: full.retryable ?? isRetryableCode(full.code) };
}

/** A call to the broker itself that must reject with one of these codes (any when none is given). */
export async function expectBrokerRejects(
  broker: Broker,
  call: Promise<unknown>,
  what: string,
  ...codes: readonly StowageErrorCode[]
): Promise<unknown> {
  let error: unknown;
  try {
    await call;
  } catch (reason) {
    error = reason ?? new Error("rejected with nothing");
  }
  assert.ok(error !== undefined, `${what}: should have been refused${codes.length > 0 ? ` with ${codes.join(" or ")}` : ""}`);
  if (codes.length > 0) {
    const { code } = classify(broker, error);
    assert.ok(codes.includes(code), `${what}: should fail with ${codes.join(" or ")}, but did with ${code}: ${describeError(error)}`);
  }
  return error;
}

/** How long something may take that must settle within a second: that, half as much again, and more where the machine has more to do than processors. */
export function settleMs(): number {
  return 1_500 * Math.sqrt(Math.max(1, (loadavg()[0] ?? 0) / availableParallelism()));
}

/** Makes sure that an experiment has seen enough to prove anything. */
export function witness(what: string, count: number, atLeast: number): void {
  if (count < atLeast) throw new NothingProven(`nothing is proven: ${what}: ${count}, at least ${atLeast} are needed`);
}

/** One line that says what an error is. */
export function describeError(error: unknown): string {
  if (error instanceof Error) {
    const code = (error as { code?: unknown }).code;
    const firstLine = error.message.split("\n")[0] ?? "";
    return `${error.name}${code === undefined ? "" : ` ${String(code)}`}: ${firstLine}`;
  }
  return `the value ${typeof error === "object" ? Object.prototype.toString.call(error) : String(error)}`;
}

function only<T>(values: readonly T[], what: string): T {
  assert.equal(values.length, 1, `${what}: one outcome for one item`);
  return values[0] as T;
}

/** A long Buffer in a message helps nobody. */
export function expectBytes(actual: Uint8Array | undefined, expected: Uint8Array, what: string): void {
  assert.ok(actual !== undefined, `${what}: the file is missing`);
  assert.equal(actual.length, expected.length, `${what}: the number of bytes`);
  const difference = Buffer.compare(actual, expected) === 0 ? -1 : actual.findIndex((byte, index) => byte !== expected[index]);
  assert.equal(difference, -1, `${what}: a byte differs, at offset ${difference}`);
}
