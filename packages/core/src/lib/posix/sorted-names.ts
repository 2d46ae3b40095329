/** Names of one directory in the order of their bytes, in bounded memory. */
export interface SortedNames {
  add(name: string): void;
  /** No more are added; from now on they can be taken. */
  finish(): void;
  /** Takes the least name. */
  shift(): string | undefined;
  /** The name that `shift` gives next, or from which on names were left out for want of memory; `undefined` at the end. */
  readonly next: string | undefined;
  /** All that was kept has been taken. */
  readonly isDrained: boolean;
}

/** Names that are sorted at once, and then packed. Few enough to take no more than some milliseconds. */
const RUN_LENGTH = 4096;

const DEFAULT_MEMORY_BYTES = 48 * 1024 * 1024;

/** A sorted part: packed names, and the least that has not been taken. */
interface Run {
  readonly bytes: Buffer;
  position: number;
  head: string;
}

/**
 * Small directories stay an array. Of large ones, sorted runs are packed as bytes and merged as names are taken; when `memoryBytes` are used up, the
 * larger half is let go, to be read again: `next` then says where.
 */
export function createSortedNames(
  options: { readonly from?: string | undefined; readonly memoryBytes?: number | undefined } = {},
): SortedNames {
  const { from, memoryBytes = DEFAULT_MEMORY_BYTES } = options;
  let fresh: string[] = [];
  let freshPosition = 0;
  let runs: Run[] = [];
  let packedBytes = 0;
  /** The least name that was left out. */
  let cut: string | undefined;

  const packFresh = (): void => {
    if (fresh.length === 0) return;
    sortNames(fresh);
    packedBytes += pushRun(runs, fresh);
    fresh = [];
  };

  const dropLarger = (): void => {
    packFresh();
    heapify(runs);
    const kept: Run[] = [];
    let keptBytes = 0;
    let part: string[] = [];
    while (keptBytes < memoryBytes / 2) {
      const name = takeLeast(runs);
      if (name === undefined) break;
      part.push(name);
      if (part.length < RUN_LENGTH) continue;
      keptBytes += pushRun(kept, part);
      part = [];
    }
    if (part.length > 0) keptBytes += pushRun(kept, part);
    cut = runs[0]?.head ?? cut;
    runs = kept;
    packedBytes = keptBytes;
  };

  return {
    add(name) {
      if (from !== undefined && compareNames(name, from) < 0) return;
      if (cut !== undefined && compareNames(name, cut) >= 0) return;
      fresh.push(name);
      if (fresh.length < RUN_LENGTH) return;
      packFresh();
      if (packedBytes > memoryBytes) dropLarger();
    },
    finish() {
      if (runs.length > 0) {
        packFresh();
        heapify(runs);
      } else {
        sortNames(fresh);
      }
    },
    shift() {
      return runs.length > 0 ? takeLeast(runs) : fresh[freshPosition++];
    },
    get next() {
      return runs[0]?.head ?? fresh[freshPosition] ?? cut;
    },
    get isDrained() {
      return runs.length === 0 && freshPosition >= fresh.length;
    },
  };
}

function sortNames(names: string[]): void {
  // Without surrogates the order of UTF-16 units is that of the bytes, and is had without calling back.
  if (names.some((name) => SURROGATE.test(name))) names.sort(compareNames);
  else names.sort();
}

const SURROGATE = /[\ud800-\udfff]/;

/** By the bytes of UTF-8. UTF-16 units would put U+E000 to U+FFFF after what lies beyond. */
export function compareNames(left: string, right: string): number {
  if (left === right) return 0;
  const length = Math.min(left.length, right.length);
  for (let index = 0; index < length; index++) {
    const a = left.charCodeAt(index);
    const b = right.charCodeAt(index);
    if (a !== b) return isSurrogate(a) === isSurrogate(b) ? a - b : isSurrogate(a) ? 1 : -1;
  }
  return left.length - right.length;
}

function isSurrogate(unit: number): boolean {
  return unit >= 0xd800 && unit <= 0xdfff;
}

// ---------- runs ----------

/** Packs sorted names; returns how many bytes they take. */
function pushRun(runs: Run[], names: readonly string[]): number {
  const bytes = Buffer.from(`${names.join("\0")}\0`);
  const run: Run = { bytes, position: 0, head: "" };
  advance(run);
  runs.push(run);
  return bytes.length;
}

function advance(run: Run): boolean {
  if (run.position >= run.bytes.length) return false;
  const end = run.bytes.indexOf(0, run.position);
  run.head = run.bytes.toString("utf8", run.position, end);
  run.position = end + 1;
  return true;
}

// The runs form a heap: no run's head is less than that of its parent at (index - 1) / 2.

function heapify(runs: Run[]): void {
  for (let index = (runs.length >> 1) - 1; index >= 0; index--) siftDown(runs, index);
}

function takeLeast(runs: Run[]): string | undefined {
  const least = runs[0];
  if (least === undefined) return undefined;
  const name = least.head;
  if (!advance(least)) {
    const last = runs.pop()!;
    if (runs.length > 0) runs[0] = last;
  }
  siftDown(runs, 0);
  return name;
}

function siftDown(runs: Run[], from: number): void {
  for (let index = from; ; ) {
    let least = index;
    for (let child = 2 * index + 1; child <= 2 * index + 2 && child < runs.length; child++) {
      if (compareNames(runs[child]!.head, runs[least]!.head) < 0) least = child;
    }
    if (least === index) return;
    const swapped = runs[index]!;
    runs[index] = runs[least]!;
    runs[least] = swapped;
    index = least;
  }
}
