/** What the packages cost those who install and import them, what the engine costs an item, and memory. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Arena } from "../lib/arena.ts";
import { type BigFile, makeBigFile, makeTree, type Tree, verifyBigFile, verifyTree } from "../lib/data-sets.ts";
import { type Contestant, defineWorkload, type Run, type Workload } from "../lib/workload.ts";

const GIB = 1024 ** 3;

const importTime = defineWorkload<undefined>({
  name: "import-time",
  title: "Import time",
  description: "A whole process that imports and ends. The files are in the page cache; nothing is compiled ahead.",
  metric: { kind: "wall" },
  base: "zod",
  targets: [{ contestant: "core + broker-host", limit: 20, of: { kind: "difference", versus: "zod" } }],
  rounds: { full: 41, quick: 15 },
  prepare: async () => undefined,
  contestants: [
    { name: "nothing", tool: "node", start: { program: "import-nothing", arguments: () => [] } },
    { name: "zod", tool: "node", start: { program: "import-zod", arguments: () => [] } },
    { name: "core", tool: "stowage", start: { program: "import-core", arguments: () => [] } },
    { name: "core + broker-host", tool: "stowage", start: { program: "import-stowage", arguments: () => [] } },
    { name: "fs-extra", tool: "fs-extra", start: { program: "import-fs-extra", arguments: () => [] } },
  ],
});

interface InstalledData {
  folder(name: string): string;
}
const sizeOf = (...packages: string[]): Contestant<InstalledData>["start"] => ({
  program: "install-size",
  arguments: ({ data }) => packages.map((name) => data.folder(name)),
});

const installSize = defineWorkload<InstalledData>({
  name: "install-size",
  title: "Install size",
  description: "Bytes of the installed packages' own files, sources and source maps included.",
  metric: { kind: "reported", name: "kibibytes", unit: "KiB" },
  base: "zod",
  targets: [{ contestant: "core + broker-host", limit: 1024, of: { kind: "value" } }],
  rounds: { full: 1, quick: 1 },
  prepare: async ({ installed }) => ({ folder: (name) => join(installed.folder, "node_modules", name) }),
  contestants: [
    { name: "zod", tool: "node", start: sizeOf("zod") },
    { name: "core", tool: "stowage", start: sizeOf("@stowage/core") },
    { name: "broker-host", tool: "stowage", start: sizeOf("@stowage/broker-host") },
    { name: "core + broker-host", tool: "stowage", start: sizeOf("@stowage/core", "@stowage/broker-host") },
  ],
});

interface MemoryData {
  readonly file: BigFile;
  readonly tree: Tree;
  readonly huge: Tree;
}
/** The workspace's root, with room beside it. */
const rootOf = ({ target }: Run<unknown>): string => join(target, "root");
const uploadFile = (...checksum: string[]): Contestant<MemoryData>["start"] => ({
  program: "memory-upload-file",
  arguments: (run) => [run.data.file.path, rootOf(run), ...checksum],
});
const aboveIdle = (contestant: string): Workload["targets"][number] => ({ contestant, limit: 150, of: { kind: "value" } });

const memory = defineWorkload<MemoryData>({
  name: "memory",
  title: "Memory above idle",
  description:
    "The highest resident memory of the process and its children together, sampled every 10 ms, above that of the idle, warmed-up tree: one 4 GiB file (quick mode 1 GiB), 100,000 files as a stream (quick 20,000), " +
    "and one directory of 1,000,000 names (quick 100,000). Pages that processes share count once for each.",
  metric: { kind: "memory" },
  base: "upload 4 GiB",
  targets: [
    aboveIdle("upload 4 GiB"),
    aboveIdle("upload 4 GiB, crc32"),
    aboveIdle("upload 100,000 files"),
    aboveIdle("list 1,000,000 names"),
  ],
  rounds: { full: 3, quick: 1 },
  async prepare(arena: Arena) {
    const folder = arena.folder("memory");
    return {
      file: makeBigFile(join(folder, "source.bin"), arena.quick ? GIB : 4 * GIB),
      tree: makeTree(join(folder, "tree"), { directories: arena.quick ? 20 : 100, filesPerDirectory: 1000, bytes: 64 }),
      huge: makeTree(join(folder, "huge"), { directories: 1, filesPerDirectory: arena.quick ? 100_000 : 1_000_000 }),
    };
  },
  removeTargets: "at once",
  arrange(run) {
    mkdirSync(rootOf(run), { recursive: true });
  },
  verify(run, { reported }, contestant) {
    const files = contestant.startsWith("upload 4 GiB") ? 1 : contestant.startsWith("upload") ? run.data.tree.files : run.data.huge.files;
    if (reported.files !== files) throw new Error(`${reported.files} files instead of ${files}`);
    if (files === 1) verifyBigFile(join(rootOf(run), "big.bin"), run.data.file);
    else if (contestant.startsWith("upload")) verifyTree(rootOf(run), run.data.tree);
  },
  contestants: [
    { name: "upload 4 GiB", tool: "stowage", start: uploadFile() },
    { name: "upload 4 GiB, crc32", tool: "stowage", start: uploadFile("crc32") },
    {
      name: "upload 100,000 files",
      tool: "stowage",
      start: { program: "memory-upload-tree", arguments: (run) => [run.data.tree.path, rootOf(run)] },
    },
    { name: "list 1,000,000 names", tool: "stowage", start: { program: "memory-list", arguments: ({ data }) => [data.huge.path] } },
  ],
});

const variant = (name: string): Contestant<{ items: number }>["start"] => ({
  program: "engine-overhead",
  arguments: ({ data }) => [name, String(data.items)],
});

const engine = defineWorkload<{ items: number }>({
  name: "engine-overhead",
  title: "What the transfer engine costs an item",
  description:
    "100,000 copies inside the memory broker (quick mode 20,000), second run in one process: the broker called in a bare loop, and through `Workspace`, as an array, as a stream, with progress. " +
    "`deleteFiles` goes through the broker's batch method.",
  metric: { kind: "reported", name: "microsecondsPerItem", unit: "µs" },
  base: "broker.copyFile in a loop",
  targets: [],
  rounds: { full: 9, quick: 3 },
  prepare: async (arena) => ({ items: arena.quick ? 20_000 : 100_000 }),
  contestants: [
    { name: "broker.copyFile in a loop", tool: "stowage", start: variant("direct") },
    { name: "copyFiles, array", tool: "stowage", start: variant("array") },
    { name: "copyFiles, array, with progress", tool: "stowage", start: variant("progress") },
    { name: "copyFiles, stream", tool: "stowage", start: variant("stream") },
    { name: "deleteFiles, array", tool: "stowage", start: variant("batch") },
  ],
});

export const footprintWorkloads: readonly Workload[] = [importTime, installSize, memory, engine] as readonly Workload[];
