import { createHash } from "node:crypto";
import type { FilePath, StoredFile } from "./files.ts";
import type { FileRecord } from "./transfer-options.ts";

/** What a `recordId` is made of. */
export interface RecordIdentity {
  readonly batchId?: string | undefined;
  readonly operation: FileRecord["operation"];
  readonly workspace: string;
  readonly file: StoredFile;
  readonly previousPath?: string | undefined;
  /** Where a download went: one file may be fetched to two places. */
  readonly localPath?: string | undefined;
}

/**
 * The same for the same change, also in another process after a crash. With a `batchId` it names the change within that batch; without one
 * it is made of the content too, as far as size and digest tell it, so that storing other bytes under the same path is another change.
 */
export function createRecordId(identity: RecordIdentity): string {
  const { batchId, operation, workspace, file, previousPath, localPath } = identity;
  const content = batchId === undefined ? [file.size ?? null, file.digest?.algorithm ?? null, file.digest?.value ?? null] : [];
  const parts = [batchId ?? null, operation, workspace, file.path, previousPath ?? null, localPath ?? null, ...content];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 40);
}

export type StoreHook = (record: FileRecord) => void | Promise<void>;

/** What of a change the hook of its batch is told. */
export interface Change {
  readonly operation: FileRecord["operation"];
  readonly workspace: string;
  readonly file: StoredFile;
  readonly previousPath?: FilePath | undefined;
  readonly localPath?: string | undefined;
}

/** Calls the hook, with an id that repeats. */
export async function recordChange(
  store: StoreHook,
  change: Change,
  batch: { readonly batchId: string | undefined; readonly item: unknown; readonly signal: AbortSignal },
): Promise<void> {
  const { operation, workspace, file, previousPath } = change;
  const recordId = createRecordId({ ...change, batchId: batch.batchId });
  const record: FileRecord = { recordId, operation, workspace, file, item: batch.item, signal: batch.signal };
  await store(previousPath === undefined ? record : { ...record, previousPath });
}
