import { constants, fsync, futimesSync, linkSync, lstatSync, openSync, renameSync, type Stats, symlinkSync, unlinkSync } from "node:fs";
import { basename, dirname } from "node:path";
import { promisify } from "node:util";
import { escapePath } from "../file-path.ts";
import { toFileTime } from "../file-time.ts";
import { addLeftover } from "../local-file.ts";
import { StowageError } from "../stowage-error.ts";
import { assertLocalPath, kindOf, OpenFile } from "./open-file.ts";
import { assertSegment, type PinnedDirectories, type PinnedDirectory, splitPath, vanished } from "./pinned-directory.ts";
import { describePosixError, fileExists, isErrno, NO_ATTRIBUTES, NO_LINKS, notAFile } from "./posix-errors.ts";
import { fileSystemKindOf, type VolumeFileSystem } from "./volume-root.ts";

const fsyncAsync = promisify(fsync);

const CREATE = constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;

export type IfExists = "replace" | "fail" | "skip";

/** Where a file is to appear: a name in a directory that stays the same one, and a temporary name beside it. */
export interface Place {
  /** As its user knows it: a path in the workspace, or a local one. */
  readonly path: string;
  readonly side: "workspace" | "local";
  readonly name: string;
  readonly temporaryName: string;
  /** For `node:fs`, at once. */
  entry(name: string): string;
  fileSystem(): VolumeFileSystem["kind"];
  /** What to call the temporary name when it could not be removed. */
  leftoverName(): string;
  /** The directory is gone. */
  vanished(cause: unknown): StowageError;
  /** Brings the directory, and those above it that were made, to stable storage. */
  sync(): Promise<void>;
  release(): void;
}

/** What of an opened volume decides where and whether a file may appear on it. */
export interface PlaceEnvironment {
  readonly directories: PinnedDirectories;
  readonly volume: { readonly fuseWrites: "refuse" | "best-effort" };
  /** Told of the directory before a temporary name is made in it. */
  announce(directory: PinnedDirectory): void;
}

/** A place on the volume; makes the directories that are missing. */
export function openVolumePlace(
  environment: PlaceEnvironment,
  path: string,
  command: { readonly temporaryName: string; readonly durability: "process" | "power" },
): Place {
  const { directories } = environment;
  const { directory: parent, name } = splitPath(path);
  assertSegment(name, path);
  assertSegment(command.temporaryName, path);
  const directory = directories.make(parent);
  try {
    assertWritable(environment, directory, path, command.durability);
    environment.announce(directory);
    directories.enter(directory);
  } catch (error) {
    directories.release(directory);
    throw describePosixError(error, { action: "write", path, side: "workspace" });
  }
  return new VolumePlace(directories, directory, path, name, command.temporaryName);
}

// A class, since one is made for every file: methods cost nothing then.
class VolumePlace implements Place {
  readonly path: string;
  readonly side = "workspace" as const;
  readonly name: string;
  readonly temporaryName: string;
  readonly #directories: PinnedDirectories;
  readonly #directory: PinnedDirectory;

  constructor(directories: PinnedDirectories, directory: PinnedDirectory, path: string, name: string, temporaryName: string) {
    this.#directories = directories;
    this.#directory = directory;
    this.path = path;
    this.name = name;
    this.temporaryName = temporaryName;
  }

  entry(name: string): string {
    return this.#directories.entry(this.#directory, name);
  }

  fileSystem(): VolumeFileSystem["kind"] {
    return this.#directory.fileSystem.kind;
  }

  leftoverName(): string {
    return this.#directory.path === "" ? this.temporaryName : `${this.#directory.path}/${this.temporaryName}`;
  }

