import { describe, expect, test } from "vitest";
import * as z from "zod";
import { type AnyBrokerDefinition, defineBroker } from "../src/lib/broker-definition.ts";
import { createMemoryBroker, memoryBroker } from "../src/lib/memory-broker.ts";
import { createBrokerRegistry } from "../src/lib/registry.ts";
import { secret } from "../src/lib/secrets.ts";
import { readWorkspaceConfig } from "../src/lib/workspace-config.ts";
import { type JsonSchema, toWorkspaceJsonSchema } from "../src/lib/workspace-json-schema.ts";
import { cloud, disk } from "./support/broker-definitions.ts";

const open = async () => createMemoryBroker();
const brokers: readonly AnyBrokerDefinition[] = [disk, cloud, memoryBroker];

/** zod reads the schema back, as any other reader of JSON Schema would; it knows each keyword that is used here. */
function acceptedBy(schema: JsonSchema): (value: unknown) => boolean {
  const parsed = z.fromJSONSchema(JSON.parse(JSON.stringify(schema)));
  return (value) => parsed.safeParse(value).success;
}

const good: readonly unknown[] = [
  { name: "a", broker: { type: "disk", hostPath: "/data" } },
  { name: "a", broker: { type: "memory" } },
  {
    version: "1",
    name: "a",
    title: "T",
    baseUrl: "https://x.org",
    limits: { files: 3 },
    readOnly: true,
    broker: { type: "cloud", bucket: "abc" },
  },
  {
    name: "a",
    broker: {
      type: "cloud",
      bucket: "abc",
      credentials: { keyId: "k", secretKey: { fromFile: "/run/secret" } },
      accounts: [{ user: "u", token: { fromEnvironment: "TOKEN" } }],
      tokens: { a: "literal", b: { fromFile: "/b" } },
      pins: ["1234", { fromFile: "/b" }],
    },
  },
];
const bad: readonly unknown[] = [
  {},
  { name: "a" },
  { broker: { type: "memory" } },
  { name: "a", broker: {} },
  { name: "a", broker: { hostPath: "/data" } },
  { name: "a", broker: { type: "tape" } },
  { name: "a", broker: { type: "disk" } },
  { name: "a", broker: { type: "disk", bucket: "abc" } },
  { name: "a", zzz: 1, broker: { type: "memory" } },
  { name: "a b", broker: { type: "memory" } },
  { name: "a", version: "2", broker: { type: "memory" } },
  { name: "a", broker: { type: "memory", zzz: 1 } },
  { name: "a", broker: { type: "cloud", bucket: "abc", credentials: { keyId: "k", secretKey: { fromFlie: "/run/secret" } } } },
  { name: "a", limits: { files: 0 }, broker: { type: "memory" } },
];

describe("the schema of a workspace", () => {
  const schema = toWorkspaceJsonSchema(brokers);

  test("accepts what is valid and refuses what is not, as reading a configuration does", async () => {
    const accepts = acceptedBy(schema);
    process.env.TOKEN = "token";
    const lookUp = (problems: readonly { readonly name: string }[]) => problems.filter(({ name }) => name !== "missing_secret");
    for (const config of good) {
      expect([config, accepts(config)]).toEqual([config, true]);
      expect(lookUp((await readWorkspaceConfig(config, { brokers })).problems)).toEqual([]);
    }
    for (const config of bad) {
      expect([config, accepts(config)]).toEqual([config, false]);
      expect((await readWorkspaceConfig(config, { brokers })).problems).not.toEqual([]);
    }
    delete process.env.TOKEN;
  });

  test("tells brokers apart by their type, says what dialect it is, and is plain JSON", () => {
    expect(schema.$schema).toBe("https://json-schema.org/draft/2020-12/schema");
    const { broker } = schema.properties as { broker: { oneOf: { properties: { type: unknown } }[] } };
    expect(broker.oneOf.map(({ properties }) => properties.type)).toEqual([{ const: "cloud" }, { const: "disk" }, { const: "memory" }]);
    expect(JSON.parse(JSON.stringify(schema))).toEqual(schema);
    expect(schema.required).toEqual(["name", "broker"]);
  });

  test("marks secrets, wherever they are, and takes references for them", () => {
    const secrets: unknown[] = [];
    const walk = (value: unknown): void => {
      if (typeof value !== "object" || value === null) return;
      if ((value as { writeOnly?: unknown }).writeOnly === true) secrets.push(value);
      for (const inner of Object.values(value)) walk(inner);
    };
    walk(schema);
    expect(secrets).toHaveLength(4);
    for (const one of secrets) {
      expect(one).toMatchObject({ anyOf: [{ type: "string" }, { required: ["fromFile"] }, { required: ["fromEnvironment"] }] });
      expect(Object.keys(one as object).sort()).toEqual(["anyOf", "writeOnly"]);
    }
  });

  test("is the same for a registry, and of the default registry without one", () => {
    expect(toWorkspaceJsonSchema(createBrokerRegistry(brokers))).toEqual(schema);
    expect(toWorkspaceJsonSchema().properties).toMatchObject({ broker: false });
  });
});

