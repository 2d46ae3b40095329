import type * as z from "zod";
import type { Broker } from "./broker.ts";
import type { BrokerVolume } from "./files.ts";

/** A finding that does not stop a workspace from being used. */
export interface ValidationWarning {
  /** Stable, in snake_case: `bucket_access`. */
  readonly name: string;
  /** What was found and what to do about it. Never holds a secret. */
  readonly description: string;
}

export interface OpenContext {
  /** Aborts when the caller gives up on opening. */
  readonly signal: AbortSignal;
  /** Where this broker's volume is mounted; `undefined` when it is not reached through one. */
  readonly volumePath?: string | undefined;
}

/** A broker type as a value. Importing the package that holds it does nothing; `addBrokerType` or the `brokers` option makes it known. */
export interface BrokerDefinition<Type extends string, Config, Options = Config> {
  readonly isStowageBrokerDefinition: true;
  readonly type: Type;
  /** The version of the broker contract that it was written for. */
  readonly contract: 1;
  /** Parses what stands beside `type` in a workspace's configuration. Strict: an unknown key is an error. */
  readonly config: z.ZodType<Config, Options>;
  /** Pure: what to mount is known before anything is mounted. */
  readonly volume?: ((config: Config) => BrokerVolume | undefined) | undefined;
  /** Looks at the backend without changing it. What may pass by itself (not reachable, no access) is a warning; what can never work throws `INVALID_CONFIGURATION`. */
  readonly validate?: ((config: Config, context: OpenContext) => Promise<readonly ValidationWarning[]>) | undefined;
  readonly open: (config: Config, context: OpenContext) => Promise<Broker>;
}

/** Any definition, its types forgotten. */
export interface AnyBrokerDefinition {
  readonly isStowageBrokerDefinition: true;
  readonly type: string;
  readonly contract: 1;
  readonly config: z.ZodType;
  readonly open: (config: never, context: never) => Promise<Broker>;
}

/** What a configuration's `broker` holds for the definition `D`. */
export type BrokerOptions<D> = D extends BrokerDefinition<infer T, infer _C, infer O> ? { readonly type: T } & O : never;

/** Makes a broker type. */
export function defineBroker<const T extends string, C, O>(
  definition: Omit<BrokerDefinition<T, C, O>, "contract" | "isStowageBrokerDefinition">,
): BrokerDefinition<T, C, O> {
  return { ...definition, isStowageBrokerDefinition: true, contract: 1 };
}

/** Whether a value is a broker definition, also one made by another copy of this package, of whatever contract. */
export function isBrokerDefinition(value: unknown): value is AnyBrokerDefinition {
  return (
    typeof value === "object" && value !== null && (value as { isStowageBrokerDefinition?: unknown }).isStowageBrokerDefinition === true
  );
}
