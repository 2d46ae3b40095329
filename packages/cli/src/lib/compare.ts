import { open } from "node:fs/promises";
import { type Digest, type DigestAlgorithm, escapePath, type ListProblem, StowageError } from "@stowage/core";
import { mapConcurrently } from "./concurrently.ts";
import { findFile, formatDigest, type ListedDigest, parseListedDigest, type ReadableFile, readDigest } from "./contents.ts";
import { describeError } from "./exit.ts";
import type { SelectedFile } from "./selection.ts";

/** How a file differs from what it should be. */
export type DifferenceKind = "missing" | "extra" | "size" | "content" | "unreadable";

/** What the look at one file came to. */
export type Comparison =
  | { readonly status: "same"; readonly path: string; readonly bytes: number; readonly digest?: Digest | undefined }
  | {
      readonly status: "different";
      readonly path: string;
      readonly kind: DifferenceKind;
      readonly message: string;
      readonly error?: unknown;
    };

export interface CompareOptions {
  readonly signal: AbortSignal;
  readonly algorithm: DigestAlgorithm;
  /** Compare sizes, and digests where both sides know one, without reading. */
  readonly isQuick: boolean;
  readonly concurrency: number;
  onProblem(problem: ListProblem): void;
  onBytes(bytes: number): void;
}

/** A file, and where the same should be. */
export interface ComparedPair {
  /** As people know it; not escaped. */
  readonly name: string;
  readonly otherName: string;
  readonly file: ReadableFile;
  readonly other: ReadableFile;
}

/** Compares pairs of files; the first of each pair exists. */
export function comparePairs(pairs: AsyncIterable<ComparedPair>, options: CompareOptions): AsyncIterable<Comparison> {
  return mapConcurrently(pairs, options.concurrency, (pair) => guard(pair.name, options.signal, () => comparePair(pair, options)));
}

async function comparePair({ name, otherName, file, other }: ComparedPair, options: CompareOptions): Promise<Comparison> {
  const { signal, algorithm, onBytes } = options;
  const [found, otherFound] = await Promise.all([findFile(file, signal), findFile(other, signal)]);
  const shown = escapePath(otherName);
  if (otherFound === undefined) return different(name, "missing", `missing: "${shown}" does not exist`);
  if (found === undefined) return different(name, "missing", "missing: it went away while it was compared");
  if (found.size !== otherFound.size) {
    return different(
      name,
      "size",
      `different: ${found.size.toLocaleString("en-US")} bytes, but "${shown}" has ${otherFound.size.toLocaleString("en-US")}`,
    );
  }
  if (options.isQuick) {
    const known = found.digest !== undefined && otherFound.digest?.algorithm === found.digest.algorithm;
    if (known && found.digest?.value !== otherFound.digest?.value) return differentContent(name, shown, found.digest!, otherFound.digest!);
    return { status: "same", path: name, bytes: found.size, digest: known ? found.digest : undefined };
  }
  const [digest, otherDigest] = await Promise.all([readDigest(file, algorithm, signal, onBytes), readDigest(other, algorithm, signal)]);
  if (digest.value !== otherDigest.value) return differentContent(name, shown, digest, otherDigest);
  return { status: "same", path: name, bytes: found.size, digest };
}

/** Gives an `extra` for each of `files` that has no counterpart. */
export async function* findExtras(
  files: AsyncIterable<SelectedFile>,
  counterpart: (file: SelectedFile) => ReadableFile,
  nameOf: (file: SelectedFile) => string,
  options: CompareOptions,
): AsyncGenerator<Comparison> {
  const looks = mapConcurrently(files, options.concurrency, async (file): Promise<Comparison | undefined> => {
    const found = await findFile(counterpart(file), options.signal);
    return found === undefined ? different(nameOf(file), "extra", "extra: it should not be there") : undefined;
  });
  for await (const extra of looks) if (extra !== undefined) yield extra;
}

/** Compares files with their digests in a list. */
export function compareWithList(
  listed: AsyncIterable<ListedDigest>,
  fileOf: (entry: ListedDigest) => { readonly name: string; readonly file: ReadableFile },
  options: CompareOptions,
): AsyncIterable<Comparison> {
  return mapConcurrently(listed, options.concurrency, (entry) => {
    const { name, file } = fileOf(entry);
    return guard(name, options.signal, async () => {
      const found = await findFile(file, options.signal);
      if (found === undefined) return different(name, "missing", "missing: it does not exist");
      const isKnown = options.isQuick && found.digest?.algorithm === entry.digest.algorithm;
      const digest = isKnown ? found.digest! : await readDigest(file, entry.digest.algorithm, options.signal, options.onBytes);
      if (digest.value !== entry.digest.value) return differentContent(name, `line ${entry.line} of the list`, digest, entry.digest);
      return { status: "same", path: name, bytes: found.size, digest };
    });
  });
}

/** The lines of a list of digests, one by one. */
export async function* readListedDigests(path: string, shown: string, signal: AbortSignal): AsyncGenerator<ListedDigest> {
  let handle: Awaited<ReturnType<typeof open>>;
  try {
    handle = await open(path, "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new StowageError(`the list of digests "${shown}" does not exist; check the path`, { code: "FILE_NOT_FOUND", cause: error });
  }
  try {
    let line = 0;
    for await (const text of handle.readLines({ encoding: "utf8" })) {
      signal.throwIfAborted();
      line++;
      const entry = parseListedDigest(text, line, shown);
      if (entry !== undefined) yield entry;
    }
  } finally {
    await handle.close();
  }
}

// One file that cannot be read must not keep the others from being compared.
async function guard(name: string, signal: AbortSignal, body: () => Promise<Comparison>): Promise<Comparison> {
  try {
    return await body();
  } catch (error) {
    signal.throwIfAborted();
    return { status: "different", path: name, kind: "unreadable", message: `unreadable: ${describeError(error)}`, error };
  }
}

function differentContent(name: string, shownOther: string, digest: Digest, other: Digest): Comparison {
  return different(
    name,
    "content",
    `different: ${formatDigest(digest)}, but ${shownOther.startsWith("line ") ? shownOther : `"${shownOther}"`} has ${other.value}`,
  );
}

function different(path: string, kind: DifferenceKind, message: string): Comparison {
  return { status: "different", path, kind, message };
}
