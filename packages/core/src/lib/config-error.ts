import type * as z from "zod";
import { escapePath } from "./file-path.ts";
import { didYouMean } from "./nearest-name.ts";
import { declaredKeys, isPlainObject, schemasAt } from "./schema-walk.ts";
import { StowageError } from "./stowage-error.ts";

/** One thing that is wrong with a configuration. */
export interface ConfigProblem {
  /** Stable, in snake_case: `unknown_key`, `missing_key`, `invalid_value`, `unknown_broker_type`, `missing_secret`, ... */
  readonly name: string;
  /** Where, from the outside in; empty for the whole. */
  readonly path: readonly PropertyKey[];
  /** What is wrong and what to do about it; does not repeat the path. Never holds a secret. */
  readonly message: string;
}

/** A configuration that cannot be used; `problems` holds everything that was found, `message` says it. Recognise it with `ConfigurationError.is`. */
export class ConfigurationError extends StowageError {
  readonly isConfigurationError = true as const;
  readonly problems: readonly ConfigProblem[];

  constructor(subject: string, problems: readonly ConfigProblem[], options: { readonly workspace?: string | undefined } = {}) {
    super(
      `${subject}${problems.length === 1 ? ": " : ` has ${problems.length} problems:\n- `}${problems.map(describeProblem).join("\n- ")}`,
      {
        code: codeOf(problems),
        workspace: options.workspace,
      },
    );
    this.name = "ConfigurationError";
    this.problems = problems;
  }

  static override is(error: unknown): error is ConfigurationError {
    return StowageError.is(error) && (error as { isConfigurationError?: unknown }).isConfigurationError === true;
  }
}

function codeOf(problems: readonly ConfigProblem[]): "UNKNOWN_BROKER_TYPE" | "CONTRACT_MISMATCH" | "INVALID_CONFIGURATION" {
  if (problems.every(({ name }) => name === "unknown_broker_type")) return "UNKNOWN_BROKER_TYPE";
  if (problems.every(({ name }) => name === "contract_mismatch")) return "CONTRACT_MISMATCH";
  return "INVALID_CONFIGURATION";
}

/** `broker.bucket: is required (a string)`. */
export function describeProblem(problem: ConfigProblem): string {
  return problem.path.length === 0 ? problem.message : `${formatPath(problem.path)}: ${problem.message}`;
}

/** As one would write it in code: `broker.accounts[0].name`. */
export function formatPath(path: readonly PropertyKey[]): string {
  let text = "";
  for (const key of path) {
    if (typeof key === "number") text += `[${key}]`;
    else if (typeof key === "string" && !/^[\p{L}_$][\p{L}\p{N}_$-]*$/u.test(key)) text += `["${escapePath(key)}"]`;
    else text += `${text === "" ? "" : "."}${String(key)}`;
  }
  return text;
}

/**
 * What a schema found wrong with `value`, one problem each, in words that a person can act upon. No value of the configuration is
 * quoted, since it may be a secret. `place` goes before every path.
 */
export function describeIssues(
  issues: readonly z.core.$ZodIssue[],
  schema: z.core.$ZodType,
  value: unknown,
  place: readonly PropertyKey[] = [],
): ConfigProblem[] {
  return issues.flatMap((issue) => describeIssue(issue, schema, value, place));
}

function describeIssue(issue: z.core.$ZodIssue, schema: z.core.$ZodType, value: unknown, place: readonly PropertyKey[]): ConfigProblem[] {
  const path = [...place, ...issue.path];
  const found = valueAt(value, issue.path);
  switch (issue.code) {
    case "unrecognized_keys": {
      const known = declaredKeys(schemasAt(schema, issue.path));
      return issue.keys.map((key) => ({ name: "unknown_key", path: [...path, key], message: `unknown key${hintAt(key, known)}` }));
    }
    case "invalid_type":
      if (found === undefined && issue.path.length > 0)
        return [{ name: "missing_key", path, message: `is required (${withArticle(issue.expected)})` }];
      return [invalid(path, `expected ${withArticle(issue.expected)}, found ${describeKind(found)}`)];
    case "invalid_value": {
      const values = issue.values.map((candidate) => JSON.stringify(typeof candidate === "bigint" ? String(candidate) : candidate));
      if (found === undefined && issue.path.length > 0) return [{ name: "missing_key", path, message: `is required (${oneOf(values)})` }];
      const names = issue.values.filter((candidate) => typeof candidate === "string");
      // A name that is near to an allowed one is a slip, not a secret.
      return [invalid(path, `expected ${oneOf(values)}${typeof found === "string" ? didYouMean(found, names) : ""}`)];
    }
    case "invalid_union":
      return describeUnion(issue, schema, value, place);
    case "invalid_key":
    case "invalid_element":
      return issue.issues.map((inner) =>
        invalid([...path, ...inner.path], `${issue.code === "invalid_key" ? "invalid key" : "invalid element"}: ${plain(inner.message)}`),
      );
    default:
      return [invalid(path, plain(issue.message))];
  }
}

