/** Results as data, and as a page that people read. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Environment } from "./environment.ts";
import { type Summary, summarise } from "./statistics.ts";
import { type Measurement, type Metric, metricOf, type Target, unitOf, type Workload } from "./workload.ts";

export interface ContestantResult {
  readonly name: string;
  readonly runs: readonly Measurement[];
  /** Of the workload's metric, in its unit. */
  readonly summary: Summary;
  /** Median ÷ median of the base. */
  readonly ratio: number;
  /** Minimum ÷ minimum of the base: less disturbed by other work on the machine. */
  readonly ratioOfMinimums: number;
  /** Median of user + system time. */
  readonly cpuSeconds?: number | undefined;
  readonly peakRssBytes?: number | undefined;
}

export interface TargetResult extends Target {
  readonly measured: number;
  /** The same of the minimums; absent where the target is about CPU time. */
  readonly measuredOfMinimums?: number | undefined;
  readonly met: boolean;
}

export interface WorkloadResult {
  readonly name: string;
  readonly title: string;
  readonly description: string;
  readonly unit: string;
  readonly metric: Metric;
  readonly base: string;
  readonly mode: "full" | "quick";
  readonly rounds: number;
  readonly environment: Environment;
  readonly contestants: readonly ContestantResult[];
  /** Name → why it was not run. */
  readonly absent: Readonly<Record<string, string>>;
  readonly targets: readonly TargetResult[];
}

export function summariseWorkload(
  workload: Pick<Workload, "name" | "title" | "description" | "metric" | "base" | "targets">,
  runs: ReadonlyMap<string, readonly Measurement[]>,
  facts: Pick<WorkloadResult, "mode" | "rounds" | "environment" | "absent">,
): WorkloadResult {
  const base = runs.get(workload.base);
  const baseSummary = base === undefined ? undefined : summarise(base.map((run) => metricOf(workload.metric, run)));
  const contestants = [...runs].map(([name, measurements]): ContestantResult => {
    const summary = summarise(measurements.map((run) => metricOf(workload.metric, run)));
    return {
      name,
      runs: measurements,
      summary,
      ratio: summary.median / (baseSummary?.median ?? Number.NaN),
      ratioOfMinimums: summary.minimum / (baseSummary?.minimum ?? Number.NaN),
      cpuSeconds: medianOf(measurements.map(cpuSeconds)),
      peakRssBytes: medianOf(measurements.map((run) => run.peakRssBytes)),
    };
  });
  const byName = new Map(contestants.map((contestant) => [contestant.name, contestant]));
  return {
    name: workload.name,
    title: workload.title,
    description: workload.description,
    unit: unitOf(workload.metric),
    metric: workload.metric,
    base: workload.base,
    ...facts,
    contestants,
    targets: workload.targets.flatMap((target) => judge(target, byName) ?? []),
  };
}

/** `undefined` when one of the two was not run. */
function judge(target: Target, contestants: ReadonlyMap<string, ContestantResult>): TargetResult | undefined {
  const subject = contestants.get(target.contestant);
  if (subject === undefined) return undefined;
  const against = target.of.kind === "value" ? undefined : contestants.get(target.of.versus);
  if (target.of.kind !== "value" && against === undefined) return undefined;
  const compare = (value: number, other: number | undefined): number =>
    target.of.kind === "value" ? value : target.of.kind === "ratio" ? value / (other as number) : value - (other as number);
  if (target.metric === "cpu") {
    if (subject.cpuSeconds === undefined || (against !== undefined && against.cpuSeconds === undefined)) return undefined;
    const measured = compare(subject.cpuSeconds, against?.cpuSeconds);
    return { ...target, measured, met: measured <= target.limit };
  }
  const measured = compare(subject.summary.median, against?.summary.median);
  return {
    ...target,
    measured,
    measuredOfMinimums: compare(subject.summary.minimum, against?.summary.minimum),
    met: measured <= target.limit,
  };
}

function cpuSeconds(run: Measurement): number | undefined {
  return run.userSeconds === undefined || run.systemSeconds === undefined ? undefined : run.userSeconds + run.systemSeconds;
}

