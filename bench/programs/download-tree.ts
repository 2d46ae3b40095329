// download-tree <workspace root> <local folder>: fetches every file, as a stream.
import { join } from "node:path";
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace } from "@stowage/core";

const [hostPath, folder] = process.argv.slice(2) as [string, string];
const workspace = await openWorkspace({ name: "bench", broker: { type: "host", hostPath } }, { brokers: [hostBroker] });
async function* downloads() {
  for await (const { file } of workspace.listFiles("", { recursive: true })) yield { file, localPath: join(folder, file.path) };
}
let files = 0;
for await (const _outcome of workspace.downloadFiles(downloads())) files++;
await workspace.close();
console.log(JSON.stringify({ files }));
