/** Listings of a large tree. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Arena } from "../lib/arena.ts";
import { makeTree, type Tree } from "../lib/data-sets.ts";
import { type Contestant, defineWorkload, type Measurement, type Run, type Workload } from "../lib/workload.ts";

const largeTree = async (arena: Arena): Promise<Tree> =>
  makeTree(join(arena.folder("large-tree"), "tree"), { directories: arena.quick ? 500 : 2000, filesPerDirectory: 100 });

/** A listing is held against the number of files, the length of their paths and, where it gives them, their bytes. */
function verifyListing(run: Run<Tree>, { reported }: Measurement, contestant: string): void {
  const { data } = run;
  const found = contestant.startsWith("find") || contestant.startsWith("rclone") ? sumLines(`${run.target}.out`, data.path) : reported;
  for (const key of ["files", "bytes", "pathCharacters"] as const) {
    if (key === "bytes" && found.bytes === undefined) continue;
    if (found[key] !== data[key]) throw new Error(`${key} is ${found[key]} instead of ${data[key]}`);
  }
}

/** Lines `path` or `size path`; a path may begin with the root or be relative to it. */
function sumLines(file: string, root: string): Record<string, number | undefined> {
  let [files, bytes, pathCharacters, sized] = [0, 0, 0, false];
  for (const line of readFileSync(file, "utf8").split("\n")) {
    if (line === "") continue;
    const size = /^(\d+) /.exec(line);
    const path = size === null ? line : line.slice(size[0].length);
    files++;
    sized ||= size !== null;
    bytes += Number(size?.[1] ?? 0);
    pathCharacters += path.startsWith(`${root}/`) ? path.length - root.length - 1 : path.length;
  }
  return { files, bytes: sized ? bytes : undefined, pathCharacters };
}

const stowage: Contestant<Tree> = {
  name: "stowage list",
  tool: "stowage",
  start: { program: "list-files", arguments: ({ data }) => [data.path] },
};
const rclone = (format: string): Contestant<Tree>["start"] => ({
  command: ({ data }) => ["rclone", "lsf", "-R", "--files-only", "--format", format, "--separator", " ", data.path],
});

const names = defineWorkload<Tree>({
  name: "list-names",
  title: "List the names of 200,000 files",
  description:
    "2,000 directories of 100 files (quick mode 500), warm, start of the process included. find and rclone write the names to a file, programs count them; number and length of all paths are checked. " +
    "`stowage` has no listing without sizes: it does more than was asked.",
  metric: { kind: "wall" },
  base: "find -type f",
  targets: [{ contestant: "stowage list", limit: 1.6, of: { kind: "ratio", versus: "find -type f" } }],
  rounds: { full: 9, quick: 5 },
  outputToFile: true,
  prepare: largeTree,
  verify: verifyListing,
  contestants: [
    { name: "find -type f", tool: "find", start: { command: ({ data }) => ["find", data.path, "-type", "f"] } },
    stowage,
    { name: "fdir", tool: "fdir", start: { program: "fdir-names", arguments: ({ data }) => [data.path] } },
    { name: "rclone lsf -R", tool: "rclone", start: rclone("p") },
  ],
});

const sizes = defineWorkload<Tree>({
  name: "list-sizes",
  title: "List 200,000 files with sizes",
  description:
    "The same tree with the size of every file. find and rclone write lines to a file, programs add up; number, bytes and length of all paths are checked. `stowage` also gives the time of modification.",
  metric: { kind: "wall" },
  base: "find -printf size",
  targets: [{ contestant: "stowage list", limit: 1.5, of: { kind: "ratio", versus: "find -printf size" } }],
  rounds: { full: 9, quick: 5 },
  outputToFile: true,
  prepare: largeTree,
  verify: verifyListing,
  contestants: [
    { name: "find -printf size", tool: "find", start: { command: ({ data }) => ["find", data.path, "-type", "f", "-printf", "%s %P\\n"] } },
    stowage,
    { name: "fdir + lstatSync", tool: "fdir", start: { program: "fdir-sizes", arguments: ({ data }) => [data.path] } },
    { name: "rclone lsf -R", tool: "rclone", start: rclone("sp") },
  ],
});

const firstWarm = defineWorkload<Tree>({
  name: "first-entry-warm",
  title: "First entry of a listing, in a warm process",
  description:
    "From the call to the first file of the same tree, in a process that has listed before, with an open workspace. `opendir` is a walk with node:fs alone.",
  metric: { kind: "reported", name: "firstEntryMs", unit: "ms" },
  base: "opendir",
  targets: [{ contestant: "stowage list", limit: 10, of: { kind: "value" } }],
  rounds: { full: 15, quick: 7 },
  prepare: largeTree,
  contestants: [
    { name: "opendir", tool: "node", start: { program: "opendir-first-entry", arguments: ({ data }) => [data.path, "warm"] } },
    { name: "stowage list", tool: "stowage", start: { program: "first-entry", arguments: ({ data }) => [data.path] } },
  ],
});

const firstCold = defineWorkload<Tree>({
  name: "first-entry-cold",
  title: "First entry of a listing, from the start of the process",
  description:
    "From the start of the process to its first byte of output; then it is killed. What Node itself costs is the row of `opendir`. find and rclone fill a buffer before they write.",
  metric: { kind: "first-output" },
  base: "opendir",
  targets: [],
  rounds: { full: 15, quick: 7 },
  stopAtFirstOutput: true,
  prepare: largeTree,
  contestants: [
    { name: "opendir", tool: "node", start: { program: "opendir-first-entry", arguments: ({ data }) => [data.path] } },
    { name: "stowage list", tool: "stowage", start: { program: "first-entry-cold", arguments: ({ data }) => [data.path] } },
    { name: "find -type f", tool: "find", start: { command: ({ data }) => ["find", data.path, "-type", "f"] } },
    { name: "rclone lsf -R", tool: "rclone", start: rclone("p") },
  ],
});

export const listingWorkloads: readonly Workload[] = [names, sizes, firstWarm, firstCold] as readonly Workload[];
