import { type Dir, type Dirent, lstatSync, opendirSync, readdirSync, type Stats, statSync } from "node:fs";
import type { ListProblem } from "../broker.ts";
import { escapePath, RESERVED_PREFIX } from "../file-path.ts";
import type { FileDetails, FilePath } from "../files.ts";
import { StowageError } from "../stowage-error.ts";
import { decodeError, type EncodedError, encodeError } from "./child-protocol.ts";
import { statStoredFile } from "./open-file.ts";
import { isStale, type PinnedDirectories, type PinnedDirectory } from "./pinned-directory.ts";
import type { ListCommand, ListPage, PosixHooks } from "./posix-commands.ts";
import { describePosixError, isErrno } from "./posix-errors.ts";
import { compareNames, createSortedNames, type SortedNames } from "./sorted-names.ts";

/**
 * A listing is sorted by the bytes of whole paths, as object stores sort theirs: so `startAfter` resumes exactly, also when that file is gone, and two
 * workspaces can be compared in one pass. Inside a directory that is the order of the names with `/` behind those of subdirectories.
 *
 * It is made of directory pages. Whoever reads them (this process, or children) keeps no state that matters: the walk says where a page begins.
 */
export interface DirectoryRequest {
  /** Of one listing; what was read and not yet given is kept under it. */
  readonly listing: number;
  readonly path: FilePath | "";
  /** Begin with the first name that is not before this. A subdirectory's name ends in `/`. */
  readonly from?: string | undefined;
  /** Names on the page at the most. */
  readonly limit: number;
  /** The directory that the listing was asked for: reached through links where the volume allows it. */
  readonly isStart?: boolean | undefined;
  /** Subdirectories count, too. */
  readonly recursive: boolean;
}

export interface DirectoryPage {
  /** In order, joined by NUL. A subdirectory's name ends in `/`. */
  readonly names: string;
  /** Bytes, of the files among `names`. */
  readonly sizes: readonly number[];
  /** Milliseconds since 1970, of the files among `names`. */
  readonly times: readonly number[];
  /** Where the next page begins; absent at the end. */
  readonly next?: string | undefined;
  readonly problems?: readonly (readonly [path: string, error: EncodedError])[] | undefined;
  /** Where the directory really is, when it was reached through links. */
  readonly realPath?: FilePath | "" | undefined;
  /** The directory could not be read at all. */
  readonly error?: EncodedError | undefined;
}

/** Reads the first few of the directories that it is asked for, one at least, in order. */
export type DirectoryReader = (requests: readonly DirectoryRequest[], signal: AbortSignal) => Promise<readonly DirectoryPage[]>;

// ---------- reading directories ----------

/** Names read at once from a directory. */
const READ_AHEAD = 256;

/** A message of pages is closed when it holds so many names. */
const NAMES_PER_REPLY = 4096;

/** Names of one directory that are reported one by one for what cannot be named; the rest is counted. */
const PROBLEMS_PER_DIRECTORY = 1000;

/** The last part of a listing that looks at the file system; one for each process that lists. */
export interface DirectoryPages {
  read(requests: readonly DirectoryRequest[], signal: AbortSignal): Promise<DirectoryPage[]>;
  /** Lets go of what is kept for a listing. */
  forget(listing: number): void;
}

export interface DirectoryPagesOptions {
  readonly symlinks: "inside" | "refuse";
  /** Lets the event loop turn when it is time; called between small pieces of work. */
  readonly pause: () => Promise<void> | undefined;
  /** Bytes of names that are kept of one directory; more are read again later. Defaults to 48 MiB. */
  readonly memoryBytes?: number | undefined;
}

