import type { Socket } from "node:net";
import type { FileReader, FileWriter } from "../broker.ts";
import { StowageError } from "../stowage-error.ts";
import {
  BYTES_DESCRIPTOR,
  type ChildReply,
  type ChildRequest,
  createFrameParser,
  type EncodedResult,
  encodeError,
  encodeResult,
  frameHeader,
  LIFELINE_DESCRIPTOR,
  type StreamRequest,
  type WorkRequest,
} from "./child-protocol.ts";
import type { PosixHooks } from "./posix-commands.ts";
import { openPosixSession, type PosixSession } from "./posix-session.ts";

/** Results wait for others so long, in milliseconds, that they are told together. */
const TOGETHER_MS = 5;

/** How often progress is told, in milliseconds. */
const PROGRESS_MS = 200;

/** Local file systems hardly ever hang, and the thread costs as much as some hundred small files: a child that is needed for a moment does without. Milliseconds. */
const WATCHDOG_DELAY_MS = 300;

/** How long the clean-up at the end may take, in milliseconds; the parent waits a little longer. */
const CLOSE_MS = 900;

/** A child's main program: opens the volume that its parent names, does what it asks, and goes when it is gone. */
export function runPosixChild(): void {
  if (process.send === undefined) {
    process.stderr.write("this program is started by @stowage/core for file work; it does nothing by itself\n");
    process.exitCode = 1;
    return;
  }
  // Ctrl-C in a terminal reaches the whole process group; it is the parent that decides what ends.
  for (const signal of ["SIGINT", "SIGHUP", "SIGTERM"] as const) process.on(signal, () => undefined);

  let session: PosixSession | undefined;
  const work: WorkRequest[] = [];
  let isWorking = false;
  const controllers = new Map<number, AbortController>();
  const streams = new Map<number, OpenStream>();

  let bytes: Promise<Socket> | undefined;
  /** The socket that carries the bytes of streams; a child that has none never opens it. */
  const openBytes = async (): Promise<Socket> => {
    const { Socket } = await import("node:net");
    const socket = new Socket({ fd: BYTES_DESCRIPTOR, readable: true, writable: true });
    socket.on("error", () => undefined);
    socket.on(
      "data",
      createFrameParser((task, chunk) => streams.get(task)?.onChunk(chunk)),
    );
    return socket;
  };

  const reply = (message: ChildReply): Promise<void> =>
    new Promise((resolve) => {
      if (process.connected) process.send!(message, undefined, undefined, () => resolve());
      else resolve();
    });
  const sendChunk = async (task: number, chunk: Uint8Array): Promise<void> => {
    bytes ??= openBytes();
    const socket = await bytes;
    await new Promise<void>((resolve) => {
      socket.cork();
      socket.write(frameHeader(task, chunk.length));
      socket.write(chunk, () => resolve());
      socket.uncork();
    });
  };
  const end = (task: number, error?: unknown): void => {
    controllers.delete(task);
    streams.delete(task);
    void reply({
      kind: "ended",
      task,
      error: error === undefined ? undefined : encodeError(error),
      worn: (session?.abandonedCopies ?? 0) > 0 || undefined,
    });
  };

  const drain = async (): Promise<void> => {
    if (isWorking) return;
    isWorking = true;
    for (let request = work.shift(); request !== undefined; request = work.shift()) {
      // Two turns: an abort that has arrived meanwhile is read before the work begins.
      await new Promise(setImmediate);
      await new Promise(setImmediate);
      const { task } = request;
      const { signal } = controllers.get(task)!;
      if (signal.aborted) {
        end(task, signal.reason);
        continue;
      }
      void reply({ kind: "begun", task });
      try {
        await doWork(session!, request, signal, reply);
        end(task);
      } catch (error) {
        end(task, error);
      }
    }
    isWorking = false;
  };

  const begin = (request: StreamRequest): void => {
    const { task } = request;
    const { signal } = controllers.get(task)!;
    const hooks: PosixHooks = { signal, progress: () => undefined };
    void reply({ kind: "begun", task });
    const port: StreamPort = { reply, sendChunk, end: (error) => end(task, error), register: (stream) => streams.set(task, stream) };
    bytes ??= openBytes();
    bytes.then(() => openStream(session!, request, hooks, port)).catch((error: unknown) => end(task, error));
  };

  const finish = async (): Promise<void> => {
    work.splice(0);
    for (const controller of controllers.values()) controller.abort(gone());
    for (const stream of streams.values()) stream.onAbort();
    const cleanUp = async (): Promise<void> => {
      while (isWorking || streams.size > 0) await new Promise((resolve) => setTimeout(resolve, 5));
      await session?.close();
    };
    const tooLong = new Promise((resolve) => setTimeout(resolve, CLOSE_MS));
    await Promise.race([tooLong, cleanUp().catch(() => undefined)]);
    // Not process.exit, which waits for threads: the watchdog's, and whichever hangs in the file system.
    process.kill(process.pid, "SIGKILL");
  };

  process.on("disconnect", () => void finish());
  process.on("message", (message) => {
    const request = message as ChildRequest;
    switch (request.kind) {
      case "open":
        try {
          const { volume, changeDirectory, localRecords } = request;
          session = openPosixSession(volume, { changeDirectory, localRecords });
          void reply({ kind: "ready", facts: session.facts });
          setTimeout(() => void startWatchdog(), session.facts.fileSystem.kind === "local" ? WATCHDOG_DELAY_MS : 0);
        } catch (error) {
          void reply({ kind: "refused", error: encodeError(error) });
        }
        return;
      case "run":
      case "list":
      case "clean":
        controllers.set(request.task, new AbortController());
        work.push(request);
        void drain();
        return;
      case "sweep":
      case "openRead":
      case "openWrite":
        controllers.set(request.task, new AbortController());
        begin(request);
        return;
      case "pull":
        streams.get(request.task)?.onPull();
        return;
      case "commit":
        streams.get(request.task)?.onCommit();
        return;
      case "abort":
        controllers.get(request.task)?.abort(new StowageError("cancelled", { code: "CANCELLED" }));
        streams.get(request.task)?.onAbort();
        return;
      case "forget":
        session?.pages.forget(request.listing);
        return;
      case "end":
        void finish();
        return;
    }
  });
}

