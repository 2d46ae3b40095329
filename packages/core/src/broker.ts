export type {
  BatchResult,
  Broker,
  Deletion,
  ErrorFacts,
  FileReader,
  FileWriter,
  ListOptions,
  ListProblem,
  OperationContext,
  ParsedDownload,
  ParsedMove,
  ParsedUpload,
  TransferDetails,
} from "./lib/broker.ts";
export type {
  AnyBrokerDefinition,
  BrokerDefinition,
  BrokerOptions,
  OpenContext,
  ValidationWarning,
} from "./lib/broker-definition.ts";
export { defineBroker, isBrokerDefinition } from "./lib/broker-definition.ts";
export { BROKER_METHODS, type BrokerMember, type BrokerMethod, type BrokerMethodName } from "./lib/broker-methods.ts";
export { combineCrc32, createDigester, DIGEST_ALGORITHMS, type Digester, digestOf, sameDigest } from "./lib/digest.ts";
export { isRetryableCode, STOWAGE_ERROR_CODES, type StowageErrorCode } from "./lib/error-codes.ts";
export {
  assertSegmentLengths,
  escapePath,
  isFilePath,
  isReservedName,
  MAXIMUM_SEGMENT_BYTES,
  parseDirectoryPath,
  parseFilePath,
  parseTargetPath,
  RESERVED_PREFIX,
} from "./lib/file-path.ts";
export type {
  BrokerVolume,
  ByteRange,
  Digest,
  DigestAlgorithm,
  FileDetails,
  FilePath,
  SecretReference,
  StoredFile,
  TransferMethod,
  Verification,
} from "./lib/files.ts";
export {
  addLeftover,
  assertUnchanged,
  ensureLocalDirectory,
  type LocalSource,
  openLocalSource,
  publishLocalFile,
} from "./lib/local-file.ts";
export { didYouMean, nearestName } from "./lib/nearest-name.ts";
export type { BrokerTypes } from "./lib/registry.ts";
export { nextRetryDelay, type RetryOptions, type RetryPolicy, resolveRetryOptions, retry, sleep } from "./lib/retry.ts";
export { createRedactor, type SecretSchema, type SecretSource, secret } from "./lib/secrets.ts";
export { StowageError, type StowageErrorOptions } from "./lib/stowage-error.ts";
export { isSystemError, systemErrorCode } from "./lib/system-error.ts";
export { withLimits } from "./lib/with-limits.ts";
export { type LogOptions, withLog } from "./lib/with-log.ts";
export { withPrefix } from "./lib/with-prefix.ts";
export { withReadOnly } from "./lib/with-read-only.ts";
export { withRetry } from "./lib/with-retry.ts";
export { type BrokerAround, type BrokerCall, wrapBroker } from "./lib/wrap-broker.ts";
