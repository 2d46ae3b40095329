import {
  type Digest,
  escapePath,
  type OperationContext,
  type ParsedMove,
  type StoredFile,
  StowageError,
  sameDigest,
  type TransferDetails,
} from "@stowage/core/broker";
import { movedAttributes, moveMark, wasMovedBy } from "./attributes.ts";
import { assertDigest, assertPromisedSize, createDigesters, etagDigest, proofOf, wantedAlgorithms } from "./content-check.ts";
import { assertBucket } from "./download.ts";
import { fetchRange } from "./fetch-range.ts";
import { openUpload } from "./multipart.ts";
import type { CompletedPart, ObjectAttributes, ObjectInfo, Stored } from "./object-store.ts";
import { classifyS3Error, isMissing, isPreconditionFailed, s3ErrorStatus } from "./s3-errors.ts";
import {
  describeTransfer,
  fileExists,
  notFound,
  repeat,
  runLanes,
  type Session,
  seeThrough,
  storedFile,
  versionCondition,
  withHeartbeat,
} from "./session.ts";
import { partSizeFor } from "./upload.ts";

const MiB = 1024 * 1024;
/** What one request of a copy in parts copies. */
const COPY_PART_BYTES = 512 * MiB;

/** Copies on the server. */
export async function copyFile(session: Session, { file, newPath }: ParsedMove, context: OperationContext): Promise<TransferDetails> {
  const source = await findSource(session, file, context);
  if (source === undefined) throw notFound(file);
  if (file.path === newPath) return describeSame(session, file, source, context);
  await assertFree(session, newPath, context, undefined);
  return copyVerified(session, file, source, newPath, undefined, context);
}

/**
 * S3 has no rename: copies, proves the copy, then deletes. A crash between leaves both objects, never none; the copy is marked with the move
 * that made it, so that the same move, begun again, takes it up from there whatever `ifExists` says.
 */
export async function moveFile(session: Session, { file, newPath }: ParsedMove, context: OperationContext): Promise<TransferDetails> {
  const source = await findSource(session, file, context);
  if (source === undefined) throw notFound(file);
  if (file.path === newPath) return describeSame(session, file, source, context);
  const { store, keys, settings } = session;
  const key = keys.keyOf(file.path);
  const mark = moveMark(key, source);
  const existing = await assertFree(session, newPath, context, mark);
  const isCopied = existing !== undefined && wasMovedBy(existing, mark) && existing.size === source.size;
  const details = isCopied
    ? await describeCopy(session, file, source, newPath, existing, context)
    : await copyVerified(session, file, source, newPath, mark, context);

  // What was written to the old place since is not what was copied.
  const now = await repeat(context.signal, () => store.head(key, { signal: context.signal }));
  if (now === undefined) return details;
  if (now.etag !== source.etag || now.versionId !== source.versionId) {
    throw new StowageError(`"${escapePath(file.path)}" was replaced while it was moved; both files are kept`, {
      code: "SOURCE_CHANGED",
      file: file.path,
    });
  }
  try {
    const ifMatch = settings.conditionalWrites === "full" ? source.etag : undefined;
    await repeat(context.signal, () => store.delete(key, { signal: context.signal, ifMatch }));
  } catch (error) {
    if (isMissing(error)) return details;
    if (isPreconditionFailed(error)) {
      throw new StowageError(`"${escapePath(file.path)}" was replaced while it was moved; both files are kept`, {
        code: "SOURCE_CHANGED",
        file: file.path,
        cause: error,
      });
    }
    if (context.signal.aborted) throw error;
    throw new StowageError(
      `"${escapePath(file.path)}" was copied to "${escapePath(newPath)}" but could not be removed; both exist, and moving it again goes on from there`,
      { ...classifyS3Error(error), file: file.path, cause: error },
    );
  }
  return details;
}

async function findSource(session: Session, file: StoredFile, context: OperationContext): Promise<ObjectInfo | undefined> {
  const { versionId, ifMatch } = versionCondition(file);
  const info = await session.store.head(session.keys.keyOf(file.path), { signal: context.signal, versionId });
  if (info === undefined) {
    await assertBucket(session, context);
    return undefined;
  }
  if (ifMatch !== undefined && info.etag !== ifMatch) {
    throw new StowageError("the object has another version by now", { code: "SOURCE_CHANGED", file: file.path });
  }
  assertPromisedSize(file, info.size);
  return info;
}

