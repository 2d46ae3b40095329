import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type CommandRun, makeFolder, records, runStowage, writeFiles } from "./support/command.ts";

let folder: string;
let remove: () => void;

beforeEach(() => {
  ({ folder, remove } = makeFolder());
  writeFiles(folder, {
    "stowage.yaml": `
workspaces:
  data: { broker: { type: host, hostPath: ./data } }
  copy: { broker: { type: host, hostPath: ./copy } }
`,
    "data/a.csv": "a,1\n",
    "data/deep/b.csv": "b,2\n",
    "copy/a.csv": "a,1\n",
    "copy/deep/b.csv": "b,2\n",
  });
});

afterEach(() => remove());

const run = (...args: string[]): Promise<CommandRun> => runStowage(args, { cwd: folder });
const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

describe("verify", () => {
  test("finds two trees the same, in another workspace and on this machine", async () => {
    for (const other of ["copy:", "./copy", join(folder, "copy/")]) {
      const verified = await run("verify", "data:", other);
      expect({ ...verified, stdout: "" }).toEqual({ status: 0, signal: null, stdout: "", stderr: "" });
      expect(verified.stdout).toMatch(/^2 files the same \(8 B, by sha256, in \d\.\d s\)\n$/);
    }
  });

  test("names every difference, and ends with exit code 169", async () => {
    writeFiles(folder, { "data/only-here": "1", "data/size": "12", "copy/size": "1", "copy/deep/b.csv": "b,3\n", "copy/only-there": "1" });
    const verified = await run("verify", "data:", "copy:");
    expect(verified.stdout.split("\n").slice(0, 4).sort()).toEqual([
      "copy:only-there  extra: it should not be there",
      expect.stringMatching(/^data:deep\/b\.csv {2}different: sha256 \w{64}, but "copy:deep\/b\.csv" has \w{64}$/),
      'data:only-here  missing: "copy:only-here" does not exist',
      'data:size  different: 2 bytes, but "copy:size" has 1',
    ]);
    expect(verified.stdout).toContain("1 file the same");
    expect(verified.stderr).toMatch(/^stowage: verification failed: 4 differences; [^\n]+\n$/);
    expect(verified.status).toBe(169);
    expect((await run("verify", "data:", "copy:", "--ignore-extra")).stderr).toContain("3 differences");
  });

  test("--quick reads nothing: what only differs in its bytes passes", async () => {
    writeFiles(folder, { "copy/deep/b.csv": "b,3\n" });
    expect((await run("verify", "data:", "copy:", "--quick")).status).toBe(0);
    writeFiles(folder, { "copy/deep/b.csv": "b" });
    expect((await run("verify", "data:", "copy:", "--quick")).status).toBe(169);
  });

  test("compares one file, and what a pattern matches", async () => {
    writeFiles(folder, { "copy/deep/b.csv": "b,3\n" });
    expect((await run("verify", "data:a.csv", "copy/a.csv")).status).toBe(0);
    expect((await run("verify", "data:a.csv", "copy:")).status).toBe(0);
    expect((await run("verify", "data:*.csv", "copy")).status).toBe(0);
    expect((await run("verify", "data:**/*.csv", "copy")).status).toBe(169);
  });

  test("makes a list that sha256sum reads, and compares with it", async () => {
    const listed = await run("verify", "data:", "--create");
    expect(listed.stdout.split("\n").sort()).toEqual(["", `${sha256("a,1\n")}  a.csv`, `${sha256("b,2\n")}  deep/b.csv`].sort());
    writeFileSync(join(folder, "sums"), listed.stdout);
    expect((await run("verify", "copy:", "--list", "sums")).status).toBe(0);
    writeFiles(folder, { "copy/deep/b.csv": "b,3\n", "copy/extra": "" });
    const verified = await run("verify", "copy:", "--list", "sums");
    expect(verified.status).toBe(169);
    expect(verified.stdout).toContain("copy:extra  extra: the list does not have it");
    expect(verified.stdout).toMatch(/copy:deep\/b\.csv {2}different: sha256 \w{64}, but line [12] of the list has \w{64}/);
    expect((await run("verify", "copy:a.csv", "--list", "sums")).status).toBe(0);
  });

  test("takes lists of other algorithms", async () => {
    writeFiles(folder, {
      sums: `${createHash("md5").update("a,1\n").digest("hex")} *a.csv\n${createHash("sha1").update("b,2\n").digest("hex")}  ./deep/b.csv\n`,
    });
    expect((await run("verify", "data:", "--list", "sums")).status).toBe(0);
  });

  test("a path in a list that leads out of the workspace is no file", async () => {
    writeFiles(folder, { sums: `${sha256("a,1\n")}  ../copy/a.csv\n` });
    const verified = await run("verify", "data:", "--list", "sums", "--ignore-extra");
    expect(verified.stdout).toContain("data:../copy/a.csv  unreadable: ");
    expect(verified.status).not.toBe(0);
  });

  test("--json gives every comparison and a summary", async () => {
    writeFiles(folder, { "copy/a.csv": "a,2\n" });
    const told = records(await run("verify", "data:", "copy:", "--json"));
    expect(told.find(({ path }) => path === "data:a.csv")).toMatchObject({ event: "comparison", status: "different", kind: "content" });
    expect(told.find(({ path }) => path === "data:deep/b.csv")).toMatchObject({
      status: "same",
      digest: { algorithm: "sha256", value: sha256("b,2\n") },
    });
    expect(told.at(-1)).toMatchObject({ event: "summary", operation: "verify", same: 1, different: 1 });
  });
});

