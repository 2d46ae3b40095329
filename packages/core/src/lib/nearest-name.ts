/** The name in `candidates` that a person most likely meant by `name`, or `undefined` when none is near. Case, `-` and `_` do not count. */
export function nearestName(name: string, candidates: Iterable<string>): string | undefined {
  const wanted = simplify(name);
  let nearest: { name: string; distance: number } | undefined;
  for (const candidate of candidates) {
    const simple = simplify(candidate);
    const shorter = Math.min(wanted.length, simple.length);
    let distance = editDistance(wanted, simple);
    // `region_name` for `region`, `path` for `hostPath`: far apart in letters, near in meaning.
    const contained = shorter >= 3 && (isEndOf(wanted, simple) || isEndOf(simple, wanted));
    if (contained) distance = Math.min(distance, 1.5);
    const allowed = contained ? Number.POSITIVE_INFINITY : Math.max(1, Math.floor(Math.max(wanted.length, simple.length) / 3));
    if (distance <= allowed && distance < shorter && (nearest === undefined || distance < nearest.distance)) {
      nearest = { name: candidate, distance };
    }
  }
  return nearest?.name;
}

/** ` (did you mean "x"?)`, or nothing. */
export function didYouMean(name: string, candidates: Iterable<string>): string {
  const nearest = nearestName(name, candidates);
  return nearest === undefined ? "" : ` (did you mean "${nearest}"?)`;
}

function simplify(name: string): string {
  return name.toLowerCase().replace(/[-_\s]/g, "");
}

function isEndOf(part: string, whole: string): boolean {
  return whole.startsWith(part) || whole.endsWith(part);
}

/** Insertions, deletions, substitutions and swaps of neighbours. */
function editDistance(left: string, right: string): number {
  // A name as long as this is no slip of the pen, and the table is quadratic.
  if (left.length > 100 || right.length > 100) return left === right ? 0 : Number.POSITIVE_INFINITY;
  let beforePrevious: number[] = [];
  let previous: number[] = Array.from({ length: right.length + 1 }, (_, column) => column);
  for (let row = 1; row <= left.length; row++) {
    const current = [row];
    for (let column = 1; column <= right.length; column++) {
      const same = left[row - 1] === right[column - 1];
      let best = Math.min(previous[column]! + 1, current[column - 1]! + 1, previous[column - 1]! + (same ? 0 : 1));
      if (row > 1 && column > 1 && left[row - 1] === right[column - 2] && left[row - 2] === right[column - 1]) {
        best = Math.min(best, beforePrevious[column - 2]! + 1);
      }
      current.push(best);
    }
    beforePrevious = previous;
    previous = current;
  }
  return previous[right.length]!;
}