/** The target, where it may be written; throws `FILE_EXISTS` where it may not. One that this very move made is free. */
async function assertFree(
  session: Session,
  newPath: ParsedMove["newPath"],
  context: OperationContext,
  mark: string | undefined,
): Promise<ObjectInfo | undefined> {
  const existing = await session.store.head(session.keys.keyOf(newPath), { signal: context.signal });
  const isOwn = mark !== undefined && wasMovedBy(existing, mark);
  if (existing !== undefined && context.ifExists !== "replace" && !isOwn) throw fileExists(newPath);
  return existing;
}

async function copyVerified(
  session: Session,
  file: StoredFile,
  source: ObjectInfo,
  newPath: ParsedMove["newPath"],
  mark: string | undefined,
  context: OperationContext,
): Promise<TransferDetails> {
  const { store, keys, settings } = session;
  const from = { key: keys.keyOf(file.path), etag: source.etag, versionId: versionCondition(file).versionId };
  const key = keys.keyOf(newPath);
  // A promise about the bytes is kept before anything is written.
  await assertPromisedDigest(session, file, source, from, context);
  const attributes = movedAttributes(source, mark);
  const ifAbsent = context.ifExists !== "replace" && settings.conditionalWrites === "full";
  let stored: Stored;
  try {
    stored =
      source.size > settings.multipartCopyThresholdBytes
        ? await copyInParts(session, from, source, key, attributes, ifAbsent, context)
        : await withHeartbeat(context, () =>
            seeThrough(
              context.signal,
              () => true,
              (signal) => store.copy(from, key, attributes, { signal, ifAbsent }),
              async () => undefined,
            ),
          );
  } catch (error) {
    if (isMissing(error)) throw notFound(file, error);
    if (!isPreconditionFailed(error)) throw error;
    const existing = ifAbsent ? await store.head(key, { signal: context.signal }) : undefined;
    if (existing !== undefined && mark !== undefined && wasMovedBy(existing, mark)) stored = existing;
    else if (existing !== undefined) throw fileExists(newPath);
    else
      throw new StowageError("the object changed while it was copied; try again", {
        code: "SOURCE_CHANGED",
        file: file.path,
        cause: error,
        retryable: true,
      });
  }
  const copied = await repeat(context.signal, () => store.head(key, { signal: context.signal }));
  if (copied === undefined || (stored.etag !== undefined && copied.etag !== stored.etag)) {
    throw new StowageError("the copy was replaced or deleted by somebody else at once; nothing was removed", {
      code: "CONFLICT",
      file: newPath,
    });
  }
  return describeCopy(session, file, source, newPath, copied, context);
}

/** Proves that the copy is the source, and says how. */
async function describeCopy(
  session: Session,
  file: StoredFile,
  source: ObjectInfo,
  newPath: ParsedMove["newPath"],
  copied: ObjectInfo,
  context: OperationContext,
): Promise<TransferDetails> {
  const { settings, keys } = session;
  const isSame =
    copied.size === source.size &&
    sameDigest(etagDigest(copied, settings.etag), etagDigest(source, settings.etag)) !== false &&
    (copied.crc32 === undefined || source.crc32 === undefined || copied.crc32 === source.crc32);
  if (!isSame) {
    throw new StowageError("the copy is not what was copied: its size or checksum differs; the source is kept", {
      code: "CHECKSUM_MISMATCH",
      file: newPath,
    });
  }
  const target = storedFile({ path: newPath }, copied, session);
  const wanted = wantedAlgorithms(file, context.checksum);
  if (wanted.size === 0) return describeTransfer(target, "server-copy", copied.size, { digest: target.digest, verified: "length" });
  const known = target.digest;
  const isKnown = known !== undefined && [...wanted].every((algorithm) => algorithm === known.algorithm);
  const digests = isKnown
    ? [known]
    : await digestObject(
        session,
        { key: keys.keyOf(newPath), etag: copied.etag, versionId: copied.versionId },
        copied.size,
        wanted,
        context,
      );
  assertDigest(file, digests, file.digest);
  return describeTransfer(target, "server-copy", copied.size, proofOf(file, context.checksum, digests, true));
}

