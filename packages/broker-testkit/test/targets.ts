import { mkdirSync } from "node:fs";
import { createLimits, createMemoryBroker, memoryBroker } from "@stowage/core";
import {
  type Broker,
  type BrokerDefinition,
  defineBroker,
  parseFilePath,
  secret,
  withLimits,
  withLog,
  withPrefix,
  withReadOnly,
  withRetry,
} from "@stowage/core/broker";
import * as z from "zod";
import {
  type ConformancePlace,
  type ConformanceTarget,
  type ConformanceTraits,
  createFaultyBroker,
  createTestContext,
  type SeedFile,
  wrapTarget,
} from "../src/index.ts";

let places = 0;

export const MEMORY_TRAITS: ConformanceTraits = {
  sharedWith: "process",
  filesBelowFiles: true,
  keepsModified: true,
  keepsMediaType: true,
  keepsMetadata: true,
  knowsDigests: true,
  sortedListing: true,
  atomicMove: true,
  holdsFilesInMemory: true,
  maximumSegmentBytes: Number.POSITIVE_INFINITY,
};

/** The memory broker, as it is. */
export function memoryTarget(): ConformanceTarget {
  return {
    name: "memory",
    definition: memoryBroker,
    traits: MEMORY_TRAITS,
    samples: { valid: [{}, { name: "shared" }], invalid: [{ config: { name: 7 }, names: "name" }] },
    open: async () => {
      const name = placeName();
      return { config: { name }, seed: (files) => seedMemory(name, files), cleanUp: async () => {} };
    },
  };
}

async function seedMemory(name: string, files: Iterable<SeedFile>): Promise<void> {
  const broker = createMemoryBroker({ name });
  for (const { path, bytes } of files) {
    const writer = await broker.openWrite({ path: parseFilePath(path) }, {}, createTestContext());
    await writer.write(bytes);
    await writer.commit();
  }
}

/** The memory broker with a layer below it that can be made to fail. */
export function faultyMemoryTarget(options: { readonly movesByCopy?: boolean } = {}): ConformanceTarget {
  const target = memoryTarget();
  return {
    ...target,
    name: `memory that may fail${options.movesByCopy ? ", moving by copy" : ""}`,
    traits: { ...MEMORY_TRAITS, atomicMove: true },
    open: async () => {
      const place = await target.open();
      const name = String(place.config.name);
      const { broker, faults } = createFaultyBroker(createMemoryBroker({ name }), options);
      const opened: ConformancePlace = {
        ...place,
        faults,
        definition: {
          ...memoryBroker,
          // Every session of the place meets the same faults; closing one must not close the others.
          open: async () => createSession(broker),
        },
      };
      return opened;
    },
  };
}

function createSession(shared: Broker): Broker {
  return { ...shared, close: async () => {} };
}

function placeName(): string {
  return `conformance ${process.pid} ${++places}`;
}

export const SECRET = "s3cr3t-canary-0451";

interface LockedConfig {
  readonly name: string;
  readonly account: string;
  readonly password: string;
  readonly pageSize?: number | undefined;
}

/** A broker type with a secret in its configuration. */
export const lockedBroker: BrokerDefinition<"locked", LockedConfig> = defineBroker({
  type: "locked",
  config: z.strictObject({
    name: z.string(),
    account: z.string().min(1),
    password: secret(z.string()),
    pageSize: z.number().int().positive().exactOptional(),
  }) as unknown as z.ZodType<LockedConfig, LockedConfig>,
  volume: ({ name }) => ({ kind: "driver" as const, driver: "locked", remotePath: name, options: { account: "a" } }),
  validate: async ({ account }) =>
    account === "unreachable" ? [{ name: "not_reachable", description: "the account does not answer; try again later" }] : [],
  open: async ({ name }) => createMemoryBroker({ name }),
});

export function lockedTarget(): ConformanceTarget {
  return {
    ...memoryTarget(),
    name: "locked",
    definition: lockedBroker,
    secrets: [SECRET],
    samples: {
      valid: [{ name: "n", account: "me", password: "x", pageSize: 3 }],
      invalid: [{ config: { name: "n", account: "", password: "x" }, names: "account" }],
      unreachable: [{ name: "n", account: "unreachable", password: SECRET }],
    },
    open: async () => {
      const config = { name: placeName(), account: "me", password: SECRET };
      return {
        config,
        configWithPageSize: (entries) => ({ ...config, pageSize: entries }),
        seed: (files) => seedMemory(config.name, files),
        cleanUp: async () => {},
      };
    },
  };
}

/** Every wrapper of core over a target. */
export function wrappedTargets(target: ConformanceTarget): ConformanceTarget[] {
  const name = (wrapper: string): string => `${wrapper} over ${target.name}`;
  return [
    wrapTarget(target, { name: name("retry") }, (broker) => withRetry(broker, { attempts: 3, baseDelayMs: 1, maxDelayMs: 5 })),
    wrapTarget(target, { name: name("limits") }, (broker) => withLimits(broker, createLimits({ files: 16, memoryBytes: 8 * 1024 * 1024 }))),
    wrapTarget(target, { name: name("log") }, (broker) => withLog(broker, () => {})),
    prefixTarget(target, "a part/of it"),
    readOnlyTarget(target),
  ];
}

export function prefixTarget(target: ConformanceTarget, prefix: string): ConformanceTarget {
  return wrapTarget(
    target,
    {
      name: `prefix over ${target.name}`,
      place: (place) => {
        const { directory, seed, rawNames } = place;
        if (directory !== undefined) mkdirSync(`${directory}/${prefix}`, { recursive: true });
        return {
          ...place,
          directory: directory === undefined ? undefined : `${directory}/${prefix}`,
          seed:
            seed === undefined ? undefined : async (files) => seed([...files].map((file) => ({ ...file, path: `${prefix}/${file.path}` }))),
          rawNames:
            rawNames === undefined
              ? undefined
              : async () => (await rawNames()).filter((name) => name.startsWith(`${prefix}/`)).map((name) => name.slice(prefix.length + 1)),
        };
      },
    },
    (broker) => withPrefix(broker, prefix),
  );
}

/** Read-only: files are stored past the wrapper. */
export function readOnlyTarget(target: ConformanceTarget): ConformanceTarget {
  return wrapTarget(
    target,
    {
      name: `read-only over ${target.name}`,
      traits: { writable: false },
      place: (place) => place,
    },
    (broker) => withReadOnly(broker),
  );
}
