// download-file <workspace root> <path in it> <local file> [checksum]: fetches one file.
import { hostBroker } from "@stowage/broker-host";
import { type DownloadOptions, openWorkspace } from "@stowage/core";

const [hostPath, file, localPath, checksum] = process.argv.slice(2) as [string, string, string, DownloadOptions["checksum"]?];
const workspace = await openWorkspace({ name: "bench", broker: { type: "host", hostPath } }, { brokers: [hostBroker] });
const [outcome] = await workspace.downloadFiles([{ localPath, file }], { checksum });
await workspace.close();
if (outcome?.status !== "done") throw new Error(`the download was ${outcome?.status}`);
console.log(JSON.stringify({ method: outcome.method, verified: outcome.verified, digest: outcome.digest?.value ?? "" }));
