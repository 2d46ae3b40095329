/**
 * `pnpm soak`: the kill, memory and fault loops in full numbers. Runs the test files whose names say that they loop
 * (`*.soak.test.ts`, `*.kill.test.ts`, `*.memory.test.ts`) and every other one that looks at `STOWAGE_SOAK`; `pnpm test` runs the same
 * files with a tenth of the rounds. The seed is printed first; `STOWAGE_SEED=n pnpm soak` repeats a run.
 */
import { randomInt } from "node:crypto";
import { globSync, readFileSync } from "node:fs";
import { defineConfig } from "vitest/config";

const root = new URL(".", import.meta.url).pathname;
const patterns = ["packages/*/test/**/*.test.ts", "packages/*/src/**/*.test.ts", "test/**/*.test.ts"];

const files = globSync(patterns, { cwd: root, exclude: ["**/node_modules/**", "**/dist/**"] })
  .filter((file) => /\.(soak|kill|memory)\.test\.ts$/.test(file) || readFileSync(`${root}/${file}`, "utf8").includes("STOWAGE_SOAK"))
  .sort();

process.env.STOWAGE_SOAK = "1";
process.env.STOWAGE_SEED ??= String(randomInt(2 ** 31));
// vitest loads this file again in its workers; only the first process announces.
if (process.env.VITEST === undefined || process.env.VITEST_POOL_ID === undefined) {
  console.log(`STOWAGE_SEED=${process.env.STOWAGE_SEED}  (${files.length} files)`);
}

export default defineConfig({
  test: {
    include: files,
    pool: "forks",
    // One file at a time: the loops measure memory and time, and fill the machine by themselves.
    fileParallelism: false,
    testTimeout: 3_600_000,
    hookTimeout: 600_000,
    env: { STOWAGE_SOAK: "1", STOWAGE_SEED: process.env.STOWAGE_SEED },
  },
});
