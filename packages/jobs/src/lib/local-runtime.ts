import { type ChildProcess, type SpawnOptions, spawn } from "node:child_process";
import { mkdir, stat } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname } from "node:path";
import type { Readable, Writable } from "node:stream";
import { escapePath, isSystemError, StowageError } from "@stowage/core/broker";
import { jobDirectory } from "./job-directory.ts";
import type { JobRuntime, MainStep, StageStep, StartedHandle, StepExit, StepIo } from "./job-runtime.ts";
import { describeOwner, type Owner } from "./owner.ts";
import {
  createRunMark,
  findOrphans,
  findRecordedProcesses,
  kill,
  killRecordedProcesses,
  killUntilGone,
  type ProcessRecord,
  parseProcessRecord,
  RUN_MARK,
  recordProcess,
} from "./process-group.ts";
import { emptyDirectory } from "./remove-tree.ts";
import { CANCEL_LINE, createMessageReader } from "./step-protocol.ts";

export interface LocalRuntimeOptions {
  /**
   * Whether commands may be handed links into mounted workspaces, through which they could change what is stored. Without it the job's own `trustJob`
   * decides; false: never.
   */
  readonly trustJob?: boolean | undefined;
  /** Program and arguments that run a pre or post step. Defaults to this Node with `@stowage/jobs/step`. */
  readonly stepCommand?: readonly string[] | undefined;
}

/** What of the stager's environment the command gets. Never anything that may hold a credential. */
const PASSED_ON = ["PATH", "HOME", "LANG"] as const;

const DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** How long output is still read after the command has ended, from whatever holds it open. */
const DRAIN_MS = 1000;

/** How long a process may take, on a busy machine, from being made by a runner that is then killed to being itself. */
const STARTING_MS = 1000;

/** How long a stage step that has said its result may take to end. */
const STAGE_END_MS = 2000;

/**
 * Runs steps as plain processes of this machine and user. No isolation: the command can do what this user can. It runs in a process group of its own, which
 * is killed when it ends, is cancelled, or this process dies (by a small shell that watches, where there is one).
 */
export function createLocalRuntime(options: LocalRuntimeOptions = {}): JobRuntime {
  return {
    type: "local",
    prepare: async (run) => {
      const { input, output, temporary, logs } = jobDirectory(run.directory);
      for (const directory of [input, output, temporary, logs]) await mkdir(directory, { recursive: true });
      return { directory: run.directory, linkPartial: options.trustJob ?? run.spec.trustJob };
    },
    runStep: (step, io) => (step.role === "main" ? runMain(step, io) : runStage(step, io, options)),
    stop: async ({ runId, directory }, started, { isStarting }) => {
      const records = started.map(parseProcessRecord).filter((record) => record !== undefined);
      const find = (): number[] => [
        ...new Set([...findRecordedProcesses(records), ...findOrphans((mark) => mark.runId === runId && mark.directory === directory)]),
      ];
      return (await killUntilGone(find, { lookMs: isStarting ? STARTING_MS : 0 })).map((pid) => `process ${pid}`);
    },
    remove: (run) => emptyDirectory(run.directory, [".stowage"]),
    sweep: async (scratch) => {
      const find = (): number[] => findOrphans((mark) => dirname(mark.directory) === scratch);
      const orphans = find();
      const left = await killUntilGone(find);
      return orphans.filter((pid) => !left.includes(pid)).map((pid) => `process ${pid}`);
    },
  };
}

