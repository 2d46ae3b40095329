import { nextRetryDelay, type OperationContext, resolveRetryOptions, StowageError, sleep } from "@stowage/core/broker";
import type { ObjectBody, ObjectStore } from "./object-store.ts";
import { classifyS3Error, isPreconditionFailed, s3ErrorStatus } from "./s3-errors.ts";

const POLICY = resolveRetryOptions({ attempts: 4, baseDelayMs: 100, maxDelayMs: 5_000, budgetMs: 60_000 });

/** One state of an object, from which every byte of a transfer must come. */
export interface ObjectState {
  readonly key: string;
  readonly etag: string | undefined;
  readonly versionId: string | undefined;
}

/**
 * Gives the bytes `start` (inclusive) to `end` (exclusive) of one state of an object, each once and in order. Where the connection breaks, it goes on
 * from there with a new request. `first` is an answer that is there already. Ends with an error, never early.
 */
export async function* fetchRange(
  store: ObjectStore,
  state: ObjectState,
  range: { readonly start: number; readonly end: number },
  context: Pick<OperationContext, "throttle" | "log">,
  signal: AbortSignal,
  first?: ObjectBody | undefined,
): AsyncGenerator<Uint8Array> {
  let position = range.start;
  let body = first;
  let attempts = 0;
  let startedAt = performance.now();
  while (position < range.end) {
    signal.throwIfAborted();
    const before = position;
    let current: ObjectBody | undefined;
    try {
      current = body ?? (await open(store, state, { start: position, end: range.end }, signal));
      body = undefined;
      if (current.start > position) throw broken("S3 sent bytes that were not asked for");
      // A server that takes no notice of ranges begins at the start again.
      let skip = position - current.start;
      for await (const chunk of current.bytes) {
        let piece = chunk;
        if (skip > 0) {
          const skipped = Math.min(skip, piece.length);
          skip -= skipped;
          piece = piece.subarray(skipped);
        }
        if (piece.length > range.end - position) piece = piece.subarray(0, range.end - position);
        if (piece.length === 0) continue;
        await context.throttle(piece.length);
        position += piece.length;
        yield piece;
        if (position >= range.end) break;
      }
      if (position < range.end) throw broken(`S3 ended after ${position - range.start} of ${range.end - range.start} bytes`);
    } catch (error) {
      signal.throwIfAborted();
      // Progress earns a new budget: what keeps moving may break as often as it likes.
      if (position > before) {
        attempts = 0;
        startedAt = performance.now();
      }
      attempts++;
      const facts = classifyS3Error(error);
      const delay = nextRetryDelay(facts, POLICY, { attempts, startedAt });
      if (delay === undefined) throw error;
      context.log("debug", "a read from S3 broke off and is taken up again", { position, attempts });
      await sleep(delay, signal);
    } finally {
      current?.destroy();
    }
  }
  body?.destroy();
}

async function open(
  store: ObjectStore,
  { key, etag, versionId }: ObjectState,
  range: { readonly start: number; readonly end: number },
  signal: AbortSignal,
): Promise<ObjectBody> {
  let body: ObjectBody;
  try {
    body = await store.get(key, { signal, range, ifMatch: etag, versionId });
  } catch (error) {
    if (isPreconditionFailed(error) || s3ErrorStatus(error) === 404) {
      throw new StowageError("the object was replaced or deleted while it was read; try again", {
        code: "SOURCE_CHANGED",
        cause: error,
        retryable: true,
      });
    }
    if (s3ErrorStatus(error) === 416)
      throw new StowageError("the object became shorter while it was read", { code: "SHORT_SOURCE", cause: error });
    throw error;
  }
  // Servers are known that take no notice of If-Match.
  if (etag !== undefined && body.info.etag !== undefined && body.info.etag !== etag) {
    body.destroy();
    throw new StowageError("the object was replaced while it was read; try again", { code: "SOURCE_CHANGED", retryable: true });
  }
  return body;
}

function broken(message: string): StowageError {
  return new StowageError(message, { code: "UNAVAILABLE" });
}
