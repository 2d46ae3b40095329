import { lstatSync, readlinkSync } from "node:fs";
import { escapePath } from "../file-path.ts";
import { StowageError } from "../stowage-error.ts";
import type { PinnedDirectories } from "./pinned-directory.ts";
import { containmentError, isErrno } from "./posix-errors.ts";
import type { VolumeRoot } from "./volume-root.ts";

/** As Linux does. */
const MAXIMUM_HOPS = 40;

/**
 * The path, free of links, that `path` leads to inside the volume; `undefined` when it leads nowhere. Each link is read in a pinned directory and each `..` takes one
 * name off a path without links, so that the way is the one that the system would go, and never leaves the root: then it throws `PERMISSION_DENIED`.
 * Nothing is promised of what is there by the time that somebody opens it: that is for whoever opens it, without following.
 */
export function resolveLinks(directories: PinnedDirectories, path: string, symlinks: "inside" | "refuse"): string | undefined {
  const real: string[] = [];
  const pending = path.split("/").reverse();
  let hops = 0;
  for (let segment = pending.pop(); segment !== undefined; segment = pending.pop()) {
    if (segment === "" || segment === ".") continue;
    if (segment === "..") {
      if (real.pop() === undefined) throw containmentError(path, path, "that leads out of the workspace's root");
      continue;
    }
    const directory = directories.find(real.join("/"));
    if (directory === undefined) return undefined;
    try {
      const entry = directories.entry(directory, segment);
      const stats = lstatSync(entry, { throwIfNoEntry: false });
      if (!stats?.isSymbolicLink()) {
        if (pending.length > 0 && stats !== undefined && !stats.isDirectory()) return undefined;
        real.push(segment);
        continue;
      }
      const link = [...real, segment].join("/");
      if (symlinks === "refuse") throw containmentError(path, link, "and this workspace follows none");
      if (++hops > MAXIMUM_HOPS) {
        throw new StowageError(`"${escapePath(path)}" goes through more than ${MAXIMUM_HOPS} symbolic links; they may form a circle`, {
          code: "NOT_A_FILE",
          file: path,
        });
      }
      const target = readLink(entry);
      if (target === undefined) return undefined;
      if (!target.startsWith("/")) {
        pending.push(...target.split("/").reverse());
        continue;
      }
      const rest = insideRoot(directories.root, target);
      if (rest === undefined) throw containmentError(path, link, "that leads out of the workspace's root");
      real.length = 0;
      pending.push(...rest.split("/").reverse());
    } finally {
      directories.release(directory);
    }
  }
  return real.join("/");
}

function readLink(entry: string): string | undefined {
  try {
    return readlinkSync(entry);
  } catch (error) {
    // Replaced since it was looked at.
    if (isErrno(error, "ENOENT", "EINVAL")) return undefined;
    throw error;
  }
}

/** What of an absolute target comes after the root, by either of the root's names; `undefined` when it lies elsewhere. */
function insideRoot(root: VolumeRoot, target: string): string | undefined {
  for (const name of [root.realPath, root.rootPath]) {
    const base = name.replace(/\/+$/, "");
    if (target === base) return "";
    if (target.startsWith(`${base}/`)) return target.slice(base.length + 1);
  }
  return undefined;
}
