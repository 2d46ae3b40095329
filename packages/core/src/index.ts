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
export { type ImportedWorkspace, type ImportScaleOptions, importScaleWorkspace } from "./lib/import-scale-workspace.ts";
export { createLimits, type Limits, type LimitsOptions } from "./lib/limits.ts";
export { type MaskOptions, maskWorkspaceConfig, restoreMaskedConfig } from "./lib/masking.ts";
export { createMemoryBroker, type MemoryBroker, type MemoryBrokerConfig, memoryBroker } from "./lib/memory-broker.ts";
export { type OpenWorkspaceOptions, openWorkspace } from "./lib/open-workspace.ts";
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
export { type SecretSchema, type SecretSource, secret } from "./lib/secrets.ts";
export { StowageError, type StowageErrorOptions } from "./lib/stowage-error.ts";
export { type FileTransfer, transferFiles } from "./lib/transfer-files.ts";
export type {
  BatchOptions,
  ChangeOptions,
  DownloadOptions,
  FileRecord,
  Progress,
  TransferOptions,
} from "./lib/transfer-options.ts";
export {
  type ValidateWorkspaceOptions,
  type ValidationError,
  validateWorkspace,
  type WorkspaceValidation,
} from "./lib/validate-workspace.ts";
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
export { parseWorkspaceConfig, type WorkspaceConfig, type WorkspaceSettings } from "./lib/workspace-config.ts";
export { type JsonSchema, toWorkspaceJsonSchema } from "./lib/workspace-json-schema.ts";
