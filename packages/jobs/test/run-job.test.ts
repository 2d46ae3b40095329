import { spawnSync } from "node:child_process";
import { chmod, mkdir, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { hostBroker } from "@stowage/broker-host";
import { type FileRecord, openWorkspace } from "@stowage/core";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  createLocalRuntime,
  JobError,
  type JobEvent,
  type JobResult,
  type JobSpecInput,
  type RunJobOptions,
  runJob,
  sweepJobs,
} from "../src/index.ts";
import { faultyBroker } from "./fixtures/faulty-broker.ts";
import { createJobWorld, type JobWorld } from "./fixtures/job-world.ts";

let world: JobWorld;
beforeEach(async () => {
  world = await createJobWorld();
});
afterEach(() => world.remove());

const COPY = ["sh", "-c", 'cat "$STOWAGE_INPUT_DATA"/* > "$STOWAGE_OUTPUT/all.txt"'];
const job = (parts: Partial<JobSpecInput> = {}): JobSpecInput => ({
  name: "demo",
  inputs: [{ name: "data", workspace: "data", glob: "*" }],
  command: COPY,
  outputs: [{ name: "all", workspace: "results", glob: "*.txt", path: "{name}" }],
  ...parts,
});
const shell = (script: string, parts: Partial<JobSpecInput> = {}): JobSpecInput =>
  job({ command: ["sh", "-c", script], inputs: [], outputs: [], ...parts });
const MODULES = [import.meta.resolve("@stowage/broker-host"), new URL("./fixtures/faulty-broker.ts", import.meta.url).href];
const run = (spec: JobSpecInput, options: RunJobOptions = {}): Promise<JobResult> =>
  runJob(spec, {
    workspaces: world.workspaces,
    scratch: world.scratch,
    baseDirectory: world.base,
    ...(options.brokerModules === undefined ? { brokers: [hostBroker, faultyBroker] } : {}),
    ...options,
  });
const statuses = (result: JobResult): string[] => result.steps.map(({ step, status }) => `${step} ${status}`);
const isRunning = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};
async function untilGone(pid: number): Promise<boolean> {
  for (let attempt = 0; attempt < 200 && isRunning(pid); attempt++) await new Promise((resolve) => setTimeout(resolve, 20));
  return !isRunning(pid);
}

