import { chmodSync, closeSync, constants, fsync, lstatSync, mkdirSync, openSync, realpathSync, statSync } from "node:fs";
import { promisify } from "node:util";
import { escapePath } from "../file-path.ts";
import { StowageError } from "../stowage-error.ts";
import { containmentError, describePosixError, isErrno, notAFile } from "./posix-errors.ts";
import { resolveLinks } from "./resolve-links.ts";
import { fileSystemOfHandle, O_PATH, type VolumeFileSystem, type VolumeRoot } from "./volume-root.ts";

const fsyncAsync = promisify(fsync);

/** Directories that are held open at once, beyond those in use. */
export const MAXIMUM_HANDLES = 256;

const OPEN_DIRECTORY = O_PATH | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/**
 * A directory of a volume that was reached without following a link and is held open: what is done through `address` is done in this very directory,
 * whatever its path has become. Given with a reference: whoever got it calls `release`.
 */
export interface PinnedDirectory {
  /** Path in the workspace; `""` is the root. */
  readonly path: string;
  /** What to put before `/<name>` for `node:fs`; also names the directory itself. */
  readonly address: string;
  readonly fileSystem: VolumeFileSystem;
}

/** A place for a file: a pinned directory and a name in it. Given with a reference to the directory. */
export interface FileLocation {
  readonly directory: PinnedDirectory;
  readonly name: string;
}

interface Pin extends PinnedDirectory {
  /** -1 where containment is only checked. */
  readonly fd: number;
  readonly device: bigint;
  readonly inode: bigint;
  /** Made by this process, which then owes its entry to stable storage. */
  readonly isMade: boolean;
  references: number;
  /** The call in which the path was last seen to lead here. */
  call: number;
  isEntryDurable: boolean;
  /** No longer what its path leads to, or over the limit: closed as soon as nobody uses it. */
  isForgotten: boolean;
}

export interface PinnedDirectoriesOptions {
  readonly symlinks: "inside" | "refuse";
  readonly directoryMode: number;
  /** This process has a umask of 0 and a working directory that may be changed: a child of ours, never a user's process. */
  readonly changeDirectory: boolean;
  /** Defaults to `MAXIMUM_HANDLES`. */
  readonly maximumHandles?: number | undefined;
}

/** What a path was found to be on the way to a directory. */
type Step = Pin | "missing" | "link";

/**
 * The one owner of paths inside a volume. A directory is reached component by component, each opened relative to the handle of the one before and
 * never through a link; handles are kept (least recently used first out), and once in every call are checked against what the path leads to by then.
 */
export class PinnedDirectories {
  readonly root: VolumeRoot;
  readonly #options: PinnedDirectoriesOptions;
  readonly #pins = new Map<string, Pin>();
  readonly #rootPin: Pin;
  #workingDirectory: PinnedDirectory | undefined;
  #call = 0;

