import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type ConformanceTarget, formatReport, runConformance } from "../src/index.ts";

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, "../../..");

/** The page's blocks by the file that each names; blocks of one file are put together in their order. */
export function extractFiles(page: string): Map<string, string> {
  const files = new Map<string, string>();
  for (const [, name = "", content = ""] of page.matchAll(/^```[a-z]+ (\S+)\n([\s\S]*?)^```$/gm)) {
    files.set(name, `${files.get(name) ?? ""}${content}`);
  }
  return files;
}

let directory: string;
let files: Map<string, string>;

beforeAll(async () => {
  directory = await realpath(await mkdtemp(join(tmpdir(), "stowage-writing-")));
  files = extractFiles(await readFile(join(ROOT, "docs/writing-a-broker.md"), "utf8"));
  for (const [name, content] of files) {
    await mkdir(dirname(join(directory, name)), { recursive: true });
    await writeFile(join(directory, name), content);
  }
  // As `npm install` would, with this tree's packages in the place of published ones.
  await mkdir(join(directory, "node_modules/@stowage"), { recursive: true });
  await mkdir(join(directory, "node_modules/@types"), { recursive: true });
  for (const name of ["core", "broker-testkit"])
    await symlink(join(ROOT, "packages", name), join(directory, "node_modules/@stowage", name));
  for (const name of ["zod", "@types/node"])
    await symlink(await realpath(join(ROOT, "node_modules", name)), join(directory, "node_modules", name));
});
afterAll(() => rm(directory, { recursive: true, force: true }));

describe("the broker of docs/writing-a-broker.md", () => {
  test("is made of the files that the page names", () => {
    expect([...files.keys()].sort()).toEqual([
      "package.json",
      "src/entry.ts",
      "src/index.ts",
      "src/publish.ts",
      "src/reader.ts",
      "src/transfer.ts",
      "test/conformance-target.ts",
      "test/conformance.test.ts",
      "tsconfig.build.json",
      "tsconfig.json",
    ]);
    expect(() => JSON.parse(files.get("package.json") ?? "")).not.toThrow();
  });

  test("has right types", { timeout: 120_000 }, async () => {
    const typeRoots = join(directory, "node_modules/@types");
    await run(join(ROOT, "node_modules/.bin/tsc"), ["-p", directory, "--typeRoots", typeRoots]).catch(
      (error: { readonly stdout?: string }) => {
        throw new Error(error.stdout);
      },
    );
  });

  test("passes the conformance run, with nothing undeclared", { timeout: 300_000 }, async () => {
    const url = pathToFileURL(join(directory, "test/conformance-target.ts")).href;
    const { conformanceTarget } = (await import(/* @vite-ignore */ url)) as { readonly conformanceTarget: ConformanceTarget };
    const report = await runConformance(conformanceTarget, { concurrency: 4 });
    expect(report.passed, formatReport(report)).toBe(true);
    expect(report.complete).toBe(true);
    expect(report.counts.undeclared, formatReport(report)).toBe(0);
    // Enough of it applies, kills and other processes included.
    const passed = new Set(report.cases.filter(({ status }) => status === "passed").map(({ id }) => id));
    expect(passed.size).toBeGreaterThan(180);
    for (const id of ["B20", "B33", "C45", "F75-1001", "G94", "H113", "J114", "J129"]) expect(passed.has(id), id).toBe(true);
  });

  test("runs under node --test, as the page says", { timeout: 300_000 }, async () => {
    // The whole was run above: this is about the way of running it.
    const target = await readFile(join(directory, "test/conformance.test.ts"), "utf8");
    await mkdir(join(directory, "quick"));
    await writeFile(
      join(directory, "quick/conformance.test.ts"),
      target
        .replace(", { describe, test });", ', { describe, test }, { only: ["A", "B15"] });')
        .replace("./conformance-target", "../test/conformance-target"),
    );
    const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("NODE_TEST")));
    const { stdout } = await run(process.execPath, ["--test", "--test-reporter=tap", "quick/conformance.test.ts"], {
      cwd: directory,
      env: environment,
    });
    expect(stdout).toMatch(/# fail 0\b/);
    expect(Number(/# pass (\d+)/.exec(stdout)?.[1])).toBeGreaterThan(15);
  });

  test("leaves nothing in the temporary directory", async () => {
    const names = await readdir(tmpdir());
    expect(names.filter((name) => name.startsWith("flat-"))).toEqual([]);
  });
});