function gone(): StowageError {
  return new StowageError("the parent process has gone", { code: "CANCELLED" });
}

type Reply = (message: ChildReply) => Promise<void>;

// ---------- work ----------

async function doWork(session: PosixSession, request: WorkRequest, signal: AbortSignal, reply: Reply): Promise<void> {
  const { task } = request;
  switch (request.kind) {
    case "list":
      await reply({ kind: "pages", task, pages: await session.pages.read(request.directories, signal) });
      return;
    case "clean":
      await reply({ kind: "names", task, names: request.commands.flatMap((command) => session.removeTemporary(command)) });
      return;
    case "run":
      await runCommands(session, request, signal, reply);
  }
}

async function runCommands(
  session: PosixSession,
  { task, commands, exact }: WorkRequest & { kind: "run" },
  signal: AbortSignal,
  reply: Reply,
): Promise<void> {
  /** Bytes that were moved and not told yet, by the index of their command. */
  const untold = new Map<number, number>();
  let results: EncodedResult[] = [];
  let told = performance.now();

  const tellResults = (): void => {
    if (results.length > 0) void reply({ kind: "results", task, results });
    results = [];
    told = performance.now();
  };
  const tellProgress = (): void => {
    for (const [index, bytes] of untold) void reply({ kind: "progress", task, index, bytes });
    untold.clear();
  };
  const timer = setInterval(() => {
    tellResults();
    tellProgress();
  }, PROGRESS_MS);

  const hooks: PosixHooks = {
    signal,
    progress: (bytes, index = 0) => void untold.set(index, (untold.get(index) ?? 0) + bytes),
  };
  const settle = (result: Parameters<typeof encodeResult>[1]): void => {
    results.push(encodeResult(commands[result.index]!.verb, result, untold.get(result.index) ?? 0));
    untold.delete(result.index);
    if (exact || performance.now() - told > TOGETHER_MS) tellResults();
  };
  try {
    if (exact || commands.length === 1) {
      for (const [index, command] of commands.entries()) {
        if (index > 0) await new Promise(setImmediate);
        signal.throwIfAborted();
        try {
          const value = await session.run(command, { signal, progress: (bytes) => hooks.progress(bytes, index) });
          settle({ index, ok: true, value });
        } catch (error) {
          settle({ index, ok: false, error });
        }
      }
    } else {
      await session.runBatch(commands, hooks, settle);
    }
  } finally {
    clearInterval(timer);
    tellResults();
  }
}

// ---------- streams ----------

