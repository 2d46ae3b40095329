import { type FileHandle, link, open, rename, unlink } from "node:fs/promises";
import { join } from "node:path";
import { addLeftover, type FilePath, isSystemError, type OperationContext, RESERVED_PREFIX, StowageError } from "@stowage/core/broker";
import { type Entry, encodeTrailer, entryName, openEntry } from "./entry.ts";

/** Makes the entry of `path`: `write` puts the file's bytes into a new temporary file and says what the entry tells of them. */
export async function publishEntry(
  directory: string,
  path: FilePath,
  context: OperationContext,
  write: (handle: FileHandle) => Promise<Entry>,
): Promise<Entry> {
  context.signal.throwIfAborted();
  // Asked early so that no byte moves in vain; what counts is the link at the end.
  if (context.ifExists !== "replace" && (await exists(directory, path))) throw fileExists(path);
  const target = join(directory, entryName(path));
  const temporary = join(directory, `${RESERVED_PREFIX}-${context.temporaryId}`);
  const handle = await open(temporary, "wx", 0o644);
  try {
    let entry: Entry;
    try {
      entry = await write(handle);
      // `writeFile` on a handle goes on where the last one ended, and writes all of it or fails; a single `write` may stop in the middle of a full disk.
      await handle.writeFile(encodeTrailer(entry));
      if (context.durability === "power") await handle.sync();
    } finally {
      await handle.close();
    }
    context.signal.throwIfAborted();
    if (context.ifExists === "replace") await rename(temporary, target);
    else await linkOnce(temporary, target, path);
    if (context.durability === "power") await syncDirectory(directory);
    return entry;
  } catch (error) {
    await unlink(temporary).catch((failure: unknown) => {
      // What cannot be cleaned up is named, for `sweep` and for people.
      if (!isSystemError(failure, "ENOENT")) addLeftover(error, temporary);
    });
    throw error;
  }
}

export async function exists(directory: string, path: FilePath): Promise<boolean> {
  try {
    const { handle } = await openEntry(directory, entryName(path));
    await handle.close();
    return true;
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return false;
    throw error;
  }
}

async function linkOnce(temporary: string, target: string, path: FilePath): Promise<void> {
  try {
    await link(temporary, target);
  } catch (error) {
    throw isSystemError(error, "EEXIST") ? fileExists(path) : error;
  }
  await unlink(temporary);
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function fileExists(path: FilePath): StowageError {
  return new StowageError(`"${path}" exists already`, { code: "FILE_EXISTS", file: path });
}
