import fc from "fast-check";
import { describe, expect, test } from "vitest";
import * as z from "zod";
import { defineBroker } from "../src/lib/broker-definition.ts";
import { ConfigurationError } from "../src/lib/config-error.ts";
import { maskWorkspaceConfig, restoreMaskedConfig } from "../src/lib/masking.ts";
import { createMemoryBroker } from "../src/lib/memory-broker.ts";
import { MASK, secret } from "../src/lib/secrets.ts";
import type { WorkspaceConfig } from "../src/lib/workspace-config.ts";
import { cloud, deepFreeze, disk } from "./support/broker-definitions.ts";

const brokers = [disk, cloud];
const stored = deepFreeze({
  name: "data",
  title: "Data",
  broker: {
    type: "cloud",
    bucket: "results",
    credentials: { keyId: "AKIA", secretKey: "stored key" },
    accounts: [
      { user: "ann", token: "token of ann" },
      { user: "bob", token: "token of bob" },
    ],
    tokens: { a: "token a", b: { fromFile: "/run/b" } },
    pins: ["1111", "2222"],
  },
});
type Config = typeof stored;

const edit = (change: (config: { name: string; broker: Record<string, unknown> & Config["broker"] }) => void): WorkspaceConfig => {
  const masked = structuredClone(maskWorkspaceConfig(stored, { brokers }));
  change(masked as unknown as Parameters<typeof change>[0]);
  return deepFreeze(masked);
};

const problemsOf = (next: WorkspaceConfig, from: WorkspaceConfig = stored): string[] => {
  try {
    restoreMaskedConfig(next, from);
    return [];
  } catch (error) {
    if (!ConfigurationError.is(error)) throw error;
    expect(error.code).toBe("INVALID_CONFIGURATION");
    return error.problems.map(({ path }) => path.join("."));
  }
};

describe("masking", () => {
  test("replaces every secret, shows references and everything else, and mutates nothing", () => {
    const before = JSON.stringify(stored);
    expect(maskWorkspaceConfig(stored, { brokers })).toEqual({
      name: "data",
      title: "Data",
      broker: {
        type: "cloud",
        bucket: "results",
        credentials: { keyId: "AKIA", secretKey: MASK },
        accounts: [
          { user: "ann", token: MASK },
          { user: "bob", token: MASK },
        ],
        tokens: { a: MASK, b: { fromFile: "/run/b" } },
        pins: [MASK, MASK],
      },
    });
    expect(JSON.stringify(stored)).toBe(before);
  });

  test("hides what stands under a key that nobody knows: it may be a misspelt secret", () => {
    const config = {
      name: "data",
      pasword: "top",
      broker: { type: "cloud", bucket: "abc", secretKey: "misplaced", credentials: { keyId: "k", secretkey: { deep: "misspelt" } } },
    };
    expect(maskWorkspaceConfig(config, { brokers })).toEqual({
      name: "data",
      pasword: MASK,
      broker: { type: "cloud", bucket: "abc", secretKey: MASK, credentials: { keyId: "k", secretkey: MASK } },
    });
  });

  test("leaves what a schema leaves free", () => {
    const free = defineBroker({
      type: "free",
      config: z.strictObject({
        labels: z.record(z.string(), z.unknown()),
        extra: z.unknown(),
        loose: z.looseObject({}),
        blob: secret(z.unknown()),
      }),
      open: async () => createMemoryBroker(),
    });
    const config = {
      name: "a",
      broker: { type: "free", labels: { a: { b: ["c"] } }, extra: { d: 1 }, loose: { e: { f: 1 } }, blob: { whole: "object" } },
    };
    expect(maskWorkspaceConfig(config, { brokers: [free] }).broker).toEqual({ ...config.broker, blob: MASK });
  });

  test("is refused where nobody can say what is secret", () => {
    const config = { name: "a", broker: { type: "tape", pin: "1234" } };
    expect(() => maskWorkspaceConfig(config, { brokers })).toThrow(expect.objectContaining({ code: "UNKNOWN_BROKER_TYPE" }));
    expect(() => maskWorkspaceConfig({ name: "a" } as unknown as WorkspaceConfig, { brokers })).toThrow(
      expect.objectContaining({ code: "UNKNOWN_BROKER_TYPE" }),
    );
  });
});

