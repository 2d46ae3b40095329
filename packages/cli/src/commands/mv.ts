import { type Outcome, StowageError } from "@stowage/core";
import type { Command } from "commander";
import type { LocalAddress, WorkspaceAddress } from "../lib/address.ts";
import { addTransferOptions, type TransferFlags, transferOptions } from "../lib/batch-options.ts";
import { createBatchReport } from "../lib/batch-report.ts";
import { findWorkspace } from "../lib/configuration.ts";
import type { CommandContext, Start } from "../lib/context.ts";
import { type PlanFlags, type PlannedFile, parseSourcesAndTarget, planCopy, shownAddress } from "../lib/copy-plan.ts";
import { moveAcross } from "../lib/move-across.ts";

interface Flags extends TransferFlags, PlanFlags {}

export function define(command: Command, start: Start): void {
  command
    .usage("[options] <source>... <target>")
    .argument("<address...>", "name:path; the last one is the target")
    .option("-r, --recursive", "directories, with all that is in them")
    .option("--literal", "take *, ?, [ and { in names as letters");
  addTransferOptions(command, "fail")
    .addHelpText(
      "after",
      `
Inside a workspace a file is renamed where the storage can do that. To another workspace it is copied, the copy is proven by a
digest, and only then the source is deleted; run the same command again after a failure, and it goes on where it was.

Examples:
  $ stowage mv data:inbox/a.csv data:raw/a.csv
  $ stowage mv 'data:inbox/*.csv' data:raw/              what matches a pattern (quote it)
  $ stowage mv -r data:2025 archive:2025 --dry-run       to another workspace; see first what would be moved`,
    )
    .action((addresses: string[], flags: Flags) => start((context) => move(addresses, flags, context)));
}

async function move(texts: readonly string[], flags: Flags, context: CommandContext): Promise<number> {
  const { sources, target } = parseSourcesAndTarget(texts);
  for (const address of [...sources, target]) {
    if (address.kind !== "workspace") {
      throw invalid(
        `"${shownAddress(address)}" is not in a workspace; use "stowage cp" to store or fetch it, and delete the original when that has gone well`,
      );
    }
  }
  const addresses = sources as readonly (WorkspaceAddress | LocalAddress)[];
  const { configuration } = context.session;
  const source = sources[0] as WorkspaceAddress;
  assertMayMove(source.workspace, findWorkspace(await configuration(), source.workspace));
  const plan = await planCopy(addresses, target as WorkspaceAddress, flags, context);
  const report = createBatchReport(context.output, { name: "move", past: "moved", present: "move" });
  const files = report.items(plan.files({ signal: context.signal, onProblem: report.onProblem }));
  const options = { ...transferOptions(flags, context), ifExists: flags.ifExists ?? ("fail" as const), onProgress: report.onProgress };
  const moves: AsyncIterable<Outcome<PlannedFile>> =
    plan.source === plan.target ? plan.source!.moveFiles(toMoves(files), options) : moveAcross(plan.source!, plan.target!, files, options);
  await report.read(moves);
  return report.end();
}

// Else a move to another workspace would find out only after everything has been copied.
function assertMayMove(name: string, configuration: Readonly<Record<string, unknown>>): void {
  const why =
    configuration.readOnly === true
      ? "is read-only"
      : configuration.archived === true
        ? "is archived"
        : configuration.moveEnabled === false
          ? "allows no moves"
          : undefined;
  if (why === undefined) return;
  throw new StowageError(`the workspace "${name}" ${why}; use "stowage cp", or change its configuration`, {
    code: configuration.archived === true && configuration.readOnly !== true ? "ARCHIVED" : "READ_ONLY",
    workspace: name,
  });
}

async function* toMoves(
  files: AsyncIterable<PlannedFile>,
): AsyncGenerator<PlannedFile & { readonly file: string; readonly newPath: string }> {
  for await (const item of files) yield { ...item, file: item.source.path, newPath: item.targetPath };
}

function invalid(message: string): StowageError {
  return new StowageError(message, { code: "INVALID_ARGUMENT" });
}
