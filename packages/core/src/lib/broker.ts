import type { StowageErrorCode } from "./error-codes.ts";
import type {
  ByteRange,
  Digest,
  DigestAlgorithm,
  FileDetails,
  FileDownload,
  FilePath,
  FileUpload,
  StoredFile,
  TransferMethod,
  Verification,
} from "./files.ts";

/** What a broker knows of one of its errors. Absent facts are filled in from the code. */
export interface ErrorFacts {
  readonly code: StowageErrorCode;
  /** Whether the same call may succeed later. Defaults by code: see `isRetryableCode`. */
  readonly retryable?: boolean | undefined;
  /** The least time to wait before the next attempt, in milliseconds. */
  readonly retryAfterMs?: number | undefined;
}

/**
 * What a broker reports of one stored, fetched, moved or copied file. `verified: "digest"` says that a digest computed here equals
 * one that the remote reported or the caller gave, or that every part was accepted with one; `digest` is always that of the whole content.
 */
export interface TransferDetails {
  /** The file as it now is; its path is the one that it really has. */
  readonly file: StoredFile;
  readonly method: TransferMethod;
  /** The file's size in bytes, also when no byte travelled. */
  readonly bytes: number;
  /** Of the whole content; never a composite of parts. */
  readonly digest?: Digest | undefined;
  readonly verified: Verification;
}

/** Plain functions and values that a broker may need during one operation (or one batch). */
export interface OperationContext {
  /**
   * Aborts when the caller, a deadline or the stall watchdog says so. Settle within one second of it, with everything cleaned up; the
   * clean-up needs a time limit of its own, since this signal has already fired. Whatever is thrown then counts as the abort's reason.
   */
  readonly signal: AbortSignal;
  readonly deadline?: Date | undefined;
  /** `"process"` survives any crash of this process; `"power"` is on stable storage, directories included, before success is reported. */
  readonly durability: "process" | "power";
  /** `"auto"`: whatever the broker checks at no extra pass over the bytes. An algorithm: compute it, report it, `verified: "digest"`. */
  readonly checksum: "auto" | "none" | DigestAlgorithm;
  /** For `"fail"` and `"skip"` alike: throw an error of code `FILE_EXISTS` and leave the existing target as it is; the workspace makes a skip of it. */
  readonly ifExists: "replace" | "fail" | "skip";
  /** New for every attempt; letters and digits. Temporary names are `.stowage-<temporaryId>`, in a batch `.stowage-<temporaryId>-<index>`. */
  readonly temporaryId: string;
  /**
   * Stable across the attempts of one item and new for every other one: store it with the object where the backend lets you, to know
   * your own earlier write again when its reply was lost. Absent in a batch.
   */
  readonly itemId?: string | undefined;
  /**
   * `bytes` more have moved (negative when a part is sent again inside this call). Also feeds the stall watchdog: call it every MiB or
   * every second, whichever comes first, while alive; 0 will do. When the call fails the caller forgets what it reported. In a batch,
   * `index` says for which item.
   */
  progress(bytes: number, index?: number): void;
  /**
   * Waits for room in the memory budget; call it just before a buffer is allocated and dispose when the buffer is let go. More than the
   * whole budget waits for all of it. Never wait for one reservation while holding another: reserve once for all parallel parts.
   */
  reserve(bytes: number): Promise<Disposable>;
  /** Waits until the bandwidth limit lets `bytes` pass. Call before reading them. */
  throttle(bytes: number): Promise<void>;
  /** The limit that `throttle` keeps, where there is one: for whoever copies by means that cannot wait, and must then choose others. */
  readonly bytesPerSecond?: number | undefined;
  /** Notes that outlive a crash: record before the backend holds something unfinished, settle when it no longer does. */
  readonly journal: { record(entry: string): Promise<void>; settle(entry: string): Promise<void> };
  log(level: "debug" | "info" | "warn", message: string, fields?: Readonly<Record<string, unknown>>): void;
}

/** One item's end in a batch; `index` is its place in the array that the broker was given. */
export type BatchResult<T> =
  | { readonly index: number; readonly ok: true; readonly value: T }
  | { readonly index: number; readonly ok: false; readonly error: unknown };

export type ParsedDownload = Omit<FileDownload, "file"> & { readonly file: StoredFile };
export type ParsedUpload = Omit<FileUpload, "file"> & { readonly file: StoredFile };
export type ParsedMove = { readonly file: StoredFile; readonly newPath: FilePath };

/** Whether a deleted file was there; `"unknown"` where the backend does not say. */
export type Deletion = "deleted" | "missing" | "unknown";

/** Stores one file from a stream. Exactly one of `commit` and `abort` is called, once, after the last `write` has settled. */
export interface FileWriter {
  /** The chunk may be reused by the caller as soon as this settles. */
  write(chunk: Uint8Array): Promise<void>;
  /** Publishes atomically. When it throws nothing is visible. */
  commit(): Promise<TransferDetails>;
  /** Leaves nothing behind. Never throws. */
  abort(reason: unknown): Promise<void>;
}

/** Reads one file as a stream. Ends with an error, never early, when the source is shorter than `size` or changes. */
export interface FileReader extends AsyncIterable<Uint8Array> {
  readonly file: StoredFile;
  /** The bytes that this reader will give: the file's size, or that of the range. */
  readonly size: number;
  readonly modified?: Date | undefined;
  /** A path by which other processes of this user can open the very file that this reader holds open, until `close`. For kernel copies. */
  readonly localPath?: string | undefined;
  /** Safe to call twice, and while iterating. */
  close(): Promise<void>;
}

