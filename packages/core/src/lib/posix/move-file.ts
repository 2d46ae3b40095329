import { constants, fstatSync, linkSync, lstatSync, openSync, readdirSync, renameSync, type Stats, unlinkSync } from "node:fs";
import type { TransferDetails } from "../broker.ts";
import { sameDigest } from "../digest.ts";
import { escapePath } from "../file-path.ts";
import type { Digest, DigestAlgorithm, FilePath, TransferMethod } from "../files.ts";
import { addLeftover } from "../local-file.ts";
import { StowageError } from "../stowage-error.ts";
import { assertPromisedSize, type ContentProof, checkContent } from "./content-check.ts";
import { readContent } from "./copy-file.ts";
import { describeOpenError, findEntry, kindOf, OpenFile, openEntry, type SourceFile } from "./open-file.ts";
import type { FileLocation } from "./pinned-directory.ts";
import type { MoveCommand } from "./posix-commands.ts";
import { describePosixError, fileNotFound, isErrno, notAFile } from "./posix-errors.ts";
import {
  assertReplaceable,
  assertWritable,
  existing,
  isSameFile,
  lacksLinks,
  openVolumePlace,
  type Place,
  syncFile,
} from "./publish-file.ts";
import { type Steps, wait } from "./steps.ts";
import { copyOptions, describeTransfer, type OperationEnvironment, type OperationHooks, storeFile } from "./store-file.ts";

interface Move {
  readonly environment: OperationEnvironment;
  readonly command: MoveCommand;
  readonly hooks: OperationHooks;
  /** Where the file is; released by `moveFile`. */
  readonly source: FileLocation;
  readonly stats: Stats;
  readonly place: Place;
  /** The source's name for `node:fs`, at once. */
  sourceEntry(): string;
}

/**
 * Gives a file of the volume another path. Where the file system can, by renaming; across file systems (which only its answer `EXDEV` tells) by a copy that is on
 * stable storage and was read again before the source goes. At every moment at least one of both names has the whole file.
 */
export function* moveFile(environment: OperationEnvironment, command: MoveCommand, hooks: OperationHooks): Steps<TransferDetails> {
  const { directories } = environment;
  const { path } = command.file;
  const found = findEntry(directories, path);
  if (found === undefined) throw fileNotFound(path);
  const { location: source, stats } = found;
  try {
    if (!stats.isFile()) throw notAFile(path, kindOf(stats));
    assertPromisedSize(command.file, stats.size);
    assertWritable(environment, source.directory, path, command.durability);
    const place = openVolumePlace(environment, command.newPath, command);
    try {
      const sourceEntry = (): string => directories.entry(source.directory, source.name);
      const move: Move = { environment, command, hooks, source, stats, place, sourceEntry };
      const { method, proof } = yield* moveTo(move);
      if (command.durability === "power") yield* wait(directories.sync(source.directory));
      return describeTransfer(command.newPath, stats.size, method, proof);
    } finally {
      place.release();
    }
  } finally {
    directories.release(source.directory);
  }
}

interface Moved {
  readonly method: TransferMethod;
  readonly proof: ContentProof;
}

function* moveTo(move: Move): Steps<Moved> {
  const { command, place } = move;
  // A rename looks at no byte; only a digest that is asked for by name is worth reading them all.
  const algorithm = command.checksum === "auto" || command.checksum === "none" ? undefined : command.checksum;
  if (command.ifExists === "replace") assertReplaceable(place, "replace");
  const proof: ContentProof = algorithm === undefined ? { verified: "length" } : yield* digestSource(move, algorithm);
  if (command.durability === "power") yield* syncSource(move);
  const way = command.ifExists === "replace" ? renameOver(move) : linkThenUnlink(move);
  if (way === "renamed") {
    if (command.durability === "power") yield* wait(place.sync());
    return { method: "rename", proof };
  }
  if (way === "exists") {
    const earlier = yield* findEarlierCopy(move);
    if (earlier === undefined) throw existing(place);
    return earlier;
  }
  return yield* copyAcross(move);
}

// ---------- within a file system ----------

type Way = "renamed" | "exists" | "across";

function renameOver(move: Move): Way {
  const { place, sourceEntry } = move;
  try {
    renameSync(sourceEntry(), place.entry(place.name));
  } catch (error) {
    return explain(move, error);
  }
  // Of two links of one file the system renames neither, and says that all went well.
  if (isSameFile(sourceEntry(), place.entry(place.name))) removeOtherName(move);
  return "renamed";
}

