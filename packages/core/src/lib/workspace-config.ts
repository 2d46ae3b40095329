import * as z from "zod";
import type { AnyBrokerDefinition, BrokerDefinition, BrokerOptions } from "./broker-definition.ts";
import { type ConfigProblem, ConfigurationError, describeIssues } from "./config-error.ts";
import { escapePath } from "./file-path.ts";
import type { LimitsOptions } from "./limits.ts";
import { type BrokerSource, findDefinition, listDefinitions } from "./registry.ts";
import { isPlainObject } from "./schema-walk.ts";
import { createRedactor, findSecrets, resolveSecrets } from "./secrets.ts";
import { StowageError } from "./stowage-error.ts";

/** What a workspace's configuration holds beside its broker. JSON or YAML. */
export interface WorkspaceSettings {
  /** Of the format. Defaults to `"1"`. */
  readonly version?: "1" | 1 | undefined;
  /** 1 to 64 letters, digits, `.`, `_` or `-`, the first a letter or digit: it becomes a part of paths and addresses. */
  readonly name: string;
  /** For people. */
  readonly title?: string | undefined;
  readonly description?: string | undefined;
  /** Where the files are served over HTTP. */
  readonly baseUrl?: string | undefined;
  /** Refuse every change. Defaults to false. */
  readonly readOnly?: boolean | undefined;
  /** Whether files may be moved. Defaults to true. */
  readonly moveEnabled?: boolean | undefined;
  /** Refuse every transfer. Defaults to false. */
  readonly archived?: boolean | undefined;
  /** Of this workspace alone. Defaults to the process's memory budget and no other limit. */
  readonly limits?: LimitsOptions | undefined;
}

/**
 * The configuration of a workspace: `{ name, broker: { type, ...options of that type } }`. With definitions for `D`, `broker` has
 * exactly the options of one of them; without, any.
 */
export type WorkspaceConfig<D extends AnyBrokerDefinition = AnyBrokerDefinition> = WorkspaceSettings & {
  readonly broker: string extends D["type"] ? { readonly type: string; readonly [option: string]: unknown } : BrokerOptions<D>;
};

const WORKSPACE_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** Whether a workspace may have this name. */
export function isWorkspaceName(name: string): boolean {
  return WORKSPACE_NAME.test(name);
}

const nameMessage = "must be 1 to 64 letters, digits, dots, underscores or dashes, the first a letter or digit";

export interface SettingsSchemas {
  /** Everything of a configuration but `broker`, whose options are its definition's to parse. */
  readonly settings: z.ZodType<WorkspaceSettings, WorkspaceSettings>;
  /** Only for its keys: `broker` is one of them. */
  readonly withBroker: z.ZodType;
  /** The keys that a configuration may have. */
  readonly keys: readonly string[];
}

let schemas: SettingsSchemas | undefined;

/** Made at first use: who imports this package and opens nothing does not wait for it. */
export function settingsSchemas(): SettingsSchemas {
  schemas ??= makeSettingsSchemas();
  return schemas;
}

function makeSettingsSchemas(): SettingsSchemas {
  const settings = z
    .strictObject({
      version: z.literal(["1", 1]).optional().describe("Version of this format."),
      name: z.string().regex(WORKSPACE_NAME, nameMessage).describe("Names the workspace in addresses, errors and container paths."),
      title: z.string().optional().describe("For people."),
      description: z.string().optional().describe("For people."),
      baseUrl: z
        .string()
        .refine(isBaseUrl, "must be an http or https URL without user, query and fragment, such as https://files.example.org/data")
        .optional()
        .describe("Where the files are served over HTTP."),
      readOnly: z.boolean().optional().describe("Refuse every change. Defaults to false."),
      moveEnabled: z.boolean().optional().describe("Whether files may be moved. Defaults to true."),
      archived: z.boolean().optional().describe("Refuse every transfer. Defaults to false."),
      limits: z
        .strictObject({
          files: z.int().positive().optional().describe("Files that move at once."),
          memoryBytes: z.int().positive().optional().describe("Bytes of buffers in use at once."),
          bytesPerSecond: z.number().positive().optional().describe("Bandwidth."),
        })
        .optional()
        .describe("Limits of this workspace alone."),
    })
    .describe("A workspace: a place where files live.");

  const withBroker = z.strictObject({ ...settings.shape, broker: z.unknown() });
  return { settings, withBroker, keys: Object.keys(withBroker.shape) };
}

/** A configuration that has been read: everything in it holds. */
export interface ReadWorkspaceConfig {
  readonly settings: WorkspaceSettings;
  readonly definition: BrokerDefinition<string, unknown, unknown>;
  /** What the broker's schema made of its options. */
  readonly brokerConfig: unknown;
}

export interface ReadConfigOptions {
  /** Where broker types are looked up. Defaults to the default registry. */
  readonly brokers?: BrokerSource | undefined;
  /** Whether secrets may be `{ fromFile }` or `{ fromEnvironment }`. Say false where configurations come from people who must not read this process's files and environment. Defaults to true. */
  readonly allowSecretReferences?: boolean | undefined;
}

export type ReadConfigResult = {
  /** Removes the secrets of this configuration from a text. */
  readonly redact: (text: string) => string;
} & (({ readonly problems: readonly [] } & ReadWorkspaceConfig) | { readonly problems: readonly [ConfigProblem, ...ConfigProblem[]] });

/**
 * Reads a configuration: looks the broker's type up, looks its secrets up, parses both halves. Finds everything that is wrong, not
 * the first thing only. Throws nothing for bad input, and mutates nothing.
 */
