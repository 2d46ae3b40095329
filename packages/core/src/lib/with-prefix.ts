import type { BatchResult, Broker, FileReader, FileWriter, TransferDetails } from "./broker.ts";
import type { BrokerMethod, BrokerMethodName } from "./broker-methods.ts";
import { escapePath, isFilePath, parseDirectoryPath } from "./file-path.ts";
import type { FileDetails, FilePath, StoredFile } from "./files.ts";
import { StowageError } from "./stowage-error.ts";
import { wrapBroker } from "./wrap-broker.ts";
import { classifyError } from "./wrap-error.ts";

type Around<Name extends BrokerMethodName> = (
  next: BrokerMethod<Name>,
  ...parameters: Parameters<BrokerMethod<Name>>
) => ReturnType<BrokerMethod<Name>>;

/**
 * The part of `broker` below the directory `prefix`, as a broker: its paths, those of its results, listings and errors are relative
 * to that directory. What the broker reports from outside it is refused; in a listing, it goes to `onProblem`.
 *
 * It has no `sweep`, whose records and temporary files are those of the whole: sweep `broker` itself.
 */
export function withPrefix(broker: Broker, prefix: string): Broker {
  const directory = parseDirectoryPath(prefix);
  if (directory === "") return broker;
  const start = `${directory}/`;

  const outerPath = (path: string): FilePath => {
    const outer = path.slice(start.length);
    if (path.startsWith(start) && isFilePath(outer)) return outer;
    throw new StowageError(
      `the broker reported "${escapePath(path)}", which is outside "${escapePath(directory)}"; it is ignored, and the broker is at fault`,
      { code: "INVALID_PATH" },
    );
  };
  const innerPath = (path: FilePath): FilePath => `${start}${path}` as FilePath;
  const innerFile = (file: StoredFile): StoredFile => ({ ...file, path: innerPath(file.path) });
  const outerFile = (file: StoredFile): StoredFile => ({ ...file, path: outerPath(file.path) });
  const outerTransfer = (transfer: TransferDetails): TransferDetails => ({ ...transfer, file: outerFile(transfer.file) });
  const outerDetails = (details: FileDetails): FileDetails => ({ ...details, file: outerFile(details.file) });

  const cut = (name: string): string => (name.startsWith(start) ? name.slice(start.length) : name);
  const outerError = (error: unknown): unknown => {
    if (typeof error !== "object" || error === null) return error;
    const { message, file, leftovers } = error as { message?: unknown; file?: unknown; leftovers?: unknown };
    const text = typeof message === "string" ? message : String(error);
    const outerText = text.replaceAll(`"${escapePath(start)}`, '"');
    const names = Array.isArray(leftovers) ? leftovers.map(String) : [];
    const isOurs = (typeof file === "string" && file.startsWith(start)) || names.some((name) => name.startsWith(start));
    if (!isOurs && outerText === text) return error;
    return new StowageError(outerText, {
      ...classifyError(error, broker),
      file: typeof file === "string" ? cut(file) : undefined,
      leftovers: names.map(cut),
      cause: error,
    });
  };
  const attempt = async <T>(run: () => Promise<T>): Promise<T> => {
    try {
      return await run();
    } catch (error) {
      throw outerError(error);
    }
  };
  async function* eachResult<Inner, Outer>(
    results: AsyncIterable<BatchResult<Inner>>,
    map: (value: Inner) => Outer,
  ): AsyncGenerator<BatchResult<Outer>> {
    try {
      for await (const result of results) {
        let mapped: BatchResult<Outer>;
        try {
          mapped = result.ok ? { ...result, value: map(result.value) } : { ...result, error: outerError(result.error) };
        } catch (error) {
          mapped = { index: result.index, ok: false, error };
        }
        yield mapped;
      }
    } catch (error) {
      throw outerError(error);
    }
  }

  // Complete, so that a new method cannot let inner paths through.
  const methods: { readonly [Name in Exclude<BrokerMethodName, "close" | "sweep">]: Around<Name> } = {
    downloadFile: (next, download, context) =>
      attempt(async () => outerTransfer(await next({ ...download, file: innerFile(download.file) }, context))),
    uploadFile: (next, upload, context) =>
      attempt(async () => outerTransfer(await next({ ...upload, file: innerFile(upload.file) }, context))),
    moveFile: (next, move, context) =>
      attempt(async () => outerTransfer(await next({ file: innerFile(move.file), newPath: innerPath(move.newPath) }, context))),
    copyFile: (next, copy, context) =>
      attempt(async () => outerTransfer(await next({ file: innerFile(copy.file), newPath: innerPath(copy.newPath) }, context))),
    deleteFile: (next, file, context) => attempt(() => next(innerFile(file), context)),
    statFile: (next, file, context) =>
      attempt(async () => {
        const details = await next(innerFile(file), context);
        return details && outerDetails(details);
      }),
    async *listFiles(next, listed, options, context) {
      try {
        const inner = next(
          listed === "" ? directory : innerPath(listed),
          {
            recursive: options.recursive,
            startAfter: options.startAfter && innerPath(options.startAfter),
            onProblem: (problem) => options.onProblem({ path: cut(problem.path), error: outerError(problem.error) }),
          },
          context,
        );
        for await (const details of inner) {
          let outer: FileDetails;
          try {
            outer = outerDetails(details);
          } catch (error) {
            options.onProblem({ path: escapePath(details.file.path), error });
            continue;
          }
          yield outer;
        }
      } catch (error) {
        throw outerError(error);
      }
    },
    errorCode: (_next, error) => classifyError(error, broker),
    getFileSystemPath: (next, file) => next(innerFile(file)),
    downloadFiles: (next, downloads, context) =>
      eachResult(
        next(
          downloads.map((download) => ({ ...download, file: innerFile(download.file) })),
          context,
        ),
        outerTransfer,
      ),
    uploadFiles: (next, uploads, context) =>
      eachResult(
        next(
          uploads.map((upload) => ({ ...upload, file: innerFile(upload.file) })),
          context,
        ),
        outerTransfer,
      ),
    moveFiles: (next, moves, context) =>
      eachResult(
        next(
          moves.map((move) => ({ file: innerFile(move.file), newPath: innerPath(move.newPath) })),
          context,
        ),
        outerTransfer,
      ),
    deleteFiles: (next, files, context) => eachResult(next(files.map(innerFile), context), (deletion) => deletion),
    openRead: (next, file, options, context) =>
      attempt(async () => {
        const reader = await next(innerFile(file), options, context);
        try {
          return outerReader(reader, outerFile, outerError);
        } catch (error) {
          await reader.close();
          throw error;
        }
      }),
    openWrite: (next, file, options, context) =>
      attempt(async () => {
        const writer = await next(innerFile(file), options, context);
        const outer: FileWriter = {
          write: (chunk) => attempt(() => writer.write(chunk)),
          commit: () => attempt(async () => outerTransfer(await writer.commit())),
          abort: (reason) => writer.abort(reason),
        };
        return outer;
      }),
    createSignedUrl: (next, file, options, context) => attempt(() => next(innerFile(file), options, context)),
  };
  const { sweep: _none, ...part } = wrapBroker(broker, { methods });
  return part;
}

function outerReader(reader: FileReader, outerFile: (file: StoredFile) => StoredFile, outerError: (error: unknown) => unknown): FileReader {
  return {
    file: outerFile(reader.file),
    size: reader.size,
    modified: reader.modified,
    localPath: reader.localPath,
    async *[Symbol.asyncIterator]() {
      try {
        yield* reader;
      } catch (error) {
        throw outerError(error);
      }
    },
    close: () => reader.close(),
  };
}
