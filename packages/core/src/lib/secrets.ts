import * as z from "zod";
import type { ConfigProblem } from "./config-error.ts";
import { escapePath } from "./file-path.ts";
import { openLocalSource } from "./local-file.ts";
import { isPlainObject, KEEP, mapValues, schemasAt } from "./schema-walk.ts";

/** Where the value of a secret is to be found, instead of the value. Looked up when the workspace is opened; one trailing newline is dropped. */
export type SecretSource =
  | {
      /** A path; relative ones begin at the working directory. */
      readonly fromFile: string;
    }
  | {
      /** Name of an environment variable. */
      readonly fromEnvironment: string;
    };

/** The schema that `secret` gives: as `S`, but that a configuration may hold a `SecretSource` instead. */
export type SecretSchema<S extends z.ZodType> = z.ZodType<
  z.output<S>,
  z.input<S> | SecretSource,
  z.core.$ZodTypeInternals<z.output<S>, z.input<S> | SecretSource> & Pick<S["_zod"], "optin" | "optout">
>;

/**
 * Marks a value of a broker's configuration as secret: it is masked, redacted from every message, and may be given as
 * `{ fromFile }` or `{ fromEnvironment }`. Apply it last (`secret(z.string().min(1).optional())`): a method called on the result
 * makes a new schema, without the mark. The schema itself parses only values; sources are replaced before it is asked.
 */
export function secret<S extends z.ZodType>(schema: S): SecretSchema<S> {
  // The wider input is true of configurations, which `readWorkspaceConfig` resolves before it parses them.
  return schema.meta({ ...schema.meta(), writeOnly: true }) as unknown as SecretSchema<S>;
}

/** Whether one of the schemas that apply to a value marks it as secret. */
export function isSecret(schemas: readonly z.core.$ZodType[]): boolean {
  return schemas.some((schema) => z.globalRegistry.get(schema)?.writeOnly === true);
}

/** A secret's place in a configuration, and what is there. */
export interface FoundSecret {
  readonly path: readonly PropertyKey[];
  readonly value: unknown;
}

/** The secrets that `value`, a configuration for `schema`, holds. */
export function findSecrets(schema: z.core.$ZodType, value: unknown): FoundSecret[] {
  const found: FoundSecret[] = [];
  mapSecrets(schema, value, (inner, path) => {
    found.push({ path, value: inner });
    return inner;
  });
  return found;
}

/** A copy of `value`, a configuration for `schema`, in which each secret that is there (not null or undefined) is what `replace` makes of it. */
export function mapSecrets(
  schema: z.core.$ZodType,
  value: unknown,
  replace: (secret: unknown, path: readonly PropertyKey[]) => unknown,
): unknown {
  return mapValues(value, (inner, path) => {
    if (inner === undefined || inner === null || !isSecret(schemasAt(schema, path))) return KEEP;
    return replace(inner, path);
  });
}

export function isSecretSource(value: unknown): value is SecretSource {
  if (!isPlainObject(value)) return false;
  const keys = Object.keys(value);
  return keys.length === 1 && (keys[0] === "fromFile" || keys[0] === "fromEnvironment") && typeof value[keys[0]] === "string";
}

/** Whether a value is what masking leaves of a secret. */
export function isMasked(value: unknown): boolean {
  return typeof value === "string" && /^\*{4,}$/.test(value);
}

export interface ResolvedSecrets {
  /** A copy, with every source replaced by the value that it leads to. */
  readonly value: unknown;
  /** Every text that is secret. */
  readonly secrets: readonly string[];
  readonly problems: readonly ConfigProblem[];
}

/** Looks up what the secrets of `value` refer to. Paths in `problems` begin with `place`. */
export async function resolveSecrets(
  schema: z.core.$ZodType,
  value: unknown,
  options: { readonly place: readonly PropertyKey[]; readonly allowReferences: boolean },
): Promise<ResolvedSecrets> {
  const problems: ConfigProblem[] = [];
  const resolved = new Map<string, unknown>();
  const secrets: string[] = [];
  for (const { path, value: found } of findSecrets(schema, value)) {
    const report = (name: string, message: string): void => {
      problems.push({ name, path: [...options.place, ...path], message });
    };
    let actual = found;
    if (isMasked(found)) {
      report(
        "masked_secret",
        "holds the mask of a secret, not the secret; give the secret, or put the stored one back with restoreMaskedConfig",
      );
    } else if (isSecretSource(found)) {
      if (!options.allowReferences) {
        report("refused_secret", "may not refer to a file or environment variable here; give the value");
      } else {
        const answer = await lookUp(found);
        if ("problem" in answer) report("missing_secret", answer.problem);
        actual = "value" in answer ? answer.value : undefined;
      }
    }
    if (actual !== found) resolved.set(keyOf(path), actual);
    collectTexts(actual, secrets);
  }
  return {
    value: mapSecrets(schema, value, (found, path) => (resolved.has(keyOf(path)) ? resolved.get(keyOf(path)) : found)),
    secrets,
    problems,
  };
}