describe.each([
  ["in this process", {}],
  ["in processes of their own", { brokerModules: MODULES }],
] as const)("a run with pre and post step %s", (_where, mode) => {
  test("stages in, runs, stores, and leaves nothing behind but what it stored and the result", async () => {
    await world.put("data/1", "one\n");
    await world.put("data/2", "two\n");
    const events: JobEvent[] = [];
    const result = await run(job(), {
      ...mode,
      runId: "r1",
      resultFile: world.path("out", "result.json"),
      onEvent: (event) => events.push(event),
    });
    expect(result).toMatchObject({
      version: 1,
      job: "demo",
      run: "r1",
      resumed: false,
      status: "succeeded",
      exitCode: 0,
      main: { exitCode: 0, signal: null, timedOut: false },
      refusals: [],
      errors: [],
      leftovers: [],
      outputs: [{ output: "all", workspace: "results", path: "all.txt", source: "all.txt", size: 8, verified: "length" }],
    });
    expect(result.directory).toBeUndefined();
    expect(statuses(result)).toEqual(["pre succeeded", "main succeeded", "post succeeded"]);
    expect(
      result.inputs.map(({ input, path, staged, size }) => ({ input, path, staged, size })).sort((a, b) => (a.path < b.path ? -1 : 1)),
    ).toEqual([
      { input: "data", path: "1", staged: "input/data/1", size: 4 },
      { input: "data", path: "2", staged: "input/data/2", size: 4 },
    ]);
    expect(await world.files("results")).toEqual({ "all.txt": "one\ntwo\n" });
    expect(await readdir(world.scratch)).toEqual([]);
    expect(JSON.parse(await readFile(world.path("out", "result.json"), "utf8"))).toEqual(JSON.parse(JSON.stringify(result)));
    expect(await readdir(world.path("out"))).toEqual(["result.json"]);
    const order = events
      .filter(({ type }) => !["progress", "file", "output", "log"].includes(type))
      .map((event) => ("step" in event ? `${event.type} ${event.step}` : event.type));
    expect(order).toEqual([
      "run-started",
      "step-started pre",
      "step-ended pre",
      "step-started main",
      "step-ended main",
      "step-started post",
      "step-ended post",
      "run-ended",
    ]);
    expect(
      events
        .filter((event) => event.type === "file")
        .map((event) => `${event.step} ${event.path}`)
        .sort(),
    ).toEqual(["post all.txt", "pre 1", "pre 2"]);
  });

  test("a missing input ends it before the command starts", async () => {
    const result = await run(
      job({ inputs: [{ name: "data", workspace: "data", path: "gone" }], command: ["sh", "-c", 'touch "$0"', world.path("ran")] }),
      mode,
    );
    expect(result).toMatchObject({
      status: "failed",
      exitCode: 163,
      errors: [{ step: "pre", code: "FILE_NOT_FOUND" }],
      inputs: [],
      outputs: [],
    });
    expect(result.main).toBeUndefined();
    expect(statuses(result)).toEqual(["pre failed", "main skipped", "post skipped"]);
    expect(await world.names("")).not.toContain("ran");
  });

  test("hostile outputs are refused by name, and nothing is stored", async () => {
    const result = await run(
      shell('cd "$STOWAGE_OUTPUT"; echo x > fine.txt; ln -s /etc/passwd link.txt; mkfifo pipe', { outputs: job().outputs }),
      mode,
    );
    expect(result).toMatchObject({
      status: "failed",
      exitCode: 167,
      refusalCount: 2,
      refusals: [
        { path: "link.txt", reason: "symbolic-link" },
        { path: "pipe", reason: "fifo" },
      ],
      outputs: [],
    });
    expect(result.errors).toMatchObject([{ step: "post" }]);
    expect(await world.files("results")).toEqual({});
  });

  test("a required output that the command did not write is refused", async () => {
    expect(await run(shell("true", { outputs: job().outputs }), mode)).toMatchObject({ exitCode: 167, refusals: [{ reason: "missing" }] });
  });

  test.each([
    ["downloadFile", "PERMISSION_DENIED", 170, "pre"],
    ["uploadFile", "NO_SPACE", 171, "post"],
    ["uploadFile", "UNKNOWN", 168, "post"],
    ["downloadFile", "UNKNOWN", 164, "pre"],
  ] as const)("%s that fails with %s ends it with exit code %i", async (method, code, exitCode, step) => {
    await world.put("data/1", "1");
    const fault = { method, mode: "error", code } as const;
    const workspaces = { data: world.faulty("data", { fault }), results: world.faulty("results", { fault }) };
    const result = await run(job(), { ...mode, workspaces });
    expect(result).toMatchObject({ status: "failed", exitCode, errors: [{ step, code }] });
  });

  test("a stored file that is not what it should be is a failed verification", async () => {
    await world.put("data/1", "1234");
    const workspaces = { ...world.workspaces, results: world.faulty("results", { fault: { method: "uploadFile", mode: "corrupt" } }) };
    expect(await run(job(), { ...mode, workspaces })).toMatchObject({
      exitCode: 169,
      errors: [{ code: "CHECKSUM_MISMATCH", file: "all.txt", workspace: "results" }],
    });
  });

  test.each(["pre", "post"] as const)("is cancelled during the %s step within seconds, and can be resumed", async (step) => {
    await world.put("data/1", "1");
    const workspaces = (isHanging: boolean) => ({
      data: world.faulty("data", isHanging && step === "pre" ? { fault: { method: "downloadFile", mode: "hang" } } : {}),
      results: world.faulty("results", isHanging && step === "post" ? { fault: { method: "uploadFile", mode: "hang" } } : {}),
    });
    const controller = new AbortController();
    let abortedAt = 0;
    const result = await run(job(), {
      ...mode,
      workspaces: workspaces(true),
      signal: controller.signal,
      onEvent: (event) => {
        if (event.type === "log" && event.message.startsWith(step === "pre" ? "downloadFile" : "uploadFile")) {
          abortedAt = performance.now();
          controller.abort();
        }
      },
    });
    expect(performance.now() - abortedAt).toBeLessThan(4000);
    expect(result).toMatchObject({ status: "cancelled", exitCode: 180 });
    expect(result.steps.find((known) => known.step === step)?.status).toBe("cancelled");
    const again = await run(job(), { ...mode, workspaces: workspaces(false), resume: true });
    expect(again).toMatchObject({ status: "succeeded", run: result.run });
    expect(statuses(again)).toEqual(
      step === "pre" ? ["pre succeeded", "main succeeded", "post succeeded"] : ["pre reused", "main reused", "post succeeded"],
    );
    expect(await world.files("results")).toEqual({ "all.txt": "1" });
  });

  test("tells the store hook of each stored file; what cannot be recorded is an error of its own", async () => {
    await world.put("data/1", "1");
    const records: FileRecord[] = [];
    await run(job(), { ...mode, runId: "r1", store: (record) => void records.push(record) });
    expect(records).toMatchObject([
      { operation: "upload", workspace: "results", file: { path: "all.txt", size: 1 }, item: { output: "all", source: "all.txt" } },
    ]);
    const ids = records.splice(0).map(({ recordId }) => recordId);
    await run(job(), { ...mode, runId: "r1", store: (record) => void records.push(record) });
    expect(records.map(({ recordId }) => recordId)).toEqual(ids);
    await rm(world.path("results/all.txt"));
    const result = await run(job(), {
      ...mode,
      store: () => {
        throw new Error("the database is down");
      },
    });
    expect(result).toMatchObject({
      exitCode: 175,
      errors: [{ code: "NOT_RECORDED", message: expect.stringContaining("the database is down") }],
    });
    expect(await world.files("results")).toEqual({});
  });

  test("no secret shows up in anything that is written or passed on, though the broker puts it into every message", async () => {
    const canary = "canary-7f3a91c2d4";
    await world.put("data/1", "1");
    const seen: string[] = [];
    const spy = 'for p in /proc/[0-9]*; do tr "\\0" " " < $p/cmdline; echo; done 2>/dev/null; env';
    const workspaces = {
      data: world.faulty("data", { token: canary }),
      results: world.faulty("results", { token: canary, fault: { method: "uploadFile", mode: "error" } }),
    };
    const result = await run(job({ command: ["sh", "-c", `${spy}; ${COPY[2]}`] }), {
      ...mode,
      workspaces,
      resultFile: world.path("result.json"),
      onEvent: (event) => seen.push(JSON.stringify(event.type === "output" ? Buffer.from(event.chunk).toString() : event)),
    });
    expect(result.exitCode).toBe(170);
    // The backend's messages are there, but for the secret.
    expect(JSON.stringify(result.errors)).toContain("the backend says no to");
    expect(seen.join()).toContain("downloadFile with");
    expect(seen.join()).toContain("STOWAGE_OUTPUT");
    const written = await Promise.all(
      (await readdir(world.base, { recursive: true, withFileTypes: true }))
        .filter((entry) => entry.isFile())
        .map((entry) => readFile(join(entry.parentPath, entry.name), "utf8")),
    );
    expect(written.join()).toContain("step-started");
    for (const text of [JSON.stringify(result), ...seen, ...written]) expect(text).not.toContain(canary);
  });
});

