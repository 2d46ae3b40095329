import { spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, rmSync } from "node:fs";
import { membersOf, sampleTree } from "./process-tree.ts";
import type { Measurement } from "./workload.ts";

export interface RunOptions {
  readonly command: readonly string[];
  readonly environment: NodeJS.ProcessEnv;
  /** Path of GNU time; without it there are no CPU and memory figures. */
  readonly gnuTime: string | undefined;
  /** A file that may be made for the time's report, and is removed. */
  readonly reportFile: string;
  /** Send standard output there. */
  readonly outputFile?: string | undefined;
  readonly stopAtFirstOutput?: boolean | undefined;
  readonly sampleMemory?: boolean | undefined;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** What a program prints, alone on a line, when it is ready and its memory is that of an idle process. */
export const IDLE_LINE = "idle";

/** Runs one command and measures it. Throws when it fails, with what it said on standard error. */
export async function runProcess(options: RunOptions): Promise<Measurement> {
  const { command, gnuTime, reportFile } = options;
  const timed = gnuTime === undefined ? command : [gnuTime, "-f", "%U %S %M", "-o", reportFile, ...command];
  const output = options.outputFile === undefined ? undefined : openSync(options.outputFile, "w");
  let sampler: ReturnType<typeof sampleTree> | undefined;
  try {
    options.signal.throwIfAborted();
    const started = performance.now();
    const child = spawn(timed[0] as string, timed.slice(1), {
      env: options.environment,
      stdio: ["ignore", output ?? "pipe", "pipe"],
      detached: true,
    });
    const pid = child.pid;
    if (options.sampleMemory === true && pid !== undefined) sampler = sampleTree(pid);

    let firstOutputMs: number | undefined;
    let text = "";
    let complaints = "";
    let stoppedBy: string | undefined;
    let killTimer: NodeJS.Timeout | undefined;
    // Everybody but GNU time, which waits for the command and then writes its report.
    const killCommand = (): void => {
      for (const member of membersOf(pid as number)) if (gnuTime === undefined || member !== pid) tryKill(member);
    };
    const kill = (reason: string): void => {
      if (pid === undefined) return;
      stoppedBy ??= reason;
      killCommand();
      // Again: what was being forked at that moment holds the output open.
      killTimer ??= setInterval(killCommand, 20);
    };
    const onAbort = (): void => kill("interrupted");
    const timer = setTimeout(() => kill(`took more than ${options.timeoutMs / 1000} s`), options.timeoutMs);
    options.signal.addEventListener("abort", onAbort, { once: true });

    child.stdout?.setEncoding("utf8").on("data", (chunk: string) => {
      firstOutputMs ??= performance.now() - started;
      if (options.stopAtFirstOutput === true) kill("first output");
      text = (text + chunk).slice(-4096);
      if (text.includes(`${IDLE_LINE}\n`)) {
        sampler?.markIdle();
        text = "";
      }
    });
    child.stderr?.setEncoding("utf8").on("data", (chunk: string) => {
      complaints = (complaints + chunk).slice(-4096);
    });
    let wallMs = 0;
    try {
      const status = await new Promise<string>((resolve, reject) => {
        child.once("error", reject);
        child.once("exit", () => {
          wallMs = performance.now() - started;
        });
        child.once("close", (code, signal) => resolve(signal ?? `exit code ${code}`));
      });
      options.signal.throwIfAborted();
      const meantToStop = stoppedBy === "first output";
      if (!meantToStop && (status !== "exit code 0" || stoppedBy !== undefined)) {
        throw new Error(`${command.join(" ")}: ${stoppedBy ?? status}\n${complaints}`);
      }
    } finally {
      clearTimeout(timer);
      clearInterval(killTimer);
      options.signal.removeEventListener("abort", onAbort);
    }
    return {
      wallMs,
      ...readTimeReport(gnuTime === undefined ? undefined : reportFile),
      firstOutputMs,
      memoryAboveIdleBytes: sampler?.stop(),
      reported: options.outputFile === undefined && options.stopAtFirstOutput !== true ? lastJsonLine(text) : {},
    };
  } finally {
    sampler?.stop();
    if (output !== undefined) closeSync(output);
    rmSync(reportFile, { force: true });
  }
}

function tryKill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // it has ended
  }
}

/** GNU time's report: `user system KiB` is its last line; a line before it says when the command failed. */
function readTimeReport(file: string | undefined): Pick<Measurement, "userSeconds" | "systemSeconds" | "peakRssBytes"> {
  if (file === undefined) return {};
  const [user, system, kibibytes] = (readFileSync(file, "utf8").trimEnd().split("\n").at(-1) ?? "").split(" ").map(Number);
  if (user === undefined || system === undefined || kibibytes === undefined || Number.isNaN(user + system + kibibytes)) return {};
  return { userSeconds: user, systemSeconds: system, peakRssBytes: kibibytes * 1024 };
}

function lastJsonLine(text: string): Record<string, number | string> {
  const line = text.trimEnd().split("\n").at(-1) ?? "";
  return line.startsWith("{") ? (JSON.parse(line) as Record<string, number | string>) : {};
}
