import type { Deletion } from "./broker.ts";
import type { FileInput, StoredFile } from "./files.ts";
import { parseFile } from "./stored-file.ts";
import type { Verb } from "./verb.ts";
import type { WorkspaceRuntime } from "./workspace-runtime.ts";

export function deleteVerb<Item extends FileInput>(runtime: WorkspaceRuntime): Verb<Item, StoredFile, Deletion> {
  const { broker } = runtime;
  return {
    operation: "delete",
    runtime,
    participants: [runtime],
    conflicts: false,
    parse: parseFile,
    path: (file) => file.path,
    // A file's size is nothing that has to move.
    size: () => undefined,
    footprint: (file) => ({ writes: [file.path], reads: [] }),

    async plan(file, call) {
      const details = await call((context) => broker.statFile(file, context));
      if (details === undefined) return { status: "skipped", reason: "missing" };
      return { status: "planned", bytes: details.size, wouldReplace: false };
    },

    one: (file, context) => broker.deleteFile(file, context),
    many: broker.deleteFiles === undefined ? undefined : (files, context) => broker.deleteFiles!(files, context),
    // Missing at a repeated attempt: the first one's answer may have been lost, and the file with it.
    conclude: (file, deletion, attempts) =>
      deletion === "missing" && attempts === 1
        ? { status: "skipped", reason: "missing", file }
        : { status: "done", facts: { file, method: "delete", bytes: 0, verified: "none" } },
    change: (_file, deleted) => ({ operation: "delete", workspace: runtime.name, file: deleted }),
  };
}
