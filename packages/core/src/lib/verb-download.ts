import { rm, stat, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import type { ParsedDownload, TransferDetails } from "./broker.ts";
import { escapePath } from "./file-path.ts";
import type { FileDetails, FileDownload } from "./files.ts";
import { ensureLocalDirectory } from "./local-file.ts";
import { type FileState, isSameAsLocal, statLocalTarget } from "./same-file.ts";
import { assertPromises, parseFile, resolveLocalPath } from "./stored-file.ts";
import { StowageError } from "./stowage-error.ts";
import { isSystemError } from "./system-error.ts";
import type { DownloadOptions } from "./transfer-options.ts";
import type { Call, Ending, Verb } from "./verb.ts";
import type { WorkspaceRuntime } from "./workspace-runtime.ts";

/** How many directories a batch remembers to have made. */
const REMEMBERED_DIRECTORIES = 10_000;

export function downloadVerb<Item extends FileDownload>(
  runtime: WorkspaceRuntime,
  options: DownloadOptions,
): Verb<Item, ParsedDownload, TransferDetails> {
  const { broker } = runtime;
  const ifExists = options.ifExists ?? "replace";
  const replaces = ifExists === "replace" || ifExists === "skip-same";
  const durability = options.durability ?? "process";
  const directories = new Map<string, Promise<void>>();
  const space = createSpaceCount();

  const ensureParent = (localPath: string): Promise<void> => {
    const directory = dirname(localPath);
    const known = directories.get(directory);
    if (known !== undefined) return known;
    if (directories.size >= REMEMBERED_DIRECTORIES) directories.clear();
    const made = ensureLocalDirectory(directory, durability);
    directories.set(directory, made);
    made.catch(() => directories.delete(directory));
    return made;
  };

  const findSource = async (download: ParsedDownload, call: Call): Promise<FileDetails> => {
    const source = await call((context) => broker.statFile(download.file, context));
    if (source !== undefined) return source;
    throw new StowageError(`no such file: "${escapePath(download.file.path)}"`, { code: "FILE_NOT_FOUND", file: download.file.path });
  };

  const isSame = (download: ParsedDownload, local: FileState, source: FileDetails, call: Call): Promise<boolean> => {
    const { localPath, file } = download;
    // What the caller says that it must be is held against the local bytes, whatever their time.
    const expected = file.digest === undefined ? source.modified : undefined;
    return isSameAsLocal(
      { ...local, path: localPath },
      { size: source.size, modified: expected, digest: file.digest ?? source.file.digest },
      call,
    );
  };

  return {
    operation: "download",
    runtime,
    participants: [runtime],
    conflicts: true,
    parse(item) {
      const parsed = { file: parseFile(item.file), localPath: resolveLocalPath(item.localPath) };
      return item.partial === true && options.linkPartial === true ? { ...parsed, partial: true } : parsed;
    },
    path: (download) => download.file.path,
    size: (download) => download.file.size,
    footprint: (download) => ({ writes: [download.localPath], reads: [] }),

    async prepare(download, notes, call) {
      if (ifExists === "skip-same" || (options.store !== undefined && replaces)) {
        const local = await statLocalTarget(download.localPath);
        notes.existed = local !== undefined;
        if (ifExists === "skip-same" && local !== undefined) {
          const source = await findSource(download, call);
          const file = { ...source.file, size: source.size };
          if (await isSame(download, local, source, call)) return { status: "skipped", reason: "same", file };
        }
      } else {
        notes.existed = false;
      }
      await ensureParent(download.localPath);
      return undefined;
    },

    async plan(download, call): Promise<Ending> {
      const source = await findSource(download, call);
      assertPromises(download.file, { size: source.size, digest: source.file.digest });
      const local = await statLocalTarget(download.localPath);
      if (local !== undefined && !replaces) {
        throw new StowageError(`the local file "${escapePath(download.localPath)}" exists already`, { code: "FILE_EXISTS" });
      }
      if (ifExists === "skip-same" && local !== undefined && (await isSame(download, local, source, call))) {
        return { status: "skipped", reason: "same" };
      }
      await space.take(download.localPath, source.size);
      return { status: "planned", bytes: source.size, wouldReplace: local !== undefined };
    },

    one: (download, context) => broker.downloadFile(download, context),
    many: broker.downloadFiles === undefined ? undefined : (downloads, context) => broker.downloadFiles!(downloads, context),
    conclude: (_download, details) => ({ status: "done", facts: details }),
    change: ({ localPath }, file) => ({ operation: "download", workspace: runtime.name, file, localPath }),
    undo: (download) => rm(download.localPath),
  };
}

/** What is left on each local file system while a dry run plans to fill it. */
function createSpaceCount(): { take(localPath: string, bytes: number): Promise<void> } {
  const byDevice = new Map<number, { bytes: number }>();
  const byDirectory = new Map<string, Promise<{ bytes: number }>>();

  const measure = async (directory: string): Promise<{ bytes: number }> => {
    for (let existing = directory; ; existing = dirname(existing)) {
      try {
        const [{ dev }, { bavail, bsize }] = await Promise.all([stat(existing), statfs(existing)]);
        const space = byDevice.get(dev) ?? { bytes: bavail * bsize };
        byDevice.set(dev, space);
        return space;
      } catch (error) {
        if (!isSystemError(error, "ENOENT") || existing === dirname(existing)) throw error;
      }
    }
  };
  return {
    async take(localPath, bytes) {
      const directory = dirname(localPath);
      const measured = byDirectory.get(directory) ?? measure(directory);
      if (byDirectory.size >= REMEMBERED_DIRECTORIES) byDirectory.clear();
      byDirectory.set(directory, measured);
      const space = await measured;
      if (bytes > space.bytes) {
        const problem = `"${escapePath(localPath)}" needs ${bytes} bytes where ${Math.max(0, space.bytes)} are left`;
        throw new StowageError(problem, { code: "NO_SPACE" });
      }
      space.bytes -= bytes;
    },
  };
}
