import type { FileReader, FileWriter } from "./broker.ts";
import type { FileInput } from "./files.ts";
import type { Lease, OperationScope } from "./operation-context.ts";
import { nextRetryDelay, resolveRetryOptions, sleep } from "./retry.ts";
import { parseFile, parseTarget } from "./stored-file.ts";
import { StowageError } from "./stowage-error.ts";
import type { OpenReadOptions, OpenWriteOptions } from "./workspace.ts";
import { type Access, createScope, type WorkspaceRuntime } from "./workspace-runtime.ts";

/** Opens a file for reading; see `Workspace.openRead`. */
export async function openWorkspaceFile(runtime: WorkspaceRuntime, input: FileInput, options: OpenReadOptions): Promise<FileReader> {
  const { broker } = runtime;
  const file = parseFile(input);
  const { range, signal } = options;
  if (range !== undefined) assertRange(range.start, range.end);
  const session = await openSession(
    runtime,
    { operation: "read", file: file.path, access: "read", method: "openRead" },
    { signal },
    (lease) => broker.openRead!(file, { range }, lease.context),
  );
  const { lease, scope, value: reader } = session;
  let closing: Promise<void> | undefined;

  const close = (): Promise<void> => {
    closing ??= (async () => {
      const closed = await scope.run(() => reader.close(), { epilogue: true });
      session.leave();
      if (!closed.ok && !closed.abandoned) throw session.wrap(closed.error);
    })();
    return closing;
  };
  session.onEnd(() => void close().catch(() => undefined));

  async function* chunks(): AsyncGenerator<Uint8Array, void, undefined> {
    const iterator = reader[Symbol.asyncIterator]();
    let done = false;
    try {
      for (;;) {
        if (closing !== undefined) throw scope.ended ?? new StowageError("this reader is closed", { code: "CLOSED", file: file.path });
        const result = await lease.guard(() => iterator.next());
        if (result.done === true) break;
        yield result.value;
      }
      done = true;
    } catch (error) {
      done = true;
      throw session.wrap(error);
    } finally {
      if (!done) await scope.run(async () => iterator.return?.(), { epilogue: true });
    }
  }
  return {
    file: reader.file,
    size: reader.size,
    modified: reader.modified,
    localPath: reader.localPath,
    [Symbol.asyncIterator]: chunks,
    close,
  };
}

/** Opens a file for writing; see `Workspace.openWrite`. */
export async function createWorkspaceFile(runtime: WorkspaceRuntime, input: FileInput, options: OpenWriteOptions): Promise<FileWriter> {
  const { broker } = runtime;
  const file = parseTarget(input);
  const { size, modified, ...rest } = options;
  const session = await openSession(runtime, { operation: "write", file: file.path, access: "write", method: "openWrite" }, rest, (lease) =>
    broker.openWrite!(file, { size, modified }, lease.context),
  );
  const { lease, scope, value: writer } = session;
  /** The broker is promised one call at a time. */
  let last: Promise<unknown> = Promise.resolve();
  let failure: { readonly error: unknown } | undefined;
  let commitCalled = false;
  let aborting: Promise<void> | undefined;

  const abort = (reason: unknown): Promise<void> => {
    aborting ??= (async () => {
      await last.catch(() => undefined);
      // One of the two is called, never both.
      if (!commitCalled) await scope.run(() => writer.abort(reason), { epilogue: true });
      session.leave();
    })();
    return aborting;
  };
  session.onEnd((reason) => void abort(reason));

  const inTurn = <T>(call: () => Promise<T>): Promise<T> => {
    const turn = last.then(async () => {
      if (failure !== undefined) throw failure.error;
      if (aborting !== undefined || commitCalled) {
        throw session.wrap(scope.ended ?? new StowageError("this writer has ended", { code: "CLOSED", file: file.path }));
      }
      try {
        return await lease.guard(call);
      } catch (error) {
        failure = { error: session.wrap(error) };
        throw failure.error;
      }
    });
    last = turn.catch(() => undefined);
    return turn;
  };

  return {
    write: (chunk) => inTurn(() => writer.write(chunk)),
    async commit() {
      try {
        return await inTurn(() => {
          commitCalled = true;
          return writer.commit();
        });
      } catch (error) {
        await abort(error);
        throw error;
      } finally {
        session.leave();
      }
    },
    abort,
  };
}

interface Session<T> {
  readonly value: T;
  readonly lease: Lease;
  readonly scope: OperationScope;
  wrap(error: unknown): StowageError;
  /** Calls `listener` when the session has to end: the caller's signal, or `close` of the workspace. */
  onEnd(listener: (reason: StowageError) => void): void;
  leave(): void;
}

/** Opens something that lives longer than a call. Opening is repeated when it fails; nothing after it is. */
async function openSession<T>(
  runtime: WorkspaceRuntime,
  call: { readonly operation: string; readonly file: string; readonly access: Access; readonly method: "openRead" | "openWrite" },
  options: OpenWriteOptions,
  open: (lease: Lease) => Promise<T>,
): Promise<Session<T>> {
  const refusal =
    runtime.refusal(call.access) ?? (runtime.broker[call.method] === undefined ? runtime.unsupported(call.method) : undefined);
  if (refusal !== undefined) throw refusal;
  const { signal, durability, checksum, ifExists } = options;
  const scope = createScope(runtime, { signal, durability, checksum, ifExists });
  let listener: ((reason: StowageError) => void) | undefined;
  const end = runtime.begin({
    closing: () => scope.cancel(runtime.refusal("look") ?? new StowageError("closed", { code: "CLOSED" })),
    cancel: scope.cancel,
  });
  const wrap = (error: unknown): StowageError => runtime.wrap(error, call.operation, call.file);
  const leave = (): void => {
    scope.dispose();
    end();
  };
  try {
    const policy = resolveRetryOptions();
    const startedAt = performance.now();
    for (let attempts = 1; ; attempts++) {
      const lease = scope.lease();
      try {
        const value = await lease.guard(() => open(lease));
        return {
          value,
          lease,
          scope,
          wrap,
          onEnd(ended) {
            listener = ended;
            scope.onEnd(() => listener?.(scope.ended!));
          },
          leave() {
            lease.release();
            leave();
          },
        };
      } catch (error) {
        lease.release();
        const delay = nextRetryDelay(runtime.classify(error), policy, { attempts, startedAt });
        if (scope.ended !== undefined || delay === undefined) throw scope.ended ?? error;
        runtime.log("info", "an attempt failed and will be repeated", { attempt: attempts, delayMs: Math.round(delay) });
        await sleep(delay, scope.signal).catch(() => undefined);
        if (scope.ended !== undefined) throw scope.ended;
      }
    }
  } catch (error) {
    leave();
    throw wrap(error);
  }
}

function assertRange(start: number, end: number | undefined): void {
  const valid = Number.isSafeInteger(start) && start >= 0 && (end === undefined || (Number.isSafeInteger(end) && end >= start));
  if (valid) return;
  throw new StowageError(
    `invalid range ${start} to ${end ?? "the end"}: start and end are numbers of bytes, end (exclusive) not before start`,
    {
      code: "INVALID_ARGUMENT",
    },
  );
}