describe("validate", () => {
  test("finds a good configuration good", async () => {
    const validated = await run("validate");
    expect(validated).toMatchObject({
      status: 0,
      stderr: "",
      stdout: "ok       data (host)\nok       copy (host)\n2 workspaces, 0 errors, 0 warnings\n",
    });
  });

  test("says everything that is wrong in every workspace, with its line", async () => {
    writeFiles(folder, {
      "stowage.yaml": `workspaces:
  data: { broker: { type: host, hostPath: ./data } }
  one:
    reedOnly: true
    broker: { type: host, hostpath: ./data, symlinks: sometimes }
  two: { broker: { type: s4 } }
  three: { broker: { type: nfs } }
  four: {}
`,
    });
    const validated = await run("validate");
    expect(validated.status).toBe(161);
    expect(validated.stderr.split("\n")).toEqual([
      expect.stringMatching(/^stowage: stowage\.yaml:4:5: reedOnly: .*readOnly/),
      expect.stringMatching(/^stowage: stowage\.yaml:5:45: broker\.symlinks: .*inside/),
      expect.stringMatching(/^stowage: stowage\.yaml:5:27: broker\.hostpath: .*hostPath/),
      expect.stringMatching(/^stowage: stowage\.yaml:6:20: .*"s4".*did you mean "s3"/),
      expect.stringMatching(/^stowage: stowage\.yaml:7:22: .*npm install @stowage\/broker-nfs/),
      expect.stringMatching(/^stowage: stowage\.yaml:8:3: broker: is required/),
      "",
    ]);
    expect(validated.stdout).toContain("ok       data (host)\n");
    expect(validated.stdout).toMatch(/5 workspaces, 6 errors, 0 warnings\n$/);
  });

  test("a storage that is not there is a warning, and --offline does not ask for it", async () => {
    writeFiles(folder, { "stowage.yaml": "workspaces:\n  away: { broker: { type: host, hostPath: /nowhere/at/all } }\n" });
    const validated = await run("validate");
    expect(validated.status).toBe(0);
    expect(validated.stdout).toMatch(/^warning {2}away \(host\)\n {9}stowage\.yaml:2:\d+: [^\n]*\/nowhere\/at\/all/);
    expect((await run("validate", "--offline")).stdout).toMatch(/^ok {7}away/);
  });

  test("--json gives an object for each workspace", async () => {
    const told = records(await run("validate", "data", "--json"));
    expect(told[0]).toEqual({ event: "workspace", name: "data", type: "host", isValid: true, errors: [], warnings: [] });
    expect(told[1]).toMatchObject({ event: "summary", isValid: true, workspaces: 1 });
  });

  test("takes JSON as well", async () => {
    writeFiles(folder, {
      "deploy/stowage.json": JSON.stringify({ workspaces: { data: { broker: { type: "host", hostPath: "../data" } } } }),
    });
    expect((await run("validate", "--config", "deploy/stowage.json")).status).toBe(0);
    expect((await run("ls", "-c", "deploy/stowage.json", "data:")).stdout).toBe("a.csv\ndeep/\n");
  });
});

