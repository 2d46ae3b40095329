import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace } from "@stowage/core";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type JobResult, type JobSpecInput, type RunJobOptions, sweepJobs } from "../src/index.ts";
import { createJobWorld, type JobWorld } from "./fixtures/job-world.ts";

const ROUNDS = process.env.STOWAGE_SOAK === "1" ? 200 : 20;
const SEED = Number(process.env.STOWAGE_SEED ?? Math.floor(Math.random() * 2 ** 31));

const CHILD = fileURLToPath(new URL("./fixtures/run-job-child.ts", import.meta.url));
const MODULES = [new URL("./fixtures/faulty-broker.ts", import.meta.url).href];
const INPUTS = 12;
const OUTPUTS = 70;

let world: JobWorld;
beforeEach(async () => {
  world = await createJobWorld();
});
afterEach(() => world.remove());

interface Runner {
  readonly child: ChildProcess;
  readonly lines: AsyncIterator<string>;
}

async function startRunner(job: JobSpecInput, options: RunJobOptions): Promise<Runner> {
  const file = world.path("request.json");
  await writeFile(file, JSON.stringify({ job, options: { scratch: world.scratch, baseDirectory: world.base, ...options } }));
  const child = spawn(process.execPath, [CHILD, file], { stdio: ["ignore", "pipe", "inherit"] });
  return { child, lines: createInterface({ input: child.stdout! })[Symbol.asyncIterator]() };
}

async function untilExit({ child }: Runner): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
}

async function finish(runner: Runner): Promise<JobResult> {
  let result: JobResult | undefined;
  for (let line = await runner.lines.next(); line.done !== true; line = await runner.lines.next()) {
    if (line.value.startsWith("result ")) result = JSON.parse(line.value.slice("result ".length)) as JobResult;
  }
  await untilExit(runner);
  if (result === undefined) throw new Error(`the runner ended without a result: ${runner.child.exitCode}`);
  return result;
}

function isRunning(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) [ZX]/su.test(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch {
    return false;
  }
}

async function untilGone(pids: readonly number[], ms: number): Promise<number[]> {
  for (const until = performance.now() + ms; ; await sleep(20)) {
    const left = pids.filter(isRunning);
    if (left.length === 0 || performance.now() > until) return left;
  }
}

async function readPids(): Promise<number[]> {
  return existsSync(world.path("pids")) ? (await readFile(world.path("pids"), "utf8")).trim().split("\n").filter(Boolean).map(Number) : [];
}

