import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { StowageError } from "@stowage/core/broker";
import { loadBrokerModules } from "./broker-modules.ts";
import { EXIT_CODES } from "./exit-codes.ts";
import { describeStageFailure } from "./stage-failure.ts";
import { stageIn } from "./stage-in.ts";
import { type StageOutResult, stageOut } from "./stage-out.ts";
import { formatMessage, type StepCall, type StepMessage, type StepReply, type StepRequest } from "./step-protocol.ts";

type Unnumbered<T> = T extends StepCall ? Omit<T, "id"> : never;

/**
 * Is a pre or post step: reads its request from `input`, works, tells of it on `output`. The end of `input` before its own means that the runner is gone:
 * then it cancels what is under way. Gives the exit code.
 */
export async function serveStep(input: Readable, output: Writable): Promise<number> {
  const controller = new AbortController();
  const lines = createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY });
  const calls = new Map<number, (reply: StepReply) => void>();
  let isOver = false;
  const cancel = (reason: string): void => {
    if (!isOver) controller.abort(new StowageError(reason, { code: "CANCELLED" }));
  };
  const request = new Promise<StepRequest>((resolve, reject) => {
    let isFirst = true;
    lines.on("line", (line) => {
      try {
        const value = JSON.parse(line) as { readonly type?: string };
        if (isFirst) resolve(parseRequest(value));
        else if (value.type === "cancel") cancel("cancelled");
        else if (value.type === "reply") calls.get((value as StepReply).id)?.(value as StepReply);
      } catch (error) {
        reject(error);
      }
      isFirst = false;
    });
    lines.once("close", () => {
      reject(
        new StowageError("no request on standard input; this is started by the runner of a job, not by hand", { code: "INVALID_ARGUMENT" }),
      );
      cancel("the runner of the job is gone");
      for (const [id, settle] of calls)
        settle({ type: "reply", id, error: { message: "the runner of the job is gone", code: "CANCELLED" } });
    });
  });
  // Whoever reads may be gone, too.
  output.on("error", () => undefined);
  const send = (message: StepMessage): void => {
    output.write(formatMessage(message));
  };
  let nextId = 1;
  const call = (message: Unnumbered<StepCall>): Promise<void> => {
    const id = nextId++;
    return new Promise((resolve, reject) => {
      calls.set(id, ({ error }) => {
        calls.delete(id);
        if (error === undefined) resolve();
        else reject(new StowageError(error.message, { code: error.code ?? "UNKNOWN" }));
      });
      send({ ...message, id } as StepCall);
    });
  };

  let step: StepRequest["step"] | undefined;
  try {
    const parsed = await request;
    step = parsed.step;
    const result = await runStage(parsed, controller.signal, send, call);
    send({ type: "done", result });
    return EXIT_CODES.success;
  } catch (error) {
    const failure = describeStageFailure(error, step ?? "pre", controller.signal.aborted);
    send({ type: "failed", failure });
    return failure.exitCode;
  } finally {
    isOver = true;
    lines.close();
    input.destroy();
  }
}

async function runStage(
  request: StepRequest,
  signal: AbortSignal,
  send: (message: StepMessage) => void,
  call: (message: Unnumbered<StepCall>) => Promise<void>,
): Promise<StageOutResult | undefined> {
  const { job, directory, run, volumePaths, concurrency } = request;
  const common = {
    directory,
    runId: run,
    startedAt: new Date(request.startedAt),
    brokers: await loadBrokerModules(request.brokerModules, request.baseDirectory),
    volumePaths,
    concurrency,
    signal,
    onEvent: (event: Extract<StepMessage, { type: "event" }>["event"]) => send({ type: "event", event }),
  } as const;
  if (request.step === "pre") {
    await stageIn(job, { ...common, linkPartial: request.linkPartial, resume: request.resume });
    return undefined;
  }
  return stageOut(job, {
    ...common,
    earlier: request.earlier,
    onBegin: (targets) => call({ type: "begin", targets }),
    onStored: (outputs) => call({ type: "stored", outputs }),
    ...(request.hasStore === true ? { store: ({ signal: _signal, ...record }) => call({ type: "record", record }) } : {}),
  });
}

function parseRequest(value: unknown): StepRequest {
  const request = value as Partial<StepRequest>;
  if (request.version === 1 && (request.step === "pre" || request.step === "post")) return request as StepRequest;
  throw new StowageError(
    "the request on standard input is none of version 1; runner and step must be of the same version of @stowage/jobs",
    { code: "CONTRACT_MISMATCH" },
  );
}
