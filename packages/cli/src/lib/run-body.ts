import type { CommandContext, GlobalOptions } from "./context.ts";
import { cancelled, describeError, EXIT_CODES, leave, reportError, watchSignals } from "./exit.ts";
import { createOutput, type Output } from "./output.ts";
import { createSession, type Session } from "./session.ts";

/** How long workspaces may take to close after a signal. */
const CLOSE_MS = 2000;

let output: Output | undefined;

/** Runs a command's body with everything it needs; gives the exit code. */
export async function runBody(options: GlobalOptions, body: (context: CommandContext) => Promise<number | undefined>): Promise<number> {
  const controller = new AbortController();
  const workingDirectory = process.cwd();
  const out = createOutput({
    isJson: options.json === true,
    isQuiet: options.quiet === true,
    isVerbose: options.verbose === true,
    standardOutput: process.stdout,
    standardError: process.stderr,
    environment: process.env,
    onBrokenPipe: () => controller.abort(cancelled("cancelled: nobody reads the output any more")),
  });
  output = out;
  watchSignals(controller, out);
  const session = createSession({ options, workingDirectory, signal: controller.signal, output: out });
  let exitCode: number;
  try {
    exitCode = (await body({ output: out, signal: controller.signal, workingDirectory, options, session })) ?? EXIT_CODES.success;
  } catch (error) {
    exitCode = controller.signal.aborted ? reportCancelled(controller.signal, out) : reportError(error, out);
  }
  try {
    await closeInTime(session, controller.signal);
  } catch (error) {
    // What failed first is what the caller wants to know.
    const closing = reportError(error, out);
    if (exitCode === EXIT_CODES.success) exitCode = closing;
  }
  out.status(undefined);
  out.flush();
  return exitCode;
}

function reportCancelled(signal: AbortSignal, out: Output): number {
  out.record({ event: "error", code: "CANCELLED", message: describeError(signal.reason), exitCode: EXIT_CODES.interrupted });
  return EXIT_CODES.interrupted;
}

/** After a signal nobody waits for a backend that does not let go. */
async function closeInTime(session: Session, signal: AbortSignal): Promise<void> {
  const closing = session.close();
  if (!signal.aborted) return closing;
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, CLOSE_MS);
  });
  await Promise.race([closing, timeout]).finally(() => clearTimeout(timer));
}

/** Ends the process, whatever still hangs in it. */
export async function leaveProcess(exitCode: number): Promise<void> {
  if (output === undefined) process.exitCode = exitCode;
  else await leave(exitCode, output);
}
