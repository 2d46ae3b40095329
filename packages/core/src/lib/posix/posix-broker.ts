import { join } from "node:path";
import type {
  BatchResult,
  Broker,
  Deletion,
  FileReader,
  FileWriter,
  OperationContext,
  ParsedDownload,
  ParsedMove,
  ParsedUpload,
  TransferDetails,
} from "../broker.ts";
import { assertSegmentLengths, RESERVED_PREFIX } from "../file-path.ts";
import type { FilePath, StoredFile } from "../files.ts";
import { StowageError } from "../stowage-error.ts";
import type { CopyCommand, DeleteCommand, DownloadCommand, MoveCommand, PosixHooks, PosixVolume, UploadCommand } from "./posix-commands.ts";
import { posixErrorFacts } from "./posix-errors.ts";
import { createPosixExecutor, type OpenedPosixExecutor, type PosixExecutorOptions } from "./posix-executor.ts";

export interface PosixBrokerOptions {
  readonly volume: PosixVolume;
  /** Where file work runs. Defaults to `{ mode: "auto" }`. */
  readonly executor?: PosixExecutorOptions | undefined;
  /** Gives up on opening. */
  readonly signal?: AbortSignal | undefined;
}

/** A broker over a directory: it can all that the contract knows, but for signed URLs. */
export type PosixBroker = Broker & Required<Omit<Broker, "createSignedUrl">>;

/** How many files a page of a listing carries at the most. */
const LIST_PAGE_SIZE = 1024;

/**
 * Opens the directory `volume.rootPath` as a broker; what host, NFS and GPFS brokers are made of. Throws what `openVolumeRoot` throws:
 * `VOLUME_NOT_MOUNTED` where a mount is demanded and there is none. Listings are sorted by the bytes of the path.
 */
export async function createPosixBroker(options: PosixBrokerOptions): Promise<PosixBroker> {
  const { volume } = options;
  const executor = await createPosixExecutor(volume, options.executor, options.signal);
  return createBroker(volume, executor);
}

function createBroker(volume: PosixVolume, executor: OpenedPosixExecutor): PosixBroker {
  let closed = false;

  const begin = (context: OperationContext, ...paths: readonly (FilePath | "")[]): void => {
    if (closed) throw new StowageError("this broker is closed", { code: "CLOSED" });
    context.signal.throwIfAborted();
    for (const path of paths) if (path !== "") assertSegmentLengths(path);
  };

  async function* runBatch<C extends BatchCommand, T>(
    commands: readonly C[],
    context: OperationContext,
    bytesOf: (value: T) => number,
  ): AsyncGenerator<BatchResult<T>> {
    if (closed) throw new StowageError("this broker is closed", { code: "CLOSED" });
    context.signal.throwIfAborted();
    const { runnable, indexes, refused } = refuseLongNames(commands);
    yield* refused;
    // What a command gives is fixed by its verb; the compiler loses that through the generic parameter.
    for await (const result of executor.runBatch<C>(runnable, hooksOf(context, indexes)) as AsyncIterable<BatchResult<T>>) {
      // Afterwards, since only now the size is known; what has not been taken from the executor holds back what has not begun.
      if (result.ok) await payBandwidth(bytesOf(result.value), context);
      yield indexes === undefined ? result : { ...result, index: indexes[result.index]! };
    }
  }

  return {
    capabilities: {
      atomicReplace: true,
      ifAbsent: executor.facts.fileSystem.kind === "fuse" ? "best-effort" : "exact",
      containment: executor.facts.containment,
    },

    async downloadFile(download, context) {
      begin(context, download.file.path);
      return throttled(executor.run(downloadCommand(download, context), context), context);
    },
    async uploadFile(upload, context) {
      begin(context, upload.file.path);
      return throttled(executor.run(uploadCommand(upload, context), context), context);
    },
    async moveFile(move, context) {
      begin(context, move.file.path, move.newPath);
      return executor.run(moveCommand(move, context), context);
    },
    async copyFile(copy, context) {
      begin(context, copy.file.path, copy.newPath);
      return executor.run({ ...moveCommand(copy, context), verb: "copy" }, context);
    },
    async deleteFile(file, context) {
      begin(context, file.path);
      return executor.run(deleteCommand(file, context), context);
    },
    async statFile(file, context) {
      begin(context, file.path);
      return executor.run({ verb: "stat", file }, context);
    },

    downloadFiles: (downloads: readonly ParsedDownload[], context: OperationContext) =>
      runBatch<DownloadCommand, TransferDetails>(
        downloads.map((download, index) => downloadCommand(download, context, index)),
        context,
        (details) => details.bytes,
      ),
    uploadFiles: (uploads: readonly ParsedUpload[], context: OperationContext) =>
      runBatch<UploadCommand, TransferDetails>(
        uploads.map((upload, index) => uploadCommand(upload, context, index)),
        context,
        (details) => details.bytes,
      ),
    moveFiles: (moves: readonly ParsedMove[], context: OperationContext) =>
      runBatch<MoveCommand, TransferDetails>(
        moves.map((move, index) => moveCommand(move, context, index)),
        context,
        () => 0,
      ),
    deleteFiles: (files: readonly StoredFile[], context: OperationContext) =>
      runBatch<DeleteCommand, Deletion>(
        files.map((file) => deleteCommand(file, context)),
        context,
        () => 0,
      ),

    async *listFiles(directory, { recursive, startAfter, onProblem }, context) {
      begin(context);
      for await (const page of executor.list({ directory, recursive, startAfter, pageSize: LIST_PAGE_SIZE }, context)) {
        for (const problem of page.problems) onProblem(problem);
        context.progress(0);
        for (const entry of page.entries) yield entry;
      }
    },

    async openRead(file, { range }, context) {
      begin(context, file.path);
      return throttleReader(await executor.openRead({ file, range }, context), context);
    },
    async openWrite(file, { size, modified }, context) {
      begin(context, file.path);
      const writer = await executor.openWrite(
        { file, size, modified, ...policyOf(context), temporaryName: temporaryName(context) },
        context,
      );
      return throttleWriter(writer, context);
    },

    getFileSystemPath: (file: StoredFile) => join(volume.rootPath, file.path),

    async *sweep({ olderThanMs, deep = false }, context) {
      begin(context);
      for await (const name of executor.sweep({ olderThanMs, deep }, context)) {
        context.progress(0);
        yield name;
      }
    },

    errorCode: posixErrorFacts,

    async close() {
      closed = true;
      await executor.close();
    },
  };
}

