import { type ErrorFacts, isSystemError, StowageError, type StowageErrorCode, systemErrorCode } from "@stowage/core/broker";

/** What S3's own error codes mean. `docs/brokers/s3.md` repeats this table for people. */
const BY_NAME: Readonly<Record<string, StowageErrorCode | ErrorFacts>> = {
  NoSuchKey: "FILE_NOT_FOUND",
  NoSuchVersion: "FILE_NOT_FOUND",
  NotFound: "FILE_NOT_FOUND",
  NoSuchBucket: "INVALID_CONFIGURATION",
  InvalidBucketName: "INVALID_CONFIGURATION",
  PermanentRedirect: "INVALID_CONFIGURATION",
  AuthorizationHeaderMalformed: "INVALID_CONFIGURATION",
  IllegalLocationConstraintException: "INVALID_CONFIGURATION",
  // Somebody else ended our multipart upload; a new attempt makes another one.
  NoSuchUpload: { code: "CONFLICT", retryable: true },
  AccessDenied: "PERMISSION_DENIED",
  AccountProblem: "PERMISSION_DENIED",
  AllAccessDisabled: "PERMISSION_DENIED",
  Forbidden: "PERMISSION_DENIED",
  MethodNotAllowed: "PERMISSION_DENIED",
  InvalidAccessKeyId: "UNAUTHENTICATED",
  SignatureDoesNotMatch: "UNAUTHENTICATED",
  ExpiredToken: "UNAUTHENTICATED",
  ExpiredTokenException: "UNAUTHENTICATED",
  TokenRefreshRequired: "UNAUTHENTICATED",
  InvalidToken: "UNAUTHENTICATED",
  InvalidSecurity: "UNAUTHENTICATED",
  NotSignedUp: "UNAUTHENTICATED",
  RequestTimeTooSkewed: "UNAUTHENTICATED",
  RequestExpired: "UNAUTHENTICATED",
  CredentialsProviderError: "UNAUTHENTICATED",
  TokenProviderError: "UNAUTHENTICATED",
  InvalidObjectState: "ARCHIVED",
  ObjectNotInActiveTierError: "ARCHIVED",
  SlowDown: "RATE_LIMITED",
  SlowDownRead: "RATE_LIMITED",
  SlowDownWrite: "RATE_LIMITED",
  TooManyRequests: "RATE_LIMITED",
  Throttling: "RATE_LIMITED",
  ThrottlingException: "RATE_LIMITED",
  RequestLimitExceeded: "RATE_LIMITED",
  BandwidthLimitExceeded: "RATE_LIMITED",
  ServiceUnavailable: "UNAVAILABLE",
  InternalError: "UNAVAILABLE",
  Busy: "UNAVAILABLE",
  OperationAborted: { code: "UNAVAILABLE", retryable: true },
  ConditionalRequestConflict: { code: "UNAVAILABLE", retryable: true },
  RequestTimeout: "TIMEOUT",
  TimeoutError: "TIMEOUT",
  BadDigest: { code: "CHECKSUM_MISMATCH", retryable: true },
  InvalidDigest: "CHECKSUM_MISMATCH",
  XAmzContentSHA256Mismatch: { code: "CHECKSUM_MISMATCH", retryable: true },
  XAmzContentChecksumMismatch: { code: "CHECKSUM_MISMATCH", retryable: true },
  // The body was cut on its way.
  IncompleteBody: { code: "UNAVAILABLE", retryable: true },
  PreconditionFailed: "FILE_EXISTS",
  QuotaExceeded: "QUOTA_EXCEEDED",
  XMinioStorageFull: "NO_SPACE",
  InsufficientStorage: "NO_SPACE",
  InsufficientCapacity: "NO_SPACE",
  EntityTooLarge: "QUOTA_EXCEEDED",
  KeyTooLongError: "INVALID_PATH",
  InvalidURI: "INVALID_PATH",
  NotImplemented: "UNSUPPORTED",
  InvalidStorageClass: "INVALID_CONFIGURATION",
  AbortError: "CANCELLED",
};

