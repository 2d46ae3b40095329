import { readFileSync, readlinkSync } from "node:fs";

/** Who wrote something, so that another process can find out whether it still runs. Absent where the system does not say. */
export interface ProcessIdentity {
  readonly pid: number;
  /** When it began, in the kernel's ticks since boot: pids are used again. */
  readonly started?: string | undefined;
  /** Random, new at each boot. */
  readonly bootId?: string | undefined;
  /** Containers on one machine share the boot, not the pids. */
  readonly pidNamespace?: string | undefined;
}

let own: ProcessIdentity | undefined;

/** This process. */
export function thisProcess(): ProcessIdentity {
  own ??= {
    pid: process.pid,
    started: startOf(process.pid),
    bootId: attempt(() => readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()),
    pidNamespace: attempt(() => readlinkSync("/proc/self/ns/pid")),
  };
  return own;
}

/** Whether a process still runs; `"unknown"` of one on another machine, in another container, or where there is no /proc. */
export function processState(identity: ProcessIdentity): "alive" | "dead" | "unknown" {
  const self = thisProcess();
  const { pid, started, bootId, pidNamespace } = identity;
  if (self.bootId === undefined || self.pidNamespace === undefined || self.started === undefined) return "unknown";
  if (bootId !== self.bootId || pidNamespace !== self.pidNamespace || started === undefined) return "unknown";
  return startOf(pid) === started ? "alive" : "dead";
}

function startOf(pid: number): string | undefined {
  const stat = attempt(() => readFileSync(`/proc/${pid}/stat`, "utf8"));
  if (stat === undefined) return undefined;
  // The name in parentheses may itself hold spaces and parentheses. State is field 3, start time field 22; the dead that nobody has reaped are Z.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
}

function attempt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
