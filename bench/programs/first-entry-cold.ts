// first-entry-cold <workspace root>: prints the path of the first file that a listing gives.
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace } from "@stowage/core";

const [hostPath] = process.argv.slice(2) as [string];
const workspace = await openWorkspace({ name: "bench", broker: { type: "host", hostPath } }, { brokers: [hostBroker] });
for await (const { file } of workspace.listFiles("", { recursive: true })) {
  console.log(file.path);
  break;
}
await workspace.close();
