import type { ParsedUpload, TransferDetails } from "./broker.ts";
import { escapePath } from "./file-path.ts";
import type { FileUpload, StoredFile } from "./files.ts";
import { isSameAsLocal, statLocalSource } from "./same-file.ts";
import { assertPromises, parseTarget, resolveLocalPath } from "./stored-file.ts";
import { StowageError } from "./stowage-error.ts";
import type { TransferOptions } from "./transfer-options.ts";
import type { Call, Ending, Verb } from "./verb.ts";
import type { WorkspaceRuntime } from "./workspace-runtime.ts";

export function uploadVerb<Item extends FileUpload>(
  runtime: WorkspaceRuntime,
  options: TransferOptions,
): Verb<Item, ParsedUpload, TransferDetails> {
  const { broker } = runtime;
  const ifExists = options.ifExists ?? "replace";
  const replaces = ifExists === "replace" || ifExists === "skip-same";

  const findSame = async (
    upload: ParsedUpload,
    target: Awaited<ReturnType<typeof broker.statFile>>,
    call: Call,
  ): Promise<StoredFile | undefined> => {
    if (target === undefined) return undefined;
    const local = { ...(await statLocalSource(upload.localPath)), path: upload.localPath, digest: upload.file.digest };
    const stored = { size: target.size, modified: target.modified, digest: target.file.digest };
    return (await isSameAsLocal(local, stored, call)) ? { ...target.file, size: target.size } : undefined;
  };

  return {
    operation: "upload",
    runtime,
    participants: [runtime],
    conflicts: true,
    parse: (item) => ({ file: parseTarget(item.file), localPath: resolveLocalPath(item.localPath) }),
    path: (upload) => upload.file.path,
    size: (upload) => upload.file.size,
    footprint: (upload) => ({ writes: [upload.file.path], reads: [] }),

    // Only who must know whether the target exists asks for it: it is a round trip for each file.
    prepare:
      ifExists === "skip-same" || (options.store !== undefined && replaces)
        ? async (upload, notes, call) => {
            const target = await call((context) => broker.statFile({ path: upload.file.path }, context));
            notes.existed = target !== undefined;
            if (ifExists !== "skip-same") return undefined;
            const same = await findSame(upload, target, call);
            return same === undefined ? undefined : { status: "skipped", reason: "same", file: same };
          }
        : options.store === undefined
          ? undefined
          : async (_upload, notes) => {
              // The broker itself refuses to replace: what it stores is new.
              notes.existed = false;
              return undefined;
            },

    async plan(upload, call): Promise<Ending> {
      const local = await statLocalSource(upload.localPath);
      assertPromises(upload.file, local);
      const target = await call((context) => broker.statFile({ path: upload.file.path }, context));
      if (target !== undefined && !replaces) {
        throw new StowageError(`"${escapePath(upload.file.path)}" exists already`, { code: "FILE_EXISTS", file: upload.file.path });
      }
      const same = ifExists === "skip-same" ? await findSame(upload, target, call) : undefined;
      if (same !== undefined) return { status: "skipped", reason: "same" };
      return { status: "planned", bytes: local.size, wouldReplace: target !== undefined };
    },

    one: (upload, context) => broker.uploadFile(upload, context),
    many: broker.uploadFiles === undefined ? undefined : (uploads, context) => broker.uploadFiles!(uploads, context),
    conclude: (_upload, details) => ({ status: "done", facts: details }),
    change: (_upload, file) => ({ operation: "upload", workspace: runtime.name, file }),
    undo: (upload, context) => broker.deleteFile({ path: upload.file.path }, context),
  };
}