const BY_STATUS: Readonly<Record<number, StowageErrorCode | ErrorFacts>> = {
  301: "INVALID_CONFIGURATION",
  307: "INVALID_CONFIGURATION",
  401: "UNAUTHENTICATED",
  403: "PERMISSION_DENIED",
  404: "FILE_NOT_FOUND",
  405: "PERMISSION_DENIED",
  408: "TIMEOUT",
  409: { code: "UNAVAILABLE", retryable: true },
  411: "UNSUPPORTED",
  412: "FILE_EXISTS",
  413: "QUOTA_EXCEEDED",
  429: "RATE_LIMITED",
  500: "UNAVAILABLE",
  501: "UNSUPPORTED",
  502: "UNAVAILABLE",
  503: "UNAVAILABLE",
  504: "UNAVAILABLE",
  507: "NO_SPACE",
};

interface ServiceError {
  readonly name?: unknown;
  readonly Code?: unknown;
  readonly code?: unknown;
  readonly message?: unknown;
  readonly $metadata?: { readonly httpStatusCode?: number | undefined } | undefined;
  readonly $response?: { readonly statusCode?: number; readonly headers?: Readonly<Record<string, string>> } | undefined;
}

/** The name that S3 gave an error; HEAD answers have none but for their status. */
export function s3ErrorName(error: unknown): string | undefined {
  if (typeof error !== "object" || error === null) return undefined;
  const { name, Code, code } = error as ServiceError;
  for (const candidate of [Code, name, code]) {
    if (typeof candidate === "string" && Object.hasOwn(BY_NAME, candidate)) return candidate;
  }
  return typeof Code === "string" ? Code : typeof name === "string" ? name : undefined;
}

/** The HTTP status of the answer that an error stands for; `undefined` where there was no answer. */
export function s3ErrorStatus(error: unknown): number | undefined {
  if (typeof error !== "object" || error === null) return undefined;
  const { $metadata, $response } = error as ServiceError;
  return $response?.statusCode ?? $metadata?.httpStatusCode;
}

export function s3ErrorHeader(error: unknown, name: string): string | undefined {
  if (typeof error !== "object" || error === null) return undefined;
  return (error as ServiceError).$response?.headers?.[name];
}

/** What an error of the SDK, of the network or of the local file system means. Never throws. */
export function classifyS3Error(error: unknown): ErrorFacts {
  if (StowageError.is(error)) return { code: error.code, retryable: error.retryable, retryAfterMs: error.retryAfterMs };
  if (typeof error !== "object" || error === null) return { code: "UNKNOWN" };
  const retryAfterMs = parseRetryAfter(s3ErrorHeader(error, "retry-after"));
  const name = s3ErrorName(error);
  const status = s3ErrorStatus(error);
  const known = name !== undefined && Object.hasOwn(BY_NAME, name) ? BY_NAME[name] : undefined;
  // A 503 that asks to come back later is a limit, whatever it is called.
  if (status === 503 && (retryAfterMs !== undefined || /reduce your request rate/i.test(String((error as ServiceError).message)))) {
    return { code: "RATE_LIMITED", retryAfterMs };
  }
  const system = systemErrorCode(error);
  if (known !== undefined && !(name === "TimeoutError" && system !== undefined)) return withWait(known, retryAfterMs);
  if (system !== undefined) return { code: system };
  if (isSystemError(error, "EHOSTUNREACH", "EPROTO", "ERR_STREAM_PREMATURE_CLOSE") || /socket hang up|aborted/i.test(messageOf(error))) {
    return { code: "UNAVAILABLE" };
  }
  if (isTlsError(error)) return { code: "INVALID_CONFIGURATION" };
  if (status !== undefined) {
    const facts = BY_STATUS[status] ?? (status >= 500 ? "UNAVAILABLE" : undefined);
    if (facts !== undefined) return withWait(facts, retryAfterMs);
  }
  return { code: "UNKNOWN" };
}

