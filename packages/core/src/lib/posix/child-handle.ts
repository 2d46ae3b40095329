import { type ChildProcess, fork } from "node:child_process";
import type { Socket } from "node:net";
import { StowageError } from "../stowage-error.ts";
import { findChildCommand } from "./child-command.ts";
import {
  BYTES_DESCRIPTOR,
  type ChildReply,
  type ChildRequest,
  createFrameParser,
  decodeError,
  frameHeader,
  LIFELINE_DESCRIPTOR,
  type TaskReply,
} from "./child-protocol.ts";
import type { PosixVolume } from "./posix-commands.ts";
import type { VolumeFacts } from "./posix-session.ts";

/** What a child is given of this process's environment: what Node itself may need to start. */
const ENVIRONMENT = ["LD_LIBRARY_PATH", "SystemRoot"];

/** Of what a child says before it dies, the last so many characters are kept. */
const LAST_WORDS = 2048;

/** How long a child may take to clean up and go, in milliseconds. */
const FAREWELL_MS = 1000;

export interface ChildOptions {
  readonly volume: PosixVolume;
  readonly changeDirectory: boolean;
  readonly localRecords: string | undefined;
  readonly onReady: (facts: VolumeFacts) => void;
  readonly onReply: (reply: TaskReply) => void;
  readonly onChunk: (task: number, chunk: Buffer) => void;
  /** Once, however it ended: refused to open, was killed, died. Not after `end`. */
  readonly onLost: (cause: Error) => void;
}

/** A child process that works on a volume. Alone it does not keep this process running. */
export interface ChildHandle {
  readonly pid: number | undefined;
  readonly isReady: boolean;
  send(request: ChildRequest): void;
  /** Settles when the chunk may be used again. */
  sendChunk(task: number, chunk: Uint8Array): Promise<void>;
  /** Whether this process must not end before the child has answered. */
  setBusy(isBusy: boolean): void;
  /** At once, and without waiting: a process that hangs in the kernel may not go for long. */
  kill(cause: Error): void;
  /** Lets it clean up and go; kills it when it does not. Nothing may be under way. */
  end(): Promise<void>;
}

export function startChild(options: ChildOptions): ChildHandle {
  const { script, args } = findChildCommand();
  const env: Record<string, string> = {};
  for (const name of ENVIRONMENT) if (process.env[name] !== undefined) env[name] = process.env[name];
  const child = fork(script, args, {
    env,
    execArgv: [],
    serialization: "json",
    stdio: ["ignore", "ignore", "pipe", "ipc", "pipe", "pipe"],
  });
  // The types know of five descriptors only.
  const descriptors = child.stdio as readonly unknown[];
  const bytes = descriptors[BYTES_DESCRIPTOR] as Socket;
  const lifeline = descriptors[LIFELINE_DESCRIPTOR] as Socket;
  let isReady = false;
  let isOver = false;
  let lastWords = "";

  const release = (): void => {
    if (child.connected) child.disconnect();
    bytes.destroy();
    lifeline.destroy();
    child.stderr?.destroy();
    child.unref();
  };
  const lose = (cause: Error): void => {
    if (isOver) return;
    isOver = true;
    release();
    options.onLost(cause);
  };

  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    lastWords = (lastWords + text).slice(-LAST_WORDS);
  });
  child.on("message", (message) => {
    const reply = message as ChildReply;
    if (isOver) return;
    if (reply.kind === "ready") {
      isReady = true;
      options.onReady(reply.facts);
    } else if (reply.kind === "refused") {
      child.kill("SIGKILL");
      lose(decodeError(reply.error));
    } else {
      options.onReply(reply);
    }
  });
  child.on("error", (error) => lose(unavailable("a child process for file work could not be started or reached", error)));
  child.on("exit", (code, signal) => lose(unavailable(describeExit(code, signal, lastWords))));
  const parse = createFrameParser(options.onChunk);
  bytes.on("data", parse);
  // What ends these also ends the child, which is told of there.
  bytes.on("error", () => undefined);
  lifeline.on("error", () => undefined);

  setBusy(child, bytes, false);
  child.unref();
  child.stderr && (child.stderr as Socket).unref();
  lifeline.unref();

  const send = (request: ChildRequest): void => {
    // A failure is that of the channel, and is followed by the child's exit.
    if (child.connected) child.send(request, () => undefined);
  };
  send({
    kind: "open",
    volume: options.volume,
    changeDirectory: options.changeDirectory,
    localRecords: options.localRecords,
  });

  return {
    pid: child.pid,
    get isReady() {
      return isReady;
    },
    send,
    sendChunk: (task, chunk) =>
      new Promise((resolve, reject) => {
        bytes.cork();
        bytes.write(frameHeader(task, chunk.length));
        bytes.write(chunk, (error) => (error ? reject(error) : resolve()));
        bytes.uncork();
      }),
    setBusy: (isBusy) => {
      if (!isOver) setBusy(child, bytes, isBusy);
    },
    kill(cause) {
      child.kill("SIGKILL");
      lose(cause);
    },
    async end() {
      if (isOver) return;
      isOver = true;
      const { promise, resolve } = Promise.withResolvers<void>();
      child.once("exit", () => resolve());
      const timer = setTimeout(() => {
        child.kill("SIGKILL");
        resolve();
      }, FAREWELL_MS);
      send({ kind: "end" });
      // Until it has gone: its records are to be removed before this process ends.
      child.ref();
      await promise;
      clearTimeout(timer);
      release();
    },
  };
}

function setBusy(child: ChildProcess, bytes: Socket, isBusy: boolean): void {
  if (isBusy) {
    child.channel?.ref();
    bytes.ref();
  } else {
    child.channel?.unref();
    bytes.unref();
  }
}

function describeExit(code: number | null, signal: string | null, lastWords: string): string {
  const how = signal === null ? `ended with exit code ${code}` : `was killed by ${signal}`;
  return `a child process for file work ${how}${lastWords === "" ? "" : `; its last words: ${lastWords.trim()}`}`;
}

function unavailable(message: string, cause?: unknown): StowageError {
  return new StowageError(message, { code: "UNAVAILABLE", cause });
}