describe("the command", () => {
  test("finds its inputs, and nothing of the stager's environment but PATH, HOME and LANG", async () => {
    await world.put("data/1", "1");
    await world.put("data/dir/style.json", "{}");
    process.env.STAGER_SECRET = "do not pass on";
    try {
      const result = await run(
        job({
          inputs: [
            { name: "data", workspace: "data", glob: "*" },
            { name: "the-style", workspace: "data", path: "dir/style.json" },
            { name: "absent", workspace: "data", path: "absent", optional: true },
            { name: "none", workspace: "data", glob: "none/*", optional: true },
          ],
          environment: { MODE: "fast", LANG: "C" },
          command: [
            "sh",
            "-c",
            'env > "$STOWAGE_OUTPUT/env.txt"; cp "$STOWAGE_JOB_MANIFEST" "$STOWAGE_OUTPUT/manifest.txt"; pwd > "$STOWAGE_OUTPUT/pwd.txt"; ls "$STOWAGE_INPUT_NONE" > "$STOWAGE_OUTPUT/none.txt"',
          ],
        }),
        { runId: "r1", keepDirectory: "always" },
      );
      expect(result.status).toBe("succeeded");
      const files = await world.files("results");
      const environment = Object.fromEntries(
        files["env.txt"]!.trim()
          .split("\n")
          .map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]),
      );
      const { PATH: _path, HOME: _home, PWD: _pwd, OLDPWD: _old, SHLVL: _level, _: _last, STOWAGE_RUN_MARK: mark, ...others } = environment;
      const directory = join(world.scratch, "demo");
      expect(others).toEqual({
        MODE: "fast",
        LANG: "C",
        TMPDIR: join(directory, "tmp"),
        STOWAGE_JOB: "demo",
        STOWAGE_RUN: "r1",
        STOWAGE_JOB_DIRECTORY: directory,
        STOWAGE_JOB_MANIFEST: join(directory, "input.json"),
        STOWAGE_INPUT: join(directory, "input"),
        STOWAGE_OUTPUT: join(directory, "output"),
        STOWAGE_INPUT_DATA: join(directory, "input/data"),
        STOWAGE_INPUT_THE_STYLE: join(directory, "input/the-style/style.json"),
        STOWAGE_INPUT_NONE: join(directory, "input/none"),
      });
      expect(mark).toMatch(/^[\w-]+$/);
      expect(JSON.parse(files["manifest.txt"]!)).toMatchObject({ job: "demo", run: "r1" });
      expect(files["pwd.txt"]).toBe(`${world.base}\n`);
      expect(result.directory).toBe(directory);
    } finally {
      delete process.env.STAGER_SECRET;
    }
  });

  test("has a directory that other users cannot look into", async () => {
    const result = await run(shell("true"), { keepDirectory: "always" });
    expect((await stat(result.directory!)).mode & 0o777).toBe(0o700);
  });

  test("runs in the working directory that the job names", async () => {
    await mkdir(world.path("programs"));
    const result = await run(shell('pwd > "$STOWAGE_OUTPUT/pwd.txt"', { workingDirectory: "programs", outputs: job().outputs }));
    expect(result.status).toBe("succeeded");
    expect(await world.files("results")).toEqual({ "pwd.txt": `${world.path("programs")}\n` });
    expect(await run(shell("true", { workingDirectory: "nowhere" }))).toMatchObject({
      exitCode: 165,
      errors: [{ message: expect.stringContaining("working directory") }],
    });
  });

  test.each([1, 7, 99, 255])("that fails passes its exit code %i on, and its outputs are not stored", async (code) => {
    const result = await run(shell(`echo x > "$STOWAGE_OUTPUT/a.txt"; exit ${code}`, { outputs: job().outputs }));
    expect(result).toMatchObject({
      status: "failed",
      exitCode: code,
      main: { exitCode: code, signal: null },
      outputs: [],
      errors: [{ step: "main", message: expect.stringContaining(`exit code ${code}`) }],
    });
    expect(statuses(result)).toEqual(["pre succeeded", "main failed", "post skipped"]);
    expect(await world.files("results")).toEqual({});
  });

  test("that fails has its outputs stored when the job says so, and still fails", async () => {
    const result = await run(shell('echo x > "$STOWAGE_OUTPUT/a.txt"; exit 3', { outputs: job().outputs, storeOnFailure: true }));
    expect(result).toMatchObject({ status: "failed", exitCode: 3, outputs: [{ path: "a.txt" }] });
    expect(statuses(result)).toEqual(["pre succeeded", "main failed", "post succeeded"]);
    expect(await world.files("results")).toEqual({ "a.txt": "x\n" });
  });

  test("that fails keeps its exit code when storing fails too, and both are told", async () => {
    const result = await run(shell('ln -s x "$STOWAGE_OUTPUT/a.txt"; exit 3', { outputs: job().outputs, storeOnFailure: true }));
    expect(result).toMatchObject({
      exitCode: 3,
      refusals: [{ path: "a.txt" }, { reason: "missing" }],
      errors: [{ step: "main" }, { step: "post" }],
    });
  });

  test("that is killed by a signal is told apart from one that fails", async () => {
    expect(await run(shell("kill -SEGV $$"))).toMatchObject({
      exitCode: 176,
      main: { exitCode: null, signal: "SIGSEGV" },
      errors: [{ message: expect.stringContaining("SIGSEGV") }],
    });
  });

  test.each([
    ["is not there", ["no-such-program"], /was not found/],
    ["is not executable", ["./plain"], /may not be run/],
    ["is no program", ["./empty-interpreter"], /not found|no program|may not be run/],
  ])("that %s could not be started", async (_what, command, message) => {
    await world.put("plain", "x");
    await world.put("empty-interpreter", "#!/no/such/interpreter\n");
    await chmod(world.path("empty-interpreter"), 0o755);
    const result = await run(job({ inputs: [], command, storeOnFailure: true }));
    expect(result).toMatchObject({ status: "failed", exitCode: 165, errors: [{ step: "main", message: expect.stringMatching(message) }] });
    expect(statuses(result)).toEqual(["pre succeeded", "main failed", "post skipped"]);
  });

  test("that is given more than the system hands over could not be started", async () => {
    expect(await run(job({ inputs: [], command: ["true", "x".repeat(3_000_000)] }))).toMatchObject({
      exitCode: 165,
      errors: [{ message: expect.stringContaining("too long") }],
    });
  });

  test("that ends at once has all that it wrote passed on", async () => {
    for (let round = 0; round < 5; round++) {
      let text = "";
      await run(shell("echo quick"), {
        onEvent: (event) => {
          if (event.type === "output") text += Buffer.from(event.chunk).toString();
        },
      });
      expect(text).toBe("quick\n");
    }
  });

  test("that runs into its time limit is asked to end", async () => {
    const result = await run(
      shell("trap 'echo asked > \"$STOWAGE_OUTPUT/a.txt\"; exit 0' TERM; echo up; while :; do sleep 0.05; done", {
        limits: { timeoutSeconds: 0.5 },
        storeOnFailure: true,
        outputs: job().outputs,
      }),
    );
    expect(result).toMatchObject({
      status: "failed",
      exitCode: 166,
      main: { exitCode: 0, timedOut: true },
      errors: [{ message: expect.stringContaining("time limit of 0.5 s") }],
    });
    expect(await world.files("results")).toEqual({ "a.txt": "asked\n" });
  });

  test("that does not end when it is asked to is killed with all that it started", async () => {
    const startedAt = performance.now();
    const result = await run(
      shell('trap "" TERM; sleep 300 & echo $!; (trap "" TERM; sleep 300) & echo $!; while :; do sleep 0.05; done', {
        limits: { timeoutSeconds: 0.4, graceSeconds: 0.3 },
      }),
    );
    expect(performance.now() - startedAt).toBeLessThan(5000);
    expect(result).toMatchObject({ exitCode: 166, main: { exitCode: null, signal: "SIGKILL", timedOut: true } });
    const pids = (await readFile(join(result.directory!, "logs/stdout.log"), "utf8")).trim().split("\n").map(Number);
    expect(pids).toHaveLength(2);
    for (const pid of pids) expect(await untilGone(pid)).toBe(true);
  });

  test("is stopped when the run is cancelled; nothing is stored", async () => {
    const controller = new AbortController();
    const result = await run(
      shell('echo x > "$STOWAGE_OUTPUT/a.txt"; echo up; sleep 300', { outputs: job().outputs, storeOnFailure: true }),
      {
        signal: controller.signal,
        onEvent: (event) => {
          if (event.type === "output") controller.abort();
        },
      },
    );
    expect(result).toMatchObject({ status: "cancelled", exitCode: 180, outputs: [] });
    expect(statuses(result)).toEqual(["pre succeeded", "main cancelled", "post skipped"]);
    expect(await world.files("results")).toEqual({});
    expect(await run(shell("true"), { signal: controller.signal })).toMatchObject({ status: "cancelled", exitCode: 180 });
  });

  test("that leaves processes in the background has them stopped, also those that have fled its group and hold its output open", async () => {
    const fled = world.path("fled");
    const result = await run(
      shell(`sleep 301 & setsid sh -c 'echo $$ > ${fled}; exec sleep 302' & until [ -s ${fled} ]; do sleep 0.02; done; echo "$!"; exit 0`),
    );
    expect(result.status).toBe("succeeded");
    expect(await untilGone(Number(await readFile(fled, "utf8")))).toBe(true);
  });

  test("that hides a process from everybody does not keep the run from ending", async () => {
    const fled = world.path("fled");
    const startedAt = performance.now();
    const result = await run(shell(`env -i setsid sh -c 'echo $$ > ${fled}; exec sleep 303' & until [ -s ${fled} ]; do sleep 0.02; done`));
    expect(result.status).toBe("succeeded");
    expect(performance.now() - startedAt).toBeLessThan(10_000);
    process.kill(Number(await readFile(fled, "utf8")), "SIGKILL");
  });

  test("has its output passed on in order and kept up to the limit", async () => {
    const chunks: { stream: string; chunk: Uint8Array }[] = [];
    const result = await run(shell("seq 1 20000; echo problem >&2", { limits: { logBytes: 1000 } }), {
      keepDirectory: "always",
      onEvent: (event) => {
        if (event.type === "output") chunks.push(event);
      },
    });
    const text = (stream: string): string =>
      Buffer.concat(chunks.filter((chunk) => chunk.stream === stream).map(({ chunk }) => chunk)).toString();
    const expected = Array.from({ length: 20_000 }, (_, index) => `${index + 1}\n`).join("");
    expect(text("stdout")).toBe(expected);
    expect(text("stderr")).toBe("problem\n");
    expect(result.logs).toEqual({
      stdout: { path: join(world.scratch, "demo/logs/stdout.log"), bytes: expected.length, truncated: true },
      stderr: { path: join(world.scratch, "demo/logs/stderr.log"), bytes: 8, truncated: false },
    });
    expect(await readFile(result.logs.stdout!.path!, "utf8")).toBe(expected.slice(0, 1000));
  });

  test("cannot make us write our files elsewhere by leaving links in their place", async () => {
    await world.put("precious", "keep");
    await mkdir(world.path("elsewhere"));
    const evil = 'cd "$STOWAGE_JOB_DIRECTORY"; rm -rf output; ln -s "$0" output; rm -rf tmp logs; ln -s "$0" tmp; ln -s "$0" logs';
    const result = await run(job({ command: ["sh", "-c", evil, world.path("elsewhere")], inputs: [] }));
    expect(result).toMatchObject({ status: "failed", exitCode: 168 });
    expect(await readdir(world.path("elsewhere"))).toEqual([]);
    const again = await run(shell("true"));
    expect(again.status).toBe("succeeded");
    expect(await readdir(world.path("elsewhere"))).toEqual([]);
    expect(await world.names("")).toContain("precious");
  });
});

