import { execFileSync } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Arena } from "./arena.ts";
import { runProcess } from "./run-process.ts";
import { rotate } from "./statistics.ts";
import type { Contestant, Measurement, Run, Workload } from "./workload.ts";

export interface RaceOptions {
  readonly arena: Arena;
  readonly rounds: number;
  /** Which copies of our packages run: the installed one, the source of this tree, or both as contestants of their own. */
  readonly from: "installed" | "source" | "both";
  readonly gnuTime: string | undefined;
  /** Says why a contestant cannot run; `undefined` when it can. */
  missing(contestant: Contestant<unknown>): string | undefined;
  readonly signal: AbortSignal;
  onRun?(contestant: string, round: number, measurement: Measurement): void;
}

export interface RaceResult {
  readonly runs: ReadonlyMap<string, readonly Measurement[]>;
  readonly absent: Readonly<Record<string, string>>;
}

const RUN_TIMEOUT_MS = 900_000;
const root = new URL("../..", import.meta.url).pathname;

/** A contestant with its command made out. */
interface Entrant {
  readonly name: string;
  readonly contestant: Contestant<unknown>;
  command(run: Run<unknown>): readonly string[];
}

/** After one run that does not count, runs every contestant once a round, in an order that rotates, each into a target of its own, and verifies each run. */
export async function race(workload: Workload<unknown>, options: RaceOptions): Promise<RaceResult> {
  const { arena, signal } = options;
  const absent: Record<string, string> = {};
  const entrants = workload.contestants.flatMap((contestant): Entrant[] => {
    const reason = options.missing(contestant);
    if (reason === undefined) return entrantsOf(contestant, options);
    absent[contestant.name] = reason;
    return [];
  });
  const data = await workload.prepare(arena);
  const folder = arena.folder(workload.name);
  const runs = new Map<string, Measurement[]>(entrants.map(({ name }) => [name, []]));
  /** One measured and verified run. */
  const runOnce = async (entrant: Entrant, round: number, place: number): Promise<Measurement> => {
    const target = join(folder, `target-${round}-${place}`);
    const run: Run<unknown> = { data, target, round };
    await workload.arrange?.(run);
    if (workload.writes === true) execFileSync("sync", ["-f", folder]);
    const measurement = await runProcess({
      command: entrant.command(run),
      environment: { ...process.env, RCLONE_CONFIG: "/notfound", LC_ALL: "C.UTF-8" },
      gnuTime: options.gnuTime,
      reportFile: `${target}.time`,
      outputFile: workload.outputToFile === true ? `${target}.out` : undefined,
      stopAtFirstOutput: workload.stopAtFirstOutput,
      sampleMemory: workload.metric.kind === "memory",
      timeoutMs: RUN_TIMEOUT_MS,
      signal,
    });
    const complete =
      workload.outputToFile === true ? { ...measurement, reported: reportedIn(`${target}.out`, entrant.contestant) } : measurement;
    try {
      await workload.verify?.(run, complete, entrant.contestant.name);
    } catch (error) {
      throw new Error(`${workload.name}, ${entrant.name}: ${error instanceof Error ? error.message : error}`, { cause: error });
    }
    if (workload.removeTargets === "at once") rmSync(target, { recursive: true, force: true });
    rmSync(`${target}.out`, { force: true });
    return complete;
  };

  // Whoever runs first after the data was made pays for the machine's memory and allocation groups; that run does not count.
  if (entrants[0] !== undefined) await runOnce(entrants[0], 0, 0);
  for (let round = 1; round <= options.rounds; round++) {
    for (const [place, entrant] of rotate(entrants, round - 1).entries()) {
      const measurement = await runOnce(entrant, round, place);
      runs.get(entrant.name)?.push(measurement);
      options.onRun?.(entrant.name, round, measurement);
    }
  }
  return { runs, absent };
}

function entrantsOf(contestant: Contestant<unknown>, { arena, from }: RaceOptions): Entrant[] {
  const { start, name } = contestant;
  if ("command" in start) return [{ name, contestant, command: (run) => start.command(run) }];
  const installed = (): Entrant => {
    const program = join(arena.installed.folder, `${start.program}.mjs`);
    return { name, contestant, command: (run) => [process.execPath, program, ...start.arguments(run)] };
  };
  const source = (suffix: string): Entrant => {
    const program = join(root, "bench/programs", `${start.program}.ts`);
    return { name: name + suffix, contestant, command: (run) => [process.execPath, program, ...start.arguments(run)] };
  };
  if (contestant.tool !== "stowage" || from === "installed") return [installed()];
  return from === "source" ? [source("")] : [installed(), source(" (from source)")];
}

/** What a program of ours printed as its last line. Other commands' output is left to `verify`. */
function reportedIn(file: string, contestant: Contestant<unknown>): Measurement["reported"] {
  if (!("program" in contestant.start)) return {};
  const line = readFileSync(file, "utf8").trimEnd().split("\n").at(-1) ?? "";
  return line.startsWith("{") ? (JSON.parse(line) as Measurement["reported"]) : {};
}
