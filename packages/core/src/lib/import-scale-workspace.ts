import type { ValidationWarning } from "./broker-definition.ts";
import { type ConfigProblem, ConfigurationError, formatPath } from "./config-error.ts";
import { escapePath } from "./file-path.ts";
import { didYouMean } from "./nearest-name.ts";
import { isPlainObject } from "./schema-walk.ts";
import { isMasked } from "./secrets.ts";
import { isWorkspaceName, type WorkspaceConfig } from "./workspace-config.ts";

export interface ImportScaleOptions {
  /** For a bare configuration, which has none. Defaults to `"workspace"`, with a warning. */
  readonly name?: string | undefined;
}

export interface ImportedWorkspace {
  readonly config: WorkspaceConfig;
  /** What was changed, left out or guessed, and what will not work as it did. */
  readonly warnings: readonly ValidationWarning[];
}

/**
 * Translates a workspace of Scale (`ngageoint/scale`): its JSON text or what that parses to, the whole record (with `json_config` or
 * `configuration`) or a bare configuration, of the versions 1.0, 6 and 7. Credentials are taken as they are: consider replacing them
 * with `{ fromFile }` or `{ fromEnvironment }`. Throws a `ConfigurationError` that names everything that cannot be translated: another
 * version, a missing path or bucket, half of a pair of credentials, credentials that Scale has masked.
 */
export function importScaleWorkspace(json: unknown, options: ImportScaleOptions = {}): ImportedWorkspace {
  const problems: ConfigProblem[] = [];
  const warnings: ValidationWarning[] = [];
  const config = translate(parseText(json), options, new Reporter(problems, warnings));
  if (config === undefined || problems.length > 0) throw new ConfigurationError("the Scale workspace", problems);
  return { config, warnings };
}

/** Collects what is to be said of the translation. */
class Reporter {
  readonly #problems: ConfigProblem[];
  readonly #warnings: ValidationWarning[];

  constructor(problems: ConfigProblem[], warnings: ValidationWarning[]) {
    this.#problems = problems;
    this.#warnings = warnings;
  }

  problem(name: string, path: readonly PropertyKey[], message: string): undefined {
    this.#problems.push({ name, path, message });
  }

  warning(name: string, path: readonly PropertyKey[], message: string): void {
    this.#warnings.push({ name, description: path.length === 0 ? message : `${formatPath(path)}: ${message}` });
  }
}

type Path = readonly PropertyKey[];
type Fields = Readonly<Record<string, unknown>>;

const VERSIONS: readonly unknown[] = ["1.0", "6", "7", 6, 7];

/** What Scale's record has and a workspace needs not: its database keys, times and measurements. */
const RECORD_KEYS_LEFT_OUT = ["id", "uuid", "created", "last_modified", "archived", "total_size", "used_size", "is_public"];
const RECORD_KEYS = [
  "name",
  "title",
  "description",
  "base_url",
  "is_active",
  "deprecated",
  "is_move_enabled",
  "json_config",
  "configuration",
];

function parseText(json: unknown): unknown {
  if (typeof json !== "string") return json;
  try {
    return JSON.parse(json);
  } catch {
    // Not as a cause: the parser quotes the text, which may hold credentials.
    throw new ConfigurationError("the Scale workspace", [{ name: "invalid_value", path: [], message: "it is not valid JSON" }]);
  }
}

function translate(value: unknown, options: ImportScaleOptions, report: Reporter): WorkspaceConfig | undefined {
  if (!isPlainObject(value)) return report.problem("invalid_value", [], "it must be an object: a workspace record, or its configuration");
  const key = value.json_config !== undefined ? "json_config" : value.configuration !== undefined ? "configuration" : undefined;
  const record = key === undefined ? undefined : value;
  const configuration = key === undefined ? value : value[key];
  const path: Path = key === undefined ? [] : [key];
  if (!isPlainObject(configuration)) return report.problem("invalid_value", path, "must be an object with the key broker");
  warnOfOthers(configuration, ["version", "broker"], path, report);
  if (configuration.version !== undefined && !VERSIONS.includes(configuration.version)) {
    report.problem(
      "unsupported_version",
      [...path, "version"],
      "is not a version of Scale's workspaces that can be read; known are 1.0, 6 and 7",
    );
  }
  const broker = translateBroker(configuration.broker, [...path, "broker"], report);
  const settings = record === undefined ? {} : translateRecord(record, report);
  if (broker === undefined) return undefined;
  return { name: translateName(record, options, report), ...settings, broker };
}

