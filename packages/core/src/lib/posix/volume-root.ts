import { closeSync, constants, existsSync, fstatSync, openSync, readlinkSync, realpathSync, statfsSync } from "node:fs";
import { isAbsolute } from "node:path";
import { escapePath } from "../file-path.ts";
import { StowageError } from "../stowage-error.ts";
import { findMountOfHandle, type Mount, mountIdOfHandle } from "./mountinfo.ts";
import type { PosixVolume } from "./posix-commands.ts";
import { describePosixError, isErrno } from "./posix-errors.ts";

/** Linux's flag for a handle that only names a file; Node has no constant for it. The same on every platform that Node runs on. */
export const O_PATH = 0o10000000;

/** What kind of file system a directory lies on: `local` where a file being written can be read back cheaply, `fuse` where little can be relied on. */
export interface VolumeFileSystem {
  /** As mountinfo names it: `ext4`, `nfs4`, `fuse.rclone`; `"unknown"` where there is no mountinfo. */
  readonly type: string;
  readonly kind: "local" | "network" | "fuse";
}

/** The root of an opened volume. Everything below is reached through it, so that mounting or unmounting at its path later changes nothing. */
export interface VolumeRoot {
  readonly rootPath: string;
  /** `rootPath` without symbolic links, as it was when it was opened. */
  readonly realPath: string;
  /** What to put before `/<segment>` for `node:fs`. */
  readonly address: string;
  readonly containment: "pinned" | "checked";
  readonly fileSystem: VolumeFileSystem;
  readonly device: bigint;
  /** The root's own mount; `undefined` where there is no mountinfo. */
  readonly mount: Mount | undefined;
  /** Whether the directory itself has been removed since it was opened: nothing can be made in it any more. */
  isRemoved(): boolean;
  close(): void;
}

/** Whether this system gives paths through open handles: Linux with /proc. Elsewhere containment is only checked before use. */
export function canPinDirectories(): boolean {
  return process.platform === "linux" && existsSync("/proc/self/fd");
}

/**
 * Opens the root directory once and judges the handle, not the path: with `requireMount` it must lie on a mount other than that of `/`, of one
 * of the accepted types. Throws `VOLUME_NOT_MOUNTED` when it does not, or when there is no such directory; `INVALID_CONFIGURATION` when
 * `rootPath` is relative or no directory; else what the operating system says. `containment` is for tests: `"checked"` does without /proc.
 */
export function openVolumeRoot(
  volume: PosixVolume,
  containment: VolumeRoot["containment"] = canPinDirectories() ? "pinned" : "checked",
): VolumeRoot {
  const { rootPath } = volume;
  if (!isAbsolute(rootPath) || rootPath.includes("\0")) {
    throw new StowageError(`the workspace's root "${escapePath(rootPath)}" is not an absolute path; write it from "/" on`, {
      code: "INVALID_CONFIGURATION",
    });
  }
  return containment === "pinned" ? openPinned(volume) : openChecked(volume);
}

