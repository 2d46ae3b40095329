import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { commandPath } from "../src/index.ts";
import { makeFolder, writeFiles } from "./support/command.ts";

const packageFolder = fileURLToPath(new URL("..", import.meta.url));
const { folder, remove } = makeFolder();
const built = makeFolder();

/** The bundle alone, where no npm is. */
const main = join(folder, "bin/main.js");

beforeAll(() => {
  const tsup = join(fileURLToPath(import.meta.resolve("tsup/package.json")), "..", "dist/cli-default.js");
  execFileSync(process.execPath, [tsup, "--out-dir", built.folder], { cwd: packageFolder, stdio: "pipe" });
  mkdirSync(join(folder, "bin"));
  copyFileSync(join(built.folder, "main.js"), main);
  writeFiles(folder, {
    "stowage.yaml": "workspaces:\n  data: { broker: { type: host, hostPath: ./data } }\n",
    "job.yaml": "name: j\ncommand: [sh, -c, 'echo hello > $STOWAGE_OUTPUT/o']\noutputs: [{ name: o, workspace: data, glob: o, path: o }]\n",
    "a.txt": "a",
    "data/.keep": "",
    "node_modules/@stowage/.keep": "",
  });
  symlinkSync(fileURLToPath(new URL("../../broker-host", import.meta.url)), join(folder, "node_modules/@stowage/broker-host"));
});

afterAll(() => {
  remove();
  built.remove();
});

function run(args: readonly string[], cwd: string = folder): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], { cwd, encoding: "utf8" });
  return { status, stdout, stderr };
}

describe("the bundle", () => {
  test("is one file that needs no other", () => {
    expect(readdirSync(built.folder)).toEqual(["main.js"]);
    const specifiers = [...readFileSync(main, "utf8").matchAll(/^import.*?from\s*"([^"]+)"/gm)].map(([, specifier]) => specifier!);
    expect(specifiers.filter((specifier) => !specifier.startsWith("node:"))).toEqual([]);
  });

  test("says its version and its help where nothing else is", () => {
    const { version } = JSON.parse(readFileSync(join(packageFolder, "package.json"), "utf8")) as { version: string };
    expect(run(["--version"], "/")).toEqual({ status: 0, stdout: `${version}\n`, stderr: "" });
    const help = run(["cp", "--help"], "/");
    expect([help.status, help.stdout.includes("--if-exists")]).toEqual([0, true]);
    expect(run(["types"], "/").stdout).toMatch(/^memory +built in$/m);
  });

  test("loads a broker, with another copy of core, from the configuration's folder", () => {
    expect(run(["cp", "a.txt", "data:x/", "--checksum", "sha256"])).toMatchObject({ status: 0, stderr: "" });
    expect(run(["ls", "-r", "data:"]).stdout).toContain("x/a.txt\n");
    expect(run(["verify", "data:x", "."]).status).toBe(169);
    expect(run(["ls", "nope:"])).toMatchObject({ status: 160 });
  });

  test("says what to install where the broker is not", () => {
    writeFiles(folder, { "elsewhere/stowage.yaml": "workspaces:\n  data: { broker: { type: s3 } }\n" });
    const failed = run(["ls", "data:"], join(folder, "elsewhere"));
    expect([failed.status, failed.stderr]).toEqual([161, expect.stringContaining("npm install @stowage/broker-s3")]);
  });

  test("runs a job, with pre and post step as processes of the same file", () => {
    for (const args of [[], ["--step-processes"]]) {
      const done = run(["run", "job.yaml", "--scratch", "scratch", ...args]);
      expect([done.status, done.stderr]).toEqual([0, ""]);
      expect(done.stdout).toContain("store     o → data:o (6 B");
    }
  });

  test("proves a broker", () => {
    writeFiles(folder, {
      "target.ts": `import { createMemoryBroker, defineBroker } from ${JSON.stringify(import.meta.resolve("@stowage/core"))};
import * as z from ${JSON.stringify(import.meta.resolve("zod"))};
export const conformanceTarget = {
  name: "memory", traits: { sharedWith: "nobody" }, open: async () => ({ config: {}, cleanUp: async () => {} }),
  definition: defineBroker({ type: "m", config: z.strictObject({}), open: async () => createMemoryBroker() }),
};`,
    });
    expect(run(["conform", "./target.ts", "--only", "B20"]).stdout).toContain("PASSED: 1 passed");
  });
});

test.each(["--stowage-posix-child", "--stowage-job-step"])("%s starts a child of the file itself, bundled or not", (argument) => {
  for (const file of [main, commandPath]) {
    const child = spawnSync(process.execPath, [file, argument], { encoding: "utf8", input: "", timeout: 20_000 });
    // Nobody has asked it for anything: it says so, and is not the command.
    expect(child.stdout + child.stderr, file).toMatch(
      argument === "--stowage-posix-child" ? /started by @stowage\/core/ : /no request on standard input/,
    );
    expect(child.status, file).not.toBe(0);
  }
});

test("an old Node is told what it needs", () => {
  // As the launcher would see it: the version is the first thing that it looks at.
  const script = `Object.defineProperty(process, "versions", { value: { node: "20.1.0" } }); await import(${JSON.stringify(commandPath)});`;
  const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" });
  expect([status, stderr]).toEqual([174, expect.stringMatching(/^stowage: this is Node\.js [^\n]+; install Node\.js 22\.18 or newer\n$/)]);
});

test("help loads nothing but what it prints", () => {
  writeFiles(folder, {
    "watch.mjs": `import { registerHooks } from "node:module";
registerHooks({ load: (url, context, next) => (process.stderr.write(url + "\\n"), next(url, context)) });`,
  });
  const { status, stderr } = spawnSync(process.execPath, ["--import", join(folder, "watch.mjs"), commandPath, "--help"], {
    encoding: "utf8",
  });
  expect(status).toBe(0);
  expect(stderr).toMatch(/\/commander\//);
  // What makes every other command take its time.
  expect(stderr).not.toMatch(/\/packages\/(?:core|jobs|broker-[a-z]+)\/|\/zod\/|\/yaml\/|\/commands\//);
});
