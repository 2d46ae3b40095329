import {
  type ByteRange,
  type FileReader,
  type FileWriter,
  type OperationContext,
  type StoredFile,
  StowageError,
  type TransferDetails,
} from "@stowage/core/broker";
import { attributesOf, modifiedOf } from "./attributes.ts";
import { assertDigest, assertPromisedSize, createDigesters, etagDigest, wantedAlgorithms } from "./content-check.ts";
import { assertBucket } from "./download.ts";
import { fetchRange } from "./fetch-range.ts";
import { type OpenUpload, openUpload } from "./multipart.ts";
import { notFound, type Session, storedFile, versionCondition } from "./session.ts";
import { completeParts, findOwn, PartList, putWhole, sendPart, type Upload } from "./upload.ts";

/** Opens an object for reading. Connections that break are taken up again where they broke; every byte comes from one state of the object. */
export async function openReader(
  session: Session,
  file: StoredFile,
  range: ByteRange | undefined,
  context: OperationContext,
): Promise<FileReader> {
  const key = session.keys.keyOf(file.path);
  const { versionId, ifMatch } = versionCondition(file);
  const info = await session.store.head(key, { signal: context.signal, versionId });
  if (info === undefined) {
    await assertBucket(session, context);
    throw notFound(file);
  }
  if (ifMatch !== undefined && info.etag !== ifMatch) {
    throw new StowageError("the object has another version by now", { code: "SOURCE_CHANGED", file: file.path });
  }
  const start = Math.min(Math.max(0, range?.start ?? 0), info.size);
  const end = Math.min(Math.max(start, range?.end ?? info.size), info.size);
  const isWhole = start === 0 && end === info.size;
  if (range === undefined) assertPromisedSize(file, info.size);
  const stored = storedFile(file, info, session);
  const known = context.checksum === "none" ? undefined : (etagDigest(info, session.settings.etag) ?? stored.digest);
  const state = { key, etag: info.etag, versionId: versionId ?? info.versionId };
  const stop = new AbortController();
  const onAbort = (): void => stop.abort(context.signal.reason);
  if (context.signal.aborted) onAbort();
  else context.signal.addEventListener("abort", onAbort, { once: true });
  const close = (): void => {
    context.signal.removeEventListener("abort", onAbort);
    if (!stop.signal.aborted) stop.abort(new StowageError("this reader is closed", { code: "CLOSED", file: file.path }));
  };

  return {
    file: stored,
    size: end - start,
    modified: modifiedOf(info),
    async *[Symbol.asyncIterator]() {
      const algorithms = new Set([file.digest, known].flatMap((digest) => (digest === undefined ? [] : [digest.algorithm])));
      const digesters = isWhole ? createDigesters(algorithms) : undefined;
      try {
        for await (const chunk of fetchRange(session.store, state, { start, end }, context, stop.signal)) {
          digesters?.update(chunk);
          context.progress(chunk.length);
          yield chunk;
        }
        if (digesters === undefined) return;
        assertDigest(file, digesters.end(), file.digest);
        assertDigest(file, digesters.end(), known, { retryable: true });
      } finally {
        close();
      }
    },
    async close() {
      close();
    },
  };
}

/** Parts of a stream grow after so many, since its length is not known: 10,000 parts that begin with 8 MiB reach 2.5 TiB. */
const GROWTH_STEP = 1_000;
const LARGEST_STREAM_PART = 512 * 1024 * 1024;

/** Stores an object from a stream: kept in memory up to the size of one part, sent in parts beyond it. */
export async function openWriter(
  session: Session,
  file: StoredFile,
  options: { readonly size?: number | undefined; readonly modified?: Date | undefined },
  context: OperationContext,
): Promise<FileWriter> {
  if (options.size !== undefined && file.size !== undefined && options.size !== file.size) {
    throw new StowageError(`two sizes were promised: ${file.size} and ${options.size}`, { code: "INVALID_ARGUMENT", file: file.path });
  }
  const promised: StoredFile = { ...file, size: file.size ?? options.size };
  const itemId = context.itemId ?? context.temporaryId;
  const upload: Upload = {
    session,
    context,
    file: promised,
    key: session.keys.keyOf(file.path),
    attributes: attributesOf(file, { modified: options.modified, itemId }),
    itemId,
  };
  if (context.ifExists !== "replace") await findOwn(upload);
  return new S3Writer(upload);
}

