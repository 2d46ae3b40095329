import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { runKillHarness } from "../src/index.ts";

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "stowage-kill-"));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

function node(source: string): [string, ...string[]] {
  return [process.execPath, "--input-type=module", "--eval", source, "--", directory];
}

/** Counts to a file, in two steps between which it may die; or safely, by a rename. */
function counter(safe: boolean): [string, ...string[]] {
  return node(`
    import { readFileSync, renameSync, writeFileSync } from "node:fs";
    const file = process.argv.at(-1) + "/count";
    let count = 0;
    try { count = Number(readFileSync(file, "utf8").split("-")[0]); } catch {}
    console.log("ready");
    for (;;) {
      count++;
      if (${safe}) {
        writeFileSync(file + ".new", count + "-" + count);
        renameSync(file + ".new", file);
      } else {
        writeFileSync(file, count + "-");
        console.log("point half");
        await new Promise((resolve) => setTimeout(resolve, 3));
        writeFileSync(file, count + "-" + count);
      }
      console.log("stored " + count);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  `);
}

const check = async (): Promise<void> => {
  const text = await readFile(join(directory, "count"), "utf8").catch(() => "0-0");
  const [left, right] = text.split("-");
  if (left !== right) throw new Error(`half a count: "${text}"`);
};

describe("the kill harness", () => {
  test("kills again and again, and finds nothing wrong with what is safe", async () => {
    const stored: string[] = [];
    const report = await runKillHarness({
      command: counter(true),
      seed: "safe",
      rounds: 5,
      check,
      onLine: (line) => stored.push(line),
    });
    expect(report).toMatchObject({ seed: "safe", rounds: 5, killed: 5, ended: 0 });
    expect(stored.length).toBeGreaterThan(0);
    expect(stored.every((line) => line.startsWith("stored "))).toBe(true);
  });

  test("finds what a kill at the wrong moment leaves, and says how to see it again", async () => {
    const run = runKillHarness({ command: counter(false), seed: "unsafe", rounds: 20, points: ["half"], check });
    await expect(run).rejects.toThrow(/^round \d+ of seed unsafe, killed (at the point half|after \d+ ms): half a count/);
  });

  test("counts what ends by itself, and says when a worker fails or never begins", async () => {
    const quick = await runKillHarness({
      command: node('console.log("ready");'),
      seed: 1,
      rounds: 2,
      check,
      delayMs: { minimum: 5_000, maximum: 5_000 },
    });
    expect(quick).toMatchObject({ killed: 0, ended: 2 });
    const failing = runKillHarness({
      command: node('console.log("ready"); console.error("out of luck"); process.exit(3);'),
      seed: 1,
      rounds: 1,
      check,
      delayMs: { minimum: 5_000, maximum: 5_000 },
    });
    await expect(failing).rejects.toThrow(/failed by itself \(exit 3\): out of luck/);
    const mute = runKillHarness({ command: node('throw new Error("not today")'), seed: 1, rounds: 1, check });
    await expect(mute).rejects.toThrow(/never said "ready" \(exit 1\)[\s\S]*not today/);
    await expect(runKillHarness({ command: ["/no/such/program"], seed: 1, rounds: 1, check })).rejects.toThrow("ENOENT");
  });

  test("takes the worker's children with it in the end", async () => {
    const children: number[] = [];
    await runKillHarness({
      command: node(`
        import { spawn } from "node:child_process";
        const child = spawn("sleep", ["60"], { stdio: "ignore" });
        console.log("ready");
        console.log("child " + child.pid);
        setInterval(() => {}, 1000);
      `),
      seed: 3,
      rounds: 2,
      group: "never",
      delayMs: { minimum: 80, maximum: 100 },
      check: async () => {},
      onLine: (line) => children.push(Number(line.split(" ")[1])),
    });
    expect(children.length).toBeGreaterThan(0);
    await new Promise((resolve) => setTimeout(resolve, 100));
    for (const pid of children) {
      // What is left may be a zombie until its new parent looks; it is not running.
      const state = await readFile(`/proc/${pid}/stat`, "utf8").then(
        (text) => text.split(") ")[1]?.[0],
        () => undefined,
      );
      expect(["Z", "X", undefined]).toContain(state);
    }
  });
});
