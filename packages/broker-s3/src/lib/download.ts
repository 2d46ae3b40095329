import {
  combineCrc32,
  createDigester,
  type Digest,
  type LocalSource,
  type OperationContext,
  type ParsedDownload,
  publishLocalFile,
  type StoredFile,
  StowageError,
  type TransferDetails,
} from "@stowage/core/broker";
import { modifiedOf } from "./attributes.ts";
import { assertDigest, assertPromisedSize, createDigesters, etagDigest, proofOf, wantedAlgorithms } from "./content-check.ts";
import { fetchRange, type ObjectState } from "./fetch-range.ts";
import type { ObjectBody, ObjectInfo } from "./object-store.ts";
import { isMissing, isPreconditionFailed, s3ErrorHeader, s3ErrorName, s3ErrorStatus } from "./s3-errors.ts";
import { describeTransfer, notFound, runLanes, type Session, storedFile, versionCondition } from "./session.ts";

type LocalHandle = LocalSource["handle"];

/** Bytes that one lane may hold: what the stream and the file system have in hand. */
const LANE_BYTES = 1024 * 1024;

/** Fetches an object: small ones by one request, larger ones in ranges side by side. */
export async function downloadFile(
  session: Session,
  { file, localPath }: ParsedDownload,
  context: OperationContext,
): Promise<TransferDetails> {
  const key = session.keys.keyOf(file.path);
  let details: TransferDetails | undefined;
  await publishLocalFile(localPath, context, async (handle) => {
    const opened = await openObject(session, key, file, context);
    const { info } = opened;
    try {
      assertPromisedSize(file, info.size);
      const digests = await receive(session, opened, file, handle, context);
      details = await prove(session, opened, file, digests, context);
    } finally {
      opened.first?.destroy();
    }
    return { modified: modifiedOf(info) };
  });
  return details as TransferDetails;
}

interface OpenedObject {
  readonly info: ObjectInfo;
  readonly state: ObjectState;
  /** The answer to the first request, from the first byte on; none for an object without bytes. */
  readonly first: ObjectBody | undefined;
}

/** Asks for the first part, which tells the size too: a small object needs no other request. */
async function openObject(session: Session, key: string, file: StoredFile, context: OperationContext): Promise<OpenedObject> {
  const { store, settings } = session;
  const { signal } = context;
  const condition = versionCondition(file);
  const stateOf = (info: ObjectInfo): ObjectState => ({ key, etag: info.etag, versionId: condition.versionId ?? info.versionId });
  try {
    const first = await store.get(key, { signal, range: { start: 0, end: settings.partSizeBytes }, ...condition });
    return { info: first.info, state: stateOf(first.info), first };
  } catch (error) {
    if (s3ErrorStatus(error) !== 416) throw await explainAbsence(session, file, error, context);
    // No range lies in an object without bytes.
    const info = await store.head(key, { signal, versionId: condition.versionId });
    if (info === undefined) throw notFound(file, error);
    if (info.size !== 0)
      throw new StowageError("the object changed while it was read; try again", { code: "SOURCE_CHANGED", retryable: true });
    return { info, state: stateOf(info), first: undefined };
  }
}

/** What it means that an object could not be read. */
export async function explainAbsence(session: Session, file: StoredFile, error: unknown, context: OperationContext): Promise<unknown> {
  if (s3ErrorHeader(error, "x-amz-delete-marker") === "true" && file.version !== undefined) {
    return new StowageError("this version of the object is the mark of its deletion", {
      code: "FILE_DELETED",
      file: file.path,
      cause: error,
    });
  }
  if (isMissing(error)) {
    // An answer with a body tells the missing object from the missing bucket.
    if (s3ErrorName(error) !== "NoSuchKey") await assertBucket(session, context);
    return notFound(file, error);
  }
  if (isPreconditionFailed(error)) {
    return new StowageError("the object has another version by now", { code: "SOURCE_CHANGED", file: file.path, cause: error });
  }
  return error;
}

/** HEAD does not say whether the object or the bucket is missing. Asked once; a bucket that may not be looked at is taken to be there. */
export async function assertBucket(session: Session, { signal }: Pick<OperationContext, "signal">): Promise<void> {
  if (session.bucketSeen) return;
  try {
    await session.store.headBucket({ signal });
  } catch (error) {
    signal.throwIfAborted();
    if (s3ErrorStatus(error) === 404) {
      const { bucket, endpoint } = session.settings;
      const where = endpoint === undefined ? "" : ` at ${endpoint}`;
      throw new StowageError(`there is no bucket "${bucket}"${where}; create it, or name another one`, {
        code: "INVALID_CONFIGURATION",
        cause: error,
      });
    }
  }
  session.bucketSeen = true;
}

