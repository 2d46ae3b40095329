import { posix } from "node:path";
import { escapePath, StowageError } from "@stowage/core/broker";
import picomatch from "picomatch";

/** A glob that has been parsed. */
export interface Glob {
  readonly source: string;
  /** The directory below which everything lies that can match; `""` is the root. */
  readonly base: string;
  /** Whether files below sub-directories of `base` can match. */
  readonly recursive: boolean;
  matches(path: string): boolean;
}

const MAXIMUM_LENGTH = 1024;

// Names that begin with a dot match too: a job's input that is silently not there is worse than one too many.
const OPTIONS = { windows: false, dot: true, nonegate: true, keepQuotes: true, strictBrackets: true, maxLength: MAXIMUM_LENGTH } as const;

/**
 * Parses a glob over file paths: `*` and `?` inside a segment, `**` over segments, `[a-z]`, `{a,b}`, `{1..3}`, `+(a|b)`; `\` makes the next
 * character literal. Case counts, and names that begin with a dot match. Throws `INVALID_ARGUMENT`.
 */
export function parseGlob(source: string): Glob {
  const glob = source.startsWith("./") ? source.slice(2) : source;
  const problem = describeInvalidGlob(glob);
  if (problem !== undefined) throw invalid(source, problem);
  const matches = compile(source, glob);
  const { base: escapedBase, isGlob, glob: rest } = picomatch.scan(glob, OPTIONS);
  if (!isGlob) {
    const path = unescapeGlob(glob);
    const directory = posix.dirname(path);
    return { source, base: directory === "." ? "" : directory, recursive: false, matches: (candidate) => candidate === path };
  }
  const base = unescapeGlob(escapedBase);
  const prefix = base === "" ? "" : `${base}/`;
  return {
    source,
    base,
    recursive: rest.includes("/") || rest.includes("**"),
    // `a/**` is about what is in `a`; the matcher alone would take a file `a` too.
    matches: (path) => path.startsWith(prefix) && matches(path),
  };
}

/** The glob that matches `path` and nothing else. */
export function escapeGlob(path: string): string {
  return path.replace(/[\\*?[\]{}()!+@|"'$^.,]/g, "\\$&");
}

function compile(source: string, glob: string): (path: string) => boolean {
  try {
    return picomatch(separateBackslashes(glob), OPTIONS);
  } catch (error) {
    const reason = error instanceof Error ? error.message.replace(/^Missing/, "missing") : String(error);
    throw invalid(source, `${reason}; write "\\" before a character that is meant literally`);
  }
}

/**
 * Picomatch takes a run of backslashes for less than it is, and reads past its end for ever when nothing follows (4.0.7): a literal backslash is
 * given to it as a class of one.
 */
function separateBackslashes(glob: string): string {
  return glob.replace(/\\(.)/gsu, (escaped, character: string) => (character === "\\" ? "[\\\\]" : escaped));
}

function unescapeGlob(text: string): string {
  return text.replace(/\\(.)/gsu, "$1");
}

function describeInvalidGlob(glob: string): string | undefined {
  if (glob === "") return 'it is empty; "**" matches everything';
  if (glob.length > MAXIMUM_LENGTH) return `it has ${glob.length} characters, ${MAXIMUM_LENGTH} are allowed`;
  if (glob.includes("\0")) return "it contains NUL";
  if (!glob.isWellFormed()) return "it is not well-formed Unicode (a lone surrogate)";
  if (glob.startsWith("/")) return "it is absolute; give it relative to the root of the workspace or output directory";
  if (glob.startsWith("!") && glob[1] !== "(") return 'a leading "!" does not negate here; name what is wanted';
  if (/(?<!\\)(?:\\\\)*\\$/u.test(glob)) return 'it ends in a "\\" that escapes nothing';
  if (glob.endsWith("/")) return `it ends in "/" and matches no file; write "${glob}**" for everything in there`;
  for (const segment of glob.split("/")) {
    if (segment === "") return 'it has an empty segment ("//")';
    if (segment === "." || segment === "..") return `it has a "${segment}" segment; write the path directly`;
  }
  return undefined;
}

function invalid(source: string, problem: string): StowageError {
  const shown = source.length > 200 ? `${source.slice(0, 200)}…` : source;
  return new StowageError(`invalid glob "${escapePath(shown)}": ${problem}`, { code: "INVALID_ARGUMENT" });
}
