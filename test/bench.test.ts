/** The benchmarks' own instruments: a figure is worth what the check behind it is worth. */
import { appendFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createArena } from "../bench/lib/arena.ts";
import { makeBigFile, makeTree, verifyBigFile, verifyTree } from "../bench/lib/data-sets.ts";
import { type RaceOptions, race } from "../bench/lib/race.ts";
import { renderWorkload, summariseWorkload } from "../bench/lib/report.ts";
import { median, rotate, summarise } from "../bench/lib/statistics.ts";
import { type Contestant, defineWorkload, type Measurement, type Workload } from "../bench/lib/workload.ts";
import { workloads } from "../bench/workloads/index.ts";
import { haveCommand } from "./support/debian-packages.ts";

const gnuTime = haveCommand("time", "time") ? "/usr/bin/time" : undefined;
let parent: string;
let arena: ReturnType<typeof createArena>;

beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), "stowage-bench-test-"));
  arena = createArena({ parent, quick: true, installed: { folder: parent } });
});
afterEach(() => {
  arena.close();
  rmSync(parent, { recursive: true, force: true });
});

function shell(name: string, script: string): Contestant<undefined> {
  return { name, tool: "node", start: { command: ({ target }) => ["sh", "-c", script, "sh", target] } };
}

function workload(contestants: readonly Contestant<undefined>[], more: Partial<Workload<undefined>> = {}): Workload {
  return defineWorkload<undefined>({
    name: "tiny",
    title: "Tiny",
    description: "For tests.",
    metric: { kind: "wall" },
    base: contestants[0]?.name ?? "",
    targets: [],
    rounds: { full: 1, quick: 1 },
    contestants,
    prepare: async () => undefined,
    ...more,
  }) as Workload;
}

function options(more: Partial<RaceOptions> = {}): RaceOptions {
  return { arena, rounds: 1, from: "installed", gnuTime, missing: () => undefined, signal: new AbortController().signal, ...more };
}

