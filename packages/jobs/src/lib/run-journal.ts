import { createHash } from "node:crypto";
import type { StepName } from "./job-event.ts";
import type { LogResult, MainResult, StoredOutput } from "./job-result.ts";
import type { StartedHandle } from "./job-runtime.ts";
import type { JobSpec } from "./job-spec.ts";
import type { Owner } from "./owner.ts";
import type { OutputTarget } from "./stage-out.ts";

/** What the journal of a run says, line by line. Times are ISO 8601. Holds no configuration, and so no secret. */
export type RunLine =
  | {
      readonly type: "run";
      readonly version: 1;
      readonly job: string;
      readonly run: string;
      readonly startedAt: string;
      readonly fingerprint: string;
    }
  /** Who works on it from here on. */
  | { readonly type: "owner"; readonly at: string; readonly owner: Owner }
  /** `spawns`: the step will start something that may outlive the runner. */
  | { readonly type: "step-started"; readonly at: string; readonly step: StepName; readonly spawns: boolean }
  | { readonly type: "started"; readonly handle: StartedHandle }
  | { readonly type: "begun"; readonly targets: readonly OutputTarget[] }
  | { readonly type: "stored"; readonly outputs: readonly StoredOutput[] }
  | {
      readonly type: "step-ended";
      readonly at: string;
      readonly step: StepName;
      readonly isDone: boolean;
      readonly durationMs: number;
      readonly main?: MainRecord | undefined;
      readonly post?: PostRecord | undefined;
    }
  | { readonly type: "ended"; readonly at: string; readonly status: "succeeded" | "failed" | "cancelled"; readonly exitCode: number };

export interface MainRecord extends MainResult {
  readonly logs: { readonly stdout?: LogResult | undefined; readonly stderr?: LogResult | undefined };
}

export interface PostRecord {
  readonly unmatched: readonly string[];
  readonly unmatchedCount: number;
}

/** Where a run stands. */
export interface RunState {
  readonly run: string;
  readonly startedAt: string;
  readonly fingerprint: string;
  readonly owner: Owner | undefined;
  readonly isPreDone: boolean;
  /** How the command ended, when it did. */
  readonly main: MainRecord | undefined;
  readonly begun: readonly OutputTarget[];
  readonly stored: readonly StoredOutput[];
  readonly post: PostRecord | undefined;
  readonly ended: Extract<RunLine, { type: "ended" }> | undefined;
  /** What may still run. */
  readonly started: readonly StartedHandle[];
  /** Whether there may be something that was started and not written down any more. */
  readonly isStarting: boolean;
}

/** `undefined` when not even the run itself had been written down. */
export function replayRun(lines: readonly RunLine[]): RunState | undefined {
  let state: Mutable<RunState> | undefined;
  for (const line of lines) {
    if (line.type === "run") {
      const { run, startedAt, fingerprint } = line;
      const none = { owner: undefined, main: undefined, post: undefined, ended: undefined };
      state = {
        run,
        startedAt,
        fingerprint,
        isPreDone: false,
        isStarting: false,
        ...none,
        begun: [],
        stored: [],
        started: state?.started ?? [],
      };
    } else if (state !== undefined) {
      applyLine(state, line);
    }
  }
  return state;
}

/** The same for the same work: what must not change between a run and its resumption. Says nothing of workspaces' configurations. */
export function fingerprintJob(job: JobSpec): string {
  const { workspaces, ...rest } = job;
  const environment = Object.entries(job.environment).sort(([left], [right]) => (left < right ? -1 : 1));
  return createHash("sha256")
    .update(JSON.stringify({ ...rest, environment, workspaces: Object.keys(workspaces).sort() }))
    .digest("hex");
}

type Mutable<T> = { -readonly [Key in keyof T]: T[Key] extends readonly (infer Item)[] ? Item[] : T[Key] };

function applyLine(state: Mutable<RunState>, line: Exclude<RunLine, { type: "run" }>): void {
  switch (line.type) {
    case "owner":
      state.owner = line.owner;
      state.ended = undefined;
      break;
    case "step-started":
      state.isStarting = line.spawns;
      state.post = undefined;
      if (line.step === "post") break;
      // What is fetched or written anew is stored anew.
      state.main = undefined;
      state.begun = [];
      state.stored = [];
      if (line.step === "pre") state.isPreDone = false;
      break;
    case "started":
      state.isStarting = false;
      state.started.push(line.handle);
      break;
    case "begun":
      state.begun.push(...line.targets);
      break;
    case "stored":
      state.stored.push(...line.outputs);
      break;
    case "step-ended":
      state.isStarting = false;
      if (line.step === "pre") state.isPreDone = line.isDone;
      else if (line.step === "main") state.main = line.main;
      else state.post = line.isDone ? line.post : undefined;
      break;
    case "ended":
      state.ended = line;
      break;
    default:
      // A line of a newer version: what it means is not needed here.
      break;
  }
}