describe("what keeps a run from beginning", () => {
  test.each<[string, JobSpecInput | unknown, RunJobOptions, number]>([
    ["an invalid job", { name: "demo", comand: [] }, {}, 162],
    ["a job without a command", { name: "demo" }, {}, 162],
    ["an unknown workspace", { name: "demo", command: ["true"], inputs: [{ name: "a", workspace: "dta", path: "x" }] }, {}, 162],
    ["a bad run id", { name: "demo", command: ["true"] }, { runId: "../x" }, 160],
    ["brokers as values and as modules", { name: "demo", command: ["true"] }, { brokers: [], brokerModules: [] }, 160],
  ])("%s is thrown, and written down", async (_what, spec, options, exitCode) => {
    const { exitCodeOf } = await import("../src/index.ts");
    const resultFile = world.path("result.json");
    const error = await runJob(spec as JobSpecInput, {
      scratch: world.scratch,
      workspaces: world.workspaces,
      resultFile,
      ...options,
    }).catch((reason: unknown) => reason);
    expect(exitCodeOf(error)).toBe(exitCode);
    expect(JSON.parse(await readFile(resultFile, "utf8"))).toMatchObject({
      job: "demo",
      status: "failed",
      exitCode,
      steps: [],
      errors: [{ message: (error as Error).message }],
    });
    expect(await readdir(world.scratch)).toEqual([]);
  });

  test("open workspaces cannot go to other processes", async () => {
    const workspace = await openWorkspace({ name: "data", ...world.workspaces.data } as never, { brokers: [hostBroker] });
    await expect(runJob(job(), { scratch: world.scratch, brokerModules: [], openWorkspaces: { data: workspace } })).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
    await workspace.close();
  });

  test("a bad workspace configuration is a failure of the step that opens it", async () => {
    const result = await run(job(), { workspaces: { ...world.workspaces, data: { broker: { type: "host", hostpath: "/x" } } } });
    expect(result).toMatchObject({
      exitCode: 161,
      errors: [{ step: "pre", code: "INVALID_CONFIGURATION", message: expect.stringContaining("hostPath") }],
    });
    expect(await run(job(), { workspaces: { ...world.workspaces, data: { broker: { type: "hots" } } } })).toMatchObject({
      exitCode: 161,
      errors: [{ code: "UNKNOWN_BROKER_TYPE" }],
    });
  });

  test("another live run of the same job in the same scratch directory; its result is left alone", async () => {
    const resultFile = world.path("result.json");
    const controller = new AbortController();
    let second: unknown;
    const first = run(shell("echo up; sleep 300"), {
      signal: controller.signal,
      resultFile,
      onEvent: (event) => {
        if (event.type !== "output") return;
        void (async () => {
          await writeFile(resultFile, "theirs");
          second = await run(shell("true"), { resultFile }).catch((error: unknown) => error);
          expect(await readFile(resultFile, "utf8")).toBe("theirs");
          const report = await sweepJobs(world.scratch);
          expect(report).toMatchObject({ live: ["demo"], removed: [], stopped: [] });
          // Another job, or another place, is another matter.
          expect((await run({ ...shell("true"), name: "other" })).status).toBe("succeeded");
          expect((await run(shell("true"), { scratch: world.path("scratch2") })).status).toBe("succeeded");
          controller.abort();
        })();
      },
    });
    expect((await first).status).toBe("cancelled");
    expect(JobError.is(second) && second.reason).toBe("already-running");
  });

  test("a result file of an earlier run is gone once a new one has begun", async () => {
    const resultFile = world.path("result.json");
    await writeFile(resultFile, "stale");
    let during: string[] = [];
    await run(shell("true"), {
      resultFile,
      onEvent: async (event) => {
        if (event.type === "run-started") during = await readdir(world.base);
      },
    });
    expect(during).not.toContain("result.json");
    expect(JSON.parse(await readFile(resultFile, "utf8"))).toMatchObject({ status: "succeeded" });
  });

  test("a listener that throws does no harm", async () => {
    const result = await run(shell("echo x"), {
      onEvent: () => {
        throw new Error("mine");
      },
    });
    expect(result.status).toBe("succeeded");
  });
});

