export type {
  AnyBrokerDefinition,
  BrokerDefinition,
  BrokerOptions,
  OpenContext,
  ValidationWarning,
} from "./lib/broker-definition.ts";
export { defineBroker, isBrokerDefinition } from "./lib/broker-definition.ts";
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
export { addLeftover, assertUnchanged, ensureLocalDirectory, type LocalSource, openLocalSource, publishLocalFile } from "./lib/local-file.ts";
export { didYouMean, nearestName } from "./lib/nearest-name.ts";
export type { BrokerTypes } from "./lib/registry.ts";
export { nextRetryDelay, type RetryOptions, type RetryPolicy, resolveRetryOptions, retry, sleep } from "./lib/retry.ts";
export { StowageError, type StowageErrorOptions } from "./lib/stowage-error.ts";
export { isSystemError, systemErrorCode } from "./lib/system-error.ts";
