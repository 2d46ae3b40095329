import type { BigIntStats } from "node:fs";
import { constants } from "node:fs";
import { type FileHandle, link, lstat, mkdir, open, rename, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { OperationContext } from "./broker.ts";
import { escapePath, RESERVED_PREFIX } from "./file-path.ts";
import { toFileTime } from "./file-time.ts";
import { StowageError } from "./stowage-error.ts";
import { isSystemError } from "./system-error.ts";

/** What of an `OperationContext` decides how a local file is published. */
export type PublishContext = Pick<OperationContext, "ifExists" | "durability" | "temporaryId" | "signal">;

/**
 * Publishes a file of the local file system atomically: `write` fills a new temporary file beside `localPath`, which then takes its
 * name. Readers see the old file or the whole new one. Not for files on a volume of a workspace: nothing here is contained.
 *
 * `localPath` is absolute, its parent exists. `write` must not close the handle; the time that it returns becomes the file's. The
 * mode is what the process's umask leaves of 0666. For `ifExists` `"fail"` and `"skip"` alike an existing target throws `FILE_EXISTS`.
 * A target that is neither a file nor a symbolic link (which is replaced, not followed) throws `NOT_A_FILE`. When it throws, `localPath` is
 * as it was, and the error's `leftovers` names a temporary file that could not be removed.
 */
export async function publishLocalFile(
  localPath: string,
  context: PublishContext,
  // biome-ignore lint/suspicious/noConfusingVoidType: an async function that returns nothing will do
  write: (handle: FileHandle) => Promise<{ readonly modified?: Date | undefined } | void>,
): Promise<void> {
  context.signal.throwIfAborted();
  await assertReplaceable(localPath, context.ifExists);
  const temporaryPath = join(dirname(localPath), `${RESERVED_PREFIX}-${context.temporaryId}`);
  const handle = await open(temporaryPath, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o666);
  try {
    try {
      const written = await write(handle);
      if (written?.modified !== undefined) await handle.utimes(new Date(), toFileTime(written.modified.getTime()));
      if (context.durability === "power") await handle.sync();
    } finally {
      await handle.close();
    }
    context.signal.throwIfAborted();
    if (context.ifExists === "replace") await rename(temporaryPath, localPath);
    else await renameWithoutReplacing(temporaryPath, localPath);
  } catch (error) {
    try {
      await unlink(temporaryPath);
    } catch (failure) {
      if (!isSystemError(failure, "ENOENT")) addLeftover(error, temporaryPath);
    }
    throw error;
  }
  if (context.durability === "power") await syncDirectory(dirname(localPath));
}

/** A local file that is open for reading, and its state when it was opened. */
export interface LocalSource {
  readonly handle: FileHandle;
  /** Bytes. */
  readonly size: number;
  readonly modified: Date;
  readonly stats: BigIntStats;
}

/**
 * Opens a regular file of the local file system for reading, without waiting on a FIFO or device; symbolic links are followed.
 * Throws `FILE_NOT_FOUND` or `NOT_A_FILE`. Whoever opens it closes `handle`.
 */
export async function openLocalSource(localPath: string): Promise<LocalSource> {
  const handle = await open(localPath, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY).catch((error: unknown) => {
    throw describeSourceError(error, localPath);
  });
  try {
    const stats = await handle.stat({ bigint: true });
    if (!stats.isFile()) throw notAFile(localPath);
    // Rounded, as plain `Stats` are: the date of `BigIntStats` is cut, and a time that was set in milliseconds may lie a hair below its own.
    return { handle, size: Number(stats.size), modified: new Date(Math.round(Number(stats.mtimeNs) / 1e6)), stats };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** Whether the file behind `handle` is still as it was when `before` was taken. Throws `SHORT_SOURCE` when it lost bytes, else `SOURCE_CHANGED`. */
export async function assertUnchanged(handle: FileHandle, before: BigIntStats): Promise<void> {
  const after = await handle.stat({ bigint: true });
  if (after.size < before.size) {
    throw new StowageError(
      `the source was cut to ${after.size} bytes while it was read, from ${before.size}; try again when nobody writes to it`,
      {
        code: "SHORT_SOURCE",
      },
    );
  }
  if (after.size !== before.size || after.mtimeNs !== before.mtimeNs) {
    throw new StowageError("the source changed while it was read; try again when nobody writes to it", { code: "SOURCE_CHANGED" });
  }
}

/** Makes `directory` and what is missing above it; with `"power"` every directory that was made is on stable storage afterwards. */
export async function ensureLocalDirectory(directory: string, durability: OperationContext["durability"]): Promise<void> {
  const first = await mkdir(directory, { recursive: true }).catch((error: unknown) => {
    if (!isSystemError(error, "EEXIST", "ENOTDIR")) throw error;
    throw new StowageError(`cannot make the directory "${escapePath(directory)}": a file is in the way`, {
      code: "NOT_A_FILE",
      cause: error,
    });
  });
  if (durability !== "power" || first === undefined) return;
  for (let made = directory; ; made = dirname(made)) {
    await syncDirectory(dirname(made));
    if (made === first || made === dirname(made)) return;
  }
}

/** Adds the name of something that could not be cleaned up to an error that is about to be thrown. */
export function addLeftover(error: unknown, name: string): void {
  if (typeof error !== "object" || error === null) return;
  const known = (error as { leftovers?: unknown }).leftovers;
  Object.assign(error, { leftovers: Array.isArray(known) ? [...known, name] : [name] });
}

async function assertReplaceable(localPath: string, ifExists: OperationContext["ifExists"]): Promise<void> {
  const stats = await lstat(localPath).catch((error: unknown) => {
    if (isSystemError(error, "ENOENT")) return undefined;
    throw error;
  });
  if (stats === undefined) return;
  if (!stats.isFile() && !stats.isSymbolicLink()) throw notAFile(localPath);
  if (ifExists !== "replace") throw fileExists(localPath);
}

async function renameWithoutReplacing(temporaryPath: string, localPath: string): Promise<void> {
  try {
    await link(temporaryPath, localPath);
  } catch (error) {
    if (isSystemError(error, "EEXIST")) {
      // A reply that NFS lost and asked for again: our own link is already there.
      const [ours, theirs] = await Promise.all([lstat(temporaryPath, { bigint: true }), lstat(localPath, { bigint: true })]);
      if (ours.ino !== theirs.ino || ours.dev !== theirs.dev) throw fileExists(localPath);
    } else if (isSystemError(error, "EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EIO", "EMLINK")) {
      // No hard links here (FAT, some FUSE): the next best thing.
      await assertReplaceable(localPath, "fail");
      await rename(temporaryPath, localPath);
      return;
    } else {
      throw error;
    }
  }
  // Published by now: a second name of it that stays is no failure of the file.
  await unlink(temporaryPath).catch(() => undefined);
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function describeSourceError(error: unknown, localPath: string): unknown {
  if (isSystemError(error, "ENOENT", "ENOTDIR")) {
    return new StowageError(`no such local file: "${escapePath(localPath)}"`, { code: "FILE_NOT_FOUND", cause: error });
  }
  if (isSystemError(error, "ENXIO", "ENODEV", "ELOOP")) return notAFile(localPath, error);
  return error;
}

function notAFile(localPath: string, cause?: unknown): StowageError {
  return new StowageError(`"${escapePath(localPath)}" is not a regular file`, { code: "NOT_A_FILE", cause });
}

function fileExists(localPath: string): StowageError {
  return new StowageError(`the local file "${escapePath(localPath)}" exists already`, { code: "FILE_EXISTS" });
}
