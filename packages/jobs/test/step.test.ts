import { spawn } from "node:child_process";
import { once } from "node:events";
import { PassThrough } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { parseJobSpec, resolveJobWorkspaces } from "../src/index.ts";
import { serveStep } from "../src/lib/serve-step.ts";
import { createMessageReader, formatMessage, type StepMessage, type StepRequest } from "../src/lib/step-protocol.ts";
import { createJobWorld, type JobWorld } from "./fixtures/job-world.ts";

let world: JobWorld;
beforeEach(async () => {
  world = await createJobWorld();
});
afterEach(() => world.remove());

const STEP = new URL("../src/step.ts", import.meta.url).pathname;

function request(parts: Partial<StepRequest> = {}, faults: Parameters<JobWorld["faulty"]>[1] = {}): StepRequest {
  const job = parseJobSpec({
    name: "demo",
    inputs: [{ name: "a", workspace: "data", path: "a" }],
    outputs: [{ name: "all", workspace: "results", glob: "**", path: "{path}" }],
  });
  return {
    version: 1,
    step: "pre",
    job: resolveJobWorkspaces(job, { data: world.faulty("data", faults), results: world.faulty("results", faults) }),
    run: "r1",
    startedAt: new Date(0).toISOString(),
    directory: world.path("job"),
    brokerModules: [new URL("./fixtures/faulty-broker.ts", import.meta.url).href],
    baseDirectory: world.base,
    ...parts,
  };
}

/** Runs the step's process with `lines` on its standard input. */
async function runProcess(
  lines: readonly string[],
  options: { readonly close?: boolean; readonly onMessage?: (message: StepMessage, send: (line: string) => void) => void } = {},
) {
  const child = spawn(process.execPath, [STEP], { stdio: ["pipe", "pipe", "pipe"] });
  const messages: StepMessage[] = [];
  let text = "";
  const send = (line: string): void => void child.stdin.write(`${line}\n`);
  child.stdin.on("error", () => undefined);
  const read = createMessageReader({
    onMessage: (line) => {
      const message = JSON.parse(line) as StepMessage;
      messages.push(message);
      options.onMessage?.(message, send);
    },
    onText: (chunk) => {
      text += Buffer.from(chunk).toString();
    },
    onLast: () => undefined,
  });
  for (const line of lines) send(line);
  if (options.close !== false) child.stdin.end();
  const exited = once(child, "exit");
  for await (const chunk of child.stdout) await read(chunk as Uint8Array);
  const [exitCode, signal] = (await exited) as [number | null, string | null];
  return { messages, text, exitCode, signal };
}

describe("the lines of a stage step", () => {
  test("are told apart from text, however they are cut", async () => {
    const part = fc.oneof(
      fc.record({ text: fc.stringMatching(/^[ -~é]{0,20}\n$/u) }),
      fc.record({
        message: fc
          .string({ maxLength: 30 })
          .map((message): StepMessage => ({ type: "event", event: { type: "log", step: "pre", level: "info", message } })),
      }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(part, { maxLength: 8 }), fc.array(fc.nat({ max: 400 }), { maxLength: 12 }), async (parts, cuts) => {
        const bytes = Buffer.from(parts.map((one) => ("text" in one ? one.text : formatMessage(one.message))).join(""));
        const messages: unknown[] = [];
        const texts: Uint8Array[] = [];
        const read = createMessageReader({
          onMessage: (line) => messages.push(JSON.parse(line)),
          onText: (text) => void texts.push(Buffer.from(text)),
          onLast: () => undefined,
        });
        const points = [...new Set([0, ...cuts.filter((cut) => cut < bytes.length), bytes.length])].sort((left, right) => left - right);
        for (const [index, point] of points.slice(1).entries()) await read(bytes.subarray(points[index]!, point));
        expect(messages).toEqual(parts.flatMap((one) => ("message" in one ? [one.message] : [])));
        expect(Buffer.concat(texts).toString()).toBe(parts.map((one) => ("text" in one ? one.text : "")).join(""));
      }),
    );
  });

  test("know the last one", async () => {
    let lasts = 0;
    const read = createMessageReader({ onMessage: () => undefined, onText: () => undefined, onLast: () => void lasts++ });
    await read(
      Buffer.from(formatMessage({ type: "event", event: { type: "log", step: "pre", level: "info", message: '{"type":"done"' } })),
    );
    expect(lasts).toBe(0);
    await read(Buffer.from(formatMessage({ type: "done" })));
    expect(lasts).toBe(1);
  });
});

