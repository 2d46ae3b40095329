import { chmodSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeFolder, runStowage, writeFiles } from "./support/command.ts";

/** One thing that a person does wrong, and what they are told. */
interface BadInput {
  readonly what: string;
  /** Written into a fresh folder, beside a good `stowage.yaml`. */
  readonly files?: Readonly<Record<string, string>>;
  readonly args: readonly string[];
  readonly exitCode: number;
  /** What the message names: the wrong thing, and the remedy. */
  readonly names: readonly (string | RegExp)[];
  readonly environment?: Readonly<Record<string, string>>;
  /** Done to the folder after the files are there. */
  readonly prepare?: (folder: string) => void;
}

const GOOD = `
workspaces:
  data:
    broker: { type: host, hostPath: ./data }
  readonly:
    readOnly: true
    broker: { type: host, hostPath: ./data }
  archived:
    archived: true
    broker: { type: host, hostPath: ./data }
  fixed:
    moveEnabled: false
    broker: { type: host, hostPath: ./data }
`;

/** A configuration with one workspace, `data`, of this broker. */
const broker = (text: string, more = ""): Record<string, string> => ({
  "stowage.yaml": `workspaces:\n  data:\n${more}    broker: ${text}\n`,
});

/** A good job, with `text` put after it. */
const job = (text: string): Record<string, string> => ({ "job.yaml": `name: count\ncommand: [wc]\n${text}\n` });

const BAD_ARGUMENTS: readonly BadInput[] = [
  { what: "an unknown command", args: ["lst"], exitCode: 160, names: ["'lst'", "did you mean", "ls", "stowage --help"] },
  { what: "a command like no other", args: ["frobnicate"], exitCode: 160, names: ["'frobnicate'", "stowage --help"] },
  {
    what: "an unknown option",
    args: ["ls", "--recusive", "data:"],
    exitCode: 160,
    names: ["'--recusive'", "--recursive", "stowage ls --help"],
  },
  { what: "a global option before the command misspelt", args: ["--confg", "x", "ls"], exitCode: 160, names: ["'--confg'", "--config"] },
  { what: "an option without its value", args: ["ls", "--config"], exitCode: 160, names: ["--config <file>", "argument missing"] },
  {
    what: "too many arguments",
    args: ["verify", "data:", "a", "b"],
    exitCode: 160,
    names: ["too many arguments", "verify", "stowage verify --help"],
  },
  { what: "no argument where one is needed", args: ["stat"], exitCode: 160, names: ["'address'", "stowage stat --help"] },
  { what: "one argument where two are needed", args: ["cp", "a.txt"], exitCode: 160, names: ["target", '"a.txt data:"'] },
  {
    what: "a value that is none of the choices",
    args: ["cp", "--if-exists", "overwrite", "a.txt", "data:"],
    exitCode: 160,
    names: ["'overwrite'", "skip-same"],
  },
  { what: "an unknown checksum", args: ["cp", "--checksum", "sha512", "a.txt", "data:"], exitCode: 160, names: ["'sha512'", "sha256"] },
  {
    what: "a count that is none",
    args: ["cp", "-j", "many", "a.txt", "data:"],
    exitCode: 160,
    names: ["'many'", "whole number", "from 1"],
  },
  { what: "a time without a unit", args: ["sweep", "data", "--older-than", "5"], exitCode: 160, names: ["'5'", '"24h"'] },
  { what: "a bandwidth that is none", args: ["cp", "--bandwidth", "fast", "a.txt", "data:"], exitCode: 160, names: ["'fast'", '"10MB"'] },
  { what: "a volume without a name", args: ["ls", "--volume", "/mnt", "data:"], exitCode: 160, names: ["'/mnt'", "name=path"] },
  { what: "a volume of no workspace", args: ["ls", "--volume", "dat=/mnt", "data:"], exitCode: 160, names: ['"dat"', '"data"'] },
  { what: "an unknown workspace", args: ["ls", "dta:"], exitCode: 160, names: ['"dta"', 'did you mean "data"'] },
  { what: "a workspace without its colon", args: ["ls", "data"], exitCode: 160, names: ['"data"', '"data:"'] },
  { what: "a local name with a colon", args: ["cp", "my file:1.txt", "data:"], exitCode: 160, names: ['"./my file:1.txt"'] },
  {
    what: "both places on this machine",
    args: ["cp", "a.txt", "b.txt"],
    exitCode: 160,
    names: ["both places are on this machine", "data"],
  },
  {
    what: "sources of two places",
    args: ["cp", "a.txt", "data:a.txt", "readonly:x/"],
    exitCode: 160,
    names: ['"data"', "one place at a time"],
  },
  { what: "moving from this machine", args: ["mv", "a.txt", "data:"], exitCode: 160, names: ['"a.txt"', "stowage cp"] },
  { what: "a directory without -r", args: ["cp", "data:raw", "out"], exitCode: 160, names: ['"data:raw"', "-r"] },
  { what: "a local directory without -r", args: ["cp", "folder", "data:"], exitCode: 160, names: ['"folder"', "-r"] },
  { what: "a directory into itself", args: ["cp", "-r", "data:raw", "data:raw/copy"], exitCode: 160, names: ['"data:raw"', "outside"] },
  { what: "many files into one", args: ["cp", "-r", "data:raw", "a.txt"], exitCode: 160, names: ['"a.txt"', "directory"] },
  { what: "nothing to compare with", args: ["verify", "data:raw"], exitCode: 160, names: ["--list", "--create"] },
  {
    what: "too much to compare with",
    args: ["verify", "data:raw", "folder", "--list", "sums"],
    exitCode: 160,
    names: ["--list", "leave one out"],
  },
  { what: "nothing to sweep", args: ["sweep"], exitCode: 160, names: ["--all"] },
  { what: "a schema of nothing", args: ["schema", "jobs"], exitCode: 160, names: ['"jobs"', '"job"'] },
  { what: "a directory as standard input's name", args: ["cp", "-", "data:raw/"], exitCode: 160, names: ["standard input", "data:raw"] },
];

