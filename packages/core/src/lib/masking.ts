import { type ConfigProblem, ConfigurationError } from "./config-error.ts";
import { type BrokerSource, findDefinition } from "./registry.ts";
import { declaresKeys, isPlainObject, KEEP, mapValues, schemasAt } from "./schema-walk.ts";
import { isMasked, isSecret, isSecretSource, MASK } from "./secrets.ts";
import { settingsSchemas, type WorkspaceConfig } from "./workspace-config.ts";

export interface MaskOptions {
  /** Where the broker's type is looked up. Defaults to the default registry. */
  readonly brokers?: BrokerSource | undefined;
}

/**
 * A copy of a configuration that may be shown: every secret is `"********"`. References (`{ fromFile }`, `{ fromEnvironment }`) stay
 * as they are; what stands under a key that the broker does not know is masked too, since it may be a misspelt secret. Throws
 * `UNKNOWN_BROKER_TYPE` when nobody can say what is secret.
 */
export function maskWorkspaceConfig<Config extends WorkspaceConfig>(config: Config, options: MaskOptions = {}): Config {
  const { config: schema } = findDefinition(options.brokers, isPlainObject(config.broker) ? config.broker.type : "");
  return mapValues(config, (value, [first, ...path]) => {
    if (value === undefined || value === null || first === undefined) return KEEP;
    if (first !== "broker") return path.length > 0 || settingsSchemas().keys.includes(String(first)) ? KEEP : MASK;
    if (path.length === 0 || (path.length === 1 && path[0] === "type")) return KEEP;
    const schemas = schemasAt(schema, path);
    if (isSecret(schemas)) return isSecretSource(value) ? KEEP : MASK;
    return schemas.length === 0 && declaresKeys(schemasAt(schema, path.slice(0, -1))) ? MASK : KEEP;
  }) as Config;
}

/**
 * A copy of `next`, an edited configuration that was masked, with the secrets of `stored` where `next` still holds masks (also
 * inside arrays and records). Throws a `ConfigurationError` when nothing is stored for a mask, when it cannot be told which element
 * of an array is meant, or when the broker's type has changed; so a mask is never stored.
 */
export function restoreMaskedConfig<Config extends WorkspaceConfig>(next: Config, stored: WorkspaceConfig): Config {
  const problems: ConfigProblem[] = [];
  const sameType =
    isPlainObject(stored) && isPlainObject(stored.broker) && isPlainObject(next.broker) && stored.broker.type === next.broker.type;
  const restored = restore(next, sameType ? stored : { ...stored, broker: undefined }, [], problems);
  if (problems.length > 0) throw new ConfigurationError("the masked configuration", problems);
  return restored as Config;
}

function restore(next: unknown, stored: unknown, path: readonly PropertyKey[], problems: ConfigProblem[]): unknown {
  if (isMasked(next)) {
    if (stored !== undefined && stored !== null && !isMasked(stored)) return stored;
    problems.push({
      name: "masked_secret",
      path,
      message: "holds a mask, and it cannot be told which stored secret is meant, if any; give the secret again",
    });
    return next;
  }
  if (Array.isArray(next)) {
    const partners = matchElements(next, Array.isArray(stored) ? stored : []);
    return next.map((element: unknown, index) => restore(element, partners[index], [...path, index], problems));
  }
  if (!isPlainObject(next)) return next;
  const known = isPlainObject(stored) ? stored : {};
  return Object.fromEntries(
    Object.entries(next).map(([key, value]) => [
      key,
      restore(value, Object.hasOwn(known, key) ? known[key] : undefined, [...path, key], problems),
    ]),
  );
}

/** For each element the stored one that it was made from: elements may have been added, removed, moved, or edited where they are. */
function matchElements(next: readonly unknown[], stored: readonly unknown[]): unknown[] {
  const claimed = new Set<number>();
  const partners = new Map<number, unknown>();
  const unmatched: number[] = [];
  for (const [index, element] of next.entries()) {
    if (!containsMask(element)) continue;
    const candidates = stored.flatMap((candidate, place) => (equalsButMasks(element, candidate) ? [place] : []));
    // Where several fit, as in a list of bare secrets, the place decides; but only while no element has come or gone.
    const place = candidates.length === 1 ? candidates[0] : next.length === stored.length && candidates.includes(index) ? index : undefined;
    if (place !== undefined) {
      claimed.add(place);
      partners.set(index, stored[place]);
    } else if (candidates.length === 0) {
      unmatched.push(index);
    }
  }
  for (const index of unmatched) if (next.length === stored.length && !claimed.has(index)) partners.set(index, stored[index]);
  return next.map((_, index) => partners.get(index));
}

function containsMask(value: unknown): boolean {
  if (isMasked(value)) return true;
  if (Array.isArray(value)) return value.some(containsMask);
  return isPlainObject(value) && Object.values(value).some(containsMask);
}

function equalsButMasks(next: unknown, stored: unknown): boolean {
  if (isMasked(next)) return stored !== undefined && stored !== null;
  if (Array.isArray(next)) {
    return Array.isArray(stored) && next.length === stored.length && next.every((element, index) => equalsButMasks(element, stored[index]));
  }
  if (isPlainObject(next)) {
    if (!isPlainObject(stored)) return false;
    const keys = Object.keys(next);
    return (
      keys.length === Object.keys(stored).length &&
      keys.every((key) => Object.hasOwn(stored, key) && equalsButMasks(next[key], stored[key]))
    );
  }
  return Object.is(next, stored);
}
