import type { Batch } from "./batch.ts";
import type { Entry } from "./batch-ledger.ts";
import { escapePath } from "./file-path.ts";
import { StowageError } from "./stowage-error.ts";
import type { Footprint, Verb } from "./verb.ts";

/** Fails every entry whose files another entry changes too. Gives back the rest. */
export function rejectConflicts<Item, Parsed, Value>(
  batch: Batch<Item, Parsed>,
  verb: Verb<Item, Parsed, Value>,
  entries: readonly Entry<Item, Parsed>[],
): readonly Entry<Item, Parsed>[] {
  if (!verb.conflicts || entries.length < 2) return entries;
  // The first entry that has written or read a name; further ones only matter when one of them writes.
  const writers = new Map<string, number>();
  const readers = new Map<string, number[]>();
  const culprits = new Map<number, { readonly name: string; readonly other: number }>();
  const clash = (name: string, one: number, other: number): void => {
    if (one === other) return;
    if (!culprits.has(one)) culprits.set(one, { name, other });
    if (!culprits.has(other)) culprits.set(other, { name, other: one });
  };
  const footprints = entries.map((entry) => verb.footprint(entry.parsed));
  for (const [position, { writes, reads }] of footprints.entries()) {
    for (const name of writes) {
      const writer = writers.get(name);
      if (writer === undefined) writers.set(name, position);
      else clash(name, position, writer);
    }
    for (const name of reads) {
      const known = readers.get(name);
      if (known === undefined) readers.set(name, [position]);
      else known.push(position);
    }
  }
  for (const [name, positions] of readers) {
    const writer = writers.get(name);
    if (writer !== undefined) for (const position of positions) clash(name, position, writer);
  }
  if (culprits.size === 0) return entries;
  return entries.filter((entry, position) => {
    const found = culprits.get(position);
    if (found === undefined) return true;
    const other = entries[found.other]!.index;
    const problem = `items ${entry.index} and ${other} of this batch both concern "${escapePath(found.name)}"; do one after the other, in two batches`;
    batch.fail(entry, new StowageError(problem, { code: "CONFLICT" }));
    return false;
  });
}

/** The names that are in use by what is on its way, for streams: later items on the same names wait. */
export interface NamesInUse {
  clashes(footprint: Footprint): boolean;
  enter(footprint: Footprint): void;
  leave(footprint: Footprint): void;
}

/** How many names a count may hold, in use or not, before it is made anew. */
const MAXIMUM_NAMES = 2048;

export function createNamesInUse(): NamesInUse {
  const writes = createNameCount();
  const reads = createNameCount();
  return {
    clashes: (footprint) =>
      footprint.writes.some((name) => writes.has(name) || reads.has(name)) || footprint.reads.some((name) => writes.has(name)),
    enter(footprint) {
      for (const name of footprint.writes) writes.change(name, 1);
      for (const name of footprint.reads) reads.change(name, 1);
    },
    leave(footprint) {
      for (const name of footprint.writes) writes.change(name, -1);
      for (const name of footprint.reads) reads.change(name, -1);
    },
  };
}

function createNameCount(): { has(name: string): boolean; change(name: string, by: 1 | -1): void } {
  // Nothing is deleted from the map; it is replaced when it is full. A map with constant coming and going keeps its own garbage alive.
  let counts = new Map<string, number>();
  let limit = MAXIMUM_NAMES;
  return {
    has: (name) => (counts.get(name) ?? 0) > 0,
    change(name, by) {
      counts.set(name, (counts.get(name) ?? 0) + by);
      if (counts.size <= limit) return;
      counts = new Map([...counts].filter(([, count]) => count > 0));
      limit = MAXIMUM_NAMES + counts.size;
    },
  };
}
