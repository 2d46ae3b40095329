import type { ErrorFacts } from "../broker.ts";
import type { StowageErrorCode } from "../error-codes.ts";
import { escapePath } from "../file-path.ts";
import { StowageError } from "../stowage-error.ts";
import { systemErrorCode } from "../system-error.ts";

/** What libuv has no name for: Node says `Unknown system error -116` of them. */
const UNNAMED: Readonly<Record<number, string>> =
  process.platform === "darwin"
    ? { 64: "EHOSTDOWN", 66: "ENOTEMPTY", 69: "EDQUOT", 70: "ESTALE" }
    : {
        61: "ENODATA",
        70: "ECOMM",
        112: "EHOSTDOWN",
        116: "ESTALE",
        117: "EUCLEAN",
        121: "EREMOTEIO",
        122: "EDQUOT",
        512: "ERESTARTSYS",
        523: "EREMOTEIO",
        528: "EREMOTEIO",
      };

/** The symbolic name of a failed system call's error (`ENOENT`), also of those that Node cannot name; `undefined` of other errors. */
export function errnoName(error: unknown): string | undefined {
  if (typeof error !== "object" || error === null) return undefined;
  const { code, errno } = error as { code?: unknown; errno?: unknown };
  if (typeof errno === "number") {
    const name = UNNAMED[Math.abs(errno)];
    if (name !== undefined && (typeof code !== "string" || code.startsWith("Unknown system error"))) return name;
  }
  return typeof code === "string" && /^E[A-Z0-9]+$/.test(code) ? code : undefined;
}

/** Whether `error` is one of the operating system's errors `names`, also where Node has no name for it. */
export function isErrno(error: unknown, ...names: readonly string[]): boolean {
  const name = errnoName(error);
  return name !== undefined && names.includes(name);
}

/** What the operating system says when a file system has no hard links, or refuses this one. */
export const NO_LINKS: readonly string[] = ["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK"];