function translateName(record: Fields | undefined, options: ImportScaleOptions, report: Reporter): string {
  const given = options.name ?? record?.name;
  if (typeof given === "string" && isWorkspaceName(given)) return given;
  if (typeof given !== "string" || given === "") {
    report.warning("missing_name", ["name"], 'the configuration names no workspace; it is called "workspace" now: change that');
    return "workspace";
  }
  const name =
    given
      .normalize("NFKD")
      .replace(/[^A-Za-z0-9._-]+/g, "-")
      .replace(/^[^A-Za-z0-9]+|-+$/g, "")
      .slice(0, 64) || "workspace";
  report.warning("changed_name", ["name"], `"${escapePath(given)}" is no name for a workspace; it is called "${name}" now`);
  return name;
}

function translateRecord(record: Fields, report: Reporter): Partial<WorkspaceConfig> {
  warnOfOthers(record, [...RECORD_KEYS, ...RECORD_KEYS_LEFT_OUT], [], report);
  const flag = (key: string): boolean | undefined => {
    const value = record[key];
    if (value === undefined || value === null || typeof value === "boolean") return value ?? undefined;
    return report.problem("invalid_value", [key], "must be true or false");
  };
  const title = optionalText(record, "title", [], report);
  const description = optionalText(record, "description", [], report);
  const baseUrl = translateBaseUrl(record, report);
  const isActive = flag("is_active");
  const isDeprecated = record.deprecated !== undefined && record.deprecated !== null && record.deprecated !== false;
  if (isDeprecated && isActive !== false) {
    report.warning("deprecated", ["deprecated"], "the workspace is deprecated in Scale; it is archived now and refuses every transfer");
  }
  return {
    ...(title !== undefined && { title }),
    ...(description !== undefined && { description }),
    ...(baseUrl !== undefined && { baseUrl }),
    ...((isActive === false || isDeprecated) && { archived: true }),
    ...(flag("is_move_enabled") === false && { moveEnabled: false }),
  };
}

function translateBaseUrl(record: Fields, report: Reporter): string | undefined {
  const text = optionalText(record, "base_url", [], report);
  if (text === undefined) return undefined;
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (
    (url?.protocol === "http:" || url?.protocol === "https:") &&
    url.username === "" &&
    url.password === "" &&
    url.search === "" &&
    url.hash === ""
  ) {
    return text;
  }
  report.warning("left_out", ["base_url"], "is left out: it must be an http or https URL without user, query and fragment");
  return undefined;
}

function translateBroker(broker: unknown, path: Path, report: Reporter): WorkspaceConfig["broker"] | undefined {
  if (broker === undefined) return report.problem("missing_key", path, "is required");
  if (!isPlainObject(broker)) return report.problem("invalid_value", path, "must be an object");
  switch (broker.type) {
    case "host": {
      warnOfOthers(broker, ["type", "host_path"], path, report);
      const hostPath = requiredText(broker, "host_path", path, report);
      warnOfRelative(hostPath, [...path, "host_path"], report);
      return hostPath === undefined ? undefined : { type: "host", hostPath };
    }
    case "nfs": {
      warnOfOthers(broker, ["type", "nfs_path"], path, report);
      const nfsPath = requiredText(broker, "nfs_path", path, report);
      if (nfsPath !== undefined && !/^.+:\/.*$/.test(nfsPath)) {
        report.warning("suspicious_path", [...path, "nfs_path"], "is not of the form server:/export, and will be refused");
      }
      return nfsPath === undefined ? undefined : { type: "nfs", nfsPath };
    }
    case "s3":
      return translateS3(broker, path, report);
    case undefined:
      return report.problem("missing_key", [...path, "type"], "is required: host, nfs or s3");
    default: {
      const hint = typeof broker.type === "string" ? didYouMean(broker.type, ["host", "nfs", "s3"]) : "";
      return report.problem("unknown_broker_type", [...path, "type"], `is not one of Scale's broker types: host, nfs, s3${hint}`);
    }
  }
}

