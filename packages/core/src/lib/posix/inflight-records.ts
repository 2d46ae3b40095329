import { randomBytes } from "node:crypto";
import { closeSync, constants, fstatSync, lstatSync, mkdirSync, openSync, rmdirSync, unlinkSync, writeSync } from "node:fs";
import { join } from "node:path";
import { RESERVED_PREFIX } from "../file-path.ts";
import { type PinnedDirectories, type PinnedDirectory, splitPath } from "./pinned-directory.ts";
import { isErrno } from "./posix-errors.ts";
import { type ProcessIdentity, thisProcess } from "./process-identity.ts";

/** Where in a volume the records lie. */
export const INFLIGHT_DIRECTORY: string = `${RESERVED_PREFIX}/inflight`;

/** How often a living session shows itself, in milliseconds. */
export const HEARTBEAT_MS = 20_000;

/** A record that holds so many directories is followed by a new one, so that neither grows for ever. */
const DIRECTORIES_PER_RECORD = 4096;

/** The first line of a record. */
export interface RecordHeader extends ProcessIdentity {
  readonly stowage: 1;
  /** Path of the volume's root as the writer saw it. */
  readonly root: string;
}

/** Every other line: where temporary names may be. Empty lines are heartbeats. */
export interface RecordLine {
  readonly directory: string;
}

/**
 * Notes on the volume which directories this session may leave temporary names in, each before the first is made there; and, for downloads, the
 * same of local directories in a folder of this machine. What a crash leaves is found by these notes.
 */
export interface InflightRecords {
  /** Around each operation that may make temporary names: call what it returns at the end. */
  begin(): () => void;
  /** Throws when the note cannot be written for want of space or a failing device; where it may not be written (no permission, read-only), nothing is noted. */
  note(directory: string): void;
  noteLocal(directory: string): void;
  /** Something could not be cleaned up: the record stays after the session. */
  keep(): void;
  /** Removes the records, if nothing stays behind and nothing is under way. */
  close(): void;
}

/** `localRecords`: the folder of this machine for local directories; `undefined` notes none. */
export function createInflightRecords(directories: PinnedDirectories, localRecords: string | undefined): InflightRecords {
  let sequence = 0;
  const active = new Set<number>();
  let isKept = false;

  const oldestActive = (): number => {
    for (const first of active) return first;
    return sequence;
  };
  const root = directories.root.rootPath;
  const onVolume = createRecordSeries(root, () => openVolumeRecord(directories));
  const local = localRecords === undefined ? undefined : createRecordSeries(root, () => openLocalRecord(localRecords));

  const heartbeat = setInterval(() => {
    onVolume.beat();
    local?.beat();
  }, HEARTBEAT_MS);
  heartbeat.unref();

  return {
    begin() {
      const own = sequence++;
      active.add(own);
      return () => {
        active.delete(own);
        if (isKept) return;
        const oldest = oldestActive();
        onVolume.retire(oldest);
        local?.retire(oldest);
      };
    },
    note: (directory) => onVolume.note(directory, sequence),
    noteLocal: (directory) => local?.note(directory, sequence),
    keep() {
      isKept = true;
    },
    close() {
      clearInterval(heartbeat);
      // What is still under way (a process that ends in a hurry) may leave something.
      const isClean = !isKept && active.size === 0;
      onVolume.close(isClean);
      local?.close(isClean);
    },
  };
}

/** An open record and how it is removed. */
interface OpenRecord {
  readonly fd: number;
  /** Closes it and, if asked, removes its name. */
  close(remove: boolean): void;
}

interface RecordSeries {
  note(directory: string, sequence: number): void;
  /** Removes records that no operation since `oldest` needs. */
  retire(oldest: number): void;
  beat(): void;
  close(remove: boolean): void;
}

/** Records, one after the other: a new one is begun when the last is full. */
function createRecordSeries(root: string, open: () => OpenRecord | undefined): RecordSeries {
  let current: { readonly record: OpenRecord; readonly noted: Set<string> } | undefined;
  /** Full ones, each with the number of the first operation that does not need it. */
  const full: { readonly record: OpenRecord; readonly neededUntil: number }[] = [];
  let isRefused = false;

  const begin = (): { readonly record: OpenRecord; readonly noted: Set<string> } | undefined => {
    const record = open();
    if (record === undefined) {
      isRefused = true;
      return undefined;
    }
    const header: RecordHeader = { stowage: 1, root, ...thisProcess() };
    writeLine(record.fd, header);
    return { record, noted: new Set() };
  };

  return {
    note(directory, sequence) {
      if (isRefused || current?.noted.has(directory)) return;
      if (current !== undefined && current.noted.size >= DIRECTORIES_PER_RECORD) {
        full.push({ record: current.record, neededUntil: sequence });
        current = undefined;
      }
      current ??= begin();
      if (current === undefined) return;
      const line: RecordLine = { directory };
      writeLine(current.record.fd, line);
      current.noted.add(directory);
    },
    retire(oldest) {
      while (full.length > 0 && full[0]!.neededUntil <= oldest) full.shift()!.record.close(true);
    },
    beat() {
      for (const { record } of full) beatOne(record.fd);
      if (current === undefined) return;
      beatOne(current.record.fd);
      if (!isRemoved(current.record.fd)) return;
      // Somebody took this session for dead (it was stopped for long, perhaps): say again what it holds.
      const { noted, record } = current;
      current = undefined;
      tolerate(() => {
        record.close(false);
        for (const directory of noted) this.note(directory, 0);
      });
    },
    close(remove) {
      for (const { record } of full.splice(0)) record.close(remove);
      current?.record.close(remove);
      current = undefined;
    },
  };
}