function linkThenUnlink(move: Move): Way {
  const { place, sourceEntry } = move;
  try {
    linkSync(sourceEntry(), place.entry(place.name));
  } catch (error) {
    if (isErrno(error, "EEXIST")) {
      // Two names of one file: what an earlier attempt that was cut short has left.
      if (!isSameFile(sourceEntry(), place.entry(place.name))) return "exists";
      removeOtherName(move);
      return "renamed";
    }
    if (!lacksLinks(error, place)) return explain(move, error);
    assertReplaceable(place, "fail");
    return renameOver(move);
  }
  removeSource(move);
  return "renamed";
}

function explain(move: Move, error: unknown): "across" {
  const { place, command } = move;
  if (isErrno(error, "EXDEV")) return "across";
  if (isErrno(error, "EISDIR", "ENOTEMPTY")) throw notAFile(place.path, "a directory", "workspace", error);
  if (isErrno(error, "ENOENT")) {
    const stats = lstatSync(move.sourceEntry(), { throwIfNoEntry: false });
    throw stats === undefined ? fileNotFound(command.file.path, "workspace", error) : place.vanished(error);
  }
  throw describePosixError(error, { action: `move "${escapePath(command.file.path)}" to`, path: place.path, side: "workspace" });
}

/** Source and target are names of one file: lets the source's name go, if it is another name. */
function removeOtherName(move: Move): void {
  const { command, place, source, sourceEntry } = move;
  if (!isSameDirectory(move)) {
    removeSource(move);
    return;
  }
  // One directory, mounted in two places.
  if (source.name === place.name) return;
  // Where names that differ in case or composition are one, removing the one would remove the file.
  const isListed = (name: string): boolean => readdirSync(place.entry(".")).includes(name);
  if (isListed(source.name) && isListed(place.name)) {
    removeSource(move);
    return;
  }
  renameSync(sourceEntry(), place.entry(place.name));
  if (isListed(place.name)) return;
  // By way of a third name it could be done, but whoever dies on that way leaves the file where nobody looks for it.
  throw new StowageError(
    `"${escapePath(command.file.path)}" and "${escapePath(place.path)}" are one name to this file system, which does not let its spelling be changed; move the file by way of another name`,
    { code: "UNSUPPORTED", file: command.file.path },
  );
}

function isSameDirectory({ environment, source, place }: Move): boolean {
  return isSameFile(environment.directories.entry(source.directory, "."), place.entry("."));
}

function removeSource(move: Move): void {
  const { command, place, sourceEntry } = move;
  try {
    unlinkSync(sourceEntry());
  } catch (error) {
    if (isErrno(error, "ENOENT")) return;
    throw bothExist(
      command.file.path,
      place.path,
      describePosixError(error, { action: "delete", path: command.file.path, side: "workspace" }),
    );
  }
}

/** The copy stands, the source could not be removed: nothing is lost, and moving once more ends it. */
function bothExist(path: FilePath, newPath: string, cause: unknown): StowageError {
  const facts = StowageError.is(cause) ? cause : undefined;
  return new StowageError(
    `"${escapePath(path)}" is at "${escapePath(newPath)}" by now, but its old name could not be removed (${facts?.message ?? String(cause)}): both exist; move it again to finish`,
    { code: facts?.code ?? "UNKNOWN", file: path, retryable: facts?.retryable ?? false, cause },
  );
}

// ---------- across file systems ----------

function* copyAcross(move: Move): Steps<Moved> {
  const { environment, command, place, hooks } = move;
  // One directory, mounted in two places: across, and yet the very same name.
  if (move.source.name === place.name && isSameDirectory(move)) return { method: "rename", proof: { verified: "length" } };
  const source = openSource(move);
  try {
    const { checksum, durability, ifExists } = command;
    const request = { expected: command.file, checksum, durability, ifExists, isProven: true };
    const { method, proof } = yield* storeFile(environment, source, place, request, hooks);
    removeCopiedSource(move, source);
    return { method, proof };
  } finally {
    source.discard();
  }
}

/** Opens the very file that was looked at. */
function openSource(move: Move): SourceFile {
  const { environment, command, stats } = move;
  const { path } = command.file;
  let source: SourceFile;
  try {
    source = openEntry(environment.directories, move.source, path);
  } catch (error) {
    throw isErrno(error, "ELOOP", "EMLINK") ? notAFile(path, "a symbolic link", "workspace", error) : describeOpenError(error, path);
  }
  if (source.stats.ino === stats.ino && source.stats.dev === stats.dev) return source;
  source.discard();
  throw replaced(path);
}

