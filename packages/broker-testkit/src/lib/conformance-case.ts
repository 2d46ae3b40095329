import type { Broker, BrokerDefinition } from "@stowage/core/broker";
import type { ConformancePlace, ConformanceTarget, ResolvedTraits } from "./conformance-target.ts";
import type { Harness } from "./harness.ts";

export const CONFORMANCE_GROUPS = {
  A: "Registry and configuration",
  B: "Upload",
  C: "Download",
  D: "Move and copy",
  E: "Delete",
  F: "List and paths",
  G: "Names and safety",
  H: "Faults, limits, cancellation",
  I: "Batches and observability",
  J: "Across brokers and processes",
} as const;

export type ConformanceGroup = keyof typeof CONFORMANCE_GROUPS;

/** What is known of a broker before a case runs: enough to say whether the case applies. */
export interface Subject {
  readonly target: ConformanceTarget;
  readonly definition: BrokerDefinition<string, unknown>;
  readonly place: ConformancePlace;
  readonly broker: Broker;
  readonly traits: ResolvedTraits;
}

/** Something that a broker, its target or its place must have for a case to apply. */
export interface Need {
  readonly name: string;
  isMet(subject: Subject): boolean;
  /** Whether the case makes sense without it: it is then run all the same, and reported as `undeclared` when it passes. */
  readonly probe: boolean;
}

/** One promise of the contract, with the experiment that shows whether a broker keeps it. */
export interface ConformanceCase {
  /** Group letter and number, stable over versions of the kit: `B20`. */
  readonly id: string;
  readonly group: ConformanceGroup;
  /** A sentence that is true of every broker that passes. */
  readonly name: string;
  readonly needs: readonly Need[];
  /** A reason for which the case cannot run where it stands, if there is one. */
  readonly skip?: ((subject: Subject) => string | undefined) | undefined;
  /** It measures or changes something of the whole process: nothing may run beside it. Defaults to false. */
  readonly exclusive?: boolean | undefined;
  /** Defaults to 60,000. */
  readonly timeoutMs?: number | undefined;
  run(harness: Harness): Promise<void>;
}

/** A case without what its group's file says for all of them. */
export type CaseOfGroup = Omit<ConformanceCase, "group" | "needs"> & { readonly needs?: readonly Need[] | undefined };

export function casesOf(group: ConformanceGroup, cases: readonly CaseOfGroup[]): readonly ConformanceCase[] {
  return cases.map((entry) => ({ ...entry, group, needs: entry.needs ?? [] }));
}
