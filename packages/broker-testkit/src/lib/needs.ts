import type { Broker } from "@stowage/core/broker";
import type { Need } from "./conformance-case.ts";
import type { BackendFault, ConformancePlace, ResolvedTraits } from "./conformance-target.ts";

/** The optional methods of a broker: each is a capability. */
export type OptionalMethod = { [Key in keyof Broker]-?: undefined extends Broker[Key] ? Key : never }[keyof Broker];

type BooleanTrait = { [Key in keyof ResolvedTraits]-?: ResolvedTraits[Key] extends boolean ? Key : never }[keyof ResolvedTraits];

/** The broker has the method. Without it there is nothing to try. */
export function method(name: OptionalMethod): Need {
  return { name, probe: false, isMet: ({ broker }) => typeof broker[name] === "function" };
}

/** The opposite of another need, for cases about what a broker does without it. */
export function without(need: Need): Need {
  return { name: `no ${need.name}`, probe: false, isMet: (subject) => !need.isMet(subject) };
}

/** A trait that the target declares. Undeclared, the case is tried all the same. */
export function trait(name: BooleanTrait): Need {
  return { name, probe: true, isMet: ({ traits }) => traits[name] };
}

export const atomicReplace: Need = { name: "atomicReplace", probe: true, isMet: ({ broker }) => broker.capabilities.atomicReplace };

export const exactIfAbsent: Need = {
  name: 'ifAbsent: "exact"',
  probe: true,
  isMet: ({ broker }) => broker.capabilities.ifAbsent === "exact",
};

export const pinnedContainment: Need = {
  name: 'containment: "pinned"',
  probe: true,
  isMet: ({ broker }) => (broker.capabilities.containment ?? "pinned") === "pinned",
};

/** The target lets the broker change files. */
export const writable: Need = { name: "writable", probe: false, isMet: ({ traits }) => traits.writable };

/** Something that the place offers the kit. */
export function hook(name: "directory" | "otherDeviceDirectory" | "secondMount" | "configWithPageSize" | "makeUnreadable"): Need {
  return { name: `place.${name}`, probe: false, isMet: ({ place }) => place[name] !== undefined };
}

/** Everything that the backend holds can be looked at. */
export const rawNames: Need = { name: "place.rawNames or place.directory", probe: false, isMet: ({ place }) => seesRawNames(place) };

export function seesRawNames(place: ConformancePlace): boolean {
  return place.rawNames !== undefined || place.directory !== undefined;
}

/** Many files can be made quickly, or at all, without the broker. */
export const seeding: Need = {
  name: "place.seed or place.directory",
  probe: false,
  isMet: ({ place }) => place.seed !== undefined || place.directory !== undefined,
};

/** The backend can be made to fail in this way. */
export function fault(kind: BackendFault["kind"], operation: BackendFault["operation"], step?: BackendFault["step"]): Need {
  return {
    name: `place.faults (${kind} in ${step === undefined ? operation : `the ${step} of a ${operation}`})`,
    probe: false,
    isMet: ({ place }) => place.faults?.supports({ kind, operation, step }) === true,
  };
}

/** Opening the same configuration again reaches the same files, from this process. */
export const sharedInProcess: Need = {
  name: 'sharedWith: "process"',
  probe: false,
  isMet: ({ traits }) => traits.sharedWith !== "nobody",
};

/** Another process can open the target and reach the same files. */
export const otherProcesses: Need = {
  name: 'sharedWith: "machine" and target.module',
  probe: false,
  isMet: ({ traits, target }) => traits.sharedWith === "machine" && target.module !== undefined,
};

export const volume: Need = { name: "volume", probe: false, isMet: ({ definition }) => definition.volume !== undefined };

export const validate: Need = { name: "validate", probe: false, isMet: ({ definition }) => definition.validate !== undefined };

export const secrets: Need = { name: "secrets", probe: false, isMet: ({ target }) => (target.secrets ?? []).length > 0 };

export function samples(name: "valid" | "invalid" | "unreachable"): Need {
  return { name: `samples.${name}`, probe: false, isMet: ({ target }) => (target.samples?.[name] ?? []).length > 0 };
}

/** The kit's own process counts its handles here. */
export const linux: Need = { name: "Linux", probe: false, isMet: () => process.platform === "linux" };

/** Two digits that need `partSizes`. */
export const partSizes: Need = { name: "partSizes", probe: false, isMet: ({ traits }) => traits.partSizes.length > 0 };

export const fileMode: Need = { name: "fileMode", probe: false, isMet: ({ traits }) => traits.fileMode !== undefined };

export const refusedNames: Need = { name: "refusedNames", probe: false, isMet: ({ traits }) => traits.refusedNames.length > 0 };
