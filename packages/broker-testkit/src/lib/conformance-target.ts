import type { AnyBrokerDefinition, Broker } from "@stowage/core/broker";

/** A broker under test: what its author writes, once. */
export interface ConformanceTarget {
  /** For reports: `host`, `s3 on minio`. */
  readonly name: string;
  readonly definition: AnyBrokerDefinition;
  /** Makes a fresh, empty place each time; its `cleanUp` is called once, whatever happens. */
  open(): Promise<ConformancePlace>;
  readonly samples?: ConformanceSamples | undefined;
  /** Values that the places' configurations hold as secrets. None of them may turn up in an error, a log or a printed object. */
  readonly secrets?: readonly string[] | undefined;
  readonly traits?: ConformanceTraits | undefined;
  /** The package that is certified, for the report. */
  readonly package?: { readonly name: string; readonly version: string } | undefined;
  /** URL of the module that exports this very target as `conformanceTarget`: cases that need a second process open it there. */
  readonly module?: string | undefined;
}

/** Configurations, without `type`, beyond those of the places. */
export interface ConformanceSamples {
  /** Each must parse. */
  readonly valid?: readonly unknown[] | undefined;
  /** Each must be refused by an error that contains `names`: the offending key, say. */
  readonly invalid?: readonly { readonly config: unknown; readonly names: string }[] | undefined;
  /** Each parses, and leads to a backend that does not answer. */
  readonly unreachable?: readonly unknown[] | undefined;
}

/** An empty place where files may live, and what the kit may do there behind the broker's back. A plain object: its functions do not use `this`. */
export interface ConformancePlace {
  /** The broker's configuration, without `type`. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly volumePath?: string | undefined;
  /** Opens this place in the target's stead. */
  readonly definition?: AnyBrokerDefinition | undefined;
  /**
   * The workspace's root as a directory of this machine, where there is one. Lets the kit look for remains and plant links, FIFOs
   * and odd names; stands in for `seed` and `rawNames`.
   */
  readonly directory?: string | undefined;
  /** A directory of the workspace that lies on another device than the rest. */
  readonly otherDeviceDirectory?: string | undefined;
  /** Stores files without the broker. Needed where `traits.writable` is false. */
  readonly seed?: ((files: Iterable<SeedFile>) => Promise<void>) | undefined;
  /** Everything that the backend holds in this place, temporary objects and unfinished uploads included, by whatever name. */
  readonly rawNames?: (() => Promise<readonly string[]>) | undefined;
  /** The same place through another mount, host or client. */
  readonly secondMount?: { readonly config: Readonly<Record<string, unknown>>; readonly volumePath?: string | undefined } | undefined;
  /** The configuration that makes the broker list in pages of so many entries. */
  readonly configWithPageSize?: ((entries: number) => Readonly<Record<string, unknown>>) | undefined;
  /** Takes from the broker's user the right to list this directory of the workspace. */
  readonly makeUnreadable?: ((directory: string) => Promise<void>) | undefined;
  readonly faults?: BackendFaults | undefined;
  readonly cleanUp: () => Promise<void>;
}

export interface SeedFile {
  readonly path: string;
  readonly bytes: Uint8Array;
}

/** What may go wrong in a backend, as the broker meets it. */
export type BackendFaultKind =
  /** The request fails for a reason that passes: 503, connection refused. */
  | "unavailable"
  /** Too many requests; may carry `retryAfterMs`. */
  | "rate-limited"
  /** The connection breaks in the middle of the bytes. */
  | "reset"
  | "denied"
  | "no-space"
  /** The backend sends or accepts fewer bytes than it said, and ends cleanly. */
  | "short-read"
  /** One byte of what is read is another. */
  | "corrupt-read"
  /** One byte of what is stored is another. */
  | "corrupt-write"
  /** The backend does what it is asked; the answer never arrives. */
  | "lost-response"
  /** Nothing arrives any more, for as long as the fault is there. */
  | "stall"
  | "expired-credentials"
  | "clock-skew";

export type BackendOperation = "upload" | "download" | "move" | "delete" | "stat" | "list";

export interface BackendFault {
  readonly kind: BackendFaultKind;
  /** What of the broker's work it strikes. */
  readonly operation: BackendOperation;
  /** How often it strikes; `Infinity` until `clear`. */
  readonly times: number;
  readonly retryAfterMs?: number | undefined;
  /** In a move that the broker makes in steps, strike this one only. */
  readonly step?: "copy" | "delete" | undefined;
}

/** Switches for a backend that can be made to fail. */
export interface BackendFaults {
  /** What `inject` can do. */
  readonly supports: (fault: Pick<BackendFault, "kind" | "operation" | "step">) => boolean;
  inject(fault: BackendFault): void | Promise<void>;
  /** How often faults have struck since the last `inject`. */
  struck(): number;
  clear(): void | Promise<void>;
}

/**
 * What no method of the broker shows. What is declared is tested; what is not is tried all the same and reported when it holds.
 * Each is false or absent by default unless it says otherwise.
 */
