import type { FilePath } from "./files.ts";
import { StowageError } from "./stowage-error.ts";

/** Longest segment that POSIX file systems take, in UTF-8 bytes. */
export const MAXIMUM_SEGMENT_BYTES = 255;

/** What every reserved segment begins with: temporary files, in-flight records. */
export const RESERVED_PREFIX = ".stowage";

const CONTROL_CHARACTERS = /[\u0000-\u001f\u007f-\u009f]/u;

/**
 * Parses a path inside a workspace: well-formed Unicode, relative, `/`-separated, no empty, `.` or `..` segment, no NUL, no
 * segment that begins `.stowage`. Byte-exact: nothing is trimmed, folded or normalised. Throws `INVALID_PATH`.
 */
export function parseFilePath(input: string): FilePath {
  const problem = describeInvalidPath(input);
  if (problem !== undefined) {
    throw new StowageError(`invalid path ${quotePath(String(input))}: ${problem}`, { code: "INVALID_PATH", file: String(input) });
  }
  return input as FilePath;
}

/** As `parseFilePath`, for a file that is to come into being: control characters are refused too. */
export function parseTargetPath(input: string): FilePath {
  const path = parseFilePath(input);
  if (CONTROL_CHARACTERS.test(path)) {
    throw new StowageError(`invalid target path ${quotePath(path)}: it has a control character; remove it from the name`, {
      code: "INVALID_PATH",
      file: path,
    });
  }
  return path;
}

/** A directory inside a workspace: a file path, or `""` for the root. One trailing `/` is allowed. */
export function parseDirectoryPath(input: string): FilePath | "" {
  if (input === "" || input === "/") return "";
  return parseFilePath(input.endsWith("/") ? input.slice(0, -1) : input);
}

/** Whether `input` would be accepted by `parseFilePath`; what a backend holds and this refuses goes to `onProblem`. */
export function isFilePath(input: string): input is FilePath {
  return describeInvalidPath(input) === undefined;
}

/** Refuses segments longer than `maximumBytes` of UTF-8. For brokers whose backend has that limit, before any I/O. */
export function assertSegmentLengths(path: FilePath, maximumBytes: number = MAXIMUM_SEGMENT_BYTES): void {
  // A string of n UTF-16 units has at most 3n bytes of UTF-8: short paths need no closer look.
  if (path.length * 3 <= maximumBytes) return;
  for (const segment of path.split("/")) {
    const bytes = Buffer.byteLength(segment);
    if (bytes > maximumBytes) {
      throw new StowageError(
        `invalid path ${quotePath(path)}: the segment ${quotePath(segment)} has ${bytes} bytes, this workspace allows ${maximumBytes}; shorten the name`,
        { code: "INVALID_PATH", file: path },
      );
    }
  }
}

/** Whether a name is one of ours: a temporary file or the folder of records. */
export function isReservedName(name: string): boolean {
  return name.startsWith(RESERVED_PREFIX);
}

/** `path` with control characters, bidirectional marks, lone surrogates and backslashes escaped, so that printing it cannot move the cursor or lie. */
export function escapePath(path: string): string {
  return path.replace(/[\\\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]|\p{Surrogate}/gu, (character) =>
    character === "\\" ? "\\\\" : `\\u{${character.codePointAt(0)?.toString(16)}}`,
  );
}

function quotePath(path: string): string {
  const escaped = escapePath(path);
  return `"${escaped.length > 300 ? `${escaped.slice(0, 300)}…` : escaped}"`;
}

function describeInvalidPath(input: string): string | undefined {
  if (typeof input !== "string") return "a path is a string";
  if (input === "") return "it is empty; name a file";
  if (!input.isWellFormed()) return "it is not well-formed Unicode (a lone surrogate)";
  if (input.includes("\0")) return "it contains NUL";
  if (input.startsWith("/")) return "it is absolute; give it relative to the workspace's root";
  // What is refused below begins with a dot or is empty: most paths, of a million in a listing, need not be taken apart.
  if (!input.includes("/.") && !input.includes("//") && !input.startsWith(".") && !input.endsWith("/")) return undefined;
  for (const segment of input.split("/")) {
    if (segment === "") return "it has an empty segment (a doubled or trailing /)";
    if (segment === "." || segment === "..") return `it has a "${segment}" segment; name the file directly`;
    if (segment.startsWith(RESERVED_PREFIX)) return `names that begin "${RESERVED_PREFIX}" are reserved`;
  }
  return undefined;
}
