/** What a benchmark is: data made once, contestants that run as processes of their own, and what their results must satisfy. */
import type { Arena } from "./arena.ts";

/** What one run of one contestant gave. What the machine's tools could not tell is absent. */
export interface Measurement {
  /** From the start of the process to its end, its own start-up included. */
  readonly wallMs: number;
  /** User and system time of the process and of all children that it waited for. */
  readonly userSeconds?: number | undefined;
  readonly systemSeconds?: number | undefined;
  /** Of the largest process among them. */
  readonly peakRssBytes?: number | undefined;
  /** From the start of the process to its first byte on standard output. */
  readonly firstOutputMs?: number | undefined;
  /** Most memory of the whole tree of processes at one moment, less what it had when the program said that it was idle. */
  readonly memoryAboveIdleBytes?: number | undefined;
  /** The last line that a program of ours printed: a JSON object. */
  readonly reported: Readonly<Record<string, number | string>>;
}

/** The number that a workload is about: a field of the measurement, or one that the program reports. */
export type Metric =
  | { readonly kind: "wall" }
  | { readonly kind: "first-output" }
  | { readonly kind: "memory" }
  | { readonly kind: "reported"; readonly name: string; readonly unit: string };

/** What a contestant needs; without it the row says so. */
export type Tool = "stowage" | "node" | "fs-extra" | "fdir" | "cp" | "rsync" | "rclone" | "find";

/** One run: where to read, and a place that did not exist before. */
export interface Run<Data> {
  readonly data: Data;
  /** Fresh for every run; its parent exists. */
  readonly target: string;
  /** 1, 2, …; 0 is the warm-up. */
  readonly round: number;
}

export interface Contestant<Data> {
  readonly name: string;
  readonly tool: Tool;
  /** The command, or the program of `bench/programs` and its arguments. */
  readonly start:
    | { command(run: Run<Data>): readonly string[] }
    | { readonly program: string; arguments(run: Run<Data>): readonly string[] };
}

/** What the measured number of a contestant must satisfy. */
export interface Target {
  readonly contestant: string;
  readonly limit: number;
  /** `ratio`: its median over that of `versus`. `difference`: its median less that of `versus`. `value`: its median alone. */
  readonly of: { readonly kind: "ratio" | "difference"; readonly versus: string } | { readonly kind: "value" };
  /** Defaults to the workload's metric. */
  readonly metric?: "cpu" | undefined;
}

export interface Workload<Data = unknown> {
  /** Also the name of its results file. */
  readonly name: string;
  readonly title: string;
  /** What is done, how often, and what is checked; for the reader of the results. */
  readonly description: string;
  readonly metric: Metric;
  /** The contestant that ratios are taken against. */
  readonly base: string;
  readonly targets: readonly Target[];
  readonly contestants: readonly Contestant<Data>[];
  readonly rounds: { readonly full: number; readonly quick: number };
  /** Write back dirty pages before every run, so that nobody pays for the one before. Defaults to false. */
  readonly writes?: boolean | undefined;
  /**
   * When what a run left is removed: `"at once"` for a few large files. `"at the end"` for many small ones, since ext4 passes over recently
   * freed inodes, which makes creating files ten times as slow in the minutes after a deletion. Defaults to `"at the end"`.
   */
  readonly removeTargets?: "at once" | "at the end" | undefined;
  /** The workload is about this file system and makes no sense on another. Defaults to whatever the run is made on. */
  readonly fileSystem?: "xfs" | undefined;
  /** Standard output goes to a file, which `verify` may read as `<target>.out`. Defaults to false: it is read here. */
  readonly outputToFile?: boolean | undefined;
  /** End the process (SIGKILL) as soon as it has printed something. Defaults to false. */
  readonly stopAtFirstOutput?: boolean | undefined;
  /** Makes the data. */
  prepare(arena: Arena): Promise<Data>;
  /** Untimed preparation of one run. */
  arrange?(run: Run<Data>): Promise<void> | void;
  /** Throws when the contestant did not do what was asked: then its figure is worth nothing, and the whole run ends. */
  verify?(run: Run<Data>, measurement: Measurement, contestant: string): Promise<void> | void;
}

/** Keeps the type of the data between `prepare`, the contestants and `verify`. */
export function defineWorkload<Data>(workload: Workload<Data>): Workload<Data> {
  return workload;
}

/** The workload's number in one measurement: milliseconds, mebibytes, or the unit that the program reports in. */
export function metricOf(metric: Metric, measurement: Measurement): number {
  const value = ((): number | string | undefined => {
    switch (metric.kind) {
      case "wall":
        return measurement.wallMs;
      case "first-output":
        return measurement.firstOutputMs;
      case "memory":
        return measurement.memoryAboveIdleBytes === undefined ? undefined : measurement.memoryAboveIdleBytes / 1024 ** 2;
      case "reported":
        return measurement.reported[metric.name];
    }
  })();
  if (typeof value !== "number") throw new Error(`a run gave no ${metric.kind === "reported" ? metric.name : metric.kind}`);
  return value;
}

export function unitOf(metric: Metric): string {
  return metric.kind === "reported" ? metric.unit : metric.kind === "memory" ? "MiB" : "ms";
}
