import type { StowageErrorCode } from "./error-codes.ts";

/** What Node's `error.code` of a failed system call means, wherever it happened. */
const CODES: Readonly<Record<string, StowageErrorCode>> = {
  ENOENT: "FILE_NOT_FOUND",
  ENOTDIR: "FILE_NOT_FOUND",
  EEXIST: "FILE_EXISTS",
  EISDIR: "NOT_A_FILE",
  ENXIO: "NOT_A_FILE",
  ELOOP: "NOT_A_FILE",
  EACCES: "PERMISSION_DENIED",
  EPERM: "PERMISSION_DENIED",
  EROFS: "READ_ONLY",
  ENOSPC: "NO_SPACE",
  EDQUOT: "QUOTA_EXCEEDED",
  EFBIG: "QUOTA_EXCEEDED",
  ENAMETOOLONG: "INVALID_PATH",
  ESTALE: "STALE_HANDLE",
  EAGAIN: "UNAVAILABLE",
  EBUSY: "UNAVAILABLE",
  EMFILE: "UNAVAILABLE",
  ENFILE: "UNAVAILABLE",
  ENOMEM: "UNAVAILABLE",
  EIO: "UNAVAILABLE",
  EREMOTEIO: "UNAVAILABLE",
  ETIMEDOUT: "TIMEOUT",
  ECONNREFUSED: "UNAVAILABLE",
  ECONNRESET: "UNAVAILABLE",
  ECONNABORTED: "UNAVAILABLE",
  EPIPE: "UNAVAILABLE",
  EHOSTDOWN: "UNAVAILABLE",
  EHOSTUNREACH: "UNAVAILABLE",
  ENETDOWN: "UNAVAILABLE",
  ENETUNREACH: "UNAVAILABLE",
  ENOTFOUND: "UNAVAILABLE",
  EAI_AGAIN: "UNAVAILABLE",
  ENOTSUP: "UNSUPPORTED",
  EOPNOTSUPP: "UNSUPPORTED",
  ENOSYS: "UNSUPPORTED",
};

/** The cause behind an error of the operating system; `undefined` when it is none, or one that says nothing. */
export function systemErrorCode(error: unknown): StowageErrorCode | undefined {
  const code = typeof error === "object" && error !== null ? (error as { code?: unknown }).code : undefined;
  return typeof code === "string" && Object.hasOwn(CODES, code) ? CODES[code] : undefined;
}

/** Whether `error` is the operating system's error `code`. */
export function isSystemError(error: unknown, ...codes: readonly string[]): boolean {
  return typeof error === "object" && error !== null && codes.includes((error as { code?: unknown }).code as string);
}
