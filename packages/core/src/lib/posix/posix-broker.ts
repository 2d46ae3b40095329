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
import type {
  CopyCommand,
  DeleteCommand,
  DownloadCommand,
  MoveCommand,
  PosixHooks,
  PosixResult,
  PosixVolume,
  UploadCommand,
} from "./posix-commands.ts";
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

  async function* runBatch<C extends BatchCommand, T>(commands: readonly C[], context: OperationContext): AsyncGenerator<BatchResult<T>> {
    if (closed) throw new StowageError("this broker is closed", { code: "CLOSED" });
    context.signal.throwIfAborted();
    const { runnable, indexes, refused } = refuseLongNames(commands);
    yield* refused;
    if (context.bytesPerSecond !== undefined) {
      yield* runOneByOne<C, T>(runnable, indexes, context);
      return;
    }
    // What a command gives is fixed by its verb; the compiler loses that through the generic parameter.
    for await (const result of executor.runBatch<C>(runnable, hooksOf(context, indexes)) as AsyncIterable<BatchResult<T>>) {
      yield indexes === undefined ? result : { ...result, index: indexes[result.index]! };
    }
  }

  /** One after the other, so that nothing runs ahead of the bandwidth limit. */
  async function* runOneByOne<C extends BatchCommand, T>(
    commands: readonly C[],
    indexes: readonly number[] | undefined,
    context: OperationContext,
  ): AsyncGenerator<BatchResult<T>> {
    for (const [position, command] of commands.entries()) {
      const index = indexes?.[position] ?? position;
      try {
        yield { index, ok: true, value: (await runLimited(executor, command, context, index)) as T };
      } catch (error) {
        yield { index, ok: false, error };
      }
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
      return runLimited(executor, downloadCommand(download, context), context);
    },
    async uploadFile(upload, context) {
      begin(context, upload.file.path);
      return runLimited(executor, uploadCommand(upload, context), context);
    },
    async moveFile(move, context) {
      begin(context, move.file.path, move.newPath);
      return runLimited(executor, moveCommand(move, context), context);
    },
    async copyFile(copy, context) {
      begin(context, copy.file.path, copy.newPath);
      return runLimited(executor, { ...moveCommand(copy, context), verb: "copy" }, context);
    },
    async deleteFile(file, context) {
      begin(context, file.path);
      return executor.run(deleteCommand(file, context), hooksOf(context, undefined));
    },
    async statFile(file, context) {
      begin(context, file.path);
      return executor.run({ verb: "stat", file }, hooksOf(context, undefined));
    },

    downloadFiles: (downloads: readonly ParsedDownload[], context: OperationContext) =>
      runBatch<DownloadCommand, TransferDetails>(
        downloads.map((download, index) => downloadCommand(download, context, index)),
        context,
      ),
    uploadFiles: (uploads: readonly ParsedUpload[], context: OperationContext) =>
      runBatch<UploadCommand, TransferDetails>(
        uploads.map((upload, index) => uploadCommand(upload, context, index)),
        context,
      ),
    moveFiles: (moves: readonly ParsedMove[], context: OperationContext) =>
      runBatch<MoveCommand, TransferDetails>(
        moves.map((move, index) => moveCommand(move, context, index)),
        context,
      ),
    deleteFiles: (files: readonly StoredFile[], context: OperationContext) =>
      runBatch<DeleteCommand, Deletion>(
        files.map((file) => deleteCommand(file, context)),
        context,
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
  // Without `throttle`: there is a limit only where it is handed on by name.
  if (indexes === undefined) return { signal: context.signal, progress: context.progress };
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

/**
 * Runs a command within the bandwidth limit. Large files wait for it piece by piece; what was copied otherwise (small files, work in children) is paid for
 * afterwards, which holds back what comes next.
 */
async function runLimited<C extends BatchCommand>(
  executor: OpenedPosixExecutor,
  command: C,
  context: OperationContext,
  index?: number,
): Promise<PosixResult<C>> {
  if (context.bytesPerSecond === undefined) return executor.run(command, hooksOf(context, undefined));
  let paid = 0;
  const result = await executor.run(command, {
    signal: context.signal,
    progress: (bytes) => context.progress(bytes, index),
    async throttle(bytes) {
      await context.throttle(bytes);
      paid += bytes;
    },
  });
  const owed = movedBytes(result) - paid;
  // An abort ends the wait, not more: the file is stored, and its outcome must say so.
  if (owed > 0) await context.throttle(owed).catch(() => undefined);
  return result;
}

function movedBytes(result: PosixResult<BatchCommand>): number {
  if (typeof result !== "object" || !("method" in result)) return 0;
  return result.method === "copy" || result.method === "stream" ? result.bytes : 0;
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