  vanished(): StowageError {
    return vanished(this.#directory.path);
  }

  sync(): Promise<void> {
    return this.#directories.sync(this.#directory);
  }

  release(): void {
    this.#directories.release(this.#directory);
  }
}

/** Refuses what cannot be promised on a FUSE mount, of which many say that bytes are stored before they are. */
export function assertWritable(
  environment: Pick<PlaceEnvironment, "volume">,
  { fileSystem }: PinnedDirectory,
  path: string,
  durability: "process" | "power",
): void {
  if (fileSystem.kind !== "fuse") return;
  if (environment.volume.fuseWrites === "refuse") {
    throw new StowageError(
      `"${escapePath(path)}" lies on a FUSE mount (${fileSystem.type}), which is read-only to this workspace; set fuseWrites to "best-effort" if its program can be trusted to keep what is written, or use a broker that speaks to the storage itself`,
      { code: "READ_ONLY", file: path },
    );
  }
  if (durability === "power") {
    throw new StowageError(
      `durability "power" cannot be promised on a FUSE mount (${fileSystem.type}), which says that bytes are on stable storage before they are; ask for "process"`,
      { code: "UNSUPPORTED", file: path },
    );
  }
}

/** A place on the local file system. Its directory exists. */
export function openLocalPlace(localPath: string, temporaryName: string): Place {
  assertLocalPath(localPath);
  const parent = dirname(localPath);
  const prefix = parent === "/" ? "" : parent;
  const name = basename(localPath);
  if (name === "" || localPath.endsWith("/") || name === "." || name === "..") {
    throw new StowageError(`the local path "${escapePath(localPath)}" names a directory; name a file`, { code: "INVALID_ARGUMENT" });
  }
  return {
    path: localPath,
    side: "local",
    name,
    temporaryName,
    entry: (entryName) => `${prefix}/${entryName}`,
    fileSystem: () => fileSystemKindOf(parent),
    leftoverName: () => `${prefix}/${temporaryName}`,
    vanished: (cause) =>
      new StowageError(`the directory of the local file "${escapePath(localPath)}" does not exist; make it first`, {
        code: "INVALID_ARGUMENT",
        cause,
      }),
    sync: () => syncLocalDirectory(parent),
    release: () => undefined,
  };
}

async function syncLocalDirectory(directory: string): Promise<void> {
  try {
    const handle = new OpenFile(openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY));
    try {
      await fsyncAsync(handle.fd);
    } finally {
      handle.discard();
    }
  } catch (error) {
    throw describePosixError(error, { action: "bring to stable storage", path: directory, side: "local" });
  }
}

/** Throws when something is there that may not be replaced: `NOT_A_FILE`, or `FILE_EXISTS` unless `ifExists` is `"replace"`. */
export function assertReplaceable(place: Place, ifExists: IfExists): void {
  let stats: Stats | undefined;
  try {
    stats = lstatSync(place.entry(place.name), { throwIfNoEntry: false });
  } catch (error) {
    throw describePosixError(error, { action: "look at", path: place.path, side: place.side });
  }
  if (stats === undefined) return;
  // A link is replaced, never followed. On the local side that may be /dev, devices and pipes are left alone too.
  if (stats.isDirectory() || (place.side === "local" && !stats.isFile() && !stats.isSymbolicLink())) {
    throw notAFile(place.path, kindOf(stats), place.side);
  }
  if (ifExists !== "replace") throw fileExists(place.path, place.side);
}

/** Makes the temporary file. FUSE programs that keep no copy of their own refuse files that can be read and written at once: these get one for writing only. */
export function createTemporary(place: Place, mode: number, access: "write" | "read-write"): OpenFile {
  const flags = access === "write" || place.fileSystem() === "fuse" ? CREATE | constants.O_WRONLY : CREATE | constants.O_RDWR;
  try {
    return new OpenFile(openSync(place.entry(place.temporaryName), flags, mode));
  } catch (error) {
    throw describeCreation(place, error);
  }
}

function describeCreation(place: Place, error: unknown): unknown {
  if (isErrno(error, "ENOENT") || (place.side === "local" && isErrno(error, "ENOTDIR"))) return place.vanished(error);
  if (isErrno(error, "EEXIST")) {
    // Never FILE_EXISTS: that would be taken for the target's.
    return new StowageError(`the temporary name "${escapePath(place.leftoverName())}" is taken by another attempt; try again`, {
      code: "UNAVAILABLE",
      file: place.side === "workspace" ? place.path : undefined,
      cause: error,
    });
  }
  return describePosixError(error, { action: "write", path: place.path, side: place.side });
}

/** Gives a new file the time of modification of `stats`: to within a microsecond, and to the millisecond exactly. File systems that keep no such time are left alone. */
export function keepModified(fd: number, stats: Pick<Stats, "mtimeMs">): void {
  setModified(fd, stats.mtimeMs);
}

