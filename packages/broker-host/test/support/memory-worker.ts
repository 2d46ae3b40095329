/**
 * Does one large thing in a host workspace and prints, as JSON, how far memory rose above idle while it did, and what it left open. Arguments: what, how
 * many (bytes or files), root, local directory, executor.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace } from "@stowage/core";

const [what, amountText, root, local, executor] = process.argv.slice(2) as [string, string, string, string, "auto" | "inline" | "process"];
const amount = Number(amountText);

const descriptors = (): number => readdirSync("/proc/self/fd").length;
const idleDescriptors = descriptors();
const workspace = await openWorkspace({ name: "memory", broker: { type: "host", hostPath: root, executor } }, { brokers: [hostBroker] });
await workspace.statFile("warm");
for await (const _ of workspace.listFiles("", {})) break;
globalThis.gc?.();

const residentMiB = (pid: number): number => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]) / 1024;
const children = (): number[] =>
  readFileSync(`/proc/self/task/${process.pid}/children`, "utf8").trim().split(" ").filter(Boolean).map(Number);

const idle = process.memoryUsage.rss() / 2 ** 20;
// A child is as large as this program when it has nothing to do; where there is one already, it is asked itself, once its watchdog has started.
await delay(300);
const idleChild = children().length > 0 ? residentMiB(children()[0]!) : idle;
/** The most of each child. */
const seen = new Map<number, number>();
let most = idle;
const look = (): void => {
  most = Math.max(most, process.memoryUsage.rss() / 2 ** 20);
  for (const pid of children()) {
    try {
      seen.set(pid, Math.max(seen.get(pid) ?? 0, residentMiB(pid)));
    } catch {
      // It has just ended.
    }
  }
};
const timer = setInterval(look, 50);

let count = 0;
switch (what) {
  case "file": {
    await workspace.uploadFiles([{ file: "big", localPath: join(local, "big") }]);
    await workspace.uploadFiles([{ file: "checked", localPath: join(local, "big") }], { checksum: "crc32" });
    await workspace.downloadFiles([{ file: "big", localPath: join(local, "back") }]);
    const reader = await workspace.openRead("big");
    for await (const chunk of reader) count += chunk.length;
    await reader.close();
    break;
  }
  case "stream": {
    const uploads = (async function* () {
      for (let index = 0; index < amount; index++) yield { file: `d${index % 1000}/${index}`, localPath: join(local, "small") };
    })();
    for await (const { status } of workspace.uploadFiles(uploads)) if (status === "done") count++;
    break;
  }
  case "list": {
    for await (const _ of workspace.listFiles("many", {})) count++;
    break;
  }
}
look();
clearInterval(timer);
await workspace.close();
const left = descriptors() - idleDescriptors;
console.log(
  JSON.stringify({
    count,
    parent: most - idle,
    child: Math.max(0, ...[...seen.values()].map((child) => child - idleChild)),
    descriptors: left,
    children: seen.size,
  }),
);