function translateS3(broker: Fields, path: Path, report: Reporter): WorkspaceConfig["broker"] | undefined {
  warnOfOthers(broker, ["type", "bucket_name", "region_name", "credentials", "host_path"], path, report);
  const bucket = requiredText(broker, "bucket_name", path, report);
  const region = optionalText(broker, "region_name", path, report);
  const hostPath = optionalText(broker, "host_path", path, report);
  warnOfRelative(hostPath, [...path, "host_path"], report);
  const credentials = translateCredentials(broker.credentials, [...path, "credentials"], report);
  if (bucket === undefined) return undefined;
  return {
    type: "s3",
    bucket,
    ...(region !== undefined && { region }),
    ...(credentials !== undefined && { credentials }),
    ...(hostPath !== undefined && { hostPath }),
  };
}

interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

function translateCredentials(credentials: unknown, path: Path, report: Reporter): Credentials | undefined {
  if (credentials === undefined || credentials === null) return undefined;
  if (!isPlainObject(credentials))
    return report.problem("invalid_value", path, "must be an object with access_key_id and secret_access_key");
  warnOfOthers(credentials, ["access_key_id", "secret_access_key"], path, report);
  if (Object.keys(credentials).length === 0) return undefined;
  const part = (key: "access_key_id" | "secret_access_key"): string | undefined => {
    const value = credentials[key];
    if (value === undefined || value === null)
      return report.problem("missing_key", [...path, key], "is required where the other half is given");
    if (typeof value !== "string") return report.problem("invalid_value", [...path, key], "must be a string");
    if (isMasked(value.trim())) {
      return report.problem(
        "masked_secret",
        [...path, key],
        "is masked: Scale hides credentials from this user; export as staff, or fill them in",
      );
    }
    return value.trim();
  };
  const accessKeyId = part("access_key_id");
  const secretAccessKey = part("secret_access_key");
  if (accessKeyId === undefined || secretAccessKey === undefined) return undefined;
  if (accessKeyId === "" || secretAccessKey === "") {
    report.warning("blank_credentials", path, "are left out, since one of them is blank: as in Scale, the machine's own role is used");
    return undefined;
  }
  return { accessKeyId, secretAccessKey };
}

/** A text that must be there; spaces around it, which Scale would have taken for a part of it, are dropped. */
function requiredText(fields: Fields, key: string, path: Path, report: Reporter): string | undefined {
  const value = fields[key];
  if (value === undefined || value === null) return report.problem("missing_key", [...path, key], "is required");
  if (typeof value !== "string") return report.problem("invalid_value", [...path, key], "must be a string");
  const text = value.trim();
  if (text === "") return report.problem("invalid_value", [...path, key], "must not be blank");
  if (text !== value) report.warning("trimmed", [...path, key], "had spaces around it, which are dropped");
  return text;
}

/** A text that may be missing, null or blank, all of which mean that it is not set. */
function optionalText(fields: Fields, key: string, path: Path, report: Reporter): string | undefined {
  const value = fields[key];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "string") return report.problem("invalid_value", [...path, key], "must be a string");
  return value.trim() === "" ? undefined : value.trim();
}

function warnOfRelative(hostPath: string | undefined, path: Path, report: Reporter): void {
  if (hostPath === undefined || hostPath.startsWith("/")) return;
  report.warning("suspicious_path", path, "is not absolute, which Scale accepted; it will be refused");
}

function warnOfOthers(fields: Fields, known: readonly string[], path: Path, report: Reporter): void {
  for (const key of Object.keys(fields)) {
    if (!known.includes(key)) report.warning("left_out", [...path, key], `is left out: Scale gives it no meaning${didYouMean(key, known)}`);
  }
}