function medianOf(values: readonly (number | undefined)[]): number | undefined {
  const known = values.filter((value) => value !== undefined);
  return known.length === 0 ? undefined : summarise(known).median;
}

export function renderWorkload(result: WorkloadResult): string {
  const { environment } = result;
  const base = result.contestants.find(({ name }) => name === result.base);
  const rows = result.contestants
    .toSorted((a, b) => a.summary.median - b.summary.median)
    .map(({ name, summary, ratio, ratioOfMinimums, cpuSeconds: cpu, peakRssBytes }) => [
      name === result.base ? `**${name}** (base)` : name,
      figure(summary.median),
      figure(summary.minimum),
      Number.isNaN(ratio) ? "" : figure(ratio),
      Number.isNaN(ratioOfMinimums) ? "" : figure(ratioOfMinimums),
      `${Math.round(summary.spread * 100)} %`,
      cpu === undefined ? "" : cpu.toFixed(2),
      cpu === undefined || base?.cpuSeconds === undefined || base.cpuSeconds < 0.05 ? "" : figure(cpu / base.cpuSeconds),
      peakRssBytes === undefined ? "" : String(Math.round(peakRssBytes / 1024 ** 2)),
    ]);
  const head = ["contestant", `median ${result.unit}`, "min", "÷ base", "÷ base (min)", "spread", "CPU s", "CPU ÷ base", "peak RSS MiB"];
  const tools = Object.entries(environment.tools).map(([name, version]) => `${name} ${version}`);
  return [
    `## ${result.title}`,
    "",
    result.description,
    "",
    table(head, rows),
    ...Object.entries(result.absent).map(([name, reason]) => `\n${name}: ${reason}.`),
    ...(result.targets.length === 0 ? [] : ["", table(["target", "measured", "of minimums", ""], result.targets.map(targetRow))]),
    "",
    `${result.mode === "quick" ? "**Quick mode** (less data). " : ""}${result.rounds} rounds, ${environment.date}, commit ${environment.commit}` +
      `${environment.modified ? " with changes" : ""}; Linux ${environment.kernel}, ${environment.cpu}, ${environment.cores} cores, ` +
      `${environment.memoryGiB} GiB, ${environment.fileSystem}, load before ${environment.loadBefore}; node ${environment.node}` +
      `${tools.length === 0 ? "" : `, ${tools.join(", ")}`}.`,
    "",
  ].join("\n");
}

function targetRow(target: TargetResult): string[] {
  const what = target.metric === "cpu" ? " CPU" : "";
  const against =
    target.of.kind === "value" ? "" : target.of.kind === "ratio" ? ` × ${target.of.versus}` : ` more than ${target.of.versus}`;
  return [
    `${target.contestant}:${what} ≤ ${figure(target.limit)}${against}`,
    figure(target.measured),
    target.measuredOfMinimums === undefined ? "" : figure(target.measuredOfMinimums),
    target.met ? "met" : "**missed**",
  ];
}

/** Three significant digits, and no more than whole numbers need. */
function figure(value: number): string {
  return Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en-US") : String(Number(value.toPrecision(3)));
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  return [line(head), line(head.map((_, index) => (index === 0 ? "---" : "---:"))), ...rows.map(line)].join("\n");
}

/** Writes one result, then renders all that the folder holds, in the order given, to its README. */
export function saveResults(folder: string, results: readonly WorkloadResult[], order: readonly string[]): void {
  mkdirSync(folder, { recursive: true });
  for (const result of results) writeFileSync(join(folder, `${result.name}.json`), `${JSON.stringify(result, null, 1)}\n`);
  const all = readdirSync(folder)
    .filter((file) => file.endsWith(".json"))
    .map((file) => JSON.parse(readFileSync(join(folder, file), "utf8")) as WorkloadResult)
    .toSorted((a, b) => order.indexOf(a.name) - order.indexOf(b.name));
  const page = [
    "# Benchmark results",
    "",
    "Made by `pnpm bench`; do not edit. `docs/bench.md` says how to read and repeat them.",
    "",
    ...all.map(renderWorkload),
  ];
  writeFileSync(join(folder, "README.md"), page.join("\n"));
}
