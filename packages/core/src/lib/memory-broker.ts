import * as z from "zod";
import type {
  BatchResult,
  Broker,
  Deletion,
  ErrorFacts,
  FileReader,
  FileWriter,
  ListOptions,
  OperationContext,
  ParsedDownload,
  ParsedMove,
  ParsedUpload,
  TransferDetails,
} from "./broker.ts";
import { type BrokerDefinition, defineBroker } from "./broker-definition.ts";
import { createDigester, type Digester, sameDigest } from "./digest.ts";
import type { StowageErrorCode } from "./error-codes.ts";
import { escapePath } from "./file-path.ts";
import type { ByteRange, Digest, DigestAlgorithm, FileDetails, FilePath, StoredFile, TransferMethod } from "./files.ts";
import { assertUnchanged, openLocalSource, publishLocalFile } from "./local-file.ts";
import { processWide } from "./registry.ts";
import { StowageError } from "./stowage-error.ts";
import { systemErrorCode } from "./system-error.ts";

export interface MemoryBrokerConfig {
  /**
   * Workspaces with the same name hold the same files, in this process and until it ends, whichever copy of this package opened
   * them. Without a name each opened broker has files of its own, which end with it.
   */
  readonly name?: string | undefined;
}

/** A broker that keeps files in memory; it can all that the contract knows, but for paths and URLs. */
export type MemoryBroker = Broker & Required<Omit<Broker, "getFileSystemPath" | "createSignedUrl">>;

const config: z.ZodType<MemoryBrokerConfig, MemoryBrokerConfig> = z.strictObject({ name: z.string().min(1).optional() });

/** The broker type `memory`: for tests, examples, and as the reference of the contract. */
export const memoryBroker: BrokerDefinition<"memory", MemoryBrokerConfig> = defineBroker({
  type: "memory",
  config,
  open: async ({ name }) => createMemoryBroker({ name }),
});

/**
 * Opens a broker that keeps files in memory. Directories exist only as parts of paths, as in an object store. Listings are sorted
 * by the bytes of the path. A file's digest is its CRC32, or what `checksum` asked for when it was stored.
 */