interface OpenStream {
  onChunk(chunk: Buffer): void;
  onPull(): void;
  onCommit(): void;
  onAbort(): void;
}

interface StreamPort {
  readonly reply: Reply;
  readonly sendChunk: (task: number, chunk: Uint8Array) => Promise<void>;
  readonly end: (error?: unknown) => void;
  readonly register: (stream: OpenStream) => void;
}

async function openStream(session: PosixSession, request: StreamRequest, hooks: PosixHooks, port: StreamPort): Promise<void> {
  const { task } = request;
  switch (request.kind) {
    case "sweep":
      for await (const name of session.sweep(request, hooks)) await port.reply({ kind: "names", task, names: [name] });
      port.end();
      return;
    case "openRead": {
      const reader = await session.openRead(request.command, hooks);
      const stream = serveReader(task, reader, port);
      port.register(stream);
      const { file, size, modified, localPath } = reader;
      void port.reply({ kind: "reader", task, reader: { file, size, modified: modified?.getTime(), localPath } });
      // Aborted while it was being opened, when there was nothing to tell.
      if (hooks.signal.aborted) stream.onAbort();
      return;
    }
    case "openWrite": {
      const { command, modified } = request;
      const writer = await session.openWrite({ ...command, modified: modified === undefined ? undefined : new Date(modified) }, hooks);
      const stream = serveWriter(task, writer, port);
      port.register(stream);
      void port.reply({ kind: "writer", task });
      if (hooks.signal.aborted) stream.onAbort();
    }
  }
}

const NOTHING = new Uint8Array(0);

function serveReader(task: number, reader: FileReader, port: StreamPort): OpenStream {
  const chunks = reader[Symbol.asyncIterator]();
  let isEnded = false;
  const end = async (error?: unknown): Promise<void> => {
    if (isEnded) return;
    isEnded = true;
    await reader.close().catch(() => undefined);
    port.end(error);
  };
  // One after the other, in the order in which they were asked for.
  let last: Promise<void> = Promise.resolve();
  const pull = async (): Promise<void> => {
    if (isEnded) return;
    try {
      const next = await chunks.next();
      await port.sendChunk(task, next.done ? NOTHING : next.value);
    } catch (error) {
      await end(error);
    }
  };
  return {
    onChunk: () => undefined,
    onPull() {
      last = last.then(pull);
    },
    onCommit: () => undefined,
    onAbort: () => void end(),
  };
}

function serveWriter(task: number, writer: FileWriter, port: StreamPort): OpenStream {
  let last: Promise<void> = Promise.resolve();
  let failure: { readonly error: unknown } | undefined;
  let isEnded = false;
  const end = (error?: unknown): void => {
    if (isEnded) return;
    isEnded = true;
    port.end(error);
  };
  return {
    onChunk(chunk) {
      last = last.then(async () => {
        if (isEnded || failure !== undefined) return;
        try {
          await writer.write(chunk);
          void port.reply({ kind: "written", task });
        } catch (error) {
          failure = { error };
          await writer.abort(error);
          end(error);
        }
      });
    },
    onPull: () => undefined,
    onCommit() {
      last = last.then(async () => {
        if (isEnded) return;
        try {
          const details = await writer.commit();
          void port.reply({ kind: "committed", task, details });
          end();
        } catch (error) {
          end(error);
        }
      });
    },
    onAbort() {
      last = last.then(async () => {
        if (isEnded) return;
        await writer.abort(new StowageError("cancelled", { code: "CANCELLED" }));
        end();
      });
    },
  };
}

// ---------- the parent's end ----------

/**
 * When the parent is killed, the channel closes and the child goes; but not one whose only thread hangs in the file system. Another thread waits for
 * the lifeline to close, which nothing but the parent's end does.
 */
async function startWatchdog(): Promise<void> {
  const { Worker } = await import("node:worker_threads");
  const program = `
    const { readSync } = require("node:fs");
    try { readSync(${LIFELINE_DESCRIPTOR}, Buffer.alloc(1), 0, 1, null); } catch {}
    process.kill(process.pid, "SIGKILL");
  `;
  const watchdog = new Worker(program, {
    eval: true,
    execArgv: [],
    env: {},
    resourceLimits: { maxOldGenerationSizeMb: 16, maxYoungGenerationSizeMb: 2 },
  });
  watchdog.unref();
  watchdog.on("error", () => undefined);
}