async function receive(
  session: Session,
  opened: OpenedObject,
  file: StoredFile,
  handle: LocalHandle,
  context: OperationContext,
): Promise<readonly Digest[]> {
  const { info, first } = opened;
  const { settings } = session;
  const algorithms = new Set(wantedAlgorithms(file, context.checksum));
  const isOneRequest = first === undefined || first.start + first.length >= info.size;
  // In one stream the MD5 that the ETag is can be checked along the way.
  if (isOneRequest && context.checksum !== "none" && etagDigest(info, settings.etag) !== undefined) algorithms.add("md5");
  algorithms.delete("crc32");
  const lanes = Math.min(settings.partConcurrency, Math.ceil(info.size / settings.partSizeBytes));
  // Only CRC32s can be joined; for anything else the bytes must come in their order.
  const isParallel = algorithms.size === 0 && !isOneRequest && lanes > 1;
  const room = await context.reserve(Math.min(info.size, isParallel ? lanes * LANE_BYTES : LANE_BYTES));
  try {
    return isParallel
      ? [await receiveInParts(session, opened, handle, lanes, context)]
      : await receiveInOrder(session, opened, handle, algorithms, context);
  } finally {
    room[Symbol.dispose]();
  }
}

async function receiveInOrder(
  session: Session,
  { info, state, first }: OpenedObject,
  handle: LocalHandle,
  algorithms: Iterable<Digest["algorithm"]>,
  context: OperationContext,
): Promise<readonly Digest[]> {
  const digesters = createDigesters(["crc32", ...algorithms]);
  let position = 0;
  for await (const chunk of fetchRange(session.store, state, { start: 0, end: info.size }, context, context.signal, first)) {
    digesters.update(chunk);
    await writeAll(handle, chunk, position);
    position += chunk.length;
    context.progress(chunk.length);
  }
  return digesters.end();
}

async function receiveInParts(
  session: Session,
  { info, state, first }: OpenedObject,
  handle: LocalHandle,
  lanes: number,
  context: OperationContext,
): Promise<Digest> {
  const { partSizeBytes } = session.settings;
  const count = Math.ceil(info.size / partSizeBytes);
  const crcs: string[] = new Array(count).fill("");
  let next = 0;
  await runLanes(lanes, context.signal, async (signal) => {
    while (next < count) {
      const index = next++;
      const range = { start: index * partSizeBytes, end: Math.min(info.size, (index + 1) * partSizeBytes) };
      const crc = createDigester("crc32");
      let position = range.start;
      for await (const chunk of fetchRange(session.store, state, range, context, signal, index === 0 ? first : undefined)) {
        crc.update(chunk);
        await writeAll(handle, chunk, position);
        position += chunk.length;
        context.progress(chunk.length);
      }
      crcs[index] = crc.digest().value;
    }
  });
  const value = crcs.reduce(
    (whole, crc, index) => combineCrc32(whole, crc, Math.min(partSizeBytes, info.size - index * partSizeBytes)),
    "00000000",
  );
  return { algorithm: "crc32", value };
}

/** Holds what came against what the caller promised and what S3 knows. */
async function prove(
  session: Session,
  { info, state }: OpenedObject,
  file: StoredFile,
  digests: readonly Digest[],
  context: OperationContext,
): Promise<TransferDetails> {
  const { settings, store } = session;
  const kept = { retryable: true };
  let isProven = assertDigest(file, digests, file.digest);
  let known = info;
  if (context.checksum !== "none") {
    isProven = assertDigest(file, digests, etagDigest(info, settings.etag), kept) || isProven;
    if (!isProven && settings.integrity === "crc32") {
      // Ranges come without the checksum of the whole; it is asked for where nothing else proves the bytes.
      const head = await store.head(state.key, { signal: context.signal, versionId: state.versionId });
      if (head?.etag === info.etag && head?.crc32 !== undefined) {
        isProven = assertDigest(file, digests, { algorithm: "crc32", value: head.crc32 }, kept);
        known = head;
      }
    }
  }
  const isComputed = context.checksum !== "auto" && context.checksum !== "none";
  return describeTransfer(
    storedFile(file, known, session),
    "stream",
    info.size,
    proofOf(file, context.checksum, digests, isProven || isComputed),
  );
}

async function writeAll(handle: LocalHandle, chunk: Uint8Array, position: number): Promise<void> {
  for (let offset = 0; offset < chunk.length; ) {
    const { bytesWritten } = await handle.write(chunk, offset, chunk.length - offset, position + offset);
    offset += bytesWritten;
  }
}
