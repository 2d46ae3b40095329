/**
 * Lists a very large workspace and deletes what a filter picks, as two streams: memory stays flat however many files there are.
 * Run it with a number of files: `node examples/list-a-million-files.ts 1000000`. The default is 20,000.
 */
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace } from "@stowage/core";

const count = Number(process.argv[2] ?? 20_000);
const folder = mkdtempSync(join(tmpdir(), "stowage-example-"));
for (let index = 0; index < count; index++) {
  const directory = join(folder, String(Math.floor(index / 10_000)));
  if (index % 10_000 === 0) mkdirSync(directory);
  closeSync(openSync(join(directory, `${index}.${index % 4 === 0 ? "tmp" : "dat"}`), "w"));
}

const workspace = await openWorkspace({ name: "large", broker: { type: "host", hostPath: folder } }, { brokers: [hostBroker] });
try {
  let listed = 0;
  async function* temporaryFiles(): AsyncGenerator<string> {
    for await (const { file } of workspace.listFiles("", { recursive: true })) {
      listed += 1;
      if (file.path.endsWith(".tmp")) yield file.path;
    }
  }
  const idle = process.memoryUsage().rss;
  let deleted = 0;
  let peak = idle;
  for await (const outcome of workspace.deleteFiles(temporaryFiles())) {
    if (outcome.status === "done") deleted += 1;
    if (deleted % 10_000 === 0) peak = Math.max(peak, process.memoryUsage().rss);
  }
  console.log(`${listed.toLocaleString("en")} files listed, ${deleted.toLocaleString("en")} deleted`);
  console.log(`memory above idle: ${((peak - idle) / 1024 / 1024).toFixed(0)} MiB`);
} finally {
  await workspace.close();
  rmSync(folder, { recursive: true });
}
