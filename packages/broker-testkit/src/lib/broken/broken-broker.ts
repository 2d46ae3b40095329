import type { AnyBrokerDefinition, Broker } from "@stowage/core/broker";
import type { ConformancePlace, ConformanceTarget } from "../conformance-target.ts";

/** What a good target must have to be broken in this way. */
export type BrokenBase =
  /** Nothing beyond the contract, all of its optional methods included. */
  | "anything"
  /** Its places have `faults`. */
  | "faults"
  /** Its places have `faults`, and it moves by copying, with `copyFile`. */
  | "copying"
  /** Its places have a `directory`. */
  | "directory"
  /** It has `secrets`. */
  | "secrets";

/** A broker with one fault, made of a good one; the kit must fail it, and for the right reason. */
export interface BrokenBroker {
  /** What it does wrong. */
  readonly name: string;
  readonly base: BrokenBase;
  /** Ids of the cases that must fail. Others may. */
  readonly caughtBy: readonly string[];
  /** Puts the fault over a good broker. */
  readonly break?: ((broker: Broker, place: ConformancePlace) => Broker) | undefined;
  /** Puts the fault into the definition. */
  readonly breakDefinition?: ((definition: AnyBrokerDefinition) => AnyBrokerDefinition) | undefined;
}

/** The target with the fault in it. */
export function breakTarget(target: ConformanceTarget, broken: BrokenBroker): ConformanceTarget {
  const spoil = (definition: AnyBrokerDefinition): AnyBrokerDefinition => broken.breakDefinition?.(definition) ?? definition;
  // One for all places: a fault may lie in what they share.
  const spoilt = spoil(target.definition);
  return {
    ...target,
    name: `${target.name}, broken: ${broken.name}`,
    module: undefined,
    definition: spoilt,
    open: async () => {
      const place = await target.open();
      const changed = place.definition === undefined ? spoilt : spoil(place.definition);
      const definition: AnyBrokerDefinition = {
        ...changed,
        open: async (config, context) => {
          const broker = await changed.open(config, context);
          return broken.break?.(broker, place) ?? broker;
        },
      };
      return { ...place, definition };
    },
  };
}