export function createDirectoryPages(directories: PinnedDirectories, options: DirectoryPagesOptions): DirectoryPages {
  const { symlinks, pause } = options;
  /** What is left of directories that did not fit on one page. */
  const unfinished = new Map<number, Map<string, SortedNames>>();

  const readNames = async (
    directory: PinnedDirectory,
    request: DirectoryRequest,
    problems: Problem[],
    signal: AbortSignal,
  ): Promise<SortedNames> => {
    const names = createSortedNames({ from: request.from, memoryBytes: options.memoryBytes });
    let hasOddNames = false;
    const take = (name: string, entry: Dirent<string | Buffer>): void => {
      if (name.startsWith(RESERVED_PREFIX)) return;
      if (entry.isDirectory()) {
        if (request.recursive) names.add(`${name}/`);
      } else if (entry.isFile() || (symlinks === "inside" && entry.isSymbolicLink())) {
        names.add(name);
      }
    };
    await eachEntry(directory, "utf8", pause, signal, (entry) => {
      const name = entry.name as string;
      if (name.includes("\ufffd")) hasOddNames = true;
      else take(name, entry);
    });
    if (hasOddNames) {
      // What is no UTF-8 reads as U+FFFD, which is also a character that a name may hold: only the bytes tell.
      let count = 0;
      await eachEntry(directory, "buffer", pause, signal, (entry) => {
        const bytes = entry.name as Buffer;
        const name = bytes.toString();
        if (!name.includes("\ufffd")) return;
        if (bytes.equals(Buffer.from(name))) return take(name, entry);
        if (name.startsWith(RESERVED_PREFIX)) return;
        count++;
        if (count <= PROBLEMS_PER_DIRECTORY)
          problems.push([joinEscaped(directory.path, escapeBytes(bytes)), encodeError(unnameable(bytes))]);
      });
      if (count > PROBLEMS_PER_DIRECTORY) {
        problems.push([joinEscaped(directory.path, "…"), encodeError(unnameable(undefined, count - PROBLEMS_PER_DIRECTORY))]);
      }
    }
    names.finish();
    return names;
  };

  const readPage = async (request: DirectoryRequest, signal: AbortSignal): Promise<DirectoryPage> => {
    const problems: Problem[] = [];
    const page: { names: string[]; sizes: number[]; times: number[] } = { names: [], sizes: [], times: [] };
    let next: string | undefined;
    const kept = unfinished.get(request.listing);
    const directory = openDirectory(directories, request);
    if (directory === undefined) return emptyPage;
    try {
      let names = kept?.get(request.path);
      kept?.delete(request.path);
      if (names === undefined || names.next !== request.from) names = await readNames(directory, request, problems, signal);
      while (page.names.length < request.limit) {
        const name = names.shift();
        if (name === undefined) break;
        if (name.endsWith("/")) {
          page.names.push(name);
          continue;
        }
        // Looking at the clock costs a tenth of looking at a file.
        const waiting = page.names.length % 16 === 0 ? pause() : undefined;
        if (waiting !== undefined) {
          await waiting;
          signal.throwIfAborted();
        }
        directories.enter(directory);
        lookAt(directory, name, page, problems);
      }
      next = names.next;
      // Beyond what was kept the directory is read again.
      if (next !== undefined && !names.isDrained) {
        const ofListing = unfinished.get(request.listing) ?? new Map<string, SortedNames>();
        unfinished.set(request.listing, ofListing);
        ofListing.set(request.path, names);
      }
    } finally {
      directories.release(directory);
    }
    return {
      names: page.names.join("\0"),
      sizes: page.sizes,
      times: page.times,
      next,
      problems: problems.length === 0 ? undefined : problems,
      realPath: directory.path === request.path ? undefined : (directory.path as FilePath | ""),
    };
  };

  const lookAt = (
    directory: PinnedDirectory,
    name: string,
    page: { names: string[]; sizes: number[]; times: number[] },
    problems: Problem[],
  ): void => {
    try {
      let stats = lstatSync(directories.entry(directory, name), { throwIfNoEntry: false });
      if (stats?.isSymbolicLink() && symlinks === "inside") stats = followLink(directories, joinPath(directory.path, name));
      if (stats === undefined || !stats.isFile()) return;
      page.names.push(name);
      page.sizes.push(stats.size);
      page.times.push(Math.round(stats.mtimeMs));
    } catch (error) {
      const path = joinPath(directory.path, name);
      problems.push([escapePath(path), encodeError(describePosixError(error, { action: "look at", path, side: "workspace" }))]);
    }
  };

  return {
    async read(requests, signal) {
      const pages: DirectoryPage[] = [];
      let names = 0;
      for (const request of requests) {
        signal.throwIfAborted();
        directories.beginCall();
        let page: DirectoryPage;
        try {
          page = await readPage(request, signal).catch((error: unknown) => {
            if (signal.aborted || !isStale(error)) throw error;
            directories.forget();
            return readPage(request, signal);
          });
        } catch (error) {
          if (signal.aborted) throw error;
          page = {
            ...emptyPage,
            error: encodeError(describePosixError(error, { action: "list the directory", path: request.path, side: "workspace" })),
          };
        }
        pages.push(page);
        // Sizes and times are of files; the length of the text stands for subdirectories well enough.
        names += page.sizes.length + page.names.length / 32;
        if (names >= NAMES_PER_REPLY) break;
      }
      return pages;
    },
    forget(listing) {
      unfinished.delete(listing);
    },
  };
}

