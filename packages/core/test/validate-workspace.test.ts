import fc from "fast-check";
import { afterEach, describe, expect, test } from "vitest";
import * as z from "zod";
import { type BrokerDefinition, defineBroker, type OpenContext, type ValidationWarning } from "../src/lib/broker-definition.ts";
import { createMemoryBroker } from "../src/lib/memory-broker.ts";
import { getBrokerTypes } from "../src/lib/registry.ts";
import { secret } from "../src/lib/secrets.ts";
import { StowageError } from "../src/lib/stowage-error.ts";
import { type ValidateWorkspaceOptions, validateWorkspace } from "../src/lib/validate-workspace.ts";
import { cloud, deepFreeze, disk } from "./support/broker-definitions.ts";

const valid = { name: "data", broker: { type: "probe", token: "hunter2hunter2" } };

type Probe = BrokerDefinition<"probe", { readonly token: string }>;
type Validate = (config: { readonly token: string }, context: OpenContext) => Promise<readonly ValidationWarning[]>;

function probe(validate: Validate, opened?: () => void): Probe {
  return defineBroker({
    type: "probe",
    config: z.strictObject({ token: secret(z.string()) }) as z.ZodType<{ token: string }, { token: string }>,
    validate,
    open: async () => {
      opened?.();
      return createMemoryBroker();
    },
  });
}

const check = (validate: Validate, options: ValidateWorkspaceOptions = {}) =>
  validateWorkspace(deepFreeze(structuredClone(valid)), { brokers: [probe(validate)], ...options });

test("a configuration that its broker has nothing to say of is valid, and was not opened", async () => {
  let opened = false;
  let seen: unknown[] = [];
  const definition = probe(
    async (config, { volumePath, signal }) => {
      seen = [config, volumePath, signal.aborted];
      return [];
    },
    () => {
      opened = true;
    },
  );
  expect(await validateWorkspace(valid, { brokers: [definition], volumePath: "/mnt" })).toEqual({
    isValid: true,
    errors: [],
    warnings: [],
  });
  expect(seen).toEqual([{ token: "hunter2hunter2" }, "/mnt", false]);
  expect(opened).toBe(false);
  expect(getBrokerTypes()).toEqual([]);
  expect((await validateWorkspace({ name: "a", broker: { type: "disk", hostPath: "/d" } }, { brokers: [disk] })).isValid).toBe(true);
});

test("everything that is wrong is an error of its own, each with a name", async () => {
  const { isValid, errors, warnings } = await validateWorkspace(
    { readonly: true, broker: { type: "cloud", bukcet: "abc", tokens: { a: { fromEnvironment: "STOWAGE_NOT_SET" } } } },
    { brokers: [cloud] },
  );
  expect(isValid).toBe(false);
  expect(errors).toEqual([
    { name: "missing_key", description: "name: is required (a string)" },
    { name: "unknown_key", description: 'readonly: unknown key (did you mean "readOnly"?)' },
    {
      name: "missing_secret",
      description: "broker.tokens.a: the environment variable STOWAGE_NOT_SET is not set; set it, or give the value otherwise",
    },
    { name: "missing_key", description: "broker.bucket: is required (a string)" },
    { name: "unknown_key", description: 'broker.bukcet: unknown key (did you mean "bucket"?)' },
  ]);
  expect(warnings).toEqual([]);
});

test("unknown types, other contracts and other versions have names of their own", async () => {
  const nameOf = async (config: unknown, brokers: ValidateWorkspaceOptions["brokers"] = [disk]) =>
    (await validateWorkspace(config, { brokers })).errors.map(({ name }) => name);
  expect(await nameOf({ name: "a", broker: { type: "tape" } })).toEqual(["unknown_broker_type"]);
  expect(await nameOf({ name: "a", broker: { type: "disk" } }, [{ ...disk, contract: 2 } as unknown as typeof disk])).toEqual([
    "contract_mismatch",
  ]);
  expect(await nameOf({ name: "a", version: "3", broker: { type: "disk", hostPath: "/d" } })).toEqual(["unsupported_version"]);
});

