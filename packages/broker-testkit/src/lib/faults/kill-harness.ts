import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { createRandom } from "../random.ts";

export interface KillHarnessOptions {
  /** Program and arguments of the worker. `[process.execPath, "worker.js"]`. */
  readonly command: readonly [string, ...string[]];
  readonly environment?: Readonly<Record<string, string>> | undefined;
  /** The same seed kills at the same times. Printed with every failure. */
  readonly seed: string | number;
  readonly rounds: number;
  /**
   * How long the worker works before it is killed, counted from its line `ready`. Milliseconds. Defaults to 5 to 120.
   */
  readonly delayMs?: { readonly minimum: number; readonly maximum: number } | undefined;
  /** Names of points, which the worker passes by printing `point <name>`. Half of the rounds kill at one of them instead. */
  readonly points?: readonly string[] | undefined;
  /** Whether the worker's own children die with it: always, never, or by turns. Defaults to by turns. */
  readonly group?: "always" | "never" | "by turns" | undefined;
  /** Called with each line that the worker prints, but for `ready` and `point`. */
  onLine?(line: string, round: number): void;
  /** Looks, after each kill, at what the worker left. What it throws ends the run. */
  check(round: number): Promise<void>;
}

export interface KillReport {
  readonly seed: string | number;
  readonly rounds: number;
  /** Rounds in which the worker was killed while it worked. */
  readonly killed: number;
  /** Rounds in which it had ended by itself before. */
  readonly ended: number;
  /** How often it was killed at each point. */
  readonly points: Readonly<Record<string, number>>;
}

const START_MS = 20_000;

/**
 * Starts a worker again and again, kills it with SIGKILL at a random moment or at a point that it names, and checks what is left.
 * A worker prints `ready` when it begins to work, goes on until it is killed, and exits with 0 when it has nothing more to do.
 */
export async function runKillHarness(options: KillHarnessOptions): Promise<KillReport> {
  const random = createRandom(`kill ${options.seed}`);
  const { minimum, maximum } = options.delayMs ?? { minimum: 5, maximum: 120 };
  const points: Record<string, number> = {};
  let killed = 0;
  let ended = 0;
  for (let round = 0; round < options.rounds; round++) {
    const atPoint = options.points !== undefined && options.points.length > 0 && random.next() < 0.5;
    const plan = atPoint
      ? { point: random.pick(options.points ?? []), occurrence: random.integer(1, 4) }
      : { delayMs: random.integer(minimum, maximum) };
    const group = options.group === "always" || (options.group !== "never" && random.next() < 0.5);
    const result = await runRound(options, round, plan, group);
    if (result === "ended") ended++;
    else killed++;
    if (result === "killed" && plan.point !== undefined) points[plan.point] = (points[plan.point] ?? 0) + 1;
    try {
      await options.check(round);
    } catch (error) {
      const how = plan.point === undefined ? `after ${plan.delayMs} ms` : `at the point ${plan.point}`;
      throw new Error(`round ${round} of seed ${options.seed}, killed ${how}: ${error instanceof Error ? error.message : String(error)}`, {
        cause: error,
      });
    }
  }
  return { seed: options.seed, rounds: options.rounds, killed, ended, points };
}

type Plan = { readonly delayMs: number; readonly point?: undefined } | { readonly point: string; readonly occurrence: number };

async function runRound(options: KillHarnessOptions, round: number, plan: Plan, group: boolean): Promise<"killed" | "ended"> {
  const [program, ...parameters] = options.command;
  const child = spawn(program, parameters, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, ...options.environment },
    // A process group of its own, so that its children can be killed with it.
    detached: true,
  });
  const exited = new Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code, signal) => resolve({ code, signal }));
  });
  // Whoever awaits it below sees its rejection; until then it must not count as unhandled.
  exited.catch(() => undefined);
  let complaint = "";
  child.stderr.setEncoding("utf8");
  child.stderr.on("data", (text: string) => {
    complaint = `${complaint}${text}`.slice(-4_000);
  });
  let timer: NodeJS.Timeout | undefined;
  let isReady = false;
  let wasKilled = false;
  const kill = (): void => {
    if (wasKilled) return;
    wasKilled = true;
    killChild(child, group);
  };
  const startTimer = setTimeout(kill, START_MS);
  let occurrences = 0;
  const lines = createInterface({ input: child.stdout });
  lines.on("line", (line) => {
    if (line === "ready") {
      isReady = true;
      clearTimeout(startTimer);
      // A point that is never passed must not make the round endless.
      timer = setTimeout(kill, plan.point === undefined ? plan.delayMs : 3_000);
    } else if (line.startsWith("point ")) {
      if (line.slice(6) === plan.point && ++occurrences === plan.occurrence) kill();
    } else if (!wasKilled) {
      options.onLine?.(line, round);
    }
  });
  try {
    const { code, signal } = await exited;
    if (!isReady) throw new Error(`the worker never said "ready" (exit ${code ?? signal}): ${complaint}`);
    if (wasKilled) return "killed";
    if (code !== 0) throw new Error(`the worker failed by itself (exit ${code ?? signal}): ${complaint}`);
    return "ended";
  } finally {
    clearTimeout(startTimer);
    clearTimeout(timer);
    lines.close();
    // Children of a worker that was killed alone must not outlive the round.
    killGroup(child);
  }
}

function killChild(child: ChildProcess, group: boolean): void {
  if (group) killGroup(child);
  else child.kill("SIGKILL");
}

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {
    // Nobody of the group is left.
  }
}
