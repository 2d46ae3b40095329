import { escapePath, type OperationContext } from "@stowage/core/broker";
import { fetchRange } from "./fetch-range.ts";
import { RECORDS } from "./multipart.ts";
import type { ListedUpload } from "./object-store.ts";
import { s3ErrorName } from "./s3-errors.ts";
import { repeat, type Session } from "./session.ts";

/** Clocks of one server that differ by this much are not blamed. */
const SLACK_MS = 60_000;

/**
 * Ends multipart uploads that crashed sessions left. Records say which keys were being written; what was begun there since belongs to them. `deep` ends
 * every upload below the prefix that is old enough, whoever began it.
 */
export async function* sweep(
  session: Session,
  { olderThanMs, deep }: { readonly olderThanMs: number; readonly deep?: boolean | undefined },
  context: OperationContext,
): AsyncGenerator<string> {
  const { store, keys } = session;
  const { signal } = context;
  let now = new Date();
  let token: string | undefined;
  do {
    const page = await repeat(signal, () => store.list({ signal, prefix: keys.reservedKey(RECORDS), flat: false, token }));
    now = page.now;
    for (const record of page.objects) {
      context.progress(0);
      if (record.key === undefined || record.modified === undefined || now.getTime() - record.modified.getTime() < olderThanMs) continue;
      const key = await readRecord(session, record.key, record.size, context);
      if (key?.startsWith(keys.prefix) === true) {
        const begunAfter = record.modified.getTime() - SLACK_MS;
        for await (const upload of store.listUploads(key, { signal })) {
          if (upload.key === key && (upload.initiated?.getTime() ?? 0) >= begunAfter) yield await end(session, upload, context);
        }
      }
      await repeat(signal, () => store.delete(record.key as string, { signal }));
      yield escapePath(record.key.slice(keys.prefix.length));
    }
    token = page.next;
  } while (token !== undefined);
  if (deep !== true) return;
  for await (const upload of store.listUploads(keys.prefix, { signal })) {
    context.progress(0);
    if (upload.initiated !== undefined && now.getTime() - upload.initiated.getTime() >= olderThanMs)
      yield await end(session, upload, context);
  }
}

async function end(session: Session, { key, uploadId }: ListedUpload, { signal }: OperationContext): Promise<string> {
  await repeat(signal, () => session.store.abortUpload(key, uploadId, { signal })).catch((error: unknown) => {
    if (s3ErrorName(error) !== "NoSuchUpload") throw error;
  });
  return `multipart upload ${uploadId} of "${escapePath(key.slice(session.keys.prefix.length))}"`;
}

/** The key that a record is about; `undefined` for one that is cut or none of ours. */
async function readRecord(session: Session, key: string, size: number, context: OperationContext): Promise<string | undefined> {
  if (size > 8192) return undefined;
  try {
    const chunks: Uint8Array[] = [];
    const state = { key, etag: undefined, versionId: undefined };
    for await (const chunk of fetchRange(session.store, state, { start: 0, end: size }, context, context.signal)) chunks.push(chunk);
    const record: unknown = JSON.parse(Buffer.concat(chunks).toString("utf8"));
    const named = typeof record === "object" && record !== null ? (record as { key?: unknown }).key : undefined;
    return typeof named === "string" ? named : undefined;
  } catch (error) {
    context.signal.throwIfAborted();
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}
