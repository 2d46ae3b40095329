/** Shows progress while files are stored, cancels half way, and reads from the error what became of every one of them. */
import { mkdir, mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hostBroker } from "@stowage/broker-host";
import { createLimits, openWorkspace, TransferError } from "@stowage/core";

const MEBIBYTE = 1024 * 1024;
const folder = await mkdtemp(join(tmpdir(), "stowage-example-"));
await mkdir(join(folder, "store"));
const uploads = [];
for (let index = 0; index < 6; index++) {
  const localPath = join(folder, `${index}.bin`);
  await writeFile(localPath, "");
  await truncate(localPath, 4 * MEBIBYTE);
  uploads.push({ file: { path: `${index}.bin`, size: 4 * MEBIBYTE }, localPath });
}

const workspace = await openWorkspace(
  { name: "store", broker: { type: "host", hostPath: join(folder, "store") } },
  { brokers: [hostBroker] },
);
const cancel = new AbortController();
try {
  await workspace.uploadFiles(uploads, {
    signal: cancel.signal,
    concurrency: 1,
    checksum: "crc32",
    limits: createLimits({ bytesPerSecond: 32 * MEBIBYTE }),
    onProgress({ bytes, totalBytes, done, total }) {
      console.log(
        `${(bytes / MEBIBYTE).toFixed(0).padStart(3)} of ${((totalBytes ?? 0) / MEBIBYTE).toFixed(0)} MiB, ${done} of ${total} files`,
      );
      if (done >= 2) cancel.abort();
    },
  });
} catch (error) {
  if (!TransferError.is(error)) throw error;
  console.log(`ended with ${error.code}: ${error.counts.done} done, ${error.counts.cancelled} cancelled, ${error.counts.failed} failed`);
  for (const outcome of error.outcomes) {
    const item = outcome.item as (typeof uploads)[number];
    console.log(`  ${item.file.path}: ${outcome.status}${outcome.status === "done" ? `, verified by ${outcome.verified}` : ""}`);
  }
  const left = [];
  for await (const { file } of workspace.listFiles()) left.push(file.path);
  console.log(`in the workspace: ${left.sort().join(", ")}`);
} finally {
  await workspace.close();
  await rm(folder, { recursive: true });
}