export function createMemoryBroker(options: MemoryBrokerConfig = {}): MemoryBroker {
  const store = options.name === undefined ? createStore() : sharedStore(options.name);
  let closed = false;

  const begin = (context: OperationContext): void => {
    if (closed) throw new StowageError("this memory broker is closed", { code: "CLOSED" });
    context.signal.throwIfAborted();
  };

  const broker: MemoryBroker = {
    capabilities: { atomicReplace: true, ifAbsent: "exact" },

    async downloadFile({ file, localPath }, context) {
      begin(context);
      const entry = find(store, file);
      const check = checkBytes(file, context.checksum, entry.file.digest);
      await publishLocalFile(localPath, context, async (handle) => {
        for (const chunk of entry.chunks) {
          context.signal.throwIfAborted();
          await context.throttle(chunk.length);
          await handle.writeFile(chunk);
          check.update(chunk);
          context.progress(chunk.length);
        }
        check.end();
        return { modified: entry.modified };
      });
      return describe(entry, "stream", check.end());
    },

    async uploadFile({ file, localPath }, context) {
      begin(context);
      refuseExisting(store, file.path, context);
      const source = await openLocalSource(localPath);
      try {
        const check = checkBytes(file, storedAlgorithm(context));
        const chunks: Uint8Array[] = [];
        for (let position = 0; position < source.size; ) {
          context.signal.throwIfAborted();
          const length = Math.min(CHUNK_BYTES, source.size - position);
          await context.throttle(length);
          const room = await context.reserve(length);
          try {
            const { buffer, bytesRead } = await source.handle.read(new Uint8Array(length), 0, length, position);
            if (bytesRead === 0) break;
            const chunk = buffer.subarray(0, bytesRead);
            check.update(chunk);
            chunks.push(chunk);
            position += bytesRead;
            context.progress(bytesRead);
          } finally {
            room[Symbol.dispose]();
          }
        }
        await assertUnchanged(source.handle, source.stats);
        const proof = check.end();
        const entry = createEntry(file, chunks, source.modified, proof.digest);
        publish(store, entry, context);
        return describe(entry, "stream", proof);
      } finally {
        await source.handle.close();
      }
    },

    async moveFile({ file, newPath }, context) {
      begin(context);
      const { entry, moved, proof } = prepareMove(store, file, newPath, context);
      if (file.path === newPath) return describe(entry, "rename", proof);
      publish(store, moved, context);
      remove(store, file.path);
      return describe(moved, "rename", proof);
    },

    async copyFile({ file, newPath }, context) {
      begin(context);
      const { entry, moved, proof } = prepareMove(store, file, newPath, context);
      if (file.path === newPath) return describe(entry, "server-copy", proof);
      publish(store, moved, context);
      return describe(moved, "server-copy", proof);
    },

    async deleteFile(file, context) {
      begin(context);
      return remove(store, file.path) ? "deleted" : "missing";
    },

    async statFile(file, context) {
      begin(context);
      const entry = store.entries.get(file.path);
      return entry === undefined ? undefined : details(entry);
    },

    async *listFiles(directory: FilePath | "", options: ListOptions, context: OperationContext): AsyncGenerator<FileDetails> {
      begin(context);
      const prefix = directory === "" ? "" : `${directory}/`;
      // A snapshot: what changes meanwhile makes a new array.
      const paths = sortedPaths(store);
      const { startAfter } = options;
      let index = countBefore(paths, (path) => comparePaths(path, prefix) < 0);
      if (startAfter !== undefined) {
        index = Math.max(
          index,
          countBefore(paths, (path) => comparePaths(path, startAfter) <= 0),
        );
      }
      for (; index < paths.length; index++) {
        context.signal.throwIfAborted();
        const path = paths[index]!;
        if (!path.startsWith(prefix)) return;
        if (!options.recursive && path.includes("/", prefix.length)) continue;
        const entry = store.entries.get(path);
        if (entry !== undefined) yield details(entry);
      }
    },

    async openRead(file, { range }, context) {
      begin(context);
      const entry = find(store, file);
      if (range === undefined) assertSize(file, entry.file.size);
      return createReader(entry, file, range, context);
    },

    async openWrite(file, options, context) {
      begin(context);
      refuseExisting(store, file.path, context);
      return createWriter(store, file, options, context);
    },

    async *sweep({ olderThanMs }, context) {
      begin(context);
      for (const [name, unfinished] of [...store.unfinished]) {
        context.signal.throwIfAborted();
        if (Date.now() - unfinished.touched < olderThanMs) continue;
        store.unfinished.delete(name);
        yield name;
      }
    },

    downloadFiles: (downloads: readonly ParsedDownload[], context: OperationContext) =>
      eachInTurn(downloads, context, (download, inner) => broker.downloadFile(download, inner)),
    uploadFiles: (uploads: readonly ParsedUpload[], context: OperationContext) =>
      eachInTurn(uploads, context, (upload, inner) => broker.uploadFile(upload, inner)),
    moveFiles: (moves: readonly ParsedMove[], context: OperationContext) =>
      eachInTurn(moves, context, (move, inner) => broker.moveFile(move, inner)),
    deleteFiles: (files: readonly StoredFile[], context: OperationContext) =>
      eachInTurn<StoredFile, Deletion>(files, context, (file, inner) => broker.deleteFile(file, inner)),

    errorCode: classify,

    async close() {
      closed = true;
    },
  };
  return broker;
}

/** Bytes read from a local file at once, and kept together. */
const CHUNK_BYTES = 1024 * 1024;

// ---------- the store ----------

/** One state of a file; never changed, so a reader keeps what it opened. */
interface Entry {
  readonly file: StoredFile & { readonly size: number };
  readonly chunks: readonly Uint8Array[];
  readonly modified: Date;
}

interface Unfinished {
  /** `Date.now()` of the last write. */
  touched: number;
}

// Plain data: copies of this package share it.
interface Store {
  readonly entries: Map<FilePath, Entry>;
  readonly unfinished: Map<string, Unfinished>;
  /** Sorted keys of `entries`, made when they are asked for; `undefined` when names came or went since. */
  sorted: readonly FilePath[] | undefined;
}

function createStore(): Store {
  return { entries: new Map(), unfinished: new Map(), sorted: undefined };
}

function sharedStore(name: string): Store {
  const shared = processWide() as { memoryStores?: Map<string, Store> };
  shared.memoryStores ??= new Map();
  let store = shared.memoryStores.get(name);
  if (store === undefined) {
    store = createStore();
    shared.memoryStores.set(name, store);
  }
  return store;
}

function find(store: Store, file: StoredFile): Entry {
  const entry = store.entries.get(file.path);
  if (entry === undefined) throw new StowageError(`no such file: "${escapePath(file.path)}"`, { code: "FILE_NOT_FOUND", file: file.path });
  return entry;
}

function createEntry(file: StoredFile, chunks: readonly Uint8Array[], modified: Date, digest: Digest | undefined): Entry {
  const size = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  const { path, mediaType, metadata } = file;
  const stored = { path, size, digest, mediaType, metadata: metadata && Object.freeze({ ...metadata }) };
  return { file: Object.freeze(stored), chunks, modified };
}

function refuseExisting(store: Store, path: FilePath, context: OperationContext): void {
  if (context.ifExists !== "replace" && store.entries.has(path)) {
    throw new StowageError(`"${escapePath(path)}" exists already`, { code: "FILE_EXISTS", file: path });
  }
}

