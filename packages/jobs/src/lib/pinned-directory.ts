import { type BigIntStats, constants } from "node:fs";
import { chmod, type FileHandle, lstat, open, opendir } from "node:fs/promises";

// A directory that is held open stays the same one, whatever happens to its name. On Linux /proc/self/fd/<n>/<name> is a name inside it; elsewhere
// (macOS, for development) names are looked up anew and nothing of this holds against somebody who swaps directories.
const HAS_PROC = process.platform === "linux";

/** `O_PATH`: a handle that names a file and opens nothing; Node does not export it. */
const O_PATH = 0o10000000;

/** A directory that is held open. */
export interface PinnedDirectory {
  readonly handle: FileHandle;
  /** Where it was when it was opened. For messages, and for systems without /proc. */
  readonly path: Buffer;
}

/** Opens a directory; a symbolic link in its last segment is refused (`ENOTDIR` or `ELOOP`). */
export async function pinDirectory(path: string | Buffer): Promise<PinnedDirectory> {
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  return { handle, path: Buffer.from(path) };
}

/** Opens a directory in a pinned one, following nothing. */
export async function pinSubdirectory(parent: PinnedDirectory, name: Uint8Array): Promise<PinnedDirectory> {
  const path = pinnedEntry(parent, name);
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  return { handle, path: Buffer.concat([parent.path, Buffer.from("/"), name]) };
}

/** The path by which this process reaches `name` in a pinned directory. */
export function pinnedEntry(directory: PinnedDirectory, name: Uint8Array): Buffer {
  return Buffer.concat([
    HAS_PROC ? Buffer.from(`/proc/self/fd/${directory.handle.fd}/`) : Buffer.concat([directory.path, Buffer.from("/")]),
    name,
  ]);
}

/** What is at `name`; of a symbolic link the link itself. */
export function statEntry(directory: PinnedDirectory, name: Uint8Array): Promise<BigIntStats> {
  return lstat(pinnedEntry(directory, name), { bigint: true });
}

/** The names in a pinned directory, as bytes, in the order of the file system. */
export async function* readEntries(directory: PinnedDirectory): AsyncGenerator<Buffer> {
  const path = HAS_PROC ? `/proc/self/fd/${directory.handle.fd}` : directory.path.toString();
  const entries = await opendir(path, { encoding: "buffer" as BufferEncoding, bufferSize: 1024 });
  // Leaving the loop early closes it too.
  for await (const { name } of entries) yield name as unknown as Buffer;
}

/**
 * Opens a regular file in a pinned directory for reading, following nothing and waking no device or FIFO: the file is looked at through a handle that
 * opens nothing, and only then opened, by that handle. `undefined` when it is no regular file or `accept` refuses it.
 */
export async function openRegularEntry(
  directory: PinnedDirectory,
  name: Uint8Array,
  accept: (stats: BigIntStats) => boolean,
): Promise<FileHandle | undefined> {
  if (!HAS_PROC) return openChecked(pinnedEntry(directory, name), constants.O_NOFOLLOW, accept);
  const reference = await open(pinnedEntry(directory, name), O_PATH | constants.O_NOFOLLOW);
  try {
    const stats = await reference.stat({ bigint: true });
    if (!stats.isFile() || !accept(stats)) return undefined;
    return await openChecked(Buffer.from(`/proc/self/fd/${reference.fd}`), 0, accept);
  } finally {
    await reference.close();
  }
}

/** A path by which this process and its children reach the very file that `handle` holds open; `undefined` without /proc. */
export function handlePath(handle: FileHandle): string | undefined {
  return HAS_PROC ? `/proc/${process.pid}/fd/${handle.fd}` : undefined;
}

async function openChecked(path: Buffer, flags: number, accept: (stats: BigIntStats) => boolean): Promise<FileHandle | undefined> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY | flags);
  try {
    const stats = await handle.stat({ bigint: true });
    if (stats.isFile() && accept(stats)) return handle;
  } catch (error) {
    await handle.close();
    throw error;
  }
  await handle.close();
  return undefined;
}

/** Makes a directory that one owns readable and writable, whatever its mode, without following or opening anything. */
export async function unlockDirectory(parent: PinnedDirectory, name: Uint8Array): Promise<void> {
  if (!HAS_PROC) return;
  const reference = await open(pinnedEntry(parent, name), O_PATH | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  try {
    await chmod(`/proc/self/fd/${reference.fd}`, 0o700);
  } finally {
    await reference.close();
  }
}
