import { escapePath, type FileDetails, StowageError, type Workspace } from "@stowage/core";
import type { Command } from "commander";
import { formatAddress, parseWorkspaceAddress } from "../lib/address.ts";
import type { CommandContext, Start } from "../lib/context.ts";
import { EXIT_CODES, reportError } from "../lib/exit.ts";
import { formatBytes, formatTime } from "../lib/format.ts";
import { parseDuration } from "../lib/option-values.ts";

interface Flags {
  readonly url?: true;
  readonly signedUrl?: number;
}

export function define(command: Command, start: Start): void {
  command
    .argument("<address...>", "name:file")
    .option("--url", "the URL under which the file is served too, where the workspace has one")
    .option("--signed-url <time>", "a URL with which anybody may read the file for so long, where the storage can make one", parseDuration)
    .addHelpText(
      "after",
      `
Examples:
  $ stowage stat data:raw/cars.json
  $ stowage stat --json data:raw/cars.json | jq .size
  $ stowage stat --signed-url 1h archive:report.pdf`,
    )
    .action((addresses: string[], flags: Flags) => start((context) => statAll(addresses, flags, context)));
}

async function statAll(texts: readonly string[], flags: Flags, context: CommandContext): Promise<number> {
  let exitCode: number = EXIT_CODES.success;
  for (const address of texts.map(parseWorkspaceAddress)) {
    const workspace = await context.session.open(address.workspace);
    const shown = formatAddress(address.workspace, address.path);
    try {
      const details = address.path === "" ? undefined : await workspace.statFile(address.path, { signal: context.signal });
      if (details === undefined) throw await notFound(workspace, address.path, shown, context.signal);
      await print(workspace, details, flags, context);
    } catch (error) {
      context.signal.throwIfAborted();
      const code = reportError(error, context.output);
      if (exitCode === EXIT_CODES.success) exitCode = code;
    }
  }
  return exitCode;
}

async function notFound(workspace: Workspace, path: string, shown: string, signal: AbortSignal): Promise<StowageError> {
  for await (const _ of workspace.listFiles(path, { recursive: true, signal, onProblem: () => {} })) {
    return new StowageError(`"${shown}" is a directory, not a file; "stowage ls ${shown}" shows what is in it`, {
      code: "NOT_A_FILE",
      file: path,
    });
  }
  if (path === "")
    return new StowageError(`"${shown}" is the root of the workspace, not a file; name a file in it`, { code: "NOT_A_FILE" });
  return new StowageError(`"${shown}" does not exist; check the path`, { code: "FILE_NOT_FOUND", file: path, workspace: workspace.name });
}

async function print(workspace: Workspace, details: FileDetails, flags: Flags, { output, signal }: CommandContext): Promise<void> {
  const { file, size, modified } = details;
  const [localPath] = workspace.getFileSystemPaths([file]) ?? [];
  const url = flags.url ? await workspace.fileUrl(file, { signal }) : undefined;
  if (flags.url && url === undefined) throw noUrl(workspace, "baseUrl");
  // Without a signature the URL would be the plain one, which opens nothing by itself.
  if (flags.signedUrl !== undefined && workspace.broker.createSignedUrl === undefined) throw noUrl(workspace, "signed");
  const expiresInSeconds = Math.max(1, Math.round((flags.signedUrl ?? 0) / 1000));
  const signedUrl = flags.signedUrl === undefined ? undefined : await workspace.fileUrl(file, { method: "GET", expiresInSeconds, signal });

  output.record({ event: "file", workspace: workspace.name, ...file, size, modified, localPath, url, signedUrl });
  output.result(output.style("bold", formatAddress(workspace.name, file.path)));
  const lines: [string, string | undefined][] = [
    ["size", `${size.toLocaleString("en-US")} bytes${size < 1024 ? "" : ` (${formatBytes(size)})`}`],
    ["modified", modified === undefined ? undefined : formatTime(modified)],
    ["digest", file.digest === undefined ? undefined : `${file.digest.algorithm} ${file.digest.value}`],
    ["version", file.version],
    ["media type", file.mediaType],
    ...Object.entries(file.metadata ?? {}).map(([key, value]): [string, string] => [`metadata ${key}`, value]),
    ["local path", localPath],
    ["url", url],
    ["signed url", signedUrl],
  ];
  for (const [label, value] of lines) {
    if (value !== undefined) output.result(`  ${escapePath(label).padEnd(12)}${escapePath(value)}`);
  }
}

function noUrl(workspace: Workspace, what: "baseUrl" | "signed"): StowageError {
  const message =
    what === "baseUrl"
      ? `the workspace "${workspace.name}" has no URL; give it a "baseUrl" in the configuration`
      : `the storage of the workspace "${workspace.name}" cannot sign URLs; use --url, or copy the file`;
  return new StowageError(message, { code: "UNSUPPORTED", workspace: workspace.name });
}