export interface ConformanceTraits {
  /** Defaults to true. When false, places have `seed` (or `directory`). */
  readonly writable?: boolean | undefined;
  /** Who else sees the files when the same configuration is opened again: nobody, this process, or any process of the machine. Defaults to `"machine"`. */
  readonly sharedWith?: "nobody" | "process" | "machine" | undefined;
  /** Names that differ in case name two files. Defaults to true. */
  readonly caseSensitive?: boolean | undefined;
  /** Names that differ in Unicode normalisation name two files. Defaults to true. */
  readonly exactUnicode?: boolean | undefined;
  /** Longest segment in UTF-8 bytes. Defaults to 255; `Infinity` where there is no limit. */
  readonly maximumSegmentBytes?: number | undefined;
  /** Longest path in UTF-8 bytes that is tried. Defaults to 1,024. */
  readonly maximumPathBytes?: number | undefined;
  /** Valid paths that this backend refuses with `INVALID_PATH`. */
  readonly refusedNames?: readonly string[] | undefined;
  /** Whether `a` and `a/b` may both be files. */
  readonly filesBelowFiles?: boolean | undefined;
  /** The source's time of modification becomes the stored file's, to the millisecond. */
  readonly keepsModified?: boolean | undefined;
  readonly keepsMediaType?: boolean | undefined;
  readonly keepsMetadata?: boolean | undefined;
  /** `statFile` and `listFiles` report a digest. */
  readonly knowsDigests?: boolean | undefined;
  /** Every state of a file has a `version` of its own, by which it can be read as long as it exists. */
  readonly versions?: boolean | undefined;
  /** Listings come in one stable order, and `startAfter` resumes in it. */
  readonly sortedListing?: boolean | undefined;
  /** A reader sees a moved file at one of its paths at any moment. */
  readonly atomicMove?: boolean | undefined;
  /** With `partial` a download is a link. */
  readonly linksPartial?: boolean | undefined;
  /** Sizes at which the broker's way of storing changes: each is tried, with one byte less and more. */
  readonly partSizes?: readonly number[] | undefined;
  /** Permission bits of stored files in `directory`, whatever the umask. */
  readonly fileMode?: number | undefined;
  /** Files live in this process's memory, which is therefore not measured. */
  readonly holdsFilesInMemory?: boolean | undefined;
  /** Bytes of the files with which memory and cancellation are tried. Defaults to 48 MiB. */
  readonly largeFileBytes?: number | undefined;
  /** The longest listing that is tried. Defaults to 10,000 where files can be seeded, else to 1,001. */
  readonly largestListing?: number | undefined;
  /** How long another mount may take to see a change, in milliseconds. Defaults to 0. */
  readonly visibilityMs?: number | undefined;
}

export type ResolvedTraits = {
  readonly [Key in Exclude<keyof ConformanceTraits, "fileMode">]-?: NonNullable<ConformanceTraits[Key]>;
} & Pick<ConformanceTraits, "fileMode">;

/** Traits with their defaults. */
export function resolveTraits(traits: ConformanceTraits = {}, place?: ConformancePlace): ResolvedTraits {
  const canSeed = place?.seed !== undefined || place?.directory !== undefined;
  return {
    writable: traits.writable ?? true,
    sharedWith: traits.sharedWith ?? "machine",
    caseSensitive: traits.caseSensitive ?? true,
    exactUnicode: traits.exactUnicode ?? true,
    maximumSegmentBytes: traits.maximumSegmentBytes ?? 255,
    maximumPathBytes: traits.maximumPathBytes ?? 1024,
    refusedNames: traits.refusedNames ?? [],
    filesBelowFiles: traits.filesBelowFiles ?? false,
    keepsModified: traits.keepsModified ?? false,
    keepsMediaType: traits.keepsMediaType ?? false,
    keepsMetadata: traits.keepsMetadata ?? false,
    knowsDigests: traits.knowsDigests ?? false,
    versions: traits.versions ?? false,
    sortedListing: traits.sortedListing ?? false,
    atomicMove: traits.atomicMove ?? false,
    linksPartial: traits.linksPartial ?? false,
    partSizes: traits.partSizes ?? [],
    fileMode: traits.fileMode,
    holdsFilesInMemory: traits.holdsFilesInMemory ?? false,
    largeFileBytes: traits.largeFileBytes ?? 48 * 1024 * 1024,
    largestListing: traits.largestListing ?? (canSeed ? 10_000 : 1_001),
    visibilityMs: traits.visibilityMs ?? 0,
  };
}

/** Everything about a target that a change of its broker may bring with it. */
export interface TargetChanges {
  readonly name: string;
  readonly traits?: ConformanceTraits | undefined;
  /** How a place looks through the changed broker. */
  place?(place: ConformancePlace): ConformancePlace;
}

/** The same target with a broker put over its own: a wrapper, a fault, something broken on purpose. */
export function wrapTarget(
  target: ConformanceTarget,
  changes: TargetChanges,
  wrap: (broker: Broker, place: ConformancePlace) => Broker | Promise<Broker>,
): ConformanceTarget {
  return {
    ...target,
    name: changes.name,
    traits: { ...target.traits, ...changes.traits },
    // Another process would open the broker without what was put over it.
    module: undefined,
    open: async () => {
      const place = await target.open();
      const inner = place.definition ?? target.definition;
      const definition: AnyBrokerDefinition = {
        ...inner,
        open: async (config, context) => wrap(await inner.open(config, context), place),
      };
      const changed: ConformancePlace = { ...place, definition };
      return changes.place?.(changed) ?? changed;
    },
  };
}