class S3Writer implements FileWriter {
  readonly #upload: Upload;
  readonly #digesters: ReturnType<typeof createDigesters>;
  readonly #parts = new PartList();
  #room: Disposable | undefined;
  #buffer: Buffer | undefined;
  #filled = 0;
  #written = 0;
  #count = 0;
  #open: OpenUpload | undefined;
  #ended = false;

  constructor(upload: Upload) {
    this.#upload = upload;
    this.#digesters = createDigesters([...wantedAlgorithms(upload.file, upload.context.checksum)]);
  }

  async write(chunk: Uint8Array): Promise<void> {
    this.#assertAlive();
    const { context, file } = this.#upload;
    if (file.size !== undefined && this.#written + chunk.length > file.size) assertPromisedSize(file, this.#written + chunk.length);
    await context.throttle(chunk.length);
    this.#digesters.update(chunk);
    this.#written += chunk.length;
    for (let offset = 0; offset < chunk.length; ) {
      const buffer = await this.#currentBuffer();
      if (this.#filled === buffer.length) {
        await this.#sendBuffer();
        continue;
      }
      const piece = chunk.subarray(offset, offset + buffer.length - this.#filled);
      buffer.set(piece, this.#filled);
      this.#filled += piece.length;
      offset += piece.length;
      context.progress(0);
    }
  }

  async commit(): Promise<TransferDetails> {
    this.#assertAlive();
    const { file } = this.#upload;
    try {
      assertPromisedSize(file, this.#written);
      if (this.#open === undefined)
        return await putWhole(this.#upload, this.#buffer?.subarray(0, this.#filled) ?? Buffer.alloc(0), this.#digesters.end());
      if (this.#filled > 0) await this.#sendBuffer();
      const digests = this.#digesters.end().filter(({ algorithm }) => algorithm !== "crc32");
      const details = await completeParts(this.#upload, this.#open.uploadId, this.#parts, digests);
      await this.#open.end();
      return details;
    } catch (error) {
      await this.#open?.abort(error);
      throw error;
    } finally {
      this.#release();
    }
  }

  async abort(reason: unknown): Promise<void> {
    if (this.#ended) return;
    const open = this.#open;
    this.#release();
    await open?.abort(reason);
  }

  async #currentBuffer(): Promise<Buffer> {
    if (this.#buffer !== undefined) return this.#buffer;
    const { session, context, file } = this.#upload;
    const size = Math.max(1, Math.min(session.settings.partSizeBytes, file.size ?? Number.POSITIVE_INFINITY));
    this.#room ??= await context.reserve(size);
    this.#buffer = Buffer.allocUnsafeSlow(size);
    return this.#buffer;
  }

  async #sendBuffer(): Promise<void> {
    const { session, context, key, attributes } = this.#upload;
    this.#open ??= await openUpload(session, key, attributes, context);
    const body = (this.#buffer as Buffer).subarray(0, this.#filled);
    const part = await sendPart(this.#upload, this.#open.uploadId, ++this.#count, body, context.signal);
    this.#parts.add(part, body.length);
    this.#filled = 0;
    await this.#open.touch(context.signal);
    if (this.#count % GROWTH_STEP !== 0) return;
    // One buffer is let go before the next is asked for: nobody waits for memory while holding some.
    this.#buffer = undefined;
    this.#room?.[Symbol.dispose]();
    const size = Math.min(session.settings.partSizeBytes * (1 + this.#count / GROWTH_STEP) ** 2, LARGEST_STREAM_PART);
    this.#room = await context.reserve(size);
    this.#buffer = Buffer.allocUnsafeSlow(size);
  }

  #assertAlive(): void {
    const { context, file } = this.#upload;
    if (this.#ended) throw new StowageError("this writer has ended", { code: "CLOSED", file: file.path });
    context.signal.throwIfAborted();
  }

  #release(): void {
    this.#ended = true;
    this.#room?.[Symbol.dispose]();
    this.#room = undefined;
    this.#buffer = undefined;
  }
}
