// Mostly for the compiler: `tsc -p tsconfig.tests.json` fails when one of the errors that are expected here is none.
import type { BrokerOptions, BrokerSource } from "@stowage/core";
import {
  type AnyBrokerDefinition,
  addBrokerType,
  type BrokerDefinition,
  createBrokerRegistry,
  defineBroker,
  getBroker,
} from "@stowage/core";
import { afterAll, expect, expectTypeOf, test } from "vitest";
import * as z from "zod";
import { openWorkspace } from "../src/lib/open-workspace.ts";
import { processWide } from "../src/lib/registry.ts";
import { type SecretSource, secret } from "../src/lib/secrets.ts";
import type { WorkspaceConfig } from "../src/lib/workspace-config.ts";
import { type CloudOptions, cloud, disk } from "./support/broker-definitions.ts";

const tape = defineBroker({
  type: "tape",
  config: z.strictObject({ drive: z.string(), speed: z.number().default(1), pin: secret(z.string().optional()) }),
  open: async () => Promise.reject(new Error("never opened")),
});

declare module "@stowage/core" {
  interface BrokerTypes {
    "tape-of-the-type-tests": typeof tape;
  }
}

afterAll(() => processWide().brokerTypes.clear());

test("what a definition takes is inferred from its schema: defaults and secrets are optional to whoever writes a configuration", () => {
  expectTypeOf<BrokerOptions<typeof tape>>().toEqualTypeOf<
    { readonly type: "tape" } & { drive: string; speed?: number | undefined; pin?: string | SecretSource | undefined }
  >();
  expectTypeOf(tape.open).parameter(0).toEqualTypeOf<{ drive: string; speed: number; pin?: string | undefined }>();
  expectTypeOf<BrokerOptions<typeof cloud>>().toEqualTypeOf<{ readonly type: "cloud" } & CloudOptions>();
});

test("any definition is an AnyBrokerDefinition, and a definition is no definition of something else", () => {
  expectTypeOf(disk).toExtend<AnyBrokerDefinition>();
  expectTypeOf(cloud).toExtend<AnyBrokerDefinition>();
  expectTypeOf(tape).toExtend<AnyBrokerDefinition>();
  expectTypeOf<BrokerDefinition<"a", never, never>>().toExtend<AnyBrokerDefinition>();
  expectTypeOf<BrokerDefinition<"a", unknown, unknown>>().toExtend<AnyBrokerDefinition>();
  expectTypeOf<BrokerDefinition<string, { a: Date }, { a: string }>>().toExtend<AnyBrokerDefinition>();
  expectTypeOf(cloud).not.toExtend<typeof disk>();
});

test("a registry of one's own knows its types", () => {
  const registry = createBrokerRegistry([disk, cloud]);
  expectTypeOf(registry.get("disk")).toEqualTypeOf<typeof disk>();
  expectTypeOf(registry.get("cloud")).toEqualTypeOf<typeof cloud>();
  // @ts-expect-error an unknown type
  expect(() => registry.get("dsik")).toThrow("dsik");
  const open = createBrokerRegistry<AnyBrokerDefinition>([disk]);
  expectTypeOf(open.get("disk")).toEqualTypeOf<AnyBrokerDefinition>();
});

test("an augmented BrokerTypes types getBroker, other names give any definition", () => {
  addBrokerType({ ...tape, type: "tape-of-the-type-tests" });
  expectTypeOf(getBroker("tape-of-the-type-tests")).toEqualTypeOf<typeof tape>();
  expectTypeOf(getBroker).toBeCallableWith("something that is known at run time");
  const name: string = "tape-of-the-type-tests";
  expectTypeOf(getBroker(name)).toEqualTypeOf<AnyBrokerDefinition>();
});

test("with definitions, a wrong configuration does not compile", () => {
  const brokers = [disk, cloud] as const;
  const check = (_open: () => unknown): void => {};
  check(() => openWorkspace({ name: "a", broker: { type: "disk", hostPath: "/data" } }, { brokers }));
  check(() => openWorkspace({ name: "a", broker: { type: "cloud", bucket: "abc", tokens: { a: { fromFile: "/t" } } } }, { brokers }));
  check(() => openWorkspace({ name: "a", broker: { type: "disk", hostPath: "/data" } }, { brokers: createBrokerRegistry([disk, cloud]) }));
  // @ts-expect-error an unknown type
  check(() => openWorkspace({ name: "a", broker: { type: "dsik", hostPath: "/data" } }, { brokers }));
  // @ts-expect-error options of another type
  check(() => openWorkspace({ name: "a", broker: { type: "disk", bucket: "abc" } }, { brokers }));
  // @ts-expect-error an unknown option
  check(() => openWorkspace({ name: "a", broker: { type: "disk", hostPath: "/data", hostpath: "/data" } }, { brokers }));
  // @ts-expect-error a missing option
  check(() => openWorkspace({ name: "a", broker: { type: "disk" } }, { brokers }));
  // @ts-expect-error a missing type
  check(() => openWorkspace({ name: "a", broker: { hostPath: "/data" } }, { brokers }));
  // @ts-expect-error a missing name
  check(() => openWorkspace({ broker: { type: "disk", hostPath: "/data" } }, { brokers }));
  // @ts-expect-error an unknown setting
  check(() => openWorkspace({ name: "a", readonly: true, broker: { type: "disk", hostPath: "/data" } }, { brokers }));
  // @ts-expect-error a type that this registry does not have
  check(() => openWorkspace({ name: "a", broker: { type: "cloud", bucket: "abc" } }, { brokers: createBrokerRegistry([disk]) }));
});

test("without definitions, or with such whose types are forgotten, any options compile", () => {
  const check = (_open: () => unknown): void => {};
  const read: WorkspaceConfig = JSON.parse('{ "name": "a", "broker": { "type": "disk" } }');
  const loaded: readonly AnyBrokerDefinition[] = [disk];
  check(() => openWorkspace(read));
  check(() => openWorkspace(read, { signal: AbortSignal.timeout(1) }));
  check(() => openWorkspace(read, { brokers: loaded }));
  const source = loaded as BrokerSource;
  check(() => openWorkspace(read, { brokers: source }));
  check(() => openWorkspace(read, { brokers: createBrokerRegistry(loaded) }));
  check(() => openWorkspace({ name: "a", broker: { type: "anything", at: "all" } }));
  // @ts-expect-error a broker without a type
  check(() => openWorkspace({ name: "a", broker: {} }));
});
