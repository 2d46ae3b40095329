import { didYouMean } from "@stowage/core/broker";
import type { JobProblem } from "./job-error.ts";
import { invalidJob, type JobSpec, type JobWorkspace } from "./job-spec.ts";

/** A workspace's configuration without its name, as it stands under the name in `stowage.yaml`. */
export type JobWorkspaceConfiguration = Exclude<JobWorkspace, string>;

/**
 * The job with every workspace that it uses as a configuration: names are looked up in `known`, also those that inputs and outputs use without
 * their being declared in the job. Those in `open` need none. Throws a `JobError` `invalid-job` with the nearest name for each that is not there.
 */
export function resolveJobWorkspaces(job: JobSpec, known: Readonly<Record<string, unknown>> = {}, open: readonly string[] = []): JobSpec {
  const problems: JobProblem[] = [];
  const workspaces: Record<string, JobWorkspaceConfiguration> = {};
  const names = [...new Set([...Object.keys(job.workspaces), ...Object.keys(known), ...open])];

  const lookUp = (name: string, path: string, candidates: readonly string[]): JobWorkspaceConfiguration | undefined => {
    const found = Object.hasOwn(known, name) ? known[name] : undefined;
    if (isConfiguration(found)) return found;
    const list =
      candidates.length === 0 ? "none is known" : `known are ${candidates.slice(0, 10).join(", ")}${candidates.length > 10 ? ", …" : ""}`;
    const message =
      found === undefined
        ? `names the workspace "${name}"${didYouMean(name, candidates)}; ${list}`
        : `names the workspace "${name}", which has no "broker"; give it one`;
    problems.push({ path, message });
    return undefined;
  };

  for (const [name, workspace] of Object.entries(job.workspaces)) {
    if (open.includes(name)) continue;
    const configuration = typeof workspace === "string" ? lookUp(workspace, `workspaces.${name}`, Object.keys(known)) : workspace;
    if (configuration !== undefined) workspaces[name] = configuration;
  }
  for (const [kind, uses] of [["inputs", job.inputs] as const, ["outputs", job.outputs] as const]) {
    for (const [index, { workspace: name }] of uses.entries()) {
      if (open.includes(name) || Object.hasOwn(job.workspaces, name) || Object.hasOwn(workspaces, name)) continue;
      const configuration = lookUp(name, `${kind}[${index}].workspace`, names);
      if (configuration !== undefined) workspaces[name] = configuration;
    }
  }
  if (problems.length > 0) throw invalidJob(problems, job.name);
  return { ...job, workspaces };
}

function isConfiguration(value: unknown): value is JobWorkspaceConfiguration {
  return typeof value === "object" && value !== null && typeof (value as { broker?: unknown }).broker === "object";
}
