/** One large file. */
import { execFileSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Arena } from "../lib/arena.ts";
import { type BigFile, makeBigFile, verifyBigFile } from "../lib/data-sets.ts";
import { type Contestant, defineWorkload, type Measurement, type Run, type Workload } from "../lib/workload.ts";

const GIB = 1024 ** 3;

/** Where every contestant stores the file; the folder is there before the clock starts. */
const stored = ({ target }: Run<unknown>): string => join(target, "big.bin");
const makeFolder = ({ target }: Run<unknown>): void => mkdirSync(target);
const bigFile = (arena: Arena, folder: string): BigFile => makeBigFile(join(folder, "source.bin"), arena.quick ? GIB : 4 * GIB);

function verifyStored(run: Run<BigFile>, { reported }: Measurement, contestant: string): void {
  verifyBigFile(stored(run), run.data);
  if (!contestant.startsWith("stowage")) return;
  if (contestant.endsWith("crc32")) {
    if (reported.verified !== "digest" || reported.digest !== run.data.crc32.toString(16).padStart(8, "0")) {
      throw new Error(`the outcome says verified: ${reported.verified}, digest ${reported.digest}`);
    }
  } else if (reported.verified === "none" || reported.verified === undefined) throw new Error("the outcome says that nothing was verified");
}

const cp: Contestant<BigFile> = { name: "cp", tool: "cp", start: { command: (run) => ["cp", run.data.path, stored(run)] } };
const stowage: Contestant<BigFile>[] = [
  {
    name: "stowage upload",
    tool: "stowage",
    start: { program: "upload-file", arguments: (run) => [run.data.path, run.target, "big.bin"] },
  },
  {
    name: "stowage upload, crc32",
    tool: "stowage",
    start: { program: "upload-file", arguments: (run) => [run.data.path, run.target, "big.bin", "crc32"] },
  },
  {
    name: "stowage download",
    tool: "stowage",
    start: { program: "download-file", arguments: (run) => [join(run.data.path, ".."), "source.bin", stored(run)] },
  },
  {
    name: "stowage download, crc32",
    tool: "stowage",
    start: { program: "download-file", arguments: (run) => [join(run.data.path, ".."), "source.bin", stored(run), "crc32"] },
  },
];

const copy = defineWorkload<BigFile>({
  name: "copy-big-file",
  title: "Copy one 4 GiB file",
  description:
    "One file (4 GiB; quick mode 1 GiB) in the page cache is copied inside one file system, start of the process included. Every copy is compared with the source byte for byte. " +
    "`stowage` publishes atomically and checks length and unchanged source; with crc32 it also computes and verifies a digest of what was written. rclone compares MD5 by default.",
  metric: { kind: "wall" },
  base: "cp",
  targets: [
    { contestant: "stowage upload", limit: 1.15, of: { kind: "ratio", versus: "cp" } },
    { contestant: "stowage upload", limit: 1, of: { kind: "ratio", versus: "cp" }, metric: "cpu" },
    { contestant: "stowage upload, crc32", limit: 2.1, of: { kind: "ratio", versus: "cp" } },
    { contestant: "stowage download", limit: 1.15, of: { kind: "ratio", versus: "cp" } },
    { contestant: "stowage upload", limit: 0.25, of: { kind: "ratio", versus: "rclone copyto" } },
    { contestant: "stowage upload", limit: 0.95, of: { kind: "ratio", versus: "fs-extra.copy" } },
  ],
  rounds: { full: 5, quick: 3 },
  writes: true,
  removeTargets: "at once",
  prepare: async (arena) => bigFile(arena, arena.folder("big-file")),
  arrange: makeFolder,
  verify: verifyStored,
  contestants: [
    cp,
    ...stowage,
    { name: "rsync -a --inplace", tool: "rsync", start: { command: (run) => ["rsync", "-a", "--inplace", run.data.path, stored(run)] } },
    { name: "rclone copyto", tool: "rclone", start: { command: (run) => ["rclone", "copyto", run.data.path, stored(run)] } },
    { name: "fs-extra.copy", tool: "fs-extra", start: { program: "fs-extra-copy", arguments: (run) => [run.data.path, stored(run)] } },
    { name: "fs.cp", tool: "node", start: { program: "fs-cp", arguments: (run) => [run.data.path, stored(run)] } },
  ],
});

interface ReflinkData {
  readonly big: BigFile;
  readonly small: BigFile;
}
const reflinkUpload = (which: "big" | "small"): Contestant<ReflinkData>["start"] => ({
  program: "upload-file",
  arguments: (run) => [run.data[which].path, run.target, "big.bin"],
});

const reflink = defineWorkload<ReflinkData>({
  name: "reflink-big-file",
  title: "Copy one file on XFS by reflink: no matter how large",
  description:
    "A 4 GiB (quick mode 1 GiB) and a 128 MiB file on an XFS with reflinks. What clones takes the same time for both; nobody is told to clone. Every copy is compared with the source byte for byte.",
  metric: { kind: "wall" },
  base: "cp, 4 GiB",
  targets: [{ contestant: "stowage upload, 4 GiB", limit: 1.25, of: { kind: "ratio", versus: "stowage upload, 128 MiB" } }],
  rounds: { full: 7, quick: 3 },
  writes: true,
  fileSystem: "xfs",
  async prepare(arena) {
    const folder = arena.folder("reflink");
    const data = { big: bigFile(arena, folder), small: makeBigFile(join(folder, "small.bin"), 128 * 1024 ** 2) };
    execFileSync("sync", ["-f", folder]); // a clone waits for its source's dirty pages
    return data;
  },
  arrange: makeFolder,
  verify(run, { reported }, contestant) {
    verifyBigFile(stored(run), contestant.endsWith("128 MiB") ? run.data.small : run.data.big);
    if (contestant.startsWith("stowage") && reported.method !== "reflink") throw new Error(`the method was ${reported.method}`);
  },
  contestants: [
    { name: "cp, 4 GiB", tool: "cp", start: { command: (run) => ["cp", run.data.big.path, stored(run)] } },
    { name: "cp, 128 MiB", tool: "cp", start: { command: (run) => ["cp", run.data.small.path, stored(run)] } },
    { name: "stowage upload, 4 GiB", tool: "stowage", start: reflinkUpload("big") },
    { name: "stowage upload, 128 MiB", tool: "stowage", start: reflinkUpload("small") },
    {
      name: "fs-extra.copy, 4 GiB",
      tool: "fs-extra",
      start: { program: "fs-extra-copy", arguments: (run) => [run.data.big.path, stored(run)] },
    },
    {
      name: "fs.cp, 4 GiB",
      tool: "node",
      start: { program: "fs-cp", arguments: (run) => [run.data.big.path, stored(run)] },
    },
  ],
});

export const bigFileWorkloads: readonly Workload[] = [copy, reflink] as readonly Workload[];
