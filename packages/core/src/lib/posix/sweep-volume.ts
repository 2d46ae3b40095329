import { randomBytes } from "node:crypto";
import {
  closeSync,
  constants,
  createReadStream,
  type Dirent,
  fstatSync,
  lstatSync,
  opendirSync,
  openSync,
  rmdirSync,
  type Stats,
  unlinkSync,
} from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { isFilePath, RESERVED_PREFIX } from "../file-path.ts";
import { HEARTBEAT_MS, INFLIGHT_DIRECTORY, isOwnFolder, type RecordHeader, type RecordLine, removeIfEmpty } from "./inflight-records.ts";
import type { PinnedDirectories, PinnedDirectory } from "./pinned-directory.ts";
import type { PosixHooks } from "./posix-commands.ts";
import { describePosixError, isErrno } from "./posix-errors.ts";
import { processState } from "./process-identity.ts";

export interface SweepVolumeOptions {
  readonly olderThanMs: number;
  /** Walk the whole volume; otherwise only where records point. */
  readonly deep: boolean;
  /** The folder of this machine with records of downloads. */
  readonly localRecords: string | undefined;
}

/**
 * Where a session that lives has been working, a temporary name may be one of its own; nothing tells which. So such a directory is left alone for at least so
 * long, in milliseconds, since the name was last written to.
 */
const LIVE_DIRECTORY_MS = 24 * 60 * 60 * 1000;

/** Nobody is taken for dead by silence alone in less, in milliseconds. */
const SILENCE_MS = 3 * HEARTBEAT_MS;

/** `.stowage-` and letters, digits and hyphens: what temporary files of every session are called. */
const TEMPORARY_NAME = new RegExp(`^\\${RESERVED_PREFIX}-[A-Za-z0-9-]+$`);

/**
 * Removes the temporary files that sessions left which ended without cleaning up, and their records; yields the path of each file that it
 * removed (absolute, of local ones). Age is the time since a file was last written to, by the clock of the volume's file server. What may belong to
 * a session that lives stays. Throws, at the end, the first reason for which something could not be removed.
 */
export async function* sweepVolume(
  directories: PinnedDirectories,
  { olderThanMs, deep, localRecords }: SweepVolumeOptions,
  hooks: PosixHooks,
): AsyncGenerator<string> {
  const failures: unknown[] = [];
  directories.beginCall();
  const now = readVolumeClock(directories, deep);
  if (now !== undefined) {
    const records = await readVolumeRecords(directories, now, olderThanMs, hooks.signal);
    const live = new Set<string>();
    for (const record of records) {
      if (record.isDead) continue;
      for await (const directory of record.lines()) live.add(directory);
    }
    const sweeper = { directories, now, olderThanMs, live, failures, signal: hooks.signal };
    if (deep) yield* sweepTree(sweeper, "");
    for (const record of records) {
      if (!record.isDead) continue;
      let isClean = true;
      for await (const directory of record.lines()) {
        hooks.signal.throwIfAborted();
        if (directory !== "" && !isFilePath(directory)) continue;
        isClean = (yield* sweepDirectory(sweeper, directory)) && isClean;
      }
      if (isClean) record.remove();
    }
    removeIfEmpty(directories, INFLIGHT_DIRECTORY);
    removeIfEmpty(directories, RESERVED_PREFIX);
  }
  if (localRecords !== undefined) yield* sweepLocal(localRecords, directories.root.rootPath, olderThanMs, failures, hooks.signal);
  if (failures.length > 0) throw failures[0];
}

interface Sweeper {
  readonly directories: PinnedDirectories;
  /** Milliseconds since 1970, as the file server has it. */
  readonly now: number;
  readonly olderThanMs: number;
  /** Directories in which sessions work that live. */
  readonly live: ReadonlySet<string>;
  readonly failures: unknown[];
  readonly signal: AbortSignal;
}

/** What the file server takes for now; `undefined` when there is nothing to sweep by records. */
function readVolumeClock(directories: PinnedDirectories, deep: boolean): number | undefined {
  const existing = directories.find(RESERVED_PREFIX);
  if (existing === undefined && !deep) return undefined;
  const folder = existing ?? directories.make(RESERVED_PREFIX);
  try {
    const path = directories.entry(folder, `clock-${randomBytes(8).toString("hex")}`);
    const fd = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o600);
    try {
      return fstatSync(fd).mtimeMs;
    } finally {
      closeSync(fd);
      unlinkSync(path);
    }
  } catch (error) {
    throw describePosixError(error, { action: "tell the time by a new file in", path: RESERVED_PREFIX, side: "workspace" });
  } finally {
    directories.release(folder);
  }
}

