import { type Outcome, StowageError, type TransferOptions, transferFiles } from "@stowage/core";
import type { Command } from "commander";
import type { Address, LocalAddress, WorkspaceAddress } from "../lib/address.ts";
import { addTransferOptions, type TransferFlags, transferOptions } from "../lib/batch-options.ts";
import { createBatchReport } from "../lib/batch-report.ts";
import type { CommandContext, Start } from "../lib/context.ts";
import { type CopyPlan, type PlanFlags, type PlannedFile, parseSourcesAndTarget, planCopy } from "../lib/copy-plan.ts";
import { fetchToStream, storeFromStream } from "../lib/stream-copy.ts";

interface Flags extends TransferFlags, PlanFlags {
  readonly skipSpecial?: true;
}

export function define(command: Command, start: Start): void {
  command
    .usage("[options] <source>... <target>")
    .argument("<path...>", "name:path, a local path, or - for standard input or output; the last one is the target")
    .option("-r, --recursive", "directories, with all that is in them")
    .option("--literal", "take *, ?, [ and { in names as letters")
    .option("--skip-special", "leave out what is no regular file (devices, links to directories) without counting it as a failure");
  addTransferOptions(command, "replace")
    .addHelpText(
      "after",
      `
The content of one directory, or what a pattern matches, goes right into the target. Of several sources each keeps its name.
A target that ends in "/", or is a directory, receives the file under its own name. Copying again with --if-exists skip-same
copies only what has changed.

Examples:
  $ stowage cp report.pdf archive:2026/               as archive:2026/report.pdf
  $ stowage cp -r ./results archive:run-7             as archive:run-7/...
  $ stowage cp 'data:raw/**/*.csv' ./csv --dry-run    see what would be fetched (quote patterns)
  $ stowage cp -r data:raw archive:raw --if-exists skip-same --checksum sha256
  $ tar c . | stowage cp - archive:tree.tar           from standard input`,
    )
    .action((paths: string[], flags: Flags) => start((context) => copy(paths, flags, context)));
}

async function copy(paths: readonly string[], flags: Flags, context: CommandContext): Promise<number> {
  const { sources, target } = parseSourcesAndTarget(paths);
  const [first] = sources;
  if (first?.kind === "stream" || target.kind === "stream") return copyStream(sources, target, flags, context);
  const addresses = sources as readonly (WorkspaceAddress | LocalAddress)[];
  if (first?.kind === "local" && target.kind === "local") {
    throw invalid(
      `both places are on this machine; use the system's cp, or name a file in a workspace as name:path (known: ${await workspaceNames(context)})`,
    );
  }
  const plan = await planCopy(addresses, target, flags, context);
  const report = createBatchReport(context.output, { name: "copy", past: "copied", present: "copy" });
  const files = report.items(
    plan.files({ signal: context.signal, onProblem: flags.skipSpecial ? skipSpecial(report.onProblem, context) : report.onProblem }),
  );
  await report.read(transfer(plan, files, { ...transferOptions(flags, context), onProgress: report.onProgress }));
  return report.end();
}

function transfer(plan: CopyPlan, files: AsyncIterable<PlannedFile>, options: TransferOptions): AsyncIterable<Outcome<PlannedFile>> {
  const { source, target } = plan;
  if (source === undefined) {
    const uploads = map(files, (item) => ({ ...item, file: item.targetPath, localPath: item.source.path }));
    return target!.uploadFiles(uploads, options);
  }
  if (target === undefined) {
    const downloads = map(files, (item) => ({ ...item, file: item.source.path, localPath: item.targetPath }));
    return source.downloadFiles(downloads, options);
  }
  const copies = map(files, (item) => ({ ...item, file: item.source.path, newPath: item.targetPath }));
  // Inside one workspace the storage copies where it can; where it cannot, the bytes go through here.
  return source === target && source.broker.copyFile !== undefined
    ? source.copyFiles(copies, options)
    : transferFiles(source, target, copies, options);
}

function copyStream(sources: readonly Address[], target: Address, flags: Flags, context: CommandContext): Promise<number> {
  const [source] = sources;
  if (sources.length === 1 && source!.kind === "stream" && target.kind === "workspace") {
    if (target.isDirectory)
      throw invalid(
        `standard input has no name; name the file that it shall become, not a directory ("${target.workspace}:${target.path}")`,
      );
    if (flags.ifExists === "skip" || flags.ifExists === "skip-same")
      throw invalid(`--if-exists ${flags.ifExists} makes no sense for standard input; use replace or fail`);
    return storeFromStream(target, flags, context);
  }
  if (target.kind === "stream" && sources.every((each) => each.kind === "workspace" && !each.isDirectory)) {
    return fetchToStream(sources as readonly WorkspaceAddress[], context);
  }
  throw invalid('"-" stands for standard input or output: "stowage cp - name:file" or "stowage cp name:file -"');
}

function skipSpecial(onProblem: (problem: { path: string; error: unknown }) => void, { output }: CommandContext): typeof onProblem {
  return (problem) => {
    if (StowageError.is(problem.error) && problem.error.code === "NOT_A_FILE") output.notice(problem.error.message);
    else onProblem(problem);
  };
}

async function workspaceNames({ session }: CommandContext): Promise<string> {
  try {
    const { workspaces } = await session.configuration();
    return [...workspaces.keys()].slice(0, 10).join(", ") || "none";
  } catch {
    return "none, there is no stowage.yaml";
  }
}

async function* map<A, B>(values: AsyncIterable<A>, change: (value: A) => B): AsyncGenerator<B> {
  for await (const value of values) yield change(value);
}

function invalid(message: string): StowageError {
  return new StowageError(message, { code: "INVALID_ARGUMENT" });
}
