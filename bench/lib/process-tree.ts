import { readdirSync, readFileSync } from "node:fs";

const PAGE_BYTES = 4096;
const REDISCOVER_MS = 100;
const SAMPLE_MS = 10;

/** Watches the memory of a process and all that descends from it. */
export interface TreeSampler {
  /** Takes the memory of this moment as the idle one and begins the peak anew. */
  markIdle(): void;
  /** Stops sampling; the peak above idle, `undefined` when `markIdle` was never called. */
  stop(): number | undefined;
}

/** Samples every 10 ms; processes that are new are found every 100 ms. Linux only. */
export function sampleTree(rootPid: number): TreeSampler {
  let pids = descendants(rootPid);
  let discovered = performance.now();
  let current = 0;
  let peak = 0;
  let idle: number | undefined;

  const sample = (): void => {
    if (performance.now() - discovered > REDISCOVER_MS) {
      pids = descendants(rootPid);
      discovered = performance.now();
    }
    current = pids.reduce((sum, pid) => sum + residentBytes(pid), 0);
    peak = Math.max(peak, current);
  };
  const timer = setInterval(sample, SAMPLE_MS);
  return {
    markIdle() {
      pids = descendants(rootPid);
      sample();
      idle = current;
      peak = current;
    },
    stop() {
      clearInterval(timer);
      return idle === undefined ? undefined : peak - idle;
    },
  };
}

function residentBytes(pid: number): number {
  try {
    return Number(readFileSync(`/proc/${pid}/statm`, "latin1").split(" ")[1]) * PAGE_BYTES;
  } catch {
    return 0; // it has ended
  }
}

/** The process itself and all that descends from it now. */
export function descendants(rootPid: number): number[] {
  const children = Map.groupBy(processes(), ({ parent }) => parent);
  const found = [rootPid];
  for (let index = 0; index < found.length; index++) {
    for (const { pid } of children.get(found[index] as number) ?? []) found.push(pid);
  }
  return found;
}

/** All of a process group: also those whose parent has ended. */
export function membersOf(group: number): number[] {
  return processes()
    .filter((process) => process.group === group)
    .map(({ pid }) => pid);
}

function processes(): { readonly pid: number; readonly parent: number; readonly group: number }[] {
  return readdirSync("/proc").flatMap((name) => {
    const pid = Number(name);
    if (!Number.isInteger(pid)) return [];
    try {
      // The command's name, in parentheses, may hold spaces and parentheses: what follows the last one is `state parent group …`.
      const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
      const [, parent, group] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      return [{ pid, parent: Number(parent), group: Number(group) }];
    } catch {
      return []; // it has ended
    }
  });
}
