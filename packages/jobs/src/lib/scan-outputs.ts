import { type BigIntStats, constants } from "node:fs";
import { access, type FileHandle } from "node:fs/promises";
import { escapePath, type FilePath, isSystemError, parseTargetPath, StowageError } from "@stowage/core/broker";
import { DEFAULT_JOB_LIMITS, type JobLimits } from "./job-spec.ts";
import {
  openRegularEntry,
  type PinnedDirectory,
  pinDirectory,
  pinnedEntry,
  pinSubdirectory,
  readEntries,
  statEntry,
} from "./pinned-directory.ts";

/** Why something in the output directory is not stored. */
export type RefusalReason =
  | "symbolic-link"
  | "fifo"
  | "socket"
  | "device"
  | "set-id"
  | "hard-link"
  | "sparse"
  | "name"
  | "unreadable"
  | "depth"
  | "files"
  | "bytes"
  | "changed"
  | "missing";

/** Something that a job left among its outputs and that is not stored. */
export interface Refusal {
  /** Inside the output directory, escaped for printing; `""` is the directory itself. */
  readonly path: string;
  readonly reason: RefusalReason;
  /** One sentence for a person. */
  readonly message: string;
}

/** A regular file of the output directory, as it was when it was looked at. */
export interface ScannedFile {
  readonly path: FilePath;
  /** Bytes. */
  readonly size: number;
  readonly identity: FileIdentity;
}

/** Tells one state of one file from every other. */
export interface FileIdentity {
  readonly device: bigint;
  readonly inode: bigint;
  readonly size: bigint;
  readonly modifiedNs: bigint;
  /** The kernel sets it at every change of content or attributes; nobody can set it back. */
  readonly changedNs: bigint;
}

export interface ScanResult {
  /** In byte order of their paths, directory by directory. */
  readonly files: readonly ScannedFile[];
  readonly bytes: number;
  /** At most 100; `refusalCount` says how many there were. */
  readonly refusals: readonly Refusal[];
  readonly refusalCount: number;
}

export type ScanLimits = Pick<JobLimits, "outputFiles" | "outputBytes" | "outputDepth" | "sparseRatio">;

export interface ScanOptions {
  /** Defaults to `DEFAULT_JOB_LIMITS`. */
  readonly limits?: Partial<ScanLimits> | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** How many refusals are kept. */
export const MAXIMUM_REFUSALS = 100;

/** Smaller files may well take less space than their size says: inline data, compression. */
const SPARSE_FROM_BYTES = 1024n * 1024n;

const STATS_AT_ONCE = 64;

/**
 * Looks at everything below `directory` as if an enemy had made it: nothing is followed, opened for writing or waited on. What is neither a plain
 * file nor a directory, has a name that no workspace path can have, can be reached from outside, or goes over a limit is a refusal.
 * Stops at the first limit of the whole. Throws `FILE_NOT_FOUND` when there is no such directory.
 */
export async function scanOutputs(directory: string, options: ScanOptions = {}): Promise<ScanResult> {
  const root = await pinOutputDirectory(directory);
  try {
    return await new OutputScan(root, { ...DEFAULT_JOB_LIMITS, ...options.limits }, options.signal).run();
  } finally {
    await root.handle.close();
  }
}

/** Opens the output directory itself, which must not be a symbolic link. */
export async function pinOutputDirectory(directory: string): Promise<PinnedDirectory> {
  try {
    return await pinDirectory(directory);
  } catch (error) {
    if (!isSystemError(error, "ENOENT", "ENOTDIR", "ELOOP")) throw error;
    throw new StowageError(
      `the output directory "${escapePath(directory)}" is not there, or no directory any more; the job must leave it in its place`,
      {
        code: "FILE_NOT_FOUND",
        cause: error,
      },
    );
  }
}

/**
 * Opens the very file that was scanned, walking from the pinned output directory and following nothing. `undefined` when anything else is there by now, or
 * the file has changed since.
 */
export async function openScannedFile(root: PinnedDirectory, file: ScannedFile): Promise<FileHandle | undefined> {
  const segments = file.path.split("/").map((segment) => Buffer.from(segment));
  const name = segments.pop()!;
  const pinned: PinnedDirectory[] = [];
  try {
    let parent = root;
    for (const segment of segments) {
      parent = await pinSubdirectory(parent, segment);
      pinned.push(parent);
    }
    return await openRegularEntry(parent, name, (stats) => sameIdentity(identityOf(stats), file.identity));
  } catch (error) {
    if (isSystemError(error, "ENOENT", "ENOTDIR", "ELOOP", "ENXIO", "EACCES", "EPERM")) return undefined;
    throw error;
  } finally {
    for (const { handle } of pinned) await handle.close();
  }
}

/** Whether the file behind `handle` is still as it was scanned. */
export async function isUnchanged(handle: FileHandle, file: ScannedFile): Promise<boolean> {
  return sameIdentity(identityOf(await handle.stat({ bigint: true })), file.identity);
}

class OutputScan {
  readonly #root: PinnedDirectory;
  readonly #limits: ScanLimits;
  readonly #signal: AbortSignal | undefined;
  readonly #files: ScannedFile[] = [];
  readonly #refusals: Refusal[] = [];
  /** Files with several names, by inode: how many names there are and which of them were found. */
  readonly #linked = new Map<string, { readonly links: bigint; readonly paths: FilePath[] }>();
  #refusalCount = 0;
  #bytes = 0;
  #seen = 0;
  #isOver = false;