export async function readWorkspaceConfig(config: unknown, options: ReadConfigOptions = {}): Promise<ReadConfigResult> {
  const unread = (...problems: readonly [ConfigProblem, ...ConfigProblem[]]): ReadConfigResult => ({ redact: (text) => text, problems });
  if (!isPlainObject(config)) {
    return unread({
      name: "invalid_value",
      path: [],
      message: "a workspace's configuration is an object: { name, broker: { type, ... } }",
    });
  }
  const problems: ConfigProblem[] = [];
  const { broker, ...rest } = config;

  const settings = await z.safeParseAsync(settingsSchemas().settings, rest);
  if (!settings.success) problems.push(...describeSettingsIssues(settings.error.issues, rest));

  const definition = readType(broker, options, problems);
  if (definition === undefined || !isPlainObject(broker)) return unread(...(problems as [ConfigProblem, ...ConfigProblem[]]));

  const { type: _type, ...brokerOptions } = broker;
  const resolved = await resolveSecrets(definition.config, brokerOptions, {
    place: ["broker"],
    allowReferences: options.allowSecretReferences ?? true,
  });
  problems.push(...resolved.problems);
  const parsed = await parseBrokerOptions(definition, resolved.value);
  const secrets = [...resolved.secrets];
  if ("value" in parsed) {
    // What a transform has made of a secret is secret too.
    for (const { value } of findSecrets(definition.config, parsed.value)) if (typeof value === "string") secrets.push(value);
  } else {
    // A secret that could not be looked up is not also "required".
    const reported = new Set(resolved.problems.map(({ path }) => JSON.stringify(path)));
    problems.push(...parsed.problems.filter(({ path }) => !reported.has(JSON.stringify(path))));
  }

  const redact = createRedactor(secrets);
  const [first, ...others] = problems.map((problem) => ({ ...problem, message: redact(problem.message) }));
  if (first !== undefined) return { redact, problems: [first, ...others] };
  if (!settings.success || !("value" in parsed)) throw new Error("a configuration was refused without a reason");
  return { redact, problems: [], settings: settings.data, definition, brokerConfig: parsed.value };
}

/** As `readWorkspaceConfig`; throws a `ConfigurationError` that names every problem. */
export async function parseWorkspaceConfig(
  config: unknown,
  options?: ReadConfigOptions,
): Promise<ReadWorkspaceConfig & { readonly redact: (text: string) => string }> {
  const read = await readWorkspaceConfig(config, options);
  if ("definition" in read) return read;
  const name = isPlainObject(config) && typeof config.name === "string" && isWorkspaceName(config.name) ? config.name : undefined;
  throw new ConfigurationError(`the configuration of ${name === undefined ? "a workspace" : `the workspace "${name}"`}`, read.problems, {
    workspace: name,
  });
}

function readType(
  broker: unknown,
  options: ReadConfigOptions,
  problems: ConfigProblem[],
): BrokerDefinition<string, unknown, unknown> | undefined {
  const report = (name: string, path: readonly PropertyKey[], message: string): undefined => {
    problems.push({ name, path, message });
    return undefined;
  };
  if (broker === undefined) return report("missing_key", ["broker"], "is required: an object with the broker's type and its options");
  if (!isPlainObject(broker)) return report("invalid_value", ["broker"], "must be an object with the broker's type and its options");
  const { type } = broker;
  try {
    if (type === undefined) {
      const known = listDefinitions(options.brokers).map((definition) => definition.type);
      return report(
        "missing_key",
        ["broker", "type"],
        `is required: the broker's type${known.length === 0 ? "" : `, one of ${known.join(", ")}`}`,
      );
    }
    if (typeof type !== "string") return report("invalid_value", ["broker", "type"], "must be a string: the broker's type");
    // Its parts belong together, whatever their types: `config` makes what `open` takes.
    return findDefinition(options.brokers, type) as unknown as BrokerDefinition<string, unknown, unknown>;
  } catch (error) {
    if (!StowageError.is(error)) throw error;
    return report(error.code.toLowerCase(), ["broker", "type"], error.message);
  }
}

async function parseBrokerOptions(
  definition: AnyBrokerDefinition,
  value: unknown,
): Promise<{ readonly value: unknown } | { readonly problems: readonly ConfigProblem[] }> {
  try {
    const parsed = await z.safeParseAsync(definition.config, value);
    return parsed.success
      ? { value: parsed.data }
      : { problems: describeIssues(parsed.error.issues, definition.config, value, ["broker"]) };
  } catch (error) {
    // A schema's own code (a refinement, a transform) threw instead of reporting.
    const message = error instanceof Error ? error.message : String(error);
    return { problems: [{ name: "invalid_value", path: ["broker"], message: `could not be checked: ${message}` }] };
  }
}

function describeSettingsIssues(issues: readonly z.core.$ZodIssue[], value: Readonly<Record<string, unknown>>): ConfigProblem[] {
  return issues.flatMap((issue): ConfigProblem[] => {
    if (issue.path[0] === "version") {
      const scale =
        value.version === "1.0" || value.version === "6" || value.version === "7" ? "; read Scale's with importScaleWorkspace" : "";
      const found = typeof value.version === "string" ? ` "${escapePath(value.version)}"` : "";
      return [{ name: "unsupported_version", path: ["version"], message: `version${found} is not supported; write "1"${scale}` }];
    }
    if (issue.code === "unrecognized_keys" && issue.path.length === 0) {
      return describeIssues([issue], settingsSchemas().withBroker, { ...value, broker: {} });
    }
    return describeIssues([issue], settingsSchemas().settings, value);
  });
}

function isBaseUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const url = new URL(text);
  return (
    (url.protocol === "http:" || url.protocol === "https:") &&
    url.username === "" &&
    url.password === "" &&
    url.search === "" &&
    url.hash === ""
  );
}