/** A secret longer than this is none: a whole log, a device. */
const MAXIMUM_SECRET_BYTES = 1024 * 1024;

async function lookUp(source: SecretSource): Promise<{ readonly value: string } | { readonly problem: string }> {
  if ("fromEnvironment" in source) {
    const value = process.env[source.fromEnvironment];
    if (value !== undefined) return { value: withoutFinalNewline(value) };
    return { problem: `the environment variable ${escapePath(source.fromEnvironment)} is not set; set it, or give the value otherwise` };
  }
  const name = `the file "${escapePath(source.fromFile)}"`;
  try {
    const { handle, size } = await openLocalSource(source.fromFile);
    try {
      if (size > MAXIMUM_SECRET_BYTES) return { problem: `${name} has ${size} bytes, more than any secret; name the right file` };
      return { value: withoutFinalNewline(await handle.readFile("utf8")) };
    } finally {
      await handle.close();
    }
  } catch (error) {
    const { code } = error as { code?: unknown };
    return {
      problem: `${name} cannot be read (${typeof code === "string" ? code : "unknown reason"}); create it, or make it readable for this user`,
    };
  }
}

function withoutFinalNewline(text: string): string {
  return text.replace(/\r?\n$/, "");
}

function keyOf(path: readonly PropertyKey[]): string {
  return JSON.stringify(path);
}

function collectTexts(value: unknown, texts: string[]): void {
  if (typeof value === "string") texts.push(value);
  else if (typeof value === "number" || typeof value === "bigint") texts.push(String(value));
  else if (Array.isArray(value)) for (const element of value) collectTexts(element, texts);
  else if (isPlainObject(value)) for (const element of Object.values(value)) collectTexts(element, texts);
}

/** What stands where a secret was. */
export const MASK = "********";

/** Shorter values are not redacted: they would be found in every other word. */
const SHORTEST_REDACTED = 4;

/**
 * Makes a function that removes `values` from a text, also where they stand URL-encoded, JSON- or XML-escaped, or in Base64 (alone or
 * as a part of something longer). Values of fewer than 4 characters are not redacted.
 */
export function createRedactor(values: Iterable<string>): (text: string) => string {
  const forms = new Set<string>();
  for (const value of values) for (const form of formsOf(value)) forms.add(form);
  if (forms.size === 0) return (text) => text;
  // The longest first: a secret that begins another one must not leave the other's end.
  const sorted = [...forms].sort((left, right) => right.length - left.length);
  const pattern = new RegExp(sorted.map((form) => escapeForPattern(form)).join("|"), "g");
  return (text) => text.replace(pattern, MASK);
}

function* formsOf(value: string): Generator<string> {
  if (value.length < SHORTEST_REDACTED) return;
  const texts = [value];
  if (value.trim() !== value && value.trim().length >= SHORTEST_REDACTED) texts.push(value.trim());
  // Messages about a key of many lines quote single ones.
  if (value.includes("\n")) texts.push(...value.split(/\r?\n/).filter((line) => line.length >= 16));
  for (const text of texts) {
    yield text;
    const encoded = encodeURIComponent(text.toWellFormed());
    yield encoded;
    yield lowerCaseEscapes(encoded);
    const strict = encoded.replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`);
    yield strict;
    yield lowerCaseEscapes(strict);
    const form = new URLSearchParams([["", text]]).toString().slice(1);
    yield form;
    yield lowerCaseEscapes(form);
    const json = JSON.stringify(text).slice(1, -1);
    yield json;
    yield json.replaceAll("/", "\\/");
    // A message that quotes JSON inside JSON.
    yield JSON.stringify(json).slice(1, -1);
    yield text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;").replaceAll("'", "&apos;");
    yield* base64FormsOf(Buffer.from(text));
  }
}

function lowerCaseEscapes(encoded: string): string {
  return encoded.replace(/%[0-9A-F]{2}/g, (escaped) => escaped.toLowerCase());
}

/** Whole, and as it looks inside the Base64 of something longer, where it may begin at any of three bit positions. */
function* base64FormsOf(bytes: Buffer): Generator<string> {
  yield bytes.toString("base64");
  for (const alphabet of ["base64", "base64url"] as const) {
    yield bytes.toString(alphabet).replace(/=+$/, "");
    for (const [offset, shared] of [
      [0, 0],
      [1, 2],
      [2, 3],
    ] as const) {
      const encoded = Buffer.concat([Buffer.alloc(offset), bytes])
        .toString(alphabet)
        .replace(/=+$/, "");
      const endsWhole = (offset + bytes.length) % 3 === 0;
      const inner = encoded.slice(shared, endsWhole ? undefined : -1);
      // Less than six bytes' worth of it could be anything.
      if (inner.length >= 8) yield inner;
    }
  }
}

function escapeForPattern(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
}