  constructor(root: PinnedDirectory, limits: ScanLimits, signal: AbortSignal | undefined) {
    this.#root = root;
    this.#limits = limits;
    this.#signal = signal;
  }

  async run(): Promise<ScanResult> {
    await this.#scanDirectory(this.#root, "", 1);
    const files = this.#isOver ? this.#files : this.#withoutOutsideLinks();
    return { files, bytes: this.#bytes, refusals: this.#refusals, refusalCount: this.#refusalCount };
  }

  async #scanDirectory(directory: PinnedDirectory, path: string, depth: number): Promise<void> {
    const names = await this.#readNames(directory, path);
    for (let start = 0; start < names.length && !this.#isOver; start += STATS_AT_ONCE) {
      this.#signal?.throwIfAborted();
      const slice = names.slice(start, start + STATS_AT_ONCE);
      const stats = await Promise.all(slice.map((name) => statEntry(directory, name).catch(missingIsUndefined)));
      for (const [index, name] of slice.entries()) {
        if (this.#isOver) return;
        const entry = stats[index];
        // Gone since it was listed: then it is no output.
        if (entry !== undefined) await this.#scanEntry(directory, path, name, entry, depth);
      }
    }
  }

  async #readNames(directory: PinnedDirectory, path: string): Promise<Buffer[]> {
    const names: Buffer[] = [];
    for await (const name of readEntries(directory)) {
      // Files and directories each have the limit; everything above both cannot end well, and need not be remembered.
      if (++this.#seen > 2 * this.#limits.outputFiles + MAXIMUM_REFUSALS) {
        this.#stop(
          path,
          "files",
          `the output directory holds more than ${this.#limits.outputFiles} files; raise limits.outputFiles or write fewer`,
        );
        return [];
      }
      names.push(name);
    }
    return names.sort(Buffer.compare);
  }

  async #scanEntry(directory: PinnedDirectory, parentPath: string, name: Buffer, stats: BigIntStats, depth: number): Promise<void> {
    const decoded = decodeName(name);
    const shownPath =
      escapePath(parentPath === "" ? "" : `${parentPath}/`) + (decoded === undefined ? escapeBytes(name) : escapePath(decoded));
    if (decoded === undefined) return this.#refuse(shownPath, "name", "its name is not valid UTF-8, so no workspace path can name it");
    const kind = refusedKind(stats);
    if (kind !== undefined) return this.#refuse(shownPath, ...kind);
    const path = parseOutputPath(parentPath === "" ? decoded : `${parentPath}/${decoded}`);
    if (typeof path !== "string") return this.#refuse(shownPath, "name", path.message);
    if (stats.isDirectory()) return this.#enterDirectory(directory, path, name, depth);
    return this.#scanFile(directory, path, name, stats);
  }

  async #enterDirectory(parent: PinnedDirectory, path: FilePath, name: Buffer, depth: number): Promise<void> {
    if (depth > this.#limits.outputDepth) {
      return this.#refuse(
        escapePath(path),
        "depth",
        `it is a directory more than ${this.#limits.outputDepth} levels deep; raise limits.outputDepth or nest less`,
      );
    }
    let directory: PinnedDirectory;
    try {
      directory = await pinSubdirectory(parent, name);
    } catch (error) {
      const reason = isSystemError(error, "EACCES", "EPERM")
        ? "unreadable"
        : isSystemError(error, "ENOENT", "ENOTDIR", "ELOOP")
          ? "changed"
          : undefined;
      if (reason === undefined) throw error;
      const message = reason === "unreadable" ? "it is a directory that may not be read" : "it was a directory and is none any more";
      return this.#refuse(escapePath(path), reason, message);
    }
    try {
      await this.#scanDirectory(directory, path, depth + 1);
    } finally {
      await directory.handle.close();
    }
  }

  async #scanFile(directory: PinnedDirectory, path: FilePath, name: Buffer, stats: BigIntStats): Promise<void> {
    const limits = this.#limits;
    if (this.#files.length >= limits.outputFiles) {
      return this.#stop(
        "",
        "files",
        `the output directory holds more than ${limits.outputFiles} files; raise limits.outputFiles or write fewer`,
      );
    }
    const identity = identityOf(stats);
    if (!(await isReadable(directory, name))) return this.#refuse(escapePath(path), "unreadable", "it may not be read");
    if (isSparse(stats, limits.sparseRatio) && (await staysSparse(directory, name, identity, limits.sparseRatio))) {
      return this.#refuse(
        escapePath(path),
        "sparse",
        `it is sparse: ${stats.size} bytes on ${stats.blocks * 512n} bytes of disk; write it without holes or raise limits.sparseRatio`,
      );
    }
    const size = Number(stats.size);
    if (this.#bytes + size > limits.outputBytes) {
      return this.#stop(
        escapePath(path),
        "bytes",
        `with it the outputs have more than ${limits.outputBytes} bytes; raise limits.outputBytes or write less`,
      );
    }
    this.#bytes += size;
    this.#files.push({ path, size, identity });
    if (stats.nlink > 1n) {
      const key = `${stats.dev}:${stats.ino}`;
      const known = this.#linked.get(key);
      if (known === undefined) this.#linked.set(key, { links: stats.nlink, paths: [path] });
      else known.paths.push(path);
    }
  }

  /** A file all of whose names are in here is nobody else's. */
  #withoutOutsideLinks(): readonly ScannedFile[] {
    const refused = new Set<FilePath>();
    for (const { links, paths } of this.#linked.values()) {
      if (BigInt(paths.length) >= links) continue;
      for (const path of paths) {
        refused.add(path);
        this.#refuse(escapePath(path), "hard-link", "it is a hard link to a file outside the output directory; copy the file instead");
      }
    }
    if (refused.size === 0) return this.#files;
    return this.#files.filter((file) => {
      if (refused.has(file.path)) this.#bytes -= file.size;
      return !refused.has(file.path);
    });
  }

  #refuse(path: string, reason: RefusalReason, message: string): void {
    this.#refusalCount++;
    if (this.#refusals.length < MAXIMUM_REFUSALS) this.#refusals.push({ path, reason, message });
  }

  #stop(path: string, reason: RefusalReason, message: string): void {
    this.#refuse(path, reason, message);
    this.#isOver = true;
  }
}

