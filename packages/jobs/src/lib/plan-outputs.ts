import { escapePath, type FilePath, StowageError } from "@stowage/core/broker";
import { parseGlob } from "./glob.ts";
import { JobError } from "./job-error.ts";
import type { JobOutput, JobSpec } from "./job-spec.ts";
import { expandPathTemplate, parsePathTemplate } from "./path-template.ts";
import { MAXIMUM_REFUSALS, type Refusal, type ScannedFile, type ScanResult } from "./scan-outputs.ts";

/** One file that is to be stored, and where. */
export interface PlannedOutput {
  readonly output: JobOutput;
  readonly scanned: ScannedFile;
  readonly target: FilePath;
}

/** What `{run}` and `{date}` stand for. */
export interface RunIdentity {
  readonly id: string;
  readonly startedAt: Date;
}

export interface OutputPlan {
  readonly planned: readonly PlannedOutput[];
  /** Files that no output matches, at most 100 of them, escaped for printing. */
  readonly unmatched: readonly string[];
  readonly unmatchedCount: number;
}

/** Decides everything before anything is stored. */
export function planOutputs(job: JobSpec, scan: ScanResult, run: RunIdentity, onRefusal: (refusal: Refusal) => void): OutputPlan {
  const refusals = createRefusals(scan);
  const planned: PlannedOutput[] = [];
  const matched = new Set<FilePath>();
  for (const output of job.outputs) {
    const glob = parseGlob(output.glob);
    const template = parsePathTemplate(output.path);
    const files = scan.files.filter(({ path }) => glob.matches(path));
    for (const scanned of files) {
      matched.add(scanned.path);
      try {
        const target = expandPathTemplate(template, {
          job: job.name,
          run: run.id,
          output: output.name,
          path: scanned.path,
          date: run.startedAt,
        });
        planned.push({ output, scanned, target });
      } catch (error) {
        if (!StowageError.is(error)) throw error;
        refusals.add({
          path: escapePath(scanned.path),
          reason: "name",
          message: `the output "${output.name}" makes no path of it: ${error.message}`,
        });
      }
    }
    if (files.length === 0 && output.required) {
      refusals.add({
        path: "",
        reason: "missing",
        message: `nothing matches "${output.glob}" of the output "${output.name}"; the command must write it, or mark it as not required`,
      });
    }
  }
  refusals.throwIfAny(onRefusal);
  assertNoConflict(planned);
  const unmatched = scan.files.filter(({ path }) => !matched.has(path));
  return {
    planned,
    unmatched: unmatched.slice(0, MAXIMUM_REFUSALS).map(({ path }) => escapePath(path)),
    unmatchedCount: unmatched.length,
  };
}

interface Refusals {
  add(refusal: Refusal): void;
  throwIfAny(onRefusal: (refusal: Refusal) => void): void;
}

function createRefusals(scan: Pick<ScanResult, "refusals" | "refusalCount">): Refusals {
  const refusals = [...scan.refusals];
  let count = scan.refusalCount;
  return {
    add: (refusal) => {
      count++;
      if (refusals.length < MAXIMUM_REFUSALS) refusals.push(refusal);
    },
    throwIfAny: (onRefusal) => {
      if (count === 0) return;
      for (const refusal of refusals) onRefusal(refusal);
      throw refuse(refusals, count);
    },
  };
}

/** The error for what is not stored. */
export function refuse(refusals: readonly Refusal[], refusalCount: number): JobError {
  const described = refusals.slice(0, 10).map(({ path, message }) => (path === "" ? message : `"${path}": ${message}`));
  const more = refusalCount > described.length ? `; and ${refusalCount - described.length} more` : "";
  return new JobError(`the outputs were refused, nothing more was stored: ${described.join("; ")}${more}`, {
    reason: "outputs-refused",
    refusals,
    refusalCount,
  });
}

function assertNoConflict(planned: readonly PlannedOutput[]): void {
  const targets = new Map<string, PlannedOutput>();
  for (const item of planned) {
    const key = `${item.output.workspace}\0${item.target}`;
    const other = targets.get(key);
    if (other !== undefined) {
      throw new StowageError(
        `"${escapePath(other.scanned.path)}" of the output "${other.output.name}" and "${escapePath(item.scanned.path)}" of the output "${item.output.name}" would both be stored as ` +
          `"${escapePath(item.target)}"; nothing was stored: make their paths differ, with {path} or {output} for instance`,
        { code: "CONFLICT", workspace: item.output.workspace, file: item.target },
      );
    }
    targets.set(key, item);
  }
}
