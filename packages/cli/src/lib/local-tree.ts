import type { Dirent } from "node:fs";
import { lstat, opendir, stat } from "node:fs/promises";
import { join } from "node:path";
import { escapePath, type ListProblem, StowageError } from "@stowage/core";
import { isReservedName } from "@stowage/core/broker";

/** A regular file below a local directory. */
export interface LocalFile {
  /** As the caller wrote the directory, and the path below it. */
  readonly localPath: string;
  /** Below the directory; `/`-separated. */
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  readonly modified: Date;
}

export interface WalkOptions {
  readonly signal: AbortSignal;
  /** Defaults to true. Otherwise directories are left out, and links to them. */
  readonly recursive?: boolean | undefined;
  /** Whether a path, below the directory, is one that is asked for. Defaults to all. */
  readonly wants?: ((path: string) => boolean) | undefined;
  /** Told of what is there and is no file that can be read: nothing is left out in silence. */
  onProblem(problem: ListProblem): void;
}

/**
 * Everything below `directory`, in no order, in constant memory. A link to a file is that file; a link to a directory, a device, a name
 * that is not UTF-8 is a problem. Our own temporary files are not there. Throws when `directory` itself cannot be read.
 */
export async function* walkLocal(directory: string, options: WalkOptions): AsyncGenerator<LocalFile> {
  yield* walk(directory, "", options);
}

async function* walk(directory: string, prefix: string, options: WalkOptions): AsyncGenerator<LocalFile> {
  const subdirectories: string[] = [];
  // Buffers, because text would lose what is not UTF-8; not `recursive`, which loses entries on some versions of Node.
  const entries = await opendir(join(directory, prefix), { encoding: "buffer", bufferSize: 1024 } as unknown as { bufferSize: number });
  for await (const entry of entries as AsyncIterable<unknown> as AsyncIterable<Dirent<Buffer>>) {
    options.signal.throwIfAborted();
    const name = entry.name.toString("utf8");
    const path = prefix === "" ? name : `${prefix}/${name}`;
    if (isReservedName(name)) continue;
    if (!Buffer.from(name, "utf8").equals(entry.name)) {
      const shown = entry.name.toString("latin1");
      options.onProblem(
        problem(join(directory, prefix === "" ? shown : `${prefix}/${shown}`), "its name is not UTF-8; rename it", "INVALID_PATH"),
      );
    } else if (entry.isDirectory()) {
      if (options.recursive !== false) subdirectories.push(path);
    } else if (options.wants?.(path) !== false) {
      const file = await describe(directory, path, options);
      if (file !== undefined) yield file;
    }
  }
  for (const path of subdirectories) {
    try {
      yield* walk(directory, path, options);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      options.signal.throwIfAborted();
      if (code === undefined || StowageError.is(error)) throw error;
      // It went away while we looked: then it is not there.
      if (code === "ENOENT") continue;
      options.onProblem({ path: escapePath(join(directory, path)), error });
    }
  }
}

async function describe(directory: string, path: string, options: WalkOptions): Promise<LocalFile | undefined> {
  const localPath = join(directory, path);
  try {
    const details = await stat(localPath);
    if (details.isFile()) return { localPath, path, size: details.size, modified: details.mtime };
    if (details.isDirectory() && options.recursive === false) return undefined;
    const isLink = (await lstat(localPath)).isSymbolicLink();
    const what = details.isDirectory()
      ? "it is a link to a directory; name that directory itself"
      : `it is ${isLink ? "a link to " : ""}no regular file; leave it out with --skip-special`;
    options.onProblem(problem(localPath, what, "NOT_A_FILE"));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ELOOP") options.onProblem({ path: escapePath(localPath), error });
    else if (await isThere(localPath))
      options.onProblem(problem(localPath, "it is a link that leads nowhere; leave it out with --skip-special", "NOT_A_FILE"));
  }
  return undefined;
}

async function isThere(path: string): Promise<boolean> {
  try {
    await lstat(path);
    return true;
  } catch {
    return false;
  }
}

function problem(path: string, message: string, code: "NOT_A_FILE" | "INVALID_PATH"): ListProblem {
  const shown = escapePath(path);
  return { path: shown, error: new StowageError(`"${shown}" was left out: ${message}`, { code, file: path }) };
}
