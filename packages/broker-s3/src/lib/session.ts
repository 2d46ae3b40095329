import {
  type Digest,
  type OperationContext,
  type RetryOptions,
  retry,
  type StoredFile,
  StowageError,
  type TransferDetails,
  type TransferMethod,
  type Verification,
} from "@stowage/core/broker";
import { userMetadata } from "./attributes.ts";
import type { S3Settings } from "./config.ts";
import { etagDigest } from "./content-check.ts";
import type { KeySpace } from "./keys.ts";
import type { ObjectInfo, ObjectStore } from "./object-store.ts";
import { classifyS3Error } from "./s3-errors.ts";

/** What every operation of one opened broker works with. */
export interface Session {
  readonly store: ObjectStore;
  readonly settings: S3Settings;
  readonly keys: KeySpace;
  /** False once the server has refused a conditional PUT as unknown to it. */
  canConditionPuts: boolean;
  /** The bucket has answered. */
  bucketSeen: boolean;
}

/** What clean-up may take when the operation was aborted, out of the second in which it has to settle; and otherwise. */
const ABORTED_CLEAN_UP_MS = 400;
/** How long an answer is still waited for after an abort, when the server has the whole request and will act on it. */
const GRACE_MS = 350;
/** What asking after such a request may take. */
const INQUIRY_MS = 150;
const CLEAN_UP_MS = 10_000;

/** A signal for clean-up: the operation's own may have fired. */
export function cleanUpSignal(context: Pick<OperationContext, "signal">): AbortSignal {
  return AbortSignal.timeout(context.signal.aborted ? ABORTED_CLEAN_UP_MS : CLEAN_UP_MS);
}

const PART_RETRY: RetryOptions = { attempts: 4, baseDelayMs: 100, maxDelayMs: 5_000, budgetMs: 60_000 };

/** Repeats one request of several that make up an operation. */
export async function repeat<T>(signal: AbortSignal, operation: () => Promise<T>): Promise<T> {
  return (await retry(operation, { options: PART_RETRY, signal, classify: classifyS3Error })).value;
}

/** A signal of its own for the parts of one operation, so that the failure of one ends the others. Call `unlink` at the end. */
export function linkedController(signal: AbortSignal): { readonly controller: AbortController; unlink(): void } {
  const controller = new AbortController();
  const onAbort = (): void => controller.abort(signal.reason);
  if (signal.aborted) onAbort();
  else signal.addEventListener("abort", onAbort, { once: true });
  return { controller, unlink: () => signal.removeEventListener("abort", onAbort) };
}

/**
 * A request that the server has in full is not called back by breaking its connection: its answer is waited for a little, and where it does not
 * come, `inquire` asks what became of it. So a cancelled transfer that was done nevertheless is reported as done.
 */
export async function seeThrough<T>(
  signal: AbortSignal,
  isSent: () => boolean,
  request: (signal: AbortSignal) => Promise<T>,
  inquire: (signal: AbortSignal) => Promise<T | undefined>,
): Promise<T> {
  signal.throwIfAborted();
  const controller = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const onAbort = (): void => {
    if (isSent()) timer = setTimeout(() => controller.abort(signal.reason), GRACE_MS);
    else controller.abort(signal.reason);
  };
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await request(controller.signal);
  } catch (error) {
    if (!signal.aborted || !isSent()) throw error;
    const found = await inquire(AbortSignal.timeout(INQUIRY_MS)).catch(() => undefined);
    if (found === undefined) throw error;
    return found;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", onAbort);
  }
}

/** Runs `lanes` of the same work at once. The first failure ends all of them, and is thrown when all have settled. */
export async function runLanes(count: number, signal: AbortSignal, lane: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const { controller, unlink } = linkedController(signal);
  let failure: { readonly error: unknown } | undefined;
  const guarded = async (): Promise<void> => {
    try {
      await lane(controller.signal);
    } catch (error) {
      failure ??= { error };
      controller.abort(error);
    }
  };
  try {
    await Promise.all(Array.from({ length: count }, guarded));
  } finally {
    unlink();
  }
  if (failure !== undefined) throw failure.error;
}

/** Tells the watchdog every second that something goes on at the server, while `work` waits for it. The client's own idle time-out ends what hangs. */
export async function withHeartbeat<T>(context: OperationContext, work: () => Promise<T>): Promise<T> {
  const timer = setInterval(() => context.progress(0), 1_000);
  try {
    return await work();
  } finally {
    clearInterval(timer);
  }
}

/** A version as files carry it: a version id, or an ETag in quotes. */
export function versionOf(info: { readonly versionId?: string | undefined; readonly etag?: string | undefined }): string | undefined {
  return info.versionId ?? (info.etag === undefined ? undefined : `"${info.etag}"`);
}

/** How to ask for the state of a file that its `version` names. */
export function versionCondition(file: StoredFile): { readonly versionId?: string | undefined; readonly ifMatch?: string | undefined } {
  if (file.version === undefined) return {};
  const etag = /^"(.*)"$/.exec(file.version)?.[1];
  return etag === undefined ? { versionId: file.version } : { ifMatch: etag };
}

/** A file as an object tells of it. */
export function storedFile(file: Pick<StoredFile, "path">, info: ObjectInfo, session: Session): StoredFile & { readonly size: number } {
  return {
    path: file.path,
    size: info.size,
    digest: info.crc32 === undefined ? etagDigest(info, session.settings.etag) : { algorithm: "crc32", value: info.crc32 },
    version: versionOf(info),
    mediaType: info.attributes.contentType,
    metadata: userMetadata(info),
  };
}

export function describeTransfer(
  file: StoredFile,
  method: TransferMethod,
  bytes: number,
  proof: { readonly digest?: Digest | undefined; readonly verified: Verification },
): TransferDetails {
  return { file: { ...file, size: bytes, digest: proof.digest ?? file.digest }, method, bytes, ...proof };
}

export function notFound(file: StoredFile, cause?: unknown): StowageError {
  return new StowageError("there is no such object", { code: "FILE_NOT_FOUND", file: file.path, cause });
}

export function fileExists(path: string): StowageError {
  return new StowageError("there is an object of this name already", { code: "FILE_EXISTS", file: path });
}
