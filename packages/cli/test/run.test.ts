import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type CommandRun, makeFolder, records, runStowage, writeFiles } from "./support/command.ts";

let folder: string;
let remove: () => void;

const JOB = `
name: upper
inputs:
  - { name: texts, workspace: data, glob: "texts/*.txt" }
  - { name: list, workspace: source, path: list.csv }
workspaces:
  source: data
command: [node, upper.mjs]
outputs:
  - { name: result, workspace: results, glob: "*.txt", path: "{job}/{path}" }
checksum: sha256
`;

const PROGRAM = `
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
const { STOWAGE_INPUT_TEXTS: texts, STOWAGE_INPUT_LIST: list, STOWAGE_OUTPUT: output } = process.env;
for (const name of readdirSync(texts)) writeFileSync(output + "/" + name, readFileSync(texts + "/" + name, "utf8").toUpperCase());
console.log("lines: " + readFileSync(list, "utf8").split("\\n").length);
console.error("\\u001b[31mthat was all\\u001b[0m\\u0007");
if (process.env.MODE === "fail") process.exit(7);
`;

beforeEach(() => {
  ({ folder, remove } = makeFolder());
  writeFiles(folder, {
    "stowage.yaml": `
workspaces:
  data: { readOnly: true, broker: { type: host, hostPath: ./data } }
  results: { broker: { type: host, hostPath: ./results } }
`,
    "data/texts/a.txt": "aaa",
    "data/texts/b.txt": "bbb",
    "data/list.csv": "1\n2\n3",
    "results/.keep": "",
    "job/job.yaml": JOB,
    "job/upper.mjs": PROGRAM,
  });
});

afterEach(() => remove());

const run = (...args: string[]): Promise<CommandRun> =>
  runStowage(["run", "job/job.yaml", "--scratch", "scratch", ...args], { cwd: folder });
const read = (path: string): string => readFileSync(join(folder, path), "utf8");