const BAD_PATHS: readonly BadInput[] = [
  { what: "a path out of the workspace", args: ["ls", "data:../etc"], exitCode: 160, names: ['"data:../etc"', '".."'] },
  {
    what: "an absolute path in a workspace",
    args: ["stat", "data:/etc/passwd"],
    exitCode: 160,
    names: ["absolute", "relative to the workspace"],
  },
  { what: "a doubled slash", args: ["stat", "data:a//b"], exitCode: 160, names: ['"data:a//b"', "empty segment"] },
  { what: "a reserved name", args: ["rm", "data:.stowage/x"], exitCode: 160, names: ["reserved"] },
  { what: "a target with a control character", args: ["cp", "a.txt", "data:a\tb"], exitCode: 161, names: ["a\\u{9}b", "remove it"] },
  { what: "a file that is not there", args: ["stat", "data:nope.txt"], exitCode: 163, names: ['"data:nope.txt"', "check the path"] },
  {
    what: "a source that is not there",
    args: ["cp", "data:nope.txt", "out.txt"],
    exitCode: 163,
    names: ['"data:nope.txt"', "stowage ls data:"],
  },
  { what: "a local source that is not there", args: ["cp", "nope.txt", "data:"], exitCode: 163, names: ['"nope.txt"', "check the path"] },
  { what: "a directory that is not there", args: ["ls", "data:nope"], exitCode: 163, names: ['"data:nope"', "check the path"] },
  { what: "deleting what is not there", args: ["rm", "data:nope.txt"], exitCode: 163, names: ['"data:nope.txt"'] },
  { what: "a pattern that matches nothing", args: ["rm", "data:raw/*.nope"], exitCode: 163, names: ['"data:raw/*.nope"', "--force"] },
  { what: "a pattern that is none", args: ["ls", "data:raw/[a"], exitCode: 160, names: ["raw/[a"] },
  { what: "a directory where a file is wanted", args: ["stat", "data:raw"], exitCode: 163, names: ['"data:raw"', "stowage ls data:raw"] },
  { what: "a target that exists", args: ["mv", "data:raw/a.csv", "data:raw/b.csv"], exitCode: 173, names: ["raw/b.csv"] },
  {
    what: "two sources that become one",
    args: ["cp", "a.txt", "folder/a.txt", "data:x/"],
    exitCode: 173,
    names: ['"a.txt"', "one at a time"],
  },
  { what: "writing to a read-only workspace", args: ["cp", "a.txt", "readonly:"], exitCode: 170, names: ['"readonly"', "read-only"] },
  {
    what: "moving out of a read-only workspace",
    args: ["mv", "readonly:raw/a.csv", "data:x.csv"],
    exitCode: 170,
    names: ['"readonly"', "read-only", "stowage cp"],
  },
  {
    what: "moving where no moves are allowed",
    args: ["mv", "fixed:raw/a.csv", "fixed:x.csv"],
    exitCode: 170,
    names: ['"fixed"', "stowage cp"],
  },
  { what: "reading from an archived workspace", args: ["cp", "archived:raw/a.csv", "x"], exitCode: 170, names: ['"archived"'] },
  {
    what: "a list of digests that is not there",
    args: ["verify", "data:raw", "--list", "sums"],
    exitCode: 163,
    names: ['"sums"', "check the path"],
  },
  {
    what: "a list of digests that is none",
    files: { sums: "hello\n" },
    args: ["verify", "data:raw", "--list", "sums"],
    exitCode: 160,
    names: ["sums:1", "sha256sum"],
  },
];

