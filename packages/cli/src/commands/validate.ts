import { type AnyBrokerDefinition, escapePath, StowageError, validateWorkspace } from "@stowage/core";
import type { Command } from "commander";
import { parseWorkspaceName } from "../lib/address.ts";
import { mapConcurrently } from "../lib/concurrently.ts";
import { type Configuration, findWorkspace, withoutConsequences } from "../lib/configuration.ts";
import type { CommandContext, Start } from "../lib/context.ts";
import { EXIT_CODES } from "../lib/exit.ts";
import { formatCount } from "../lib/format.ts";
import { parseDuration } from "../lib/option-values.ts";
import { resolveRelativePaths } from "../lib/relative-paths.ts";
import { brokerTypeOf } from "../lib/session.ts";
import { keysOfDescription } from "../lib/structured-file.ts";

interface Flags {
  readonly offline?: true;
  readonly timeout?: number;
}

interface Finding {
  /** `file:line:column`. */
  readonly place: string;
  /** Stable, in snake_case. */
  readonly name: string;
  readonly description: string;
}

interface Result {
  readonly workspace: string;
  readonly type: string | undefined;
  readonly errors: readonly Finding[];
  readonly warnings: readonly Finding[];
}

const AT_ONCE = 8;

export function define(command: Command, start: Start): void {
  command
    .argument("[workspace...]", "names of workspaces (default: all)")
    .option("--offline", "check the configuration only, do not ask the storages")
    .option("--timeout <time>", "how long a storage may take to answer (default: 10s)", parseDuration)
    .addHelpText(
      "after",
      `
Says everything that is wrong, with its line. A storage that cannot be reached is a warning: it may be there tomorrow.
Ends with exit code ${EXIT_CODES.invalidConfiguration} when there is an error.

Examples:
  $ stowage validate
  $ stowage validate --config deploy/stowage.yaml --offline
  $ stowage validate data archive --json`,
    )
    .action((workspaces: string[], flags: Flags) => start((context) => validate(workspaces, flags, context)));
}

async function validate(texts: readonly string[], flags: Flags, context: CommandContext): Promise<number> {
  const { session, output } = context;
  const configuration = await session.configuration();
  const names = texts.length === 0 ? [...configuration.workspaces.keys()] : texts.map(parseWorkspaceName);
  for (const name of names) findWorkspace(configuration, name);
  // Modules that the configuration lists are a part of it, also where no workspace uses them.
  await session.brokers([]);
  const totals = { workspaces: 0, errors: 0, warnings: 0 };
  const results = mapConcurrently(iterate(names), AT_ONCE, (name) => check(name, configuration, flags, context));
  for await (const result of results) {
    totals.workspaces++;
    totals.errors += result.errors.length;
    totals.warnings += result.warnings.length;
    tell(result, context);
  }
  const { workspaces, errors, warnings } = totals;
  output.record({
    event: "summary",
    operation: "validate",
    configuration: configuration.path,
    isValid: errors === 0,
    workspaces,
    errors,
    warnings,
  });
  output.line(`${formatCount(workspaces, "workspace")}, ${formatCount(errors, "error")}, ${formatCount(warnings, "warning")}`);
  return errors > 0 ? EXIT_CODES.invalidConfiguration : EXIT_CODES.success;
}

async function check(name: string, configuration: Configuration, flags: Flags, { session, signal }: CommandContext): Promise<Result> {
  const workspace = findWorkspace(configuration, name);
  const type = brokerTypeOf(workspace);
  const locate = ({ name: finding, description }: { readonly name: string; readonly description: string }): Finding => ({
    place: configuration.locate(["workspaces", name, ...keysOfDescription(description)]),
    name: finding,
    description,
  });
  let definitions: AnyBrokerDefinition[];
  try {
    const brokers = await session.brokers(type === undefined ? [] : [type]);
    definitions = [...brokers.values()].map(({ definition }) => (flags.offline ? { ...definition, validate: undefined } : definition));
  } catch (error) {
    if (!StowageError.is(error)) throw error;
    const place = configuration.locate(["workspaces", name, "broker", "type"]);
    return { workspace: name, type, errors: [{ place, name: error.code.toLowerCase(), description: error.message }], warnings: [] };
  }
  const { errors, warnings } = await validateWorkspace(
    { ...resolveRelativePaths(workspace, configuration.folder), name },
    { brokers: definitions, volumePath: session.volumePath(name), deadlineMs: flags.timeout, signal },
  );
  return {
    workspace: name,
    type,
    errors: withoutConsequences(errors, ({ description }) => description).map(locate),
    warnings: warnings.map(locate),
  };
}

function tell({ workspace, type, errors, warnings }: Result, { output }: CommandContext): void {
  output.record({ event: "workspace", name: workspace, type, isValid: errors.length === 0, errors, warnings });
  const name = `${output.style("bold", escapePath(workspace))}${type === undefined ? "" : ` (${escapePath(type)})`}`;
  if (errors.length > 0) output.line(`${output.style("red", "error")}    ${name}`);
  else if (warnings.length > 0) output.line(`${output.style("yellow", "warning")}  ${name}`);
  else output.line(`${output.style("green", "ok")}       ${name}`);
  for (const { place, description } of warnings) output.line(`         ${place}: ${description}`);
  for (const { place, description } of errors) output.failure(`${place}: ${description}`);
}

async function* iterate<T>(values: readonly T[]): AsyncGenerator<T> {
  yield* values;
}
