import { execFile } from "node:child_process";
import { closeSync, constants, openSync, writeFileSync } from "node:fs";
import { mkdir, opendir, readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { SeedFile } from "./conformance-target.ts";

/** Every name below a directory, relative to it; those of directories too, but with `filesOnly`. `undefined` for no directory. */
export async function listDirectoryNames(
  directory: string | undefined,
  options: { readonly filesOnly?: boolean } = {},
): Promise<string[] | undefined> {
  if (directory === undefined) return undefined;
  const names: string[] = [];
  const visit = async (relative: string): Promise<void> => {
    const open = await opendir(join(directory, relative));
    const below: string[] = [];
    for await (const entry of open) {
      const name = relative === "" ? entry.name : `${relative}/${entry.name}`;
      if (entry.isDirectory()) below.push(name);
      if (!entry.isDirectory() || options.filesOnly !== true) names.push(name);
    }
    for (const name of below) await visit(name);
  };
  await visit("");
  return names;
}

/** Writes files below a directory, without any of a broker's care. */
export async function writeSeedFiles(directory: string, files: Iterable<SeedFile>): Promise<void> {
  const made = new Set<string>();
  for (const { path, bytes } of files) {
    const target = join(directory, path);
    const parent = dirname(target);
    if (!made.has(parent)) {
      await mkdir(parent, { recursive: true });
      made.add(parent);
    }
    // For thousands of small files this is many times quicker than the thread pool.
    writeFileSync(target, bytes);
  }
}

/** How many file descriptors this process has open; `undefined` where that cannot be seen. */
export async function countOpenHandles(): Promise<number | undefined> {
  try {
    return (await readdir("/proc/self/fd")).length;
  } catch {
    return undefined;
  }
}

/** Makes a FIFO; false where the system cannot. */
export async function makeFifo(path: string): Promise<boolean> {
  return new Promise((resolve) => execFile("mkfifo", [path], (error) => resolve(error === null)));
}

/**
 * Lets a broker try something with a FIFO. One that opens it like a file would wait for ever, and with it the few threads that all
 * of Node's file system calls share: then it is let go after five seconds, and the answer is `"waited"`.
 */
export async function tryWithFifo<T>(path: string, attempt: () => Promise<T>): Promise<T | "waited"> {
  const trying = attempt();
  trying.catch(() => undefined);
  let timer: NodeJS.Timeout | undefined;
  try {
    return await Promise.race([
      trying,
      new Promise<"waited">((resolve) => {
        timer = setTimeout(() => resolve("waited"), 5_000);
      }),
    ]);
  } finally {
    clearTimeout(timer);
    // Synchronous, since no thread may be left. A writer comes and goes: whoever waits goes on, and reads nothing.
    closeSync(openSync(path, constants.O_RDWR | constants.O_NONBLOCK));
    await trying.catch(() => undefined);
  }
}

/** A file system of `bytes` at `path`, or `undefined` where this user cannot mount one. */
export async function mountSmallDisk(path: string, bytes: number): Promise<{ unmount(): Promise<void> } | undefined> {
  if (process.platform !== "linux" || process.geteuid?.() !== 0) return undefined;
  await mkdir(path, { recursive: true });
  const run = (command: string, parameters: readonly string[]): Promise<boolean> =>
    new Promise((resolve) => execFile(command, parameters, (error) => resolve(error === null)));
  if (!(await run("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "stowage-conformance", path]))) return undefined;
  return {
    async unmount() {
      if (!(await run("umount", [path]))) await run("umount", ["-l", path]);
    },
  };
}
