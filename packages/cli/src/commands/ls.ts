import { escapePath, type FileDetails, StowageError } from "@stowage/core";
import { parseGlob } from "@stowage/jobs";
import type { Command } from "commander";
import { formatAddress, parseWorkspaceAddress, type WorkspaceAddress } from "../lib/address.ts";
import type { CommandContext, Start } from "../lib/context.ts";
import { describeError, EXIT_CODES, exitCodeFor } from "../lib/exit.ts";
import { formatBytes, formatTable, formatTime } from "../lib/format.ts";
import { isPattern, matchesOrLiesIn } from "../lib/selection.ts";
import { brokerTypeOf } from "../lib/session.ts";

interface Flags {
  readonly recursive?: true;
  readonly long?: true;
  readonly bytes?: true;
  readonly files?: true;
}

/** So many rows are sorted before they are printed; a longer listing goes on as it comes. */
const SORTED_ROWS = 10_000;

export function define(command: Command, start: Start): void {
  command
    .argument("[address...]", "name:directory, name:file or a pattern; none: the workspaces")
    .option("-r, --recursive", "everything below, by its path")
    .option("-l, --long", "sizes and times too")
    .option("--bytes", "exact sizes, not rounded ones")
    .option("--files", "only files, no directories: quicker where directories hold much")
    .addHelpText(
      "after",
      `
Examples:
  $ stowage ls                     the workspaces of stowage.yaml
  $ stowage ls data:               what is at the root of "data"
  $ stowage ls -lr data:raw        everything below raw, with sizes and times
  $ stowage ls 'data:raw/**/*.csv' what matches a pattern (quote it)
  $ stowage ls -r --json data: | jq -r .path`,
    )
    .action((addresses: string[], flags: Flags) =>
      start((context) => (addresses.length === 0 ? listWorkspaces(context) : listAll(addresses, flags, context))),
    );
}

async function listWorkspaces({ session, output }: CommandContext): Promise<undefined> {
  const { workspaces, path } = await session.configuration();
  if (workspaces.size === 0) output.notice(`${path} defines no workspace yet`);
  const rows: string[][] = [];
  for (const [name, workspace] of workspaces) {
    const [type, title] = [brokerTypeOf(workspace), workspace.title ?? workspace.description];
    const marks = [workspace.readOnly === true ? "read-only" : "", workspace.archived === true ? "archived" : ""].filter(
      (mark) => mark !== "",
    );
    output.record({
      event: "workspace",
      name,
      type,
      title,
      readOnly: workspace.readOnly === true,
      archived: workspace.archived === true,
    });
    rows.push([
      output.style("bold", `${escapePath(name)}:`),
      type ?? "?",
      [...(typeof title === "string" ? [escapePath(title)] : []), ...marks].join(", "),
    ]);
  }
  for (const line of formatTable(rows)) output.result(line);
  return undefined;
}

async function listAll(texts: readonly string[], flags: Flags, context: CommandContext): Promise<number> {
  let exitCode: number = EXIT_CODES.success;
  const addresses = texts.map(parseWorkspaceAddress);
  for (const [index, address] of addresses.entries()) {
    if (addresses.length > 1)
      context.output.result(
        `${index === 0 ? "" : "\n"}${context.output.style("bold", `${formatAddress(address.workspace, address.path)}`)}`,
      );
    const code = await list(address, flags, context);
    if (exitCode === EXIT_CODES.success) exitCode = code;
  }
  return exitCode;
}

/** A row of a listing: a file, or a directory with what lies in it left out. */
type Row = { readonly name: string; readonly details: FileDetails } | { readonly name: string; readonly directory: string };

async function list(address: WorkspaceAddress, flags: Flags, context: CommandContext): Promise<number> {
  const { output, signal } = context;
  const workspace = await context.session.open(address.workspace);
  const { path } = address;
  let firstProblem: unknown;
  const onProblem = (problem: { path: string; error: unknown }): void => {
    firstProblem ??= problem.error;
    output.record({ event: "problem", path: problem.path, message: describeError(problem.error) });
    const message = describeError(problem.error);
    output.failure(message.includes(problem.path) ? message : `"${problem.path}": ${message}`);
  };

  const glob = isPattern(path) ? parseGlob(path) : undefined;
  const directory = glob?.base ?? path;
  const printer = createPrinter(flags, context);
  const directories = new Set<string>();
  // Only a look at everything below tells which directories there are: object stores have none of their own.
  const recursive = glob === undefined ? flags.recursive === true || flags.files !== true : glob.recursive || flags.recursive === true;
  for await (const details of workspace.listFiles(directory, { recursive, signal, onProblem })) {
    const file = details.file.path;
    if (glob !== undefined) {
      if (matchesOrLiesIn(glob, file, flags.recursive === true)) printer.add({ name: file, details });
      continue;
    }
    const name = directory === "" ? file : file.slice(directory.length + 1);
    const slash = name.indexOf("/");
    if (flags.recursive || slash === -1) {
      printer.add({ name, details });
    } else if (!directories.has(name.slice(0, slash))) {
      const subdirectory = name.slice(0, slash);
      directories.add(subdirectory);
      printer.add({ name: `${subdirectory}/`, directory: directory === "" ? subdirectory : `${directory}/${subdirectory}` });
    }
  }
  // A pattern may be the very name of a file, and a path may be a file's.
  if (printer.count() === 0 && path !== "" && firstProblem === undefined) {
    const details = address.isDirectory ? undefined : await workspace.statFile(path, { signal });
    if (details === undefined) {
      const shown = formatAddress(address.workspace, path);
      const message = glob === undefined ? `"${shown}" does not exist; check the path` : `nothing matches "${shown}"; check the pattern`;
      throw new StowageError(message, { code: "FILE_NOT_FOUND", file: path, workspace: address.workspace });
    }
    printer.add({ name: path, details });
  }
  printer.end();
  return firstProblem === undefined ? EXIT_CODES.success : exitCodeFor(firstProblem);
}

function createPrinter(flags: Flags, { output }: CommandContext): { add(row: Row): void; count(): number; end(): void } {
  let waiting: Row[] | undefined = [];
  let rows = 0;
  const print = (row: Row): void => {
    if ("directory" in row) {
      output.record({ event: "directory", path: row.directory });
      output.result(`${flags.long ? " ".repeat(LONG_COLUMNS) : ""}${output.style("cyan", escapePath(row.name))}`);
      return;
    }
    const { file, size, modified } = row.details;
    output.record({ event: "file", ...file, size, modified });
    if (!flags.long) {
      output.result(escapePath(row.name));
      return;
    }
    const shownSize = flags.bytes ? String(size) : formatBytes(size);
    output.result(
      `${shownSize.padStart(SIZE_COLUMNS)}  ${(modified === undefined ? "" : formatTime(modified)).padEnd(TIME_COLUMNS)}  ${escapePath(row.name)}`,
    );
  };
  const flush = (): void => {
    const sorted = (waiting ?? []).sort((left, right) => (left.name < right.name ? -1 : left.name > right.name ? 1 : 0));
    waiting = undefined;
    for (const row of sorted) print(row);
  };
  return {
    add: (row) => {
      rows++;
      if (waiting === undefined) print(row);
      else if (waiting.push(row) >= SORTED_ROWS) flush();
    },
    count: () => rows,
    end: flush,
  };
}

const SIZE_COLUMNS = 10;
const TIME_COLUMNS = 19;
const LONG_COLUMNS = SIZE_COLUMNS + 2 + TIME_COLUMNS + 2;
