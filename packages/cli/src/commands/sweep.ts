import { escapePath, StowageError } from "@stowage/core";
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
}

const DEFAULT_OLDER_THAN_MS = 24 * 3_600_000;

export function define(command: Command, start: Start): void {
  command
    .argument("[workspace...]", "names of workspaces")
    .option("--all", "every workspace of the configuration")
    .option("--older-than <time>", "leave younger remains to whoever may still be writing them (default: 24h)", parseDuration)
    .option("--deep", "look everywhere, not only where a record says that something was begun")
    .addHelpText(
      "after",
      `
Examples:
  $ stowage sweep data
  $ stowage sweep --all --older-than 7d
  $ stowage sweep data --deep --json`,
    )
    .action((workspaces: string[], flags: Flags) => start((context) => sweep(workspaces, flags, context)));
}

async function sweep(texts: readonly string[], flags: Flags, context: CommandContext): Promise<number> {
  const { session, signal, output } = context;
  if (texts.length === 0 && !flags.all)
    throw new StowageError("no workspace is named; name one, or all of them with --all", { code: "INVALID_ARGUMENT" });
  if (texts.length > 0 && flags.all)
    throw new StowageError("--all and names of workspaces do not go together; leave one out", { code: "INVALID_ARGUMENT" });
  const names = flags.all ? [...(await session.configuration()).workspaces.keys()] : texts.map(parseWorkspaceName);
  const olderThanMs = flags.olderThan ?? DEFAULT_OLDER_THAN_MS;
  let exitCode: number = EXIT_CODES.success;
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
