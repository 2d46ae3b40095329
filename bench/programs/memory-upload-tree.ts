// memory-upload-tree <local folder> <workspace root>: says "idle" when warm, then stores every file as a stream, out as a stream.
import { opendir } from "node:fs/promises";
import { join, relative } from "node:path";
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace } from "@stowage/core";

const [folder, hostPath] = process.argv.slice(2) as [string, string];
const workspace = await openWorkspace({ name: "bench", broker: { type: "host", hostPath } }, { brokers: [hostBroker] });

async function* uploads(below = folder): AsyncGenerator<{ localPath: string; file: string }> {
  for await (const entry of await opendir(below)) {
    const localPath = join(below, entry.name);
    if (entry.isDirectory()) yield* uploads(localPath);
    else yield { localPath, file: relative(folder, localPath) };
  }
}

for await (const first of uploads()) {
  await workspace.uploadFiles([{ ...first, file: "warm-up" }]);
  await workspace.deleteFiles(["warm-up"]);
  break;
}
await new Promise((resolve) => setTimeout(resolve, 300));
console.log("idle");
await new Promise((resolve) => setTimeout(resolve, 100));
let files = 0;
for await (const _outcome of workspace.uploadFiles(uploads())) files++;
await workspace.close();
console.log(JSON.stringify({ files }));
