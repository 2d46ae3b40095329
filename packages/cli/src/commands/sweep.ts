import { resolve } from "node:path";
import { escapePath, StowageError } from "@stowage/core";
import { defaultScratch, sweepJobs } from "@stowage/jobs";
import type { Command } from "commander";
import { parseWorkspaceName } from "../lib/address.ts";
import type { CommandContext, Start } from "../lib/context.ts";
import { EXIT_CODES, reportError } from "../lib/exit.ts";
import { formatCount, formatDuration } from "../lib/format.ts";
import { parseDuration } from "../lib/option-values.ts";

interface Flags {
  readonly all?: true;
  readonly olderThan?: number;
  readonly deep?: true;
  readonly jobs?: true;
  readonly scratch?: string;
}

const DEFAULT_OLDER_THAN_MS = 24 * 3_600_000;

export function define(command: Command, start: Start): void {
  command
    .argument("[workspace...]", "names of workspaces")
    .option("--all", "every workspace of the configuration")
    .option("--older-than <time>", "leave younger remains to whoever may still be writing them (default: 24h)", parseDuration)
    .option("--deep", "look everywhere, not only where a record says that something was begun")
    .option("--jobs", "what runs of jobs have left on this machine, when nobody works on them any more")
    .option("--scratch <folder>", "where those runs have their directories (default: as in run)")
    .addHelpText(
      "after",
      `
Examples:
  $ stowage sweep data
  $ stowage sweep --all --older-than 7d
  $ stowage sweep data --deep --json
  $ stowage sweep --jobs`,
    )
    .action((workspaces: string[], flags: Flags) => start((context) => sweep(workspaces, flags, context)));
}

async function sweep(texts: readonly string[], flags: Flags, context: CommandContext): Promise<number> {
  const { session, signal, output } = context;
  if (flags.scratch !== undefined && !flags.jobs) {
    throw new StowageError("--scratch is about runs of jobs; add --jobs", { code: "INVALID_ARGUMENT" });
  }
  if (flags.jobs && texts.length === 0 && !flags.all) return sweepRuns(flags, context);
  if (texts.length === 0 && !flags.all) {
    throw new StowageError("no workspace is named; name one, all of them with --all, or runs of jobs with --jobs", {
      code: "INVALID_ARGUMENT",
    });
  }
  if (texts.length > 0 && flags.all)
    throw new StowageError("--all and names of workspaces do not go together; leave one out", { code: "INVALID_ARGUMENT" });
  const names = flags.all ? [...(await session.configuration()).workspaces.keys()] : texts.map(parseWorkspaceName);
  const olderThanMs = flags.olderThan ?? DEFAULT_OLDER_THAN_MS;
  let exitCode: number = flags.jobs ? await sweepRuns(flags, context) : EXIT_CODES.success;
  for (const name of new Set(names)) {
    let removed = 0;
    try {
      const workspace = await session.open(name);
      for await (const remains of workspace.sweep({ olderThanMs, deep: flags.deep, signal })) {
        removed++;
        output.record({ event: "removed", workspace: name, name: remains });
        output.line(`removed ${name}: ${escapePath(remains)}`);
      }
      output.record({ event: "swept", workspace: name, removed });
      output.line(
        removed === 0
          ? `${name}: nothing older than ${formatDuration(olderThanMs)} is left over`
          : `${name}: ${formatCount(removed, "leftover")} removed`,
      );
    } catch (error) {
      signal.throwIfAborted();
      // With --all, storage that leaves nothing behind, or may not be changed, is no failure.
      if (
        flags.all &&
        StowageError.is(error) &&
        (error.code === "UNSUPPORTED" || error.code === "READ_ONLY" || error.code === "ARCHIVED")
      ) {
        output.notice(`${name} was left out: ${error.message}`);
        continue;
      }
      const code = reportError(error, output);
      if (exitCode === EXIT_CODES.success) exitCode = code;
    }
  }
  return exitCode;
}

async function sweepRuns({ scratch }: Flags, { signal, output, workingDirectory }: CommandContext): Promise<number> {
  const folder = scratch === undefined ? defaultScratch() : resolve(workingDirectory, scratch);
  const { removed, live, stopped, leftovers } = await sweepJobs(folder, { signal });
  output.record({ event: "swept", jobs: folder, removed, live, stopped, leftovers });
  for (const name of removed) output.line(`removed the run of ${escapePath(name)}`);
  for (const name of live) output.line(`left the run of ${escapePath(name)} alone: it is running`);
  for (const what of stopped) output.line(`stopped ${escapePath(what)}`);
  if (removed.length + live.length + stopped.length + leftovers.length === 0) output.line(`${escapePath(folder)}: nothing is left over`);
  for (const what of leftovers) output.failure(`could not be removed: ${escapePath(what)}; remove it as the user who ran the job`);
  return leftovers.length > 0 ? EXIT_CODES.accessRefused : EXIT_CODES.success;
}