describe("the broker's own look", () => {
  test("gives warnings, from which secrets are removed", async () => {
    const found = await check(async ({ token }) => [{ name: "bucket_access", description: `no access with ${token} or ${btoa(token)}` }]);
    expect(found).toEqual({
      isValid: true,
      errors: [],
      warnings: [{ name: "bucket_access", description: "no access with ******** or ********" }],
    });
  });

  test("that finds something that can never work is an error, without secrets", async () => {
    const found = await check(async ({ token }) => {
      throw new StowageError(`${token} is no token`, { code: "INVALID_CONFIGURATION" });
    });
    expect(found).toEqual({
      isValid: false,
      errors: [{ name: "invalid_configuration", description: "******** is no token" }],
      warnings: [],
    });
  });

  for (const [how, validate] of [
    ["rejects", async ({ token }: { token: string }) => Promise.reject(new Error(`connect ECONNREFUSED ${token}`))],
    [
      "throws at once",
      ({ token }: { token: string }) => {
        throw new Error(`connect ECONNREFUSED ${token}`);
      },
    ],
  ] as const) {
    test(`that ${how} is a warning, without secrets`, async () => {
      expect(await check(validate)).toEqual({
        isValid: true,
        errors: [],
        warnings: [
          { name: "validation_failed", description: "the probe broker could not look at its backend: connect ECONNREFUSED ********" },
        ],
      });
    });
  }

  test("that hangs is a warning at the deadline, at which its signal aborts", async () => {
    const started = performance.now();
    let reason: unknown;
    const found = await check(
      (_config, { signal }) => {
        signal.addEventListener("abort", () => {
          reason = signal.reason;
        });
        return new Promise(() => {});
      },
      { deadlineMs: 50 },
    );
    expect(performance.now() - started).toBeLessThan(1000);
    expect(found).toEqual({
      isValid: true,
      errors: [],
      warnings: [{ name: "validation_timeout", description: expect.stringContaining("did not answer in time") }],
    });
    expect(reason).toMatchObject({ name: "TimeoutError" });
  });

  test("that fails after the deadline disturbs nobody", async () => {
    const unhandled: unknown[] = [];
    const onUnhandled = (error: unknown) => unhandled.push(error);
    process.on("unhandledRejection", onUnhandled);
    try {
      await check(
        async () => {
          await new Promise((resolve) => setTimeout(resolve, 40));
          throw new Error("too late");
        },
        { deadlineMs: 10 },
      );
      await new Promise((resolve) => setTimeout(resolve, 60));
      expect(unhandled).toEqual([]);
    } finally {
      process.off("unhandledRejection", onUnhandled);
    }
  });

  test("that answers with nonsense is taken for what it is worth", async () => {
    expect((await check(async () => undefined as unknown as [])).warnings).toEqual([]);
    expect((await check(async () => ["bad"] as unknown as [])).warnings).toEqual([{ name: "warning", description: "bad" }]);
  });

  test("is not asked when the configuration is wrong, or its volume cannot be named", async () => {
    let asked = 0;
    const definition = probe(async () => {
      asked++;
      return [];
    });
    await validateWorkspace({ ...valid, zzz: 1 }, { brokers: [definition] });
    const unnamed = {
      ...definition,
      volume: ({ token }: { token: string }) => {
        throw new Error(`no volume for ${token}`);
      },
    };
    expect(await validateWorkspace(valid, { brokers: [unnamed] })).toMatchObject({
      isValid: false,
      errors: [{ name: "invalid_volume", description: "the broker cannot name its volume: no volume for ********" }],
    });
    expect(asked).toBe(0);
  });

  test("ends with CANCELLED when the caller gives up, before and meanwhile", async () => {
    const controller = new AbortController();
    const pending = check(() => new Promise(() => {}), { signal: controller.signal });
    setTimeout(() => controller.abort(new Error("enough")), 20);
    await expect(pending).rejects.toMatchObject({ code: "CANCELLED", cause: { message: "enough" } });
    await expect(check(async () => [], { signal: controller.signal })).rejects.toMatchObject({ code: "CANCELLED" });
  });
});

describe("what is stored already", () => {
  const change = async (previous: unknown) => (await check(async () => [], { previous })).warnings;

  test("of another type is a warning", async () => {
    expect(await change({ name: "data", broker: { type: "disk" } })).toEqual([
      { name: "broker_type", description: expect.stringMatching(/^the broker's type changes from "disk" to "probe"/) },
    ]);
  });

  test("of the same type, or not to be made out, is none", async () => {
    for (const previous of [undefined, null, {}, { broker: {} }, { broker: "disk" }, { broker: { type: "probe" } }])
      expect(await change(previous)).toEqual([]);
  });

  test("is compared also when the new type is unknown", async () => {
    const { errors, warnings } = await validateWorkspace(
      { name: "a", broker: { type: "tape" } },
      { brokers: [disk], previous: { broker: { type: "disk" } } },
    );
    expect([errors[0]?.name, warnings[0]?.name]).toEqual(["unknown_broker_type", "broker_type"]);
  });
});

describe("secrets that are looked up", () => {
  afterEach(() => {
    delete process.env.STOWAGE_TEST_SECRET;
  });
  test("are in no description either", async () => {
    process.env.STOWAGE_TEST_SECRET = "from-the-environment";
    const { warnings } = await validateWorkspace(
      { name: "a", broker: { type: "probe", token: { fromEnvironment: "STOWAGE_TEST_SECRET" } } },
      { brokers: [probe(async ({ token }) => [{ name: "w", description: token }])] },
    );
    expect(warnings).toEqual([{ name: "w", description: "********" }]);
  });
});

test("no input makes it throw", async () => {
  await fc.assert(
    fc.asyncProperty(fc.anything({ withNullPrototype: true }), fc.anything(), async (config, previous) => {
      const { isValid, errors } = await validateWorkspace(config, { brokers: [disk], previous });
      expect(isValid).toBe(errors.length === 0);
    }),
    { numRuns: 200 },
  );
});
