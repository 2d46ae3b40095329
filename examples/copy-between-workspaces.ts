/** Copies a tree from one workspace into another; the second run finds everything the same and moves no byte. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace, transferFiles, type Workspace } from "@stowage/core";

const folder = await mkdtemp(join(tmpdir(), "stowage-example-"));
await mkdir(join(folder, "from/tiles/7"), { recursive: true });
await mkdir(join(folder, "to"));
for (let tile = 0; tile < 25; tile++) await writeFile(join(folder, `from/tiles/7/${tile}.bin`), Buffer.alloc(10_000 + tile, tile));

const brokers = [hostBroker];
const from = await openWorkspace({ name: "from", readOnly: true, broker: { type: "host", hostPath: join(folder, "from") } }, { brokers });
const to = await openWorkspace({ name: "to", broker: { type: "host", hostPath: join(folder, "to") } }, { brokers });
try {
  for (const run of ["first", "second"]) console.log(`${run} run: ${await copyTree(from, to)}`);
} finally {
  await Promise.all([from.close(), to.close()]);
  await rm(folder, { recursive: true });
}

/** A listing goes in as a stream, outcomes come out as one: memory does not grow with the number of files. */
async function copyTree(source: Workspace, target: Workspace): Promise<string> {
  async function* files(): AsyncGenerator<{ file: string; newPath: string }> {
    for await (const { file } of source.listFiles("", { recursive: true })) yield { file: file.path, newPath: `copy/${file.path}` };
  }
  const counts = { done: 0, skipped: 0, bytes: 0 };
  for await (const outcome of transferFiles(source, target, files(), { ifExists: "skip-same" })) {
    if (outcome.status === "done") {
      counts.done += 1;
      counts.bytes += outcome.bytes;
    } else if (outcome.status === "skipped") counts.skipped += 1;
  }
  return `${counts.done} copied (${counts.bytes} bytes), ${counts.skipped} the same already`;
}
