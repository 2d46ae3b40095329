import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { FileReader, FileWriter, OperationContext, TransferDetails } from "./broker.ts";
import { createDigester, sameDigest } from "./digest.ts";
import { escapePath } from "./file-path.ts";
import type { Digest, DigestAlgorithm, FilePath, StoredFile, Verification } from "./files.ts";
import type { Limits } from "./limits.ts";
import { StowageError } from "./stowage-error.ts";
import type { WorkspaceRuntime } from "./workspace-runtime.ts";

/** One file on its way from one workspace to another (or to another place in the same). */
export interface ParsedTransfer {
  readonly file: StoredFile;
  readonly newPath: FilePath;
}

export interface TransferRoute {
  readonly source: WorkspaceRuntime;
  readonly target: WorkspaceRuntime;
  /** What the transfer is held to. */
  readonly limits: Limits;
}

/**
 * Takes the cheapest way that both sides can: a copy inside one workspace; the target's upload from the reader's open file (a kernel copy or
 * reflink between mounted workspaces); a stream; at last a detour through a temporary file.
 */
export async function transferFile(route: TransferRoute, transfer: ParsedTransfer, context: OperationContext): Promise<TransferDetails> {
  const { source, target } = route;
  const { file, newPath } = transfer;
  if (source.broker === target.broker && target.broker.copyFile !== undefined) return target.broker.copyFile({ file, newPath }, context);

  const streams = target.broker.openWrite !== undefined;
  if (source.broker.openRead === undefined || !(streams || source.broker.getFileSystemPath !== undefined))
    return spool(route, transfer, context);

  const reader = await fromSource(route, file, () => source.broker.openRead!(file, {}, readContext(route, context)));
  try {
    if (reader.localPath !== undefined) {
      const upload = { file: describeTarget(transfer, reader.file, reader.size, file.digest), localPath: reader.localPath };
      return await target.broker.uploadFile(upload, context);
    }
    if (streams) return await stream(route, transfer, reader, context);
  } finally {
    await reader.close().catch((error: unknown) => {
      source.log("warn", "a reader could not be closed", { file: file.path, error: String(error) });
    });
  }
  return spool(route, transfer, context);
}

/** Errors of the source name the source, and are classified by its broker. */
async function fromSource<T>({ source }: TransferRoute, file: StoredFile, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw source.wrap(error, "read", file.path);
  }
}

/** Bytes are counted where they are written. */
function readContext({ source }: TransferRoute, context: OperationContext): OperationContext {
  return {
    ...context,
    ifExists: "replace",
    durability: "process",
    journal: source.journal,
    log: source.log,
    progress: () => context.progress(0),
  };
}

/** For bytes that were held back where they were read. */
function unthrottled(context: OperationContext): OperationContext {
  return { ...context, throttle: async () => undefined, bytesPerSecond: undefined };
}

function describeTarget({ file, newPath }: ParsedTransfer, found: StoredFile, size: number, digest: Digest | undefined): StoredFile {
  return { path: newPath, size, digest, mediaType: file.mediaType ?? found.mediaType, metadata: file.metadata ?? found.metadata };
}

// ---------- stream ----------

async function stream(
  route: TransferRoute,
  transfer: ParsedTransfer,
  reader: FileReader,
  context: OperationContext,
): Promise<TransferDetails> {
  const { target } = route;
  const { file } = transfer;
  const expected = file.digest ?? reader.file.digest;
  const check = checkStream(file, expected, context.checksum);
  const writeContext: OperationContext = { ...unthrottled(context), progress: () => context.progress(0) };
  const stored = describeTarget(transfer, reader.file, reader.size, expected);
  const writer = await target.broker.openWrite!(stored, { size: reader.size, modified: reader.modified }, writeContext);

  let bytes = 0;
  try {
    bytes = await pump(route, file, reader, writer, context, (chunk) => check.update(chunk));
    if (bytes !== reader.size) {
      const problem = `"${escapePath(file.path)}" gave ${bytes} bytes where ${reader.size} were announced`;
      throw new StowageError(problem, { code: bytes < reader.size ? "SHORT_SOURCE" : "SOURCE_CHANGED", file: file.path });
    }
    check.end();
  } catch (error) {
    await writer.abort(error);
    throw error;
  }
  const details = await writer.commit();
  const sent = check.end().find((digest) => sameDigest(digest, details.digest) === false);
  if (sent === undefined) return details;
  // What is stored is not what was read. The source is whole: take the damaged copy away.
  await target.broker.deleteFile({ path: transfer.newPath }, context);
  throw new StowageError(
    `the ${sent.algorithm} of what was stored is ${details.digest?.value}, that of what was sent is ${sent.value}; the copy was removed`,
    { code: "CHECKSUM_MISMATCH", file: transfer.newPath },
  );
}

