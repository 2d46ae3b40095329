import {
  chmod,
  copyFile,
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  rmdir,
  stat,
  symlink,
  unlink,
} from "node:fs/promises";
import { dirname, join } from "node:path";
import { type FileDetails, isFilePath, type StoredFile, StowageError, sleep, wrapBroker } from "@stowage/core/broker";
import type { ConformancePlace } from "../conformance-target.ts";
import { omittingBroker } from "../faults/lying-broker.ts";
import { withoutBatches } from "../without-batches.ts";
import type { BrokenBroker } from "./broken-broker.ts";

/** Faults of brokers over a directory that reach out of it, or take more of it away than they should. */
export const brokenContainment: readonly BrokenBroker[] = [
  {
    name: "escapes the root through a parent that is a link",
    base: "directory",
    caughtBy: ["G97"],
    break: (broker, place) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async uploadFile(_next, upload, context) {
            const target = locate(place, upload.file);
            await mkdir(dirname(target), { recursive: true });
            await copyFile(upload.localPath, target);
            const bytes = (await lstat(target)).size;
            context.progress(bytes);
            return { file: { path: upload.file.path, size: bytes }, method: "copy", bytes, verified: "length" };
          },
        },
      }),
  },
  {
    name: "reads what a link leads to, wherever that is",
    base: "directory",
    caughtBy: ["G97"],
    break: (broker, place) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async downloadFile(_next, download) {
            await copyFile(locate(place, download.file), download.localPath);
            const bytes = (await lstat(download.localPath)).size;
            return { file: { path: download.file.path, size: bytes }, method: "copy", bytes, verified: "length" };
          },
        },
      }),
  },
  {
    name: "opens whatever has the name, and waits for it",
    base: "directory",
    caughtBy: ["B24", "G184"],
    break: (broker, place) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async uploadFile(next, upload, context) {
            await (await open(upload.localPath)).close();
            return next(upload, context);
          },
          async downloadFile(next, download, context) {
            await (await open(locate(place, download.file))).close();
            return next(download, context);
          },
        },
      }),
  },
  {
    name: "looks whether a parent is a link, and uses it a moment later",
    base: "directory",
    caughtBy: ["G98"],
    break: (broker, place) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async uploadFile(_next, upload, context) {
            const target = locate(place, upload.file);
            await mkdir(dirname(target), { recursive: true });
            await refuseLinks(place, upload.file);
            await copyFile(upload.localPath, target);
            const bytes = (await lstat(target)).size;
            context.progress(bytes);
            return { file: { path: upload.file.path, size: bytes }, method: "copy", bytes, verified: "length" };
          },
          async deleteFile(_next, file) {
            await refuseLinks(place, file);
            await unlink(locate(place, file));
            return "deleted";
          },
        },
      }),
  },
  {
    name: "deletes what a link leads to",
    base: "directory",
    caughtBy: ["E66"],
    break: (broker, place) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async deleteFile(_next, file) {
            await unlink(await realpath(locate(place, file)));
            return "deleted";
          },
        },
      }),
  },
  {
    name: "deletes directories like files",
    base: "directory",
    caughtBy: ["E67", "E67a"],
    break: (broker, place) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async deleteFile(_next, file) {
            await rm(locate(place, file), { recursive: true, force: true });
            return "deleted";
          },
        },
      }),
  },
  {
    name: "clears away a directory that is in the way of a file",
    base: "directory",
    caughtBy: ["B143"],
    break: (broker, place) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async uploadFile(next, upload, context) {
            if ((await lstat(locate(place, upload.file)).catch(() => undefined))?.isDirectory()) {
              await rm(locate(place, upload.file), { recursive: true });
            }
            return next(upload, context);
          },
        },
      }),
  },
  {
    name: "clears away a file that is in the way of a directory",
    base: "directory",
    caughtBy: ["G96a"],
    break: (broker, place) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async uploadFile(next, upload, context) {
            const parent = dirname(locate(place, upload.file));
            if ((await lstat(parent).catch(() => undefined))?.isFile()) await unlink(parent);
            return next(upload, context);
          },
        },
      }),
  },
  {
    name: "lets the umask decide the mode",
    base: "directory",
    caughtBy: ["B35"],
    break: (broker, place) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async uploadFile(next, upload, context) {
            const details = await next(upload, context);
            await chmod(locate(place, upload.file), 0o666 & ~process.umask());
            return details;
          },
        },
      }),
  },
  {
    name: "links to the stored file where a file of one's own was asked for",
    base: "directory",
    caughtBy: ["C46a", "C156"],
    break: (broker, place) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async downloadFile(next, download, context) {
            const details = await next(download, context);
            await unlink(download.localPath);
            await symlink(locate(place, download.file), download.localPath);
            return { ...details, method: "link" };
          },
        },
      }),
  },
  {
    name: "links to a copy outside of the volume",
    base: "directory",
    caughtBy: ["C46", "C47"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async downloadFile(next, download, context) {
            if (download.partial !== true) return next(download, context);
            const details = await next({ ...download, partial: false, localPath: `${download.localPath}.copy` }, context);
            await symlink(`${download.localPath}.copy`, download.localPath);
            return { ...details, method: "link" };
          },
        },
      }),
  },
  {
    name: "moves by a bare rename",
    base: "directory",
    caughtBy: ["D169"],
    break: (broker, place) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async moveFile(next, move, context) {
            if (context.ifExists !== "replace") return next(move, context);
            const details = await broker.statFile(move.file, context);
            if (details === undefined) return next(move, context);
            // Of two names of one file, rename takes none away.
            await rename(locate(place, move.file), locate(place, { path: move.newPath }));
            return { file: { path: move.newPath }, method: "rename", bytes: details.size, verified: "length" };
          },
        },
      }),
  },
  {
    name: "follows links to directories when it lists",
    base: "directory",
    caughtBy: ["F83", "F83a"],
    break: (broker, place) =>
      wrapBroker(broker, {
        methods: {
          async *listFiles(_next, directory, options) {
            const visit = async function* (relative: string, depth: number): AsyncGenerator<FileDetails> {
              for (const name of await readdir(join(place.directory ?? "", relative)).catch(() => [])) {
                const path = relative === "" ? name : `${relative}/${name}`;
                const stats = await stat(join(place.directory ?? "", path)).catch(() => undefined);
                if (stats?.isDirectory() && options.recursive && depth < 4) yield* visit(path, depth + 1);
                if (stats?.isFile() && isFilePath(path)) yield { file: { path }, size: stats.size };
              }
            };
            yield* visit(directory, 0);
          },
        },
      }),
  },
  {
    name: "is silent about names that it cannot tell",
    base: "directory",
    caughtBy: ["F84a", "F83a"],
    break: (broker) =>
      wrapBroker(broker, {
        methods: {
          listFiles: (next, directory, options, context) => next(directory, { ...options, onProblem: () => undefined }, context),
        },
      }),
  },
  {
    name: "fails when a file vanishes while it lists",
    base: "directory",
    caughtBy: ["F180"],
    break: (broker, place) =>
      wrapBroker(broker, {
        methods: {
          async *listFiles(next, directory, options, context) {
            const names = await readdir(join(place.directory ?? "", directory)).catch(() => []);
            for await (const entry of next(directory, options, context)) {
              // A second look at everything, for no good reason.
              for (const name of names) await lstat(join(place.directory ?? "", directory, name));
              yield entry;
            }
          },
        },
      }),
  },
  {
    name: "hides files whose names have control characters",
    base: "directory",
    caughtBy: ["G90a"],
    break: (broker) => omittingBroker(broker, ({ file }) => /[\u0000-\u001f\u007f-\u009f]/.test(file.path)),
  },
  {
    name: "sweeps away what is still being written",
    base: "directory",
    caughtBy: ["H194"],
    break: (broker, place) =>
      wrapBroker(broker, {
        methods: {
          async *sweep(next, options, context) {
            yield* next(options, context);
            for (const name of await readdir(place.directory ?? "", { recursive: true })) {
              if (!/(^|\/)\.stowage-/.test(name)) continue;
              await unlink(join(place.directory ?? "", name));
              yield name;
            }
          },
        },
      }),
  },
  {
    name: "gives paths of another root",
    base: "directory",
    caughtBy: ["F87"],
    break: (broker) => ({ ...wrapBroker(broker, {}), getFileSystemPath: (file) => join("/somewhere/else", file.path) }),
  },
  {
    name: "decodes names on their way to the disk",
    base: "directory",
    caughtBy: ["G185"],
    break: (broker, place) => ({
      ...wrapBroker(broker, {}),
      getFileSystemPath: (file) => join(place.directory ?? "", file.path.replaceAll("%2e", ".").replaceAll("%2F", "/")),
    }),
  },
  {
    name: "holds a whole file in memory",
    base: "directory",
    caughtBy: ["B18a", "C160"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async uploadFile(next, upload, context) {
            const whole = await readFile(upload.localPath).catch(() => undefined);
            const details = await next(upload, context);
            await sleep(whole === undefined || whole.length < 10_000_000 ? 0 : 30);
            return details;
          },
          async downloadFile(next, download, context) {
            const details = await next(download, context);
            const whole = await readFile(download.localPath);
            await sleep(whole.length < 10_000_000 ? 0 : 30);
            return details;
          },
        },
      }),
  },
  {
    name: "removes directories that have become empty",
    base: "directory",
    caughtBy: ["E65a"],
    break: (broker, place) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async deleteFile(next, file, context) {
            const deletion = await next(file, context);
            await rmdir(dirname(locate(place, file))).catch(() => undefined);
            return deletion;
          },
        },
      }),
  },
];

function locate(place: ConformancePlace, file: StoredFile): string {
  return join(place.directory ?? "", file.path);
}

async function refuseLinks(place: ConformancePlace, file: StoredFile): Promise<void> {
  const segments = file.path.split("/");
  for (let depth = 1; depth < segments.length; depth++) {
    const directory = join(place.directory ?? "", ...segments.slice(0, depth));
    if ((await lstat(directory)).isSymbolicLink()) throw new StowageError("a parent is a link", { code: "PERMISSION_DENIED" });
  }
}
