import { createInterface } from "node:readline/promises";
import { StowageError } from "@stowage/core";
import type { Command } from "commander";
import { parseWorkspaceAddress } from "../lib/address.ts";
import { addBatchOptions, type BatchFlags, batchOptions } from "../lib/batch-options.ts";
import { createBatchReport } from "../lib/batch-report.ts";
import type { CommandContext, Start } from "../lib/context.ts";
import { EXIT_CODES } from "../lib/exit.ts";
import { formatBytes, formatCount } from "../lib/format.ts";
import { type Operand, resolveWorkspaceOperand, type SelectOptions } from "../lib/selection.ts";

interface Flags extends BatchFlags {
  readonly recursive?: true;
  readonly literal?: true;
  readonly force?: true;
  readonly yes?: true;
}

/** Files are counted up to here before the question is asked. */
const COUNTED_FILES = 10_000;

/** A listing may lose its place when what it lists is deleted: then what it left out is found by the next look. */
const MOST_LOOKS = 10;

export function define(command: Command, start: Start): void {
  command
    .argument("<address...>", "name:file, name:directory or a pattern")
    .option("-r, --recursive", "directories, with all that is in them")
    .option("-f, --force", "what is not there is no failure")
    .option("-y, --yes", "do not ask, also on a terminal")
    .option("--literal", "take *, ?, [ and { in names as letters");
  addBatchOptions(command)
    .addHelpText(
      "after",
      `
Examples:
  $ stowage rm data:raw/old.csv
  $ stowage rm 'data:raw/*.tmp' --dry-run    see what would be deleted (quote patterns)
  $ stowage rm -r data:scratch --yes         everything below a directory, without a question`,
    )
    .action((addresses: string[], flags: Flags) => start((context) => remove(addresses, flags, context)));
}

async function remove(texts: readonly string[], flags: Flags, context: CommandContext): Promise<number> {
  const { session, signal, output } = context;
  const options = { signal, recursive: flags.recursive === true, literal: flags.literal === true };
  const found: { readonly operand: Operand; readonly workspace: string }[] = [];
  for (const address of texts.map(parseWorkspaceAddress)) {
    const workspace = await session.open(address.workspace);
    try {
      found.push({ operand: await resolveWorkspaceOperand(workspace, address, options), workspace: address.workspace });
    } catch (error) {
      if (!flags.force || !StowageError.is(error) || error.code !== "FILE_NOT_FOUND") throw error;
    }
  }
  if (
    !flags.yes &&
    !flags.dryRun &&
    found.length > 0 &&
    !(await confirm(
      found.map(({ operand }) => operand),
      context,
    ))
  ) {
    output.notice("nothing was deleted");
    return EXIT_CODES.interrupted;
  }
  const report = createBatchReport(output, { name: "delete", past: "deleted", present: "delete" });
  const select = { signal, onProblem: report.onProblem };
  const batch = { ...batchOptions(flags, context), onProgress: report.onProgress };
  for (const { operand, workspace: name } of found) {
    const workspace = await session.open(name);
    for (let look = 1; look <= MOST_LOOKS; look++) {
      const before = { ...report.tally };
      await report.read(workspace.deleteFiles(report.items(toDeletions(operand, name, select)), batch));
      const { done, failed, cancelled, problems } = report.tally;
      const foundNothing = done === before.done;
      if (
        operand.kind === "glob" &&
        look === 1 &&
        foundNothing &&
        failed + problems + report.tally.planned === before.failed + before.problems + before.planned &&
        !flags.force
      ) {
        throw new StowageError(`nothing matches "${operand.shown}"; check the pattern, or add --force if that is no failure`, {
          code: "FILE_NOT_FOUND",
        });
      }
      if (foundNothing || operand.kind === "file" || failed > 0 || cancelled > 0 || problems > 0) break;
    }
  }
  return report.end();
}

async function* toDeletions(
  operand: Operand,
  workspace: string,
  select: SelectOptions,
): AsyncGenerator<{ readonly path: string; readonly from: string }> {
  for await (const { path } of operand.files(select)) yield { path, from: `${workspace}:${path}` };
}

/** Asks on a terminal; elsewhere there is nobody to ask, and whoever wrote the script has decided. */
async function confirm(operands: readonly Operand[], { signal, output }: CommandContext): Promise<boolean> {
  if (!process.stdin.isTTY || !process.stderr.isTTY) return true;
  let [files, bytes] = [0, 0];
  counting: for (const operand of operands) {
    for await (const file of operand.files({ signal, onProblem: () => {} })) {
      files++;
      bytes += file.size ?? 0;
      if (files >= COUNTED_FILES) break counting;
    }
  }
  const count =
    files >= COUNTED_FILES ? `more than ${formatCount(COUNTED_FILES, "file")}` : `${formatCount(files, "file")} (${formatBytes(bytes)})`;
  const what = operands.length === 1 ? operands[0]!.shown : `${operands[0]!.shown} and ${formatCount(operands.length - 1, "other")}`;
  output.flush();
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  // A terminal in this mode turns Ctrl-C into an event; Ctrl-D ends the input without an answer.
  terminal.on("SIGINT", () => process.kill(process.pid, "SIGINT"));
  const ended = new Promise<string>((resolve) => terminal.once("close", () => resolve("")));
  try {
    const answer = await Promise.race([terminal.question(`Delete ${count}: ${what}? [y/N] `, { signal }), ended]);
    return /^y(es)?$/i.test(answer.trim());
  } finally {
    terminal.close();
  }
}