describe("the configuration", () => {
  test("is found in a folder above, and relative paths begin there", async () => {
    mkdirSync(join(folder, "some/where"), { recursive: true });
    expect(await runStowage(["ls", "data:"], { cwd: join(folder, "some/where") })).toMatchObject({ status: 0, stdout: "a.csv\ndeep/\n" });
  });

  test("is named by STOWAGE_CONFIG, and --config goes before that", async () => {
    writeFiles(folder, { "other.yaml": "workspaces:\n  other: { broker: { type: memory } }\n", "third.yaml": "workspaces: {}\n" });
    const environment = { STOWAGE_CONFIG: join(folder, "other.yaml") };
    expect((await runStowage(["ls"], { cwd: folder, environment })).stdout).toBe("other:  memory\n");
    expect((await runStowage(["ls", "--config", "third.yaml"], { cwd: folder, environment })).stderr).toContain("no workspace yet");
  });

  test("that belongs to somebody else is not taken unless it is named", async () => {
    // Only root can make such a file.
    if (process.getuid?.() !== 0) return;
    const { chownSync } = await import("node:fs");
    chownSync(join(folder, "stowage.yaml"), 4711, 4711);
    const refused = await run("ls");
    expect(refused.status).toBe(170);
    expect(refused.stderr).toMatch(/^stowage: [^\n]*stowage\.yaml" belongs to another user \(uid 4711\)[^\n]*--config[^\n]*\n$/);
    expect((await run("ls", "--config", "stowage.yaml")).status).toBe(0);
    chownSync(folder, 4711, 4711);
    expect((await run("ls")).status).toBe(0);
  });
});

describe("sweep", () => {
  test("removes temporary files of crashed sessions that are old enough", async () => {
    writeFiles(folder, { "data/deep/.stowage-left1": "half a file" });
    expect((await run("sweep", "data:", "copy", "--deep")).stdout).toBe(
      "data: nothing older than 24 h 00 min is left over\ncopy: nothing older than 24 h 00 min is left over\n",
    );
    const swept = await run("sweep", "data", "--deep", "--older-than", "0s", "--json");
    expect(swept.status).toBe(0);
    const told = records(swept);
    expect(told[0]).toMatchObject({ event: "removed", workspace: "data", name: expect.stringContaining("deep/.stowage-left1") });
    expect(told.at(-1)).toMatchObject({ event: "swept", workspace: "data", removed: 1 });
    writeFiles(folder, { "copy/.stowage-left2": "half a file" });
    expect((await run("sweep", "--all", "--deep", "--older-than", "0s")).stdout).toMatch(/^removed copy: .*\.stowage-left2$/m);
    expect((await run("ls", "-r", "data:")).stdout).toBe("a.csv\ndeep/b.csv\n");
  });

  test("--jobs removes what an interrupted run has left, and no running one", async () => {
    writeFiles(folder, { "job.yaml": "name: failing\ncommand: [sh, -c, 'exit 3']\n" });
    expect((await run("run", "job.yaml", "--scratch", "scratch")).status).toBe(3);
    expect((await run("sweep", "--jobs", "--scratch", "scratch")).stdout).toContain("removed the run of failing\n");
    expect((await run("sweep", "--jobs", "--scratch", "scratch")).stdout).toContain("nothing is left over\n");
  });
});

describe("types and schema", () => {
  test("types lists what is built in, what is installed and what can be", async () => {
    const listed = await run("types");
    expect(listed.stderr).toBe("");
    expect(listed.stdout).toMatch(/^memory {2}built in$/m);
    expect(listed.stdout).toMatch(/^host +@stowage\/broker-host \d+\.\d+\.\d+ {2}\S+$/m);
    expect(listed.stdout).toMatch(/^nfs +not installed; run: npm install @stowage\/broker-nfs$/m);
    expect((await runStowage(["types"], { cwd: "/" })).status).toBe(0);
  });

  test.each([
    [["schema"], "Stowage configuration"],
    [["schema", "workspace"], "Stowage workspace"],
    [["schema", "broker", "host"], 'Stowage broker "host"'],
    [["schema", "job"], undefined],
  ])("%s prints a JSON Schema", async (args, title) => {
    const printed = await run(...args);
    expect([printed.status, printed.stderr]).toEqual([0, ""]);
    const schema = JSON.parse(printed.stdout) as { title?: string; type?: string; additionalProperties?: boolean };
    expect(schema).toMatchObject({ $schema: "https://json-schema.org/draft/2020-12/schema", type: "object", additionalProperties: false });
    expect(schema.title).toBe(title);
    expect(JSON.parse((await run(...args, "--json")).stdout)).toEqual(schema);
  });

  test("the schema of the configuration knows the options of an installed type, and wants no name of a workspace", async () => {
    const schema = JSON.parse((await run("schema")).stdout);
    expect(schema.properties.workspaces.additionalProperties).toEqual({ $ref: "#/$defs/workspace" });
    expect(schema.$defs.workspace.required).toEqual(["broker"]);
    expect(Object.keys(schema.$defs.workspace.properties)).not.toContain("name");
    const host = schema.$defs.workspace.properties.broker.oneOf.find(
      (branch: { properties: { type: { const: string } } }) => branch.properties.type.const === "host",
    );
    expect(host.required).toEqual(["type", "hostPath"]);
  });
});

describe("conform", () => {
  const target = (broker: string): string => `
import { createMemoryBroker, defineBroker } from ${JSON.stringify(import.meta.resolve("@stowage/core"))};
import * as z from ${JSON.stringify(import.meta.resolve("zod"))};
const definition = defineBroker({ type: "tried", config: z.strictObject({}), open: async () => ${broker} });
export const conformanceTarget = { name: "tried", definition, open: async () => ({ config: {}, cleanUp: async () => {} }), traits: { sharedWith: "nobody" } };
`;

  test("prints what was tried, and writes it down", async () => {
    writeFiles(folder, { "good.ts": target("createMemoryBroker()") });
    const done = await run("conform", "./good.ts", "--only", "E", "--report", "report.json");
    expect([done.status, done.stderr]).toEqual([0, ""]);
    expect(done.stdout).toContain("Conformance of tried");
    expect(done.stdout).toMatch(/^PASSED: \d+ passed, 0 failed/m);
    expect(JSON.parse(readFileSync(join(folder, "report.json"), "utf8"))).toMatchObject({
      format: "stowage-conformance-1",
      target: "tried",
      passed: true,
    });
  });

  test("fails a broker that breaks a promise, with exit code 169", async () => {
    writeFiles(folder, { "bad.ts": target('({ ...createMemoryBroker(), deleteFile: async () => "deleted", deleteFiles: undefined })') });
    const done = await run("conform", "./bad.ts", "--only", "E", "--json");
    expect(done.status).toBe(169);
    expect(records(done).some(({ event, status }) => event === "case" && status === "failed")).toBe(true);
    expect(records(done).at(-1)).toMatchObject({ event: "report", passed: false });
  });

  test.each([
    ["a module without a target", ["conform", "./empty.ts"], 161, '"./empty.ts"'],
    ["a module that is not there", ["conform", "./nope.ts"], 161, '"./nope.ts"'],
    ["an unknown case", ["conform", "./good.ts", "--only", "Z9"], 160, '"Z9"'],
  ])("%s is one clear line", async (_, args, exitCode, named) => {
    writeFiles(folder, { "good.ts": target("createMemoryBroker()"), "empty.ts": "export {};\n" });
    const done = await run(...args);
    expect([done.status, done.stdout]).toEqual([exitCode, ""]);
    expect(done.stderr).toMatch(/^stowage: [^\n]+\n$/);
    expect(done.stderr).toContain(named);
  });
});