describe("the process of a stage step", () => {
  test("stages in what its request says", async () => {
    await world.put("data/a", "1");
    const { messages, exitCode } = await runProcess([JSON.stringify(request())], { close: false, onMessage: () => undefined });
    expect(exitCode).toBe(0);
    expect(messages.at(-1)).toEqual({ type: "done" });
    expect(messages.some((message) => message.type === "event" && message.event.type === "file")).toBe(true);
    expect(await world.files("job/input")).toEqual({ "a/a": "1" });
  });

  test("asks the runner before it stores, and after", async () => {
    await world.put("job/output/x", "1");
    const asked: string[] = [];
    const { messages, exitCode } = await runProcess([JSON.stringify(request({ step: "post", hasStore: true }))], {
      close: false,
      onMessage: (message, send) => {
        if (!("id" in message)) return;
        asked.push(message.type);
        send(JSON.stringify({ type: "reply", id: message.id }));
      },
    });
    expect({ exitCode, asked }).toEqual({ exitCode: 0, asked: ["begin", "record", "stored"] });
    expect(messages.at(-1)).toMatchObject({ type: "done", result: { outputs: [{ path: "x" }] } });
  });

  test("stores nothing when the runner cannot write down that it begins", async () => {
    await world.put("job/output/x", "1");
    const { messages, exitCode } = await runProcess([JSON.stringify(request({ step: "post" }))], {
      close: false,
      onMessage: (message, send) => {
        if ("id" in message)
          send(JSON.stringify({ type: "reply", id: message.id, error: { message: "the disk is full", code: "NO_SPACE" } }));
      },
    });
    expect(exitCode).toBe(171);
    expect(messages.at(-1)).toMatchObject({ type: "failed", failure: { exitCode: 171, failures: [{ message: "the disk is full" }] } });
    expect(await world.files("results")).toEqual({});
  });

  test.each([
    ["nothing", [], /started by the runner/],
    ["no JSON", ["hello"], /JSON/],
    ["another version", ['{"version":2}'], /same version/],
  ])("given %s says what it is and fails", async (_what, lines, message) => {
    const { messages, exitCode } = await runProcess(lines);
    expect(exitCode).not.toBe(0);
    expect(messages).toEqual([
      expect.objectContaining({
        type: "failed",
        failure: expect.objectContaining({ failures: [expect.objectContaining({ message: expect.stringMatching(message) })] }),
      }),
    ]);
  });

  test("cancels when it is told to", async () => {
    await world.put("data/a", "1");
    const { messages, exitCode } = await runProcess([JSON.stringify(request({}, { fault: { method: "downloadFile", mode: "hang" } }))], {
      close: false,
      onMessage: (message, send) => {
        if (message.type === "event" && message.event.type === "log") send('{"type":"cancel"}');
      },
    });
    expect(exitCode).toBe(180);
    expect(messages.at(-1)).toMatchObject({ type: "failed", failure: { isCancelled: true } });
  });

  test("cancels and ends when the runner is gone, also while it waits for an answer", async () => {
    await world.put("job/output/x", "1");
    const input = new PassThrough();
    const output = new PassThrough();
    const served = serveStep(input, output);
    input.write(`${JSON.stringify(request({ step: "post", brokerModules: [] }))}\n`);
    await sleep(50);
    input.end();
    expect(await served).not.toBe(0);

    const startedAt = performance.now();
    const child = spawn(process.execPath, [STEP], { stdio: ["pipe", "pipe", "ignore"] });
    child.stdin.write(`${JSON.stringify(request({ step: "post" }))}\n`);
    for await (const chunk of child.stdout) {
      if (String(chunk).includes('"begin"')) child.stdin.end();
    }
    if (child.exitCode === null) await once(child, "exit");
    expect(child.exitCode).toBe(180);
    expect(performance.now() - startedAt).toBeLessThan(10_000);
    expect(await world.files("results")).toEqual({});
  });

  test("what a broker's module prints is text, no message", async () => {
    await world.put("data/a", "1");
    await world.put(
      "noisy.mjs",
      `console.log("hello from a module"); export * from ${JSON.stringify(new URL("./fixtures/faulty-broker.ts", import.meta.url).href)};`,
    );
    const { messages, text, exitCode } = await runProcess([JSON.stringify(request({ brokerModules: ["./noisy.mjs"] }))], { close: false });
    expect(exitCode).toBe(0);
    expect(text).toBe("hello from a module\n");
    expect(messages.at(-1)).toEqual({ type: "done" });
  });
});
