import { dirname, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parseWorkspaceConfig, StowageError } from "@stowage/core";
import {
  createLocalRuntime,
  JobError,
  type JobSpec,
  type JobWorkspaceConfiguration,
  parseJobSpec,
  type RunJobOptions,
  resolveJobWorkspaces,
  runJob,
} from "@stowage/jobs";
import { type Command, Option } from "commander";
import type { KnownBroker } from "../lib/brokers.ts";
import type { CommandContext, Start } from "../lib/context.ts";
import { planJob } from "../lib/job-plan.ts";
import { createJobView } from "../lib/job-view.ts";
import { parseCount } from "../lib/option-values.ts";
import { resolveRelativePaths } from "../lib/relative-paths.ts";
import { brokerTypeOf, locateError } from "../lib/session.ts";
import { keysOfDescription, readStructuredFile, type StructuredFile } from "../lib/structured-file.ts";

interface Flags {
  readonly runtime: "local";
  readonly scratch?: string;
  readonly resume?: true;
  readonly resultFile?: string;
  readonly runId?: string;
  readonly keep?: NonNullable<RunJobOptions["keepDirectory"]>;
  readonly stepProcesses?: true;
  readonly concurrency?: number;
  readonly dryRun?: true;
}

export function define(command: Command, start: Start): void {
  command
    .argument("<job.yaml>", "the job: see docs/jobs.md")
    .addOption(
      new Option("--runtime <runtime>", "where the command runs").choices(["local"]).default("local", "local: a process of this machine"),
    )
    .option(
      "--scratch <folder>",
      "where runs have their directories, on a local disk (default: a folder of yours in the temporary directory)",
    )
    .option("--resume", "go on where an interrupted or failed run of this job stopped")
    .option("--result-file <file>", "write the result as JSON: what became of every step and file")
    .option("--run-id <id>", "names the run in paths and records (default: a new one)")
    .addOption(new Option("--keep <when>", "when the run's directory stays (default: failed)").choices(["never", "failed", "always"]))
    .option("--step-processes", "stage and store in processes of their own, which can be killed when storage hangs")
    .addOption(new Option("-j, --concurrency <n>", "files at once (default: 8)").argParser(parseCount(1, 1024)))
    .option("-n, --dry-run", "say what would be staged and run, and change nothing")
    .addHelpText(
      "after",
      `
The exit code is the command's own when it fails by itself; ours are 160 and more. With --quiet, what the command writes
goes through as it is.

Examples:
  $ stowage run job.yaml
  $ stowage run job.yaml --dry-run
  $ stowage run job.yaml --result-file result.json --json
  $ stowage run job.yaml --resume                after a failure or Ctrl-C`,
    )
    .action((path: string, flags: Flags) => start((context) => run(path, flags, context)));
}

async function run(path: string, flags: Flags, context: CommandContext): Promise<number> {
  const { output, signal, workingDirectory, options } = context;
  const file = await readJob(resolve(workingDirectory, path), workingDirectory);
  const folder = dirname(file.path);
  const { job, workspaces, brokers } = await prepareJob(file, folder, context);
  const volumePaths = findVolumePaths(job, context);
  if (flags.dryRun)
    return planJob(
      { ...job, workspaces },
      { brokers: [...brokers.values()].map(({ definition }) => definition), volumePaths, folder },
      context,
    );

  const view = createJobView(output, { command: job.command, isQuiet: options.quiet === true });
  const result = await runJob(
    { ...job, workspaces },
    {
      runtime: createLocalRuntime({ stepCommand: [process.execPath, process.argv[1]!, "--stowage-job-step"] }),
      ...(flags.stepProcesses
        ? { brokerModules: modulesOf(brokers) }
        : { brokers: [...brokers.values()].map(({ definition }) => definition) }),
      volumePaths,
      baseDirectory: folder,
      scratch: flags.scratch === undefined ? undefined : resolve(workingDirectory, flags.scratch),
      runId: flags.runId,
      resume: flags.resume,
      resultFile: flags.resultFile === undefined ? undefined : resolve(workingDirectory, flags.resultFile),
      concurrency: flags.concurrency,
      keepDirectory: flags.keep,
      signal,
      onEvent: (event) => view.tell(event),
    },
  );
  return result.exitCode;
}

