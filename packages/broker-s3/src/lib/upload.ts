import { createHash } from "node:crypto";
import {
  assertUnchanged,
  combineCrc32,
  type Digest,
  escapePath,
  type LocalSource,
  type OperationContext,
  openLocalSource,
  type ParsedUpload,
  type StoredFile,
  StowageError,
  type TransferDetails,
} from "@stowage/core/broker";
import { attributesOf, wasWrittenBy } from "./attributes.ts";
import { checksOf } from "./body-checks.ts";
import { assertDigest, assertPromisedSize, createDigesters, proofOf, wantedAlgorithms } from "./content-check.ts";
import { openUpload } from "./multipart.ts";
import type { CompletedPart, ObjectAttributes, ObjectInfo, Stored } from "./object-store.ts";
import { isPreconditionFailed, s3ErrorName, s3ErrorStatus } from "./s3-errors.ts";
import {
  cleanUpSignal,
  describeTransfer,
  fileExists,
  repeat,
  runLanes,
  type Session,
  seeThrough,
  storedFile,
  versionOf,
  withHeartbeat,
} from "./session.ts";

const MAXIMUM_PARTS = 10_000;
const MiB = 1024 * 1024;
/** Bytes that are read from the source at once; the bandwidth limit is asked before each. */
const READ_BYTES = MiB;

/** Stores a local file: in one piece up to the size of a part, in parts above. */
export async function uploadFile(session: Session, { file, localPath }: ParsedUpload, context: OperationContext): Promise<TransferDetails> {
  const key = session.keys.keyOf(file.path);
  const source = await openLocalSource(localPath);
  try {
    assertPromisedSize(file, source.size);
    const itemId = context.itemId ?? context.temporaryId;
    const attributes = attributesOf(file, { modified: source.modified, itemId });
    const upload: Upload = { session, context, file, key, attributes, itemId };
    return source.size <= session.settings.partSizeBytes ? await uploadWhole(upload, source) : await uploadInParts(upload, source);
  } finally {
    await source.handle.close();
  }
}

/** One object that is being stored. */
export interface Upload {
  readonly session: Session;
  readonly context: OperationContext;
  readonly file: StoredFile;
  readonly key: string;
  readonly attributes: ObjectAttributes;
  /** Known again in the metadata of what an earlier attempt stored. */
  readonly itemId: string;
}

async function uploadWhole(upload: Upload, source: LocalSource): Promise<TransferDetails> {
  const { context, file } = upload;
  const room = await context.reserve(source.size);
  try {
    const body = Buffer.allocUnsafeSlow(source.size);
    await fill(source, body, 0, context, context.signal);
    await assertUnchanged(source.handle, source.stats);
    const digesters = createDigesters(wantedAlgorithms(file, context.checksum));
    digesters.update(body);
    return await putWhole(upload, body, digesters.end());
  } finally {
    room[Symbol.dispose]();
  }
}

