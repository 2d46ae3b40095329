import { constants, fchmodSync, fstatSync, lstatSync, openSync, unlinkSync } from "node:fs";
import type { TransferDetails } from "../broker.ts";
import { sameDigest } from "../digest.ts";
import { escapePath } from "../file-path.ts";
import type { Digest, DigestAlgorithm, FilePath, StoredFile, TransferMethod } from "../files.ts";
import { addLeftover } from "../local-file.ts";
import { StowageError } from "../stowage-error.ts";
import { type ContentCheck, type ContentProof, checkContent } from "./content-check.ts";
import { type CopyOptions, copyLargeFile, readContent, readSmallFile, SMALL_FILE_BYTES, writeWhole } from "./copy-file.ts";
import { OpenFile, type SourceFile } from "./open-file.ts";
import type { PosixHooks, PosixVolume } from "./posix-commands.ts";
import { describePosixError, isErrno, NO_ATTRIBUTES } from "./posix-errors.ts";
import {
  assertReplaceable,
  createTemporary,
  discardTemporary,
  type IfExists,
  keepModified,
  type Place,
  type PlaceEnvironment,
  publishTemporary,
  syncFile,
} from "./publish-file.ts";
import { type Steps, wait } from "./steps.ts";

/** What the commands of one opened volume share. */
export interface OperationEnvironment extends PlaceEnvironment {
  readonly volume: PosixVolume;
  /** A child of ours, with a umask of 0 and a working directory to change. */
  readonly isChild: boolean;
  /** What local files are made with; in a user's process its umask still takes from it. */
  readonly localFileMode: number;
  onAbandoned(change: 1 | -1): void;
}

export interface OperationHooks {
  readonly signal: AbortSignal;
  progress(bytes: number): void;
  readonly throttle?: PosixHooks["throttle"];
}

export interface StoreRequest {
  /** What the content was promised to be. */
  readonly expected: StoredFile;
  readonly checksum: "auto" | "none" | DigestAlgorithm;
  readonly durability: "process" | "power";
  readonly ifExists: IfExists;
  /** Read back what was written, from stable storage's side of the call, and compare, before anything becomes visible. For what is deleted elsewhere next. */
  readonly isProven?: boolean | undefined;
}

/** Puts a copy of `source` at `place`: written under the temporary name, checked, and only then given its name. Leaves nothing when it throws. */
export function* storeFile(
  environment: OperationEnvironment,
  source: SourceFile,
  place: Place,
  request: StoreRequest,
  hooks: OperationHooks,
): Steps<{ readonly method: TransferMethod; readonly proof: ContentProof }> {
  const isSmall = source.stats.size <= SMALL_FILE_BYTES;
  // For a large file, and where nothing may be replaced, it pays to ask before the work; the answer that counts comes at the end.
  if (!isSmall || request.ifExists !== "replace" || place.side === "local") assertReplaceable(place, request.ifExists);
  const check = checkContent(request.expected, request.isProven === true && isNoAlgorithm(request.checksum) ? "crc32" : request.checksum);
  // Before there is a temporary name: what cannot be read leaves nothing to clean up.
  const content = isSmall ? readSmall(source, check) : undefined;
  const isOnVolume = place.side === "workspace";
  const mode = isOnVolume ? environment.volume.fileMode : environment.localFileMode;
  const temporary = createTemporary(place, mode, isSmall ? "write" : "read-write");
  const mustSync = request.durability === "power" || request.isProven === true;
  let method: TransferMethod = "copy";
  let proof: ContentProof;
  let inode = 0n;
  try {
    if (content !== undefined) {
      proof = writeSmall(temporary, content, check, place);
      if (isOnVolume && !environment.isChild) correctMode(temporary, mode);
      hooks.progress(content.length);
    } else {
      // Whatever the umask, or the system's defaults for the directory, made of a local file's mode is to stay.
      const finalMode = isOnVolume ? mode : fstatSync(temporary.fd).mode & 0o7777;
      const copied = yield* wait(copyLarge(environment, source, temporary, check, place, request, hooks));
      ({ method, proof } = copied);
      correctMode(temporary, finalMode);
    }
    keepModified(temporary.fd, source.stats);
    if (mustSync) {
      yield* wait(syncFile(temporary, place));
      inode = fstatSync(temporary.fd, { bigint: true }).ino;
    }
    if (request.isProven === true) yield* wait(proveWritten(environment, place, source, proof.digest!, hooks));
    source.assertUnchanged();
    hooks.signal.throwIfAborted();
    closeWritten(temporary, place);
    publishTemporary(place, request.ifExists);
  } catch (error) {
    temporary.discard();
    discardTemporary(place, error);
    throw error;
  }
  if (mustSync) yield* wait(syncPublished(place, request.ifExists, inode));
  return { method, proof };
}

