import * as z from "zod";
import type { AnyBrokerDefinition } from "./broker-definition.ts";
import { type BrokerSource, listDefinitions } from "./registry.ts";
import { isPlainObject } from "./schema-walk.ts";
import { isSecret } from "./secrets.ts";
import { settingsSchemas } from "./workspace-config.ts";

/** A JSON Schema, draft 2020-12. Plain JSON. */
export type JsonSchema = { readonly [keyword: string]: unknown };

/**
 * The JSON Schema of a workspace's configuration: for editors, forms and other languages. `broker` is one of the given types
 * (those of the default registry when `brokers` is absent), told apart by `type`. Secrets are `writeOnly`, and may be
 * `{ fromFile }` or `{ fromEnvironment }`. What a broker's schema checks by code is not in it.
 */
export function toWorkspaceJsonSchema(brokers?: BrokerSource | undefined): JsonSchema {
  const definitions = listDefinitions(brokers);
  const defs: Record<string, unknown> = {};
  const { $schema, properties, required, ...settings } = convert(settingsSchemas().settings);
  const branches = definitions.map((definition) => brokerBranch(definition, defs));
  return {
    $schema: $schema ?? "https://json-schema.org/draft/2020-12/schema",
    title: "Stowage workspace",
    ...settings,
    properties: {
      ...(properties as object),
      // An empty `oneOf` is no JSON Schema; without types nothing can be configured.
      broker:
        branches.length === 0 ? false : { type: "object", description: "How the files are reached.", required: ["type"], oneOf: branches },
    },
    required: [...((required as string[] | undefined) ?? []), "broker"],
    ...(Object.keys(defs).length > 0 && { $defs: defs }),
  };
}

function brokerBranch(definition: AnyBrokerDefinition, defs: Record<string, unknown>): JsonSchema {
  const { $schema: _dialect, $defs, ...schema } = convert(definition.config);
  // Names in one broker's schema are not those in another's.
  const prefix = `${definition.type.replace(/[^\w-]/g, "_")}.`;
  if (refersToRoot(schema) || refersToRoot($defs)) defs[`${prefix}root`] = redirect(schema, prefix);
  for (const [name, inner] of Object.entries(($defs as Record<string, JsonSchema> | undefined) ?? {})) {
    defs[`${prefix}${name}`] = redirect(inner, prefix);
  }
  return withType(redirect(schema, prefix) as JsonSchema, definition.type, defs);
}

function convert(schema: z.core.$ZodType): Record<string, unknown> {
  return z.toJSONSchema(schema, {
    target: "draft-2020-12",
    // What people write, before defaults and transforms.
    io: "input",
    unrepresentable: "any",
    override: ({ zodSchema, jsonSchema }) => {
      if (!isSecret([zodSchema])) return;
      const { writeOnly: _mark, description, title, default: defaultValue, ...value } = jsonSchema;
      for (const keyword of Object.keys(jsonSchema)) delete jsonSchema[keyword];
      Object.assign(jsonSchema, {
        ...(title !== undefined && { title }),
        ...(description !== undefined && { description }),
        ...(defaultValue !== undefined && { default: defaultValue }),
        writeOnly: true,
        anyOf: [
          value,
          sourceSchema("fromFile", "A file that holds the value."),
          sourceSchema("fromEnvironment", "An environment variable that holds the value."),
        ],
      });
    },
  }) as Record<string, unknown>;
}

function sourceSchema(key: string, description: string): JsonSchema {
  return { type: "object", description, properties: { [key]: { type: "string" } }, required: [key], additionalProperties: false };
}

function refersToRoot(value: unknown): boolean {
  if (Array.isArray(value)) return value.some(refersToRoot);
  return isPlainObject(value) && (value.$ref === "#" || Object.values(value).some(refersToRoot));
}

/** A copy whose references lead to where the whole has what the part had. */
function redirect(value: unknown, prefix: string): unknown {
  if (Array.isArray(value)) return value.map((element: unknown) => redirect(element, prefix));
  if (!isPlainObject(value)) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => {
      if (key === "$ref" && inner === "#") return [key, `#/$defs/${prefix}root`];
      if (key === "$ref" && typeof inner === "string" && inner.startsWith("#/$defs/"))
        return [key, `#/$defs/${prefix}${inner.slice("#/$defs/".length)}`];
      return [key, redirect(inner, prefix)];
    }),
  );
}

/** Adds the `type` that tells brokers apart to a schema of options, in each of its alternatives. */
function withType(schema: JsonSchema, type: string, defs: Record<string, unknown>): JsonSchema {
  const inAll = (alternatives: unknown): JsonSchema[] =>
    (alternatives as JsonSchema[]).map((alternative) => withType(alternative, type, defs));
  const { $ref } = schema;
  if (typeof $ref === "string" && $ref.startsWith("#/$defs/")) {
    const { $ref: _replaced, ...rest } = schema;
    return withType({ ...(defs[$ref.slice("#/$defs/".length)] as JsonSchema), ...rest }, type, defs);
  }
  return {
    ...schema,
    ...(Array.isArray(schema.anyOf) && { anyOf: inAll(schema.anyOf) }),
    ...(Array.isArray(schema.oneOf) && { oneOf: inAll(schema.oneOf) }),
    ...(Array.isArray(schema.allOf) && { allOf: inAll(schema.allOf) }),
    type: "object",
    properties: { type: { const: type }, ...(schema.properties as object | undefined) },
    required: ["type", ...((schema.required as string[] | undefined) ?? [])],
  };
}
