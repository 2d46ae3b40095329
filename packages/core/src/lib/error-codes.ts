/** Why something failed, by cause; whoever catches an error decides by this and nothing else. */
export const STOWAGE_ERROR_CODES = [
  "FILE_NOT_FOUND",
  "FILE_EXISTS",
  "FILE_DELETED",
  "NOT_A_FILE",
  "PERMISSION_DENIED",
  "UNAUTHENTICATED",
  "INVALID_CONFIGURATION",
  "UNKNOWN_BROKER_TYPE",
  "CONTRACT_MISMATCH",
  "INVALID_PATH",
  "INVALID_ARGUMENT",
  "CHECKSUM_MISMATCH",
  "SHORT_SOURCE",
  "SOURCE_CHANGED",
  "VOLUME_NOT_MOUNTED",
  "STALE_HANDLE",
  "READ_ONLY",
  "NO_SPACE",
  "QUOTA_EXCEEDED",
  "ARCHIVED",
  "UNSUPPORTED",
  "RATE_LIMITED",
  "TIMEOUT",
  "STALLED",
  "UNAVAILABLE",
  "CONFLICT",
  "NOT_RECORDED",
  "CLOSED",
  "CANCELLED",
  "UNKNOWN",
] as const;

export type StowageErrorCode = (typeof STOWAGE_ERROR_CODES)[number];

const RETRYABLE: ReadonlySet<StowageErrorCode> = new Set(["STALE_HANDLE", "RATE_LIMITED", "TIMEOUT", "STALLED", "UNAVAILABLE"]);

/** What holds when a broker says nothing else of its error. */
export function isRetryableCode(code: StowageErrorCode): boolean {
  return RETRYABLE.has(code);
}