  constructor(root: VolumeRoot, options: PinnedDirectoriesOptions) {
    this.root = root;
    this.#options = options;
    this.#rootPin = {
      path: "",
      address: root.address === "" ? "/" : root.address,
      fileSystem: root.fileSystem,
      fd: -1,
      device: root.device,
      inode: 0n,
      isMade: false,
      references: 1,
      call: 0,
      isEntryDurable: true,
      isForgotten: false,
    };
  }

  /** Begins a call, or a step of a batch: what earlier ones found is checked again before it is used. */
  beginCall(): void {
    this.#call++;
  }

  /** The directory, or `undefined` when there is none. Throws `PERMISSION_DENIED` when a link is on the way. */
  find(path: string): PinnedDirectory | undefined {
    const step = this.#onceMore(path, () => this.#walk(path, false));
    return step === "missing" ? undefined : this.#refuseLink(step, path);
  }

  /** The directory; makes it and what is missing above it. Throws `PERMISSION_DENIED` when a link is on the way, `NOT_A_FILE` when a file is. */
  make(path: string): PinnedDirectory {
    const step = this.#onceMore(path, () => this.#walk(path, true));
    if (step === "missing") throw vanished(path);
    return this.#refuseLink(step, path);
  }

  /**
   * Where the file at `path` really is, for reading: links that stay inside are followed where the volume allows it, the last one too.
   * Nothing says that there is a file. `undefined` when a directory on the way is missing. Throws `PERMISSION_DENIED` when the way leads out.
   */
  locate(path: string): FileLocation | undefined {
    const { directory, name } = splitPath(path);
    const step = this.#onceMore(path, () => this.#walk(directory, false));
    if (step === "missing") return undefined;
    if (step !== "link") return { directory: step, name };
    return this.followLinks(path);
  }

  /** As `locate`, when it is known that there is a link on the way or at the end. */
  followLinks(path: string): FileLocation | undefined {
    const real = resolveLinks(this, path, this.#options.symlinks);
    if (real === undefined) return undefined;
    const { directory, name } = splitPath(real);
    if (name === "") throw notAFile(path, "a directory");
    const pinned = this.find(directory);
    return pinned === undefined ? undefined : { directory: pinned, name };
  }

  /** The directory at `path` for reading it, through links as `locate`. */
  findThroughLinks(path: string): PinnedDirectory | undefined {
    const step = this.#onceMore(path, () => this.#walk(path, false));
    if (step === "missing") return undefined;
    if (step !== "link") return step;
    const real = resolveLinks(this, path, this.#options.symlinks);
    return real === undefined ? undefined : this.find(real);
  }

  release(directory: PinnedDirectory): void {
    const pin = directory as Pin;
    pin.references--;
    if (pin.isForgotten && pin.references === 0) this.#closePin(pin);
  }

  /** Another reference to a directory that the caller holds. */
  retain(directory: PinnedDirectory): PinnedDirectory {
    (directory as Pin).references++;
    return directory;
  }

  /**
   * The path to give to `node:fs` for `name` in `directory`, good until the next call of this object that may change the working directory: use it at once.
   * In a child of ours it is relative, which spares the kernel half of the way.
   */
  entry(directory: PinnedDirectory, name: string): string {
    return this.#workingDirectory === directory ? name : `${directory === this.#rootPin ? this.root.address : directory.address}/${name}`;
  }

  /** Makes `directory` the one that `entry` has the shortest way to. Does nothing in a user's process. */
  enter(directory: PinnedDirectory): void {
    if (!this.#options.changeDirectory || this.#workingDirectory === directory) return;
    process.chdir(directory.address);
    this.#workingDirectory = directory;
  }

  /** Brings the names in `directory` to stable storage, and, once for each handle, the directory's own name and those above it. */
  async sync(directory: PinnedDirectory): Promise<void> {
    await this.#syncOne(directory, true);
    let below = directory as Pin;
    const held: Pin[] = [];
    try {
      while (below.path !== "" && !below.isEntryDurable) {
        const parent = this.find(splitPath(below.path).directory) as Pin | undefined;
        if (parent === undefined) throw vanished(below.path);
        held.push(parent);
        // The names of directories that were there before are somebody else's promise; without the right to read, all that can be had is what we made.
        await this.#syncOne(parent, below.isMade);
        below.isEntryDurable = true;
        below = parent;
      }
    } finally {
      for (const pin of held) this.release(pin);
    }
  }

  async #syncOne(directory: PinnedDirectory, isDemanded: boolean): Promise<void> {
    let fd: number;
    try {
      fd = openSync(directory.address, constants.O_RDONLY | constants.O_DIRECTORY);
    } catch (error) {
      if (!isDemanded && isErrno(error, "EACCES", "EPERM")) return;
      throw describePosixError(error, { action: "bring to stable storage the directory", path: directory.path, side: "workspace" });
    }
    try {
      await fsyncAsync(fd);
    } catch (error) {
      throw describePosixError(error, { action: "bring to stable storage the directory", path: directory.path, side: "workspace" });
    } finally {
      closeSync(fd);
    }
  }

  /** Lets go of every handle that is not in use, so that all is walked anew. Throws when the root itself is gone. */
  forget(): void {
    for (const pin of this.#pins.values()) this.#drop(pin);
    this.#pins.clear();
    if (this.root.isRemoved()) {
      throw new StowageError(
        `the workspace's root "${escapePath(this.root.rootPath)}" was removed since it was opened; make it again and open the workspace again`,
        { code: "STALE_HANDLE", retryable: false },
      );
    }
  }

  /** How many directories are held open. */
  get handles(): number {
    return this.#pins.size;
  }

  /** Closes every handle but the root's, those in use at their release, and leaves the volume as working directory. */
  close(): void {
    if (this.#workingDirectory !== undefined) {
      this.#workingDirectory = undefined;
      process.chdir("/");
    }
    for (const pin of this.#pins.values()) this.#drop(pin);
    this.#pins.clear();
  }

  // ---------- walking ----------

  /** Runs a walk, and once more from the root when it met a handle that the server no longer knows. */
  #onceMore<T>(path: string, walk: () => T): T {
    for (let attempt = 1; ; attempt++) {
      try {
        return walk();
      } catch (error) {
        if (attempt > 1 || !isStale(error)) throw describePosixError(error, { action: "open the directory of", path, side: "workspace" });
        this.forget();
      }
    }
  }

  #walk(path: string, make: boolean): Step {
    if (path === "") {
      this.#rootPin.references++;
      return this.#rootPin;
    }
    const known = this.#pins.get(path);
    if (known !== undefined && known.call === this.#call) {
      // Last in the order of insertion is the most recently used.
      this.#pins.delete(path);
      this.#pins.set(path, known);
      known.references++;
      return known;
    }
    const { directory, name } = splitPath(path);
    assertSegment(name, path);
    const parent = this.#walk(directory, make);
    if (parent === "missing" || parent === "link") return parent;
    try {
      if (known !== undefined) {
        if (this.#stillLeadsTo(parent, name, known)) {
          known.call = this.#call;
          known.references++;
          return known;
        }
        this.#pins.delete(path);
        this.#drop(known);
      }
      const pin = this.#open(parent, name, path, make);
      if (pin === "missing" || pin === "link") return pin;
      this.#pins.set(path, pin);
      this.#evict();
      return pin;
    } finally {
      this.release(parent);
    }
  }

  #stillLeadsTo(parent: Pin, name: string, pin: Pin): boolean {
    const stats = lstatSync(`${this.#prefix(parent)}/${name}`, { bigint: true, throwIfNoEntry: false });
    if (stats === undefined || !stats.isDirectory() || stats.ino !== pin.inode || stats.dev !== pin.device) return false;
    return this.root.containment === "pinned" || realpathSync(pin.address) === pin.address;
  }

  #open(parent: Pin, name: string, path: string, make: boolean): Step {
    const address = `${this.#prefix(parent)}/${name}`;
    let isMade = false;
    // Each turn beyond the second answers to somebody who changes the directory at this moment.
    for (let attempt = 0; attempt < 8; attempt++) {
      try {
        return this.root.containment === "pinned"
          ? this.#adopt(openSync(address, OPEN_DIRECTORY), parent, path, isMade)
          : this.#check(address, parent, path, isMade);
      } catch (error) {
        if (isErrno(error, "ENOENT")) {
          if (!make) return "missing";
          isMade = this.#makeOne(address, path) || isMade;
        } else if (isErrno(error, "ENOTDIR", "ELOOP")) {
          const stats = lstatSync(address, { throwIfNoEntry: false });
          if (stats?.isSymbolicLink()) return "link";
          if (stats === undefined || stats.isDirectory()) continue;
          if (!make) return "missing";
          throw new StowageError(`cannot make the directory "${escapePath(path)}": a file is in the way`, {
            code: "NOT_A_FILE",
            file: path,
            cause: error,
          });
        } else if (!isErrno(error, "EMFILE", "ENFILE") || !this.#closeIdle()) {
          throw error;
        }
      }
    }
    throw new StowageError(`the directory "${escapePath(path)}" was replaced again and again while it was being opened; try again`, {
      code: "STALE_HANDLE",
      file: path,
    });
  }

  #adopt(fd: number, parent: Pin, path: string, isMade: boolean): Pin {
    try {
      // Through /proc: one call gives what fstat would, and node:fs has no fchmod for such a handle.
      const address = `/proc/self/fd/${fd}`;
      const stats = statSync(address, { bigint: true });
      if (isMade) this.#correctMode(address, Number(stats.mode));
      return this.#createPin(fd, address, parent, path, isMade, stats);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  #check(address: string, parent: Pin, path: string, isMade: boolean): Pin {
    const stats = lstatSync(address, { bigint: true });
    if (!stats.isDirectory()) throw Object.assign(new Error("not a directory"), { code: "ENOTDIR" });
    if (realpathSync(address) !== address) throw containmentError(path, path, "on its way");
    if (isMade) this.#correctMode(address, Number(stats.mode));
    return this.#createPin(-1, address, parent, path, isMade, stats);
  }

  #createPin(
    fd: number,
    address: string,
    parent: Pin,
    path: string,
    isMade: boolean,
    stats: { readonly dev: bigint; readonly ino: bigint },
  ): Pin {
    return {
      path,
      address,
      // Another device: something is mounted here, perhaps of another type.
      fileSystem: stats.dev === parent.device || fd < 0 ? parent.fileSystem : fileSystemOfHandle(fd),
      fd,
      device: stats.dev,
      inode: stats.ino,
      isMade,
      references: 1,
      call: this.#call,
      isEntryDurable: false,
      isForgotten: false,
    };
  }

  /** Returns whether it was this call that made it. */
  #makeOne(address: string, path: string): boolean {
    try {
      mkdirSync(address, this.#options.directoryMode);
      return true;
    } catch (error) {
      if (isErrno(error, "EEXIST")) return false;
      if (isErrno(error, "ENOENT")) throw vanished(path);
      throw describePosixError(error, { action: "make the directory", path, side: "workspace" });
    }
  }

  #correctMode(address: string, mode: number): void {
    const { changeDirectory, directoryMode } = this.#options;
    if (changeDirectory || (mode & 0o777) === directoryMode) return;
    try {
      // What the parent handed down (setgid) stays.
      chmodSync(address, (mode & 0o7000) | directoryMode);
    } catch (error) {
      if (!isErrno(error, "EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS")) throw error;
    }
  }

  // ---------- links ----------

  #refuseLink(step: Pin | "link", path: string): Pin {
    if (step !== "link") return step;
    let link = path;
    const segments = path.split("/");
    for (let length = 1; length <= segments.length; length++) {
      const prefix = segments.slice(0, length).join("/");
      const pin = this.#walk(prefix, false);
      if (pin === "missing") break;
      if (pin === "link") {
        link = prefix;
        break;
      }
      this.release(pin);
    }
    throw containmentError(path, link, "and links are never followed for writing or deleting; name the real directory");
  }

  // ---------- handles ----------

  #prefix(directory: PinnedDirectory): string {
    return directory === this.#rootPin ? this.root.address : directory.address;
  }

  #evict(): void {
    if (this.#pins.size <= (this.#options.maximumHandles ?? MAXIMUM_HANDLES)) return;
    for (const [path, pin] of this.#pins) {
      if (pin.references > 0) continue;
      this.#pins.delete(path);
      this.#closePin(pin);
      return;
    }
  }

  /** Closes what nobody uses; says whether there was any. */
  #closeIdle(): boolean {
    let isFreed = false;
    for (const [path, pin] of this.#pins) {
      if (pin.references > 0) continue;
      this.#pins.delete(path);
      this.#closePin(pin);
      isFreed = true;
    }
    return isFreed;
  }

  #drop(pin: Pin): void {
    pin.isForgotten = true;
    if (pin.references === 0) this.#closePin(pin);
  }

  #closePin(pin: Pin): void {
    if (pin.fd >= 0) closeSync(pin.fd);
  }
}

