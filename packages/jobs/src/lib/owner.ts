import { execFileSync } from "node:child_process";
import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";

/** Who a run belongs to: one process of one boot of one machine. Survives the reuse of its pid. */
export interface Owner {
  /** Of the kernel's present life; `""` where it cannot be had. */
  readonly bootId: string;
  readonly pid: number;
  /** When the process started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`), or the platform's text; `""` when unknown. */
  readonly startTime: string;
  /** In which namespace `pid` counts: another container's 7 is not ours. `""` where there are none. */
  readonly pidNamespace: string;
  readonly host: string;
}

/** `unknown`: the owner lives, or lived, where this process cannot look. */
export type Liveness = "live" | "dead" | "unknown";

/** The process `pid` as an owner, as seen from here; `undefined` when there is none. Defaults to this process. */
export function describeOwner(pid: number = process.pid): Owner | undefined {
  const startTime = processStartTime(pid);
  if (startTime === undefined) return undefined;
  return { bootId: bootId(), pid, startTime, pidNamespace: pidNamespace(), host: hostname() };
}

/**
 * Whether the process behind `owner` still runs. A zombie is dead. On another boot of this machine it is dead; on another machine, or
 * in another pid namespace of this one, nobody here can know.
 */
export function ownerLiveness(owner: Owner): Liveness {
  if (owner.bootId !== bootId()) return owner.host === hostname() ? "dead" : "unknown";
  if (owner.pidNamespace !== pidNamespace()) return "unknown";
  const startTime = processStartTime(owner.pid);
  return startTime !== undefined && startTime === owner.startTime ? "live" : "dead";
}

/** Reads an owner that was written as JSON; `undefined` for anything else. */
export function parseOwner(value: unknown): Owner | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { bootId: boot, pid, startTime, pidNamespace: namespace, host } = value as Record<string, unknown>;
  if (typeof boot !== "string" || typeof startTime !== "string" || typeof namespace !== "string" || typeof host !== "string")
    return undefined;
  if (typeof pid !== "number" || !Number.isSafeInteger(pid) || pid <= 0) return undefined;
  return { bootId: boot, pid, startTime, pidNamespace: namespace, host };
}

/** `undefined` when there is no such process, or only what is left of one. */
function processStartTime(pid: number): string | undefined {
  if (process.platform === "linux") return linuxStartTime(pid);
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return undefined;
  }
  try {
    return execFileSync("ps", ["-o", "lstart=", "-p", String(pid)], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  } catch {
    return undefined;
  }
}

function linuxStartTime(pid: number): string | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined;
  }
  // The command stands in parentheses and may itself hold spaces and parentheses: count from the last one.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const [state] = fields;
  return state === "Z" || state === "X" ? undefined : fields[19];
}

let knownBootId: string | undefined;

function bootId(): string {
  knownBootId ??= readBootId();
  return knownBootId;
}

function readBootId(): string {
  try {
    if (process.platform === "linux") return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
    return execFileSync("sysctl", ["-n", "kern.bootsessionuuid"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  } catch {
    return "";
  }
}

function pidNamespace(): string {
  try {
    return readlinkSync("/proc/self/ns/pid");
  } catch {
    return "";
  }
}
