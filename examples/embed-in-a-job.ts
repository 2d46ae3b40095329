/**
 * Stowage inside the job's own program: stage in, work, stage out, in one process. No engine, no container, no second program: what a
 * job's image needs is this package and a broker.
 */
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hostBroker } from "@stowage/broker-host";
import { type JobSpecInput, stageIn, stageOut } from "@stowage/jobs";

const folder = await mkdtemp(join(tmpdir(), "stowage-example-"));
await mkdir(join(folder, "samples/2026"), { recursive: true });
await mkdir(join(folder, "products"));
for (const day of [1, 2, 3]) await writeFile(join(folder, `samples/2026/day-${day}.csv`), `${day * 10}\n${day * 20}\n`);

const job: JobSpecInput = {
  name: "daily-means",
  workspaces: {
    samples: { readOnly: true, broker: { type: "host", hostPath: join(folder, "samples") } },
    products: { broker: { type: "host", hostPath: join(folder, "products") } },
  },
  inputs: [{ name: "days", workspace: "samples", glob: "2026/day-*.csv" }],
  outputs: [{ name: "means", workspace: "products", glob: "*.json", path: "{job}/{name}" }],
  checksum: "sha256",
};
const directory = join(folder, "work");

try {
  const staged = await stageIn(job, { directory, brokers: [hostBroker] });
  const days = staged.input("days").files;
  console.log(`staged in ${days.length} files: ${days.map((file) => file.path).join(", ")}`);

  const means: Record<string, number> = {};
  for (const { path, localPath } of days) {
    const values = (await readFile(localPath, "utf8")).trim().split("\n").map(Number);
    means[path] = values.reduce((sum, value) => sum + value, 0) / values.length;
  }
  await writeFile(join(staged.outputDirectory, "means.json"), JSON.stringify(means));

  const { outputs } = await stageOut(job, { directory, brokers: [hostBroker] });
  for (const output of outputs) {
    console.log(
      `stored ${output.workspace}:${output.path}, ${output.size} bytes, verified by ${output.verified} (${output.digest?.algorithm})`,
    );
  }
  console.log(await readFile(join(folder, "products/daily-means/means.json"), "utf8"));
} finally {
  await rm(folder, { recursive: true });
}
