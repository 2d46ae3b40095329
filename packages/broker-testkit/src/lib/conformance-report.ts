import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import { type Digest, escapePath } from "@stowage/core/broker";
import { CONFORMANCE_GROUPS, type ConformanceGroup } from "./conformance-case.ts";

/**
 * `passed`: the promise is kept. `failed`: it is not, or the experiment proved nothing. `skipped`: it does not apply, for the reason
 * given. `undeclared`: it is kept, although the broker does not declare what it rests on.
 */
export type CaseStatus = "passed" | "failed" | "skipped" | "undeclared";

export interface CaseResult {
  readonly id: string;
  readonly group: ConformanceGroup;
  readonly name: string;
  readonly status: CaseStatus;
  /** Why it was skipped or failed, or what is not declared. Without secrets. */
  readonly reason?: string | undefined;
  readonly durationMs: number;
}

export interface ConformanceVersions {
  readonly kit: string;
  readonly core: string;
  readonly node: string;
  /** `linux x64`. */
  readonly platform: string;
  readonly contract: 1;
  /** `name@version` of the certified package. */
  readonly package?: string | undefined;
}

/** What a run has shown. Plain data: it can be written as JSON, shipped, and checked by `verifyReport`. */
export interface ConformanceReport {
  readonly format: "stowage-conformance-1";
  readonly target: string;
  readonly brokerType: string;
  readonly versions: ConformanceVersions;
  /** Every random choice of the run follows from it. */
  readonly seed: string;
  /** ISO 8601. */
  readonly startedAt: string;
  readonly durationMs: number;
  /** Whether every case of the kit was in the run, not a selection. */
  readonly complete: boolean;
  /** Facts and methods that the broker declares. */
  readonly declared: Readonly<Record<string, boolean | string | number>>;
  readonly counts: Readonly<Record<CaseStatus, number>>;
  /** No case failed, and at least one passed. */
  readonly passed: boolean;
  readonly cases: readonly CaseResult[];
  /** Of everything above but times: whether two reports say the same, and whether one was changed. */
  readonly digest: Digest;
}

export type UnsignedReport = Omit<ConformanceReport, "digest" | "counts" | "passed">;

export function completeReport(report: UnsignedReport): ConformanceReport {
  const counts = { passed: 0, failed: 0, skipped: 0, undeclared: 0 };
  for (const { status } of report.cases) counts[status]++;
  const passed = counts.failed === 0 && counts.passed > 0;
  const unsigned = { ...report, counts, passed };
  return { ...unsigned, digest: digestOfReport(unsigned) };
}

/** Whether a report is as the kit wrote it: its digest, its counts and its verdict follow from its cases. No signature: it proves no author. */
export function verifyReport(report: ConformanceReport): boolean {
  if (report.format !== "stowage-conformance-1") return false;
  const { digest, counts, passed, ...rest } = report;
  const again = completeReport(rest);
  return (
    again.digest.value === digest.value &&
    digest.algorithm === "sha256" &&
    again.passed === passed &&
    Object.entries(again.counts).every(([status, count]) => counts[status as CaseStatus] === count)
  );
}

function digestOfReport(report: Omit<ConformanceReport, "digest">): Digest {
  const { target, brokerType, versions, seed, complete, declared, counts, passed, cases } = report;
  const said = {
    target,
    brokerType,
    versions: Object.entries(versions).sort(),
    seed,
    complete,
    declared: Object.entries(declared).sort(),
    counts: Object.entries(counts).sort(),
    passed,
    cases: cases.map(({ id, name, status }) => [id, name, status]),
  };
  return { algorithm: "sha256", value: createHash("sha256").update(JSON.stringify(said)).digest("hex") };
}

export interface FormatOptions {
  /** Also name what passed and what was skipped. Defaults to false. */
  readonly verbose?: boolean | undefined;
}

const MARKS: Readonly<Record<CaseStatus, string>> = { passed: "ok", failed: "FAILED", skipped: "skipped", undeclared: "undeclared" };

/** The report for people: what failed and why, what is not declared, and how many of each group passed. */
export function formatReport(report: ConformanceReport, options: FormatOptions = {}): string {
  const { versions, counts, cases } = report;
  const lines: string[] = [
    `Conformance of ${report.target} (broker type ${report.brokerType}${versions.package === undefined ? "" : `, ${versions.package}`})`,
    `kit ${versions.kit}, core ${versions.core}, node ${versions.node}, ${versions.platform}, seed ${report.seed}`,
    "",
  ];
  const groups = Object.entries(CONFORMANCE_GROUPS) as [ConformanceGroup, string][];
  for (const [group, title] of groups) {
    const members = cases.filter((entry) => entry.group === group);
    if (members.length === 0) continue;
    const failed = members.filter(({ status }) => status === "failed").length;
    const passed = members.filter(({ status }) => status === "passed").length;
    const skipped = members.filter(({ status }) => status === "skipped").length;
    const notes = [`${passed} passed`, ...(failed > 0 ? [`${failed} FAILED`] : []), ...(skipped > 0 ? [`${skipped} skipped`] : [])];
    lines.push(`${group}  ${title.padEnd(32)} ${notes.join(", ")}`);
    for (const entry of members) {
      const isTold = entry.status === "failed" || entry.status === "undeclared" || options.verbose === true;
      if (!isTold) continue;
      lines.push(`     ${MARKS[entry.status].padEnd(10)} ${entry.id.padEnd(8)} ${entry.name}`);
      if (entry.reason === undefined) continue;
      for (const line of entry.reason.split("\n")) lines.push(`                         ${escapePath(line)}`);
    }
  }
  lines.push("");
  if (counts.undeclared > 0) {
    lines.push(`${counts.undeclared} promises are kept that the broker does not declare: declare them, so that they are held to.`);
  }
  if (!report.complete) lines.push("This was a selection of the cases: it certifies nothing.");
  const seconds = (report.durationMs / 1000).toFixed(1);
  lines.push(
    `${report.passed ? "PASSED" : "FAILED"}: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped, ` +
      `${counts.undeclared} undeclared, in ${seconds} s. Digest ${report.digest.value.slice(0, 16)}`,
  );
  return lines.join("\n");
}

/** The versions that a run rests upon. */
export function conformanceVersions(certified: { readonly name: string; readonly version: string } | undefined): ConformanceVersions {
  return {
    kit: versionOf("@stowage/broker-testkit", "../../package.json"),
    core: versionOf("@stowage/core", "@stowage/core/package.json"),
    node: process.versions.node,
    platform: `${process.platform} ${process.arch}`,
    contract: 1,
    ...(certified === undefined ? {} : { package: `${certified.name}@${certified.version}` }),
  };
}

/** The version of a package, read from its manifest; `bundled` where the kit is a part of one file. */
function versionOf(name: string, specifier: string): string {
  try {
    const manifest = createRequire(import.meta.url)(specifier) as { readonly name?: unknown; readonly version?: unknown };
    return manifest.name === name ? String(manifest.version) : "bundled";
  } catch {
    return "bundled";
  }
}
