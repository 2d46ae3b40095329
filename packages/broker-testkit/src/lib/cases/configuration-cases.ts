import assert from "node:assert/strict";
import { inspect } from "node:util";
import { createBrokerRegistry, maskWorkspaceConfig, openWorkspace, restoreMaskedConfig } from "@stowage/core";
import { type AnyBrokerDefinition, STOWAGE_ERROR_CODES, StowageError } from "@stowage/core/broker";
import * as z from "zod";
import { type CaseOfGroup, type ConformanceCase, casesOf } from "../conformance-case.ts";
import { describeError, expectBytes, expectRejected, outcomesOf, witness } from "../expectations.ts";
import type { Harness } from "../harness.ts";
import { samples, secrets, sharedInProcess, validate, volume, without, writable } from "../needs.ts";

const UNKNOWN_KEY = "conformanceProbeKey";

const cases: readonly CaseOfGroup[] = [
  {
    id: "A1",
    name: "two places are two workspaces: a file of one is not in the other",
    needs: [writable],
    async run(harness) {
      const other = await harness.open({ place: await harness.openPlace() });
      await harness.put("only-here.txt", "one");
      assert.notEqual(other.broker, harness.broker, "open gives a broker of its own each time");
      assert.deepEqual(await harness.list("", other.workspace), []);
      assert.equal(await other.workspace.statFile("only-here.txt"), undefined);
    },
  },
  {
    id: "A2",
    name: "a registry takes the definition once, and refuses another one of the same type",
    async run({ definition }) {
      const registry = createBrokerRegistry([definition]);
      registry.add(definition);
      assert.deepEqual(registry.types(), [definition.type]);
      await expectRejected((async () => registry.add({ ...definition }))(), "a second definition of the type", "CONFLICT");
      registry.add({ ...definition }, { override: true });
    },
  },
  {
    id: "A3",
    name: "a misspelt type is refused with the name of the right one",
    async run({ definition }) {
      const error = await expectRejected(
        openWorkspace({ name: "conformance", broker: { type: `${definition.type}x` } }, { brokers: [definition] }),
        "an unknown type",
        "UNKNOWN_BROKER_TYPE",
      );
      assert.ok(error.message.includes(definition.type), `the error should name "${definition.type}": ${error.message}`);
    },
  },
  {
    id: "A4",
    name: "every sample configuration is accepted, and the workspace opens",
    async run(harness) {
      for (const [index, config] of validConfigs(harness).entries()) {
        const result = harness.definition.config.safeParse(config);
        assert.ok(result.success, `sample ${index} is refused: ${result.success ? "" : z.prettifyError(result.error)}`);
      }
      const workspace = await harness.openConfigured();
      assert.equal(workspace.brokerType, harness.definition.type);
      assert.equal(await workspace.statFile("nothing-here"), undefined);
    },
  },
  {
    id: "A5",
    name: "without a required field the configuration is refused by an error that names it",
    async run(harness) {
      const { config } = harness.place;
      for (const key of Object.keys(config)) {
        const { [key]: _left, ...rest } = config;
        if (harness.definition.config.safeParse(rest).success) continue;
        const error = await refusal(harness, rest);
        assert.ok(error.message.includes(key), `the error should name "${key}": ${error.message}`);
      }
    },
  },
  {
    id: "A5a",
    name: "every invalid sample is refused by an error that says what is wrong",
    needs: [samples("invalid")],
    async run(harness) {
      for (const { config, names } of harness.target.samples?.invalid ?? []) {
        const error = await refusal(harness, config);
        assert.ok(error.message.includes(names), `the error should contain "${names}": ${error.message}`);
      }
    },
  },
  {
    id: "A6",
    name: "an unknown field is refused by an error that names it",
    async run(harness) {
      const error = await refusal(harness, { ...harness.place.config, [UNKNOWN_KEY]: 1 });
      assert.ok(error.message.includes(UNKNOWN_KEY), `the error should name "${UNKNOWN_KEY}": ${error.message}`);
    },
  },
  {
    id: "A6a",
    name: "a misspelt field is refused by an error that names the nearest known one",
    async run(harness) {
      const [key] = Object.keys(harness.place.config).filter((name) => name.length >= 4);
      if (key === undefined) return harness.skip("the configuration has no field with a name of four letters or more");
      const { [key]: value, ...rest } = harness.place.config;
      const error = await refusal(harness, { ...rest, [`${key}x`]: value });
      assert.ok(error.message.replaceAll(`${key}x`, "").includes(key), `the error about "${key}x" should name "${key}": ${error.message}`);
    },
  },
  {
    id: "A7",
    name: "validation changes nothing in the backend",
    needs: [validate],
    async run(harness) {
      await harness.put("there.txt", "there");
      const before = { files: await harness.list(), raw: await harness.rawNames() };
      await runValidate(harness, harness.place.config);
      assert.deepEqual({ files: await harness.list(), raw: await harness.rawNames() }, before);
    },
  },
  {
    id: "A7a",
    name: "validation of a good place finds nothing wrong, and names findings in snake_case",
    needs: [validate],
    async run(harness) {
      const warnings = await runValidate(harness, harness.place.config);
      for (const { name, description } of warnings) {
        assert.match(name, /^[a-z][a-z0-9_]*$/, "a warning's name");
        assert.ok(description.length > 10, `the warning ${name} should say what was found and what to do`);
      }
    },
  },
  {
    id: "A8",
    name: "a backend that does not answer is a warning within ten seconds, not an error",
    needs: [validate, samples("unreachable")],
    async run(harness) {
      for (const config of harness.target.samples?.unreachable ?? []) {
        const started = performance.now();
        const warnings = await runValidate(harness, config);
        assert.ok(performance.now() - started < 10_000, "validation should give up within ten seconds");
        assert.ok(warnings.length > 0, "an unreachable backend should give a warning");
      }
    },
  },
  {
    id: "A9",
    name: "no secret turns up in an error, a log, or a printed broker or workspace",
    needs: [secrets],
    async run(harness) {
      const texts: [string, string][] = [];
      const see = (what: string, value: unknown): void => {
        texts.push([what, typeof value === "string" ? value : inspect(value, { depth: 6, maxStringLength: null, maxArrayLength: null })]);
        texts.push([`${what} as a string`, String(value)]);
      };
      const workspace = await harness.openConfigured();
      see("the broker", harness.broker);
      see("the workspace", workspace);
      see("the workspace as JSON", tryJson(workspace));
      const attempts: readonly [string, () => Promise<unknown>][] = [
        ["downloading what is missing", () => workspace.downloadFiles([{ file: "no/such", localPath: harness.localPath() }])],
        ["moving what is missing", () => workspace.moveFiles([{ file: "no/such", newPath: "no/where" }])],
        ["uploading what is missing", () => workspace.uploadFiles([{ file: "a", localPath: harness.localPath() }])],
        ["an unknown key", () => refuse(harness, { ...harness.place.config, [UNKNOWN_KEY]: 1 })],
        ["secrets in the wrong place", () => refuse(harness, { ...harness.place.config, [UNKNOWN_KEY]: harness.target.secrets })],
        ...Object.entries(harness.place.config).map(([key, value]): [string, () => Promise<unknown>] => [
          `the field ${key} in a list`,
          () => refuse(harness, { ...harness.place.config, [key]: [value] }),
        ]),
      ];
      let errors = 0;
      for (const [what, attempt] of attempts) {
        await attempt().then(
          (value) => see(what, value),
          (error: unknown) => {
            errors++;
            for (let cause: unknown = error; cause !== undefined && cause !== null; cause = (cause as { cause?: unknown }).cause) {
              see(`the error of ${what}`, cause);
              if (cause instanceof Error) see(`the message of ${what}`, `${cause.message}\n${cause.stack ?? ""}`);
            }
          },
        );
      }
      witness("errors to look at", errors, 3);
      const context = harness.context();
      await harness.broker.statFile(harness.stored("nothing"), context);
      await harness.broker.deleteFile(harness.stored("nothing"), context).catch((error: unknown) => see("the error of a deletion", error));
      await harness.broker
        .downloadFile({ file: harness.stored("nothing"), localPath: harness.localPath() }, context)
        .catch((error: unknown) => see("the broker's own error", error));
      for (const line of context.record.logged) see("a log line", line);
      for (const secret of harness.target.secrets ?? []) {
        for (const [what, text] of texts) {
          // The message must not repeat what it accuses.
          assert.ok(!text.includes(secret), `a secret is in ${what}`);
        }
      }
    },
  },
  {
    id: "A9a",
    name: "masking a configuration hides every secret, and a masked one that comes back keeps what is stored",
    needs: [secrets],
    async run({ definition, place, target }) {
      const stored = { name: "conformance", broker: { type: definition.type, ...place.config } };
      const masked = maskWorkspaceConfig(stored, { brokers: [definition] });
      const text = JSON.stringify(masked);
      for (const secret of target.secrets ?? []) assert.ok(!text.includes(secret), "a secret is in the masked configuration");
      const restored = restoreMaskedConfig(masked, stored);
      assert.deepEqual(JSON.parse(JSON.stringify(restored)), JSON.parse(JSON.stringify(stored)));
    },
  },
  {
    id: "A10",
    name: "the configuration has a JSON Schema, which accepts what the broker accepts",
    async run(harness) {
      const schema = z.toJSONSchema(harness.definition.config, { io: "input" });
      const text = JSON.stringify(schema);
      const back = z.fromJSONSchema(JSON.parse(text));
      for (const [index, config] of validConfigs(harness).entries()) {
        const result = back.safeParse(JSON.parse(JSON.stringify(config)));
        assert.ok(result.success, `the JSON Schema refuses sample ${index}: ${result.success ? "" : z.prettifyError(result.error)}`);
      }
      const strange = back.safeParse({ ...harness.place.config, [UNKNOWN_KEY]: 1 });
      assert.ok(!strange.success, "the JSON Schema should refuse an unknown field (additionalProperties: false)");
    },
  },
  {
    id: "A11",
    name: "a definition of another contract is refused before it is opened",
    async run({ definition, place }) {
      let opened = 0;
      const foreign = {
        ...definition,
        contract: 2,
        open: async () => {
          opened++;
          throw new Error("opened");
        },
      } as unknown as AnyBrokerDefinition;
      await expectRejected(
        openWorkspace(
          { name: "conformance", broker: { type: definition.type, ...place.config } },
          { brokers: [foreign], volumePath: place.volumePath },
        ),
        "a definition of contract 2",
        "CONTRACT_MISMATCH",
      );
      assert.equal(opened, 0, "it should not have been opened");
    },
  },
  {
    id: "A12",
    name: "the volume is known before anything is opened, and the workspace shows the same",
    needs: [volume],
    async run(harness) {
      const config = harness.definition.config.parse(harness.place.config);
      const described = harness.definition.volume?.(config);
      const workspace = await harness.openConfigured();
      assert.deepEqual(workspace.volume, described);
      if (described === undefined) return;
      assert.ok(["bind", "nfs", "driver"].includes(described.kind), `the volume's kind: ${described.kind}`);
      if (described.kind === "bind")
        assert.ok(described.source.startsWith("/"), `the volume's source is an absolute path: ${described.source}`);
    },
  },
  {
    id: "A12a",
    name: "a broker without a volume gives a workspace without one",
    needs: [without(volume)],
    async run(harness) {
      const workspace = await harness.openConfigured();
      assert.equal(workspace.volume, undefined);
    },
  },
  {
    id: "A13",
    name: "the volume survives JSON and is the same each time it is asked for",
    needs: [volume],
    async run({ definition, place }) {
      const config = definition.config.parse(place.config);
      const first = definition.volume?.(config);
      assert.deepEqual(definition.volume?.(config), first);
      if (first !== undefined) assert.deepEqual(JSON.parse(JSON.stringify(first)), first);
    },
  },
  {
    id: "A14",
    name: "closing twice is safe, and a closed workspace answers CLOSED",
    async run(harness) {
      await harness.put("there.txt", "there");
      const { workspace } = await harness.open();
      await workspace.close();
      await workspace.close();
      await expectRejected(workspace.statFile("there.txt"), "stat after close", "CLOSED");
      await expectRejected(Array.fromAsync(workspace.listFiles()), "list after close", "CLOSED");
      const [outcome] = await outcomesOf(
        workspace.downloadFiles([{ file: "there.txt", localPath: harness.localPath() }]).catch((error: unknown) => {
          if (StowageError.is(error) && error.code === "CLOSED") return [];
          throw error;
        }),
      );
      assert.ok(outcome === undefined || outcome.status === "failed" || outcome.status === "cancelled", "download after close");
      // The harness closes it once more at the end.
    },
  },
  {
    id: "A132",
    name: "opening changes nothing in the configuration that it is given",
    async run(harness) {
      const config = deepFreeze(structuredClone(harness.place.config));
      const before = JSON.stringify(config);
      const parsed = harness.definition.config.parse(config);
      const parsedBefore = JSON.stringify(parsed);
      const broker = await harness.definition.open(deepFreeze(parsed), {
        signal: new AbortController().signal,
        volumePath: harness.place.volumePath,
      });
      try {
        await broker.statFile(harness.stored("nothing"), harness.context());
      } finally {
        await broker.close();
      }
      assert.equal(JSON.stringify(config), before, "the configuration");
      assert.equal(JSON.stringify(parsed), parsedBefore, "the parsed configuration");
      // Also one that could be changed, for code that does not run in strict mode.
      const loose = structuredClone(harness.place.config);
      const second = await harness.definition.open(harness.definition.config.parse(loose), {
        signal: new AbortController().signal,
        volumePath: harness.place.volumePath,
      });
      await second.close();
      assert.equal(JSON.stringify(loose), before, "the configuration");
    },
  },
  {
    id: "A133",
    name: "the definition is marked, names its type and speaks this contract",
    async run({ definition }) {
      assert.equal(definition.isStowageBrokerDefinition, true);
      assert.equal(definition.contract, 1);
      assert.match(definition.type, /^[a-z0-9][a-z0-9-]*$/, "a type is lower-case letters, digits and dashes");
    },
  },
  {
    id: "A134",
    name: "errorCode answers for any value that can be thrown, and never throws",
    async run({ broker }) {
      const circular = new Error("circular") as Error & { cause?: unknown };
      circular.cause = circular;
      const thrown: readonly unknown[] = [
        undefined,
        null,
        0,
        "",
        "text",
        Symbol("s"),
        {},
        [],
        () => 1,
        Object.freeze({ code: 42 }),
        { code: "NoSuchCodeAnywhere" },
        new Error("plain"),
        circular,
        new DOMException("aborted", "AbortError"),
        Object.assign(new Error("ENOENT"), { code: "ENOENT" }),
      ];
      for (const value of thrown) {
        const facts = broker.errorCode(value);
        const code = typeof facts === "string" ? facts : facts.code;
        assert.ok(STOWAGE_ERROR_CODES.includes(code), `errorCode(${describeError(value)}) gives "${String(code)}", which is no code`);
      }
    },
  },
  {
    id: "A135",
    name: "a broker opened again sees what was stored before",
    needs: [sharedInProcess],
    async run(harness) {
      const bytes = harness.random.bytes(5_000);
      await harness.put("kept/over/time.bin", bytes);
      await harness.workspace.close();
      const { workspace } = await harness.open();
      assert.deepEqual(await harness.list("", workspace), ["kept/over/time.bin"]);
      expectBytes(await harness.get("kept/over/time.bin", workspace), bytes, "the file after closing and opening");
    },
  },
  {
    id: "A136",
    name: "an opening that is given up rejects, and leaves nothing open",
    async run(harness) {
      await expectRejected(
        openWorkspace(
          { name: "conformance", broker: { type: harness.definition.type, ...harness.place.config } },
          { brokers: [harness.definition], volumePath: harness.place.volumePath, signal: AbortSignal.abort() },
        ),
        "opening with an aborted signal",
        "CANCELLED",
      );
    },
  },
];