type Problem = readonly [path: string, error: EncodedError];

const emptyPage: DirectoryPage = { names: "", sizes: [], times: [] };

/** `undefined` when it is gone, or is a link or a file by now. */
function openDirectory(directories: PinnedDirectories, request: DirectoryRequest): PinnedDirectory | undefined {
  if (request.isStart) return directories.findThroughLinks(request.path);
  try {
    return directories.find(request.path);
  } catch (error) {
    // A directory when its parent was read, and a link now.
    if (StowageError.is(error) && error.code === "PERMISSION_DENIED" && error.cause === undefined) return undefined;
    throw error;
  }
}

/** File systems whose directories tell by their size how many names they hold at the most; and up to which size they are read in one go: some thousand names. */
const TELLING_TYPES: ReadonlySet<string> = new Set(["ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "f2fs"]);
const SMALL_DIRECTORY_BYTES = 128 * 1024;

function isSmall(directory: PinnedDirectory): boolean {
  return TELLING_TYPES.has(directory.fileSystem.type) && statSync(directory.address).size <= SMALL_DIRECTORY_BYTES;
}

async function eachEntry(
  directory: PinnedDirectory,
  encoding: "utf8" | "buffer",
  pause: () => Promise<void> | undefined,
  signal: AbortSignal,
  visit: (entry: Dirent<string | Buffer>) => void,
): Promise<void> {
  if (isSmall(directory)) {
    // An open directory costs more than all of its names.
    const entries = readdirSync(directory.address, { withFileTypes: true, encoding: encoding as BufferEncoding }) as Dirent<
      string | Buffer
    >[];
    for (const entry of entries) visit(entry);
    return;
  }
  // Flat: the recursive form loses entries on some versions of Node.
  const handle = opendirSync(directory.address, { bufferSize: READ_AHEAD, encoding: encoding as BufferEncoding }) as Dir & {
    readSync(): Dirent<string | Buffer> | null;
  };
  try {
    for (let count = 1; ; count++) {
      const entry = handle.readSync();
      if (entry === null) return;
      visit(entry);
      if (count % READ_AHEAD !== 0) continue;
      const waiting = pause();
      if (waiting === undefined) continue;
      await waiting;
      signal.throwIfAborted();
    }
  } catch (error) {
    // Removed while it is read.
    if (!isErrno(error, "ENOENT")) throw error;
  } finally {
    handle.closeSync();
  }
}

/** The file that a link leads to; `undefined` of links that lead nowhere, out of the volume, round in circles, or to no file. */
function followLink(directories: PinnedDirectories, path: string): Stats | undefined {
  try {
    return statStoredFile(directories, path);
  } catch (error) {
    if (StowageError.is(error) && error.code === "PERMISSION_DENIED") return undefined;
    throw error;
  }
}

function joinPath(directory: string, name: string): string {
  return directory === "" ? name : `${directory}/${name}`;
}

function joinEscaped(directory: string, escapedName: string): string {
  return directory === "" ? escapedName : `${escapePath(directory)}/${escapedName}`;
}

/** Printable ASCII as it is, every other byte as `\xNN`. */
function escapeBytes(bytes: Buffer): string {
  let text = "";
  for (const byte of bytes) {
    if (byte === 0x5c) text += "\\\\";
    else text += byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, "0")}`;
  }
  return text;
}

function unnameable(bytes: Buffer | undefined, count = 1): StowageError {
  const what = bytes === undefined ? `${count} more names are` : `the name "${escapeBytes(bytes)}" is`;
  return new StowageError(`${what} not UTF-8, so no path can say it; rename it on the volume`, { code: "INVALID_PATH" });
}

// ---------- walking ----------

/** Directories that a child is asked for at once, and that are asked for before they are needed. */
export const DIRECTORIES_TOGETHER = 16;
export const DIRECTORIES_AHEAD = 64;

let listings = 0;

/** Numbers the listings of this process: what was read and not yet given is kept by that. */
export function nextListing(): number {
  return listings++;
}

export interface WalkOptions {
  /** Distinguishes the listings of one process. */
  readonly listing: number;
  /** Directories that are asked for in one go. */
  readonly together: number;
  /** Directories that are read before they are needed. */
  readonly ahead: number;
}

/** A directory on the way from the start to where the walk is. */
interface Frame {
  /** What stands before the names in the listing: `""`, or a path with a `/` behind it. */
  readonly prefix: string;
  /** The same without links; differs where the listing begins with one. */
  readonly realPath: FilePath | "";
  readonly names: readonly string[];
  readonly page: DirectoryPage;
  /** Segments to go down to where the listing resumes, if the first of them is still there. */
  readonly resume: readonly string[];
  position: number;
  /** Place in `sizes` and `times`. */
  file: number;
  /** Subdirectories before this place have been asked for. */
  asked: number;
}

/** A page that was asked for. */
interface Asked {
  readonly promise: Promise<DirectoryPage>;
  isSettled: boolean;
}

/** Walks the tree in order, over whatever reads directories. A page comes as soon as it is full, or the next directory has to be waited for. */
export async function* walkFiles(
  command: ListCommand,
  read: DirectoryReader,
  options: WalkOptions,
  hooks: PosixHooks,
): AsyncGenerator<ListPage> {
  const { recursive, pageSize, directory } = command;
  const resume = resumeAt(directory, command.startAfter);
  if (resume === undefined) return;

  // Ends what was read ahead when the consumer stops early.
  const ending = new AbortController();
  const onAbort = (): void => ending.abort(hooks.signal.reason);
  if (hooks.signal.aborted) onAbort();
  else hooks.signal.addEventListener("abort", onAbort, { once: true });

  const asked = new Map<string, Asked>();
  const stack: Frame[] = [];
  let entries: FileDetails[] = [];
  let problems: ListProblem[] = [];

  const request = (path: string, from?: string, isStart?: boolean): DirectoryRequest => {
    return { listing: options.listing, path: path as FilePath | "", from, limit: pageSize, recursive, isStart };
  };

  /** Asks for directories in one go, and again for those that did not fit into the reply. */
  const ask = (requests: readonly DirectoryRequest[]): void => {
    const waiting = requests.map((one) => {
      const { promise, resolve, reject } = Promise.withResolvers<DirectoryPage>();
      const entry: Asked = { promise, isSettled: false };
      const settle = (): void => {
        entry.isSettled = true;
      };
      promise.then(settle, settle);
      asked.set(keyOf(one.path, one.from), entry);
      return { resolve, reject };
    });
    const fetch = async (): Promise<void> => {
      let answered = 0;
      try {
        while (answered < requests.length) {
          for (const page of await read(requests.slice(answered), ending.signal)) waiting[answered++]!.resolve(page);
        }
      } catch (error) {
        for (const { reject } of waiting.slice(answered)) reject(error);
      }
    };
    void fetch();
  };

  /** The next subdirectories that the walk will come to and has not asked for. */
  const upcoming = (count: number): DirectoryRequest[] => {
    const requests: DirectoryRequest[] = [];
    for (let depth = stack.length - 1; depth >= 0 && requests.length < count; depth--) {
      const frame = stack[depth]!;
      frame.asked = Math.max(frame.asked, frame.position);
      while (frame.asked < frame.names.length && requests.length < count) {
        const name = frame.names[frame.asked++]!;
        if (name.endsWith("/")) requests.push(request(joinPath(frame.realPath, name.slice(0, -1))));
      }
    }
    return requests;
  };

  const readAhead = (): void => {
    while (asked.size + options.together <= options.ahead) {
      const requests = upcoming(options.together);
      if (requests.length === 0) return;
      ask(requests);
    }
  };

  const enter = (prefix: string, realPath: FilePath | "", page: DirectoryPage, down: readonly string[]): Frame => {
    const names = page.names === "" ? [] : page.names.split("\0");
    if (page.next !== undefined) ask([request(realPath, page.next)]);
    return { prefix, realPath, names, page, resume: down, position: 0, file: 0, asked: 0 };
  };

  const accept = (page: DirectoryPage, path: string): DirectoryPage => {
    if (page.error !== undefined) problems.push({ path: `${escapePath(path)}/`, error: decodeError(page.error) });
    for (const [problem, error] of page.problems ?? []) problems.push({ path: problem, error: decodeError(error) });
    return page;
  };

  const take = async (key: string, path: string): Promise<DirectoryPage> => {
    const page = await asked.get(key)!.promise;
    asked.delete(key);
    return accept(page, path);
  };

  const mustWait = (key: string): boolean => entries.length + problems.length > 0 && !asked.get(key)!.isSettled;

  const flush = (): ListPage => {
    const page = { entries, problems };
    entries = [];
    problems = [];
    return page;
  };

  try {
    const from = fromOf(resume);
    ask([request(directory, from, true)]);
    const first = await asked.get(keyOf(directory, from))!.promise;
    asked.delete(keyOf(directory, from));
    if (first.error !== undefined) throw decodeError(first.error);
    accept(first, directory);
    stack.push(enter(directory === "" ? "" : `${directory}/`, first.realPath ?? directory, first, resume.slice(0, -1)));

    for (let frame = stack.at(-1); frame !== undefined; frame = stack.at(-1)) {
      if (frame.position >= frame.names.length) {
        stack.pop();
        const { next } = frame.page;
        if (next === undefined) continue;
        const key = keyOf(frame.realPath, next);
        if (mustWait(key)) yield flush();
        stack.push(enter(frame.prefix, frame.realPath, await take(key, frame.realPath), []));
        continue;
      }
      const name = frame.names[frame.position++]!;
      if (!name.endsWith("/")) {
        const path = (frame.prefix + name) as FilePath;
        const size = frame.page.sizes[frame.file]!;
        entries.push({ file: { path, size }, size, modified: new Date(frame.page.times[frame.file++]!) });
        if (entries.length >= pageSize) yield flush();
        continue;
      }
      const path = joinPath(frame.realPath, name.slice(0, -1)) as FilePath;
      let down: readonly string[] = [];
      if (frame.resume.length > 0 && `${frame.resume[0]}/` === name) down = resume.slice(stack.length);
      const key = keyOf(path, fromOf(down));
      if (!asked.has(key)) {
        if (down.length > 0) {
          ask([request(path, fromOf(down))]);
        } else {
          frame.asked = frame.position - 1;
          frame.position--;
          ask(upcoming(options.together));
          frame.position++;
        }
      }
      readAhead();
      if (mustWait(key)) yield flush();
      stack.push(enter(frame.prefix + name, path, await take(key, path), down.slice(0, -1)));
    }
    if (entries.length + problems.length > 0) yield flush();
  } finally {
    hooks.signal.removeEventListener("abort", onAbort);
    ending.abort(new StowageError("the listing has ended", { code: "CANCELLED" }));
    await Promise.allSettled([...asked.values()].map(({ promise }) => promise));
  }
}

function keyOf(path: string, from: string | undefined): string {
  return from === undefined ? path : `${path}\0${from}`;
}

/** Where to begin in a directory, of the segments that are left to go down: with the subdirectory that the next one is in, or just behind the last. */
function fromOf(resume: readonly string[]): string | undefined {
  const [first] = resume;
  if (first === undefined) return undefined;
  // NUL is in no name and sorts before everything else.
  return resume.length > 1 ? `${first}/` : `${first}\0`;
}

/** The segments of `startAfter` below `directory`; none when everything in it comes after, `undefined` when nothing does. */
function resumeAt(directory: FilePath | "", startAfter: FilePath | undefined): readonly string[] | undefined {
  if (startAfter === undefined) return [];
  const prefix = directory === "" ? "" : `${directory}/`;
  if (startAfter.startsWith(prefix)) return startAfter.slice(prefix.length).split("/");
  return compareNames(startAfter, prefix) < 0 ? [] : undefined;
}