/** Stores `body` as one object, if the digests of it are what was promised. */
export async function putWhole(upload: Upload, body: Uint8Array, digests: readonly Digest[]): Promise<TransferDetails> {
  const { session, context, file, key } = upload;
  const { store, settings } = session;
  assertDigest(file, digests, file.digest);
  const checks = checksOf(body, settings);
  const mayNotReplace = context.ifExists !== "replace";
  const put = (ifAbsent: boolean): Promise<Stored> => {
    let sent = 0;
    const onSent = (bytes: number): void => {
      sent += bytes;
      context.progress(bytes);
    };
    return seeThrough(
      context.signal,
      () => sent >= body.length,
      (signal) => store.put(key, body, upload.attributes, { signal, checks, ifAbsent, onSent }),
      (signal) => headOwn(upload, signal),
    );
  };

  let stored: Stored;
  if (mayNotReplace && settings.conditionalWrites !== "none" && session.canConditionPuts) {
    try {
      stored = await put(true);
    } catch (error) {
      if (isPreconditionFailed(error)) return await recogniseOrRefuse(upload, body.length, digests);
      if (s3ErrorName(error) !== "NotImplemented" && s3ErrorStatus(error) !== 501) throw error;
      session.canConditionPuts = false;
      context.log("warn", "this server knows no conditional writes; existing files are looked for before each one", {
        bucket: store.bucket,
      });
      await assertAbsent(upload);
      stored = await put(false);
    }
  } else {
    if (mayNotReplace) {
      const known = await findOwn(upload);
      if (known !== undefined) return describeOwn(upload, known, digests);
    }
    stored = await put(false);
  }

  const md5 = checks.md5;
  const hasComparableEtag =
    md5 !== undefined && settings.etag === "md5" && !stored.isEtagOpaque && /^[0-9a-f]{32}$/i.test(stored.etag ?? "");
  if (hasComparableEtag && stored.etag?.toLowerCase() !== md5)
    await refuseCorrupt(upload, stored, "its ETag is not the MD5 of what was sent");
  const isProven = hasComparableEtag || settings.integrity !== "none";
  if (!isProven) await assertStoredSize(upload, stored, body.length);
  const all = digests.some(({ algorithm }) => algorithm === "crc32")
    ? digests
    : [...digests, { algorithm: "crc32", value: checks.crc32 } as const];
  return describeStored(upload, stored, "stream", body.length, all, isProven);
}

async function uploadInParts(upload: Upload, source: LocalSource): Promise<TransferDetails> {
  const { session, context, file } = upload;
  const partSize = partSizeFor(source.size, session.settings.partSizeBytes);
  const count = Math.ceil(source.size / partSize);
  const lanes = Math.min(session.settings.partConcurrency, count);
  if (context.ifExists !== "replace") {
    const known = await findOwn(upload);
    if (known !== undefined) return describeOwn(upload, known, []);
  }
  const digesters = createDigesters([...wantedAlgorithms(file, context.checksum)].filter((algorithm) => algorithm !== "crc32"));
  const room = await context.reserve(lanes * partSize);
  try {
    const open = await openUpload(session, upload.key, upload.attributes, context);
    try {
      const parts = new PartList();
      let next = 0;
      // Parts are read one after the other, so that digests of the whole see every byte in its order; they are sent side by side.
      let reading: Promise<unknown> = Promise.resolve();
      await runLanes(lanes, context.signal, async (signal) => {
        const buffer = Buffer.allocUnsafeSlow(partSize);
        for (;;) {
          const read = reading.then(async () => {
            signal.throwIfAborted();
            if (next >= count) return undefined;
            const index = next++;
            const body = buffer.subarray(0, Math.min(partSize, source.size - index * partSize));
            await fill(source, body, index * partSize, context, signal);
            digesters.update(body);
            return { number: index + 1, body };
          });
          reading = read.catch(() => undefined);
          const part = await read;
          if (part === undefined) return;
          parts.add(await sendPart(upload, open.uploadId, part.number, part.body, signal), part.body.length);
          await open.touch(signal);
        }
      });
      await assertUnchanged(source.handle, source.stats);
      const details = await completeParts(upload, open.uploadId, parts, digesters.end());
      await open.end();
      return details;
    } catch (error) {
      await open.abort(error);
      throw error;
    }
  } finally {
    room[Symbol.dispose]();
  }
}

/** A part that the server has taken. */
export interface SentPart extends CompletedPart {
  readonly crc32Here: string;
  readonly md5: string | undefined;
  readonly isEtagOpaque: boolean;
}

/** The parts of one upload, in whatever order they arrive. */
export class PartList {
  readonly #parts: { readonly part: SentPart; readonly length: number }[] = [];

  add(part: SentPart, length: number): void {
    this.#parts.push({ part, length });
  }

  sorted(): { readonly part: SentPart; readonly length: number }[] {
    return this.#parts.sort((a, b) => a.part.number - b.part.number);
  }

  get size(): number {
    return this.#parts.reduce((sum, { length }) => sum + length, 0);
  }