describe("a runtime that breaks", () => {
  const runtime = createLocalRuntime();
  test.each([
    ["while it prepares", { ...runtime, prepare: () => Promise.reject(new Error("no room")) }],
    ["while it runs the command", { ...runtime, runStep: () => Promise.reject(new Error("no room")) }],
  ])("%s fails the run as an internal error", async (_when, broken) => {
    expect(await run(shell("true"), { runtime: broken })).toMatchObject({
      status: "failed",
      exitCode: 191,
      errors: [{ message: "no room" }],
    });
  });

  test("a stage step that dies without a word fails the run and says what it last said", async () => {
    const broken = createLocalRuntime({ stepCommand: ["sh", "-c", "echo out of luck >&2; exit 9"] });
    expect(await run(job(), { runtime: broken, brokerModules: MODULES })).toMatchObject({
      exitCode: 164,
      errors: [{ step: "pre", message: expect.stringMatching(/exit code 9; it last said: out of luck/) }],
    });
    expect(await run(job(), { runtime: createLocalRuntime({ stepCommand: ["/no/such/program"] }), brokerModules: MODULES })).toMatchObject({
      exitCode: 164,
      errors: [{ message: expect.stringContaining("was not found") }],
    });
  });

  test("a broker module that cannot be loaded is an invalid configuration", async () => {
    expect(await run(job(), { brokerModules: ["./none.mjs"] })).toMatchObject({
      exitCode: 161,
      errors: [{ code: "INVALID_CONFIGURATION", message: expect.stringContaining("./none.mjs") }],
    });
    await world.put("empty.mjs", "export const nothing = 1;");
    expect(await run(job(), { brokerModules: ["./empty.mjs"] })).toMatchObject({
      exitCode: 161,
      errors: [{ message: expect.stringContaining("exports no broker") }],
    });
  });

  test("links to partial inputs are handed out only with trust", async () => {
    await world.put("data/1", "1");
    const spec = (trustJob: boolean) => job({ trustJob, inputs: [{ name: "data", workspace: "data", glob: "*", partial: true }] });
    const method = async (spec: JobSpecInput, options: RunJobOptions = {}): Promise<string | undefined> =>
      (await run(spec, options)).inputs[0]?.method;
    expect(await method(spec(false))).not.toBe("link");
    expect(await method(spec(true))).toBe("link");
    expect(await method(spec(true), { runtime: createLocalRuntime({ trustJob: false }) })).not.toBe("link");
    expect(await method(spec(false), { runtime: createLocalRuntime({ trustJob: true }) })).toBe("link");
    expect(await world.files("data")).toEqual({ "1": "1" });
  });
});

