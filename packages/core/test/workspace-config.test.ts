import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import * as z from "zod";
import { type BrokerDefinition, defineBroker } from "../src/lib/broker-definition.ts";
import { ConfigurationError, describeIssues, describeProblem, formatPath } from "../src/lib/config-error.ts";
import { createMemoryBroker, memoryBroker } from "../src/lib/memory-broker.ts";
import { secret } from "../src/lib/secrets.ts";
import { parseWorkspaceConfig, type ReadConfigOptions, readWorkspaceConfig } from "../src/lib/workspace-config.ts";
import { cloud, deepFreeze, disk } from "./support/broker-definitions.ts";

const brokers = [disk, cloud, memoryBroker];
const valid = { name: "data", broker: { type: "cloud", bucket: "results" } };

async function problemsOf(config: unknown, options: ReadConfigOptions = { brokers }): Promise<string[]> {
  return (await readWorkspaceConfig(config, options)).problems.map(describeProblem);
}

async function errorOf(config: unknown, options: ReadConfigOptions = { brokers }): Promise<ConfigurationError> {
  const error = await parseWorkspaceConfig(config, options).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!ConfigurationError.is(error)) throw new Error(`no ConfigurationError was thrown: ${String(error)}`);
  return error;
}

describe("a valid configuration", () => {
  test("is parsed by the schema of its broker's type, with its defaults", async () => {
    const read = await parseWorkspaceConfig(valid, { brokers });
    expect(read.definition).toBe(cloud);
    expect(read.settings).toEqual({ name: "data" });
    expect(read.brokerConfig).toEqual({ bucket: "results", accounts: [], tokens: {}, pins: [], retries: 3 });
  });

  test("may say its version, as YAML reads it too", async () => {
    expect(await problemsOf({ ...valid, version: "1" })).toEqual([]);
    expect(await problemsOf({ ...valid, version: 1 })).toEqual([]);
  });

  test("may have every setting", async () => {
    const settings = {
      name: "a.b_c-1",
      title: "Title",
      description: "Text",
      baseUrl: "https://files.example.org/data",
      readOnly: true,
      moveEnabled: false,
      archived: true,
      limits: { files: 4, memoryBytes: 1e6, bytesPerSecond: 1e6 },
    };
    expect((await parseWorkspaceConfig({ ...settings, broker: valid.broker }, { brokers })).settings).toEqual(settings);
  });

  test("is never mutated, also when it is frozen to the bottom", async () => {
    const config = deepFreeze({
      ...valid,
      broker: {
        ...valid.broker,
        credentials: { keyId: "k", secretKey: { fromEnvironment: "PATH" } },
        accounts: [{ user: "u", token: "tttt" }],
      },
    });
    const before = JSON.stringify(config);
    const read = await parseWorkspaceConfig(config, { brokers });
    expect(JSON.stringify(config)).toBe(before);
    expect(read.brokerConfig).toMatchObject({ credentials: { secretKey: process.env.PATH }, accounts: [{ user: "u", token: "tttt" }] });
  });
});

