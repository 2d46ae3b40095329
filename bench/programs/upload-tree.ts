// upload-tree <local folder> <workspace root>: stores every file below the folder.
import { readdirSync } from "node:fs";
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace } from "@stowage/core";

const [folder, hostPath] = process.argv.slice(2) as [string, string];
const uploads: { localPath: string; file: string }[] = [];
// Not readdirSync's own recursion, which looks at every entry once more.
function collect(prefix: string): void {
  for (const entry of readdirSync(`${folder}/${prefix}`, { withFileTypes: true })) {
    const file = prefix + entry.name;
    if (entry.isDirectory()) collect(`${file}/`);
    else uploads.push({ localPath: `${folder}/${file}`, file });
  }
}
collect("");
const workspace = await openWorkspace({ name: "bench", broker: { type: "host", hostPath } }, { brokers: [hostBroker] });
const outcomes = await workspace.uploadFiles(uploads);
await workspace.close();
console.log(JSON.stringify({ files: outcomes.length }));