function validConfigs({ place, target }: Harness): readonly unknown[] {
  return [place.config, ...(target.samples?.valid ?? [])];
}

async function refuse(harness: Harness, config: unknown): Promise<unknown> {
  const workspace = await openWorkspace(
    { name: "conformance", broker: { ...(config as Record<string, unknown>), type: harness.definition.type } },
    { brokers: [harness.definition], volumePath: harness.place.volumePath },
  );
  await workspace.close();
  return "accepted";
}

async function refusal(harness: Harness, config: unknown): Promise<StowageError> {
  return expectRejected(refuse(harness, config), "the configuration", "INVALID_CONFIGURATION");
}

async function runValidate(harness: Harness, config: unknown): Promise<readonly { readonly name: string; readonly description: string }[]> {
  const parsed = harness.definition.config.parse(config);
  const context = { signal: AbortSignal.timeout(15_000), volumePath: harness.place.volumePath };
  return (await harness.definition.validate?.(parsed, context)) ?? [];
}

function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const inner of Object.values(value)) deepFreeze(inner);
  }
  return value;
}

function tryJson(value: unknown): string {
  try {
    return JSON.stringify(value) ?? "";
  } catch {
    return "";
  }
}

/** Group A: what holds before the first byte moves. */
export const configurationCases: readonly ConformanceCase[] = casesOf("A", cases);
