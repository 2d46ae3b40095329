import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CONTROL_NAMES } from "./hostile-names.ts";
import { makeFifo } from "./local-tree.ts";

export interface HostileTree {
  /** Paths of the regular files that a listing must give, sorted. */
  readonly files: readonly string[];
  /** Parts of the names that it must report, since no path can express them. */
  readonly unnameable: readonly string[];
  /** Paths that lead to other things than regular files: links, FIFOs, temporary files. None of them may be listed, read or followed. */
  readonly traps: readonly string[];
  /** Links out of the tree, to directories: nothing behind them may be listed. */
  readonly closedDirectories: readonly string[];
}

/**
 * Plants in a local directory what a listing should survive: links that are broken, in circles, upwards and out (to `outside`, an
 * absolute path), FIFOs, leftovers of crashed writers, names that are no text, depth. Linux only, for the names.
 */
export async function plantHostileTree(directory: string, outside: string): Promise<HostileTree> {
  const files: string[] = [];
  const traps: string[] = [];
  const put = async (path: string, content = path): Promise<void> => {
    await writeFile(join(directory, path), content);
    files.push(path);
  };
  const trap = async (path: string, make: (absolute: string) => Promise<unknown>): Promise<void> => {
    await make(join(directory, path));
    traps.push(path);
  };

  const deep = Array.from({ length: 30 }, (_, level) => `level-${level}`).join("/");
  await mkdir(join(directory, deep), { recursive: true });
  await mkdir(join(directory, "dir/empty"), { recursive: true });
  await mkdir(join(directory, ".stowage/inflight"), { recursive: true });
  await put("plain");
  await put("empty", "");
  await put("dir/inside");
  await put(`${deep}/at the bottom`);
  for (const name of CONTROL_NAMES) await put(`dir/${name}`, "control");

  await trap("broken", (path) => symlink("nowhere", path));
  await trap("circle-a", (path) => symlink("circle-b", path));
  await trap("circle-b", (path) => symlink("circle-a", path));
  await trap("itself", (path) => symlink("itself", path));
  await trap("dir/up", (path) => symlink("..", path));
  await trap("out", (path) => symlink(outside, path));
  await trap("out-file", (path) => symlink(join(outside, "secret"), path));
  await trap("proc", (path) => symlink("/proc/self/root", path));
  await trap("fifo", (path) => makeFifo(path));
  await trap(".stowage-abandoned", (path) => writeFile(path, "half"));
  await trap("dir/.stowage-abandoned", (path) => writeFile(path, "half"));
  await trap(".stowage/inflight/crashed", (path) => writeFile(path, "dir\n"));

  const unnameable = ["not-utf8-", "cut-"];
  const place = Buffer.from(`${join(directory, "dir")}/`);
  await writeFile(Buffer.concat([place, Buffer.from("not-utf8-"), Buffer.from([0xff, 0xfe])]), "bytes");
  await writeFile(Buffer.concat([place, Buffer.from("cut-"), Buffer.from("é").subarray(0, 1)]), "bytes");
  return { files: files.sort(), unnameable, traps, closedDirectories: ["out", "proc"] };
}
