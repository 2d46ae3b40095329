// transfer-tree <workspace root> <workspace root>: copies every file of one workspace into the other, as a stream.
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace, transferFiles } from "@stowage/core";

const [from, to] = process.argv.slice(2) as [string, string];
const source = await openWorkspace({ name: "source", broker: { type: "host", hostPath: from } }, { brokers: [hostBroker] });
const target = await openWorkspace({ name: "target", broker: { type: "host", hostPath: to } }, { brokers: [hostBroker] });
let files = 0;
for await (const _outcome of transferFiles(source, target, source.listFiles("", { recursive: true }))) files++;
await source.close();
await target.close();
console.log(JSON.stringify({ files }));