describe("putting stored secrets back", () => {
  test("a configuration that was masked and not edited is what it was", () => {
    expect(restoreMaskedConfig(maskWorkspaceConfig(stored, { brokers }), stored)).toEqual(stored);
  });

  test("edits stay, and so do secrets that were given anew", () => {
    const next = edit((config) => {
      config.name = "renamed";
      config.broker.bucket = "other";
      config.broker.credentials.secretKey = "new key";
      config.broker.tokens.a = "new token";
    });
    const before = JSON.stringify(next);
    const restored = restoreMaskedConfig(next, stored);
    expect(JSON.stringify(next)).toBe(before);
    expect(restored).toEqual({
      ...stored,
      name: "renamed",
      broker: {
        ...stored.broker,
        bucket: "other",
        credentials: { keyId: "AKIA", secretKey: "new key" },
        tokens: { a: "new token", b: { fromFile: "/run/b" } },
      },
    });
  });

  test("elements of an array find their secrets again after others were removed, added or moved, or they were edited", () => {
    const accountsAfter = (change: (accounts: { user: string; token: string }[]) => void): unknown => {
      const next = edit((config) => change(config.broker.accounts as { user: string; token: string }[]));
      return (restoreMaskedConfig(next, stored) as Config).broker.accounts;
    };
    const [ann, bob] = stored.broker.accounts;
    expect(accountsAfter((accounts) => accounts.shift())).toEqual([bob]);
    expect(accountsAfter((accounts) => accounts.reverse())).toEqual([bob, ann]);
    expect(accountsAfter((accounts) => accounts.unshift({ user: "cid", token: "token of cid" }))).toEqual([
      { user: "cid", token: "token of cid" },
      ann,
      bob,
    ]);
    expect(accountsAfter((accounts) => Object.assign(accounts[1]!, { user: "robert" }))).toEqual([
      ann,
      { user: "robert", token: "token of bob" },
    ]);
  });

  test("where it cannot be told whose secret is meant, it must be given again", () => {
    // Ann was moved to the second place, and somebody new stands at the first.
    expect(
      problemsOf(
        edit(({ broker }) =>
          Object.assign(broker, {
            accounts: [
              { user: "cid", token: MASK },
              { user: "ann", token: MASK },
            ],
          }),
        ),
      ),
    ).toEqual(["broker.accounts.0.token"]);
    expect(
      problemsOf(
        edit(({ broker }) =>
          Object.assign(broker, {
            accounts: [
              { user: "bob", token: MASK },
              { user: "cid", token: MASK },
            ],
          }),
        ),
      ),
    ).toEqual(["broker.accounts.1.token"]);
    expect(problemsOf(edit(({ broker }) => Object.assign(broker, { accounts: [{ user: "cid", token: MASK }] })))).toEqual([
      "broker.accounts.0.token",
    ]);
    expect(problemsOf(edit(({ broker }) => Object.assign(broker, { pins: [MASK] })))).toEqual(["broker.pins.0"]);
    expect(problemsOf(edit(({ broker }) => Object.assign(broker, { pins: [MASK, "3333"] })))).toEqual([]);
  });

  test("a mask with nothing stored for it is an error, wherever it stands; all of them are named", () => {
    expect(
      problemsOf(
        edit(({ broker }) => {
          Object.assign(broker, { bucket: MASK, extra: "****" });
          Object.assign(broker.tokens, { c: "************" });
        }),
        { name: "data", broker: { type: "cloud", bucket: "abc" } },
      ).sort(),
    ).toEqual([
      "broker.accounts.0.token",
      "broker.accounts.1.token",
      "broker.credentials.secretKey",
      "broker.extra",
      "broker.pins.0",
      "broker.pins.1",
      "broker.tokens.a",
      "broker.tokens.c",
    ]);
    // What was stored as asterisks before somebody took care is no secret either.
    expect(
      problemsOf(
        edit(() => {}),
        { ...stored, broker: { ...stored.broker, pins: [MASK, MASK] } },
      ),
    ).toEqual(["broker.pins.0", "broker.pins.1"]);
  });

  test("secrets of one type of broker are not given to another", () => {
    const next = { name: "data", broker: { type: "other", credentials: { secretKey: MASK } } };
    expect(problemsOf(next)).toEqual(["broker.credentials.secretKey"]);
  });

  test("a key `__proto__` is a key like any other", () => {
    const next = JSON.parse('{"name":"a","broker":{"type":"cloud","__proto__":{"polluted":"********"}}}');
    const from = JSON.parse('{"name":"a","broker":{"type":"cloud","__proto__":{"polluted":"yes"}}}');
    const restored = restoreMaskedConfig(next as WorkspaceConfig, from as WorkspaceConfig);
    expect(JSON.stringify(restored)).toBe(JSON.stringify(from));
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
    expect(() => restoreMaskedConfig({ name: "a", broker: { type: "x", toString: MASK } }, { name: "a", broker: { type: "x" } })).toThrow(
      "give the secret again",
    );
  });

  test("any configuration comes back from masking as it was, and never with a mask", () => {
    const text = fc.stringMatching(/^[a-z]{1,8}$/);
    fc.assert(
      fc.property(
        fc.record({
          keyId: text,
          secretKey: text,
          accounts: fc.array(fc.record({ user: text, token: text })),
          tokens: fc.dictionary(text, text),
          pins: fc.array(text),
        }),
        ({ keyId, secretKey, ...rest }) => {
          const config = deepFreeze({ name: "a", broker: { type: "cloud", bucket: "abc", credentials: { keyId, secretKey }, ...rest } });
          const restored = restoreMaskedConfig(maskWorkspaceConfig(config, { brokers }), config);
          expect(restored).toEqual(config);
          expect(JSON.stringify(restored)).not.toContain("****");
        },
      ),
    );
  });
});