describe("what is wrong is said with its place and a remedy", () => {
  const cases: readonly (readonly [string, unknown, string | RegExp])[] = [
    ["no object", null, "a workspace's configuration is an object: { name, broker: { type, ... } }"],
    ["an array", [], "a workspace's configuration is an object: { name, broker: { type, ... } }"],
    ["text", "name: data", "a workspace's configuration is an object: { name, broker: { type, ... } }"],
    ["no broker", { name: "data" }, "broker: is required: an object with the broker's type and its options"],
    ["a broker that is its type", { name: "data", broker: "disk" }, "broker: must be an object with the broker's type and its options"],
    ["no type", { name: "data", broker: {} }, "broker.type: is required: the broker's type, one of cloud, disk, memory"],
    ["a type that is no text", { name: "data", broker: { type: 7 } }, "broker.type: must be a string: the broker's type"],
    [
      "an unknown type",
      { name: "data", broker: { type: "dsik" } },
      /^broker\.type: unknown broker type "dsik"; did you mean "disk"\? known types: cloud, disk, memory; pass/,
    ],
    ["no name", { broker: valid.broker }, "name: is required (a string)"],
    [
      "a name with a slash",
      { ...valid, name: "a/b" },
      "name: must be 1 to 64 letters, digits, dots, underscores or dashes, the first a letter or digit",
    ],
    ["a name with a leading dot", { ...valid, name: ".." }, /^name: must be 1 to 64/],
    ["an empty name", { ...valid, name: "" }, /^name: must be 1 to 64/],
    ["a name that is too long", { ...valid, name: "a".repeat(65) }, /^name: must be 1 to 64/],
    ["a misspelt setting", { ...valid, readonly: true }, 'readonly: unknown key (did you mean "readOnly"?)'],
    ["a misspelt broker", { name: "data", brokr: {}, broker: valid.broker }, 'brokr: unknown key (did you mean "broker"?)'],
    [
      "a setting that nobody knows",
      { ...valid, zzz: 1 },
      "zzz: unknown key; remove it, or use one of: version, name, title, description, baseUrl, readOnly, moveEnabled, archived, limits, broker",
    ],
    ["a setting of another kind", { ...valid, readOnly: "yes" }, "readOnly: expected a boolean, found a string"],
    ["a misspelt limit", { ...valid, limits: { file: 3 } }, 'limits.file: unknown key (did you mean "files"?)'],
    ["a limit that is nothing", { ...valid, limits: { files: 0 } }, "limits.files: too small: expected number to be >0"],
    ["a limit that is a fraction", { ...valid, limits: { files: 1.5 } }, /^limits\.files: expected a/],
    ["a base URL that is none", { ...valid, baseUrl: "files" }, /^baseUrl: must be an http or https URL without user, query and fragment/],
    ["a base URL with a password", { ...valid, baseUrl: "https://me:hunter2@example.org" }, /^baseUrl: must be an http or https URL/],
    ["a base URL with a user", { ...valid, baseUrl: "https://token@example.org" }, /^baseUrl: must be an http or https URL/],
    ["a base URL with a query", { ...valid, baseUrl: "https://example.org/?a=1" }, /^baseUrl: must be an http or https URL/],
    ["a base URL of a file", { ...valid, baseUrl: "file:///data" }, /^baseUrl: must be an http or https URL/],
    ["an unknown version", { ...valid, version: "2" }, 'version: version "2" is not supported; write "1"'],
    [
      "a version of Scale",
      { ...valid, version: "7" },
      'version: version "7" is not supported; write "1"; read Scale\'s with importScaleWorkspace',
    ],
    ["a missing option", { name: "data", broker: { type: "disk" } }, "broker.hostPath: is required (a string)"],
    [
      "a misspelt option",
      { name: "data", broker: { type: "disk", hostPath: "/d", filemode: "1" } },
      'broker.filemode: unknown key (did you mean "fileMode"?)',
    ],
    [
      "an option of another type",
      { name: "data", broker: { ...valid.broker, hostPath: "/d" } },
      /^broker\.hostPath: unknown key; remove it, or use one of: bucket, credentials/,
    ],
    [
      "an option that is null",
      { name: "data", broker: { type: "disk", hostPath: null } },
      "broker.hostPath: expected a string, found null",
    ],
    [
      "an empty option",
      { name: "data", broker: { type: "disk", hostPath: "" } },
      "broker.hostPath: too small: expected string to have >=1 characters",
    ],
    [
      "a deep misspelt option",
      { name: "data", broker: { ...valid.broker, credentials: { keyId: "k", secretkey: "abcd" } } },
      'broker.credentials.secretkey: unknown key (did you mean "secretKey"?)',
    ],
    [
      "a wrong element",
      {
        name: "data",
        broker: {
          ...valid.broker,
          accounts: [
            { user: "u", token: "t" },
            { user: 1, token: "t" },
          ],
        },
      },
      "broker.accounts[1].user: expected a string, found a number",
    ],
    [
      "a wrong value under an odd key",
      { name: "data", broker: { ...valid.broker, tokens: { "a b\n": 1 } } },
      'broker.tokens["a b\\u{a}"]: expected a string, found a number',
    ],
    [
      "a fraction where a number is whole",
      { name: "data", broker: { ...valid.broker, retries: 1.5 } },
      "broker.retries: expected a whole number, found a number",
    ],
  ];
  for (const [what, config, message] of cases) {
    test(what, async () => {
      const problems = await problemsOf(config);
      expect(problems).toContainEqual(typeof message === "string" ? message : expect.stringMatching(message));
      const error = await errorOf(config);
      for (const problem of problems) expect(error.message).toContain(problem);
    });
  }

  test("everything that is wrong is in one message", async () => {
    const error = await errorOf({
      name: "data",
      readonly: true,
      title: 3,
      broker: { type: "cloud", bukcet: "abc", retries: -1, credentials: { keyId: 1 } },
    });
    expect(error.code).toBe("INVALID_CONFIGURATION");
    expect(error.workspace).toBe("data");
    expect(error.message.split("\n").sort()).toEqual([
      "- broker.bucket: is required (a string)",
      '- broker.bukcet: unknown key (did you mean "bucket"?)',
      "- broker.credentials.keyId: expected a string, found a number",
      "- broker.credentials.secretKey: is required (a string)",
      "- broker.retries: too small: expected number to be >=0",
      '- readonly: unknown key (did you mean "readOnly"?)',
      "- title: expected a string, found a number",
      'the configuration of the workspace "data" has 7 problems:',
    ]);
    expect(error.problems).toContainEqual({ name: "missing_key", path: ["broker", "bucket"], message: "is required (a string)" });
  });

  test("the code tells an unknown type from a contract that does not agree, and both from the rest", async () => {
    expect((await errorOf({ name: "data", broker: { type: "tape" } })).code).toBe("UNKNOWN_BROKER_TYPE");
    expect((await errorOf({ broker: { type: "tape" } })).code).toBe("INVALID_CONFIGURATION");
    const future = { ...disk, contract: 2 } as unknown as typeof disk;
    expect((await errorOf({ name: "data", broker: { type: "disk" } }, { brokers: [future] })).code).toBe("CONTRACT_MISMATCH");
    expect((await errorOf({ name: "data", broker: {} }, { brokers: [] })).message).toContain("broker.type: is required: the broker's type");
  });

  test("a configuration that is anything at all is refused in words, or read", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          fc.anything({ withNullPrototype: true }),
          fc.record(
            {
              name: fc.anything(),
              broker: fc.oneof(
                fc.anything(),
                fc.record(
                  { type: fc.constantFrom("disk", "cloud", 1), bucket: fc.anything(), tokens: fc.anything(), accounts: fc.anything() },
                  { requiredKeys: [] },
                ),
              ),
            },
            { requiredKeys: [] },
          ),
        ),
        async (config) => {
          const read = await readWorkspaceConfig(config, { brokers });
          if (!("definition" in read)) {
            expect(read.problems.length).toBeGreaterThan(0);
            for (const { message } of read.problems) expect(message).not.toBe("");
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe("schemas of brokers in all their forms", () => {
  const of = (config: z.ZodType): ReadConfigOptions => ({
    brokers: [defineBroker({ type: "odd", config, open: async () => createMemoryBroker() })],
  });
  const broken = (config: z.ZodType, options: object): Promise<string[]> =>
    problemsOf({ name: "a", broker: { type: "odd", ...options } }, of(config));

  test("a choice of words is hinted at", async () => {
    const schema = z.strictObject({ mode: z.enum(["process", "inline"]), level: z.literal(["a", 1]).optional() });
    expect(await broken(schema, { mode: "proces" })).toEqual(['broker.mode: expected "process" or "inline" (did you mean "process"?)']);
    expect(await broken(schema, {})).toEqual(['broker.mode: is required ("process" or "inline")']);
    expect(await broken(schema, { mode: "inline", level: true })).toEqual(['broker.level: expected "a" or 1']);
  });

  test("of alternatives that are told apart by a key, the one that is meant is spoken of", async () => {
    const schema = z.strictObject({
      auth: z.discriminatedUnion("method", [
        z.strictObject({ method: z.literal("token"), token: z.string() }),
        z.strictObject({ method: z.literal("file"), path: z.string() }),
      ]),
    });
    expect(await broken(schema, { auth: { method: "file", paht: "/f" } })).toEqual([
      "broker.auth.path: is required (a string)",
      'broker.auth.paht: unknown key (did you mean "path"?)',
    ]);
    expect(await broken(schema, { auth: { method: "fiel" } })).toEqual([
      'broker.auth.method: expected "token" or "file" (did you mean "file"?)',
    ]);
    expect(await broken(schema, { auth: {} })).toEqual(['broker.auth.method: is required: "token" or "file"']);
    expect(await broken(schema, { auth: 3 })).toEqual(["broker.auth: expected an object, found a number"]);
  });

  test("of alternatives of other kinds, the one of the value's kind is spoken of, or all are named", async () => {
    const schema = z.strictObject({
      target: z.union([z.string(), z.strictObject({ server: z.string() })]),
      size: z.union([z.number(), z.literal("auto")]).optional(),
    });
    expect(await broken(schema, { target: { sever: "x" } })).toEqual([
      "broker.target.server: is required (a string)",
      'broker.target.sever: unknown key (did you mean "server"?)',
    ]);
    const places = z.strictObject({
      place: z.union([z.strictObject({ host: z.string(), port: z.number() }), z.strictObject({ file: z.string() })]),
    });
    expect(await broken(places, { place: { flie: "/f" } })).toEqual([
      "broker.place.file: is required (a string)",
      'broker.place.flie: unknown key (did you mean "file"?)',
    ]);
    expect(await broken(schema, { target: 3 })).toEqual(["broker.target: expected a string or an object, found a number"]);
    expect(await broken(schema, {})).toEqual(["broker.target: is required (a string or an object)"]);
    expect(await broken(schema, { target: "x", size: "big" })).toEqual(['broker.size: expected a number or "auto", found a string']);
  });

  test("defaults, pipes, records with checked keys, and rules of the author's own", async () => {
    const schema = z
      .strictObject({
        size: z.string().transform(Number).pipe(z.number().max(5)).default(1),
        ports: z.record(z.string().regex(/^p\d$/, "must be p and a digit"), z.number()).optional(),
        from: z.number().optional(),
        to: z.number().optional(),
      })
      .refine(({ from = 0, to = 1 }) => from < to, { path: ["to"], message: "must be more than from" });
    expect(await broken(schema, { size: "9" })).toEqual(["broker.size: too big: expected number to be <=5"]);
    expect(await broken(schema, { ports: { q1: 1 } })).toEqual(["broker.ports.q1: invalid key: must be p and a digit"]);
    expect(await broken(schema, { from: 3, to: 2 })).toEqual(["broker.to: must be more than from"]);
    expect(await broken(schema, { size: "2", ports: { p1: 1 }, to: 5 })).toEqual([]);
  });

  test("a schema that throws is a problem too, without what it was given", async () => {
    const schema = z.strictObject({
      token: secret(z.string()).transform((token) => {
        throw new Error(`cannot use ${token}`);
      }),
    });
    expect(await broken(schema, { token: "hunter2hunter2" })).toEqual(["broker: could not be checked: cannot use ********"]);
  });

  test("a schema that refers to itself", async () => {
    interface Node {
      readonly name: string;
      readonly children?: readonly Node[] | undefined;
    }
    const node: z.ZodType<Node> = z.strictObject({
      name: z.string(),
      get children() {
        return z.array(node).optional();
      },
    });
    expect(await broken(node, { name: "a", children: [{ name: "b", children: [{ nmae: "c" }] }] })).toEqual([
      "broker.children[0].children[0].name: is required (a string)",
      'broker.children[0].children[0].nmae: unknown key (did you mean "name"?)',
    ]);
  });

  test("paths are written as in code", () => {
    expect(formatPath(["broker", "accounts", 0, "user name", "x-y", "é"])).toBe('broker.accounts[0]["user name"].x-y.é');
    const { error } = z.safeParse(z.string(), 1);
    expect(describeIssues(error!.issues, z.string(), 1).map(describeProblem)).toEqual(["expected a string, found a number"]);
  });
});

describe("secrets", () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "stowage-secrets-"));
  });
  afterEach(async () => {
    delete process.env.STOWAGE_TEST_SECRET;
    await rm(folder, { recursive: true });
  });
  const withKey = (secretKey: unknown) => ({ name: "data", broker: { ...valid.broker, credentials: { keyId: "k", secretKey } } });
  const keyOf = async (secretKey: unknown, options: ReadConfigOptions = { brokers }) =>
    ((await parseWorkspaceConfig(withKey(secretKey), options)).brokerConfig as { credentials: { secretKey: string } }).credentials
      .secretKey;

  test("are given as values, or looked up in a file or in the environment, of which one final newline is dropped", async () => {
    process.env.STOWAGE_TEST_SECRET = "from the environment";
    const file = join(folder, "key");
    expect(await keyOf("a value")).toBe("a value");
    expect(await keyOf({ fromEnvironment: "STOWAGE_TEST_SECRET" })).toBe("from the environment");
    for (const [content, expected] of [
      ["from a file", "from a file"],
      ["from a file\n", "from a file"],
      ["from a file\r\n", "from a file"],
      ["from a file\n\n", "from a file\n"],
      [" spaces \n", " spaces "],
    ]) {
      await writeFile(file, content!);
      expect(await keyOf({ fromFile: file })).toBe(expected);
    }
  });

  test("are looked up inside arrays and records as well", async () => {
    process.env.STOWAGE_TEST_SECRET = "looked up";
    const source = { fromEnvironment: "STOWAGE_TEST_SECRET" };
    const broker = { ...valid.broker, accounts: [{ user: "u", token: source }], tokens: { a: source, b: "plain" }, pins: ["1234", source] };
    expect((await parseWorkspaceConfig({ name: "data", broker }, { brokers })).brokerConfig).toMatchObject({
      accounts: [{ user: "u", token: "looked up" }],
      tokens: { a: "looked up", b: "plain" },
      pins: ["1234", "looked up"],
    });
  });

  test("that cannot be looked up are named by their source, all of them, and not also called missing", async () => {
    await writeFile(join(folder, "huge"), Buffer.alloc(1024 * 1024 + 1));
    const broker = {
      ...valid.broker,
      credentials: { keyId: "k", secretKey: { fromEnvironment: "STOWAGE_TEST_SECRET" } },
      tokens: { none: { fromFile: join(folder, "none") }, folder: { fromFile: folder }, huge: { fromFile: join(folder, "huge") } },
    };
    const error = await errorOf({ name: "data", broker });
    expect(error.code).toBe("INVALID_CONFIGURATION");
    expect(error.problems.map(describeProblem)).toEqual([
      "broker.credentials.secretKey: the environment variable STOWAGE_TEST_SECRET is not set; set it, or give the value otherwise",
      `broker.tokens.none: the file "${join(folder, "none")}" cannot be read (FILE_NOT_FOUND); create it, or make it readable for this user`,
      `broker.tokens.folder: the file "${folder}" cannot be read (NOT_A_FILE); create it, or make it readable for this user`,
      `broker.tokens.huge: the file "${join(folder, "huge")}" has 1048577 bytes, more than any secret; name the right file`,
    ]);
  });

  test("may be forbidden to refer to this process's files and environment", async () => {
    process.env.STOWAGE_TEST_SECRET = "not for everybody";
    const options = { brokers, allowSecretReferences: false };
    expect(await keyOf("a value", options)).toBe("a value");
    expect(await problemsOf(withKey({ fromEnvironment: "STOWAGE_TEST_SECRET" }), options)).toEqual([
      "broker.credentials.secretKey: may not refer to a file or environment variable here; give the value",
    ]);
  });

  test("that are masks are refused", async () => {
    for (const mask of ["********", "************"]) {
      expect(await problemsOf(withKey(mask))).toEqual([
        "broker.credentials.secretKey: holds the mask of a secret, not the secret; give the secret, or put the stored one back with restoreMaskedConfig",
      ]);
    }
  });

  test("are looked up nowhere but where the schema says that they are secret", async () => {
    process.env.STOWAGE_TEST_SECRET = "exfiltrated";
    const config = { name: "data", broker: { ...valid.broker, bucket: { fromEnvironment: "STOWAGE_TEST_SECRET" } } };
    expect(await problemsOf(config)).toEqual(["broker.bucket: expected a string, found an object"]);
  });

  test("are removed from every message, in whatever form a schema's author quotes them", async () => {
    const value = 'p/s"w+rd &';
    const loose = z.strictObject({
      token: secret(z.string()),
      check: z.unknown().optional(),
    });
    const leaky: BrokerDefinition<"leaky", { token: string; check?: unknown }> = defineBroker({
      type: "leaky",
      config: loose.superRefine(({ token }, context) => {
        context.addIssue({
          code: "custom",
          message: `bad token ${token} ${encodeURIComponent(token)} ${JSON.stringify({ token })} ${btoa(token)}`,
        });
      }) as z.ZodType<{ token: string; check?: unknown }, { token: string; check?: unknown }>,
      open: async () => createMemoryBroker(),
    });
    const error = await errorOf({ name: "data", broker: { type: "leaky", token: value } }, { brokers: [leaky] });
    expect(error.message).toBe(
      'the configuration of the workspace "data": broker: bad token ******** ******** {"token":"********"} ********',
    );
    const read = await readWorkspaceConfig({ name: "data", broker: { type: "cloud", bucket: "abc", pins: ["1234567"] } }, { brokers });
    expect(read.redact("pin 1234567!")).toBe("pin ********!");
  });

  test("that a transform has made of others are secret too", async () => {
    const schema = z.strictObject({ token: secret(z.string().transform((text) => Buffer.from(text, "base64").toString())) });
    const made = defineBroker({ type: "made", config: schema, open: async () => createMemoryBroker() });
    const { redact } = await parseWorkspaceConfig(
      { name: "data", broker: { type: "made", token: btoa("inner secret") } },
      { brokers: [made] },
    );
    expect(redact(`${btoa("inner secret")} inner secret`)).toBe("******** ********");
  });
});