function replaced(path: FilePath): StowageError {
  return new StowageError(`"${escapePath(path)}" was replaced while it was being moved; try again`, { code: "SOURCE_CHANGED", file: path });
}

/** Removes the source only if it still is, to the last attribute, the file that was copied. */
function removeCopiedSource(move: Move, source: SourceFile): void {
  const { command, place, sourceEntry } = move;
  const { path } = command.file;
  const name = lstatSync(sourceEntry(), { throwIfNoEntry: false });
  if (name === undefined) return;
  const now = fstatSync(source.fd);
  const { stats } = source;
  const isSame = name.ino === stats.ino && name.dev === stats.dev;
  if (!isSame || now.size !== stats.size || now.mtimeMs !== stats.mtimeMs || now.ctimeMs !== stats.ctimeMs) {
    throw bothExist(path, place.path, replaced(path));
  }
  removeSource(move);
}

/**
 * What an earlier move across file systems has left that could not remove its source: a file of the same size, time and content. That it is about two file systems,
 * a link shows. Anything else that exists is just in the way.
 */
function* findEarlierCopy(move: Move): Steps<Moved | undefined> {
  const { place, hooks, environment, command } = move;
  if (!isAcross(move)) return undefined;
  const target = openTargetFile(move);
  if (target === undefined) return undefined;
  const source = openSource(move);
  try {
    const stats = fstatSync(target.fd);
    if (!stats.isFile() || stats.size !== source.stats.size) return undefined;
    // Times are kept to the microsecond, and told in doubles.
    if (Math.abs(stats.mtimeMs - source.stats.mtimeMs) > 0.0015) return undefined;
    const algorithm = command.checksum === "auto" || command.checksum === "none" ? "crc32" : command.checksum;
    const digests: (Digest | undefined)[] = [];
    for (const file of [source, target]) {
      const check = checkContent({ path: command.file.path, size: stats.size }, algorithm);
      yield* wait(readContent(file, stats.size, check, copyOptions(environment, quiet(hooks), false)));
      digests.push(check.end(stats.size).digest);
    }
    if (sameDigest(digests[0], digests[1]) !== true) return undefined;
    source.assertUnchanged();
    // The promises of this call hold for what an earlier one wrote.
    yield* wait(syncFile(target, place));
    yield* wait(place.sync());
    removeCopiedSource(move, source);
    return { method: "copy", proof: { digest: digests[0], verified: "digest" } };
  } finally {
    source.discard();
    target.discard();
  }
}

/** Whether source and target lie on two file systems: only the answer to a link tells for sure. */
function isAcross({ place, sourceEntry }: Move): boolean {
  try {
    linkSync(sourceEntry(), place.entry(place.temporaryName));
  } catch (error) {
    return isErrno(error, "EXDEV");
  }
  try {
    unlinkSync(place.entry(place.temporaryName));
  } catch (error) {
    const described = describePosixError(error, { action: "write beside", path: place.path, side: "workspace" });
    addLeftover(described, place.leftoverName());
    throw described;
  }
  return false;
}

function openTargetFile({ place }: Move): OpenFile | undefined {
  try {
    return new OpenFile(
      openSync(place.entry(place.name), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOCTTY),
    );
  } catch {
    // Not to be read, so not known to be a copy.
    return undefined;
  }
}

// ---------- reading ----------

function quiet(hooks: OperationHooks): OperationHooks {
  return { signal: hooks.signal, progress: () => hooks.progress(0) };
}

function* digestSource(move: Move, algorithm: DigestAlgorithm): Steps<ContentProof> {
  const { environment, command, hooks, stats } = move;
  const source = openSource(move);
  try {
    const check = checkContent(command.file, algorithm);
    yield* wait(readContent(source, stats.size, check, copyOptions(environment, quiet(hooks), false)));
    source.assertUnchanged();
    return check.end(stats.size);
  } finally {
    source.discard();
  }
}

/** A rename that survives a power cut is worth nothing if the content does not. */
function* syncSource(move: Move): Steps<void> {
  const source = openSource(move);
  try {
    yield* wait(syncFile(source, move.place));
  } finally {
    source.discard();
  }
}
