import type { BatchResult, TransferDetails } from "../broker.ts";
import type { StowageErrorCode } from "../error-codes.ts";
import type { FileDetails } from "../files.ts";
import { StowageError } from "../stowage-error.ts";
import type { DirectoryPage, DirectoryRequest } from "./list-files.ts";
import type { PosixCommand, PosixVolume, ReadCommand, WriteCommand } from "./posix-commands.ts";
import type { VolumeFacts } from "./posix-session.ts";

/**
 * What a parent and its children say to each other: JSON over Node's IPC channel, and the bytes of streams over a socket of their own
 * (`BYTES_DESCRIPTOR`). A task is one request with an id; the child answers with what it has, and exactly one `ended`.
 */
export type ChildRequest =
  /** First of all. Answered by `ready` or `refused`. */
  | { readonly kind: "open"; readonly volume: PosixVolume; readonly changeDirectory: boolean; readonly localRecords: string | undefined }
  | WorkRequest
  /** A listing is over: what is kept for it may go. */
  | { readonly kind: "forget"; readonly listing: number }
  | StreamRequest
  /** Asks an open reader for its next chunk, which comes as a frame; an empty one is the end. */
  | { readonly kind: "pull"; readonly task: number }
  | { readonly kind: "commit"; readonly task: number }
  /** Stop. A stream that is open is let go, a writer's temporary file with it. */
  | { readonly kind: "abort"; readonly task: number }
  /** Close everything and go. */
  | { readonly kind: "end" };

/** Done one after the other, in the order in which they come; each begins with `begun`. */
export type WorkRequest =
  /** `exact`: every result is told before the next command begins. */
  | { readonly kind: "run"; readonly task: number; readonly commands: readonly PosixCommand[]; readonly exact: boolean }
  | { readonly kind: "list"; readonly task: number; readonly directories: readonly DirectoryRequest[] }
  /** Removes temporary names that a killed child may have left of these commands. */
  | { readonly kind: "clean"; readonly task: number; readonly commands: readonly (PosixCommand | WriteCommand)[] };

/** Go on beside each other. */
export type StreamRequest =
  | { readonly kind: "sweep"; readonly task: number; readonly olderThanMs: number; readonly deep: boolean }
  | { readonly kind: "openRead"; readonly task: number; readonly command: ReadCommand }
  /** `modified`: the command's, in milliseconds since 1970. */
  | { readonly kind: "openWrite"; readonly task: number; readonly command: WriteCommand; readonly modified: number | undefined };

export type ChildReply =
  | { readonly kind: "ready"; readonly facts: VolumeFacts }
  | { readonly kind: "refused"; readonly error: EncodedError }
  | TaskReply;

export type TaskReply =
  | { readonly kind: "begun"; readonly task: number }
  | { readonly kind: "results"; readonly task: number; readonly results: readonly EncodedResult[] }
  | { readonly kind: "progress"; readonly task: number; readonly index: number; readonly bytes: number }
  | { readonly kind: "pages"; readonly task: number; readonly pages: readonly DirectoryPage[] }
  /** Names: what a sweep removed, or what a clean-up could not. */
  | { readonly kind: "names"; readonly task: number; readonly names: readonly string[] }
  | { readonly kind: "reader"; readonly task: number; readonly reader: EncodedReader }
  | { readonly kind: "writer"; readonly task: number }
  | { readonly kind: "written"; readonly task: number }
  | { readonly kind: "committed"; readonly task: number; readonly details: TransferDetails }
  /** `worn`: copies that were given up still run in this child; nothing but its end stops them. */
  | { readonly kind: "ended"; readonly task: number; readonly error?: EncodedError | undefined; readonly worn?: boolean | undefined };

/** Index, value, and the bytes moved that no `progress` has told yet; or index and error. */
export type EncodedResult = readonly [index: number, value: unknown, bytes: number] | readonly [index: number, error: EncodedError];

export interface EncodedReader {
  readonly file: FileDetails["file"];
  readonly size: number;
  readonly modified?: number | undefined;
  readonly localPath?: string | undefined;
}

/** The child's descriptor of the socket that carries the bytes of streams, both ways. */
export const BYTES_DESCRIPTOR = 4;
/** The child's descriptor that closes when the parent is gone, however it went. */
export const LIFELINE_DESCRIPTOR = 5;

// ---------- results ----------

export function encodeResult(verb: PosixCommand["verb"], result: BatchResult<unknown>, bytes: number): EncodedResult {
  if (!result.ok) return [result.index, encodeError(result.error)];
  return [result.index, verb === "stat" ? encodeDetails(result.value as FileDetails | undefined) : result.value, bytes];
}

