// first-entry <workspace root>: how long a listing of the whole workspace takes to give its first file, in a process that has listed before.
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace } from "@stowage/core";

const [hostPath] = process.argv.slice(2) as [string];
const workspace = await openWorkspace({ name: "bench", broker: { type: "host", hostPath } }, { brokers: [hostBroker] });

async function firstEntry(): Promise<number> {
  const started = performance.now();
  for await (const _details of workspace.listFiles("", { recursive: true })) return performance.now() - started;
  throw new Error("the workspace is empty");
}

for (let warmUp = 0; warmUp < 3; warmUp++) {
  await firstEntry();
  await new Promise((resolve) => setTimeout(resolve, 50));
}
const firstEntryMs = await firstEntry();
await workspace.close();
console.log(JSON.stringify({ firstEntryMs }));
