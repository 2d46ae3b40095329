/**
 * Files on S3: stored, listed, moved and signed for. Runs against any bucket:
 *
 *     S3_BUCKET=my-bucket node examples/store-on-s3.ts                                  # Amazon's, with your usual credentials
 *     S3_BUCKET=b S3_ENDPOINT=http://127.0.0.1:9000 S3_ACCESS_KEY=… S3_SECRET_KEY=… node examples/store-on-s3.ts
 *
 * Everything lies below `stowage-example/` there and is removed at the end.
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { s3Broker } from "@stowage/broker-s3";
import { openWorkspace, validateWorkspace, type WorkspaceConfig } from "@stowage/core";

const { S3_BUCKET, S3_ENDPOINT, S3_ACCESS_KEY } = process.env;
if (S3_BUCKET === undefined) {
  console.log("set S3_BUCKET (and S3_ENDPOINT, S3_ACCESS_KEY, S3_SECRET_KEY for a server that is not Amazon's)");
  process.exit(2);
}

const config: WorkspaceConfig = {
  name: "example",
  broker: {
    type: "s3",
    bucket: S3_BUCKET,
    prefix: "stowage-example",
    ...(S3_ENDPOINT !== undefined && { endpoint: S3_ENDPOINT, region: "us-east-1" }),
    // Secrets may be named instead of given.
    ...(S3_ACCESS_KEY !== undefined && {
      credentials: { accessKeyId: S3_ACCESS_KEY, secretAccessKey: { fromEnvironment: "S3_SECRET_KEY" } },
    }),
  },
};

const { errors, warnings } = await validateWorkspace(config, { brokers: [s3Broker] });
for (const { name, description } of [...errors, ...warnings]) console.log(`${name}: ${description}`);

const scratch = await mkdtemp(join(tmpdir(), "stowage-example-"));
const workspace = await openWorkspace(config, { brokers: [s3Broker] });
try {
  const localPath = join(scratch, "large.bin");
  await writeFile(localPath, Buffer.alloc(20 * 1024 * 1024, "stowage"));
  const [stored] = await workspace.uploadFiles([{ localPath, file: { path: "raw/large.bin", metadata: { scene: "17" } } }]);
  if (stored?.status === "done") console.log(`stored by ${stored.method}, ${stored.bytes} bytes, verified by ${stored.verified}`);

  await workspace.moveFiles([{ file: "raw/large.bin", newPath: "done/large.bin" }], { ifExists: "replace" });
  for await (const { file, size } of workspace.listFiles("", { recursive: true })) console.log(`listed: ${file.path}, ${size} bytes`);

  const url = await workspace.fileUrl("done/large.bin", { method: "GET", expiresInSeconds: 60 });
  const head = new Uint8Array(await (await fetch(String(url), { headers: { range: "bytes=0-6" } })).arrayBuffer());
  console.log(`by its signed URL: ${Buffer.from(head).toString()}`);

  await workspace.deleteFiles(["done/large.bin"]);
  for await (const name of workspace.sweep()) console.log(`swept: ${name}`);
  console.log("deleted");
} finally {
  await workspace.close();
  await rm(scratch, { recursive: true, force: true });
}
