import { type AnyBrokerDefinition, type JsonSchema, StowageError, toWorkspaceJsonSchema } from "@stowage/core";
import { didYouMean } from "@stowage/core/broker";
import { jobSpecJsonSchema } from "@stowage/jobs";
import type { Command } from "commander";
import { FIRST_PARTY_PACKAGES, loadFirstParty, loadListedBrokers } from "../lib/brokers.ts";
import type { CommandContext, Start } from "../lib/context.ts";
import { describeError } from "../lib/exit.ts";

const SUBJECTS = ["configuration", "workspace", "job", "broker"] as const;
type Subject = (typeof SUBJECTS)[number];

export function define(command: Command, start: Start): void {
  command
    .argument("[subject]", "configuration (stowage.yaml), workspace, job or broker", "configuration")
    .argument("[type]", 'the broker type, after "broker"')
    .addHelpText(
      "after",
      `
The schema holds the broker types that "stowage types" shows as installed.

Examples:
  $ stowage schema > stowage.schema.json   then in stowage.yaml: # yaml-language-server: $schema=stowage.schema.json
  $ stowage schema job > job.schema.json
  $ stowage schema broker host`,
    )
    .action((subject: string, type: string | undefined) => start((context) => print(subject, type, context)));
}

async function print(subject: string, type: string | undefined, context: CommandContext): Promise<undefined> {
  if (!isSubject(subject)) throw invalid(`unknown subject "${subject}"${didYouMean(subject, SUBJECTS)}; known are ${SUBJECTS.join(", ")}`);
  if (subject === "broker" && type === undefined) throw invalid('"broker" wants a type; "stowage types" shows which there are');
  if (subject !== "broker" && type !== undefined) throw invalid(`"${type}" is one argument too many; only "broker" is followed by a type`);
  const schema = await makeSchema(subject, type, context);
  context.output.record(schema);
  context.output.result(JSON.stringify(schema, undefined, 2));
  return undefined;
}

async function makeSchema(subject: Subject, type: string | undefined, context: CommandContext): Promise<JsonSchema> {
  switch (subject) {
    case "job":
      return jobSpecJsonSchema();
    case "workspace":
      return toWorkspaceJsonSchema(await installedDefinitions(context));
    case "configuration":
      return configurationSchema(toWorkspaceJsonSchema(await installedDefinitions(context)));
    case "broker":
      return brokerSchema((await context.session.brokers([type!])).get(type!)!.definition);
  }
}

function configurationSchema({ $schema, $defs, title: _title, ...workspace }: JsonSchema): JsonSchema {
  const { name, version, ...properties } = workspace.properties as Record<string, JsonSchema>;
  const required = (workspace.required as string[]).filter((key) => key !== "name");
  return {
    $schema,
    title: "Stowage configuration",
    description: "stowage.yaml: workspaces by their names, and where brokers of one's own come from.",
    type: "object",
    properties: {
      version,
      brokers: {
        type: "array",
        description: "Packages, and module files relative to this file, that hold broker types beyond our own.",
        items: { type: "string", minLength: 1 },
      },
      workspaces: {
        type: "object",
        description: "What a name stands for.",
        propertyNames: { pattern: name?.pattern },
        additionalProperties: { $ref: "#/$defs/workspace" },
      },
    },
    required: ["workspaces"],
    additionalProperties: false,
    $defs: { ...($defs as object | undefined), workspace: { ...workspace, properties: { version, ...properties }, required } },
  };
}

function brokerSchema(definition: AnyBrokerDefinition): JsonSchema {
  const { $schema, $defs, properties } = toWorkspaceJsonSchema([definition]);
  const [branch] = (properties as { broker: { oneOf: JsonSchema[] } }).broker.oneOf;
  return { $schema, title: `Stowage broker "${definition.type}"`, ...branch, ...($defs === undefined ? {} : { $defs }) };
}

async function installedDefinitions(context: CommandContext): Promise<AnyBrokerDefinition[]> {
  const place = await context.session.brokerPlace();
  const known = await loadListedBrokers(place);
  for (const [type, packageName] of Object.entries(FIRST_PARTY_PACKAGES)) {
    if (known.has(type)) continue;
    try {
      const broker = await loadFirstParty(place.folder, type, packageName);
      if (broker !== undefined) known.set(type, broker);
    } catch (error) {
      context.output.notice(`the broker type "${type}" is not in the schema: ${describeError(error)}`);
    }
  }
  return [...known.values()].map(({ definition }) => definition);
}

function isSubject(subject: string): subject is Subject {
  return (SUBJECTS as readonly string[]).includes(subject);
}

function invalid(message: string): StowageError {
  return new StowageError(message, { code: "INVALID_ARGUMENT" });
}
