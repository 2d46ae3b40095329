import { rename, rmdir, unlink } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { escapePath, isSystemError } from "@stowage/core/broker";
import {
  type PinnedDirectory,
  pinDirectory,
  pinnedEntry,
  pinSubdirectory,
  readEntries,
  statEntry,
  unlockDirectory,
} from "./pinned-directory.ts";

/** Deeper directories are moved up first: a hostile job can nest deeper than handles last. */
const MAXIMUM_DEPTH = 32;

/** Somebody may still be adding files while they are removed. */
const ROUNDS = 20;

/**
 * Removes a file or directory with all that is in it, as a job left it: whatever the modes, however deep, and without following a link, also
 * when somebody swaps directories for links meanwhile. Returns what could not be removed; nothing when it is gone (or never was there).
 */
export async function removeTree(path: string): Promise<string[]> {
  let parent: PinnedDirectory;
  try {
    parent = await pinDirectory(dirname(path));
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return [];
    throw error;
  }
  try {
    return await removeEntry(parent, Buffer.from(basename(path)));
  } finally {
    await parent.handle.close();
  }
}

/** As `removeTree`, for what has the name in a directory that is held open. */
export function removeEntry(parent: PinnedDirectory, name: Buffer): Promise<string[]> {
  return new TreeRemover(parent).remove(name);
}

/** As `removeTree`, for everything in a directory that itself stays. */
export async function emptyDirectory(path: string, except: readonly string[] = []): Promise<string[]> {
  const directory = await pinDirectory(path);
  try {
    const leftovers: string[] = [];
    for await (const name of readEntries(directory)) {
      if (!except.includes(name.toString())) leftovers.push(...(await removeEntry(directory, name)));
    }
    return leftovers;
  } finally {
    await directory.handle.close();
  }
}

class TreeRemover {
  readonly #top: PinnedDirectory;
  #problems = new Map<string, string>();
  #moved: Buffer[] = [];
  #moves = 0;

  constructor(top: PinnedDirectory) {
    this.#top = top;
  }

  async remove(name: Buffer): Promise<string[]> {
    for (let round = 0; round < ROUNDS; round++) {
      this.#problems = new Map();
      await this.#removeEntry(this.#top, name, 0);
      // What was moved up may hold what is deeper still, and is moved up in its turn.
      while (this.#moved.length > 0) await this.#removeEntry(this.#top, this.#moved.pop()!, 0);
      if (this.#problems.size === 0) return [];
    }
    return [...this.#problems].map(([path, reason]) => `${escapePath(path)} (${reason})`);
  }

  async #removeEntry(parent: PinnedDirectory, name: Buffer, depth: number): Promise<void> {
    const path = pinnedEntry(parent, name);
    try {
      if (!(await statEntry(parent, name)).isDirectory()) return await unlink(path);
      if (depth >= MAXIMUM_DEPTH) {
        const shallow = Buffer.from(`.stowage-remove-${process.pid}-${this.#moves++}`);
        await unlockDirectory(parent, name);
        await rename(path, pinnedEntry(this.#top, shallow));
        this.#moved.push(shallow);
        return;
      }
      await this.#emptyEntry(parent, name, depth);
      await rmdir(path);
    } catch (error) {
      if (isSystemError(error, "ENOENT")) return;
      const code = (error as NodeJS.ErrnoException).code;
      if (code === undefined) throw error;
      this.#problems.set(Buffer.concat([parent.path, Buffer.from("/"), name]).toString(), code);
    }
  }

  async #emptyEntry(parent: PinnedDirectory, name: Buffer, depth: number): Promise<void> {
    const mode = Number((await statEntry(parent, name)).mode);
    if ((mode & 0o700) !== 0o700) await unlockDirectory(parent, name);
    const directory = await pinSubdirectory(parent, name);
    try {
      for await (const entry of readEntries(directory)) await this.#removeEntry(directory, entry, depth + 1);
    } finally {
      await directory.handle.close();
    }
  }
}
