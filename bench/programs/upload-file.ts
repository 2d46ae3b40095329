// upload-file <local file> <workspace root> <path in it> [checksum]: stores one file.
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace, type TransferOptions } from "@stowage/core";

const [localPath, hostPath, file, checksum] = process.argv.slice(2) as [string, string, string, TransferOptions["checksum"]?];
const workspace = await openWorkspace({ name: "bench", broker: { type: "host", hostPath } }, { brokers: [hostBroker] });
const [outcome] = await workspace.uploadFiles([{ localPath, file }], { checksum });
await workspace.close();
if (outcome?.status !== "done") throw new Error(`the upload was ${outcome?.status}`);
console.log(JSON.stringify({ method: outcome.method, verified: outcome.verified, digest: outcome.digest?.value ?? "" }));
