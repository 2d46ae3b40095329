import type { BatchResult } from "../broker.ts";
import { nextListing, walkFiles } from "./list-files.ts";
import type { PosixCommand, PosixExecutor, PosixHooks, PosixResult } from "./posix-commands.ts";
import { createPause, type PosixSession } from "./posix-session.ts";
import { createResultQueue } from "./result-queue.ts";

/** Runs commands in this process. It never changes the working directory or the umask, and lets the event loop turn at least every 10 ms. */
export function createInlineExecutor(session: PosixSession): PosixExecutor {
  const pause = createPause();
  return {
    kind: "inline",
    async run<C extends PosixCommand>(command: C, hooks: PosixHooks): Promise<PosixResult<C>> {
      // Small files are done without waiting for anything: callers that go on at once would leave no turn to others.
      const waiting = pause();
      if (waiting !== undefined) {
        await waiting;
        hooks.signal.throwIfAborted();
      }
      return session.run(command, hooks);
    },
    async *runBatch<C extends PosixCommand>(commands: readonly C[], hooks: PosixHooks): AsyncGenerator<BatchResult<PosixResult<C>>> {
      // Ends the work when the consumer does.
      const ending = new AbortController();
      const onAbort = (): void => ending.abort(hooks.signal.reason);
      if (hooks.signal.aborted) onAbort();
      else hooks.signal.addEventListener("abort", onAbort, { once: true });
      const results = createResultQueue<BatchResult<PosixResult<C>>>();
      const work = session
        .runBatch(commands, { signal: ending.signal, progress: (bytes, index) => hooks.progress(bytes, index) }, (result) =>
          results.push(result),
        )
        .then(results.end, results.fail);
      try {
        yield* results;
      } finally {
        hooks.signal.removeEventListener("abort", onAbort);
        ending.abort(hooks.signal.reason ?? new Error("nobody waits for this batch any more"));
        await work;
      }
    },
    async *list(command, hooks) {
      const listing = nextListing();
      try {
        yield* walkFiles(command, (requests, signal) => session.pages.read(requests, signal), { listing, together: 4, ahead: 4 }, hooks);
      } finally {
        session.pages.forget(listing);
      }
    },
    openRead: (command, hooks) => session.openRead(command, hooks),
    openWrite: (command, hooks) => session.openWrite(command, hooks),
    sweep: (options, hooks) => session.sweep(options, hooks),
    close: () => session.close(),
  };
}
