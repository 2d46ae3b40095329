import type { Broker, FileReader, FileWriter, ListProblem, OperationContext } from "./broker.ts";
import type { BrokerVolume, ByteRange, FileDetails, FileDownload, FileInput, FileMove, FileUpload } from "./files.ts";
import type { Limits } from "./limits.ts";
import type { Outcome } from "./outcome.ts";
import type { ChangeOptions, DownloadOptions, TransferOptions } from "./transfer-options.ts";

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

const unfinished = (): never => {
  throw new Error("not built yet");
};

/** A place where files live, ready for use. */
export class Workspace {
  readonly name: string;
  readonly brokerType: string;
  readonly volume: BrokerVolume | undefined;
  readonly broker: Broker;

  constructor(init: WorkspaceInit) {
    this.name = init.name;
    this.broker = init.broker;
    this.brokerType = init.brokerType ?? "custom";
    this.volume = init.volume;
  }

  downloadFiles<const I extends FileDownload>(downloads: readonly I[], options?: DownloadOptions): Promise<Outcome<I>[]>;
  downloadFiles<I extends FileDownload>(downloads: AsyncIterable<I>, options?: DownloadOptions): AsyncIterable<Outcome<I>>;
  downloadFiles<I extends FileDownload>(
    _downloads: readonly I[] | AsyncIterable<I>,
    _options?: DownloadOptions,
  ): Promise<Outcome<I>[]> | AsyncIterable<Outcome<I>> {
    return unfinished();
  }

  uploadFiles<const I extends FileUpload>(uploads: readonly I[], options?: TransferOptions): Promise<Outcome<I>[]>;
  uploadFiles<I extends FileUpload>(uploads: AsyncIterable<I>, options?: TransferOptions): AsyncIterable<Outcome<I>>;
  uploadFiles<I extends FileUpload>(
    _uploads: readonly I[] | AsyncIterable<I>,
    _options?: TransferOptions,
  ): Promise<Outcome<I>[]> | AsyncIterable<Outcome<I>> {
    return unfinished();
  }

  moveFiles<const I extends FileMove>(moves: readonly I[], options?: TransferOptions): Promise<Outcome<I>[]>;
  moveFiles<I extends FileMove>(moves: AsyncIterable<I>, options?: TransferOptions): AsyncIterable<Outcome<I>>;
  moveFiles<I extends FileMove>(
    _moves: readonly I[] | AsyncIterable<I>,
    _options?: TransferOptions,
  ): Promise<Outcome<I>[]> | AsyncIterable<Outcome<I>> {
    return unfinished();
  }

  copyFiles<const I extends FileMove>(copies: readonly I[], options?: TransferOptions): Promise<Outcome<I>[]>;
  copyFiles<I extends FileMove>(copies: AsyncIterable<I>, options?: TransferOptions): AsyncIterable<Outcome<I>>;
  copyFiles<I extends FileMove>(
    _copies: readonly I[] | AsyncIterable<I>,
    _options?: TransferOptions,
  ): Promise<Outcome<I>[]> | AsyncIterable<Outcome<I>> {
    return unfinished();
  }

  deleteFiles<const I extends FileInput>(files: readonly I[], options?: ChangeOptions): Promise<Outcome<I>[]>;
  deleteFiles<I extends FileInput>(files: AsyncIterable<I>, options?: ChangeOptions): AsyncIterable<Outcome<I>>;
  deleteFiles<I extends FileInput>(
    _files: readonly I[] | AsyncIterable<I>,
    _options?: ChangeOptions,
  ): Promise<Outcome<I>[]> | AsyncIterable<Outcome<I>> {
    return unfinished();
  }

  async statFile(_file: FileInput, _options?: FileOperationOptions): Promise<FileDetails | undefined> {
    return unfinished();
  }

  listFiles(_directory?: string, _options?: ListFilesOptions): AsyncIterable<FileDetails> {
    return unfinished();
  }

  async openRead(_file: FileInput, _options?: OpenReadOptions): Promise<FileReader> {
    return unfinished();
  }

  async openWrite(_file: FileInput, _options?: OpenWriteOptions): Promise<FileWriter> {
    return unfinished();
  }

  getFileSystemPaths(_files: readonly FileInput[]): string[] | undefined {
    return unfinished();
  }

  async fileUrl(_file: FileInput, _options?: FileUrlOptions): Promise<string | undefined> {
    return unfinished();
  }

  sweep(_options?: SweepOptions): AsyncIterable<string> {
    return unfinished();
  }

  async close(): Promise<void> {
    unfinished();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