/** Something that a listing came upon and could not name or read. `path` is escaped for printing. */
export interface ListProblem {
  readonly path: string;
  readonly error: unknown;
}

export interface ListOptions {
  readonly recursive: boolean;
  /** Give only files that come after this one in the broker's order. */
  readonly startAfter?: FilePath | undefined;
  onProblem(problem: ListProblem): void;
}

/**
 * Reaches one place where files live. What authors implement; users hold a `Workspace`, which has parsed every path, gated
 * capabilities, bounded concurrency, and will retry, report and wrap errors.
 *
 * Every method may throw whatever its backend throws: `errorCode` says what it means. An error may carry
 * `leftovers: string[]`, the names of what could not be cleaned up. Optional methods are capabilities: leave out what the
 * backend cannot do. Methods may be called concurrently.
 */
export interface Broker {
  /** Only facts that no method shows; the conformance kit proves each in both directions. */
  readonly capabilities: {
    /** A reader of a file that is being replaced sees the old or the new one, whole. */
    readonly atomicReplace: boolean;
    /** Whether `ifExists: "fail"` holds against another writer at the same moment. */
    readonly ifAbsent: "exact" | "best-effort";
    /** Where containment is proven by handles (`"pinned"`) or only checked before use. Defaults to `"pinned"`; meaningless to remote brokers. */
    readonly containment?: "pinned" | "checked" | undefined;
  };

  /**
   * `localPath` is absolute and its parent exists. Publishes it atomically (`publishLocalFile` helps), obeying `context.ifExists`
   * there, and leaves nothing at or beside it when it throws. Checks `file.size` and `file.digest` where given.
   * With `partial` it may link instead. Missing: `FILE_NOT_FOUND`.
   */
  downloadFile(download: ParsedDownload, context: OperationContext): Promise<TransferDetails>;

  /**
   * `localPath` is absolute. Makes missing directories, publishes atomically, keeps a previous file when it throws, and fails when
   * the source ends early or changes, or when `file.size` or `file.digest` say otherwise. A missing source is `FILE_NOT_FOUND`, a directory or device `NOT_A_FILE`.
   */
  uploadFile(upload: ParsedUpload, context: OperationContext): Promise<TransferDetails>;

  /** Never loses: the source goes only after the target is proven. Makes missing directories. Source and target differ. Obeys `context.ifExists`. */
  moveFile(move: ParsedMove, context: OperationContext): Promise<TransferDetails>;

  /** Deletes the file itself, never a directory (`NOT_A_FILE`), a parent, or what a link points to. Missing is `"missing"`, not an error. */
  deleteFile(file: StoredFile, context: OperationContext): Promise<Deletion>;

  /** `undefined` when there is no such file; a directory is no file. */
  statFile(file: StoredFile, context: OperationContext): Promise<FileDetails | undefined>;

  /**
   * Lazy, bounded in memory, zero-byte files included, temporary names hidden. A missing directory is empty. What cannot be read or
   * named goes to `onProblem`. Closes what it opened when the consumer stops early.
   */
  listFiles(directory: FilePath | "", options: ListOptions, context: OperationContext): AsyncIterable<FileDetails>;

  /** Classifies an error by its cause. Never throws; says `"UNKNOWN"` for what it does not know, foreign errors included. */
  errorCode(error: unknown): StowageErrorCode | ErrorFacts;

  /** Called once, after the last operation has settled. */
  close(): Promise<void>;

  /** Where the file is in this process's file system. Pure; says nothing of its existence. */
  getFileSystemPath?(file: StoredFile): string;

  // A batch yields one result for each item, in any order, and may throw only for what concerns all that it has not yielded yet.
  // An item without a result has failed. The caller pulls eagerly; `return()` must stop the work and wait for it. The same source
  // may occur twice; targets are distinct.
  downloadFiles?(downloads: readonly ParsedDownload[], context: OperationContext): AsyncIterable<BatchResult<TransferDetails>>;
  uploadFiles?(uploads: readonly ParsedUpload[], context: OperationContext): AsyncIterable<BatchResult<TransferDetails>>;
  moveFiles?(moves: readonly ParsedMove[], context: OperationContext): AsyncIterable<BatchResult<TransferDetails>>;
  deleteFiles?(files: readonly StoredFile[], context: OperationContext): AsyncIterable<BatchResult<Deletion>>;

  /** Copies inside the workspace without a local detour; as `moveFile`, but the source stays. */
  copyFile?(copy: ParsedMove, context: OperationContext): Promise<TransferDetails>;

  /** A range that begins beyond the end gives no bytes; one that ends beyond it is cut. */
  openRead?(file: StoredFile, options: { readonly range?: ByteRange | undefined }, context: OperationContext): Promise<FileReader>;

  /** `size`, where given, is checked at `commit`; so are `file.size` and `file.digest`. `modified` becomes the file's time where the backend keeps one. */
  openWrite?(
    file: StoredFile,
    options: { readonly size?: number | undefined; readonly modified?: Date | undefined },
    context: OperationContext,
  ): Promise<FileWriter>;

  createSignedUrl?(
    file: StoredFile,
    options: { readonly method: "GET" | "PUT"; readonly expiresInSeconds: number },
    context: OperationContext,
  ): Promise<string>;

  /** Removes what crashed sessions left unfinished for at least `olderThanMs` by the backend's clock, yielding the name of each thing removed. `deep` looks everywhere, not only where records point. */
  sweep?(options: { readonly olderThanMs: number; readonly deep?: boolean | undefined }, context: OperationContext): AsyncIterable<string>;
}
