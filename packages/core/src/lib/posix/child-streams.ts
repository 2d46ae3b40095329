import type { FileReader, FileWriter, TransferDetails } from "../broker.ts";
import { StowageError } from "../stowage-error.ts";
import type { ChildPool, SubmittedTask } from "./child-pool.ts";
import type { EncodedReader, StreamRequest, TaskReply } from "./child-protocol.ts";
import { cleanTemporaries } from "./clean-temporaries.ts";
import type { PosixExecutor, PosixHooks } from "./posix-commands.ts";
import { createResultQueue } from "./result-queue.ts";

/** Chunks that are asked for before they are needed. */
const CHUNKS_AHEAD = 2;

/** What lasts longer than one command, in children of `pool`; those of `workPool` clean up after them. */
export function createStreams(pool: ChildPool, workPool: ChildPool): Pick<PosixExecutor, "openRead" | "openWrite" | "sweep"> {
  return {
    async openRead(command, hooks) {
      const stream = startStream(pool, hooks, (task) => ({ kind: "openRead", task, command }));
      return createReader(stream, await stream.opened, hooks);
    },
    async openWrite(command, hooks) {
      const stream = startStream(pool, hooks, (task) => {
        return { kind: "openWrite", task, command: { ...command, modified: undefined }, modified: command.modified?.getTime() };
      });
      const tidy = async (): Promise<void> => {
        if (stream.isLost) await cleanTemporaries(workPool, [command], hooks.signal);
      };
      try {
        await stream.opened;
      } catch (error) {
        await stream.ended.catch(() => undefined);
        await tidy();
        throw error;
      }
      return createWriter(stream, tidy, hooks);
    },
    async *sweep(options, hooks) {
      const names = createResultQueue<string>();
      const stream = startStream(
        pool,
        hooks,
        (task) => ({ kind: "sweep", task, ...options }),
        (reply) => {
          if (reply.kind === "names") for (const name of reply.names) names.push(name);
        },
      );
      stream.ended.then(names.end, names.fail);
      try {
        yield* names;
      } finally {
        stream.cancel();
        await stream.ended.catch(() => undefined);
      }
    },
  };
}

interface Stream {
  readonly submitted: SubmittedTask;
  /** What the child says when the file is open; rejects when it cannot be opened. */
  readonly opened: Promise<EncodedReader | undefined>;
  /** Rejects with why it ended, if not well. */
  readonly ended: Promise<void>;
  /** The child that had it is gone. */
  readonly isLost: boolean;
  /** Rejects when the stream ends before `promise` settles. */
  orEnd<T>(promise: Promise<T>): Promise<T>;
  /** Lets go of it; `ended` settles within half a second. */
  cancel(): void;
  onReply: (reply: TaskReply) => void;
  onChunk: (chunk: Buffer) => void;
}

function startStream(
  pool: ChildPool,
  hooks: PosixHooks,
  request: (task: number) => StreamRequest,
  onReply: (reply: TaskReply) => void = () => undefined,
): Stream {
  hooks.signal.throwIfAborted();
  const opening = Promise.withResolvers<EncodedReader | undefined>();
  const ending = Promise.withResolvers<void>();
  // Whoever is not waiting for one of them learns by the other.
  opening.promise.catch(() => undefined);
  ending.promise.catch(() => undefined);
  const end = (error?: unknown): void => {
    hooks.signal.removeEventListener("abort", onAbort);
    if (error === undefined) ending.resolve();
    else ending.reject(error);
    opening.reject(error ?? new StowageError("the stream ended before it was open", { code: "UNAVAILABLE" }));
  };
  let isLost = false;
  const submitted = pool.submit({
    isShort: false,
    request,
    onReply(reply) {
      if (reply.kind === "reader") opening.resolve(reply.reader);
      else if (reply.kind === "writer") opening.resolve(undefined);
      else stream.onReply(reply);
    },
    onChunk: (chunk) => stream.onChunk(chunk),
    onEnded: (error) => end(hooks.signal.aborted ? hooks.signal.reason : error),
    onLost(cause) {
      isLost = true;
      const lost = new StowageError(`the process that held the file open was lost: ${cause.message}`, { code: "UNAVAILABLE", cause });
      end(hooks.signal.aborted ? hooks.signal.reason : lost);
    },
  });
  const onAbort = (): void => {
    opening.reject(hooks.signal.reason);
    submitted.cancel();
  };
  hooks.signal.addEventListener("abort", onAbort, { once: true });
  const stream: Stream = {
    submitted,
    opened: opening.promise,
    ended: ending.promise,
    get isLost() {
      return isLost;
    },
    orEnd: (promise) => Promise.race([promise, ending.promise.then(() => Promise.reject(closed()))]),
    cancel: () => submitted.cancel(),
    onReply,
    onChunk: () => undefined,
  };
  return stream;
}

function closed(): StowageError {
  return new StowageError("this stream is closed", { code: "CLOSED" });
}

function createReader(stream: Stream, opened: EncodedReader | undefined, hooks: PosixHooks): FileReader {
  const { file, size, modified, localPath } = opened!;
  const { id } = stream.submitted;
  const chunks = createResultQueue<Buffer>();
  stream.onChunk = (chunk) => {
    if (chunk.length === 0) chunks.end();
    else chunks.push(chunk);
  };
  stream.ended.then(() => chunks.fail(closed()), chunks.fail);
  let isClosed = false;

  const pull = (): void => stream.submitted.child?.send({ kind: "pull", task: id });

  return {
    file,
    size,
    modified: modified === undefined ? undefined : new Date(modified),
    localPath,
    async *[Symbol.asyncIterator]() {
      if (isClosed) throw closed();
      for (let ahead = 0; ahead < CHUNKS_AHEAD; ahead++) pull();
      for await (const chunk of chunks) {
        hooks.signal.throwIfAborted();
        pull();
        hooks.progress(chunk.length);
        yield chunk;
      }
      hooks.signal.throwIfAborted();
    },
    async close() {
      if (isClosed) return;
      isClosed = true;
      chunks.fail(closed());
      stream.cancel();
      await stream.ended.catch(() => undefined);
    },
  };
}

function createWriter(stream: Stream, tidy: () => Promise<void>, hooks: PosixHooks): FileWriter {
  const { submitted } = stream;
  let written: (() => void) | undefined;
  let committed: ((details: TransferDetails) => void) | undefined;
  stream.onReply = (reply) => {
    if (reply.kind === "written") written?.();
    if (reply.kind === "committed") committed?.(reply.details);
  };
  return {
    async write(chunk) {
      hooks.signal.throwIfAborted();
      if (chunk.length === 0) return;
      const done = new Promise<void>((resolve) => {
        written = resolve;
      });
      const { child } = submitted;
      if (child !== undefined) await stream.orEnd(child.sendChunk(submitted.id, chunk));
      await stream.orEnd(done);
      hooks.progress(chunk.length);
    },
    async commit() {
      hooks.signal.throwIfAborted();
      const done = new Promise<TransferDetails>((resolve) => {
        committed = resolve;
      });
      submitted.child?.send({ kind: "commit", task: submitted.id });
      return stream.orEnd(done);
    },
    async abort() {
      stream.cancel();
      await stream.ended.catch(() => undefined);
      await tidy();
    },
  };
}
