import { escapePath, StowageError } from "@stowage/core";
import { systemErrorCode } from "@stowage/core/broker";
import { EXIT_CODES, exitCodeOf } from "@stowage/jobs";
import { type Output, printable } from "./output.ts";

export { EXIT_CODES };

/** How long file work that is under way may take to end before it counts as stuck. */
const GRACE_MS = 1000;
const GRACE_AT_ONCE_MS = 200;

/** The exit code for an error, whichever part of the command raised it. */
export function exitCodeFor(error: unknown): number {
  if (StowageError.is(error)) return exitCodeOf(error);
  const code = systemErrorCode(error);
  return code === undefined ? exitCodeOf(error) : exitCodeOf(new StowageError("", { code }));
}

/** One line for a person, without a stack. */
export function describeError(error: unknown): string {
  if (StowageError.is(error)) return oneLine(error.message);
  const { message, path } = error instanceof Error ? (error as NodeJS.ErrnoException) : { message: String(error), path: undefined };
  const code = systemErrorCode(error);
  const remedy = SYSTEM_REMEDIES[(error as NodeJS.ErrnoException).code ?? ""];
  if (code !== undefined && path !== undefined && remedy !== undefined) return `"${escapePath(path)}" ${remedy}`;
  if (code !== undefined) return oneLine(message);
  return `internal error: ${oneLine(message)}; please report it, with what STOWAGE_DEBUG=1 shows`;
}

const SYSTEM_REMEDIES: Readonly<Record<string, string>> = {
  ENOENT: "does not exist; check the path",
  ENOTDIR: "does not exist: a part of its path is a file; check the path",
  EACCES: "may not be accessed by this user; change its permissions",
  EPERM: "may not be changed by this user; change its permissions",
  ENOSPC: "cannot be written: no space is left; free some",
  EROFS: "cannot be written: the file system is read-only; choose another place",
  EISDIR: "is a directory; name a file",
  ELOOP: "leads through too many links; name the file itself",
  ENAMETOOLONG: "has a name that is too long; shorten it",
};

function oneLine(text: string): string {
  return linesOf(text).join("; ");
}

function linesOf(text: string): string[] {
  return text
    .split(/\n(?:\s*- )?/)
    .map((line) => printable(line.trim()))
    .filter((line) => line !== "");
}

/** Tells of an error: a line on standard error for each thing that is wrong, with --json a record too. Gives the exit code. */
export function reportError(error: unknown, output: Output): number {
  const exitCode = exitCodeFor(error);
  const message = describeError(error);
  output.record({ event: "error", code: StowageError.is(error) ? error.code : (systemErrorCode(error) ?? "UNKNOWN"), message, exitCode });
  // What has several things to say gives each a line.
  for (const line of StowageError.is(error) ? linesOf(error.message) : [message]) output.failure(line);
  if (process.env.STOWAGE_DEBUG && error instanceof Error) output.failure(error.stack ?? "");
  return exitCode;
}

/** Raised by the first SIGINT or SIGTERM, and when the reader of standard output goes away. */
export function cancelled(reason: string): StowageError {
  return new StowageError(reason, { code: "CANCELLED" });
}

/** The first SIGINT or SIGTERM aborts `controller`, the second leaves at once. */
export function watchSignals(controller: AbortController, output: Output): void {
  let isSecond = false;
  const onSignal = (signal: NodeJS.Signals): void => {
    if (isSecond) {
      output.failure(`${signal} again: leaving at once; what was under way may have left temporary files, which "stowage sweep" removes`);
      void leave(EXIT_CODES.interrupted, output, GRACE_AT_ONCE_MS);
      return;
    }
    isSecond = true;
    output.status(undefined);
    output.notice(`${signal}: cancelling, and cleaning up what is under way (again to leave at once)`);
    controller.abort(cancelled(`cancelled by ${signal}`));
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
}

/**
 * Ends the process. A thread that hangs in a file operation (a dead NFS server, a FIFO) would make `process.exit` hang too: nothing but
 * SIGKILL ends such a process, so after a moment of grace it gives itself that.
 */
export async function leave(exitCode: number, output: Output, graceMs: number = GRACE_MS): Promise<never> {
  output.status(undefined);
  output.flush();
  const until = performance.now() + graceMs;
  while (hasFileWork()) {
    if (performance.now() > until) {
      output.failure(`a file operation hangs and cannot be ended (exit code ${exitCode}); leaving by SIGKILL`);
      process.kill(process.pid, "SIGKILL");
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  process.exit(exitCode);
}

function hasFileWork(): boolean {
  return process.getActiveResourcesInfo().some((name) => name.startsWith("FSReq"));
}