describe("a full disk", () => {
  test.each([
    ["while inputs are fetched", job(), "pre"],
    ["while the command writes its output", shell('head -c 2000000 /dev/zero > "$STOWAGE_OUTPUT/big" || exit 5'), "main"],
  ])("%s is told as such, and the result is written all the same", async (_when, spec, step) => {
    const small = world.path("small");
    await mkdir(small);
    if (spawnSync("mount", ["-t", "tmpfs", "-o", "size=512k", "tmpfs", small]).status !== 0) return;
    try {
      await world.put("data/big", new Uint8Array(2_000_000));
      const result = await run(spec, { scratch: small, resultFile: world.path("result.json") });
      expect(result).toMatchObject({ status: "failed", exitCode: step === "pre" ? 171 : 5, errors: [{ step }] });
      expect(JSON.parse(await readFile(world.path("result.json"), "utf8"))).toMatchObject({ exitCode: result.exitCode });
      // As full as it can be: what is to free it must not need room itself.
      spawnSync("sh", ["-c", 'cat /dev/zero > "$0" 2>/dev/null', join(small, "filler")]);
      expect(await sweepJobs(small)).toMatchObject({ removed: ["demo"], leftovers: [] });
      await rm(join(small, "filler"));
      expect(await readdir(small)).toEqual([]);
    } finally {
      spawnSync("umount", [small]);
    }
  });
});