describe("schemas of brokers in all their forms", () => {
  const schemaOf = (config: z.ZodType, type = "odd"): JsonSchema => toWorkspaceJsonSchema([defineBroker({ type, config, open })]);
  const accepts = (config: z.ZodType, type?: string) => {
    const accepted = acceptedBy(schemaOf(config, type));
    return (options: object) => accepted({ name: "a", broker: { type: type ?? "odd", ...options } });
  };

  test("alternatives each get the type", () => {
    const union = accepts(z.union([z.strictObject({ path: z.string() }), z.strictObject({ server: z.string() })]));
    expect([union({ path: "a" }), union({ server: "a" }), union({}), union({ path: "a", server: "b" })]).toEqual([
      true,
      true,
      false,
      false,
    ]);
    const told = accepts(
      z.discriminatedUnion("mode", [z.strictObject({ mode: z.literal("a"), a: z.string() }), z.strictObject({ mode: z.literal("b") })]),
    );
    expect([told({ mode: "a", a: "x" }), told({ mode: "b" }), told({ mode: "a" }), told({})]).toEqual([true, true, false, false]);
  });

  test("a schema that refers to itself is hoisted, under names that brokers do not share", () => {
    interface Node {
      readonly children?: readonly Node[] | undefined;
    }
    const node: z.ZodType<Node> = z.strictObject({
      get children() {
        return z.array(node).optional();
      },
    });
    const recursive = accepts(node, "tr/ee");
    expect([
      recursive({}),
      recursive({ children: [{ children: [] }] }),
      recursive({ children: [{ children: 3 }] }),
      recursive({ children: [{ type: "tr/ee" }] }),
    ]).toEqual([true, true, false, false]);
    const shared = z.strictObject({ inner: node, name: z.string() });
    const both = toWorkspaceJsonSchema([
      defineBroker({ type: "one", config: shared, open }),
      defineBroker({ type: "two", config: z.strictObject({ inner: node }), open }),
    ]);
    const accepted = acceptedBy(both);
    expect(accepted({ name: "a", broker: { type: "one", name: "n", inner: { children: [{}] } } })).toBe(true);
    expect(accepted({ name: "a", broker: { type: "two", inner: { children: [{}] } } })).toBe(true);
    expect(accepted({ name: "a", broker: { type: "two", inner: { children: [{ x: 1 }] } } })).toBe(false);
  });

  test("defaults are optional, transforms are described by what goes in, code is left out", () => {
    const schema = z
      .strictObject({ size: z.string().transform(Number).default(1), when: z.date().optional(), custom: z.custom<string>().optional() })
      .refine(() => false);
    const accepted = accepts(schema);
    expect([accepted({}), accepted({ size: "3" }), accepted({ size: 3 }), accepted({ custom: 7 })]).toEqual([true, true, false, true]);
  });

  test("a secret keeps its description and default, also through what wraps it", () => {
    const schema = schemaOf(
      z.strictObject({
        a: secret(z.string().describe("The key.")),
        b: secret(z.string()).default("x"),
        c: secret(z.string().optional()),
        d: secret(z.string().min(3)).optional(),
      }),
    );
    const { broker } = schema.properties as { broker: { oneOf: { properties: Record<string, unknown>; required: string[] }[] } };
    expect(broker.oneOf[0]!.properties.a).toMatchObject({ description: "The key.", writeOnly: true, anyOf: [{ type: "string" }, {}, {}] });
    expect(broker.oneOf[0]!.properties.b).toMatchObject({ default: "x", writeOnly: true });
    expect(broker.oneOf[0]!.properties.c).toMatchObject({ writeOnly: true });
    expect(broker.oneOf[0]!.properties.d).toMatchObject({ writeOnly: true, anyOf: [{ type: "string", minLength: 3 }, {}, {}] });
    expect(broker.oneOf[0]!.required).toEqual(["type", "a"]);
  });
});