/** As `keepModified`; milliseconds since 1970, with fractions. */
export function setModified(fd: number, milliseconds: number): void {
  try {
    futimesSync(fd, Date.now() / 1000, toFileTime(milliseconds));
  } catch (error) {
    if (!isErrno(error, ...NO_ATTRIBUTES)) throw error;
  }
}

/** Brings a file's content to stable storage. */
export async function syncFile(file: OpenFile, place: Place): Promise<void> {
  const syncing = fsyncAsync(file.fd);
  file.useUntil(syncing);
  try {
    await syncing;
  } catch (error) {
    throw describePosixError(error, { action: "bring to stable storage", path: place.path, side: place.side });
  }
}

/**
 * Gives the finished temporary file its name, atomically. With `"fail"` and `"skip"` throws `FILE_EXISTS` when there is something already, also against
 * others at the same moment, unless the file system has no hard links.
 */
export function publishTemporary(place: Place, ifExists: IfExists): void {
  if (ifExists === "replace") renameOver(place);
  else linkNew(place);
}

function renameOver(place: Place): void {
  try {
    renameSync(place.entry(place.temporaryName), place.entry(place.name));
  } catch (error) {
    if (isErrno(error, "EISDIR", "ENOTEMPTY", "EEXIST")) throw notAFile(place.path, "a directory", place.side, error);
    if (isErrno(error, "ENOENT")) throw place.vanished(error);
    throw describePosixError(error, { action: "publish", path: place.path, side: place.side });
  }
}

function linkNew(place: Place): void {
  const { temporaryName, name } = place;
  try {
    linkSync(place.entry(temporaryName), place.entry(name));
  } catch (error) {
    if (isErrno(error, "EEXIST")) {
      // A reply that NFS lost and asked for again: our own link is there already.
      if (!isSameFile(place.entry(temporaryName), place.entry(name))) throw existing(place);
    } else if (lacksLinks(error, place)) {
      assertReplaceable(place, "fail");
      renameOver(place);
      return;
    } else {
      if (isErrno(error, "ENOENT")) throw place.vanished(error);
      throw describePosixError(error, { action: "publish", path: place.path, side: place.side });
    }
  }
  try {
    unlinkSync(place.entry(temporaryName));
  } catch {
    // Published by now: a second name that stays is no failure of the file, and `sweep` removes it.
  }
}

/** Whether a failed link says that there are no hard links here, so that only the next best way is left. */
export function lacksLinks(error: unknown, place: Pick<Place, "fileSystem">): boolean {
  return isErrno(error, ...NO_LINKS) || (isErrno(error, "EIO") && place.fileSystem() === "fuse");
}

/** The error for a target that must not exist and does. */
export function existing(place: Place): StowageError {
  try {
    assertReplaceable(place, "fail");
  } catch (error) {
    if (StowageError.is(error)) return error;
  }
  // Gone again, or not to be looked at: it was there a moment ago.
  return fileExists(place.path, place.side);
}

/** Whether two names are links of one file. */
export function isSameFile(one: string, other: string): boolean {
  const [a, b] = [lstatSync(one, { bigint: true, throwIfNoEntry: false }), lstatSync(other, { bigint: true, throwIfNoEntry: false })];
  return a !== undefined && b !== undefined && a.ino === b.ino && a.dev === b.dev;
}

/** Publishes a symbolic link instead of a file. */
export function publishSymbolicLink(place: Place, target: string, ifExists: IfExists): void {
  try {
    // Making a link is exclusive by itself.
    symlinkSync(target, place.entry(ifExists === "replace" ? place.temporaryName : place.name));
  } catch (error) {
    if (ifExists !== "replace" && isErrno(error, "EEXIST")) throw existing(place);
    throw describeCreation(place, error);
  }
  if (ifExists === "replace") renameOver(place);
}

/** Removes the temporary name after `error`, which is told when that cannot be done. */
export function discardTemporary(place: Place, error: unknown): void {
  try {
    unlinkSync(place.entry(place.temporaryName));
  } catch (failure) {
    if (!isErrno(failure, "ENOENT")) addLeftover(error, place.leftoverName());
  }
}