describe("a race", () => {
  test("gives every contestant a fresh target each round and rotates the order", async () => {
    const order: string[] = [];
    const contestants = ["a", "b", "c"].map((name) => shell(name, 'mkdir "$1"'));
    const { runs } = await race(workload(contestants), options({ rounds: 3, onRun: (name, round) => order.push(`${round}${name}`) }));
    expect(order).toEqual(["1a", "1b", "1c", "2b", "2c", "2a", "3c", "3a", "3b"]);
    expect([...runs.values()].map((each) => each.length)).toEqual([3, 3, 3]);
  });

  test("ends with an error when a contestant's result is wrong, and names it", async () => {
    const source = makeBigFile(join(parent, "source"), 100_000);
    const wrong = workload(
      [shell("honest", `cp ${source.path} "$1"`), shell("cheat", `head -c 99999 ${source.path} > "$1"; printf x >> "$1"`)],
      {
        verify: ({ target }) => verifyBigFile(target, source),
      },
    );
    await expect(race(wrong, options())).rejects.toThrow(/tiny, cheat: .* holds other bytes than its source/);
  });

  test("ends with what a failing command said", async () => {
    await expect(race(workload([shell("broken", "echo no such luck >&2; exit 3")]), options())).rejects.toThrow(
      /exit code 3\n.*no such luck/s,
    );
  });

  test("says why a contestant was not run and runs the others", async () => {
    const tiny = workload([shell("here", "true"), { ...shell("gone", "false"), tool: "rclone" }]);
    const { runs, absent } = await race(tiny, options({ missing: ({ tool }) => (tool === "rclone" ? "not installed" : undefined) }));
    expect([...runs.keys()]).toEqual(["here"]);
    expect(absent).toEqual({ gone: "not installed" });
  });

  test.skipIf(gnuTime === undefined)("measures the CPU time and memory of the whole command", async () => {
    const { runs } = await race(workload([shell("busy", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done & wait")]), options());
    const run = runs.get("busy")?.[0] as Measurement;
    expect(run.userSeconds).toBeGreaterThan(0.02);
    expect((run.userSeconds as number) + (run.systemSeconds as number)).toBeLessThanOrEqual((run.wallMs / 1000) * 1.5 + 0.05);
    expect(run.peakRssBytes).toBeGreaterThan(100_000);
  });

  test("kills at the first output when that is all that is wanted", async () => {
    const tiny = workload([shell("talker", "sleep 0.2; echo first; while sleep 0.01; do :; done")], {
      metric: { kind: "first-output" },
      stopAtFirstOutput: true,
    });
    const run = (await race(tiny, options())).runs.get("talker")?.[0] as Measurement;
    expect(run.firstOutputMs).toBeGreaterThanOrEqual(200);
    expect(run.wallMs).toBeLessThan(10_000);
  });

  test("counts memory that a child takes after the program said that it is idle", async () => {
    // 64 MiB in a child: what the program itself holds does not show it.
    const child = "const held = Buffer.alloc(64 * 2 ** 20, 1); setTimeout(() => held.length, 300)";
    writeFileSync(
      join(parent, "hungry.mjs"),
      `import { spawnSync } from "node:child_process";
       spawnSync(process.execPath, ["-e", "0"]);
       console.log("idle");
       await new Promise((resolve) => setTimeout(resolve, 100));
       spawnSync(process.execPath, ["-e", ${JSON.stringify(child)}]);
       console.log(JSON.stringify({ files: 1 }));`,
    );
    const tiny = workload([{ name: "hungry", tool: "node", start: { program: "hungry", arguments: () => [] } }], {
      metric: { kind: "memory" },
    });
    const run = (await race(tiny, options())).runs.get("hungry")?.[0] as Measurement;
    expect((run.memoryAboveIdleBytes as number) / 2 ** 20).toBeGreaterThan(64);
    expect((run.memoryAboveIdleBytes as number) / 2 ** 20).toBeLessThan(250);
    expect(run.reported).toEqual({ files: 1 });
  });

  test("stops the running command when it is interrupted", async () => {
    const interrupted = new AbortController();
    setTimeout(() => interrupted.abort(new Error("stopped by the user")), 200);
    const started = performance.now();
    await expect(race(workload([shell("long", "sleep 60")]), options({ signal: interrupted.signal }))).rejects.toThrow(
      "stopped by the user",
    );
    expect(performance.now() - started).toBeLessThan(10_000);
  });
});

describe("data sets", () => {
  test("a copied tree is accepted; a changed byte, a missing, a renamed and an additional file are not", () => {
    const tree = makeTree(join(parent, "tree"), { directories: 3, filesPerDirectory: 4, bytes: 100 });
    const file = join(tree.path, "directory-00001/file-0000002.bin");
    const content = readFileSync(file);
    verifyTree(tree.path, tree);

    writeFileSync(file, Buffer.from(content).fill(0, 50, 51));
    expect(() => verifyTree(tree.path, tree)).toThrow(/checksum/);
    rmSync(file);
    expect(() => verifyTree(tree.path, tree)).toThrow(/files is 11/);
    writeFileSync(file.replace("0000002", "0000009"), content);
    expect(() => verifyTree(tree.path, tree)).toThrow(/checksum/);
    writeFileSync(file, content);
    expect(() => verifyTree(tree.path, tree)).toThrow(/files is 13/);
  });

  test("a big file that is one byte longer is not accepted", () => {
    const source = makeBigFile(join(parent, "source"), 3 * 2 ** 20 + 17);
    verifyBigFile(source.path, source);
    appendFileSync(source.path, "x");
    expect(() => verifyBigFile(source.path, source)).toThrow(/bytes instead of/);
  });
});

describe("statistics", () => {
  test("a median lies in the middle of its values", async () => {
    await fc.assert(
      fc.property(fc.array(fc.double({ noNaN: true, min: -1e6, max: 1e6 }), { minLength: 1 }), (values) => {
        const middle = median(values);
        expect(values.filter((value) => value < middle).length).toBeLessThanOrEqual(values.length / 2);
        expect(values.filter((value) => value > middle).length).toBeLessThanOrEqual(values.length / 2);
      }),
    );
    expect(summarise([4, 1, 3, 2])).toEqual({ median: 2.5, minimum: 1, maximum: 4, spread: 1.2 });
    expect(() => median([])).toThrow(RangeError);
  });

  test("over as many rounds as contestants, everyone takes every place once", async () => {
    await fc.assert(
      fc.property(fc.integer({ min: 1, max: 12 }), (count) => {
        const values = Array.from({ length: count }, (_, index) => index);
        for (let place = 0; place < count; place++) {
          expect(new Set(values.map((round) => rotate(values, round)[place])).size).toBe(count);
        }
      }),
    );
  });
});

describe("the report", () => {
  const run = (wallMs: number, cpu: number): Measurement => ({ wallMs, userSeconds: cpu, systemSeconds: 0, reported: {} });
  const summarised = (limit: number) =>
    summariseWorkload(
      {
        ...workload([]),
        base: "slow",
        targets: [
          { contestant: "fast", limit, of: { kind: "ratio", versus: "slow" } },
          { contestant: "fast", limit: -1, of: { kind: "difference", versus: "slow" } },
          { contestant: "fast", limit: 0.1, of: { kind: "ratio", versus: "slow" }, metric: "cpu" },
          { contestant: "fast", limit: 1, of: { kind: "ratio", versus: "absent" } },
        ],
      },
      new Map([
        ["slow", [run(100, 1), run(300, 1), run(200, 1)]],
        ["fast", [run(50, 0.5), run(60, 0.5), run(100, 0.5)]],
      ]),
      {
        mode: "full",
        rounds: 3,
        absent: { absent: "not installed" },
        environment: {
          date: "2026-01-01",
          commit: "0123456789",
          modified: false,
          node: "24.0.0",
          kernel: "6.1",
          cpu: "a processor",
          cores: 2,
          memoryGiB: 4,
          fileSystem: "ext4",
          loadBefore: 0,
          tools: {},
        },
      },
    );

  test("compares medians, judges targets, and leaves out those against somebody absent", () => {
    const result = summarised(0.3);
    expect(result.contestants.map(({ ratio, ratioOfMinimums }) => [ratio, ratioOfMinimums])).toEqual([
      [1, 1],
      [0.3, 0.5],
    ]);
    expect(result.targets.map(({ measured, met }) => [measured, met])).toEqual([
      [0.3, true],
      [-140, true],
      [0.5, false],
    ]);
    expect(summarised(0.29).targets[0]?.met).toBe(false);
  });

  test("shows what was measured, what was missed and who was absent", () => {
    const page = renderWorkload(summarised(0.29));
    expect(page).toMatch(/\| fast \| 60 \| 50 \| 0\.3 \| 0\.5 \|/);
    expect(page).toMatch(/fast: ≤ 0\.29 × slow \| 0\.3 \| 0\.5 \| \*\*missed\*\*/);
    expect(page).toContain("absent: not installed.");
  });

  test("the results that are kept name no path of the machine that made them", () => {
    const folder = new URL("../bench/results/", import.meta.url).pathname;
    for (const file of existsSync(folder) ? readdirSync(folder) : []) {
      expect(readFileSync(join(folder, file), "utf8"), file).not.toMatch(/(?:^|[\s"'`(])\/(?!\/)\w+\/\w/m);
    }
  });
});

test("every workload has a name of its own, a base that runs, and targets about its contestants", () => {
  expect(new Set(workloads.map(({ name }) => name)).size).toBe(workloads.length);
  for (const { name, base, contestants, targets } of workloads) {
    const names = contestants.map((contestant) => contestant.name);
    expect(new Set(names).size, name).toBe(names.length);
    for (const mentioned of [
      base,
      ...targets.flatMap(({ contestant, of }) => (of.kind === "value" ? [contestant] : [contestant, of.versus])),
    ]) {
      expect(names, name).toContain(mentioned);
    }
  }
});

test("every program that a workload starts exists", () => {
  const programs = new Set(readdirSync(new URL("../bench/programs/", import.meta.url)).map((file) => file.replace(/\.m?[jt]s$/, "")));
  for (const { contestants } of workloads) {
    for (const { start } of contestants) if ("program" in start) expect(programs).toContain(start.program);
  }
});
