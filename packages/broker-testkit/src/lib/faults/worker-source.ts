import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

/** What a worker process does with the broker of a target. */
export interface WorkerTask {
  /** URL of the module that exports `conformanceTarget`. */
  readonly module: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly volumePath?: string | undefined;
  /** A directory of the worker's own for local files. */
  readonly scratch: string;
  /** `churn`: store, fetch and move until killed. `overwrite`: replace `shared.bin` until its standard input ends. */
  readonly mode: "churn" | "overwrite";
  /** The first version that it writes. */
  readonly firstVersion: number;
  readonly baseBytes: number;
}

/** Files that `churn` stores in turn. */
export const CHURN_FILES = 4;

/** Places between which `churn` moves one file. */
export const CHURN_PLACES = 3;

// A text, not a module: it must run wherever the kit does, from source, compiled, or bundled into one file.
const SOURCE = `
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { randomBytes } from "node:crypto";

const task = JSON.parse(process.argv.at(-1));
const { conformanceTarget: target } = await import(task.module);
const definition = target.definition;
const broker = await definition.open(definition.config.parse(task.config), {
  signal: new AbortController().signal,
  volumePath: task.volumePath,
});
const say = (line) => process.stdout.write(line + "\\n");
const context = (ifExists = "replace", announce = false) => ({
  signal: new AbortController().signal,
  deadline: undefined,
  durability: "process",
  checksum: "auto",
  ifExists,
  temporaryId: randomBytes(12).toString("hex"),
  progress() {},
  async reserve() { return { [Symbol.dispose]() {} }; },
  async throttle() { if (announce) say("point throttle"); },
  journal: { async record() {}, async settle() {} },
  log() {},
});
const versionBytes = (version) => {
  const unit = Buffer.alloc(8);
  unit.writeUInt32LE(version, 0);
  unit.writeUInt32LE(~version >>> 0, 4);
  return Buffer.alloc((Math.ceil(task.baseBytes / 8) + (version % 97)) * 8, unit);
};
const local = join(task.scratch, "worker-" + process.pid);
const store = async (path, version, announce) => {
  await writeFile(local, versionBytes(version));
  await broker.uploadFile({ file: { path }, localPath: local }, context("replace", announce));
};

say("ready");
if (task.mode === "overwrite") {
  let stopping = false;
  process.stdin.resume();
  process.stdin.on("end", () => { stopping = true; });
  for (let count = 0; !stopping; count++) {
    await store("shared.bin", task.firstVersion + (count % 900), false);
    say("stored");
    await new Promise((resolve) => setImmediate(resolve));
  }
  await broker.close();
  process.exit(0);
} else {
  const wanderer = { async find() {
    for (let place = 0; place < ${CHURN_PLACES}; place++) {
      if (await broker.statFile({ path: "wander/" + place }, context())) return place;
    }
    return undefined;
  } };
  for (let version = task.firstVersion; ; version++) {
    const index = version % ${CHURN_FILES};
    await store("churn/" + index, version, true);
    say("point stored");
    say("stored " + index + " " + version);
    const place = await wanderer.find();
    if (place === undefined) throw new Error("the wandering file is lost");
    await broker.moveFile(
      { file: { path: "wander/" + place }, newPath: "wander/" + ((place + 1) % ${CHURN_PLACES}) },
      context("replace", true),
    );
    say("point moved");
    await broker.downloadFile({ file: { path: "churn/" + index }, localPath: local + "-down" }, context("replace", true));
  }
}
`;

/** The command that runs a task in a process of its own. */
export function workerCommand(task: WorkerTask): [string, ...string[]] {
  return [process.execPath, "--no-warnings", "--input-type=module", "--eval", SOURCE, "--", JSON.stringify(task)];
}

/** A task in a process of its own that ends when it is told. */
export interface RunningWorker {
  /** Asks it to end, and settles when it has. Rejects with what it printed when it failed. */
  stop(): Promise<void>;
}

export function startWorker(task: WorkerTask, onLine: (line: string) => void): RunningWorker {
  const [program, ...parameters] = workerCommand(task);
  const child = spawn(program, parameters, { stdio: ["pipe", "pipe", "pipe"] });
  let complaint = "";
  child.stderr.setEncoding("utf8");
  child.stderr.on("data", (text: string) => {
    complaint = `${complaint}${text}`.slice(-4_000);
  });
  createInterface({ input: child.stdout }).on("line", onLine);
  const ended = new Promise<void>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => {
      if (code === 0) resolve();
      else reject(new Error(`a worker process failed (exit ${code ?? signal}): ${complaint}`));
    });
  });
  ended.catch(() => undefined);
  // What it cannot take any more it will say at its end.
  child.stdin.on("error", () => undefined);
  return {
    stop() {
      child.stdin.end();
      return ended;
    },
  };
}