export function decodeResult(verb: PosixCommand["verb"], encoded: EncodedResult): BatchResult<unknown> {
  const [index, payload] = encoded;
  if (encoded.length === 2) return { index, ok: false, error: decodeError(payload as EncodedError) };
  return { index, ok: true, value: verb === "stat" ? decodeDetails(payload as EncodedDetails | null) : payload };
}

type EncodedDetails = Omit<FileDetails, "modified"> & { readonly modified: number | null };

function encodeDetails(details: FileDetails | undefined): EncodedDetails | null {
  return details === undefined ? null : { ...details, modified: details.modified?.getTime() ?? null };
}

function decodeDetails(encoded: EncodedDetails | null): FileDetails | undefined {
  if (encoded === null) return undefined;
  return { ...encoded, modified: encoded.modified === null ? undefined : new Date(encoded.modified) };
}

// ---------- errors ----------

/** An error as plain data. What decides anything (code, errno, retryable, leftovers) survives; what else hangs on it does not. */
export interface EncodedError {
  readonly name: string;
  readonly message: string;
  readonly stack?: string | undefined;
  readonly code?: string | undefined;
  readonly errno?: number | undefined;
  readonly syscall?: string | undefined;
  readonly leftovers?: readonly string[] | undefined;
  readonly stowage?:
    | { readonly file?: string | undefined; readonly retryable: boolean; readonly retryAfterMs?: number | undefined }
    | undefined;
  readonly cause?: EncodedError | undefined;
}

/** Causes of causes are told so far. */
const CAUSE_DEPTH = 4;

export function encodeError(error: unknown, depth: number = CAUSE_DEPTH): EncodedError {
  if (typeof error !== "object" || error === null) return { name: "Error", message: String(error) };
  const { name, message, stack, code, errno, syscall, leftovers, cause } = error as Record<string, unknown>;
  return {
    name: typeof name === "string" ? name : "Error",
    message: typeof message === "string" ? message : String(error),
    stack: typeof stack === "string" ? stack : undefined,
    code: typeof code === "string" ? code : undefined,
    errno: typeof errno === "number" ? errno : undefined,
    syscall: typeof syscall === "string" ? syscall : undefined,
    leftovers: Array.isArray(leftovers) && leftovers.length > 0 ? leftovers.map(String) : undefined,
    stowage: StowageError.is(error) ? { file: error.file, retryable: error.retryable, retryAfterMs: error.retryAfterMs } : undefined,
    cause: cause === undefined || depth === 0 ? undefined : encodeError(cause, depth - 1),
  };
}

export function decodeError(encoded: EncodedError): Error {
  const { name, message, stack, code, errno, syscall, leftovers, stowage } = encoded;
  const cause = encoded.cause === undefined ? undefined : decodeError(encoded.cause);
  if (stowage !== undefined) {
    const error = new StowageError(message, { code: code as StowageErrorCode, ...stowage, leftovers, cause });
    if (stack !== undefined) error.stack = stack;
    return error;
  }
  const error = new Error(message, cause === undefined ? undefined : { cause });
  const facts = { name, stack, code, errno, syscall, leftovers };
  for (const [key, value] of Object.entries(facts)) {
    if (value !== undefined)
      Object.defineProperty(error, key, { value, configurable: true, writable: true, enumerable: key !== "stack" && key !== "name" });
  }
  return error;
}

// ---------- frames ----------

const FRAME_HEADER_BYTES = 8;

/** Puts the task and the length before a chunk of its stream. */
export function frameHeader(task: number, length: number): Buffer {
  const header = Buffer.allocUnsafe(FRAME_HEADER_BYTES);
  header.writeUInt32LE(task, 0);
  header.writeUInt32LE(length, 4);
  return header;
}

/** Takes frames apart again, wherever the socket has cut them. Each chunk is a buffer of its own. */
export function createFrameParser(onFrame: (task: number, chunk: Buffer) => void): (data: Buffer) => void {
  const header = Buffer.allocUnsafe(FRAME_HEADER_BYTES);
  let headerBytes = 0;
  let chunk: Buffer | undefined;
  let chunkBytes = 0;
  return (data) => {
    let position = 0;
    while (position < data.length) {
      if (chunk === undefined) {
        const taken = data.copy(header, headerBytes, position);
        headerBytes += taken;
        position += taken;
        if (headerBytes < FRAME_HEADER_BYTES) return;
        chunk = Buffer.allocUnsafeSlow(header.readUInt32LE(4));
        chunkBytes = 0;
      }
      const taken = data.copy(chunk, chunkBytes, position);
      chunkBytes += taken;
      position += taken;
      if (chunkBytes < chunk.length) return;
      const whole = chunk;
      chunk = undefined;
      headerBytes = 0;
      onFrame(header.readUInt32LE(0), whole);
    }
  };
}
