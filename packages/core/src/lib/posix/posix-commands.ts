import type { BatchResult, Broker, Deletion, ListProblem, TransferDetails } from "../broker.ts";
import type { ByteRange, DigestAlgorithm, FileDetails, FilePath, StoredFile } from "../files.ts";

/**
 * File work on a mounted volume as coarse, serialisable commands, so that the same code runs in this process or in a child that can
 * be killed. Everything here is plain data; what cannot be (signals, progress) travels in `PosixHooks`.
 */
export type PosixCommand = UploadCommand | DownloadCommand | MoveCommand | CopyCommand | DeleteCommand | StatCommand;

/** What the commands that make a file have in common. */
interface PublishPolicy {
  readonly ifExists: "replace" | "fail" | "skip";
  readonly durability: "process" | "power";
  readonly checksum: "auto" | "none" | DigestAlgorithm;
  /** A whole segment, `.stowage-…`: the temporary name in the target's directory. */
  readonly temporaryName: string;
}

export interface UploadCommand extends PublishPolicy {
  readonly verb: "upload";
  readonly localPath: string;
  readonly file: StoredFile;
}
export interface DownloadCommand extends PublishPolicy {
  readonly verb: "download";
  readonly file: StoredFile;
  readonly localPath: string;
  readonly partial: boolean;
}
export interface MoveCommand extends PublishPolicy {
  readonly verb: "move";
  readonly file: StoredFile;
  readonly newPath: FilePath;
}
export interface CopyCommand extends PublishPolicy {
  readonly verb: "copy";
  readonly file: StoredFile;
  readonly newPath: FilePath;
}
export interface DeleteCommand {
  readonly verb: "delete";
  readonly file: StoredFile;
  readonly durability: "process" | "power";
}
export interface StatCommand {
  readonly verb: "stat";
  readonly file: StoredFile;
}

/** What each command gives. */
export interface PosixResults {
  readonly upload: TransferDetails;
  readonly download: TransferDetails;
  readonly move: TransferDetails;
  readonly copy: TransferDetails;
  readonly delete: Deletion;
  readonly stat: FileDetails | undefined;
}
export type PosixResult<C extends PosixCommand> = PosixResults[C["verb"]];

export interface PosixHooks {
  readonly signal: AbortSignal;
  progress(bytes: number, index?: number): void;
  /** Given where bandwidth is limited: large files are then copied in pieces, each of which waits for it. In children it does not work. */
  throttle?: ((bytes: number) => Promise<void>) | undefined;
}

/** How a volume is opened: in every process that works on it, again and with the same checks. Serialisable. */
export interface PosixVolume {
  /** Absolute path of the workspace's root in this mount namespace. */
  readonly rootPath: string;
  /** Demand that the root lies on a mount other than the container's own root, of one of these types (any when empty). `undefined`: no demand. */
  readonly requireMount?: { readonly types: readonly string[] } | undefined;
  /** Demand that the root, links resolved, is one of these directories (links resolved, too) or lies below one. `undefined`: no demand. */
  readonly insideOneOf?: readonly string[] | undefined;
  /** Whether links inside the workspace are followed for reading. Never for writing or deleting. */
  readonly symlinks: "inside" | "refuse";
  /** Permission bits of stored files and made directories, whatever the umask. */
  readonly fileMode: number;
  readonly directoryMode: number;
  /** A FUSE mount is written to only with `"best-effort"`. */
  readonly fuseWrites: "refuse" | "best-effort";
}

export interface ListCommand {
  readonly directory: FilePath | "";
  readonly recursive: boolean;
  readonly startAfter?: FilePath | undefined;
  /** Entries in a page at the most. */
  readonly pageSize: number;
}
/** One page of a listing: plain columns, since a page of objects costs more to carry than to make. */
export interface ListPage {
  readonly entries: readonly FileDetails[];
  readonly problems: readonly ListProblem[];
}
export interface ReadCommand {
  readonly file: StoredFile;
  readonly range?: ByteRange | undefined;
}
export interface WriteCommand extends PublishPolicy {
  readonly file: StoredFile;
  readonly size?: number | undefined;
  readonly modified?: Date | undefined;
}

/** Runs posix commands, here or in killable children. `run` rejects and batches yield with the file system's own error. */
export interface PosixExecutor {
  readonly kind: "inline" | "process";
  run<C extends PosixCommand>(command: C, hooks: PosixHooks): Promise<PosixResult<C>>;
  runBatch<C extends PosixCommand>(commands: readonly C[], hooks: PosixHooks): AsyncIterable<BatchResult<PosixResult<C>>>;
  list(command: ListCommand, hooks: PosixHooks): AsyncIterable<ListPage>;
  openRead(command: ReadCommand, hooks: PosixHooks): ReturnType<NonNullable<Broker["openRead"]>>;
  openWrite(command: WriteCommand, hooks: PosixHooks): ReturnType<NonNullable<Broker["openWrite"]>>;
  sweep(options: { readonly olderThanMs: number; readonly deep: boolean }, hooks: PosixHooks): AsyncIterable<string>;
  close(): Promise<void>;
}
