import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { commandPath } from "../src/index.ts";
import { type CommandRun, makeFolder, records, runStowage, writeFiles } from "./support/command.ts";

const { folder, remove } = makeFolder();

/** Brokers that take their time: one obeys the signal, one does not, one is stuck in the kernel, one lists for ever. */
const SLOW = `
import { open } from "node:fs/promises";
import { createMemoryBroker, defineBroker } from "@stowage/core";
import * as z from "zod";

const upload: Record<string, (signal: AbortSignal) => Promise<never>> = {
  obedient: (signal) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason))),
  deaf: () => new Promise(() => setInterval(() => {}, 1000)),
  stuck: async () => (await open(new URL("./fifo", import.meta.url)), new Promise<never>(() => {})),
};

export const slowBroker = defineBroker({
  type: "slow",
  config: z.strictObject({ how: z.string() }),
  open: async ({ how }) => {
    const broker = createMemoryBroker();
    return {
      ...broker,
      uploadFile: (_upload, context) => {
        process.stderr.write("started\\n");
        return upload[how]!(context.signal);
      },
      uploadFiles: undefined,
      close: how === "deaf" ? () => new Promise<void>(() => {}) : broker.close,
      async *listFiles() {
        for (let index = 0; ; index++) {
          if (index % 1000 === 0) await new Promise((resolve) => setImmediate(resolve));
          const path = "file-" + String(index).padStart(12, "0");
          yield { file: { path, size: 1 }, size: 1 } as never;
        }
      },
    } as never;
  },
});
`;

beforeAll(() => {
  writeFiles(folder, {
    "stowage.yaml": `brokers: [./slow.ts]
workspaces:
  obedient: { broker: { type: slow, how: obedient } }
  deaf: { broker: { type: slow, how: deaf } }
  stuck: { broker: { type: slow, how: stuck } }
`,
    "slow.ts": SLOW,
    "package.json": '{ "type": "module" }',
    "a.txt": "a",
  });
  execFileSync("mkfifo", [join(folder, "fifo")]);
  mkdirSync(join(folder, "node_modules/@stowage"), { recursive: true });
  symlinkSync(fileURLToPath(new URL("../../core", import.meta.url)), join(folder, "node_modules/@stowage/core"));
  symlinkSync(fileURLToPath(new URL("../node_modules/zod", import.meta.url)), join(folder, "node_modules/zod"));
});

afterAll(remove);

/** Runs the command and sends it these signals, the first when it has started its work, each other when the one before has been answered. */
async function interrupt(
  args: readonly string[],
  signals: readonly NodeJS.Signals[],
): Promise<CommandRun & { readonly milliseconds: number }> {
  let sentAt = 0;
  const run = await runStowage(args, {
    cwd: folder,
    onStart: (child) => {
      let [text, sent] = ["", 0];
      child.stderr!.on("data", (chunk: Buffer) => {
        text += chunk.toString();
        const due = (text.includes("started") ? 1 : 0) + (text.includes("again to leave at once") ? 1 : 0);
        for (; sent < Math.min(due, signals.length); sent++) {
          sentAt = performance.now();
          child.kill(signals[sent]);
        }
      });
    },
  });
  return { ...run, milliseconds: performance.now() - sentAt };
}

describe("a signal", () => {
  test.each(["SIGINT", "SIGTERM"] as const)("%s cancels, cleans up, and makes the exit code 180", async (signal) => {
    const run = await interrupt(["cp", "a.txt", "obedient:"], [signal]);
    expect(run.stderr).toContain(`stowage: ${signal}: cancelling`);
    expect(run.stdout).toContain("1 cancelled");
    expect(run).toMatchObject({ status: 180, signal: null });
    expect(run.milliseconds).toBeLessThan(3000);
  });

  test("is a cancelled file and an exit code in JSON", async () => {
    const run = await interrupt(["cp", "a.txt", "obedient:", "--json"], ["SIGINT"]);
    expect(run.status).toBe(180);
    expect(records(run).map(({ event, status }) => [event, status])).toEqual([
      ["file", "cancelled"],
      ["summary", undefined],
    ]);
  });

  test("ends the command also when a broker neither stops nor closes", async () => {
    const run = await interrupt(["cp", "a.txt", "deaf:"], ["SIGINT"]);
    expect(run).toMatchObject({ status: 180, signal: null });
    expect(run.milliseconds).toBeLessThan(8000);
  });

  test("that comes twice ends it at once", async () => {
    const run = await interrupt(["cp", "a.txt", "deaf:"], ["SIGINT", "SIGINT"]);
    expect(run.stderr).toContain("SIGINT again: leaving at once");
    expect(run.stderr).toContain("stowage sweep");
    expect(run).toMatchObject({ status: 180, signal: null });
    expect(run.milliseconds).toBeLessThan(1000);
  });

  test("ends it by SIGKILL when a thread hangs in the kernel, and says so", async () => {
    const run = await interrupt(["cp", "a.txt", "stuck:"], ["SIGINT"]);
    expect(run.stderr).toContain("a file operation hangs and cannot be ended (exit code 180)");
    expect(run).toMatchObject({ status: null, signal: "SIGKILL" });
    expect(run.milliseconds).toBeLessThan(8000);
  });
});

test("a reader that has had enough ends a listing without a word", async () => {
  const script = `"${process.execPath}" "${commandPath}" ls -r obedient: | head -n 3; echo "\${PIPESTATUS[0]}"`;
  const child = spawn("bash", ["-c", script], { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  await new Promise((resolve) => child.on("close", resolve));
  expect(stdout).toBe("file-000000000000\nfile-000000000001\nfile-000000000002\n180\n");
  expect(stderr).toBe("");
});
