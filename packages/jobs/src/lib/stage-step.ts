import type { FileRecord } from "@stowage/core";
import { StowageError } from "@stowage/core/broker";
import { EXIT_CODES } from "./exit-codes.ts";
import type { StepName, TransferEvent } from "./job-event.ts";
import type { StoredOutput } from "./job-result.ts";
import type { JobRuntime, RunReference, StepExit, StepIo } from "./job-runtime.ts";
import type { OutputTarget, StageOutResult } from "./stage-out.ts";
import type { StageFailure, StepCall, StepMessage, StepReply, StepRequest } from "./step-protocol.ts";

/** Runner's side of what a stage step asks for. */
export interface StageHooks {
  onEvent(event: TransferEvent): void;
  onBegin(targets: readonly OutputTarget[]): Promise<void>;
  onStored(outputs: readonly StoredOutput[]): Promise<void>;
  readonly store: ((record: FileRecord) => void | Promise<void>) | undefined;
}

export type StageEnd =
  | { readonly status: "done"; readonly result: StageOutResult | undefined }
  | { readonly status: "failed"; readonly failure: StageFailure };

/** Runs a pre or post step through a runtime, as a process of its own, and answers what it asks. */
export async function runStageStep(
  runtime: JobRuntime,
  run: RunReference,
  request: StepRequest,
  hooks: StageHooks,
  io: Pick<StepIo, "signal" | "graceMs" | "onStarted">,
): Promise<StageEnd> {
  let end: StageEnd | undefined;
  const tail = createTail();
  const answer = async (call: StepCall, reply: (line: string) => void): Promise<void> => {
    const message = await answerCall(call, hooks, io.signal);
    reply(JSON.stringify(message));
  };
  const exit = await runtime.runStep(
    { role: request.step, run, request: JSON.stringify(request) },
    {
      ...io,
      onOutput: (stream, chunk) => {
        if (stream === "stderr") tail.add(chunk);
        for (const message of splitLines(chunk)) hooks.onEvent({ type: "log", step: request.step, level: "info", message });
      },
      onMessage: (line, reply) => {
        const message = JSON.parse(line) as StepMessage;
        if (message.type === "event") hooks.onEvent(message.event);
        else if (message.type === "done") end = { status: "done", result: message.result };
        else if (message.type === "failed") end = { status: "failed", failure: message.failure };
        else void answer(message, reply);
      },
    },
  );
  return end ?? { status: "failed", failure: describeSilentEnd(request.step, exit, io.signal.aborted, tail.text()) };
}

async function answerCall(call: StepCall, hooks: StageHooks, signal: AbortSignal): Promise<StepReply> {
  const { id } = call;
  try {
    if (call.type === "begin") await hooks.onBegin(call.targets);
    else if (call.type === "stored") await hooks.onStored(call.outputs);
    else await hooks.store?.({ ...call.record, signal });
    return { type: "reply", id };
  } catch (error) {
    return {
      type: "reply",
      id,
      error: { message: error instanceof Error ? error.message : String(error), code: StowageError.is(error) ? error.code : undefined },
    };
  }
}

/** The step ended, or never began, without saying why. */
function describeSilentEnd(step: StepName, exit: StepExit, isCancelled: boolean, tail: string): StageFailure {
  const how =
    exit.status === "not-started"
      ? exit.message
      : exit.signal === null
        ? `it ended with exit code ${exit.exitCode}`
        : `it was killed by ${exit.signal}`;
  const message = `the ${step} step gave no result: ${how}${tail === "" ? "" : `; it last said: ${tail}`}`;
  return {
    exitCode: isCancelled ? EXIT_CODES.interrupted : step === "pre" ? EXIT_CODES.stageInFailed : EXIT_CODES.stageOutFailed,
    isCancelled,
    failures: [{ step, code: isCancelled ? "CANCELLED" : "UNKNOWN", message, retryable: false }],
    refusals: [],
    refusalCount: 0,
  };
}

function splitLines(chunk: Uint8Array): string[] {
  return Buffer.from(chunk)
    .toString("utf8")
    .split("\n")
    .filter((line) => line !== "");
}

/** The last line or so of what was written. */
function createTail(): { add(chunk: Uint8Array): void; text(): string } {
  let kept = Buffer.alloc(0);
  return {
    add: (chunk) => {
      kept = Buffer.concat([kept, chunk]).subarray(-4096);
    },
    text: () =>
      kept
        .toString("utf8")
        .split("\n")
        .map((line) => line.trim())
        .filter((line) => line !== "" && !/^(?:at |Node\.js v)/u.test(line))
        .slice(-3)
        .join("; "),
  };
}
