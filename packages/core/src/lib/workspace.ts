import { type BatchInput, type BatchOutput, runBatch } from "./batch-forms.ts";
import type { Broker, FileReader, FileWriter, ListProblem, OperationContext } from "./broker.ts";
import type { BrokerVolume, ByteRange, FileDetails, FileDownload, FileInput, FileMove, FileUpload } from "./files.ts";
import type { Limits } from "./limits.ts";
import { listWorkspace, sweepWorkspace } from "./list-workspace.ts";
import { createWorkspaceFile, openWorkspaceFile } from "./open-file-streams.ts";
import type { Outcome } from "./outcome.ts";
import { parseFile } from "./stored-file.ts";
import { StowageError } from "./stowage-error.ts";
import type { ChangeOptions, DownloadOptions, TransferOptions } from "./transfer-options.ts";
import { deleteVerb } from "./verb-delete.ts";
import { downloadVerb } from "./verb-download.ts";
import { moveVerb } from "./verb-move.ts";
import { uploadVerb } from "./verb-upload.ts";
import { createWorkspaceRuntime, type WorkspaceRuntime } from "./workspace-runtime.ts";

/** What a `Workspace` is made of when its broker is live already; `openWorkspace` makes one from a configuration. */
export interface WorkspaceInit {
  /** Shown in errors, and part of every `recordId`. */
  readonly name: string;
  /** Owned by the workspace from now on: `close` closes it. */
  readonly broker: Broker;
  /** For errors and spans. Defaults to `"custom"`. */
  readonly brokerType?: string | undefined;
  /** What must be mounted where this workspace is used. */
  readonly volume?: BrokerVolume | undefined;
  /** Where the files are served over HTTP: `fileUrl` appends the encoded path. */
  readonly baseUrl?: string | undefined;
  /** Refuse everything that changes the workspace. Defaults to false. */
  readonly readOnly?: boolean | undefined;
  /** Defaults to true. */
  readonly moveEnabled?: boolean | undefined;
  /** Refuse everything but listing, stat and URLs. Defaults to false. */
  readonly archived?: boolean | undefined;
  /** Defaults to the process's one memory budget and nothing else. */
  readonly limits?: Limits | undefined;
  /** Removes secrets from a text; every message and cause passes through it. */
  readonly redact?: ((text: string) => string) | undefined;
  /** Where brokers note what a crash would leave behind. Defaults to nowhere. */
  readonly journal?: OperationContext["journal"] | undefined;
  readonly log?: OperationContext["log"] | undefined;
}

export interface FileOperationOptions {
  readonly signal?: AbortSignal | undefined;
  readonly deadline?: Date | undefined;
}

export interface ListFilesOptions {
  /** Defaults to false: only files directly in the directory. */
  readonly recursive?: boolean | undefined;
  /** Begin after this file, in the broker's order. */
  readonly startAfter?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Told of what cannot be read or named. Without it the listing gives everything readable, then ends with an error. */
  readonly onProblem?: ((problem: ListProblem) => void) | undefined;
}

