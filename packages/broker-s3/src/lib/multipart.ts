import { randomBytes } from "node:crypto";
import { addLeftover, escapePath, type OperationContext } from "@stowage/core/broker";
import { checksOf } from "./body-checks.ts";
import type { ObjectAttributes } from "./object-store.ts";
import { s3ErrorName } from "./s3-errors.ts";
import { cleanUpSignal, repeat, type Session } from "./session.ts";

/** Where the records of unfinished uploads lie, below the workspace's prefix: an upload itself cannot say whose it is. */
export const RECORDS = "inflight/";

/** How old the record of a live upload may become before it is written again. Sweeps leave alone what is younger than a day by default. */
const REFRESH_MS = 3_600_000;

/** An upload in parts that has been begun. Exactly one of `end` and `abort` is called. */
export interface OpenUpload {
  readonly uploadId: string;
  /** Call with every part: keeps the record young. */
  touch(signal: AbortSignal): Promise<void>;
  /** It has become an object, or is known to be gone. */
  end(): Promise<void>;
  /** Never throws; what could not be cleaned up is named in `error`. */
  abort(error: unknown): Promise<void>;
}

/**
 * Begins an upload in parts. Before it there is a record of it in the bucket and an entry in the journal, so that whatever a crash leaves
 * is found: a multipart upload is invisible, and paid for.
 */
export async function openUpload(
  session: Session,
  key: string,
  attributes: ObjectAttributes,
  context: OperationContext,
  tags?: string | undefined,
): Promise<OpenUpload> {
  const { store, keys } = session;
  const recordKey = keys.reservedKey(`${RECORDS}${randomBytes(9).toString("base64url")}`);
  const entry = JSON.stringify({ kind: "s3-multipart-upload", bucket: store.bucket, key, record: recordKey });
  let written = 0;
  const writeRecord = async (signal: AbortSignal): Promise<void> => {
    written = performance.now();
    const body = Buffer.from(JSON.stringify({ key }));
    const checks = checksOf(body, session.settings);
    await store.put(
      recordKey,
      body,
      { contentType: "application/json", metadata: {} },
      { signal, checks, onSent: () => undefined, ifAbsent: false },
    );
  };
  const forget = async (signal: AbortSignal): Promise<void> => {
    await store.delete(recordKey, { signal });
    await context.journal.settle(entry);
  };

  await context.journal.record(entry);
  let uploadId: string;
  try {
    await repeat(context.signal, () => writeRecord(context.signal));
    uploadId = await repeat(context.signal, () => store.createUpload(key, attributes, { signal: context.signal, tags }));
  } catch (error) {
    // A request whose answer was lost may have begun one: the record stays then, for `sweep`.
    if (s3ErrorName(error) === undefined) addLeftover(error, recordKey);
    else await forget(cleanUpSignal(context)).catch(() => addLeftover(error, recordKey));
    throw error;
  }

  return {
    uploadId,
    async touch(signal) {
      if (performance.now() - written > REFRESH_MS) await writeRecord(signal);
    },
    async end() {
      await forget(cleanUpSignal(context)).catch((error: unknown) =>
        context.log("warn", "the record of a finished upload could not be removed; sweep will find it", { error: String(error) }),
      );
    },
    async abort(error) {
      try {
        const signal = cleanUpSignal(context);
        await store.abortUpload(key, uploadId, { signal }).catch((reason: unknown) => {
          if (s3ErrorName(reason) !== "NoSuchUpload") throw reason;
        });
        await forget(signal);
      } catch {
        addLeftover(error, `multipart upload ${uploadId} of "${escapePath(key)}"`);
      }
    },
  };
}