/** The one moment in which a file changes. Nothing may be awaited between its checks and its end. */
function publish(store: Store, entry: Entry, context: OperationContext): void {
  context.signal.throwIfAborted();
  refuseExisting(store, entry.file.path, context);
  if (!store.entries.has(entry.file.path)) store.sorted = undefined;
  store.entries.set(entry.file.path, entry);
}

function remove(store: Store, path: FilePath): boolean {
  const removed = store.entries.delete(path);
  if (removed) store.sorted = undefined;
  return removed;
}

function prepareMove(
  store: Store,
  file: StoredFile,
  newPath: FilePath,
  context: OperationContext,
): { entry: Entry; moved: Entry; proof: Proof } {
  const entry = find(store, file);
  if (file.path !== newPath) refuseExisting(store, newPath, context);
  const check = checkBytes(file, context.checksum === "auto" ? "none" : context.checksum);
  if (check.reads) for (const chunk of entry.chunks) check.update(chunk);
  else check.skip(entry.file.size);
  return { entry, moved: { ...entry, file: Object.freeze({ ...entry.file, path: newPath }) }, proof: check.end() };
}

function details(entry: Entry): FileDetails {
  return { file: entry.file, size: entry.file.size, modified: entry.modified };
}

function describe(entry: Entry, method: TransferMethod, proof: Proof): TransferDetails {
  return { file: entry.file, method, bytes: entry.file.size, ...proof };
}

// ---------- listing ----------

function sortedPaths(store: Store): readonly FilePath[] {
  store.sorted ??= [...store.entries.keys()].sort(comparePaths);
  return store.sorted;
}

/** By the bytes of UTF-8, as object stores do. UTF-16 units would put U+E000 to U+FFFF after what lies beyond. */
function comparePaths(left: string, right: string): number {
  const length = Math.min(left.length, right.length);
  for (let index = 0; index < length; index++) {
    const a = left.charCodeAt(index);
    const b = right.charCodeAt(index);
    if (a !== b) return isSurrogate(a) === isSurrogate(b) ? a - b : isSurrogate(a) ? 1 : -1;
  }
  return left.length - right.length;
}

function isSurrogate(unit: number): boolean {
  return unit >= 0xd800 && unit <= 0xdfff;
}

/** How many of the sorted `paths` are `before`. */
function countBefore(paths: readonly FilePath[], before: (path: FilePath) => boolean): number {
  let low = 0;
  let high = paths.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (before(paths[middle]!)) low = middle + 1;
    else high = middle;
  }
  return low;
}

// ---------- verification ----------

interface Proof {
  readonly digest?: Digest | undefined;
  readonly verified: TransferDetails["verified"];
}

interface Check {
  /** Whether any digest is wanted, so that the bytes must be seen. */
  readonly reads: boolean;
  update(chunk: Uint8Array): void;
  /** Counts bytes that need not be seen. */
  skip(bytes: number): void;
  /** Throws when the bytes are not what `file` or the store promised. May be called again. */
  end(): Proof;
}

/** What a new file's digest is made with. */
function storedAlgorithm(context: OperationContext): "none" | DigestAlgorithm {
  return context.checksum === "auto" ? "crc32" : context.checksum;
}

function assertSize(file: StoredFile, bytes: number): void {
  if (file.size === undefined || file.size === bytes) return;
  throw new StowageError(`"${escapePath(file.path)}" has ${bytes} bytes where ${file.size} were promised`, {
    code: bytes < file.size ? "SHORT_SOURCE" : "SOURCE_CHANGED",
    file: file.path,
  });
}

/** Checks bytes as they flow: against the size and digest that the caller gave, and against `stored`. */
function checkBytes(file: StoredFile, checksum: OperationContext["checksum"], stored?: Digest | undefined): Check {
  const expected = [file.digest, checksum === "none" ? undefined : stored].filter((digest) => digest !== undefined);
  const algorithms = new Set(expected.map((digest) => digest.algorithm));
  if (checksum !== "auto" && checksum !== "none") algorithms.add(checksum);
  const digesters: Digester[] = [...algorithms].map((algorithm) => createDigester(algorithm));
  let bytes = 0;
  let proof: Proof | undefined;

  const conclude = (): Proof => {
    assertSize(file, bytes);
    const digests = digesters.map((digester) => digester.digest());
    for (const promise of expected) {
      const found = digests.find((digest) => digest.algorithm === promise.algorithm);
      if (sameDigest(found, promise) === false) {
        throw new StowageError(
          `"${escapePath(file.path)}" has the ${promise.algorithm} ${found?.value} where ${promise.value} was promised`,
          { code: "CHECKSUM_MISMATCH", file: file.path },
        );
      }
    }
    const digest = digests.find((candidate) => candidate.algorithm === checksum) ?? digests[0];
    return digest === undefined ? { verified: "length" } : { digest, verified: "digest" };
  };

  return {
    reads: digesters.length > 0,
    update(chunk) {
      bytes += chunk.length;
      for (const digester of digesters) digester.update(chunk);
    },
    skip(count) {
      bytes += count;
    },
    end() {
      proof ??= conclude();
      return proof;
    },
  };
}