describe("resuming", () => {
  test("a run whose outputs could not be stored stores them, and runs nothing again", async () => {
    await world.put("data/1", "1");
    const counter = world.path("counter");
    const spec = job({ command: ["sh", "-c", `echo ran >> ${counter}; ${COPY[2]}`] });
    const failed = await run(spec, {
      workspaces: {
        ...world.workspaces,
        results: world.faulty("results", { fault: { method: "uploadFile", mode: "error", code: "UNKNOWN" } }),
      },
    });
    expect(failed).toMatchObject({ exitCode: 168, directory: join(world.scratch, "demo") });
    const result = await run(spec, { resume: true });
    expect(result).toMatchObject({
      status: "succeeded",
      resumed: true,
      run: failed.run,
      startedAt: failed.startedAt,
      main: { exitCode: 0 },
      inputs: [{ path: "1" }],
      outputs: [{ path: "all.txt" }],
    });
    expect(statuses(result)).toEqual(["pre reused", "main reused", "post succeeded"]);
    expect(await readFile(counter, "utf8")).toBe("ran\n");
    expect(await readdir(world.scratch)).toEqual([]);
  });

  test("a run whose command failed runs it again, on inputs as they were", async () => {
    await world.put("data/1", "1");
    const flag = world.path("flag");
    const spec = job({
      command: [
        "sh",
        "-c",
        `echo changed > "$STOWAGE_INPUT_DATA/1"; echo rest > "$STOWAGE_OUTPUT/rest.txt"; [ -e ${flag} ] || exit 4; rm "$STOWAGE_OUTPUT/rest.txt"; ${COPY[2]}`,
      ],
    });
    expect(await run(spec)).toMatchObject({ exitCode: 4 });
    await writeFile(flag, "");
    // The command changes its input: fetched again, since it is not what it was.
    const result = await run(spec, { resume: true });
    expect(result).toMatchObject({ status: "succeeded", resumed: true });
    expect(statuses(result)).toEqual(["pre succeeded", "main succeeded", "post succeeded"]);
    expect(await world.files("results")).toEqual({ "all.txt": "changed\n" });
    expect(await world.files("data")).toEqual({ "1": "1" });
  });

  test("a run whose command failed and left its inputs alone does not fetch them again", async () => {
    await world.put("data/1", "1");
    const flag = world.path("flag");
    const spec = job({ command: ["sh", "-c", `[ -e ${flag} ] || exit 4; ${COPY[2]}`] });
    expect(await run(spec)).toMatchObject({ exitCode: 4 });
    await writeFile(flag, "");
    expect(statuses(await run(spec, { resume: true }))).toEqual(["pre reused", "main succeeded", "post succeeded"]);
  });

  test("without anything to resume begins anew", async () => {
    expect(await run(shell("true"), { resume: true, runId: "r7" })).toMatchObject({ status: "succeeded", resumed: false, run: "r7" });
  });

  test("is refused when the job has changed, or another run is meant; nothing is lost by that", async () => {
    const failed = await run(shell("exit 1"));
    await expect(run(shell("exit 2"), { resume: true })).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining("not what it was"),
    });
    await expect(run(shell("exit 1"), { resume: true, runId: "other" })).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    expect(await run(shell("exit 1"), { resume: true, runId: failed.run })).toMatchObject({ exitCode: 1, resumed: true, run: failed.run });
  });

  test("credentials may change in between", async () => {
    await world.put("data/1", "1");
    const workspaces = (token: string) => ({ ...world.workspaces, data: world.faulty("data", { token }) });
    const spec = job({ command: ["false"] });
    await run(spec, { workspaces: workspaces("old") });
    expect(await run(spec, { workspaces: workspaces("new"), resume: true })).toMatchObject({ resumed: true, exitCode: 1 });
  });

  test("a new run without resuming removes what an earlier one left", async () => {
    await world.put("data/1", "1");
    const failed = await run(job({ command: ["sh", "-c", 'echo x > "$STOWAGE_OUTPUT/old.txt"; exit 1'] }));
    const result = await run(shell('ls -A "$STOWAGE_INPUT" "$STOWAGE_OUTPUT" > "$TMPDIR/x"; cat "$TMPDIR/x"', { outputs: [] }), {
      keepDirectory: "always",
    });
    expect(result.run).not.toBe(failed.run);
    expect(await readFile(join(world.scratch, "demo/logs/stdout.log"), "utf8")).not.toContain("old.txt");
  });

  test("a kept run that has succeeded gives its result again and runs nothing", async () => {
    const counter = world.path("counter");
    const spec = shell(`echo ran >> ${counter}`);
    const first = await run(spec, { keepDirectory: "always" });
    const again = await run(spec, { resume: true, resultFile: world.path("result.json") });
    expect(again).toMatchObject({ run: first.run, status: "succeeded", resumed: true });
    expect(await readFile(counter, "utf8")).toBe("ran\n");
    expect(JSON.parse(await readFile(world.path("result.json"), "utf8"))).toMatchObject({ run: first.run });
    expect(await readdir(world.scratch)).toEqual([]);
  });

  test("a damaged journal is an error when resuming, and no obstacle to a new run", async () => {
    await run(shell("exit 1"));
    const journal = join(world.scratch, "demo/.stowage/journal.jsonl");
    await writeFile(journal, `{"type":"run"\n${await readFile(journal, "utf8")}`);
    await expect(run(shell("exit 1"), { resume: true })).rejects.toMatchObject({
      code: "CONFLICT",
      message: expect.stringContaining("damaged in line 1"),
    });
    expect((await run(shell("true"))).status).toBe("succeeded");
  });
});