/** What the operating system says where notes may not be written. */
const REFUSALS = ["EACCES", "EPERM", "EROFS", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"];

const NEW_RECORD = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_APPEND | constants.O_NOFOLLOW;

function openVolumeRecord(directories: PinnedDirectories): OpenRecord | undefined {
  const name = randomBytes(12).toString("hex");
  // Each turn beyond the first answers to a session that ended meanwhile and removed the empty folder.
  for (let attempt = 0; attempt < 5; attempt++) {
    let directory: PinnedDirectory;
    try {
      directory = directories.make(INFLIGHT_DIRECTORY);
    } catch (error) {
      // A link or a file in the way of the folder: whoever put it there can have the notes.
      if (isRefusal(error)) return undefined;
      throw error;
    }
    let isOpened = false;
    try {
      const fd = openSync(directories.entry(directory, name), NEW_RECORD, 0o644);
      isOpened = true;
      return {
        fd,
        close(remove) {
          closeSync(fd);
          if (remove) {
            tolerate(() => unlinkSync(`${directory.address}/${name}`));
            removeIfEmpty(directories, INFLIGHT_DIRECTORY);
            removeIfEmpty(directories, RESERVED_PREFIX);
          }
          directories.release(directory);
        },
      };
    } catch (error) {
      if (isRefusal(error)) return undefined;
      if (!isErrno(error, "ENOENT")) throw error;
    } finally {
      if (!isOpened) directories.release(directory);
    }
  }
  return undefined;
}

function isRefusal(error: unknown): boolean {
  const code = (error as { code?: unknown }).code;
  return (
    isErrno(error, ...REFUSALS) || code === "PERMISSION_DENIED" || code === "READ_ONLY" || code === "NOT_A_FILE" || code === "UNSUPPORTED"
  );
}

/** Removes an empty directory of the volume that is ours; what is not empty stays. */
export function removeIfEmpty(directories: PinnedDirectories, path: string): void {
  tolerate(() => {
    const { directory, name } = splitPath(path);
    const parent = directories.find(directory);
    if (parent === undefined) return;
    try {
      rmdirSync(directories.entry(parent, name));
    } finally {
      directories.release(parent);
    }
  });
}

function openLocalRecord(folder: string): OpenRecord | undefined {
  const path = join(folder, randomBytes(12).toString("hex"));
  for (let attempt = 0; attempt < 5; attempt++) {
    try {
      mkdirSync(folder, { recursive: true, mode: 0o700 });
      if (!isOwnFolder(folder)) return undefined;
      const fd = openSync(path, NEW_RECORD, 0o600);
      return {
        fd,
        close(remove) {
          closeSync(fd);
          if (!remove) return;
          tolerate(() => unlinkSync(path));
          tolerate(() => rmdirSync(folder));
        },
      };
    } catch (error) {
      if (isErrno(error, ...REFUSALS, "EEXIST", "ENOTDIR", "ELOOP")) return undefined;
      if (!isErrno(error, "ENOENT")) throw error;
    }
  }
  return undefined;
}

/** Whether nobody else can have put anything into a folder of the shared temporary directory. */
export function isOwnFolder(folder: string): boolean {
  const stats = lstatSync(folder, { throwIfNoEntry: false });
  return stats?.isDirectory() === true && stats.uid === process.geteuid?.() && (stats.mode & 0o022) === 0;
}

function writeLine(fd: number, line: RecordHeader | RecordLine): void {
  // One write to a file opened for appending: a crash leaves whole lines and at most one that is cut.
  writeSync(fd, `${JSON.stringify(line)}\n`);
}

function beatOne(fd: number): void {
  // Writing lets the file server set the time, by its own clock.
  tolerate(() => writeSync(fd, "\n"));
}

function isRemoved(fd: number): boolean {
  try {
    return fstatSync(fd).nlink === 0;
  } catch {
    return false;
  }
}

function tolerate(action: () => void): void {
  try {
    action();
  } catch {
    // Whatever stays is found and removed by a later sweep.
  }
}