describe("run", () => {
  test("stages in, runs, stores, and tells of it as people like to read", async () => {
    const done = await run();
    expect([done.status, done.stderr]).toEqual([0, ""]);
    const lines = done.stdout.replace(/\d+\.\d s/g, "0.0 s").split("\n");
    expect(lines[0]).toMatch(/^upper {2}run [\w-]{36}$/);
    expect(lines.slice(1)).toEqual([
      "stage in  texts ← data:texts/a.txt (3 B, copy, verified by sha256)",
      "stage in  texts ← data:texts/b.txt (3 B, copy, verified by sha256)",
      "stage in  list ← source:list.csv (5 B, copy, verified by sha256)",
      "stage in  3 files, 11 B in 0.0 s",
      "run       node upper.mjs",
      expect.stringMatching(/^ {10}│ (lines: 3|that was all\\u\{7\})$/),
      expect.stringMatching(/^ {10}│ (lines: 3|that was all\\u\{7\})$/),
      "run       in 0.0 s",
      "store     result → results:upper/a.txt (3 B, copy, verified by sha256)",
      "store     result → results:upper/b.txt (3 B, copy, verified by sha256)",
      "store     2 files, 6 B in 0.0 s",
      "succeeded in 0.0 s",
      "",
    ]);
    expect([read("results/upper/a.txt"), read("results/upper/b.txt")]).toEqual(["AAA", "BBB"]);
    expect(existsSync(join(folder, "scratch/upper"))).toBe(false);
  });

  test("stages and stores in processes of their own too", async () => {
    const done = await run("--step-processes");
    expect([done.status, done.stderr]).toEqual([0, ""]);
    expect(read("results/upper/b.txt")).toBe("BBB");
  });

  test("--quiet lets what the command writes through as it is, and nothing else", async () => {
    const done = await run("--quiet");
    expect(done).toMatchObject({ status: 0, stdout: "lines: 3\n", stderr: "\u001b[31mthat was all\u001b[0m\u0007\n" });
  });

  test("--json gives every event, and --result-file the whole result", async () => {
    const done = await run("--json", "--result-file", "out/result.json", "--run-id", "run-1");
    expect([done.status, done.stderr]).toEqual([0, ""]);
    const told = records(done);
    expect(told[0]).toMatchObject({ event: "run-started", job: "upper", run: "run-1" });
    expect(told.filter(({ event }) => event === "file")).toHaveLength(5);
    expect(told.find(({ event, stream }) => event === "output" && stream === "stdout")).toMatchObject({ text: "lines: 3\n" });
    const result = JSON.parse(read("out/result.json"));
    expect(result).toMatchObject({ job: "upper", run: "run-1", status: "succeeded", exitCode: 0 });
    expect(told.at(-1)).toMatchObject({ event: "run-ended", result: { run: "run-1", exitCode: 0 } });
  });

  test("--dry-run says what would be staged, run and stored, and does nothing", async () => {
    const planned = await run("--dry-run");
    expect([planned.status, planned.stderr]).toEqual([0, ""]);
    expect(planned.stdout).toBe(
      "would stage in texts ← data:texts/*.txt (2 files, 6 B)\nwould stage in list ← source:list.csv (1 file, 5 B)\n" +
        "would run node upper.mjs\nwould store result: *.txt → results:{job}/{path}\n",
    );
    expect([existsSync(join(folder, "scratch")), existsSync(join(folder, "results/upper"))]).toEqual([false, false]);
    writeFiles(folder, { "job/job.yaml": JOB.replace("texts/*.txt", "nothing/*") });
    const failed = await run("--dry-run");
    expect([failed.status, failed.stderr]).toEqual([163, expect.stringMatching(/^stowage: [^\n]*"data:nothing\/\*"[^\n]*\n$/)]);
  });

  test("ends with the command's own exit code, keeps its directory, and --resume goes on from there", async () => {
    writeFiles(folder, { "job/job.yaml": `${JOB}\nenvironment: { MODE: fail }\n` });
    const failed = await run();
    expect(failed.status).toBe(7);
    expect(failed.stderr).toMatch(/^stowage: run: the command "node" failed with exit code 7[^\n]*\n$/);
    expect(failed.stdout).toContain("failed with exit code 7");
    expect(failed.stdout).toMatch(/^kept in \S+scratch\/upper; run it again with --resume/m);
    // The program is mended, not the job.
    writeFiles(folder, { "job/upper.mjs": PROGRAM.replace("process.exit(7)", "0") });
    const resumed = await run("--resume");
    expect([resumed.status, resumed.stderr]).toEqual([0, ""]);
    expect(resumed.stdout).toMatch(/^stage in +done by the earlier run$/m);
    expect(read("results/upper/a.txt")).toBe("AAA");
  });

  test("says which outputs matched nothing that is stored", async () => {
    writeFiles(folder, { "job/upper.mjs": `${PROGRAM}writeFileSync(output + "/notes.md", "x");` });
    const done = await run();
    expect([done.status, done.stderr]).toEqual([0, "stowage: 1 output file matched no output and was not stored: notes.md\n"]);
  });

  test("a required output that is missing is one line, and exit code 167", async () => {
    writeFiles(folder, { "job/upper.mjs": "" });
    const done = await run();
    expect(done.status).toBe(167);
    expect(done.stderr).toMatch(/^stowage: store: [^\n]*"result"[^\n]*\n$/);
  });

  test("is cancelled by a signal, with its command, and ends with 180", async () => {
    writeFiles(folder, { "job/upper.mjs": 'console.log("waiting"); setInterval(() => {}, 1000);' });
    const done = await runStowage(["run", "job/job.yaml", "--scratch", "scratch"], {
      cwd: folder,
      onStart: (child) => {
        child.stdout!.on("data", (chunk: Buffer) => {
          if (chunk.toString().includes("waiting")) child.kill("SIGTERM");
        });
      },
    });
    expect(done).toMatchObject({ status: 180, signal: null });
    expect(done.stdout).toContain("cancelled");
  });

  test("needs no stowage.yaml when the job holds its workspaces; relative paths begin at the job's folder", async () => {
    writeFiles(folder, {
      "alone/job.yaml": `name: alone
workspaces: { here: { broker: { type: host, hostPath: ./files } } }
inputs: [{ name: text, workspace: here, path: a.txt }]
command: [sh, -c, 'tr a-z A-Z < "$STOWAGE_INPUT_TEXT" > "$STOWAGE_OUTPUT/b.txt"']
outputs: [{ name: text, workspace: here, glob: "*", path: "{path}" }]
`,
      "alone/files/a.txt": "abc",
    });
    const done = await runStowage(["run", join(folder, "alone/job.yaml"), "--scratch", join(folder, "scratch")], { cwd: "/" });
    expect([done.status, done.stderr]).toEqual([0, ""]);
    expect(read("alone/files/b.txt")).toBe("ABC");
  });

  test("a mistake in a workspace of the job has the line of the job's file", async () => {
    writeFiles(folder, { "job/job.yaml": JOB.replace("source: data", "source: { broker: { type: host, hostpth: ./x } }") });
    const failed = await run();
    expect(failed.status).toBe(161);
    expect(failed.stderr).toMatch(/^stowage: job\/job\.yaml:7:\d+: [^\n]*hostPath[^\n]*\n$/);
  });

  test("says everything that is wrong with a job, each with its line", async () => {
    writeFiles(folder, {
      "job/job.yaml":
        "name: x y\ncommand: [wc]\ninputs:\n  - { name: 1a, workspace: data, path: x }\n  - { name: b, workspace: data, path: ../x }\n",
    });
    const failed = await run();
    expect(failed.status).toBe(162);
    expect(failed.stderr).toMatch(/^stowage: job\/job\.yaml:1:1: name /m);
    expect(failed.stderr).toMatch(/^stowage: job\/job\.yaml:4:\d+: inputs\[0\]\.name /m);
  });
});
