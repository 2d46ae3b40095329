import { type AnyBrokerDefinition, isBrokerDefinition } from "./broker-definition.ts";
import { nearestName } from "./nearest-name.ts";
import { StowageError } from "./stowage-error.ts";

/** The version of the broker contract that this copy of the package speaks. */
export const BROKER_CONTRACT = 1;

/**
 * The broker types that the default registry is known to hold, for the types of `getBroker`. Empty; a program adds what it registers:
 *
 * ```ts
 * declare module "@stowage/core" { interface BrokerTypes { tape: typeof tapeBroker } }
 * ```
 */
// biome-ignore lint/suspicious/noEmptyInterface: it is there to be augmented
export interface BrokerTypes {}

export interface AddBrokerOptions {
  /** Replace another definition of the same type instead of refusing. Defaults to false. */
  readonly override?: boolean | undefined;
}

/** Broker definitions by their type. */
export interface BrokerRegistry<D extends AnyBrokerDefinition = AnyBrokerDefinition> {
  /** Throws `CONFLICT` when the type is taken by another definition, `CONTRACT_MISMATCH` when it was written for another contract. */
  add(definition: AnyBrokerDefinition, options?: AddBrokerOptions): void;
  /** Throws `UNKNOWN_BROKER_TYPE`. */
  get<T extends D["type"]>(type: T): string extends D["type"] ? D : Extract<D, { readonly type: T }>;
  /** Sorted. */
  types(): string[];
}

/** Any registry, its types forgotten; also one that another copy of this package made. */
export interface AnyBrokerRegistry {
  get(type: never): AnyBrokerDefinition;
  types(): string[];
}

/** Where broker types are looked up: definitions, or a registry. */
export type BrokerSource = readonly AnyBrokerDefinition[] | AnyBrokerRegistry;

/** A registry of its own, apart from the default one; the type of each definition is inferred. */
export function createBrokerRegistry<const D extends AnyBrokerDefinition>(definitions: readonly D[]): BrokerRegistry<D> {
  const byType = new Map<string, AnyBrokerDefinition>();
  for (const definition of definitions) addTo(byType, definition, undefined);
  return {
    add: (definition, options) => addTo(byType, definition, options),
    get: <T extends D["type"]>(type: T) =>
      // What lies under a type is the definition that declared it; `add` takes others, whose types the caller does not see.
      getFrom(byType, type, "pass its definition in `brokers`") as string extends D["type"] ? D : Extract<D, { readonly type: T }>,
    types: () => [...byType.keys()].sort(),
  };
}

/** Makes a broker type known to this process. Throws `CONFLICT` when another definition has its type, `CONTRACT_MISMATCH` when it was written for another contract. */
export function addBrokerType(definition: AnyBrokerDefinition, options?: AddBrokerOptions): void {
  addTo(processWide().brokerTypes, definition, options);
}

/** The definition of a type that `addBrokerType` has made known. Throws `UNKNOWN_BROKER_TYPE`. */
export function getBroker<T extends keyof BrokerTypes>(type: T): BrokerTypes[T];
export function getBroker(type: string): AnyBrokerDefinition;
export function getBroker(type: string): AnyBrokerDefinition {
  return getFrom(processWide().brokerTypes, type, DEFAULT_REMEDY);
}

/** The types that `addBrokerType` has made known, sorted. */
export function getBrokerTypes(): string[] {
  return [...processWide().brokerTypes.keys()].sort();
}

const DEFAULT_REMEDY = "register its definition with addBrokerType, or pass it in `brokers`";

/** The definitions that `brokers` gives, sorted by type; those of the default registry when it is absent. */
export function listDefinitions(brokers: BrokerSource | undefined): AnyBrokerDefinition[] {
  const registry = asRegistry(brokers);
  return registry.types().map((type) => registry.get(type as never));
}

/** Looks a type up. Throws `UNKNOWN_BROKER_TYPE`, and what `createBrokerRegistry` throws for bad definitions. */
export function findDefinition(brokers: BrokerSource | undefined, type: string): AnyBrokerDefinition {
  return asRegistry(brokers).get(type as never);
}

function asRegistry(brokers: BrokerSource | undefined): AnyBrokerRegistry {
  if (brokers === undefined) return { get: getBroker, types: getBrokerTypes };
  return "types" in brokers ? brokers : createBrokerRegistry(brokers);
}

function addTo(byType: Map<string, AnyBrokerDefinition>, definition: AnyBrokerDefinition, options: AddBrokerOptions | undefined): void {
  if (!isBrokerDefinition(definition) || typeof definition.type !== "string" || definition.type === "") {
    throw new StowageError("not a broker definition; make one with defineBroker({ type, config, open })", { code: "INVALID_ARGUMENT" });
  }
  const { type } = definition;
  const contract: number = definition.contract;
  if (contract !== BROKER_CONTRACT) {
    throw new StowageError(
      `the broker type "${type}" was written for broker contract ${contract}, this @stowage/core speaks contract ${BROKER_CONTRACT}; ` +
        "install versions of the two packages that agree",
      { code: "CONTRACT_MISMATCH" },
    );
  }
  const existing = byType.get(type);
  if (existing !== undefined && existing !== definition && options?.override !== true) {
    throw new StowageError(
      `the broker type "${type}" is registered already, by another definition; rename one of them, or pass { override: true }`,
      { code: "CONFLICT" },
    );
  }
  byType.set(type, definition);
}

function getFrom(byType: ReadonlyMap<string, AnyBrokerDefinition>, type: string, remedy: string): AnyBrokerDefinition {
  const definition = byType.get(type);
  if (definition !== undefined) return definition;
  const known = [...byType.keys()].sort();
  const nearest = nearestName(String(type), known);
  throw new StowageError(
    [
      `unknown broker type ${JSON.stringify(type)}`,
      nearest === undefined ? "" : `; did you mean "${nearest}"?`,
      known.length === 0 ? `; no types are known` : `${nearest === undefined ? ";" : ""} known types: ${known.join(", ")}`,
      `; ${remedy}`,
    ].join(""),
    { code: "UNKNOWN_BROKER_TYPE" },
  );
}

/**
 * What all copies of this package in one process share. Plain data only: another copy, of another version, reads it too.
 * Each slot is made by whoever needs it first.
 */
export interface ProcessWide {
  readonly brokerTypes: Map<string, AnyBrokerDefinition>;
  [slot: string]: unknown;
}

const PROCESS_WIDE = Symbol.for("@stowage/core/1");

export function processWide(): ProcessWide {
  const holder = globalThis as { [PROCESS_WIDE]?: { brokerTypes?: Map<string, AnyBrokerDefinition>; [slot: string]: unknown } };
  holder[PROCESS_WIDE] ??= {};
  const shared = holder[PROCESS_WIDE];
  shared.brokerTypes ??= new Map();
  return shared as ProcessWide;
}