async function assertPromisedDigest(
  session: Session,
  file: StoredFile,
  source: ObjectInfo,
  from: { readonly key: string; readonly etag: string | undefined; readonly versionId: string | undefined },
  context: OperationContext,
): Promise<void> {
  if (file.digest === undefined) return;
  const known = storedFile(file, source, session).digest;
  const digests =
    known?.algorithm === file.digest.algorithm ? [known] : await digestObject(session, from, source.size, [file.digest.algorithm], context);
  assertDigest(file, digests, file.digest);
}

/** Reads an object for the sake of its digests alone. */
async function digestObject(
  session: Session,
  state: { readonly key: string; readonly etag: string | undefined; readonly versionId: string | undefined },
  size: number,
  algorithms: Iterable<Digest["algorithm"]>,
  context: OperationContext,
): Promise<readonly Digest[]> {
  const digesters = createDigesters(algorithms);
  for await (const chunk of fetchRange(session.store, state, { start: 0, end: size }, context, context.signal)) {
    digesters.update(chunk);
    context.progress(0);
  }
  return digesters.end();
}

async function copyInParts(
  session: Session,
  from: { readonly key: string; readonly etag: string | undefined; readonly versionId: string | undefined },
  source: ObjectInfo,
  key: string,
  attributes: ObjectAttributes,
  ifAbsent: boolean,
  context: OperationContext,
): Promise<Stored> {
  const { store, settings } = session;
  const tags = await findTags(session, from, source, context);
  const partSize = partSizeFor(source.size, Math.min(COPY_PART_BYTES, settings.multipartCopyThresholdBytes));
  const count = Math.ceil(source.size / partSize);
  const upload = await openUpload(session, key, attributes, context, tags);
  try {
    const parts: CompletedPart[] = [];
    let next = 0;
    await withHeartbeat(context, () =>
      runLanes(Math.min(settings.partConcurrency, count), context.signal, async (signal) => {
        while (next < count) {
          const index = next++;
          const range = { start: index * partSize, end: Math.min(source.size, (index + 1) * partSize) };
          parts.push(
            await repeat(signal, () => store.copyPart(from, range, { key, uploadId: upload.uploadId, number: index + 1 }, { signal })),
          );
          await upload.touch(signal);
        }
      }),
    );
    if (context.ifExists !== "replace" && !ifAbsent && (await store.head(key, { signal: context.signal })) !== undefined) {
      throw new StowageError("there is an object of this name already", { code: "FILE_EXISTS" });
    }
    parts.sort((a, b) => a.number - b.number);
    const stored = await withHeartbeat(context, () =>
      store.completeUpload(key, upload.uploadId, parts, { signal: context.signal, ifAbsent }),
    );
    await upload.end();
    if (tags !== undefined) await keepTags(session, key, stored, tags, context);
    return stored;
  } catch (error) {
    await upload.abort(error);
    throw error;
  }
}

/** Copies in one piece take the tags along; those in parts must be told. Without the right to read tags the copy is refused, not impoverished. */
async function findTags(
  session: Session,
  from: { readonly key: string; readonly versionId: string | undefined },
  source: ObjectInfo,
  context: OperationContext,
): Promise<string | undefined> {
  try {
    return await repeat(context.signal, () => session.store.tags(from.key, { signal: context.signal, versionId: from.versionId }));
  } catch (error) {
    const isUnknownToServer = [400, 404, 405, 501].includes(s3ErrorStatus(error) ?? 0);
    const hasNone = source.tagCount === undefined || source.tagCount === 0;
    if (isUnknownToServer || (hasNone && s3ErrorStatus(error) === 403)) return undefined;
    throw error;
  }
}

/** Some servers forget the tags that an upload in parts was begun with. */
async function keepTags(session: Session, key: string, stored: Stored, tags: string, { signal }: OperationContext): Promise<void> {
  const { store } = session;
  const { versionId } = stored;
  const kept = await repeat(signal, () => store.tags(key, { signal, versionId }));
  if (kept !== tags) await repeat(signal, () => store.setTags(key, tags, { signal, versionId }));
}

async function describeSame(session: Session, file: StoredFile, source: ObjectInfo, context: OperationContext): Promise<TransferDetails> {
  const from = { key: session.keys.keyOf(file.path), etag: source.etag, versionId: source.versionId };
  await assertPromisedDigest(session, file, source, from, context);
  const target = storedFile(file, source, session);
  return describeTransfer(target, "server-copy", source.size, { digest: target.digest, verified: "length" });
}