  /** The CRC32 of all of them, joined. */
  crc32(): string {
    return this.sorted().reduce((crc, { part, length }) => combineCrc32(crc, part.crc32Here, length), "00000000");
  }

  /** The ETag that most servers give to an object made of these parts. */
  compositeEtag(): string | undefined {
    const hash = createHash("md5");
    for (const { part } of this.sorted()) {
      if (part.md5 === undefined || part.isEtagOpaque) return undefined;
      hash.update(part.md5, "hex");
    }
    return `${hash.digest("hex")}-${this.#parts.length}`;
  }
}

/** Sends one part, again if need be, and compares what the server says of it. */
export async function sendPart(upload: Upload, uploadId: string, number: number, body: Uint8Array, signal: AbortSignal): Promise<SentPart> {
  const { session, context, key } = upload;
  const checks = checksOf(body, session.settings);
  return repeat(signal, async () => {
    const part = await session.store.uploadPart(key, uploadId, number, body, {
      signal,
      checks,
      onSent: (bytes) => context.progress(bytes),
    });
    const isComparable =
      checks.md5 !== undefined && session.settings.etag === "md5" && !part.isEtagOpaque && /^[0-9a-f]{32}$/i.test(part.etag);
    if (isComparable && part.etag.toLowerCase() !== checks.md5) {
      context.progress(-body.length);
      throw corrupt(upload, `part ${number}: its ETag is not the MD5 of what was sent`);
    }
    return { ...part, crc32Here: checks.crc32, md5: checks.md5 };
  });
}

/** Makes an object of the parts, if they are what was promised. */
export async function completeParts(
  upload: Upload,
  uploadId: string,
  parts: PartList,
  digests: readonly Digest[],
): Promise<TransferDetails> {
  const { session, context, file, key } = upload;
  const { settings, store } = session;
  const size = parts.size;
  const all: readonly Digest[] = [...digests, { algorithm: "crc32", value: parts.crc32() }];
  assertPromisedSize(file, size);
  assertDigest(file, all, file.digest);
  const mayNotReplace = context.ifExists !== "replace";
  const ifAbsent = mayNotReplace && settings.conditionalWrites === "full";
  // The last look before it is stored, for servers that complete without conditions.
  if (mayNotReplace && !ifAbsent) await assertAbsent(upload);
  const list = parts.sorted().map(({ part }) => part);
  let stored: Stored;
  try {
    stored = await withHeartbeat(context, () =>
      seeThrough(
        context.signal,
        () => true,
        (signal) => repeat(signal, () => store.completeUpload(key, uploadId, list, { signal, ifAbsent, crc32: parts.crc32() })),
        (signal) => headOwn(upload, signal),
      ),
    );
  } catch (error) {
    const isAmbiguous = s3ErrorName(error) === "NoSuchUpload" || isPreconditionFailed(error);
    if (!isAmbiguous) throw error;
    // The answer to an earlier completion was lost: then the object is ours.
    const info = await store.head(key, { signal: context.signal });
    if (!wasWrittenBy(info, upload.itemId) || info === undefined) throw isPreconditionFailed(error) ? fileExists(file.path) : error;
    stored = info;
  }
  const composite = parts.compositeEtag();
  const isProven = settings.integrity !== "none" || settings.etag === "md5";
  // One that differs proves nothing: not every server makes them alike.
  if (composite === undefined || stored.etag !== composite) stored = (await assertStoredSize(upload, stored, size)) ?? stored;
  return describeStored(upload, stored, "multipart", size, all, isProven);
}

async function headOwn(upload: Upload, signal: AbortSignal): Promise<ObjectInfo | undefined> {
  const info = await upload.session.store.head(upload.key, { signal });
  return wasWrittenBy(info, upload.itemId) ? info : undefined;
}

