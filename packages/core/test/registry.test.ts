import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterEach, describe, expect, test } from "vitest";
import * as z from "zod";
import { type AnyBrokerDefinition, type BrokerDefinition, defineBroker } from "../src/lib/broker-definition.ts";
import { createMemoryBroker } from "../src/lib/memory-broker.ts";
import {
  addBrokerType,
  createBrokerRegistry,
  findDefinition,
  getBroker,
  getBrokerTypes,
  listDefinitions,
  processWide,
} from "../src/lib/registry.ts";
import { cloud, disk } from "./support/broker-definitions.ts";

const define = <const T extends string>(type: T): BrokerDefinition<T, Record<string, never>> =>
  defineBroker({ type, config: z.strictObject({}), open: async () => createMemoryBroker() });

const thrownBy = (run: () => unknown): { code?: string; message: string } => {
  try {
    run();
  } catch (error) {
    return error as { code?: string; message: string };
  }
  throw new Error("nothing was thrown");
};

afterEach(() => processWide().brokerTypes.clear());

describe("a registry of one's own", () => {
  test("gives the very definitions that it was made of, and their types sorted", () => {
    const registry = createBrokerRegistry([disk, cloud]);
    expect(registry.get("disk")).toBe(disk);
    expect(registry.get("cloud")).toBe(cloud);
    expect(registry.types()).toEqual(["cloud", "disk"]);
    expect(getBrokerTypes()).toEqual([]);
  });

  test("takes more definitions", () => {
    const registry = createBrokerRegistry<AnyBrokerDefinition>([]);
    registry.add(disk);
    expect(registry.get("disk")).toBe(disk);
  });

  test("refuses two definitions of one type, but not the same one twice", () => {
    expect(createBrokerRegistry([disk, disk]).types()).toEqual(["disk"]);
    expect(thrownBy(() => createBrokerRegistry([disk, define("disk")]))).toMatchObject({
      code: "CONFLICT",
      message: expect.stringMatching(/"disk".*override/),
    });
  });
});

describe("the default registry", () => {
  test("knows what was added to it, and nothing before", () => {
    expect(getBrokerTypes()).toEqual([]);
    addBrokerType(disk);
    addBrokerType(disk);
    expect(getBroker("disk")).toBe(disk);
    expect(getBrokerTypes()).toEqual(["disk"]);
  });

  test("refuses another definition of a known type, and takes it with `override`", () => {
    const other = define("disk");
    addBrokerType(disk);
    expect(thrownBy(() => addBrokerType(other)).code).toBe("CONFLICT");
    expect(getBroker("disk")).toBe(disk);
    addBrokerType(other, { override: true });
    expect(getBroker("disk")).toBe(other);
  });

  test("refuses a definition for another contract, naming both versions", () => {
    const future = { ...define("future"), contract: 2 } as unknown as AnyBrokerDefinition;
    expect(thrownBy(() => addBrokerType(future))).toMatchObject({
      code: "CONTRACT_MISMATCH",
      message: expect.stringMatching(/"future".*contract 2.*contract 1/),
    });
    expect(thrownBy(() => createBrokerRegistry([future])).code).toBe("CONTRACT_MISMATCH");
    expect(thrownBy(() => addBrokerType(future, { override: true })).code).toBe("CONTRACT_MISMATCH");
  });

  test("refuses what is no definition", () => {
    for (const value of [{}, null, { type: "x", open: () => {} }, { ...define("x"), type: "" }]) {
      expect(thrownBy(() => addBrokerType(value as AnyBrokerDefinition)).code).toBe("INVALID_ARGUMENT");
    }
  });

  test("answers an unknown type with the nearest, all known ones, and what to do", () => {
    expect(thrownBy(() => getBroker("host"))).toMatchObject({
      code: "UNKNOWN_BROKER_TYPE",
      message: 'unknown broker type "host"; no types are known; register its definition with addBrokerType, or pass it in `brokers`',
    });
    addBrokerType(disk);
    addBrokerType(cloud);
    expect(thrownBy(() => getBroker("dsik")).message).toBe(
      'unknown broker type "dsik"; did you mean "disk"? known types: cloud, disk; register its definition with addBrokerType, or pass it in `brokers`',
    );
    expect(thrownBy(() => getBroker("zzz")).message).toMatch(/^unknown broker type "zzz"; known types: cloud, disk;/);
  });

  test("is one and the same for another copy of the package", async () => {
    const folder = await mkdtemp(join(tmpdir(), "stowage-copy-"));
    try {
      await cp(join(import.meta.dirname, "../src/lib"), folder, { recursive: true });
      const copy: typeof import("../src/lib/registry.ts") = await import(
        /* @vite-ignore */ pathToFileURL(join(folder, "registry.ts")).href
      );
      expect(copy.addBrokerType).not.toBe(addBrokerType);
      copy.addBrokerType(disk);
      expect(getBroker("disk")).toBe(disk);
      addBrokerType(cloud);
      expect(copy.getBrokerTypes()).toEqual(["cloud", "disk"]);
      expect(thrownBy(() => copy.addBrokerType(define("cloud"))).code).toBe("CONFLICT");
      // A registry that one copy made is understood by the other.
      expect(findDefinition(copy.createBrokerRegistry([define("theirs")]), "theirs").type).toBe("theirs");
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test("finds the place that an older copy made without broker types", () => {
    const shared = globalThis as { [key: symbol]: unknown };
    const key = Symbol.for("@stowage/core/1");
    const before = shared[key];
    shared[key] = { limits: "of the older copy" };
    try {
      addBrokerType(disk);
      expect(getBrokerTypes()).toEqual(["disk"]);
      expect(shared[key]).toMatchObject({ limits: "of the older copy" });
    } finally {
      shared[key] = before;
    }
  });
});

test("types are looked up in an array, in a registry, or in the default registry", () => {
  addBrokerType(disk);
  expect(findDefinition([cloud], "cloud")).toBe(cloud);
  expect(findDefinition(createBrokerRegistry([cloud]), "cloud")).toBe(cloud);
  expect(findDefinition(undefined, "disk")).toBe(disk);
  expect(thrownBy(() => findDefinition([cloud], "disk"))).toMatchObject({
    code: "UNKNOWN_BROKER_TYPE",
    message: expect.stringContaining("pass its definition in `brokers`"),
  });
  expect(listDefinitions([disk, cloud])).toEqual([cloud, disk]);
});
