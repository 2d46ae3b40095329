import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { join } from "node:path";
import { type Digest, type FileDetails, type FilePath, isFilePath, type StoredFile, StowageError } from "@stowage/core/broker";

/** What an entry tells of its file; stands behind the file's bytes. */
export interface Entry {
  readonly path: FilePath;
  readonly size: number;
  readonly digest: Digest;
  /** Milliseconds since 1970. */
  readonly modified: number;
  readonly mediaType?: string | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

const LENGTH_BYTES = 8;

export function entryName(path: string): string {
  return createHash("sha256").update(path).digest("hex");
}

export function encodeTrailer(entry: Entry): Buffer {
  const json = Buffer.from(JSON.stringify(entry));
  return Buffer.concat([json, Buffer.from(String(json.length).padStart(LENGTH_BYTES, "0"))]);
}

/** An entry that is open for reading; its bytes are the first `entry.size` of the handle. Whoever opens it closes it. */
export interface OpenEntry {
  readonly handle: FileHandle;
  readonly entry: Entry;
}

/** Throws `ENOENT` for a file that is not there. */
export async function openEntry(directory: string, name: string): Promise<OpenEntry> {
  // Never through a link: this directory is ours, what a link in it leads to is not.
  const handle = await open(join(directory, name), constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    return { handle, entry: await readTrailer(handle, name) };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

async function readTrailer(handle: FileHandle, name: string): Promise<Entry> {
  const { size } = await handle.stat();
  const foreign = (): StowageError => new StowageError(`"${name}" is no entry of this broker; move it elsewhere`, { code: "UNKNOWN" });
  const length = Number((await readAt(handle, size - LENGTH_BYTES, LENGTH_BYTES)).toString());
  if (!Number.isInteger(length) || length <= 0 || length > size - LENGTH_BYTES) throw foreign();
  let entry: Entry;
  try {
    entry = JSON.parse((await readAt(handle, size - LENGTH_BYTES - length, length)).toString()) as Entry;
  } catch {
    throw foreign();
  }
  // What lies in a backend is input like any other: a path from it is checked before anybody uses it.
  if (!isFilePath(entry.path) || entryName(entry.path) !== name || entry.size !== size - LENGTH_BYTES - length) throw foreign();
  return entry;
}

async function readAt(handle: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(Math.max(0, length));
  if (position >= 0) await handle.read(buffer, 0, buffer.length, position);
  return buffer;
}

export function toStoredFile({ path, size, digest, mediaType, metadata }: Entry): StoredFile {
  return { path, size, digest, mediaType, metadata };
}

export function toDetails(entry: Entry): FileDetails {
  return { file: toStoredFile(entry), size: entry.size, modified: new Date(entry.modified) };
}
