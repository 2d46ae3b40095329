import { type Outcome, StowageError, type TransferOptions, transferFiles, type Workspace } from "@stowage/core";
import { mapConcurrently } from "./concurrently.ts";
import { findFile, haveSameContent, type ReadableFile } from "./contents.ts";
import type { PlannedFile } from "./copy-plan.ts";
import { describeError } from "./exit.ts";

/** How many copied files are looked at and deleted at once. */
const DELETIONS = 8;

/**
 * Moves files from one workspace into another: copies each, proves the copy by a digest, and only then deletes the source. What
 * stands in the way is done again by the next run: a source whose very content is at the target already is deleted without a copy.
 */
export function moveAcross(
  source: Workspace,
  target: Workspace,
  files: AsyncIterable<PlannedFile>,
  options: TransferOptions,
): AsyncIterable<Outcome<PlannedFile>> {
  // A length proves no copy: without a digest of its own the engine is asked for one.
  const checksum =
    options.checksum === undefined || options.checksum === "auto" || options.checksum === "none" ? "crc32" : options.checksum;
  const copies = transferFiles(source, target, toCopies(files), { ...options, checksum });
  return mapConcurrently(withoutError(copies), DELETIONS, async (outcome): Promise<Outcome<PlannedFile>> => {
    const { item } = outcome;
    const pair: Pair = { source: { workspace: source, path: item.source.path }, target: { workspace: target, path: item.targetPath } };
    switch (outcome.status) {
      case "done":
        return deleteSource(outcome, pair, outcome.verified === "digest" ? "proven" : "unproven", options);
      case "skipped":
        return outcome.reason === "same" ? deleteSource(outcome, pair, "unproven", options) : outcome;
      case "failed":
        // The run before may have come as far as the copy.
        return isFileExists(outcome.error) ? deleteSource(outcome, pair, "unproven", options) : outcome;
      default:
        return outcome;
    }
  });
}

interface Pair {
  readonly source: ReadableFile;
  readonly target: ReadableFile;
}

async function deleteSource(
  outcome: Exclude<Outcome<PlannedFile>, { status: "planned" | "cancelled" }>,
  pair: Pair,
  proof: "proven" | "unproven",
  options: TransferOptions,
): Promise<Outcome<PlannedFile>> {
  const { item } = outcome;
  const signal = options.signal ?? new AbortController().signal;
  const [attempts, durationMs] = outcome.status === "skipped" ? [1, 0] : [outcome.attempts, outcome.durationMs];
  const fail = (message: string, cause?: unknown): Outcome<PlannedFile> => {
    const code = signal.aborted ? "CANCELLED" : StowageError.is(cause) ? cause.code : "SOURCE_CHANGED";
    const error = new StowageError(message, { code, file: item.source.path, workspace: pair.source.workspace?.name, cause });
    return { status: "failed", item, error, leftovers: [], attempts, durationMs };
  };
  try {
    signal.throwIfAborted();
    if (proof === "unproven" && !(await haveSameContent(pair.source, pair.target, signal))) {
      if (outcome.status === "failed") return outcome;
      return fail(`"${item.from}" is still there: its copy "${item.to}" is not the same; look at both`);
    }
    // Whoever wrote to the source since it was listed has not had that copied.
    const now = await findFile(pair.source, signal);
    if (
      now !== undefined &&
      (now.size !== (item.source.size ?? now.size) || now.modified?.getTime() !== (item.source.modified ?? now.modified)?.getTime())
    ) {
      return fail(
        `"${item.from}" has changed while it was moved: it is still there, and "${item.to}" holds what it was; move it again with --if-exists replace`,
      );
    }
    await pair.source.workspace!.deleteFiles([item.source.path], { signal, retry: options.retry, deadline: options.deadline });
  } catch (error) {
    const cause = causeOf(error);
    return fail(
      `"${item.from}" was copied but not deleted, so both exist: ${describeError(cause)}; run the same command again to finish`,
      causeOf(error),
    );
  }
  if (outcome.status === "done") return outcome;
  const bytes = item.source.size ?? 0;
  return {
    status: "done",
    item,
    file: { path: item.targetPath as never, size: bytes },
    method: "delete",
    bytes,
    verified: "digest",
    attempts,
    durationMs,
  };
}

/** The failed deletion itself, not the batch that it was alone in. */
function causeOf(error: unknown): unknown {
  const [only] = (error as { outcomes?: readonly Outcome<unknown>[] }).outcomes ?? [];
  return only?.status === "failed" ? only.error : error;
}

function isFileExists(error: unknown): boolean {
  return StowageError.is(error) && error.code === "FILE_EXISTS";
}

async function* toCopies(
  files: AsyncIterable<PlannedFile>,
): AsyncGenerator<PlannedFile & { readonly file: string; readonly newPath: string }> {
  for await (const item of files) yield { ...item, file: item.source.path, newPath: item.targetPath };
}

/** Every outcome has been given when a batch ends with a TransferError. */
async function* withoutError<T>(outcomes: AsyncIterable<T>): AsyncGenerator<T> {
  try {
    yield* outcomes;
  } catch (error) {
    if ((error as { isTransferError?: unknown }).isTransferError !== true) throw error;
  }
}