function describeUnion(
  issue: Extract<z.core.$ZodIssue, { code: "invalid_union" }>,
  schema: z.core.$ZodType,
  value: unknown,
  place: readonly PropertyKey[],
): ConfigProblem[] {
  const path = [...place, ...issue.path];
  const found = valueAt(value, issue.path);
  if (issue.discriminator !== undefined && issue.errors.length === 0) {
    const objectPath = issue.path.at(-1) === issue.discriminator ? issue.path.slice(0, -1) : issue.path;
    const object = valueAt(value, objectPath);
    const given = isPlainObject(object) ? object[issue.discriminator] : undefined;
    const options = "options" in issue ? (issue.options ?? []) : [];
    const names = options.filter((option) => typeof option === "string");
    return [
      {
        name: given === undefined ? "missing_key" : "invalid_value",
        path: [...place, ...objectPath, issue.discriminator],
        message: `${given === undefined ? "is required: " : "expected "}${oneOf(options.map((option) => JSON.stringify(option)))}${typeof given === "string" ? didYouMean(given, names) : ""}`,
      },
    ];
  }
  // Alternatives that refuse the very kind of value were not meant; among the others, the one with least to complain of.
  const meant = issue.errors
    .filter(
      (errors) => !errors.some((inner) => inner.path.length === 0 && (inner.code === "invalid_type" || inner.code === "invalid_value")),
    )
    .sort((left, right) => left.length - right.length)[0];
  if (meant !== undefined) {
    return describeIssues(
      meant.map((inner) => ({ ...inner, path: [...issue.path, ...inner.path] })),
      schema,
      value,
      place,
    );
  }
  const expected = [
    ...new Set(
      issue.errors.flatMap((errors) =>
        errors.flatMap((inner) => {
          if (inner.code === "invalid_type") return [withArticle(inner.expected)];
          if (inner.code === "invalid_value") return inner.values.map((candidate) => JSON.stringify(candidate));
          return [];
        }),
      ),
    ),
  ];
  if (expected.length === 0) return [invalid(path, plain(issue.message))];
  if (found === undefined && issue.path.length > 0) return [{ name: "missing_key", path, message: `is required (${oneOf(expected)})` }];
  return [invalid(path, `expected ${oneOf(expected)}, found ${describeKind(found)}`)];
}

function invalid(path: readonly PropertyKey[], message: string): ConfigProblem {
  return { name: "invalid_value", path, message };
}

/** `; did you mean "x"?` or the keys that there are. */
function hintAt(key: string, known: readonly string[]): string {
  const hint = didYouMean(key, known);
  if (hint !== "") return hint;
  return known.length === 0 ? "; remove it" : `; remove it, or use one of: ${known.join(", ")}`;
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (inner, key) =>
      typeof inner === "object" && inner !== null && Object.hasOwn(inner, key) ? (inner as Record<PropertyKey, unknown>)[key] : undefined,
    value,
  );
}

function describeKind(value: unknown): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "an array";
  return withArticle(typeof value);
}

function withArticle(kind: string): string {
  if (kind === "null" || kind === "undefined") return kind;
  if (kind === "record") return "an object";
  if (kind === "int") return "a whole number";
  return `${/^[aeiou]/.test(kind) ? "an" : "a"} ${kind}`;
}

function oneOf(values: readonly string[]): string {
  if (values.length <= 1) return values[0] ?? "nothing";
  return `${values.slice(0, -1).join(", ")} or ${values.at(-1)}`;
}

/** zod's sentence as a part of ours. */
function plain(message: string): string {
  const text = message.replace(/^Invalid input: /, "");
  return /^[A-Z][a-z]/.test(text) ? `${text[0]!.toLowerCase()}${text.slice(1)}` : text;
}
