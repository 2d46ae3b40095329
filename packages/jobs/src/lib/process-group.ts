import { randomUUID } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { describeOwner, type Owner, ownerLiveness, parseOwner } from "./owner.ts";

/** In the environment of a job's command and of all that it starts: whose run it is. Found again in `/proc/<pid>/environ`. */
export const RUN_MARK = "STOWAGE_RUN_MARK";

/** A process that leads a group of its own, so that the group can be found and killed later, by another process too. */
export interface ProcessRecord {
  /** Pid of the leader, and so the id of the group. */
  readonly group: number;
  /** The leader as a process: says whether the group is still the same one. */
  readonly leader: Owner;
  /** What its processes have in `STOWAGE_RUN_MARK`; `""` for none. */
  readonly mark: string;
}

/** What a mark says of a process: whose it is. */
export interface RunMark {
  readonly runId: string;
  /** Of the run; absolute. */
  readonly directory: string;
  readonly runner: Owner;
}

/** A value for `STOWAGE_RUN_MARK`, unlike any other. */
export function createRunMark({ runId, directory, runner }: RunMark): string {
  return Buffer.from(JSON.stringify({ runId, directory, runner, nonce: randomUUID() })).toString("base64url");
}

/** `undefined` when the process has ended already. */
export function recordProcess(pid: number, mark: string): ProcessRecord | undefined {
  const leader = describeOwner(pid);
  return leader === undefined ? undefined : { group: pid, leader, mark };
}

/** Reads a record that was written as JSON; `undefined` for anything else. */
export function parseProcessRecord(value: unknown): ProcessRecord | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { group, leader, mark } = value as Record<string, unknown>;
  const owner = parseOwner(leader);
  if (owner === undefined || typeof group !== "number" || group !== owner.pid || typeof mark !== "string") return undefined;
  return { group, leader: owner, mark };
}

/**
 * Kills what is left of recorded processes: the group of a leader that still runs, and everything that carries a record's mark, wherever it went.
 * Never touches a group whose number somebody else may have by now. Resolves when nothing of it runs any more, or after five seconds;
 * gives the pids that still do.
 */
export async function killRecordedProcesses(records: readonly ProcessRecord[]): Promise<number[]> {
  return killUntilGone(() => findRecordedProcesses(records));
}

export interface KillOptions {
  /** How long to try. Milliseconds; defaults to 5,000. */
  readonly waitMs?: number | undefined;
  /** How long to go on looking though nothing is found: something may be about to appear. Milliseconds; defaults to 0. */
  readonly lookMs?: number | undefined;
}

/** Kills what `find` finds until it finds nothing more; gives the pids that are left. */
export async function killUntilGone(find: () => number[], { waitMs = 5000, lookMs = 0 }: KillOptions = {}): Promise<number[]> {
  const startedAt = performance.now();
  for (;;) {
    const pids = find();
    const elapsed = performance.now() - startedAt;
    if (elapsed > waitMs || (pids.length === 0 && elapsed >= lookMs)) return pids;
    for (const pid of pids) kill(pid, "SIGKILL");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** The living members of groups whose recorded leader still runs, and whatever carries a record's mark. */
export function findRecordedProcesses(records: readonly ProcessRecord[]): number[] {
  const live = records.filter(({ leader }) => ownerLiveness(leader) === "live");
  if (process.platform !== "linux") return live.map(({ group }) => -group);
  if (records.length === 0) return [];
  const groups = new Set(live.map(({ group }) => group));
  const here = describeOwner();
  // Marks count only where the pids do, too: another container's processes are not ours to judge.
  const local = records.filter(({ leader }) => leader.bootId === here?.bootId && leader.pidNamespace === here.pidNamespace);
  const marks = new Set(local.map(({ mark }) => mark).filter((mark) => mark !== ""));
  return listProcesses().filter((pid) => {
    if (pid === process.pid) return false;
    const stat = readStat(pid);
    if (stat === undefined || stat.isDead) return false;
    return groups.has(stat.group) || (marks.size > 0 && marks.has(readMark(pid) ?? ""));
  });
}

/** Processes that carry the mark of a run whose runner is dead, and that `accept` takes. */
export function findOrphans(accept: (mark: RunMark) => boolean): number[] {
  if (process.platform !== "linux") return [];
  return listProcesses().filter((pid) => {
    const mark = parseMark(readMark(pid));
    return mark !== undefined && accept(mark) && readStat(pid)?.isDead === false && ownerLiveness(mark.runner) === "dead";
  });
}

/** Sends a signal to a process (or, negative, to a group); `false` when there is none. */
export function kill(pid: number, signal: NodeJS.Signals): boolean {
  try {
    process.kill(pid, signal);
    return true;
  } catch {
    return false;
  }
}

function listProcesses(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/u.test(name))
    .map(Number);
}

interface ProcessStat {
  readonly group: number;
  readonly isDead: boolean;
}

function readStat(pid: number): ProcessStat | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return { isDead: fields[0] === "Z" || fields[0] === "X", group: Number(fields[2]) };
  } catch {
    return undefined;
  }
}

function readMark(pid: number): string | undefined {
  try {
    const environment = readFileSync(`/proc/${pid}/environ`, "latin1");
    const prefix = `${RUN_MARK}=`;
    return environment
      .split("\0")
      .find((entry) => entry.startsWith(prefix))
      ?.slice(prefix.length);
  } catch {
    return undefined;
  }
}

function parseMark(mark: string | undefined): RunMark | undefined {
  if (mark === undefined) return undefined;
  try {
    const { runId, directory, runner } = JSON.parse(Buffer.from(mark, "base64url").toString()) as {
      readonly [Key in keyof RunMark]?: unknown;
    };
    const owner = parseOwner(runner);
    return typeof runId === "string" && typeof directory === "string" && owner !== undefined
      ? { runId, directory, runner: owner }
      : undefined;
  } catch {
    return undefined;
  }
}