/** Reads the next chunk while one is being written, where the memory budget has room for it. */
async function pump(
  route: TransferRoute,
  file: StoredFile,
  reader: FileReader,
  writer: FileWriter,
  context: OperationContext,
  onChunk: (chunk: Uint8Array) => void,
): Promise<number> {
  const iterator = reader[Symbol.asyncIterator]();
  const next = (): Promise<IteratorResult<Uint8Array>> => fromSource(route, file, () => iterator.next());
  let bytes = 0;
  let ahead: Promise<IteratorResult<Uint8Array>> | undefined;
  let room: Disposable | undefined;
  let finished = false;
  try {
    for (;;) {
      const result = await (ahead ?? next());
      ahead = undefined;
      if (result.done === true) break;
      const chunk = result.value;
      bytes += chunk.length;
      if (bytes < reader.size) {
        room ??= await tryReserve(route.limits, chunk.length);
        if (room !== undefined) {
          ahead = next();
          // Awaited in the next round, unless writing fails first.
          ahead.catch(() => undefined);
        }
      }
      onChunk(chunk);
      await writer.write(chunk);
      context.progress(chunk.length);
    }
    finished = true;
    return bytes;
  } finally {
    room?.[Symbol.dispose]();
    if (!finished) {
      await ahead?.catch(() => undefined);
      await iterator.return?.().catch(() => undefined);
    }
  }
}

/**
 * Takes memory only if it is free now. To wait for it here would be to hold what brokers wait for: every transfer would hold some and wait for more.
 */
async function tryReserve(limits: Limits, bytes: number): Promise<Disposable | undefined> {
  const controller = new AbortController();
  let held: Disposable | undefined;
  let late = false;
  const asked = limits.reserve(bytes, controller.signal).then(
    (room) => {
      if (late) room[Symbol.dispose]();
      else held = room;
    },
    () => undefined,
  );
  await Promise.race([asked, new Promise((resolve) => setImmediate(resolve))]);
  late = true;
  if (held === undefined) controller.abort();
  return held;
}

interface StreamCheck {
  update(chunk: Uint8Array): void;
  /** The digests of what flowed; throws when it is not what was expected. May be called again. */
  end(): readonly Digest[];
}

function checkStream(file: StoredFile, expected: Digest | undefined, checksum: OperationContext["checksum"]): StreamCheck {
  const algorithms = new Set<DigestAlgorithm>();
  if (checksum !== "none" && checksum !== "auto") algorithms.add(checksum);
  if (expected !== undefined && (checksum !== "none" || file.digest !== undefined)) algorithms.add(expected.algorithm);
  // Costs next to nothing, and is what most targets report.
  if (checksum === "auto" && algorithms.size === 0) algorithms.add("crc32");
  const digesters = [...algorithms].map((algorithm) => createDigester(algorithm));
  let digests: readonly Digest[] | undefined;
  return {
    update(chunk) {
      for (const digester of digesters) digester.update(chunk);
    },
    end() {
      digests ??= digesters.map((digester) => digester.digest());
      for (const digest of digests) {
        if (sameDigest(digest, expected) !== false) continue;
        throw new StowageError(
          `"${escapePath(file.path)}" has the ${digest.algorithm} ${digest.value} where ${expected?.value} was promised`,
          { code: "CHECKSUM_MISMATCH", file: file.path },
        );
      }
      return digests;
    },
  };
}

// ---------- detour ----------

const STRENGTH: readonly Verification[] = ["none", "length", "digest"];

async function spool(route: TransferRoute, transfer: ParsedTransfer, context: OperationContext): Promise<TransferDetails> {
  const { source, target } = route;
  const { file } = transfer;
  const directory = await mkdtemp(join(tmpdir(), "stowage-"));
  try {
    const localPath = join(directory, "file");
    const fetched = await fromSource(route, file, () => source.broker.downloadFile({ file, localPath }, readContext(route, context)));
    const upload = { file: describeTarget(transfer, fetched.file, fetched.bytes, file.digest ?? fetched.digest), localPath };
    const details = await target.broker.uploadFile(upload, unthrottled(context));
    // The chain is as strong as its weaker part.
    const verified = STRENGTH[Math.min(STRENGTH.indexOf(fetched.verified), STRENGTH.indexOf(details.verified))] ?? "none";
    return { ...details, verified, digest: verified === "digest" ? details.digest : undefined };
  } finally {
    await rm(directory, { recursive: true, force: true }).catch((error: unknown) => {
      target.log("warn", "a temporary directory could not be removed", { directory, error: String(error) });
    });
  }
}
