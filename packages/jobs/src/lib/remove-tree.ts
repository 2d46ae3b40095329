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

const FILES_AT_ONCE = 64;

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
    if (!(await this.#removeFile(parent, name))) await this.#removeDirectory(parent, name, depth);
  }

  /** `false` when it is a directory. */
  async #removeFile(parent: PinnedDirectory, name: Buffer): Promise<boolean> {
    try {
      await unlink(pinnedEntry(parent, name));
    } catch (error) {
      if (isSystemError(error, "EISDIR")) return false;
      // What other systems say of a directory, and any of what may not be removed.
      if (isSystemError(error, "EPERM") && (await isDirectory(parent, name))) return false;
      this.#note(parent, name, error);
    }
    return true;
  }

  async #removeDirectory(parent: PinnedDirectory, name: Buffer, depth: number): Promise<void> {
    try {
      if (depth >= MAXIMUM_DEPTH) {
        const shallow = Buffer.from(`.stowage-remove-${process.pid}-${this.#moves++}`);
        await unlockDirectory(parent, name);
        await rename(pinnedEntry(parent, name), pinnedEntry(this.#top, shallow));
        this.#moved.push(shallow);
        return;
      }
      await this.#emptyDirectory(parent, name, depth);
      await rmdir(pinnedEntry(parent, name));
    } catch (error) {
      this.#note(parent, name, error);
    }
  }

  async #emptyDirectory(parent: PinnedDirectory, name: Buffer, depth: number): Promise<void> {
    const mode = Number((await statEntry(parent, name)).mode);
    if ((mode & 0o700) !== 0o700) await unlockDirectory(parent, name);
    const directory = await pinSubdirectory(parent, name);
    try {
      let names: Buffer[] = [];
      for await (const entry of readEntries(directory)) {
        names.push(entry);
        if (names.length < FILES_AT_ONCE) continue;
        await this.#removeEntries(directory, names, depth + 1);
        names = [];
      }
      await this.#removeEntries(directory, names, depth + 1);
    } finally {
      await directory.handle.close();
    }
  }

  /** Files side by side, directories one after the other: each holds a handle. */
  async #removeEntries(directory: PinnedDirectory, names: readonly Buffer[], depth: number): Promise<void> {
    const areFiles = await Promise.all(names.map((name) => this.#removeFile(directory, name)));
    for (const [index, name] of names.entries()) {
      if (!areFiles[index]) await this.#removeDirectory(directory, name, depth);
    }
  }

  #note(parent: PinnedDirectory, name: Buffer, error: unknown): void {
    if (isSystemError(error, "ENOENT")) return;
    const code = (error as NodeJS.ErrnoException).code;
    if (code === undefined) throw error;
    this.#problems.set(Buffer.concat([parent.path, Buffer.from("/"), name]).toString(), code);
  }
}

async function isDirectory(parent: PinnedDirectory, name: Buffer): Promise<boolean> {
  try {
    return (await statEntry(parent, name)).isDirectory();
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return false;
    throw error;
  }
}
