import { type AnyBrokerDefinition, openWorkspace, StowageError, type Workspace, type WorkspaceConfig } from "@stowage/core";
import { type JobInput, type JobSpec, parseGlob } from "@stowage/jobs";
import { formatAddress } from "./address.ts";
import type { CommandContext } from "./context.ts";
import { EXIT_CODES, reportError } from "./exit.ts";
import { formatBytes, formatCount } from "./format.ts";

export interface JobPlanOptions {
  readonly brokers: readonly AnyBrokerDefinition[];
  readonly volumePaths: Readonly<Record<string, string>>;
  readonly folder: string;
}

/** Says what a job would stage, run and store, and changes nothing. Every workspace of `job` is a configuration. Gives the exit code. */
export async function planJob(job: JobSpec, options: JobPlanOptions, context: CommandContext): Promise<number> {
  const { output, signal } = context;
  const opened = new Map<string, Promise<Workspace>>();
  const open = (name: string): Promise<Workspace> => {
    let workspace = opened.get(name);
    if (workspace === undefined) {
      const configuration = { ...(job.workspaces[name] as object), name, readOnly: true } as unknown as WorkspaceConfig;
      workspace = openWorkspace(configuration, { brokers: options.brokers as [], volumePath: options.volumePaths[name], signal });
      opened.set(name, workspace);
    }
    return workspace;
  };
  let exitCode: number = EXIT_CODES.success;
  try {
    for (const input of job.inputs) {
      try {
        const { files, bytes } = await measureInput(input, await open(input.workspace), signal);
        const address = formatAddress(input.workspace, input.path ?? input.glob ?? "");
        output.record({ event: "input", name: input.name, workspace: input.workspace, path: input.path, glob: input.glob, files, bytes });
        output.line(`would stage in ${input.name} ← ${address} (${formatCount(files, "file")}, ${formatBytes(bytes)})`);
      } catch (error) {
        signal.throwIfAborted();
        const code = reportError(error, output);
        if (exitCode === EXIT_CODES.success) exitCode = code;
      }
    }
    output.record({ event: "command", command: job.command, workingDirectory: job.workingDirectory ?? options.folder });
    output.line(`would run ${job.command.join(" ")}`);
    for (const { name, glob, workspace, path, required } of job.outputs) {
      // A place that cannot be opened now would fail when the work is done.
      await open(workspace);
      output.record({ event: "output", name, glob, workspace, path, required });
      output.line(`would store ${name}: ${glob} → ${workspace}:${path}${required ? "" : " (if there is any)"}`);
    }
  } finally {
    await Promise.allSettled([...opened.values()].map(async (workspace) => (await workspace).close()));
  }
  return exitCode;
}

async function measureInput(input: JobInput, workspace: Workspace, signal: AbortSignal): Promise<{ files: number; bytes: number }> {
  if (input.path !== undefined) {
    const details = await workspace.statFile(input.path, { signal });
    if (details !== undefined) return { files: 1, bytes: details.size };
    if (input.optional) return { files: 0, bytes: 0 };
    const shown = formatAddress(input.workspace, input.path);
    throw new StowageError(`the input "${input.name}" is missing: "${shown}" does not exist; store it, or correct the job`, {
      code: "FILE_NOT_FOUND",
      file: input.path,
    });
  }
  const glob = parseGlob(input.glob!);
  let [files, bytes] = [0, 0];
  for await (const { file, size } of workspace.listFiles(glob.base, { recursive: glob.recursive, signal })) {
    if (!glob.matches(file.path)) continue;
    files++;
    bytes += size;
  }
  if (files > 0 || input.optional) return { files, bytes };
  throw new StowageError(
    `the input "${input.name}" is missing: nothing matches "${formatAddress(input.workspace, input.glob!)}"; store it, or correct the job`,
    { code: "FILE_NOT_FOUND" },
  );
}