/** What it says when there are no modes or times to set, or they are not ours. */
export const NO_ATTRIBUTES: readonly string[] = ["EPERM", "EACCES", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EINVAL"];

/** Beyond what `systemErrorCode` knows: what only file systems say. */
const FILE_SYSTEM_CODES: Readonly<Record<string, StowageErrorCode>> = {
  ENODEV: "NOT_A_FILE",
  ENOTEMPTY: "NOT_A_FILE",
  // A FUSE program that died leaves its mount behind; nobody answers there until it is mounted again.
  ENOTCONN: "VOLUME_NOT_MOUNTED",
  ETXTBSY: "PERMISSION_DENIED",
  ECOMM: "UNAVAILABLE",
  EUCLEAN: "UNAVAILABLE",
  ERESTARTSYS: "UNAVAILABLE",
  EINTR: "UNAVAILABLE",
  EXDEV: "UNSUPPORTED",
  EMLINK: "UNSUPPORTED",
  EINVAL: "UNSUPPORTED",
};

/** The cause behind an error of a file system; `undefined` when it is none. */
export function posixErrorCode(error: unknown): StowageErrorCode | undefined {
  const name = errnoName(error);
  return name === undefined ? undefined : (systemErrorCode({ code: name }) ?? FILE_SYSTEM_CODES[name]);
}

/** What a broker over a mounted directory answers to `errorCode`. */
export function posixErrorFacts(error: unknown): StowageErrorCode | ErrorFacts {
  if (StowageError.is(error)) return { code: error.code, retryable: error.retryable, retryAfterMs: error.retryAfterMs };
  const name = typeof error === "object" && error !== null ? (error as { name?: unknown }).name : undefined;
  if (name === "AbortError") return "CANCELLED";
  if (name === "TimeoutError") return "TIMEOUT";
  return posixErrorCode(error) ?? "UNKNOWN";
}

/** Where a system call failed: the same errno means another thing on the volume than on the user's own disk. */
export interface PosixFailure {
  /** What was being done, as in "cannot …": `open`, `make the directory`. */
  readonly action: string;
  /** On the volume: the path in the workspace. Else the local path. */
  readonly path: string;
  readonly side: "workspace" | "local";
}

const REASONS: Readonly<Partial<Record<string, string>>> = {
  ENOENT: "it does not exist",
  ENOTDIR: "a part of its path is no directory",
  EISDIR: "it is a directory",
  EEXIST: "it exists already",
  ENXIO: "it is not a regular file",
  ENODEV: "it is not a regular file",
  ELOOP: "it is a symbolic link",
  EACCES: "access is denied; check the permissions of it and of the directories above it",
  EPERM: "the operation is not permitted; check owner and permissions",
  EROFS: "the file system is mounted read-only; mount it read-write or choose another place",
  ENOSPC: "no space is left on the file system; free some or choose another place",
  EDQUOT: "the quota is used up; free some space or have it raised",
  EFBIG: "it is larger than this file system or process may hold",
  ENAMETOOLONG: "the name is too long for this file system; shorten it",
  ESTALE: "the server no longer knows it (stale handle): it was replaced or removed there meanwhile",
  EIO: "the device or server failed (input/output error)",
  ETIMEDOUT: "the server did not answer in time",
  EHOSTDOWN: "the server is down",
  EHOSTUNREACH: "the server cannot be reached",
  ENOTCONN: "the program behind this mount has ended; mount it again",
  EMFILE: "this process has too many files open",
  ENFILE: "this machine has too many files open",
  EBUSY: "it is in use",
  ENOTEMPTY: "a directory of that name is in the way",
};

/** The error to throw for a failed system call: names the file as its user knows it, never a path under /proc. Other errors are given back as they are. */
export function describePosixError(error: unknown, failure: PosixFailure): unknown {
  if (StowageError.is(error)) return error;
  const code = posixErrorCode(error);
  const name = errnoName(error);
  if (code === undefined || name === undefined) return error;
  const what = failure.side === "local" ? `the local file "${escapePath(failure.path)}"` : `"${escapePath(failure.path)}"`;
  return new StowageError(`cannot ${failure.action} ${what}: ${REASONS[name] ?? "the operating system refused"} (${name})`, {
    code,
    file: failure.side === "workspace" ? failure.path : undefined,
    cause: error,
  });
}

/** Something of that name is there, but it is no regular file. */
export function notAFile(path: string, what: string, side: PosixFailure["side"] = "workspace", cause?: unknown): StowageError {
  const name = side === "local" ? `the local file "${escapePath(path)}"` : `"${escapePath(path)}"`;
  return new StowageError(`${name} is ${what}, not a regular file`, {
    code: "NOT_A_FILE",
    file: side === "local" ? undefined : path,
    cause,
  });
}

export function fileNotFound(path: string, side: PosixFailure["side"] = "workspace", cause?: unknown): StowageError {
  return side === "local"
    ? new StowageError(`no such local file: "${escapePath(path)}"`, { code: "FILE_NOT_FOUND", cause })
    : new StowageError(`there is no file "${escapePath(path)}" in this workspace`, { code: "FILE_NOT_FOUND", file: path, cause });
}

export function fileExists(path: string, side: PosixFailure["side"] = "workspace"): StowageError {
  return side === "local"
    ? new StowageError(`the local file "${escapePath(path)}" exists already`, { code: "FILE_EXISTS" })
    : new StowageError(`"${escapePath(path)}" exists already`, { code: "FILE_EXISTS", file: path });
}

/** Following this path would leave the workspace, or might. */
export function containmentError(path: string, link: string, reason: string): StowageError {
  const through = link === path ? "it is a symbolic link" : `"${escapePath(link)}" is a symbolic link`;
  return new StowageError(`access to "${escapePath(path)}" is refused by containment: ${through} ${reason}`, {
    code: "PERMISSION_DENIED",
    file: path,
  });
}