const BAD_CONFIGURATIONS: readonly BadInput[] = [
  { what: "no configuration", args: ["ls", "--config", "nope.yaml"], exitCode: 163, names: ['"nope.yaml"', "check the path"] },
  { what: "a configuration that is a directory", args: ["ls", "--config", "folder"], exitCode: 163, names: ['"folder"', "directory"] },
  {
    what: "YAML that is none",
    files: { "stowage.yaml": "workspaces:\n  data: [\n" },
    args: ["ls"],
    exitCode: 161,
    names: [/stowage\.yaml:\d+:\d+/, "YAML"],
  },
  {
    what: "a key twice",
    files: { "stowage.yaml": `${GOOD}  data: {}\n` },
    args: ["ls"],
    exitCode: 161,
    names: [/stowage\.yaml:\d+:\d+/, "unique"],
  },
  {
    what: "a list instead of a mapping",
    files: { "stowage.yaml": "- a\n" },
    args: ["ls"],
    exitCode: 161,
    names: ["stowage.yaml", '"workspaces'],
  },
  { what: "an empty configuration", files: { "stowage.yaml": "" }, args: ["ls"], exitCode: 161, names: ["stowage.yaml", '"workspaces'] },
  {
    what: "an unknown key at the top",
    files: { "stowage.yaml": "workspace:\n  data: {}\n" },
    args: ["ls"],
    exitCode: 161,
    names: ["stowage.yaml:1:1", '"workspace"', 'did you mean "workspaces"'],
  },
  {
    what: "a version of the future",
    files: { "stowage.yaml": `version: "2"${GOOD}` },
    args: ["ls"],
    exitCode: 161,
    names: ["stowage.yaml:1:1", '"2"', '"1"'],
  },
  {
    what: "brokers that are no list",
    files: { "stowage.yaml": `brokers: ./a.ts${GOOD}` },
    args: ["ls", "data:"],
    exitCode: 161,
    names: ["stowage.yaml:1:1", '"brokers"', "list"],
  },
  {
    what: "a workspace that is no mapping",
    files: { "stowage.yaml": "workspaces:\n  data: host\n" },
    args: ["ls"],
    exitCode: 161,
    names: ["stowage.yaml:2:3", '"data"', "broker:"],
  },
  {
    what: "a workspace that names itself",
    files: broker("{ type: memory }", "    name: data\n"),
    args: ["ls", "data:"],
    exitCode: 161,
    names: ["stowage.yaml:3:5", '"name"', "remove it"],
  },
  {
    what: "a workspace without a broker",
    files: { "stowage.yaml": "workspaces:\n  data: { title: x }\n" },
    args: ["ls", "data:"],
    exitCode: 161,
    names: ["stowage.yaml:2:", '"data"', "broker"],
  },
  {
    what: "a broker without a type",
    files: broker("{ hostPath: /tmp }"),
    args: ["ls", "data:"],
    exitCode: 161,
    names: ["stowage.yaml:3:", "type"],
  },
  {
    what: "an unknown broker type",
    files: broker("{ type: hots, hostPath: /tmp }"),
    args: ["ls", "data:"],
    exitCode: 161,
    names: ["stowage.yaml:3:", '"hots"', 'did you mean "host"'],
  },
  {
    what: "a broker type like no other",
    files: broker("{ type: floppy }"),
    args: ["ls", "data:"],
    exitCode: 161,
    names: ['"floppy"', "known types", "brokers"],
  },
  {
    what: "a broker whose package is not installed",
    files: broker("{ type: box }"),
    args: ["ls", "data:"],
    exitCode: 161,
    names: ['"box"', "npm install @stowage/broker-box"],
  },
  {
    what: "an unknown option of a broker",
    files: broker("{ type: host, hostpath: /tmp }"),
    args: ["ls", "data:"],
    exitCode: 161,
    names: [/stowage\.yaml:3:\d+/, "hostpath", "hostPath"],
  },
  {
    what: "an option of the wrong kind",
    files: broker("{ type: host, hostPath: 5 }"),
    args: ["ls", "data:"],
    exitCode: 161,
    names: [/stowage\.yaml:3:\d+/, "hostPath", "string"],
  },
  {
    what: "an unknown key of a workspace",
    files: broker("{ type: memory }", "    readonly: true\n"),
    args: ["ls", "data:"],
    exitCode: 161,
    names: ["stowage.yaml:3:5", "readonly", "readOnly"],
  },
  {
    what: "a host path that is not there",
    files: broker("{ type: host, hostPath: ./nope }"),
    args: ["ls", "data:"],
    exitCode: 172,
    names: ["nope"],
  },
  {
    what: "a broker module that is not there",
    files: { "stowage.yaml": `brokers: [./nope.ts]${GOOD}` },
    args: ["ls", "data:"],
    exitCode: 161,
    names: ["stowage.yaml:1:11", '"./nope.ts"', "check the path"],
  },
  {
    what: "a broker package that is not installed",
    files: { "stowage.yaml": `brokers: ["@acme/nope"]${GOOD}` },
    args: ["ls", "data:"],
    exitCode: 161,
    names: ['"@acme/nope"', "npm install @acme/nope"],
  },
  {
    what: "a broker module without a broker",
    files: { "stowage.yaml": `brokers: [./empty.ts]${GOOD}`, "empty.ts": "export const a = 1;\n" },
    args: ["ls", "data:"],
    exitCode: 161,
    names: ['"./empty.ts"', "defineBroker"],
  },
  {
    what: "a broker module whose own dependency is missing",
    files: { "stowage.yaml": `brokers: [./needy.js]${GOOD}`, "needy.js": 'import "@acme/peer/deep";\n' },
    args: ["ls", "data:"],
    exitCode: 161,
    names: ['"./needy.js"', "npm install @acme/peer"],
  },
  {
    what: "a broker module that does not parse",
    files: { "stowage.yaml": `brokers: [./bad.js]${GOOD}`, "bad.js": "export const = 1;\n" },
    args: ["ls", "data:"],
    exitCode: 161,
    names: ['"./bad.js"', "cannot be loaded"],
  },
  {
    what: "a broker of another contract",
    files: {
      "stowage.yaml": `brokers: [./new.ts]${GOOD}`,
      "new.ts": 'export const x = { isStowageBrokerDefinition: true, type: "new", contract: 2 };\n',
    },
    args: ["ls", "data:"],
    exitCode: 161,
    names: ['"new"', "contract 2"],
  },
  {
    what: "two configurations in one folder",
    files: { "stowage.json": "{}" },
    args: ["ls"],
    exitCode: 161,
    names: ["stowage.yaml", "stowage.json", "--config"],
  },
  {
    what: "a configuration that is not UTF-8",
    files: {},
    prepare: (folder) => symlinkSync(process.execPath, join(folder, "binary.yaml")),
    args: ["ls", "--config", "binary.yaml"],
    exitCode: 161,
    names: ["binary.yaml"],
  },
  {
    what: "a secret in a line that does not parse",
    files: { "stowage.yaml": 'workspaces:\n  data:\n    broker: { type: memory, token: "hunter2" ]\n' },
    args: ["ls"],
    exitCode: 161,
    names: [/stowage\.yaml:3:\d+/],
  },
];

