import { writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { type CaseResult, type ConformanceTarget, formatReport, runConformance } from "@stowage/broker-testkit";
import { escapePath, isBrokerDefinition, StowageError } from "@stowage/core";
import type { Command } from "commander";
import { importModule } from "../lib/brokers.ts";
import type { CommandContext, Start } from "../lib/context.ts";
import { EXIT_CODES } from "../lib/exit.ts";

interface Flags {
  readonly only?: readonly string[];
  readonly report?: string;
  readonly seed?: string;
  readonly soak?: true;
}

export function define(command: Command, start: Start): void {
  command
    .argument("<module>", "a package, or a file such as ./conformance.ts, that exports a conformance target")
    .option("--only <cases>", "run only these cases (B20) or groups (B), with commas between them", (text) => text.split(","))
    .option("--report <file>", "write the report as JSON too")
    .option("--seed <seed>", "repeat the random choices of another run")
    .option("--soak", "many more rounds of everything that is a race")
    .addHelpText(
      "after",
      `
The module exports a ConformanceTarget, by whatever name: see docs/writing-a-broker.md.
Ends with exit code ${EXIT_CODES.verificationFailed} when a case fails.

Examples:
  $ stowage conform ./conformance.ts
  $ stowage conform ./conformance.ts --only B,C20 --verbose
  $ stowage conform @acme/stowage-broker-tape/conformance --report tape.json`,
    )
    .action((specifier: string, flags: Flags) => start((context) => conform(specifier, flags, context)));
}

async function conform(specifier: string, flags: Flags, context: CommandContext): Promise<number> {
  const { output, signal, workingDirectory, options } = context;
  const targets = await loadTargets(specifier, workingDirectory);
  let failed = 0;
  const reports: unknown[] = [];
  for (const target of targets) {
    let done = 0;
    const tell = (result: CaseResult): void => {
      done++;
      output.record({ event: "case", target: target.name, ...result });
      if (output.isWatched) output.status(`${target.name}: ${done} cases, ${result.id} ${result.name}`.slice(0, output.columns - 1));
    };
    const report = await runConformance(target, { only: flags.only, seed: flags.seed, soak: flags.soak, signal, report: tell }).catch(
      (error: unknown) => {
        if (error instanceof RangeError)
          throw new StowageError(`${error.message}; the groups are A to J, a case is B20 for instance`, { code: "INVALID_ARGUMENT" });
        throw error;
      },
    );
    output.status(undefined);
    signal.throwIfAborted();
    reports.push(report);
    output.record({ event: "report", ...report });
    output.result(formatReport(report, { verbose: options.verbose }));
    if (!report.passed) failed++;
  }
  if (flags.report !== undefined) {
    await writeFile(
      resolve(workingDirectory, flags.report),
      `${JSON.stringify(reports.length === 1 ? reports[0] : reports, undefined, 2)}\n`,
    );
  }
  return failed > 0 ? EXIT_CODES.verificationFailed : EXIT_CODES.success;
}

async function loadTargets(specifier: string, workingDirectory: string): Promise<ConformanceTarget[]> {
  const { exports, url } = await importModule(specifier, pathToFileURL(join(workingDirectory, "here.js")).href);
  const found = new Map<ConformanceTarget, string>();
  for (const [name, value] of Object.entries(exports)) if (isTarget(value)) found.set(value, name);
  if (found.size === 0) {
    throw new StowageError(
      `the module "${escapePath(specifier)}" exports no conformance target; export const conformanceTarget = { name, definition, open } from it`,
      { code: "INVALID_CONFIGURATION" },
    );
  }
  // By this name a second process finds the same target, for the cases that need one.
  return [...found].map(([target, name]) => (name === "conformanceTarget" ? { ...target, module: target.module ?? url } : target));
}

function isTarget(value: unknown): value is ConformanceTarget {
  const target = value as Partial<ConformanceTarget> | null;
  return (
    typeof target === "object" &&
    target !== null &&
    isBrokerDefinition(target.definition) &&
    typeof target.open === "function" &&
    typeof target.name === "string"
  );
}
