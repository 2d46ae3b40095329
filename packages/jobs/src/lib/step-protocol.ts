import type { FileRecord } from "@stowage/core";
import type { StowageErrorCode } from "@stowage/core/broker";
import type { TransferEvent } from "./job-event.ts";
import type { JobFailure, StoredOutput } from "./job-result.ts";
import type { JobSpec } from "./job-spec.ts";
import type { Refusal } from "./scan-outputs.ts";
import type { EarlierStageOut, OutputTarget, StageOutResult } from "./stage-out.ts";

// A stage step reads lines from standard input, of which the first is its request, and writes messages as lines of standard output that begin with the record
// separator of RFC 7464; whatever else a broker's module prints there is text. All lines are JSON.

/** The first line that a stage step reads. May hold secrets: it travels through a pipe and nowhere else. */
export interface StepRequest {
  readonly version: 1;
  readonly step: "pre" | "post";
  readonly job: JobSpec;
  readonly run: string;
  /** ISO 8601. */
  readonly startedAt: string;
  readonly directory: string;
  /** Modules that hold the broker types, resolved from `baseDirectory`. */
  readonly brokerModules: readonly string[];
  readonly baseDirectory: string;
  readonly volumePaths?: Readonly<Record<string, string>> | undefined;
  readonly concurrency?: number | undefined;
  readonly linkPartial?: boolean | undefined;
  readonly resume?: boolean | undefined;
  /** Whether each stored file is to be recorded by the runner. */
  readonly hasStore?: boolean | undefined;
  readonly earlier?: EarlierStageOut | undefined;
}

/** What a stage step asks of the runner; each is answered by a `StepReply` of the same id. */
export type StepCall =
  | { readonly type: "begin"; readonly id: number; readonly targets: readonly OutputTarget[] }
  | { readonly type: "stored"; readonly id: number; readonly outputs: readonly StoredOutput[] }
  | { readonly type: "record"; readonly id: number; readonly record: Omit<FileRecord, "signal"> };

export type StepMessage =
  | { readonly type: "event"; readonly event: TransferEvent }
  | StepCall
  | { readonly type: "done"; readonly result?: StageOutResult | undefined }
  | { readonly type: "failed"; readonly failure: StageFailure };

export interface StepReply {
  readonly type: "reply";
  readonly id: number;
  readonly error?: { readonly message: string; readonly code?: StowageErrorCode | undefined } | undefined;
}

/** Why staging failed; the same whether it ran in this process or another. */
export interface StageFailure {
  readonly exitCode: number;
  readonly isCancelled: boolean;
  readonly failures: readonly JobFailure[];
  readonly refusals: readonly Refusal[];
  readonly refusalCount: number;
}

export const CANCEL_LINE = '{"type":"cancel"}';

const MESSAGE_START = 0x1e;
const LINE_END = 0x0a;

export function formatMessage(message: StepMessage): string {
  return `\u001e${JSON.stringify(message)}\n`;
}

export interface MessageReaderOptions {
  onMessage(line: string): void;
  onText(text: Uint8Array): Promise<void> | void;
  /** The step has said how it ended. */
  onLast(): void;
}

/** Tells messages from text in a stream of chunks that may be cut anywhere. Give it each chunk. */
export function createMessageReader(options: MessageReaderOptions): (chunk: Uint8Array) => Promise<void> {
  let message: Uint8Array[] | undefined;
  let isLineStart = true;
  return async (chunk) => {
    for (let position = 0; position < chunk.length; ) {
      if (isLineStart && chunk[position] === MESSAGE_START) {
        message = [];
        position++;
      }
      const newline = chunk.indexOf(LINE_END, position);
      const end = newline === -1 ? chunk.length : newline + 1;
      const part = chunk.subarray(position, end);
      isLineStart = newline !== -1;
      position = end;
      if (message === undefined) {
        await options.onText(part);
        continue;
      }
      message.push(part);
      if (!isLineStart) continue;
      const line = Buffer.concat(message).toString("utf8", 0).trimEnd();
      message = undefined;
      options.onMessage(line);
      if (/^\{"type":"(?:done|failed)"/u.test(line)) options.onLast();
    }
  };
}