const BAD_JOBS: readonly BadInput[] = [
  { what: "a job that is not there", args: ["run", "nope.yaml"], exitCode: 163, names: ['"nope.yaml"', "check the path"] },
  {
    what: "a job that is no YAML",
    files: { "job.yaml": "name: [\n" },
    args: ["run", "job.yaml", "--scratch", "scratch"],
    exitCode: 162,
    names: [/job\.yaml:\d+:\d+/],
  },
  {
    what: "an unknown key of a job",
    files: job("output: []"),
    args: ["run", "job.yaml", "--scratch", "scratch"],
    exitCode: 162,
    names: ["job.yaml:3:1", "output", "outputs"],
  },
  {
    what: "a job without a name",
    files: { "job.yaml": "command: [wc]\n" },
    args: ["run", "job.yaml", "--scratch", "scratch"],
    exitCode: 162,
    names: ["job.yaml", "name"],
  },
  {
    what: "an input of an unknown workspace",
    files: job("inputs: [{ name: a, workspace: dta, path: raw/a.csv }]"),
    args: ["run", "job.yaml", "--scratch", "scratch"],
    exitCode: 162,
    names: ["job.yaml:3:", '"dta"', '"data"'],
  },
  {
    what: "an input that is neither path nor pattern",
    files: job("inputs: [{ name: a, workspace: data }]"),
    args: ["run", "job.yaml", "--scratch", "scratch"],
    exitCode: 162,
    names: ["job.yaml:3:", "path", "glob"],
  },
  {
    what: "a command that is text",
    files: { "job.yaml": "name: count\ncommand: wc -l\n" },
    args: ["run", "job.yaml", "--scratch", "scratch"],
    exitCode: 162,
    names: ["job.yaml:2:1", "command", "list"],
  },
  {
    what: "an output path with an unknown variable",
    files: job('outputs: [{ name: a, workspace: data, glob: "*", path: "{jbo}/x" }]'),
    args: ["run", "job.yaml", "--scratch", "scratch"],
    exitCode: 162,
    names: ["job.yaml:3:", "{jbo}", "job"],
  },
  {
    what: "an unknown runtime",
    files: job(""),
    args: ["run", "job.yaml", "--runtime", "dcoker"],
    exitCode: 160,
    names: ["'dcoker'", "local"],
  },
  {
    what: "an input that is not there",
    files: job("inputs: [{ name: a, workspace: data, path: raw/nope.csv }]"),
    args: ["run", "job.yaml", "--scratch", "scratch"],
    exitCode: 163,
    names: ["raw/nope.csv"],
  },
  {
    what: "a command that is not there",
    files: { "job.yaml": "name: count\ncommand: [no-such-program]\n" },
    args: ["run", "job.yaml", "--scratch", "scratch"],
    exitCode: 165,
    names: ["no-such-program"],
  },
];

