/** Many small files. */
import { execFileSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Arena } from "../lib/arena.ts";
import { makeTree, type Tree, verifyTree } from "../lib/data-sets.ts";
import { type Contestant, defineWorkload, type Measurement, type Run, type Workload } from "../lib/workload.ts";

const smallFiles = async (arena: Arena): Promise<Tree> =>
  makeTree(join(arena.folder("small-files"), "source"), { directories: arena.quick ? 100 : 200, filesPerDirectory: 100, bytes: 4096 });

function verifyCopy(run: Run<Tree>, { reported }: Measurement, contestant: string): void {
  verifyTree(run.target, run.data);
  if (contestant.startsWith("stowage") && reported.files !== run.data.files) throw new Error(`${reported.files} outcomes`);
}

const stowage: Contestant<Tree>[] = [
  { name: "stowage upload", tool: "stowage", start: { program: "upload-tree", arguments: ({ data, target }) => [data.path, target] } },
  { name: "stowage download", tool: "stowage", start: { program: "download-tree", arguments: ({ data, target }) => [data.path, target] } },
  { name: "stowage transfer", tool: "stowage", start: { program: "transfer-tree", arguments: ({ data, target }) => [data.path, target] } },
];
const fsExtra: Contestant<Tree> = {
  name: "fs-extra.copy",
  tool: "fs-extra",
  start: { program: "fs-extra-copy", arguments: ({ data, target }) => [data.path, target] },
};
const fsCp: Contestant<Tree> = {
  name: "fs.cp",
  tool: "node",
  start: { program: "fs-cp", arguments: ({ data, target }) => [data.path, target] },
};

const copy = defineWorkload<Tree>({
  name: "copy-small-files",
  title: "Copy 20,000 files of 4 KiB",
  description:
    "200 directories of 100 files (quick mode half of it) are copied into a new folder of the same ext4, start of the process included. Every copy is compared with the source, name for name and byte for byte. " +
    "`stowage` writes each file under a temporary name, checks it and renames it; upload takes an array, download and transfer (between two workspaces) a stream.",
  metric: { kind: "wall" },
  base: "cp -r",
  targets: [
    { contestant: "stowage upload", limit: 1.6, of: { kind: "ratio", versus: "cp -r" } },
    { contestant: "stowage upload", limit: 0.6, of: { kind: "ratio", versus: "rclone copy --transfers 16" } },
    { contestant: "stowage download", limit: 1.6, of: { kind: "ratio", versus: "cp -r" } },
    { contestant: "stowage transfer", limit: 1.6, of: { kind: "ratio", versus: "cp -r" } },
  ],
  rounds: { full: 7, quick: 3 },
  writes: true,
  prepare: smallFiles,
  arrange: ({ target }) => mkdirSync(target),
  verify: verifyCopy,
  contestants: [
    { name: "cp -r", tool: "cp", start: { command: ({ data, target }) => ["cp", "-r", `${data.path}/.`, target] } },
    ...stowage,
    { name: "rsync -a", tool: "rsync", start: { command: ({ data, target }) => ["rsync", "-a", `${data.path}/`, `${target}/`] } },
    {
      name: "rclone copy --transfers 16",
      tool: "rclone",
      start: { command: ({ data, target }) => ["rclone", "copy", "--transfers", "16", data.path, target] },
    },
    fsExtra,
    fsCp,
  ],
});

interface ReplaceData extends Tree {
  /** The same names with other bytes. */
  readonly previous: Tree;
}

const replace = defineWorkload<ReplaceData>({
  name: "replace-small-files",
  title: "Replace 20,000 files of 4 KiB",
  description:
    "The same files are copied over existing ones with other bytes. rsync, rclone (which writes in place) and `stowage` are told to replace whatever the times say. " +
    "rsync and `stowage` rename over each file, so that a reader sees the old or the new one; ext4 writes the bytes back at each such rename. The others write into the existing files.",
  metric: { kind: "wall" },
  base: "rsync -a --ignore-times",
  targets: [{ contestant: "stowage upload", limit: 1, of: { kind: "ratio", versus: "rsync -a --ignore-times" } }],
  rounds: { full: 5, quick: 3 },
  writes: true,
  async prepare(arena) {
    const current = await smallFiles(arena);
    return { ...current, previous: await smallFiles(arena) };
  },
  arrange: ({ data, target }) => {
    execFileSync("cp", ["-r", data.previous.path, target]);
  },
  verify: verifyCopy,
  contestants: [
    { name: "cp -r", tool: "cp", start: { command: ({ data, target }) => ["cp", "-r", `${data.path}/.`, target] } },
    stowage[0] as Contestant<Tree>,
    {
      name: "rsync -a --ignore-times",
      tool: "rsync",
      start: { command: ({ data, target }) => ["rsync", "-a", "--ignore-times", `${data.path}/`, `${target}/`] },
    },
    {
      name: "rclone copy --transfers 16 --ignore-times",
      tool: "rclone",
      start: { command: ({ data, target }) => ["rclone", "copy", "--transfers", "16", "--ignore-times", data.path, target] },
    },
    fsExtra,
    fsCp,
  ],
});

export const smallFileWorkloads: readonly Workload[] = [copy, replace] as readonly Workload[];
