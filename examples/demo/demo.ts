/**
 * The main job: public data in one workspace, a computation over it, verified results in another. The job stands in job.yaml, the
 * computation in analyse.mjs; neither knows where the files live. `stowage run job.yaml` does the same with workspaces from stowage.yaml.
 */
import { mkdir, readFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { styleText } from "node:util";
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace, StowageError } from "@stowage/core";
import { type JobEvent, type JobResult, runJob } from "@stowage/jobs";
import { parse } from "yaml";

const here = dirname(fileURLToPath(import.meta.url));
const results = join(here, "results");
const workspaces = {
  // vega-datasets, from the npm registry: real flights and airports of the United States.
  "public-data": { readOnly: true, broker: { type: "host", hostPath: join(here, "../../node_modules/vega-datasets/data") } },
  results: { broker: { type: "host", hostPath: results } },
} as const;

await mkdir(results, { recursive: true });
const job = parse(await readFile(join(here, "job.yaml"), "utf8"));
const result = await runJob(job, {
  baseDirectory: here,
  workspaces,
  brokers: [hostBroker], // or brokerModules: ["@stowage/broker-host"], and staging runs in processes of its own
  onEvent: print,
});
summarise(result);
if (result.exitCode === 0) await lookAgain();
process.exitCode = result.exitCode;

/** Says what happens while it happens. */
function print(event: JobEvent): void {
  if (event.type === "run-started") heading(`job ${event.job}`);
  else if (event.type === "step-started")
    heading({ pre: "1. staging inputs", main: "2. running the command", post: "3. storing outputs" }[event.step]);
  else if (event.type === "file") {
    const how = `${event.method ?? "there already"}, verified by ${event.verified}${event.digest ? ` ${event.digest.algorithm} ${event.digest.value}` : ""}`;
    const arrow = event.step === "pre" ? "←" : "→";
    console.log(`   ${arrow} ${`${event.workspace}:${event.path}`.padEnd(46)} ${size(event.size).padStart(9)}  ${dim(how)}`);
  } else if (event.type === "output") {
    const lines = Buffer.from(event.chunk).toString().trimEnd().split("\n");
    console.log(lines.map((line) => `   ${event.stream === "stderr" ? styleText("red", "!") : dim("|")} ${line}`).join("\n"));
  }
}

function summarise({ status, outputs, errors, steps }: JobResult): void {
  heading(`${status} in ${(steps.reduce((sum, step) => sum + step.durationMs, 0) / 1000).toFixed(2)} s`);
  for (const error of errors) console.log(`   ${styleText("red", error.code)} ${error.message}`);
  const bytes = outputs.reduce((sum, output) => sum + output.size, 0);
  if (outputs.length > 0) {
    const verified = outputs.every((output) => output.verified === "digest") ? "all verified by digest" : "verified";
    console.log(`   ${outputs.length} files, ${size(bytes)}, ${verified}, in ${relative(process.cwd(), results)}`);
  }
}

/** What a consumer of the results would do: open the workspace, list it, read a file. */
async function lookAgain(): Promise<void> {
  const workspace = await openWorkspace({ name: "results", ...workspaces.results }, { brokers: [hostBroker] });
  try {
    for await (const { file, modified } of workspace.listFiles("late-departures")) {
      console.log(`   ${file.path.padEnd(48)} ${size(file.size ?? 0).padStart(9)}  ${dim(modified?.toISOString() ?? "")}`);
    }
  } catch (error) {
    if (!StowageError.is(error)) throw error;
    console.error(`${error.code}: ${error.message}`);
    process.exitCode = 1;
  } finally {
    await workspace.close();
  }
}

function heading(text: string): void {
  console.log(`\n${styleText("bold", text)}`);
}

function dim(text: string): string {
  return styleText("dim", text);
}

function size(bytes: number): string {
  return bytes < 1024 ? `${bytes} B` : bytes < 1024 ** 2 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
}