export interface OpenReadOptions {
  readonly range?: ByteRange | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface OpenWriteOptions extends Pick<TransferOptions, "checksum" | "durability"> {
  /** Bytes that will be written, where known; checked at `commit`. */
  readonly size?: number | undefined;
  /** The time that the file shall have, where the backend keeps one. */
  readonly modified?: Date | undefined;
  readonly ifExists?: "replace" | "fail" | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface FileUrlOptions {
  /** Asks for a signed URL with which this may be done without further credentials. */
  readonly method?: "GET" | "PUT" | undefined;
  /** Defaults to 3,600. */
  readonly expiresInSeconds?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface SweepOptions {
  /** Younger remains may belong to someone who is still writing. Milliseconds; defaults to 24 hours. */
  readonly olderThanMs?: number | undefined;
  /** Look everywhere, not only where a record says that something was begun. Defaults to false. */
  readonly deep?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * A place where files live, ready for use: parses paths, refuses what may not or cannot be done before the backend is touched, bounds
 * concurrency, retries, reports, and wraps every error into a `StowageError`. `close` it.
 *
 * Batches: an array in gives a promise of outcomes in the same order, which rejects with a `TransferError` that holds all of them when any
 * failed or was cancelled; an `AsyncIterable` in gives outcomes as they come, in constant memory, and throws at the end. Each
 * outcome carries the caller's own object as `item`. In an array, items that concern the same file fail with `CONFLICT` before anything
 * starts; in a stream they go one after the other.
 */
export class Workspace {
  readonly name: string;
  readonly brokerType: string;
  readonly volume: BrokerVolume | undefined;
  readonly broker: Broker;
  readonly baseUrl: string | undefined;
  // No private field: a workspace of another copy of this package would not be assignable to this type.
  /** Not for applications: what `transferFiles` needs, also of a workspace from another copy of this package. */
  readonly "~runtime": WorkspaceRuntime;

  constructor(init: WorkspaceInit) {
    this.name = init.name;
    this.broker = init.broker;
    this.brokerType = init.brokerType ?? "custom";
    this.volume = init.volume;
    this["~runtime"] = createWorkspaceRuntime(init);
    this.baseUrl = init.baseUrl;
  }

  /** Fetches files to the local file system, atomically each. Makes missing directories. */
  downloadFiles<const I extends FileDownload>(downloads: readonly I[], options?: DownloadOptions): Promise<Outcome<I>[]>;
  downloadFiles<I extends FileDownload>(downloads: AsyncIterable<I>, options?: DownloadOptions): AsyncIterable<Outcome<I>>;
  downloadFiles<I extends FileDownload>(downloads: BatchInput<I>, options: DownloadOptions = {}): BatchOutput<I> {
    const runtime = this["~runtime"];
    return runBatch(downloadVerb<I>(runtime, options), downloads, options, () => runtime.refusal("read"));
  }

  /** Stores files of the local file system, atomically each; an existing file is replaced unless `ifExists` says otherwise. */
  uploadFiles<const I extends FileUpload>(uploads: readonly I[], options?: TransferOptions): Promise<Outcome<I>[]>;
  uploadFiles<I extends FileUpload>(uploads: AsyncIterable<I>, options?: TransferOptions): AsyncIterable<Outcome<I>>;
  uploadFiles<I extends FileUpload>(uploads: BatchInput<I>, options: TransferOptions = {}): BatchOutput<I> {
    const runtime = this["~runtime"];
    return runBatch(uploadVerb<I>(runtime, options), uploads, options, () => runtime.refusal("write"));
  }

  /** Gives files other paths in this workspace, losing none. Onto an existing file is `FILE_EXISTS` unless `ifExists` says otherwise; onto itself does nothing. */
  moveFiles<const I extends FileMove>(moves: readonly I[], options?: TransferOptions): Promise<Outcome<I>[]>;
  moveFiles<I extends FileMove>(moves: AsyncIterable<I>, options?: TransferOptions): AsyncIterable<Outcome<I>>;
  moveFiles<I extends FileMove>(moves: BatchInput<I>, options: TransferOptions = {}): BatchOutput<I> {
    const runtime = this["~runtime"];
    return runBatch(moveVerb<I>("move", runtime, options), moves, options, () => runtime.refusal("move"));
  }

  /** Copies files inside this workspace without a local detour. `UNSUPPORTED` where the broker cannot: `transferFiles` can, through this process. */
  copyFiles<const I extends FileMove>(copies: readonly I[], options?: TransferOptions): Promise<Outcome<I>[]>;
  copyFiles<I extends FileMove>(copies: AsyncIterable<I>, options?: TransferOptions): AsyncIterable<Outcome<I>>;
  copyFiles<I extends FileMove>(copies: BatchInput<I>, options: TransferOptions = {}): BatchOutput<I> {
    const runtime = this["~runtime"];
    const refusal = (): StowageError | undefined =>
      runtime.refusal("write") ?? (this.broker.copyFile === undefined ? runtime.unsupported("copyFile") : undefined);
    return runBatch(moveVerb<I>("copy", runtime, options), copies, options, refusal);
  }

  /** Deletes files. One that is missing is skipped, which is no failure. */
  deleteFiles<const I extends FileInput>(files: readonly I[], options?: ChangeOptions): Promise<Outcome<I>[]>;
  deleteFiles<I extends FileInput>(files: AsyncIterable<I>, options?: ChangeOptions): AsyncIterable<Outcome<I>>;
  deleteFiles<I extends FileInput>(files: BatchInput<I>, options: ChangeOptions = {}): BatchOutput<I> {
    const runtime = this["~runtime"];
    return runBatch(deleteVerb<I>(runtime), files, options, () => runtime.refusal("write"));
  }

  /** What is known of a file; `undefined` when there is none. */
  async statFile(file: FileInput, options: FileOperationOptions = {}): Promise<FileDetails | undefined> {
    const stored = parseFile(file);
    const { signal, deadline } = options;
    return this["~runtime"].call({ operation: "stat", file: stored.path, access: "look" }, { signal, deadline }, (context) =>
      this.broker.statFile(stored, context),
    );
  }

  /** Lists the files in a directory (the root by default), lazily. What it yields are paths from the workspace's root. Nothing when the directory does not exist. */
  listFiles(directory?: string, options: ListFilesOptions = {}): AsyncIterable<FileDetails> {
    return listWorkspace(this["~runtime"], directory, options);
  }

  /** Reads a file as a stream. Close the reader. */
  openRead(file: FileInput, options: OpenReadOptions = {}): Promise<FileReader> {
    return openWorkspaceFile(this["~runtime"], file, options);
  }

  /** Writes a file as a stream; it is visible after `commit`, whole, or never. Nothing is retried: what a stream gave is gone. Call `commit` or `abort`. */
  openWrite(file: FileInput, options: OpenWriteOptions = {}): Promise<FileWriter> {
    return createWorkspaceFile(this["~runtime"], file, options);
  }

  /** Where files are in this process's file system, whether they exist or not; `undefined` where the broker does not reach them through one. */
  getFileSystemPaths(files: readonly FileInput[]): string[] | undefined {
    const refusal = this["~runtime"].refusal("look");
    if (refusal !== undefined) throw refusal;
    if (this.broker.getFileSystemPath === undefined) return undefined;
    return files.map((file) => this.broker.getFileSystemPath!(parseFile(file)));
  }

  /**
   * A URL of a file, whether it exists or not. With `method` a signed one where the broker can; otherwise, and without `method`, the encoded
   * path below the workspace's `baseUrl`; `undefined` when it has none.
   */
  async fileUrl(file: FileInput, options: FileUrlOptions = {}): Promise<string | undefined> {
    const stored = parseFile(file);
    const { method, expiresInSeconds = 3600, signal } = options;
    const runtime = this["~runtime"];
    if (method !== undefined && this.broker.createSignedUrl !== undefined) {
      if (!(Number.isSafeInteger(expiresInSeconds) && expiresInSeconds > 0)) {
        throw new StowageError(`expiresInSeconds must be a positive number of seconds, got ${expiresInSeconds}`, {
          code: "INVALID_ARGUMENT",
        });
      }
      const call = { operation: "sign a URL for", file: stored.path, access: method === "PUT" ? "write" : "read" } as const;
      return runtime.call(call, { signal }, (context) => this.broker.createSignedUrl!(stored, { method, expiresInSeconds }, context));
    }
    const refusal = runtime.refusal("look");
    if (refusal !== undefined) throw refusal;
    return this.baseUrl === undefined ? undefined : appendPath(this.baseUrl, stored.path);
  }

  /** Removes what crashed sessions left unfinished, yielding the name of each thing removed. */
  sweep(options: SweepOptions = {}): AsyncIterable<string> {
    return sweepWorkspace(this["~runtime"], options);
  }

  /**
   * Ends the workspace; whoever uses it afterwards gets `CLOSED`. Waits for batches and calls that run; streams of outcomes take no more
   * input, listings, readers and writers that are open end. When the signal aborts, what still runs is cancelled. May be called again.
   */
  close(options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    return this["~runtime"].close(options.signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Appends a path to a URL, each segment percent-encoded as its UTF-8 bytes; a query stays behind it. */
function appendPath(baseUrl: string, path: string): string {
  const end = baseUrl.search(/[?#]/u);
  const [base, rest] = end === -1 ? [baseUrl, ""] : [baseUrl.slice(0, end), baseUrl.slice(end)];
  const encoded = path.split("/").map(encodeURIComponent).join("/");
  return `${base.replace(/\/+$/u, "")}/${encoded}${rest}`;
}
