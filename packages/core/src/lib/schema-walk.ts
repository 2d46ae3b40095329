import type * as z from "zod";

type Schema = z.core.$ZodType;

/** What of any schema's definition leads to others. */
interface Definition {
  readonly type: string;
  readonly innerType?: Schema | undefined;
  readonly getter?: (() => Schema) | undefined;
  readonly in?: Schema | undefined;
  readonly out?: Schema | undefined;
  readonly left?: Schema | undefined;
  readonly right?: Schema | undefined;
  readonly options?: readonly Schema[] | undefined;
  readonly shape?: Readonly<Record<string, Schema>> | undefined;
  readonly catchall?: Schema | undefined;
  readonly valueType?: Schema | undefined;
  readonly element?: Schema | undefined;
  readonly items?: readonly Schema[] | undefined;
  readonly rest?: Schema | null | undefined;
}

/**
 * `schemas` and every schema that may apply to the same value: what they wrap (optional, default, lazy, pipe, ...) and each
 * alternative of a union. Of a union all alternatives count: which one a value takes is known only when it is valid.
 */
export function schemasOfValue(...schemas: readonly Schema[]): Schema[] {
  const found = new Set<Schema>();
  const pending = [...schemas];
  for (let schema = pending.pop(); schema !== undefined; schema = pending.pop()) {
    if (found.has(schema)) continue;
    found.add(schema);
    const { innerType, getter, in: input, out, left, right, options, type } = definitionOf(schema);
    for (const next of [innerType, type === "lazy" ? getter?.() : undefined, input, out, left, right, ...(options ?? [])]) {
      if (next !== undefined) pending.push(next);
    }
  }
  return [...found];
}

/** Every schema that may apply to the value under `key` of a value of `schemas`. */
export function schemasOfKey(schemas: readonly Schema[], key: PropertyKey): Schema[] {
  const found: Schema[] = [];
  for (const schema of schemasOfValue(...schemas)) {
    const { shape, catchall, valueType, element, items, rest } = definitionOf(schema);
    const own = shape !== undefined && typeof key === "string" && Object.hasOwn(shape, key) ? shape[key] : undefined;
    const item = typeof key === "number" ? (items?.[key] ?? rest ?? undefined) : undefined;
    for (const next of [own ?? catchall, valueType, element, item]) {
      // A strict object says of every other key that it can never be.
      if (next !== undefined && definitionOf(next).type !== "never") found.push(next);
    }
  }
  return schemasOfValue(...found);
}

/** Every schema that may apply to the value at `path` below a value of `schema`. */
export function schemasAt(schema: Schema, path: readonly PropertyKey[]): Schema[] {
  return path.reduce<Schema[]>((schemas, key) => schemasOfKey(schemas, key), schemasOfValue(schema));
}

/** The keys that the objects among `schemas` declare. */
export function declaredKeys(schemas: readonly Schema[]): string[] {
  return [...new Set(schemasOfValue(...schemas).flatMap((schema) => Object.keys(definitionOf(schema).shape ?? {})))];
}

/** Whether one of `schemas` is an object that says which keys it has. */
export function declaresKeys(schemas: readonly Schema[]): boolean {
  return schemasOfValue(...schemas).some((schema) => definitionOf(schema).shape !== undefined);
}

/** A plain object, as JSON and YAML give them. */
export function isPlainObject(value: unknown): value is Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/**
 * A copy of `value` in which `replace` has had its say about each value inside, from the outside in: what it gives instead of
 * `KEEP` stands there, and is not looked into. Nothing is mutated; what is neither a plain object nor an array is not copied.
 */
export function mapValues(
  value: unknown,
  replace: (value: unknown, path: readonly PropertyKey[]) => unknown,
  path: readonly PropertyKey[] = [],
): unknown {
  const replacement = replace(value, path);
  if (replacement !== KEEP) return replacement;
  if (Array.isArray(value)) return value.map((element: unknown, index) => mapValues(element, replace, [...path, index]));
  if (!isPlainObject(value)) return value;
  // Not by assignment: a key `__proto__` is a key like any other.
  return Object.fromEntries(Object.entries(value).map(([key, element]) => [key, mapValues(element, replace, [...path, key])]));
}

export const KEEP: unique symbol = Symbol("keep");

function definitionOf(schema: Schema): Definition {
  // One view of all kinds of definition; a kind lacks what it has no use for.
  return schema._zod.def as unknown as Definition;
}
