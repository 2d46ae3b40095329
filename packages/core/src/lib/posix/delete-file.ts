import { unlinkSync } from "node:fs";
import type { Deletion } from "../broker.ts";
import type { FileDetails } from "../files.ts";
import { findEntry, kindOf, statStoredFile } from "./open-file.ts";
import type { DeleteCommand, StatCommand } from "./posix-commands.ts";
import { describePosixError, isErrno, notAFile } from "./posix-errors.ts";
import { assertWritable } from "./publish-file.ts";
import { type Steps, wait } from "./steps.ts";
import type { OperationEnvironment } from "./store-file.ts";

/** Removes one regular file from the volume: nothing else of that name, and no directory that it leaves empty. */
export function* deleteFile(environment: OperationEnvironment, command: DeleteCommand): Steps<Deletion> {
  const { directories } = environment;
  const { path } = command.file;
  const found = findEntry(directories, path);
  if (found === undefined) return "missing";
  const { directory, name } = found.location;
  try {
    if (!found.stats.isFile()) throw notAFile(path, kindOf(found.stats));
    assertWritable(environment, directory, path, command.durability);
    try {
      unlinkSync(directories.entry(directory, name));
    } catch (error) {
      // Somebody else was quicker.
      if (isErrno(error, "ENOENT")) return "missing";
      if (isErrno(error, "EISDIR")) throw notAFile(path, "a directory", "workspace", error);
      throw describePosixError(error, { action: "delete", path, side: "workspace" });
    }
    if (command.durability === "power") yield* wait(directories.sync(directory));
    return "deleted";
  } finally {
    directories.release(directory);
  }
}

/** What is known of a regular file of the volume; `undefined` when there is none. */
// biome-ignore lint/correctness/useYield: like the other verbs, though it never waits
export function* statFile(environment: OperationEnvironment, command: StatCommand): Steps<FileDetails | undefined> {
  const { path } = command.file;
  const stats = statStoredFile(environment.directories, path);
  return stats === undefined ? undefined : { file: { path, size: stats.size }, size: stats.size, modified: stats.mtime };
}