// ---------- streams ----------

function createReader(entry: Entry, file: StoredFile, range: ByteRange | undefined, context: OperationContext): FileReader {
  const start = Math.min(Math.max(0, range?.start ?? 0), entry.file.size);
  const end = Math.min(Math.max(start, range?.end ?? entry.file.size), entry.file.size);
  // A range cannot be held against the promises about the whole file, but for its size.
  const whole = start === 0 && end === entry.file.size;
  const check = whole ? checkBytes(file, context.checksum === "none" ? "none" : "auto", entry.file.digest) : undefined;
  let open = true;

  return {
    file: entry.file,
    size: end - start,
    modified: entry.modified,
    async *[Symbol.asyncIterator]() {
      let position = 0;
      for (const chunk of entry.chunks) {
        const from = Math.max(0, start - position);
        const to = Math.min(chunk.length, end - position);
        position += chunk.length;
        if (to <= from) continue;
        if (!open) throw new StowageError("this reader is closed", { code: "CLOSED", file: file.path });
        context.signal.throwIfAborted();
        await context.throttle(to - from);
        // A copy: what a reader does to its chunk must not change what is stored.
        const piece = new Uint8Array(chunk.subarray(from, to));
        check?.update(piece);
        context.progress(piece.length);
        yield piece;
      }
      check?.end();
    },
    async close() {
      open = false;
    },
  };
}

function createWriter(
  store: Store,
  file: StoredFile,
  options: { readonly size?: number | undefined; readonly modified?: Date | undefined },
  context: OperationContext,
): FileWriter {
  const name = `.stowage-${context.temporaryId}`;
  const promised: StoredFile = { ...file, size: file.size ?? options.size };
  const check = checkBytes(promised, storedAlgorithm(context));
  const unfinished: Unfinished = { touched: Date.now() };
  store.unfinished.set(name, unfinished);
  let chunks: Uint8Array[] = [];

  const assertAlive = (): void => {
    context.signal.throwIfAborted();
    if (store.unfinished.get(name) !== unfinished) {
      throw new StowageError("this writer has ended, or was swept because nothing was written for long", {
        code: "CLOSED",
        file: file.path,
      });
    }
    unfinished.touched = Date.now();
  };

  const release = (): void => {
    if (store.unfinished.get(name) === unfinished) store.unfinished.delete(name);
    chunks = [];
  };

  return {
    async write(chunk) {
      assertAlive();
      await context.throttle(chunk.length);
      // Not `slice`, which of a Buffer is no copy.
      const kept = new Uint8Array(chunk);
      check.update(kept);
      chunks.push(kept);
      context.progress(kept.length);
    },
    async commit() {
      try {
        assertAlive();
        if (options.size !== undefined && file.size !== undefined && options.size !== file.size) {
          throw new StowageError(`"${escapePath(file.path)}" was promised to have ${file.size} bytes and ${options.size} bytes`, {
            code: "INVALID_ARGUMENT",
            file: file.path,
          });
        }
        const proof = check.end();
        const entry = createEntry(file, chunks, options.modified ?? new Date(), proof.digest);
        publish(store, entry, context);
        return describe(entry, "stream", proof);
      } finally {
        release();
      }
    },
    async abort() {
      release();
    },
  };
}

// ---------- the rest ----------

async function* eachInTurn<Item, Value>(
  items: readonly Item[],
  context: OperationContext,
  run: (item: Item, context: OperationContext) => Promise<Value>,
): AsyncGenerator<BatchResult<Value>> {
  for (const [index, item] of items.entries()) {
    context.signal.throwIfAborted();
    const own: OperationContext = {
      ...context,
      temporaryId: `${context.temporaryId}-${index}`,
      progress: (bytes) => context.progress(bytes, index),
    };
    let result: BatchResult<Value>;
    try {
      result = { index, ok: true, value: await run(item, own) };
    } catch (error) {
      result = { index, ok: false, error };
    }
    yield result;
  }
}

function classify(error: unknown): StowageErrorCode | ErrorFacts {
  if (StowageError.is(error)) return { code: error.code, retryable: error.retryable, retryAfterMs: error.retryAfterMs };
  if (error instanceof Error && error.name === "AbortError") return "CANCELLED";
  if (error instanceof Error && error.name === "TimeoutError") return "TIMEOUT";
  return systemErrorCode(error) ?? "UNKNOWN";
}