function openPinned(volume: PosixVolume): VolumeRoot {
  const { rootPath } = volume;
  const fd = openRootDirectory(rootPath, O_PATH | constants.O_DIRECTORY);
  try {
    const mount = findMountOfHandle(fd);
    assertMounted(volume, mount);
    const stats = fstatSync(fd, { bigint: true });
    return {
      rootPath,
      realPath: readlinkSync(`/proc/self/fd/${fd}`),
      address: `/proc/self/fd/${fd}`,
      containment: "pinned",
      fileSystem: mount === undefined ? fileSystemOfType("unknown") : fileSystemOfType(mount.type),
      device: stats.dev,
      mount,
      isRemoved: () => fstatSync(fd).nlink === 0,
      close: closeOnce(fd),
    };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function openChecked(volume: PosixVolume): VolumeRoot {
  const { rootPath } = volume;
  if (volume.requireMount !== undefined) {
    throw new StowageError(
      `whether "${escapePath(rootPath)}" is a mounted volume cannot be known on this system, which has no /proc; use a workspace on a directory (broker type "host") here`,
      { code: "UNSUPPORTED" },
    );
  }
  const fd = openRootDirectory(rootPath, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    const realPath = realpathSync(rootPath);
    return {
      rootPath,
      realPath,
      // `//name` would mean something else on some systems.
      address: realPath === "/" ? "" : realPath,
      containment: "checked",
      fileSystem: { type: "unknown", kind: fileSystemKindOf(realPath) },
      device: fstatSync(fd, { bigint: true }).dev,
      mount: undefined,
      isRemoved: () => !existsSync(realPath),
      close: closeOnce(fd),
    };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function closeOnce(fd: number): () => void {
  let isOpen = true;
  return () => {
    if (!isOpen) return;
    isOpen = false;
    closeSync(fd);
  };
}

function openRootDirectory(rootPath: string, flags: number): number {
  try {
    return openSync(rootPath, flags);
  } catch (error) {
    const name = `"${escapePath(rootPath)}"`;
    if (isErrno(error, "ENOENT")) {
      throw new StowageError(`the workspace's root ${name} does not exist: mount the volume there, or make the directory`, {
        code: "VOLUME_NOT_MOUNTED",
        cause: error,
      });
    }
    if (isErrno(error, "ENOTDIR")) {
      throw new StowageError(`the workspace's root ${name} is not a directory, or something above it is not; name a directory`, {
        code: "INVALID_CONFIGURATION",
        cause: error,
      });
    }
    if (isErrno(error, "ENOTCONN")) {
      throw new StowageError(`the program behind the mount at ${name} has ended: unmount it and mount it again`, {
        code: "VOLUME_NOT_MOUNTED",
        cause: error,
      });
    }
    throw describePosixError(error, { action: "open the workspace's root", path: rootPath, side: "local" });
  }
}

function assertMounted(volume: PosixVolume, mount: Mount | undefined): void {
  if (volume.requireMount === undefined) return;
  const { types } = volume.requireMount;
  const name = `"${escapePath(volume.rootPath)}"`;
  const wanted = types.length === 0 ? "a volume" : `a volume of type ${types.join(" or ")}`;
  if (mount === undefined) {
    throw new StowageError(`the volume at ${name} was unmounted while it was being opened; mount it again`, { code: "VOLUME_NOT_MOUNTED" });
  }
  if (mount.mountId === mountIdOfSystemRoot()) {
    throw new StowageError(
      `nothing is mounted at ${name}: it lies on the root file system of this machine or container (${escapePath(mount.type)}), and what is written there would not reach the volume; mount ${wanted} there`,
      { code: "VOLUME_NOT_MOUNTED" },
    );
  }
  if (types.length > 0 && !types.includes(mount.type)) {
    throw new StowageError(
      `what is mounted at ${name} (on "${escapePath(mount.mountPoint)}") is of type ${escapePath(mount.type)}, not ${types.join(" or ")}; mount ${wanted} there, or configure a workspace of a broker type that takes it`,
      { code: "VOLUME_NOT_MOUNTED" },
    );
  }
}

function mountIdOfSystemRoot(): number | undefined {
  const fd = openSync("/", O_PATH | constants.O_DIRECTORY);
  try {
    return mountIdOfHandle(fd);
  } finally {
    closeSync(fd);
  }
}

// Where a copy in the kernel lets others read what it has written so far, and reading that is as cheap as memory.
const LOCAL_TYPES: ReadonlySet<string> = new Set([
  "ext2",
  "ext3",
  "ext4",
  "xfs",
  "btrfs",
  "tmpfs",
  "overlay",
  "f2fs",
  "ramfs",
  "apfs",
  "hfs",
]);

/** What a file system of this type is to us. What is not known counts as a network's, of which the least is assumed. */
export function fileSystemOfType(type: string): VolumeFileSystem {
  if (type === "fuse" || type === "fuseblk" || type.startsWith("fuse.")) return { type, kind: "fuse" };
  return { type, kind: LOCAL_TYPES.has(type) ? "local" : "network" };
}

// statfs(2), f_type.
const FUSE_MAGIC = 0x65735546;
const LOCAL_MAGICS: ReadonlySet<number> = new Set([0xef53, 0x58465342, 0x9123683e, 0x01021994, 0x794c7630, 0xf2f52010, 0x858458f6]);

/** What kind of file system a local path lies on. */
export function fileSystemKindOf(path: string): VolumeFileSystem["kind"] {
  // Elsewhere f_type is a number of no fixed meaning, and there is nothing but disks to expect.
  if (process.platform !== "linux") return "local";
  const magic = statfsSync(path).type;
  return magic === FUSE_MAGIC ? "fuse" : LOCAL_MAGICS.has(magic) ? "local" : "network";
}

/** The file system of an open directory that lies on another device than the volume's root: something is mounted inside the volume. */
export function fileSystemOfHandle(fd: number): VolumeFileSystem {
  return fileSystemOfType(findMountOfHandle(fd)?.type ?? "unknown");
}