/** Whether an error says that a handle leads nowhere any more, so that walking anew may help. */
export function isStale(error: unknown): boolean {
  return StowageError.is(error) ? error.code === "STALE_HANDLE" && error.retryable : isErrno(error, "ESTALE");
}

/** A directory was removed or replaced under our hands. */
export function vanished(path: string): StowageError {
  return new StowageError(
    `the directory ${path === "" ? "of the workspace" : `"${escapePath(path)}"`} was removed or replaced during the call; try again`,
    {
      code: "STALE_HANDLE",
      file: path,
    },
  );
}

/** The directory and the name of a path in the workspace. */
export function splitPath(path: string): { readonly directory: string; readonly name: string } {
  const slash = path.lastIndexOf("/");
  return slash < 0 ? { directory: "", name: path } : { directory: path.slice(0, slash), name: path.slice(slash + 1) };
}

/** Paths were parsed long before; a walk that took `..` would be no containment, so it does not rely on that. */
export function assertSegment(segment: string, path: string): void {
  if (segment === "" || segment === "." || segment === ".." || segment.includes("\0")) {
    throw new StowageError(`invalid path "${escapePath(path)}": it has an empty, "." or ".." segment, or NUL`, {
      code: "INVALID_PATH",
      file: path,
    });
  }
}