function refusedKind(stats: BigIntStats): [RefusalReason, string] | undefined {
  if (stats.isSymbolicLink()) return ["symbolic-link", "it is a symbolic link; copy what it points to instead"];
  if (stats.isFIFO()) return ["fifo", "it is a FIFO; remove it before the job ends"];
  if (stats.isSocket()) return ["socket", "it is a socket; remove it before the job ends"];
  if (stats.isBlockDevice() || stats.isCharacterDevice()) return ["device", "it is a device; remove it before the job ends"];
  // A directory's setgid bit only says which group new files get.
  if (stats.isFile() && (stats.mode & 0o6000n) !== 0n) return ["set-id", "it is a setuid or setgid file; clear the bit (chmod a-s)"];
  if (!stats.isFile() && !stats.isDirectory()) return ["device", "it is neither a file nor a directory"];
  return undefined;
}

function identityOf(stats: BigIntStats): FileIdentity {
  return { device: stats.dev, inode: stats.ino, size: stats.size, modifiedNs: stats.mtimeNs, changedNs: stats.ctimeNs };
}

function sameIdentity(left: FileIdentity, right: FileIdentity): boolean {
  return (
    left.device === right.device &&
    left.inode === right.inode &&
    left.size === right.size &&
    left.modifiedNs === right.modifiedNs &&
    left.changedNs === right.changedNs
  );
}

function isSparse(stats: BigIntStats, ratio: number): boolean {
  return stats.size >= SPARSE_FROM_BYTES && stats.blocks * 512n * BigInt(ratio) < stats.size;
}

/** Some file systems give a file its blocks only when it is written back: asked again after that. */
async function staysSparse(directory: PinnedDirectory, name: Buffer, identity: FileIdentity, ratio: number): Promise<boolean> {
  let handle: FileHandle | undefined;
  try {
    handle = await openRegularEntry(directory, name, (stats) => sameIdentity(identityOf(stats), identity));
    if (handle === undefined) return true;
    await handle.datasync();
    return isSparse(await handle.stat({ bigint: true }), ratio);
  } catch (error) {
    if (isSystemError(error, "ENOENT", "ELOOP", "ENXIO", "EACCES")) return true;
    throw error;
  } finally {
    await handle?.close();
  }
}

/** Only so that it is said before anything is stored; what counts is whether it opens then. */
async function isReadable(directory: PinnedDirectory, name: Buffer): Promise<boolean> {
  if (process.geteuid?.() === 0) return true;
  try {
    await access(pinnedEntry(directory, name), constants.R_OK);
    return true;
  } catch (error) {
    return !isSystemError(error, "EACCES", "EPERM");
  }
}

function parseOutputPath(path: string): FilePath | { readonly message: string } {
  try {
    return parseTargetPath(path);
  } catch (error) {
    if (!StowageError.is(error)) throw error;
    // "invalid path "…": it is …": what comes first is said already.
    return { message: error.message.replace(/^invalid (?:target )?path ".*?": /su, "") };
  }
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decodeName(name: Buffer): string | undefined {
  try {
    return decoder.decode(name);
  } catch {
    return undefined;
  }
}

function escapeBytes(name: Buffer): string {
  return [...name]
    .map((byte) => (byte >= 0x20 && byte < 0x7f && byte !== 0x5c ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, "0")}`))
    .join("");
}

function missingIsUndefined(error: unknown): undefined {
  if (isSystemError(error, "ENOENT")) return undefined;
  throw error;
}