/** mulberry32 */
function createRandom(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let value = Math.imul(state ^ (state >>> 15), state | 1);
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61);
    return Math.floor((((value ^ (value >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

describe("a runner that is killed", () => {
  let runnerPid = 0;
  const pidsOf = (script: string): string => `echo $$ >> "${world.path("pids")}"; ${script}`;

  test("takes its command with it at once, whatever the command thinks of that", async () => {
    const runner = await startRunner(
      {
        name: "demo",
        command: [
          "sh",
          "-c",
          pidsOf(`trap "" TERM HUP INT; sleep 300 & echo $! >> "${world.path("pids")}"; echo up; while :; do sleep 0.1; done`),
        ],
      },
      {},
    );
    for (let line = await runner.lines.next(); line.done !== true && !line.value.startsWith("output"); ) line = await runner.lines.next();
    const pids = await readPids();
    expect(pids).toHaveLength(2);
    runner.child.kill("SIGKILL");
    await untilExit(runner);
    expect(await untilGone(pids, 3000)).toEqual([]);
  });

  test("leaves nothing running after a sweep, not even what has fled the group while its guard was dead", async () => {
    const flee = `setsid sh -c 'echo $$ >> "${world.path("pids")}"; exec sleep 300' & sleep 0.3; echo up; sleep 300`;
    const runner = await startRunner({ name: "demo", command: ["sh", "-c", pidsOf(flee)] }, {});
    for (let line = await runner.lines.next(); line.done !== true && !line.value.startsWith("output"); ) line = await runner.lines.next();
    const pids = await readPids();
    const [guard] = guardsOf(pids[0]!);
    process.kill(Number(guard), "SIGKILL");
    runner.child.kill("SIGKILL");
    await untilExit(runner);
    expect(await untilGone(pids, 300)).toEqual(pids);
    expect(await sweepJobs(world.scratch)).toMatchObject({ removed: ["demo"], live: [], leftovers: [] });
    expect(await untilGone(pids, 1000)).toEqual([]);
    expect(await readdir(world.scratch)).toEqual([]);
  });

  test("whose directory is gone too leaves no orphan after a sweep", async () => {
    const flee = `setsid sh -c 'echo $$ >> "${world.path("pids")}"; exec sleep 300' & sleep 0.3; echo up; sleep 300`;
    const runner = await startRunner({ name: "demo", command: ["sh", "-c", pidsOf(flee)] }, {});
    for (let line = await runner.lines.next(); line.done !== true && !line.value.startsWith("output"); ) line = await runner.lines.next();
    const pids = await readPids();
    // Alive, it is nobody's orphan.
    expect(await sweepJobs(world.scratch)).toMatchObject({ live: ["demo"], stopped: [] });
    runner.child.kill("SIGKILL");
    await untilExit(runner);
    await rm(world.path("scratch/demo"), { recursive: true });
    expect(await sweepJobs(world.path("elsewhere"))).toMatchObject({ stopped: [] });
    expect((await sweepJobs(world.scratch)).stopped.length).toBeGreaterThan(0);
    expect(await untilGone(pids, 1000)).toEqual([]);
  });

  test("just when it starts its command leaves no orphan to the run that resumes it", async () => {
    const job: JobSpecInput = { name: "demo", command: ["sh", "-c", pidsOf(`[ -e "${world.path("flag")}" ] && exit 0; exec sleep 300`)] };
    // Where the journal cannot take the record of what was started, the runner dies right there.
    const runner = await startRunner(job, {});
    for (let line = await runner.lines.next(); line.done !== true && line.value !== "step-started main"; ) line = await runner.lines.next();
    for (let pids = await readPids(); pids.length === 0; pids = await readPids()) await sleep(5);
    const [group] = await readPids();
    // It is started after the command, which may be quicker.
    for (let attempt = 0; attempt < 400 && guardsOf(group!).length === 0; attempt++) await sleep(5);
    for (const guard of guardsOf(group!)) process.kill(guard, "SIGKILL");
    runner.child.kill("SIGKILL");
    await untilExit(runner);
    // As if it had died a moment earlier.
    const journal = world.path("scratch/demo/.stowage/journal.jsonl");
    const lines = (await readFile(journal, "utf8")).split("\n").filter((line) => !line.startsWith('{"type":"started"'));
    await writeFile(journal, lines.join("\n"));
    const pids = await readPids();
    expect(pids.filter(isRunning)).toEqual(pids);
    await world.put("flag", "");
    expect(await finish(await startRunner(job, { resume: true }))).toMatchObject({ status: "succeeded", resumed: true });
    expect(await untilGone(pids, 1000)).toEqual([]);
  });

  test("has its stage step end by itself, and what that had begun is stored when the run is resumed", async () => {
    await world.put("data/1", "1");
    const workspaces = { data: world.workspaces.data, results: world.faulty("results", { delayMs: 400 }) };
    const job: JobSpecInput = {
      name: "demo",
      inputs: [{ name: "data", workspace: "data", glob: "*" }],
      command: ["sh", "-c", 'cp "$STOWAGE_INPUT_DATA"/* "$STOWAGE_OUTPUT"'],
      outputs: [{ name: "all", workspace: "results", glob: "**", path: "{path}" }],
    };
    const runner = await startRunner(job, { workspaces, brokerModules: [...MODULES, import.meta.resolve("@stowage/broker-host")] });
    for (let line = await runner.lines.next(); line.done !== true && line.value !== "step-started post"; ) line = await runner.lines.next();
    await sleep(700);
    runnerPid = runner.child.pid!;
    const steps = stepProcesses();
    expect(steps).toHaveLength(1);
    runner.child.kill("SIGKILL");
    await untilExit(runner);
    expect(await untilGone(steps, 4000)).toEqual([]);
    const result = await finish(
      await startRunner(job, { workspaces, brokerModules: [...MODULES, import.meta.resolve("@stowage/broker-host")], resume: true }),
    );
    expect(result).toMatchObject({ status: "succeeded", resumed: true });
    expect(result.steps.map(({ status }) => status)).toEqual(["reused", "reused", "succeeded"]);
    expect(await world.files("results")).toEqual({ "1": "1" });
  });

  function processes(test: (commandLine: string, pid: number) => boolean): number[] {
    return readdirSync("/proc")
      .filter((name) => /^\d+$/u.test(name))
      .map(Number)
      .filter((pid) => {
        try {
          return test(readFileSync(`/proc/${pid}/cmdline`, "latin1"), pid);
        } catch {
          return false;
        }
      });
  }

  /** Of this test's world: other tests run step processes of their own. */
  function stepProcesses(): number[] {
    return processes(
      (line, pid) => line.includes("packages/jobs/src/step.ts") && readFileSync(`/proc/${pid}/stat`, "latin1").includes(` ${runnerPid} `),
    );
  }

  function guardsOf(group: number): number[] {
    return processes((line) => line.includes(`stowage-guard\0${group}\0`));
  }

  test(`at ${ROUNDS} random points can be resumed to complete and right outputs, or swept without a trace`, async () => {
    console.log(`kill -9 rounds: ${ROUNDS}, STOWAGE_SEED=${SEED}`);
    const random = createRandom(SEED);
    const tally = { resumed: 0, swept: 0, kills: 0, finishedBefore: 0 };
    let events = 60;
    for (let round = 0; round < ROUNDS; round++) {
      await world.remove();
      world = await createJobWorld();
      const expected = await prepareRound();
      const isApart = round % 5 === 4;
      const options: RunJobOptions = {
        workspaces: { data: world.faulty("data", { delayMs: 3 }), results: world.faulty("results", { delayMs: 3 }) },
        ...(isApart ? { brokerModules: MODULES } : {}),
      };
      const where = `round ${round} of seed ${SEED}`;
      let isFinished = false;
      for (let kill = 1 + random(2); kill > 0 && !isFinished; kill--) {
        const { seen, result } = await runAndKill(await startRunner(job(), { ...options, resume: true }), random(events + 8), random(25));
        isFinished = result !== undefined;
        if (result !== undefined) {
          expect(result.errors, where).toEqual([]);
          events = Math.max(20, seen);
          tally.finishedBefore++;
        } else {
          tally.kills++;
        }
      }
      await checkNothingWrong(expected, where);
      if (random(3) > 0 || isFinished) {
        if (!isFinished) {
          const result = await finish(await startRunner(job(), { ...options, resume: true }));
          expect(result.errors, where).toEqual([]);
          expect(result, where).toMatchObject({ status: "succeeded", exitCode: 0 });
          expect(result.outputs, where).toHaveLength(OUTPUTS);
          expect(
            result.outputs.every(({ verified }) => verified === "length" || verified === "digest"),
            where,
          ).toBe(true);
          tally.resumed++;
        }
        expect(Object.keys(await storedFiles()).sort(), where).toEqual(Object.keys(expected).sort());
        expect(await readdir(world.scratch), where).toEqual([]);
      } else {
        const report = await sweepJobs(world.scratch);
        expect(report.leftovers, where).toEqual([]);
        expect(report.live, where).toEqual([]);
        expect(await readdir(world.scratch), where).toEqual([]);
        tally.swept++;
      }
      expect(await untilGone(await readPids(), 3000), where).toEqual([]);
      await sweepResults();
      expect(await leftInResults(), where).toEqual([]);
      await checkNothingWrong(expected, where);
    }
    console.log(`kill -9 rounds: ${JSON.stringify(tally)}`);
    expect(tally.kills).toBeGreaterThan(ROUNDS / 2);
  }, 3_600_000);

  const job = (): JobSpecInput => ({
    name: "demo",
    inputs: [{ name: "data", workspace: "data", glob: "**" }],
    command: ["node", "-e", MAIN, world.path("pids")],
    outputs: [
      { name: "parts", workspace: "results", glob: "parts/**", path: "{path}" },
      { name: "sum", workspace: "results", glob: "sum.txt", path: "{name}", ifExists: "fail" },
    ],
  });

  // Every output says what it is; half written or mixed up ones would be seen.
  const MAIN = `
    const { appendFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } = require("node:fs");
    const { spawn } = require("node:child_process");
    appendFileSync(process.argv[1], process.pid + "\\n" + spawn("sleep", ["300"]).pid + "\\n");
    const input = process.env.STOWAGE_INPUT_DATA, output = process.env.STOWAGE_OUTPUT;
    const all = readdirSync(input).sort().map((name) => readFileSync(input + "/" + name, "utf8")).join("");
    mkdirSync(output + "/parts");
    for (let part = 0; part < ${OUTPUTS - 1}; part++) writeFileSync(output + "/parts/" + part, part + ":" + all.repeat(part % 7));
    writeFileSync(output + "/sum.txt", all);
    process.exit(0);
  `;

  async function prepareRound(): Promise<Record<string, string>> {
    for (let input = 0; input < INPUTS; input++)
      await world.put(`data/${String(input).padStart(2, "0")}`, `input ${input} ${"x".repeat(input * 300)}\n`);
    const all = Object.entries(await world.files("data"))
      .sort(([left], [right]) => (left < right ? -1 : 1))
      .map(([, content]) => content)
      .join("");
    const parts = Array.from({ length: OUTPUTS - 1 }, (_, part) => [`parts/${part}`, `${part}:${all.repeat(part % 7)}`]);
    return { ...Object.fromEntries(parts), "sum.txt": all };
  }

  async function runAndKill(
    runner: Runner,
    afterEvents: number,
    delayMs: number,
  ): Promise<{ readonly seen: number; readonly result: JobResult | undefined }> {
    let seen = 0;
    let result: JobResult | undefined;
    for (let line = await runner.lines.next(); line.done !== true; line = await runner.lines.next()) {
      seen++;
      if (line.value.startsWith("result ")) result = JSON.parse(line.value.slice("result ".length)) as JobResult;
      if (seen === afterEvents + 1) setTimeout(() => runner.child.kill("SIGKILL"), delayMs);
    }
    await untilExit(runner);
    return { seen, result };
  }

  const storedFiles = (): Promise<Record<string, string>> => world.files("results", "visible");

  /** At no time is anything visible that is not whole and right. */
  async function checkNothingWrong(expected: Record<string, string>, where: string): Promise<void> {
    for (const [name, content] of Object.entries(await storedFiles())) {
      expect(content === expected[name], `${name} is whole and right in ${where}`).toBe(true);
    }
  }

  /** A record of a session that was killed before it had written who it is stays until it has been silent for a minute. */
  async function leftInResults(): Promise<string[]> {
    const names = (await world.names("results")).filter((name) => name.includes(".stowage"));
    return names.filter((name) => {
      const isRecord = /^\.stowage\/inflight\/[0-9a-f]+$/u.test(name);
      return isRecord ? statSync(world.path("results", name)).size > 0 : name !== ".stowage" && name !== ".stowage/inflight";
    });
  }

  async function sweepResults(): Promise<void> {
    const workspace = await openWorkspace({ name: "results", ...world.workspaces.results } as never, { brokers: [hostBroker] });
    for await (const _removed of workspace.sweep({ olderThanMs: 0, deep: true })) {
      // Only to have it done.
    }
    await workspace.close();
  }
});