// ---------- directories of the volume ----------

/** Yields what was removed; returns whether nothing is left that a later sweep should come back for. */
async function* sweepDirectory(sweeper: Sweeper, path: string): AsyncGenerator<string, boolean> {
  const { directories, failures } = sweeper;
  let directory: PinnedDirectory | undefined;
  try {
    directory = directories.find(path);
  } catch (error) {
    // A link by now: whatever was below is not reached through it.
    failures.push(error);
    return false;
  }
  if (directory === undefined) return true;
  let isClean = true;
  try {
    for (const name of temporaryNames(directory.address, (entry) => entry.isFile())) {
      sweeper.signal.throwIfAborted();
      const state = removeIfOld(sweeper, directory, name);
      if (state === "removed") yield join(path, name);
      if (state === "kept") isClean = false;
    }
  } catch (error) {
    sweeper.signal.throwIfAborted();
    failures.push(describePosixError(error, { action: "sweep the directory", path, side: "workspace" }));
    isClean = false;
  } finally {
    directories.release(directory);
  }
  return isClean;
}

function removeIfOld(sweeper: Sweeper, directory: PinnedDirectory, name: string): "removed" | "kept" | "gone" {
  const { directories, now, olderThanMs, live, failures } = sweeper;
  const path = directories.entry(directory, name);
  try {
    const stats = lstatSync(path, { throwIfNoEntry: false });
    if (stats === undefined || !stats.isFile()) return "gone";
    const patience = live.has(directory.path) ? Math.max(olderThanMs, LIVE_DIRECTORY_MS) : olderThanMs;
    if (!isOlder(stats, now, patience)) return "kept";
    unlinkSync(path);
    return "removed";
  } catch (error) {
    if (isErrno(error, "ENOENT")) return "gone";
    failures.push(describePosixError(error, { action: "remove", path: join(directory.path, name), side: "workspace" }));
    return "kept";
  }
}

function isOlder(stats: Stats, now: number, milliseconds: number): boolean {
  // Not the time of modification: a finished file has been given its source's just before it takes its name.
  return now - stats.ctimeMs >= milliseconds;
}

/** Lazily; a directory can be removed from while it is read. */
function* temporaryNames(address: string, accept: (entry: Dirent) => boolean): Generator<string> {
  for (const entry of entriesOf(address)) {
    if (TEMPORARY_NAME.test(entry.name) && accept(entry)) yield entry.name;
  }
}

function* entriesOf(address: string): Generator<Dirent> {
  let handle: ReturnType<typeof opendirSync>;
  try {
    handle = opendirSync(address, { bufferSize: 256 });
  } catch (error) {
    if (isErrno(error, "ENOENT")) return;
    throw error;
  }
  try {
    for (let entry = handle.readSync(); entry !== null; entry = handle.readSync()) yield entry;
  } finally {
    handle.closeSync();
  }
}

/** Depth first; one directory handle for each level. */
async function* sweepTree(sweeper: Sweeper, path: string): AsyncGenerator<string> {
  const { directories, failures, signal } = sweeper;
  yield* sweepDirectory(sweeper, path);
  let directory: PinnedDirectory | undefined;
  try {
    directory = directories.find(path);
    if (directory === undefined) return;
    for (const entry of entriesOf(directory.address)) {
      signal.throwIfAborted();
      if (!entry.isDirectory() || entry.name.startsWith(RESERVED_PREFIX) || entry.name.includes("\ufffd")) continue;
      await new Promise(setImmediate);
      yield* sweepTree(sweeper, join(path, entry.name));
    }
  } catch (error) {
    signal.throwIfAborted();
    failures.push(describePosixError(error, { action: "sweep the directory", path, side: "workspace" }));
  } finally {
    if (directory !== undefined) directories.release(directory);
  }
}

// ---------- records ----------

interface SweptRecord {
  readonly isDead: boolean;
  /** The directories that it names, as far as its lines are whole. */
  lines(): AsyncIterable<string>;
  remove(): void;
}

async function readVolumeRecords(
  directories: PinnedDirectories,
  now: number,
  olderThanMs: number,
  signal: AbortSignal,
): Promise<SweptRecord[]> {
  const folder = directories.find(INFLIGHT_DIRECTORY);
  if (folder === undefined) return [];
  try {
    const records: SweptRecord[] = [];
    for (const entry of entriesOf(folder.address)) {
      signal.throwIfAborted();
      if (!entry.isFile()) continue;
      const record = await readRecord(`${folder.address}/${entry.name}`, now, olderThanMs);
      if (record === undefined) continue;
      records.push({
        isDead: record.isDead,
        lines: () => inFolder(directories, (address) => linesOf(`${address}/${entry.name}`)),
        remove: () => {
          const again = directories.find(INFLIGHT_DIRECTORY);
          if (again === undefined) return;
          unlinkQuietly(`${again.address}/${entry.name}`);
          directories.release(again);
        },
      });
    }
    return records;
  } finally {
    directories.release(folder);
  }
}

