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
export { createDigester, DIGEST_ALGORITHMS, type Digester, digestOf, sameDigest } from "./lib/digest.ts";
export { isRetryableCode, STOWAGE_ERROR_CODES, type StowageErrorCode } from "./lib/error-codes.ts";
export { escapePath, isFilePath, parseDirectoryPath, parseFilePath, parseTargetPath } from "./lib/file-path.ts";
export type {
  BrokerVolume,
  ByteRange,
  Digest,
  DigestAlgorithm,
  FileDetails,
  FileDownload,
  FileInput,
  FileMove,
  FilePath,
  FileUpload,
  SecretReference,
  StoredFile,
  TransferMethod,
  Verification,
} from "./lib/files.ts";
export { createLimits, type Limits, type LimitsOptions } from "./lib/limits.ts";
export { createMemoryBroker, type MemoryBroker, type MemoryBrokerConfig, memoryBroker } from "./lib/memory-broker.ts";
export { type Outcome, type OutcomeCounts, STREAM_ERROR_OUTCOMES, TransferError } from "./lib/outcome.ts";
export {
  type AddBrokerOptions,
  addBrokerType,
  type BrokerRegistry,
  type BrokerSource,
  type BrokerTypes,
  createBrokerRegistry,
  getBroker,
  getBrokerTypes,
} from "./lib/registry.ts";
export type { RetryOptions } from "./lib/retry.ts";
export { StowageError, type StowageErrorOptions } from "./lib/stowage-error.ts";
export { transferFiles } from "./lib/transfer-files.ts";
export type {
  BatchOptions,
  ChangeOptions,
  DownloadOptions,
  FileRecord,
  Progress,
  TransferOptions,
} from "./lib/transfer-options.ts";
export {
  type FileOperationOptions,
  type FileUrlOptions,
  type ListFilesOptions,
  type OpenReadOptions,
  type OpenWriteOptions,
  type SweepOptions,
  Workspace,
  type WorkspaceInit,
} from "./lib/workspace.ts";
