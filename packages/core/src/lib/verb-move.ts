import type { ParsedMove, TransferDetails } from "./broker.ts";
import { escapePath, parseTargetPath } from "./file-path.ts";
import type { FileDetails, FileMove, StoredFile } from "./files.ts";
import { isSameState } from "./same-file.ts";
import { assertPromises, parseFile } from "./stored-file.ts";
import { StowageError } from "./stowage-error.ts";
import type { TransferOptions } from "./transfer-options.ts";
import type { Call, Ending, Verb } from "./verb.ts";
import type { WorkspaceRuntime } from "./workspace-runtime.ts";

/** `copy` leaves the source where it is; the broker must have `copyFile`. */
export function moveVerb<Item extends FileMove>(
  operation: "move" | "copy",
  runtime: WorkspaceRuntime,
  options: TransferOptions,
): Verb<Item, ParsedMove, TransferDetails> {
  const { broker } = runtime;
  const ifExists = options.ifExists ?? (operation === "move" ? "fail" : "replace");
  const replaces = ifExists === "replace" || ifExists === "skip-same";

  const stat = (path: StoredFile["path"], call: Call): Promise<FileDetails | undefined> =>
    call((context) => broker.statFile({ path }, context));
  const findSource = async ({ file }: ParsedMove, call: Call): Promise<FileDetails> => {
    const source = await stat(file.path, call);
    if (source === undefined)
      throw new StowageError(`no such file: "${escapePath(file.path)}"`, { code: "FILE_NOT_FOUND", file: file.path });
    assertPromises(file, { size: source.size, digest: source.file.digest });
    return source;
  };
  const done = (details: FileDetails): Ending => ({
    status: "done",
    facts: {
      file: { ...details.file, size: details.size },
      method: operation === "move" ? "rename" : "copy",
      bytes: details.size,
      verified: "none",
    },
  });
  const same = (source: FileDetails, target: FileDetails): boolean =>
    isSameState({ ...source, digest: source.file.digest }, { ...target, digest: target.file.digest });

  return {
    operation,
    runtime,
    participants: [runtime],
    conflicts: true,
    parse: (item) => ({ file: parseFile(item.file), newPath: parseTargetPath(item.newPath) }),
    path: (move) => move.file.path,
    size: (move) => move.file.size,
    footprint: ({ file, newPath }) =>
      operation === "move"
        ? { writes: [file.path, newPath], reads: [] }
        : { writes: [newPath], reads: file.path === newPath ? [] : [file.path] },

    async prepare(move, notes, call) {
      const { file, newPath } = move;
      if (file.path === newPath) {
        notes.existed = true;
        return done(await findSource(move, call));
      }
      if (ifExists === "skip-same" || (operation === "copy" && options.store !== undefined && replaces)) {
        const target = await stat(newPath, call);
        notes.existed = target !== undefined;
        if (ifExists === "skip-same" && target !== undefined && same(await findSource(move, call), target)) {
          return { status: "skipped", reason: "same", file: { ...target.file, size: target.size } };
        }
      } else {
        notes.existed = false;
      }
      return undefined;
    },

    async plan(move, call) {
      const source = await findSource(move, call);
      if (move.file.path === move.newPath) return { status: "planned", bytes: source.size, wouldReplace: false };
      const target = await stat(move.newPath, call);
      if (target !== undefined && !replaces) {
        throw new StowageError(`"${escapePath(move.newPath)}" exists already`, { code: "FILE_EXISTS", file: move.newPath });
      }
      if (ifExists === "skip-same" && target !== undefined && same(source, target)) return { status: "skipped", reason: "same" };
      return { status: "planned", bytes: source.size, wouldReplace: target !== undefined };
    },

    one: (move, context) => (operation === "move" ? broker.moveFile(move, context) : broker.copyFile!(move, context)),
    many: operation === "move" && broker.moveFiles !== undefined ? (moves, context) => broker.moveFiles!(moves, context) : undefined,
    conclude: (_move, details) => ({ status: "done", facts: details }),

    // An earlier run of this batch has moved the file and crashed before it was recorded.
    recover:
      operation === "copy"
        ? undefined
        : async ({ file, newPath }, call) => {
            const [source, target] = await Promise.all([stat(file.path, call), stat(newPath, call)]);
            if (source !== undefined || target === undefined) return undefined;
            assertPromises(file, { size: target.size, digest: target.file.digest });
            return done(target);
          },
    change: (move, file) => ({ operation, workspace: runtime.name, file, previousPath: move.file.path }),
    undo: operation === "copy" ? (move, context) => broker.deleteFile({ path: move.newPath }, context) : undefined,
  };
}