async function* inFolder(directories: PinnedDirectories, read: (address: string) => AsyncIterable<string>): AsyncGenerator<string> {
  const folder = directories.find(INFLIGHT_DIRECTORY);
  if (folder === undefined) return;
  try {
    yield* read(folder.address);
  } finally {
    directories.release(folder);
  }
}

/** `undefined` when it is gone, or too young to say anything. */
async function readRecord(
  path: string,
  now: number,
  olderThanMs: number,
): Promise<{ readonly isDead: boolean; readonly header: RecordHeader | undefined } | undefined> {
  const stats = lstatSync(path, { throwIfNoEntry: false });
  if (stats === undefined || !stats.isFile()) return undefined;
  const header = await readHeader(path);
  const age = now - stats.mtimeMs;
  const state = header === undefined ? "unknown" : processState(header);
  const patience = state === "dead" ? olderThanMs : Math.max(olderThanMs, SILENCE_MS);
  return { isDead: state !== "alive" && age >= patience, header };
}

async function readHeader(path: string): Promise<RecordHeader | undefined> {
  for await (const line of rawLines(path)) {
    const value = parseLine(line) as Partial<RecordHeader> | undefined;
    return value?.stowage === 1 && typeof value.pid === "number" && typeof value.root === "string" ? (value as RecordHeader) : undefined;
  }
  return undefined;
}

async function* linesOf(path: string): AsyncGenerator<string> {
  for await (const line of rawLines(path)) {
    const directory = (parseLine(line) as Partial<RecordLine> | undefined)?.directory;
    if (typeof directory === "string") yield directory;
  }
}

/** What is no whole line was being written when its writer ended: nothing was made there yet. */
function parseLine(line: string): object | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}

async function* rawLines(path: string): AsyncGenerator<string> {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (isErrno(error, "ENOENT", "EACCES", "ELOOP")) return;
    throw error;
  }
  const stream = createReadStream("", { fd, encoding: "utf8" });
  try {
    for await (const line of createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY })) {
      if (line !== "") yield line;
    }
  } finally {
    stream.destroy();
  }
}

function unlinkQuietly(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Somebody else sweeps, too, or it stays for the next time.
  }
}

// ---------- this machine ----------

/** Local temporary files of downloads. The folder is this user's alone, so that what it says can be trusted. */
async function* sweepLocal(
  folder: string,
  root: string,
  olderThanMs: number,
  failures: unknown[],
  signal: AbortSignal,
): AsyncGenerator<string> {
  if (!isOwnFolder(folder)) return;
  const now = Date.now();
  const dead: string[] = [];
  const live = new Set<string>();
  for (const entry of entriesOf(folder)) {
    if (!entry.isFile()) continue;
    const path = join(folder, entry.name);
    const record = await readRecord(path, now, olderThanMs);
    if (record === undefined) continue;
    if (!record.isDead) for await (const directory of linesOf(path)) live.add(directory);
    else if (record.header?.root === root) dead.push(path);
  }
  for (const path of dead) {
    let isClean = true;
    for await (const directory of linesOf(path)) {
      signal.throwIfAborted();
      if (!directory.startsWith("/")) continue;
      const patience = live.has(directory) ? Math.max(olderThanMs, LIVE_DIRECTORY_MS) : olderThanMs;
      try {
        // A link may be one of ours that was to become a partial download.
        for (const name of temporaryNames(directory, (entry) => entry.isFile() || entry.isSymbolicLink())) {
          const file = join(directory, name);
          const stats = lstatSync(file, { throwIfNoEntry: false });
          if (stats === undefined || stats.uid !== process.geteuid?.()) continue;
          if (!isOlder(stats, now, patience)) {
            isClean = false;
            continue;
          }
          unlinkSync(file);
          yield file;
        }
      } catch (error) {
        signal.throwIfAborted();
        if (isErrno(error, "ENOENT", "ENOTDIR")) continue;
        failures.push(describePosixError(error, { action: "sweep the directory", path: directory, side: "local" }));
        isClean = false;
      }
    }
    if (isClean) unlinkQuietly(path);
  }
  try {
    rmdirSync(folder);
  } catch {
    // Not empty.
  }
}
