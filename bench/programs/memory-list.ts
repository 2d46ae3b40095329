// memory-list <workspace root>: says "idle" when warm, then lists one huge directory.
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace } from "@stowage/core";

const [hostPath] = process.argv.slice(2) as [string];
const workspace = await openWorkspace({ name: "bench", broker: { type: "host", hostPath } }, { brokers: [hostBroker] });
for await (const _details of workspace.listFiles("", { recursive: true })) break;
await new Promise((resolve) => setTimeout(resolve, 300));
console.log("idle");
await new Promise((resolve) => setTimeout(resolve, 100));
let files = 0;
for await (const _details of workspace.listFiles("", { recursive: true })) files++;
await workspace.close();
console.log(JSON.stringify({ files }));
