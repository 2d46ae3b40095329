/**
 * Measures Stowage against its peers and writes `bench/results/`. `docs/bench.md` says how to read it.
 *
 *   node bench/run.ts [--only name,…] [--quick] [--rounds n] [--from installed|source|both] [--peers-only] [--directory path] [--no-image] [--list]
 */

import { execFileSync } from "node:child_process";
import { existsSync, rmSync, statfsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { haveCommand, haveMounts } from "../test/support/debian-packages.ts";
import { createArena } from "./lib/arena.ts";
import { commandVersion, describeEnvironment } from "./lib/environment.ts";
import { type InstalledCopy, installCopy } from "./lib/installed-copy.ts";
import { race } from "./lib/race.ts";
import { renderWorkload, saveResults, summariseWorkload, type WorkloadResult } from "./lib/report.ts";
import { metricOf, type Tool, unitOf, type Workload } from "./lib/workload.ts";
import { workloads } from "./workloads/index.ts";

const { values: options } = parseArgs({
  options: {
    only: { type: "string" },
    rounds: { type: "string" },
    quick: { type: "boolean", default: false },
    from: { type: "string", default: "installed" },
    "peers-only": { type: "boolean", default: false },
    directory: { type: "string", default: tmpdir() },
    image: { type: "boolean" },
    save: { type: "boolean" },
    list: { type: "boolean", default: false },
  },
  allowNegative: true,
});

const resultsFolder = new URL("results/", import.meta.url).pathname;
const root = new URL("..", import.meta.url).pathname;

/** Command → Debian's package. */
const COMMANDS = { cp: "coreutils", find: "findutils", rsync: "rsync", rclone: "rclone" } as const;
const NEEDED_GIB = { full: 30, quick: 8 } as const;

await main();

async function main(): Promise<void> {
  if (options.list) {
    for (const { name, title } of workloads) console.log(`${name.padEnd(24)} ${title}`);
    return;
  }
  const chosen = chooseWorkloads(options.only);
  const rounds = options.rounds === undefined ? undefined : parseRounds(options.rounds);
  const from = parseFrom(options.from);
  const mode = options.quick ? "quick" : "full";
  const { bavail, bsize } = statfsSync(options.directory);
  if (bavail * bsize < NEEDED_GIB[mode] * 1024 ** 3) {
    fail(`${options.directory} has less than ${NEEDED_GIB[mode]} GiB free; choose another place with --directory`);
  }

  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => interrupted.abort(new Error(`stopped by ${signal}`)));

  const chooseFileSystem = fileSystemChooser(options.image);
  const missing = new Map<Tool, string>();
  const versions: Partial<Record<Tool | "zod", string>> = {};
  for (const [command, debianPackage] of Object.entries(COMMANDS) as [keyof typeof COMMANDS, string][]) {
    if (haveCommand(command, debianPackage)) versions[command] = commandVersion(command);
    else missing.set(command, "not installed");
  }
  const gnuTime = haveCommand("time", "time") && existsSync("/usr/bin/time") ? "/usr/bin/time" : undefined;
  if (gnuTime === undefined) console.warn("no CPU and memory figures: GNU time is not installed");
  if (options["peers-only"]) missing.set("stowage", "not asked for");

  let installed: InstalledCopy | undefined;
  // Quick figures are for the one who asked; only full ones are kept, unless told otherwise.
  const save = options.save ?? !options.quick;
  try {
    installed = installCopy(options.directory, !options["peers-only"] && from !== "source");
    Object.assign(versions, {
      "fs-extra": installed.versions["fs-extra"],
      fdir: installed.versions.fdir,
      zod: installed.versions.zod,
    });
    for (const workload of chosen) {
      console.log(`\n${workload.name}: ${workload.title}`);
      const fileSystem = chooseFileSystem(workload);
      if (fileSystem === "none") {
        console.warn(`  not run: it needs a mounted ${workload.fileSystem}`);
        continue;
      }
      const arena = createArena({ parent: options.directory, quick: options.quick, installed, fileSystem });
      try {
        const used = new Set<string>(workload.contestants.flatMap(({ tool }) => (tool === "stowage" ? ["zod"] : [tool])));
        const environment = describeEnvironment(
          arena.directory,
          Object.fromEntries(Object.entries(versions).filter(([tool]) => used.has(tool))),
        );
        const count = rounds ?? workload.rounds[mode];
        const { runs, absent } = await race(workload, {
          arena,
          rounds: count,
          from,
          gnuTime,
          missing: ({ tool }) => missing.get(tool),
          signal: interrupted.signal,
          onRun: (contestant, round, measurement) =>
            console.log(
              `  ${round}  ${metricOf(workload.metric, measurement).toFixed(1).padStart(9)} ${unitOf(workload.metric)}  ${contestant}`,
            ),
        });
        const result = summariseWorkload(workload, runs, { mode, rounds: count, environment, absent });
        if (save) saveResult(result);
        console.log(`\n${renderWorkload(result)}`);
      } finally {
        arena.close();
      }
    }
  } catch (error) {
    if (!interrupted.signal.aborted) throw error;
    console.error(String(interrupted.signal.reason));
    process.exitCode = 130;
  } finally {
    if (installed !== undefined) rmSync(installed.folder, { recursive: true, force: true });
  }
}

function saveResult(result: WorkloadResult): void {
  const order = workloads.map(({ name }) => name);
  saveResults(resultsFolder, [result], order);
  execFileSync(join(root, "node_modules/.bin/biome"), ["format", "--write", resultsFolder], { cwd: root, stdio: "ignore" });
}

function chooseWorkloads(only: string | undefined): readonly Workload[] {
  if (only === undefined) return workloads;
  return only.split(",").map((name) => {
    const found = workloads.find((workload) => workload.name === name);
    return found ?? fail(`no workload "${name}"; there are ${workloads.map((workload) => workload.name).join(", ")}`);
  });
}

/** What a workload runs on: an ext4 of its own where this process may mount and was not told otherwise; `"none"` when it cannot have what it is about. */
function fileSystemChooser(image: boolean | undefined): (workload: Workload) => "ext4" | "xfs" | "none" | undefined {
  const mayMount = haveMounts();
  const ext4 = image !== false && mayMount && haveCommand("mkfs.ext4", "e2fsprogs");
  if (image === true && !ext4) fail("--image needs root on Linux, and e2fsprogs");
  return ({ fileSystem }) => {
    if (fileSystem === undefined) return ext4 ? "ext4" : undefined;
    return mayMount && haveCommand("mkfs.xfs", "xfsprogs") ? fileSystem : "none";
  };
}

function parseRounds(text: string): number {
  const rounds = Number(text);
  return Number.isInteger(rounds) && rounds > 0 ? rounds : fail("--rounds takes a positive whole number");
}

function parseFrom(text: string): "installed" | "source" | "both" {
  return text === "installed" || text === "source" || text === "both" ? text : fail("--from takes installed, source or both");
}

function fail(message: string): never {
  console.error(message);
  process.exit(2);
}