async function runMain(step: MainStep, io: StepIo): Promise<StepExit> {
  const { command, workingDirectory } = step;
  const problem = await describeBadDirectory(workingDirectory);
  if (problem !== undefined) return { status: "not-started", message: problem };
  io.signal.throwIfAborted();
  const mark = createRunMark({ ...step.run, runner: thisOwner() });
  const [program, ...args] = command as readonly [string, ...string[]];
  const child = await start(program, args, {
    cwd: workingDirectory,
    env: { ...passedOnEnvironment(), ...step.environment, [RUN_MARK]: mark },
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  if (child instanceof Error) return { status: "not-started", message: describeSpawnFailure(program, child) };

  const guard = guardGroup(child.pid!);
  const record = recordStarted(child, mark);
  return superviseGroup(child, record, io, {
    onAbort: () => kill(-record.group, "SIGTERM"),
    onEnd: () => guard.dismiss(),
    pumps: [pump(child.stdout!, (chunk) => io.onOutput("stdout", chunk)), pump(child.stderr!, (chunk) => io.onOutput("stderr", chunk))],
  });
}

async function runStage(step: StageStep, io: StepIo, options: LocalRuntimeOptions): Promise<StepExit> {
  io.signal.throwIfAborted();
  const [program, ...args] = options.stepCommand ?? defaultStepCommand();
  if (program === undefined) throw new StowageError("stepCommand is empty; name a program", { code: "INVALID_ARGUMENT" });
  const mark = createRunMark({ ...step.run, runner: thisOwner() });
  const child = await start(program, args, { env: { ...process.env, [RUN_MARK]: mark }, detached: true, stdio: ["pipe", "pipe", "pipe"] });
  if (child instanceof Error) return { status: "not-started", message: describeSpawnFailure(program, child) };

  const record = recordStarted(child, mark);
  const send = createSender(child.stdin!);
  let end: NodeJS.Timeout | undefined;
  const messages = createMessageReader({
    onMessage: (line) => io.onMessage?.(line, send),
    onText: (text) => io.onOutput("stdout", text),
    onLast: () => {
      // It has said how it ended: a file operation that hangs must not keep it from ending.
      end ??= setTimeout(() => kill(-record.group, "SIGKILL"), STAGE_END_MS);
      child.stdin!.end();
    },
  });
  send(step.request);
  return superviseGroup(child, record, io, {
    onAbort: () => send(CANCEL_LINE),
    onEnd: () => clearTimeout(end),
    pumps: [pump(child.stdout!, messages), pump(child.stderr!, (chunk) => io.onOutput("stderr", chunk))],
  });
}

interface Supervision {
  onAbort(): void;
  /** The leader has ended, and everything else of its group with it. */
  onEnd(): void;
  readonly pumps: readonly Promise<void>[];
}

/** Sees a process group to its end. */
async function superviseGroup(child: ChildProcess, record: ProcessRecord, io: StepIo, supervision: Supervision): Promise<StepExit> {
  let grace: NodeJS.Timeout | undefined;
  const killAll = (): void => {
    kill(-record.group, "SIGKILL");
  };
  const onAbort = (): void => {
    supervision.onAbort();
    // What was stopped (SIGSTOP) cannot end before it goes on.
    kill(-record.group, "SIGCONT");
    grace ??= setTimeout(killAll, io.graceMs);
  };
  const exited = new Promise<{ readonly exitCode: number | null; readonly signal: string | null }>((resolve) => {
    child.once("exit", (exitCode, signal) => {
      // At once: while the leader is not reaped by anybody else, its number is its own.
      killAll();
      resolve({ exitCode, signal });
    });
  });
  io.signal.addEventListener("abort", onAbort, { once: true });
  if (io.signal.aborted) onAbort();
  try {
    try {
      await io.onStarted(record as unknown as StartedHandle);
    } catch (error) {
      killAll();
      await exited;
      throw error;
    }
    const exit = await exited;
    await killRecordedProcesses([record]);
    supervision.onEnd();
    await drain(child, supervision.pumps);
    return { status: "exited", ...exit };
  } finally {
    clearTimeout(grace);
    supervision.onEnd();
    io.signal.removeEventListener("abort", onAbort);
  }
}

/** The end of the output, or at most a moment of it: a process that has fled may hold it open for ever. */
async function drain(child: ChildProcess, pumps: readonly Promise<void>[]): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, DRAIN_MS);
  });
  await Promise.race([Promise.all(pumps), late]);
  clearTimeout(timer);
  child.stdout?.destroy();
  child.stderr?.destroy();
  child.stdin?.destroy();
  await Promise.all(pumps);
}

async function pump(stream: Readable, onChunk: (chunk: Uint8Array) => Promise<void> | void): Promise<void> {
  try {
    for await (const chunk of stream) await onChunk(chunk as Uint8Array);
  } catch (error) {
    if (!isSystemError(error, "ERR_STREAM_PREMATURE_CLOSE")) stream.resume();
  }
}