/** Whether an earlier attempt of this upload stored the object already. Throws `FILE_EXISTS` when somebody else did. */
export async function findOwn(upload: Upload): Promise<ObjectInfo | undefined> {
  const info = await upload.session.store.head(upload.key, { signal: upload.context.signal });
  if (info === undefined || wasWrittenBy(info, upload.itemId)) return info;
  throw fileExists(upload.file.path);
}

async function assertAbsent(upload: Upload): Promise<void> {
  if ((await findOwn(upload)) !== undefined) throw fileExists(upload.file.path);
}

async function recogniseOrRefuse(upload: Upload, size: number, digests: readonly Digest[]): Promise<TransferDetails> {
  const info = await findOwn(upload);
  if (info === undefined || info.size !== size) throw fileExists(upload.file.path);
  return describeOwn(upload, info, digests);
}

function describeOwn(upload: Upload, info: ObjectInfo, digests: readonly Digest[]): TransferDetails {
  const { file, session, context } = upload;
  context.progress(info.size);
  assertPromisedSize(file, info.size);
  const stored = storedFile(file, info, session);
  const isProven = assertDigest(file, digests, stored.digest);
  return describeTransfer(stored, "stream", info.size, proofOf(file, context.checksum, digests, isProven));
}

function describeStored(
  upload: Upload,
  stored: Stored,
  method: "stream" | "multipart",
  size: number,
  digests: readonly Digest[],
  isProven: boolean,
): TransferDetails {
  const { file, context, attributes } = upload;
  const result: StoredFile = { path: file.path, version: versionOf(stored), mediaType: attributes.contentType, metadata: file.metadata };
  return describeTransfer(result, method, size, proofOf(file, context.checksum, digests, isProven));
}

async function assertStoredSize(upload: Upload, stored: Stored, size: number): Promise<ObjectInfo | undefined> {
  const signal = upload.context.signal.aborted ? cleanUpSignal(upload.context) : upload.context.signal;
  const info = await repeat(signal, () => upload.session.store.head(upload.key, { signal }));
  // Somebody may have replaced it since; that is theirs to answer for.
  if (info === undefined || !wasWrittenBy(info, upload.itemId)) return undefined;
  if (info.size !== size) await refuseCorrupt(upload, stored, `S3 keeps ${info.size} bytes of it where ${size} were sent`);
  return info;
}

/** What is not what was sent must not stay: in a bucket with versions the previous state comes back by that. */
async function refuseCorrupt(upload: Upload, stored: Stored, reason: string): Promise<never> {
  const error = corrupt(upload, reason);
  const { store } = upload.session;
  await store.delete(upload.key, { signal: cleanUpSignal(upload.context), versionId: stored.versionId }).catch((failure: unknown) => {
    upload.context.log("warn", "an object that was stored wrong could not be removed", {
      key: escapePath(upload.key),
      error: String(failure),
    });
  });
  throw error;
}

function corrupt(upload: Upload, reason: string): StowageError {
  return new StowageError(`the stored object is not what was sent: ${reason}`, {
    code: "CHECKSUM_MISMATCH",
    file: upload.file.path,
    retryable: true,
  });
}

/** Reads `body.length` bytes from `position` on. */
async function fill(source: LocalSource, body: Buffer, position: number, context: OperationContext, signal: AbortSignal): Promise<void> {
  for (let offset = 0; offset < body.length; ) {
    signal.throwIfAborted();
    const length = Math.min(READ_BYTES, body.length - offset);
    await context.throttle(length);
    let filled = 0;
    while (filled < length) {
      const { bytesRead } = await source.handle.read(body, offset + filled, length - filled, position + offset + filled);
      if (bytesRead === 0) {
        await assertUnchanged(source.handle, source.stats);
        throw new StowageError("the source ended before its size", { code: "SHORT_SOURCE" });
      }
      filled += bytesRead;
    }
    offset += length;
  }
}

/** A part's size such that no file has more parts than S3 takes. */
export function partSizeFor(size: number, partSizeBytes: number): number {
  return Math.max(partSizeBytes, Math.ceil(Math.ceil(size / MAXIMUM_PARTS) / MiB) * MiB);
}