/** An error that says what is to be done, for those whose own text does not. Others are given back as they are. */
export function explainS3Error(
  error: unknown,
  place: { readonly bucket: string; readonly region: string; readonly endpoint?: string | undefined },
): unknown {
  const name = s3ErrorName(error);
  const say = (message: string, code: StowageErrorCode): StowageError => new StowageError(message, { code, cause: error });
  const where = place.endpoint === undefined ? "" : ` at ${place.endpoint}`;
  const region = s3ErrorHeader(error, "x-amz-bucket-region") ?? (error as { Region?: unknown } | null)?.Region;
  const isWrongRegion =
    name === "PermanentRedirect" || name === "AuthorizationHeaderMalformed" || [301, 307].includes(s3ErrorStatus(error) ?? 0);
  if (isWrongRegion) {
    const found = typeof region === "string" && /^[a-z0-9-]+$/.test(region) ? `it is in "${region}"` : "S3 does not say in which it is";
    return say(
      `the bucket "${place.bucket}" is not in the region "${place.region}"; ${found}: set region (or endpoint) accordingly`,
      "INVALID_CONFIGURATION",
    );
  }
  switch (name) {
    case "NoSuchBucket":
      return say(`there is no bucket "${place.bucket}"${where}; create it, or name another one`, "INVALID_CONFIGURATION");
    case "RequestTimeTooSkewed":
      return say("the clock of this machine differs too much from that of S3; set it right (NTP)", "UNAUTHENTICATED");
    case "ExpiredToken":
    case "ExpiredTokenException":
    case "TokenRefreshRequired":
      return say("the credentials have expired; give fresh ones", "UNAUTHENTICATED");
    case "InvalidObjectState":
      return say("the object lies in an archive; restore it first", "ARCHIVED");
    default:
  }
  if (isTlsError(error)) {
    const code = String((error as { code?: unknown }).code);
    return say(
      `the certificate${where} is not trusted (${code}); give its authority as certificateAuthority, or in NODE_EXTRA_CA_CERTS`,
      "INVALID_CONFIGURATION",
    );
  }
  return error;
}

/** Whether S3 said that there is no such object (or that it does not say of what there is none). */
export function isMissing(error: unknown): boolean {
  const name = s3ErrorName(error);
  return (
    name === "NoSuchKey" ||
    name === "NotFound" ||
    name === "NoSuchVersion" ||
    (s3ErrorStatus(error) === 404 && name !== "NoSuchBucket" && name !== "NoSuchUpload")
  );
}

/** Whether a condition of the request (If-Match, If-None-Match) did not hold. */
export function isPreconditionFailed(error: unknown): boolean {
  return s3ErrorName(error) === "PreconditionFailed" || s3ErrorStatus(error) === 412;
}

/** Milliseconds, from seconds or a date. */
function parseRetryAfter(header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  if (/^\d+(\.\d+)?$/.test(header.trim())) return Math.min(Number(header) * 1000, 86_400_000);
  const at = Date.parse(header);
  return Number.isNaN(at) ? undefined : Math.max(0, at - Date.now());
}

function withWait(facts: StowageErrorCode | ErrorFacts, retryAfterMs: number | undefined): ErrorFacts {
  return { ...(typeof facts === "string" ? { code: facts } : facts), retryAfterMs };
}

function isTlsError(error: unknown): boolean {
  const code = String((error as { code?: unknown } | null)?.code);
  return /CERT|^ERR_TLS|UNABLE_TO_VERIFY|UNABLE_TO_GET_ISSUER/.test(code);
}

function messageOf(error: object): string {
  const { message } = error as ServiceError;
  return typeof message === "string" ? message : "";
}
