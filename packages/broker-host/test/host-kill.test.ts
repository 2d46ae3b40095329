import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace } from "@stowage/core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createRandom, places, readContent, SLOTS } from "./support/kill-model.ts";

const ROUNDS = process.env.STOWAGE_SOAK === "1" ? 200 : 20;
const seed = Number(process.env.STOWAGE_SEED ?? Math.floor(Math.random() * 1e9));
const EXECUTORS = ["inline", "process", "auto"] as const;
const canMount = process.getuid?.() === 0 && process.platform === "linux";

describe.skipIf(process.platform !== "linux")("a program that is killed while it uploads, moves and downloads", () => {
  let folder: string;
  let root: string;
  let local: string;
  let log: string;
  let mounted = false;
  const random = createRandom(seed);

  beforeAll(() => {
    folder = realpathSync(mkdtempSync(join(tmpdir(), "stowage-kill-")));
    root = join(folder, "root");
    local = join(folder, "local");
    log = join(folder, "log");
    mkdirSync(join(root, "b"), { recursive: true });
    mkdirSync(local);
    writeFileSync(log, "");
    // Where it may be had: half of the moves go from one file system to another.
    if (canMount) {
      try {
        execFileSync("mount", ["-t", "tmpfs", "-o", "size=512m", "tmpfs", join(root, "b")], { stdio: "pipe" });
        mounted = true;
      } catch {
        // A container that may not mount.
      }
    }
  });
  afterAll(() => {
    if (mounted) execFileSync("umount", ["-l", join(root, "b")]);
    rmSync(folder, { recursive: true, force: true });
  });

  test(`loses nothing, shows nothing by halves, and leaves nothing behind a sweep (${ROUNDS} rounds)`, {
    timeout: ROUNDS * 15_000,
  }, async () => {
    console.log(`kill rounds: STOWAGE_SEED=${seed}${mounted ? "" : " (without moves between file systems)"}`);
    for (let round = 0; round < ROUNDS; round++) {
      const executor = EXECUTORS[Math.floor(random() * EXECUTORS.length)]!;
      await killOnce(executor, Math.floor(random() * 1e9), random() * 400, random());
      try {
        assertWhole();
      } catch (error) {
        throw new Error(`round ${round}, executor ${executor}, STOWAGE_SEED=${seed}: ${(error as Error).message}`, { cause: error });
      }
    }
    const workspace = await openWorkspace({ name: "after", broker: { type: "host", hostPath: root } }, { brokers: [hostBroker] });
    const swept: string[] = [];
    for await (const name of workspace.sweep({ olderThanMs: 0 })) swept.push(name);
    await workspace.close();
    expect(temporaryNames(root)).toEqual([]);
    expect(temporaryNames(local)).toEqual([]);
    assertWhole();
    console.log(`swept ${swept.length} temporary files of ${ROUNDS} killed programs`);
  });

  async function killOnce(executor: string, workerSeed: number, afterMs: number, how: number): Promise<void> {
    const before = readFileSync(log, "utf8").split("ready\n").length;
    const script = fileURLToPath(new URL("./support/kill-worker.ts", import.meta.url));
    const worker = spawn(process.execPath, [script, root, local, log, executor, String(workerSeed)], {
      stdio: ["ignore", "ignore", "pipe"],
      detached: true,
    });
    let complaint = "";
    worker.stderr.setEncoding("utf8").on("data", (text: string) => {
      complaint += text;
    });
    let isOver = false;
    const over = new Promise<void>((resolve) => {
      worker.once("close", () => {
        isOver = true;
        resolve();
      });
    });
    while (!isOver && readFileSync(log, "utf8").split("ready\n").length === before) await delay(5);
    await Promise.race([over, delay(afterMs)]);
    if (isOver) throw new Error(`the program ended by itself: ${complaint}`);
    // It alone (its children then notice by themselves), or all of them at once.
    process.kill(how < 0.5 ? worker.pid! : -worker.pid!, "SIGKILL");
    await over;
    while (isGroupAlive(worker.pid!)) await delay(5);
  }

  function isGroupAlive(group: number): boolean {
    try {
      process.kill(-group, 0);
      return true;
    } catch {
      return false;
    }
  }

  /** Every file that can be seen is whole; every file that was stored is there, in the version that was stored last, or one that was being stored. */
  function assertWhole(): void {
    const begun = new Map<number, number>();
    const done = new Map<number, number>();
    const moving = new Set<number>();
    for (const line of readFileSync(log, "utf8").split("\n")) {
      const [state, verb, slot, version] = line.split(" ");
      if (verb === "upload") (state === "begin" ? begun : done).set(Number(slot), Number(version));
      if (verb === "move") moving[state === "begin" ? "add" : "delete"](Number(slot));
    }
    for (let slot = 0; slot < SLOTS; slot++) {
      const found = places(slot).filter((path) => existsSync(join(root, path)));
      const versions = found.map((path) => readContent(readFileSync(join(root, path))));
      for (const content of versions) {
        if (content.slot !== slot) throw new Error(`slot ${slot} holds slot ${content.slot}`);
        if (content.version < (done.get(slot) ?? 0))
          throw new Error(`slot ${slot} fell back to version ${content.version} from ${done.get(slot)}`);
        if (content.version > (begun.get(slot) ?? 0)) throw new Error(`slot ${slot} has version ${content.version}, which nobody stored`);
      }
      if (done.has(slot) && found.length === 0) throw new Error(`slot ${slot} is lost`);
      if (found.length > 1 && !moving.has(slot)) throw new Error(`slot ${slot} is there twice, and was not being moved`);
    }
    for (const name of readdirSync(local)) if (name.startsWith("fetched-")) readContent(readFileSync(join(local, name)));
  }

  function temporaryNames(directory: string): string[] {
    return readdirSync(directory, { recursive: true, encoding: "utf8" }).filter((name) => name.includes(".stowage"));
  }
});
