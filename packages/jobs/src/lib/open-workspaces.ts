import { openWorkspace, type Workspace, type WorkspaceConfig } from "@stowage/core";
import { invalidJob, type JobSpec } from "./job-spec.ts";
import type { StageOptions } from "./stage-options.ts";

/** The workspaces of a job, each opened when it is first asked for. */
export interface JobWorkspaces {
  get(name: string): Promise<Workspace>;
  /** Closes those that were opened here. */
  close(): Promise<void>;
}

/** `access: "read"` opens them so that nothing can be changed by mistake. */
export function openJobWorkspaces(job: JobSpec, access: "read" | "write", options: StageOptions): JobWorkspaces {
  const opened = new Map<string, Promise<Workspace>>();
  const step = access === "read" ? "pre" : "post";

  async function open(name: string): Promise<Workspace> {
    const configuration = Object.hasOwn(job.workspaces, name) ? job.workspaces[name] : undefined;
    if (configuration === undefined || typeof configuration === "string") {
      const alias = configuration === undefined ? "" : `: it stands for "${configuration}", which nobody has looked up`;
      throw invalidJob(
        [{ path: `workspaces.${name}`, message: `is not configured${alias}; give its configuration here, or to whoever runs the job` }],
        job.name,
      );
    }
    const volumePath =
      options.volumePaths !== undefined && Object.hasOwn(options.volumePaths, name) ? options.volumePaths[name] : undefined;
    const settings = { ...configuration, name, ...(access === "read" ? { readOnly: true } : {}) } as WorkspaceConfig;
    const common = {
      signal: options.signal,
      volumePath,
      log: (level: "debug" | "info" | "warn", message: string) => options.onEvent?.({ type: "log", step, level, message }),
    } as const;
    // Two forms: the one with brokers is checked against their types, which a job read from a file has not.
    return options.brokers === undefined
      ? openWorkspace(settings, common)
      : openWorkspace(settings, { ...common, brokers: options.brokers as [] });
  }

  return {
    get: (name) => {
      const live =
        options.openWorkspaces !== undefined && Object.hasOwn(options.openWorkspaces, name) ? options.openWorkspaces[name] : undefined;
      if (live !== undefined) return Promise.resolve(live);
      let workspace = opened.get(name);
      if (workspace === undefined) {
        workspace = open(name);
        opened.set(name, workspace);
      }
      return workspace;
    },
    close: async () => {
      const results = await Promise.allSettled([...opened.values()].map(async (workspace) => (await workspace).close()));
      // What could not be opened has been told of already; what does not close is worth a word, not a failure of what was done.
      for (const [index, result] of results.entries()) {
        const name = [...opened.keys()][index]!;
        const wasOpen = await opened.get(name)!.then(
          () => true,
          () => false,
        );
        if (result.status === "rejected" && wasOpen) {
          options.onEvent?.({
            type: "log",
            step,
            level: "warn",
            message: `the workspace "${name}" could not be closed: ${String(result.reason)}`,
          });
        }
      }
    },
  };
}