function createSender(stdin: Writable): (line: string) => void {
  // It may have ended: that is seen by its exit.
  stdin.on("error", () => undefined);
  return (line) => {
    if (stdin.writable) stdin.write(`${line}\n`);
  };
}

interface Guard {
  dismiss(): void;
}

/**
 * A shell that outlives this process by a moment: it reads from a pipe that only this process holds, and kills the group when that ends without a word.
 * Where there is no shell, what a killed runner leaves is found by its record when the run is resumed or swept.
 */
function guardGroup(group: number): Guard {
  const script = 'IFS= read -r word || kill -s KILL -- "-$1"';
  const shell = spawn("/bin/sh", ["-c", script, "stowage-guard", String(group)], {
    detached: true,
    stdio: ["pipe", "ignore", "ignore"],
    env: {},
    cwd: "/",
  });
  shell.on("error", () => undefined);
  shell.stdin.on("error", () => undefined);
  shell.unref();
  let isDismissed = false;
  return {
    dismiss: () => {
      if (isDismissed) return;
      isDismissed = true;
      if (shell.stdin.writable) shell.stdin.end("done\n");
    },
  };
}

/** The process, or why there is none: some reasons are thrown, some come as an event. */
async function start(program: string, args: readonly string[], options: SpawnOptions): Promise<ChildProcess | Error> {
  try {
    const child = spawn(program, args, options);
    return await new Promise<ChildProcess | Error>((resolve) => {
      child.once("spawn", () => resolve(child));
      child.once("error", resolve);
    });
  } catch (error) {
    if (error instanceof Error) return error;
    throw error;
  }
}

/** Of one that has ended already only the mark is left to know others by. */
function recordStarted(child: ChildProcess, mark: string): ProcessRecord {
  const pid = child.pid!;
  return recordProcess(pid, mark) ?? { group: pid, leader: { ...thisOwner(), pid, startTime: "" }, mark };
}

async function describeBadDirectory(path: string): Promise<string | undefined> {
  try {
    if ((await stat(path)).isDirectory()) return undefined;
    return `the working directory "${escapePath(path)}" is no directory; correct workingDirectory`;
  } catch (error) {
    if (!isSystemError(error, "ENOENT", "ENOTDIR", "EACCES")) throw error;
    return `the working directory "${escapePath(path)}" does not exist or may not be entered; correct workingDirectory`;
  }
}

function describeSpawnFailure(program: string, error: Error): string {
  const shown = escapePath(program);
  if (isSystemError(error, "ENOENT")) return `the command "${shown}" was not found; check its name, and PATH`;
  if (isSystemError(error, "EACCES", "EPERM")) return `the command "${shown}" may not be run; make it executable (chmod +x)`;
  if (isSystemError(error, "ENOEXEC"))
    return `the command "${shown}" is no program; give it an interpreter line (#!) or name the interpreter first`;
  if (isSystemError(error, "E2BIG"))
    return `the command "${shown}" has too many or too long arguments and variables; hand them over in a file`;
  return `the command "${shown}" could not be started: ${error.message}`;
}

function passedOnEnvironment(): Record<string, string> {
  const environment: Record<string, string> = {};
  for (const name of PASSED_ON) {
    const value = process.env[name];
    if (value !== undefined) environment[name] = value;
  }
  environment.PATH ??= DEFAULT_PATH;
  return environment;
}

function defaultStepCommand(): readonly string[] {
  try {
    return [process.execPath, createRequire(import.meta.url).resolve("@stowage/jobs/step")];
  } catch (error) {
    throw new StowageError(
      "the program of the pre and post step, @stowage/jobs/step, is not there (in a bundle, perhaps); give stepCommand",
      {
        code: "UNSUPPORTED",
        cause: error,
      },
    );
  }
}

function thisOwner(): Owner {
  const owner = describeOwner();
  if (owner === undefined) throw new StowageError("cannot look up this process in /proc; mount it", { code: "UNSUPPORTED" });
  return owner;
}
