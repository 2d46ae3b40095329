import { closeSync, constants, fstatSync, lstatSync, openSync, type Stats } from "node:fs";
import { isAbsolute } from "node:path";
import { escapePath } from "../file-path.ts";
import { StowageError } from "../stowage-error.ts";
import { assertSegment, type FileLocation, type PinnedDirectories, splitPath } from "./pinned-directory.ts";
import { containmentError, describePosixError, fileNotFound, isErrno, notAFile } from "./posix-errors.ts";

const OPEN_SOURCE = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;
const OPEN_STORED = OPEN_SOURCE | constants.O_NOFOLLOW;

/** A descriptor that may be in use by a thread which nobody waits for any more: it is closed only when that has let go of it, lest its number come to mean another file. */
export class OpenFile {
  readonly fd: number;
  #users = 0;
  #isClosing = false;
  #isClosed = false;

  constructor(fd: number) {
    this.fd = fd;
  }

  /** Keeps the descriptor open until `work` has settled. */
  useUntil(work: PromiseLike<unknown>): void {
    this.#users++;
    const settled = (): void => {
      this.#users--;
      // Nobody is left who could be told of a failure.
      if (this.#isClosing && this.#users === 0) this.#closeQuietly();
    };
    work.then(settled, settled);
  }

  /** Closes it, now or as soon as it is out of use; a second call does nothing. Throws what the system says: on network file systems that is where a write fails. */
  close(): void {
    if (this.#isClosing) return;
    this.#isClosing = true;
    if (this.#users > 0) return;
    this.#isClosed = true;
    closeSync(this.fd);
  }

  /** `close` on the way out of a failure. */
  discard(): void {
    if (this.#isClosing) return;
    this.#isClosing = true;
    if (this.#users === 0) this.#closeQuietly();
  }

  #closeQuietly(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    try {
      closeSync(this.fd);
    } catch {
      // The descriptor is gone in any case.
    }
  }
}

/** A regular file that is open for reading, and its state at that moment. */
export class SourceFile extends OpenFile {
  readonly stats: Stats;
  /** As its user knows it: a path in the workspace, or a local one. */
  readonly path: string;
  readonly side: "workspace" | "local";
  /** `path` without the links that it goes through; of local files just `path`. */
  readonly realPath: string;

  constructor(fd: number, stats: Stats, path: string, side: "workspace" | "local", realPath: string) {
    super(fd);
    this.stats = stats;
    this.path = path;
    this.side = side;
    this.realPath = realPath;
  }

  /** Throws `SHORT_SOURCE` when the file has lost bytes since it was opened, `SOURCE_CHANGED` when it was written to. */
  assertUnchanged(): void {
    const before = this.stats;
    const after = fstatSync(this.fd);
    if (after.size === before.size && after.mtimeMs === before.mtimeMs) return;
    throw changedSource(this, after.size);
  }
}

/** The source turned out to have another size, or to have been written to, since it was opened. */
export function changedSource(source: SourceFile, bytes: number): StowageError {
  const name = `${source.side === "local" ? "the local file " : ""}"${escapePath(source.path)}"`;
  return bytes < source.stats.size
    ? new StowageError(
        `${name} ended after ${bytes} of ${source.stats.size} bytes: it was cut while it was read; try again when nobody writes to it`,
        {
          code: "SHORT_SOURCE",
        },
      )
    : new StowageError(`${name} changed while it was read; try again when nobody writes to it`, { code: "SOURCE_CHANGED" });
}

/** Refuses local paths that would depend on the working directory, which in a child is inside the volume. */
export function assertLocalPath(localPath: string): void {
  if (isAbsolute(localPath) && !localPath.includes("\0")) return;
  throw new StowageError(`the local path "${escapePath(localPath)}" is not absolute, or has NUL in it`, { code: "INVALID_ARGUMENT" });
}

/** Opens a regular local file, through links, without waiting for a FIFO or a device. Throws `FILE_NOT_FOUND` or `NOT_A_FILE`. */
export function openLocalFile(localPath: string): SourceFile {
  assertLocalPath(localPath);
  let fd: number;
  try {
    fd = openSync(localPath, OPEN_SOURCE);
  } catch (error) {
    if (isErrno(error, "ENOENT", "ENOTDIR")) throw fileNotFound(localPath, "local", error);
    if (isErrno(error, "ENXIO", "ENODEV")) throw notAFile(localPath, "a socket or device", "local", error);
    throw describePosixError(error, { action: "open", path: localPath, side: "local" });
  }
  return openedSource(fd, localPath, "local", localPath);
}

/** Opens a regular file of the volume, through links only where and as far as the volume allows. Throws `FILE_NOT_FOUND`, `NOT_A_FILE` or `PERMISSION_DENIED`. */
export function openStoredFile(directories: PinnedDirectories, path: string): SourceFile {
  let location = directories.locate(path);
  // The leaf can be made a link between looking and opening; whoever does that eight times in a row is refused.
  for (let attempt = 0; attempt < 8; attempt++) {
    if (location === undefined) throw fileNotFound(path);
    try {
      return openEntry(directories, location, path);
    } catch (error) {
      if (!isErrno(error, "ELOOP", "EMLINK")) throw describeOpenError(error, path);
    } finally {
      directories.release(location.directory);
    }
    location = directories.followLinks(path);
  }
  throw containmentError(path, path, "that was replaced again and again while it was being opened");
}

/** Opens the very file at `location`, never through a link: then it throws the system's `ELOOP`. */
export function openEntry(directories: PinnedDirectories, { directory, name }: FileLocation, path: string): SourceFile {
  assertSegment(name, path);
  directories.enter(directory);
  const fd = openSync(directories.entry(directory, name), OPEN_STORED);
  return openedSource(fd, path, "workspace", directory.path === "" ? name : `${directory.path}/${name}`);
}

/** Why an entry could not be opened. */
export function describeOpenError(error: unknown, path: string): unknown {
  if (isErrno(error, "ENOENT", "ENOTDIR")) return fileNotFound(path, "workspace", error);
  if (isErrno(error, "ENXIO", "ENODEV")) return notAFile(path, "a socket or device", "workspace", error);
  return describePosixError(error, { action: "open", path, side: "workspace" });
}

function openedSource(fd: number, path: string, side: "workspace" | "local", realPath: string): SourceFile {
  try {
    const stats = fstatSync(fd);
    if (!stats.isFile()) throw notAFile(path, kindOf(stats), side);
    return new SourceFile(fd, stats, path, side, realPath);
  } catch (error) {
    closeSync(fd);
    throw describePosixError(error, { action: "look at", path, side });
  }
}

/** The state of what is at `path`, through links as for reading; `undefined` when nothing is, or what is there is no regular file. */
export function statStoredFile(directories: PinnedDirectories, path: string): Stats | undefined {
  let location: FileLocation | undefined = locateForStat(() => directories.locate(path));
  for (let attempt = 0; attempt < 8 && location !== undefined; attempt++) {
    const { directory, name } = location;
    try {
      assertSegment(name, path);
      const stats = lstatSync(directories.entry(directory, name), { throwIfNoEntry: false });
      if (!stats?.isSymbolicLink()) return stats?.isFile() ? stats : undefined;
    } catch (error) {
      throw describePosixError(error, { action: "look at", path, side: "workspace" });
    } finally {
      directories.release(directory);
    }
    location = locateForStat(() => directories.followLinks(path));
  }
  return undefined;
}

/** A circle of links, or one that leads to a directory, is no file: that is no error to whoever only asks whether there is one. */
function locateForStat(locate: () => FileLocation | undefined): FileLocation | undefined {
  try {
    return locate();
  } catch (error) {
    if (StowageError.is(error) && error.code === "NOT_A_FILE") return undefined;
    throw error;
  }
}

/** The state of the very entry at `path`: a link is a link. `undefined` when there is none. The location is the caller's to release. */
export function findEntry(
  directories: PinnedDirectories,
  path: string,
): { readonly location: FileLocation; readonly stats: Stats } | undefined {
  const { directory: parent, name } = splitPath(path);
  assertSegment(name, path);
  const directory = directories.find(parent);
  if (directory === undefined) return undefined;
  try {
    const stats = lstatSync(directories.entry(directory, name), { throwIfNoEntry: false });
    if (stats !== undefined) return { location: { directory, name }, stats };
  } catch (error) {
    directories.release(directory);
    throw describePosixError(error, { action: "look at", path, side: "workspace" });
  }
  directories.release(directory);
  return undefined;
}

/** What something is that is no regular file, in words. */
export function kindOf(
  stats: Pick<Stats, "isDirectory" | "isSymbolicLink" | "isFIFO" | "isSocket" | "isCharacterDevice" | "isBlockDevice">,
): string {
  if (stats.isDirectory()) return "a directory";
  if (stats.isSymbolicLink()) return "a symbolic link";
  if (stats.isFIFO()) return "a named pipe (FIFO)";
  if (stats.isSocket()) return "a socket";
  if (stats.isCharacterDevice() || stats.isBlockDevice()) return "a device";
  return "something else";
}
