import type { DigestAlgorithm, StoredFile } from "./files.ts";
import type { Limits } from "./limits.ts";
import type { RetryOptions } from "./retry.ts";

/** How far a batch has come. */
export interface Progress {
  /** The caller's object that this report is about; absent when it is about a batch that the broker moves as one. */
  readonly item?: unknown;
  /** Bytes of `item` so far; never falls, also when an attempt is repeated. */
  readonly itemBytes: number;
  readonly itemTotal?: number | undefined;
  /** Bytes of the whole batch so far. */
  readonly bytes: number;
  readonly totalBytes?: number | undefined;
  /** Items that have ended, in whatever way. */
  readonly done: number;
  readonly total?: number | undefined;
}

export interface BatchOptions {
  /** Cancels the batch: what has not ended becomes `cancelled`, within a second. */
  readonly signal?: AbortSignal | undefined;
  /** Called at most ten times a second for each item, and at each item's end. What it throws is ignored. */
  onProgress?(progress: Progress): void;
  /** How many files move at once. Defaults to 8. */
  readonly concurrency?: number | undefined;
  /** Start nothing new after the first failure; what has not started becomes `cancelled`. Defaults to false. */
  readonly failFast?: boolean | undefined;
  /** Change nothing; every outcome is `planned`, `skipped` or `failed` as it would be. Defaults to false. */
  readonly dryRun?: boolean | undefined;
  readonly retry?: RetryOptions | undefined;
  /** Fail an attempt with `STALLED` when no byte has moved for so long. Milliseconds; 0 never. Defaults to 120,000. */
  readonly stallTimeoutMs?: number | undefined;
  /** Whatever has not ended by then fails with `TIMEOUT`. */
  readonly deadline?: Date | undefined;
  /** Shared by whoever is given the same object. Defaults to the workspace's own. */
  readonly limits?: Limits | undefined;
}

/** What happened to a file, as the `store` hook is told. */
export interface FileRecord {
  /** Repeats when the same batch is run again after a crash: a key for an idempotent write. */
  readonly recordId: string;
  readonly operation: "upload" | "download" | "move" | "copy" | "delete";
  readonly workspace: string;
  /** The file as it is now; for a deletion, as it was. */
  readonly file: StoredFile;
  /** Where a moved or copied file came from. */
  readonly previousPath?: string | undefined;
  /** The caller's own object. */
  readonly item: unknown;
  readonly signal: AbortSignal;
}

export interface ChangeOptions extends BatchOptions {
  /**
   * Called at least once for each file that was stored, moved or deleted, never for one that failed. When it throws, a file that did
   * not exist before is removed again; one that was replaced, moved or deleted stays as it is. Either way the item fails with `NOT_RECORDED`.
   */
  readonly store?: ((record: FileRecord) => void | Promise<void>) | undefined;
  /**
   * Names this batch in `recordId`; give the same when it is run again: what an earlier run had done by then (skipped as same or missing, or moved
   * before) is recorded again too. Defaults to none: the id is then made of workspace, operation, path and content.
   */
  readonly batchId?: string | undefined;
  /** Defaults to `"process"`. */
  readonly durability?: "process" | "power" | undefined;
}

export interface TransferOptions extends ChangeOptions {
  /**
   * What to do when the target exists. `skip-same` skips it when size and digest, or size and time of modification (to the
   * millisecond), agree, and replaces it otherwise. Defaults to `"replace"`; for moves to `"fail"`.
   */
  readonly ifExists?: "replace" | "fail" | "skip" | "skip-same" | undefined;
  /** Defaults to `"auto"`. */
  readonly checksum?: "auto" | "none" | DigestAlgorithm | undefined;
}

export interface DownloadOptions extends TransferOptions {
  /**
   * The consumer mounts this workspace read-only at the same path, so a download marked `partial` may be a link into the mount.
   * Only whoever plans the job knows. Defaults to false: `partial` files are copied.
   */
  readonly linkPartial?: boolean | undefined;
}