const folders: (() => void)[] = [];
beforeAll(() => {});
afterAll(() => {
  for (const remove of folders) remove();
});

function makePlace(input: BadInput): string {
  const { folder, remove } = makeFolder();
  folders.push(remove);
  writeFiles(folder, {
    "stowage.yaml": GOOD,
    "a.txt": "a",
    "folder/a.txt": "other",
    "data/raw/a.csv": "1",
    "data/raw/b.csv": "2",
    ...input.files,
  });
  chmodSync(folder, 0o755);
  input.prepare?.(folder);
  return folder;
}

describe.each([
  ["arguments", BAD_ARGUMENTS],
  ["paths", BAD_PATHS],
  ["configurations", BAD_CONFIGURATIONS],
  ["jobs", BAD_JOBS],
])("bad %s", (_, inputs) => {
  test.concurrent.each(inputs)("$what: one line says what, where and what to do", async (input) => {
    const run = await runStowage(input.args, { cwd: makePlace(input), environment: input.environment });
    const about = `stowage ${input.args.join(" ")}\n${run.stdout}${run.stderr}`;
    expect(run.stderr, about).toMatch(/^stowage: [^\n]+\n$/);
    for (const name of input.names) {
      if (typeof name === "string") expect(run.stderr, about).toContain(name);
      else expect(run.stderr, about).toMatch(name);
    }
    expect(run.stderr, about).not.toMatch(/\n\s+at |node:internal|\[object |undefined|hunter2/);
    expect(run.status, about).toBe(input.exitCode);
  });
});

test.each([
  ["of arguments", ["lst", "--json"], "INVALID_ARGUMENT", 160],
  ["of a configuration", ["ls", "--json", "--config", "nope.yaml"], "FILE_NOT_FOUND", 163],
  ["of a path", ["stat", "--json", "data:nope"], "FILE_NOT_FOUND", 163],
])("with --json a mistake %s is an object too", async (_, args, code, exitCode) => {
  const run = await runStowage(args, { cwd: makePlace({ what: "", args, exitCode, names: [] }) });
  expect(run.status).toBe(exitCode);
  expect(JSON.parse(run.stdout)).toMatchObject({ event: "error", code, exitCode, message: run.stderr.replace(/^stowage: /, "").trim() });
});

test("there are enough of them", () => {
  expect(BAD_ARGUMENTS.length + BAD_PATHS.length + BAD_CONFIGURATIONS.length + BAD_JOBS.length).toBeGreaterThanOrEqual(45);
});
