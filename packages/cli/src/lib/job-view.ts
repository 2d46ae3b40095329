import { StringDecoder } from "node:string_decoder";
import { stripVTControlCharacters } from "node:util";
import { escapePath } from "@stowage/core";
import type { JobEvent, JobResult, StepName, StepStatus } from "@stowage/jobs";
import { formatBytes, formatCount, formatDuration } from "./format.ts";
import { type Output, printable } from "./output.ts";
import { createProgressBar, type ProgressBar } from "./progress.ts";

const STEP_NAMES: Readonly<Record<StepName, string>> = { pre: "stage in", main: "run", post: "store" };
const NAME_COLUMNS = 10;

/** So many refused outputs are named in the error itself. */
const REFUSALS_IN_ERROR = 10;

/** Files of a step that have a line of their own on a terminal; the others are counted. */
const SHOWN_FILES = 20;

/** How the command was written, for the line that says that it runs. */
export interface JobViewOptions {
  readonly command: readonly string[];
  /** What the command writes goes through as it is, and nothing else is said. */
  readonly isQuiet: boolean;
}

/** Shows a run as it goes on: for people as they like to read it, with `--json` every event as a record. */
export interface JobView {
  tell(event: JobEvent): void;
}

export function createJobView(output: Output, options: JobViewOptions): JobView {
  const lines = { stdout: createLineReader((line) => showOutput(line)), stderr: createLineReader((line) => showOutput(line)) };
  const decoders = { stdout: new StringDecoder("utf8"), stderr: new StringDecoder("utf8") };
  let [files, bytes]: [number, number] = [0, 0];
  let bar: ProgressBar | undefined;
  let expected: { files?: number; bytes?: number } = {};

  const label = (step: StepName): string => output.style("cyan", STEP_NAMES[step].padEnd(NAME_COLUMNS));
  const continued = " ".repeat(NAME_COLUMNS);
  function showOutput(line: string): void {
    output.line(`${continued}${output.style("dim", "│")} ${printable(stripVTControlCharacters(line))}`);
  }

  function show(event: JobEvent): void {
    switch (event.type) {
      case "run-started":
        output.line(`${output.style("bold", escapePath(event.job))}  run ${event.run}${event.resumed ? ", resumed" : ""}`);
        return;
      case "step-started":
        [files, bytes, expected] = [0, 0, {}];
        if (event.step === "main") output.line(`${label("main")}${options.command.map(quote).join(" ")}`);
        else
          bar = createProgressBar(
            output,
            () => expected,
            () => STEP_NAMES[event.step],
          );
        return;
      case "progress":
        expected = { files: event.total, bytes: event.totalBytes };
        bar?.update({ itemBytes: event.bytes, bytes: event.bytes, done: event.done });
        return;
      case "file": {
        files++;
        bytes += event.size;
        // On a terminal the bar says the rest.
        if (output.isWatched && !output.isVerbose && files > SHOWN_FILES) return;
        const how =
          event.method === undefined
            ? "was there already"
            : `${event.method}, ${event.verified === "none" ? "not verified" : `verified by ${event.verified === "digest" ? (event.digest?.algorithm ?? "digest") : "length"}`}`;
        output.line(
          `${label(event.step)}${escapePath(event.name)} ${event.step === "pre" ? "←" : "→"} ${event.workspace}:${escapePath(event.path)} (${formatBytes(event.size)}, ${how})`,
        );
        return;
      }
      case "refused":
        // The result holds them all, and its first is the run's error.
        return;
      case "output":
        if (options.isQuiet) process[event.stream].write(event.chunk);
        else lines[event.stream].write(event.chunk);
        return;
      case "log":
        if (event.level === "warn") output.notice(printable(event.message));
        return;
      case "step-ended":
        bar?.end();
        bar = undefined;
        for (const reader of Object.values(lines)) reader.end();
        showStepEnd(event.step, event.status, event.durationMs);
        return;
      case "run-ended":
        showResult(event.result);
    }
  }

  function showStepEnd(step: StepName, status: StepStatus, durationMs: number): void {
    if (status === "skipped") return;
    const what = step === "main" || (status !== "succeeded" && files === 0) ? "" : `${formatCount(files, "file")}, ${formatBytes(bytes)} `;
    const how =
      status === "reused" ? "done by the earlier run" : `${status === "succeeded" ? "" : `${status} `}in ${formatDuration(durationMs)}`;
    output.line(`${label(step)}${what}${how}`);
  }

  function showResult(result: JobResult): void {
    const { status, durationMs, errors, directory, leftovers, unmatched, unmatchedCount, refusals, refusalCount } = result;
    if (status === "succeeded" && unmatchedCount > 0) {
      const shown = unmatched.slice(0, 3).map(escapePath).join(", ");
      output.notice(
        `${formatCount(unmatchedCount, "output file")} matched no output and ${unmatchedCount === 1 ? "was" : "were"} not stored: ${shown}${unmatchedCount > 3 ? ", …" : ""}`,
      );
    }
    for (const error of errors) {
      for (const line of error.message.split(/\n(?:\s*- )?/))
        output.failure(`${error.step === undefined ? "" : `${STEP_NAMES[error.step]}: `}${printable(line.trim())}`);
    }
    // The error has named the first ones.
    for (const { path, message } of refusals.slice(REFUSALS_IN_ERROR))
      output.failure(`refused${path === "" ? "" : ` "${path}"`}: ${message}`);
    if (refusalCount > refusals.length) output.failure(`and ${formatCount(refusalCount - refusals.length, "more output")}`);
    if (leftovers.length > 0) output.notice(`could not be removed: ${leftovers.map(escapePath).join(", ")}`);
    const style = status === "succeeded" ? "green" : "red";
    const code = result.exitCode === 0 ? "" : ` with exit code ${result.exitCode}`;
    output.line(`${output.style(style, status)}${code} in ${formatDuration(durationMs)}`);
    if (directory !== undefined)
      output.line(`kept in ${escapePath(directory)}; run it again with --resume to go on, or without to begin anew`);
  }

  return {
    tell(event) {
      if (output.isJson) output.record(toRecord(event, decoders));
      if (!output.isJson || event.type === "run-ended" || event.type === "log") show(event);
    },
  };
}

function toRecord(event: JobEvent, decoders: Readonly<Record<"stdout" | "stderr", StringDecoder>>): object {
  const { type, ...facts } = event;
  // A chunk may end in the middle of a letter: what is missing comes with the next.
  if (event.type === "output") return { event: type, stream: event.stream, text: decoders[event.stream].write(Buffer.from(event.chunk)) };
  return { event: type, ...facts };
}

interface LineReader {
  write(chunk: Uint8Array): void;
  end(): void;
}

/** Lines of a text whose chunks may end anywhere; a carriage return ends one too, and an endless one is cut. */
function createLineReader(onLine: (line: string) => void): LineReader {
  let decoder = new StringDecoder("utf8");
  let rest = "";
  const take = (text: string): void => {
    const lines = (rest + text).split(/\r?\n|\r(?!$)/);
    rest = lines.pop() ?? "";
    for (const line of lines) onLine(line);
    if (rest.length > MAXIMUM_LINE) {
      onLine(rest);
      rest = "";
    }
  };
  return {
    write: (chunk) => take(decoder.write(Buffer.from(chunk))),
    end: () => {
      take(decoder.end());
      if (rest !== "") onLine(rest);
      [decoder, rest] = [new StringDecoder("utf8"), ""];
    },
  };
}

const MAXIMUM_LINE = 16 * 1024;

/** As one would type it. */
function quote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${escapePath(word).replaceAll("'", "'\\''")}'`;
}
