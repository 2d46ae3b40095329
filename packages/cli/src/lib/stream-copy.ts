import { StowageError } from "@stowage/core";
import type { WorkspaceAddress } from "./address.ts";
import { formatAddress } from "./address.ts";
import type { TransferFlags } from "./batch-options.ts";
import { createBatchReport } from "./batch-report.ts";
import type { CommandContext } from "./context.ts";
import { EXIT_CODES } from "./exit.ts";

/** Standard input becomes a file; nothing is visible before its end. */
export async function storeFromStream(target: WorkspaceAddress, flags: TransferFlags, context: CommandContext): Promise<number> {
  const { signal, output } = context;
  const workspace = await context.session.open(target.workspace);
  const report = createBatchReport(output, { name: "copy", past: "copied", present: "copy" });
  const item = { from: "-", to: `${target.workspace}:${target.path}` };
  if (flags.dryRun) {
    const existing = await workspace.statFile(target.path, { signal });
    report.tell({ status: "planned", item, bytes: 0, wouldReplace: existing !== undefined });
    return report.end();
  }
  const startedAt = performance.now();
  const writer = await workspace.openWrite(target.path, {
    ifExists: flags.ifExists === "fail" ? "fail" : "replace",
    checksum: flags.checksum,
    durability: flags.durability,
    signal,
  });
  const stop = (): void => {
    process.stdin.destroy();
  };
  signal.addEventListener("abort", stop, { once: true });
  let bytes = 0;
  try {
    signal.throwIfAborted();
    for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
      await writer.write(chunk);
      bytes += chunk.length;
      report.onProgress({ item, itemBytes: bytes, bytes, done: 0, total: 1 });
    }
    signal.throwIfAborted();
  } catch (error) {
    await writer.abort(error);
    throw signal.aborted ? signal.reason : error;
  } finally {
    signal.removeEventListener("abort", stop);
  }
  const details = await writer.commit();
  report.tell({ ...details, status: "done", item, attempts: 1, durationMs: performance.now() - startedAt });
  return report.end();
}

/** Files go to standard output, one after the other. */
export async function fetchToStream(sources: readonly WorkspaceAddress[], context: CommandContext): Promise<number> {
  const { signal, output, session } = context;
  if (output.isJson)
    throw new StowageError("--json and the target - both want standard output; leave one of them out", { code: "INVALID_ARGUMENT" });
  for (const source of sources) {
    const workspace = await session.open(source.workspace);
    if ((await workspace.statFile(source.path, { signal })) === undefined) {
      const shown = formatAddress(source.workspace, source.path);
      throw new StowageError(`"${shown}" does not exist; check the path`, {
        code: "FILE_NOT_FOUND",
        file: source.path,
        workspace: source.workspace,
      });
    }
    const reader = await workspace.openRead(source.path, { signal });
    try {
      for await (const chunk of reader) {
        signal.throwIfAborted();
        if (!process.stdout.write(chunk)) await drained(signal);
      }
    } finally {
      await reader.close();
    }
  }
  return EXIT_CODES.success;
}

function drained(signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (): void => {
      process.stdout.off("drain", settle);
      signal.removeEventListener("abort", settle);
      if (signal.aborted) reject(signal.reason);
      else resolve();
    };
    process.stdout.on("drain", settle);
    signal.addEventListener("abort", settle, { once: true });
  });
}
