import type { ListProblem, OperationContext } from "./broker.ts";
import { escapePath, isFilePath, parseDirectoryPath, parseFilePath } from "./file-path.ts";
import type { FileDetails, FilePath } from "./files.ts";
import type { Lease } from "./operation-context.ts";
import { nextRetryDelay, resolveRetryOptions, sleep } from "./retry.ts";
import { StowageError } from "./stowage-error.ts";
import type { ListFilesOptions, SweepOptions } from "./workspace.ts";
import { type Access, createScope, type WorkspaceRuntime } from "./workspace-runtime.ts";

const DAY_MS = 24 * 60 * 60 * 1000;

/** Lists files; see `Workspace.listFiles`. */
export async function* listWorkspace(
  runtime: WorkspaceRuntime,
  directory: string | undefined,
  options: ListFilesOptions,
): AsyncGenerator<FileDetails, void, undefined> {
  const place = parseDirectoryPath(directory ?? "");
  const startAfter = options.startAfter === undefined ? undefined : parseFilePath(options.startAfter);
  const prefix = place === "" ? "" : `${place}/`;
  const recursive = options.recursive ?? false;
  let problems = 0;
  let firstProblem: StowageError | undefined;
  let thrown: { readonly error: unknown } | undefined;

  const report = (problem: ListProblem): void => {
    const error = runtime.wrap(problem.error, "list", problem.path);
    if (options.onProblem === undefined) {
      problems++;
      firstProblem ??= error;
      return;
    }
    try {
      options.onProblem({ path: problem.path, error });
    } catch (error) {
      // Called from the midst of a broker: it must not see the caller's errors.
      thrown ??= { error };
    }
  };
  const open = (context: OperationContext): AsyncIterable<FileDetails> =>
    runtime.broker.listFiles(place, { recursive, startAfter, onProblem: report }, context);

  for await (const details of iterate(runtime, { operation: "list", file: place, access: "look" }, options.signal, open)) {
    if (thrown !== undefined) throw thrown.error;
    const problem = describeForeign(details, prefix);
    if (problem === undefined) yield details;
    else report(problem);
  }
  if (thrown !== undefined) throw (thrown as { readonly error: unknown }).error;
  if (firstProblem !== undefined) {
    throw new StowageError(`the listing is not complete, ${problems} of its entries could not be given; first: ${firstProblem.message}`, {
      code: firstProblem.code,
      workspace: runtime.name,
      file: firstProblem.file,
      cause: firstProblem,
    });
  }
}

/** Names from a broker are input: one that is no path, or lies elsewhere, must not reach somebody who acts on it. */
function describeForeign(details: FileDetails, prefix: string): ListProblem | undefined {
  const path: FilePath = details.file.path;
  if (typeof path === "string" && isFilePath(path) && path.startsWith(prefix)) return undefined;
  const shown = escapePath(String(path));
  let error: unknown = new StowageError(`the broker listed "${shown}", which does not lie in "${escapePath(prefix)}"`, {
    code: "INVALID_PATH",
  });
  try {
    parseFilePath(path);
  } catch (problem) {
    error = problem;
  }
  return { path: shown, error };
}

/** Removes what crashed sessions left; see `Workspace.sweep`. */
export async function* sweepWorkspace(runtime: WorkspaceRuntime, options: SweepOptions): AsyncGenerator<string, void, undefined> {
  const { broker } = runtime;
  const { olderThanMs = DAY_MS, deep = false } = options;
  if (!(olderThanMs >= 0)) throw new StowageError(`olderThanMs must be 0 or more, got ${olderThanMs}`, { code: "INVALID_ARGUMENT" });
  const refusal = runtime.refusal("write") ?? (broker.sweep === undefined ? runtime.unsupported("sweep") : undefined);
  if (refusal !== undefined) throw refusal;
  const open = (context: OperationContext): AsyncIterable<string> => broker.sweep!({ olderThanMs, deep }, context);
  yield* iterate(runtime, { operation: "sweep", access: "write" }, options.signal, open);
}

/**
 * Goes through what a broker yields: ends within a second of an abort, repeats the start (and only that, nothing may come twice) when it
 * fails, and lets the broker clean up when the consumer stops.
 */
async function* iterate<T>(
  runtime: WorkspaceRuntime,
  call: { readonly operation: string; readonly file?: string | undefined; readonly access: Access },
  signal: AbortSignal | undefined,
  open: (context: OperationContext) => AsyncIterable<T>,
): AsyncGenerator<T, void, undefined> {
  const refusal = runtime.refusal(call.access);
  if (refusal !== undefined) throw refusal;
  const scope = createScope(runtime, { signal });
  let lease: Lease | undefined;
  let iterator: AsyncIterator<T> | undefined;
  let idle = true;
  let closing = false;
  let stopped: Promise<void> | undefined;
  const closed = (): StowageError => runtime.refusal("look") ?? new StowageError("closed", { code: "CLOSED" });

  const stop = async (): Promise<void> => {
    const unfinished = iterator;
    iterator = undefined;
    // Cleaning up is allowed after an abort too, but not for ever.
    if (unfinished?.return !== undefined) await scope.run(async () => unfinished.return?.(), { epilogue: true });
    lease?.release();
    scope.dispose();
    leave();
  };
  const stopOnce = (): Promise<void> => {
    stopped ??= stop();
    return stopped;
  };
  const leave = runtime.begin({
    // Nobody knows whether the consumer comes back: what waits for it has nothing to finish.
    closing() {
      closing = true;
      if (idle) void stopOnce();
    },
    cancel(reason) {
      scope.cancel(reason);
      if (idle) void stopOnce();
    },
  });

  try {
    const policy = resolveRetryOptions();
    const startedAt = performance.now();
    let result: IteratorResult<T, unknown> | undefined;
    idle = false;
    for (let attempts = 1; result === undefined; attempts++) {
      const current = scope.lease();
      lease = current;
      try {
        iterator = open(current.context)[Symbol.asyncIterator]();
        const first = iterator;
        result = await current.guard(() => first.next());
      } catch (error) {
        iterator = undefined;
        current.release();
        const delay = nextRetryDelay(runtime.classify(error), policy, { attempts, startedAt });
        if (scope.ended !== undefined || delay === undefined) throw error;
        runtime.log("info", "an attempt failed and will be repeated", { attempt: attempts, delayMs: Math.round(delay) });
        await sleep(delay, scope.signal).catch(() => undefined);
        if (scope.ended !== undefined) throw scope.ended;
      }
    }
    const current = lease;
    while (result.done !== true) {
      idle = true;
      yield result.value;
      idle = false;
      const next = iterator;
      if (next === undefined || current === undefined) throw closed();
      result = await current.guard(() => next.next());
      if (closing) throw closed();
    }
    iterator = undefined;
  } catch (error) {
    throw runtime.wrap(scope.ended ?? error, call.operation, call.file === "" ? undefined : call.file);
  } finally {
    idle = false;
    await stopOnce();
  }
}