describe("sweepJobs", () => {
  test("removes runs that have ended, keeps its hands off what is no run of ours, and may be repeated", async () => {
    await run(shell('mkdir -p "$STOWAGE_OUTPUT/closed/x"; chmod 0 "$STOWAGE_OUTPUT/closed"; exit 1'));
    await run({ ...shell("exit 1"), name: "other" });
    await world.put("scratch/foreign/file", "x");
    await world.put("scratch/note", "x");
    await mkdir(world.path("scratch/half/.stowage/lock"), { recursive: true });
    await symlink(world.path("data"), world.path("scratch/link"));
    await world.put("data/1", "1");
    const [one, two] = await Promise.all([sweepJobs(world.scratch), sweepJobs(world.scratch)]);
    expect([...new Set([...one.removed, ...two.removed])].sort()).toEqual(["demo", "half", "other"]);
    expect([...one.leftovers, ...two.leftovers]).toEqual([]);
    expect((await readdir(world.scratch)).sort()).toEqual(["foreign", "link", "note"]);
    expect(await world.files("data")).toEqual({ "1": "1" });
    expect(await sweepJobs(world.scratch)).toMatchObject({ removed: [], live: [], leftovers: [] });
    expect(await sweepJobs(world.path("nowhere"))).toMatchObject({ removed: [] });
  });
});