/** The job file, with every mistake of its writing told as one of the job. */
async function readJob(path: string, workingDirectory: string): Promise<StructuredFile> {
  try {
    return await readStructuredFile(path, "job", workingDirectory);
  } catch (error) {
    if (StowageError.is(error) && error.code === "INVALID_CONFIGURATION")
      throw new JobError(error.message, { reason: "invalid-job", cause: error });
    throw error;
  }
}

interface PreparedJob {
  readonly job: JobSpec;
  /** Configurations of all workspaces that the job uses, by their names in it. */
  readonly workspaces: Readonly<Record<string, JobWorkspaceConfiguration>>;
  readonly brokers: ReadonlyMap<string, KnownBroker>;
}

/** Looks everything up that the job names, so that a mistake is found, with its line, before anything runs. */
async function prepareJob(file: StructuredFile, folder: string, { session }: CommandContext): Promise<PreparedJob> {
  const configuration = await session.configurationIfAny();
  const known = [...(configuration?.workspaces ?? [])].map(
    ([name, workspace]) => [name, resolveRelativePaths(workspace, configuration!.folder)] as const,
  );
  let job: JobSpec;
  let resolved: JobSpec;
  try {
    job = parseJobSpec(file.value);
    resolved = resolveJobWorkspaces(job, Object.fromEntries(known));
  } catch (error) {
    throw locateJobError(error, file);
  }
  const workspaces: Record<string, JobWorkspaceConfiguration> = {};
  for (const [name, workspace] of Object.entries(resolved.workspaces)) {
    // Those of stowage.yaml are absolute already.
    if (typeof workspace !== "string") workspaces[name] = resolveRelativePaths(workspace, folder) as JobWorkspaceConfiguration;
  }
  const types = Object.values(workspaces).flatMap((workspace) => brokerTypeOf(workspace) ?? []);
  const brokers = await session.brokers(types, folder);
  const definitions = [...brokers.values()].map(({ definition }) => definition);
  for (const [name, workspace] of Object.entries(workspaces)) {
    try {
      await parseWorkspaceConfig({ ...workspace, name }, { brokers: definitions });
    } catch (error) {
      const written = job.workspaces[name];
      if (typeof written === "object" || configuration === undefined) throw locateError(error, file, name);
      throw locateError(error, configuration, written ?? name);
    }
  }
  return { job, workspaces, brokers };
}

/** Puts the line before each thing that is wrong with a job. */
function locateJobError(error: unknown, file: StructuredFile): unknown {
  if (!JobError.is(error) || error.problems.length === 0) return error;
  const lines = error.problems.map(
    ({ path, message }) => `${file.locate(keysOfDescription(`${path} `))}: ${path === "" ? "the job" : path} ${message}`,
  );
  return new JobError(lines.join("\n"), { reason: error.reason, problems: error.problems, cause: error });
}

/** `--volume` has the names of the configuration; the job may have its own. */
function findVolumePaths(job: JobSpec, { session, options }: CommandContext): Record<string, string> {
  const names = new Set([
    ...Object.keys(job.workspaces),
    ...[...job.inputs, ...job.outputs].map(({ workspace }) => workspace),
    ...(options.volume?.keys() ?? []),
  ]);
  const paths: Record<string, string> = {};
  for (const name of names) {
    const written = job.workspaces[name];
    const path = session.volumePath(typeof written === "string" ? written : name);
    if (path !== undefined) paths[name] = path;
  }
  return paths;
}

function modulesOf(brokers: ReadonlyMap<string, KnownBroker>): string[] {
  return [...brokers.values()].flatMap(({ file }) => (file === undefined ? [] : [pathToFileURL(file).href]));
}
