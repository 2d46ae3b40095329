import { copyFile, lstat, mkdir, open, realpath, rmdir, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type StoredFile, StowageError, wrapBroker } from "@stowage/core/broker";
import type { ConformancePlace } from "../conformance-target.ts";
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
