// memory-upload-file <local file> <workspace root> [checksum]: says "idle" when everything is loaded and warm, then stores one file.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace, type TransferOptions } from "@stowage/core";

const [localPath, hostPath, checksum] = process.argv.slice(2) as [string, string, TransferOptions["checksum"]?];
const workspace = await openWorkspace({ name: "bench", broker: { type: "host", hostPath } }, { brokers: [hostBroker] });
const small = join(hostPath, "..", "small.txt");
writeFileSync(small, "small");
await workspace.uploadFiles([{ localPath: small, file: "small.txt" }], { checksum });
await new Promise((resolve) => setTimeout(resolve, 300));
console.log("idle");
await new Promise((resolve) => setTimeout(resolve, 100));
const [outcome] = await workspace.uploadFiles([{ localPath, file: "big.bin" }], { checksum });
await workspace.close();
console.log(JSON.stringify({ files: outcome?.status === "done" ? 1 : 0 }));