// ---------- commands ----------

type BatchCommand = DownloadCommand | UploadCommand | MoveCommand | CopyCommand | DeleteCommand;

function temporaryName(context: OperationContext, index?: number): string {
  return index === undefined ? `${RESERVED_PREFIX}-${context.temporaryId}` : `${RESERVED_PREFIX}-${context.temporaryId}-${index}`;
}

function policyOf(context: OperationContext): Pick<UploadCommand, "ifExists" | "durability" | "checksum"> {
  return { ifExists: context.ifExists, durability: context.durability, checksum: context.checksum };
}

function downloadCommand({ file, localPath, partial = false }: ParsedDownload, context: OperationContext, index?: number): DownloadCommand {
  return { verb: "download", file, localPath, partial, ...policyOf(context), temporaryName: temporaryName(context, index) };
}

function uploadCommand({ file, localPath }: ParsedUpload, context: OperationContext, index?: number): UploadCommand {
  return { verb: "upload", file, localPath, ...policyOf(context), temporaryName: temporaryName(context, index) };
}

function moveCommand({ file, newPath }: ParsedMove, context: OperationContext, index?: number): MoveCommand {
  return { verb: "move", file, newPath, ...policyOf(context), temporaryName: temporaryName(context, index) };
}

function deleteCommand(file: StoredFile, context: OperationContext): DeleteCommand {
  return { verb: "delete", file, durability: context.durability };
}

function hooksOf(context: OperationContext, indexes: readonly number[] | undefined): PosixHooks {
  if (indexes === undefined) return context;
  return { signal: context.signal, progress: (bytes, index) => context.progress(bytes, index === undefined ? undefined : indexes[index]) };
}

/** Takes out of a batch what has a segment that no file system takes: each such item fails alone. */
function refuseLongNames<C extends BatchCommand>(
  commands: readonly C[],
): { runnable: readonly C[]; indexes: readonly number[] | undefined; refused: { index: number; ok: false; error: unknown }[] } {
  const refused: { index: number; ok: false; error: unknown }[] = [];
  for (const [index, command] of commands.entries()) {
    try {
      assertSegmentLengths(command.file.path);
      if ("newPath" in command) assertSegmentLengths(command.newPath);
    } catch (error) {
      refused.push({ index, ok: false, error });
    }
  }
  if (refused.length === 0) return { runnable: commands, indexes: undefined, refused };
  const bad = new Set(refused.map(({ index }) => index));
  const indexes = commands.map((_, index) => index).filter((index) => !bad.has(index));
  return { runnable: indexes.map((index) => commands[index]!), indexes, refused };
}

// ---------- bandwidth ----------

/** The kernel copies at its own pace: the bandwidth is paid for afterwards, which holds back what comes next. */
async function throttled(transfer: Promise<TransferDetails>, context: OperationContext): Promise<TransferDetails> {
  const details = await transfer;
  if (details.method !== "link" && details.method !== "reflink" && details.method !== "rename") await payBandwidth(details.bytes, context);
  return details;
}

/** An abort ends the wait, not more: the file is stored, and its outcome must say so. */
function payBandwidth(bytes: number, context: OperationContext): Promise<void> {
  return context.throttle(bytes).catch(() => undefined);
}

function throttleReader(reader: FileReader, context: OperationContext): FileReader {
  return {
    file: reader.file,
    size: reader.size,
    modified: reader.modified,
    localPath: reader.localPath,
    async *[Symbol.asyncIterator]() {
      for await (const chunk of reader) {
        await context.throttle(chunk.length);
        yield chunk;
      }
    },
    close: () => reader.close(),
  };
}

function throttleWriter(writer: FileWriter, context: OperationContext): FileWriter {
  return {
    async write(chunk) {
      await context.throttle(chunk.length);
      await writer.write(chunk);
    },
    commit: () => writer.commit(),
    abort: (reason) => writer.abort(reason),
  };
}
