// upload-tree <local folder> <workspace root>: stores every file below the folder.
import { readdirSync } from "node:fs";
import { join, relative } from "node:path";
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace } from "@stowage/core";

const [folder, hostPath] = process.argv.slice(2) as [string, string];
const uploads = readdirSync(folder, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => join(entry.parentPath, entry.name))
  .map((localPath) => ({ localPath, file: relative(folder, localPath) }));
const workspace = await openWorkspace({ name: "bench", broker: { type: "host", hostPath } }, { brokers: [hostBroker] });
const outcomes = await workspace.uploadFiles(uploads);
await workspace.close();
console.log(JSON.stringify({ files: outcomes.length }));
