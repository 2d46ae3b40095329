// list-files <workspace root>: counts every file, its bytes and the length of its path.
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace } from "@stowage/core";

const [hostPath] = process.argv.slice(2) as [string];
const workspace = await openWorkspace({ name: "bench", broker: { type: "host", hostPath } }, { brokers: [hostBroker] });
let [files, bytes, pathCharacters] = [0, 0, 0];
for await (const { file, size } of workspace.listFiles("", { recursive: true })) {
  files++;
  bytes += size;
  pathCharacters += file.path.length;
}
await workspace.close();
console.log(JSON.stringify({ files, bytes, pathCharacters }));