/** Brings a published file's name to stable storage. Where that fails, a file that was not there before is taken back, so that another attempt does not find it in its way. */
export async function syncPublished(place: Place, ifExists: IfExists, inode: bigint): Promise<void> {
  try {
    await place.sync();
  } catch (error) {
    if (ifExists !== "replace") withdraw(place, inode, error);
    throw error;
  }
}

function withdraw(place: Place, inode: bigint, error: unknown): void {
  try {
    const published = place.entry(place.name);
    if (lstatSync(published, { bigint: true, throwIfNoEntry: false })?.ino === inode) unlinkSync(published);
  } catch {
    addLeftover(error, place.path);
  }
}

function isNoAlgorithm(checksum: StoreRequest["checksum"]): boolean {
  return checksum === "auto" || checksum === "none";
}

function readSmall(source: SourceFile, check: ContentCheck): Buffer {
  let content: Buffer;
  try {
    content = readSmallFile(source);
  } catch (error) {
    throw describePosixError(error, { action: "read", path: source.path, side: source.side });
  }
  if (check.readsBytes) check.update(content);
  return content;
}

function writeSmall(temporary: OpenFile, content: Buffer, check: ContentCheck, place: Place): ContentProof {
  const proof = check.end(content.length);
  try {
    writeWhole(temporary.fd, content);
  } catch (error) {
    throw describeWriteError(error, place);
  }
  return proof;
}

async function copyLarge(
  environment: OperationEnvironment,
  source: SourceFile,
  temporary: OpenFile,
  check: ContentCheck,
  place: Place,
  request: StoreRequest,
  hooks: OperationHooks,
): ReturnType<typeof copyLargeFile> {
  const target = { file: temporary, fileSystem: place.fileSystem() };
  try {
    return await copyLargeFile(source, target, check, copyOptions(environment, hooks, request.isProven !== true));
  } catch (error) {
    const from = source.side === "local" ? `the local file "${escapePath(source.path)}"` : `"${escapePath(source.path)}"`;
    throw describePosixError(error, { action: `copy ${from} to`, path: place.path, side: place.side });
  }
}

export function copyOptions(environment: OperationEnvironment, hooks: OperationHooks, throughKernel: boolean): CopyOptions {
  return { throughKernel, kernelCopy: environment.isChild, hooks, onAbandoned: environment.onAbandoned };
}

/** On network file systems a full disk may be told of only now. */
function closeWritten(temporary: OpenFile, place: Place): void {
  try {
    temporary.close();
  } catch (error) {
    throw describeWriteError(error, place);
  }
}

function describeWriteError(error: unknown, place: Place): unknown {
  return describePosixError(error, { action: "write", path: place.path, side: place.side });
}

/** Makes the mode of a new file what it is to be, where the umask or a copy has made it another. */
export function correctMode(file: OpenFile, mode: number): void {
  if ((fstatSync(file.fd).mode & 0o7777) === mode) return;
  try {
    fchmodSync(file.fd, mode);
  } catch (error) {
    // File systems without modes.
    if (!isErrno(error, ...NO_ATTRIBUTES)) throw error;
  }
}

/** Reads the temporary file again and throws when it is not what was read from the source. */
async function proveWritten(
  environment: OperationEnvironment,
  place: Place,
  source: SourceFile,
  expected: Digest,
  hooks: OperationHooks,
): Promise<void> {
  const { size } = source.stats;
  let written: OpenFile | undefined;
  try {
    written = new OpenFile(openSync(place.entry(place.temporaryName), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK));
    const check = checkContent({ path: place.path as FilePath, size }, expected.algorithm);
    // No bytes move: they are only looked at again. But it shows life.
    const quiet: OperationHooks = { signal: hooks.signal, progress: () => hooks.progress(0) };
    await readContent(written, size, check, copyOptions(environment, quiet, false));
    const { digest } = check.end(size);
    if (sameDigest(digest, expected) === true) return;
    throw new StowageError(
      `"${escapePath(place.path)}" does not hold what was written: its ${expected.algorithm} is ${digest?.value}, that of the source ${expected.value}; the source was left as it is`,
      { code: "CHECKSUM_MISMATCH", file: place.path, retryable: true },
    );
  } catch (error) {
    throw describePosixError(error, { action: "read again", path: place.path, side: place.side });
  } finally {
    written?.discard();
  }
}

/** What a transfer tells of the file that it made. */
export function describeTransfer(path: FilePath, bytes: number, method: TransferMethod, proof: ContentProof): TransferDetails {
  const { digest, verified } = proof;
  if (digest === undefined) return { file: { path, size: bytes }, method, bytes, verified };
  return { file: { path, size: bytes, digest }, method, bytes, digest, verified };
}
