import { constants, type Stats } from "node:fs";
import { lstat, stat } from "node:fs/promises";
import type { OperationContext } from "./broker.ts";
import { createDigester, sameDigest } from "./digest.ts";
import { escapePath } from "./file-path.ts";
import type { Digest, DigestAlgorithm } from "./files.ts";
import { assertUnchanged, openLocalSource } from "./local-file.ts";
import { StowageError } from "./stowage-error.ts";
import { isSystemError } from "./system-error.ts";
import type { Call } from "./verb.ts";

/** What is known of a file without reading it. */
export interface FileState {
  readonly size: number;
  readonly modified?: Date | undefined;
  readonly digest?: Digest | undefined;
}

/** Whether two files are the same for `skip-same`: size and digest where both have one of the same algorithm, else size and time to the millisecond. */
export function isSameState(a: FileState, b: FileState): boolean {
  if (a.size !== b.size) return false;
  return sameDigest(a.digest, b.digest) ?? sameTime(a.modified, b.modified);
}

/** As `isSameState`, for a file here and one in a workspace: where times do not agree and the other's digest is known, the local file is read. */
export async function isSameAsLocal(local: FileState & { readonly path: string }, stored: FileState, call: Call): Promise<boolean> {
  if (local.size !== stored.size) return false;
  const known = sameDigest(local.digest, stored.digest);
  if (known !== undefined) return known;
  if (sameTime(local.modified, stored.modified)) return true;
  const { digest } = stored;
  if (digest === undefined) return false;
  const own = await call((context) => digestLocalFile(local.path, digest.algorithm, context));
  return sameDigest(own, digest) === true;
}

function sameTime(a: Date | undefined, b: Date | undefined): boolean {
  return a !== undefined && b !== undefined && a.getTime() === b.getTime();
}

const READ_BYTES = 1024 * 1024;

/** Reads a whole local file. */
export async function digestLocalFile(localPath: string, algorithm: DigestAlgorithm, context: OperationContext): Promise<Digest> {
  const source = await openLocalSource(localPath);
  try {
    const room = await context.reserve(READ_BYTES);
    try {
      const digester = createDigester(algorithm);
      const buffer = Buffer.allocUnsafeSlow(Math.max(1, Math.min(READ_BYTES, source.size)));
      for (let position = 0; ; ) {
        context.signal.throwIfAborted();
        const { bytesRead } = await source.handle.read(buffer, 0, buffer.length, position);
        if (bytesRead === 0) break;
        digester.update(buffer.subarray(0, bytesRead));
        position += bytesRead;
        context.progress(0);
      }
      await assertUnchanged(source.handle, source.stats);
      return digester.digest();
    } finally {
      room[Symbol.dispose]();
    }
  } finally {
    await source.handle.close();
  }
}

/** The local file that an upload would read; symbolic links are followed. Throws `FILE_NOT_FOUND` or `NOT_A_FILE`. */
export async function statLocalSource(localPath: string): Promise<FileState> {
  const stats = await stat(localPath).catch((error: unknown) => {
    if (!isSystemError(error, "ENOENT", "ENOTDIR")) throw error;
    throw new StowageError(`no such local file: "${escapePath(localPath)}"`, { code: "FILE_NOT_FOUND", cause: error });
  });
  return fileState(stats, localPath);
}

/** What a download would replace; `undefined` when there is nothing. A symbolic link is itself replaced. Throws `NOT_A_FILE`. */
export async function statLocalTarget(localPath: string): Promise<FileState | undefined> {
  const stats = await lstat(localPath).catch((error: unknown) => {
    if (isSystemError(error, "ENOENT", "ENOTDIR")) return undefined;
    throw error;
  });
  if (stats === undefined) return undefined;
  // Exists, and is the same as nothing.
  if (stats.isSymbolicLink()) return { size: -1 };
  return fileState(stats, localPath);
}

function fileState(stats: Stats, localPath: string): FileState {
  if ((stats.mode & constants.S_IFMT) !== constants.S_IFREG) {
    throw new StowageError(`"${escapePath(localPath)}" is not a regular file`, { code: "NOT_A_FILE" });
  }
  return { size: stats.size, modified: stats.mtime };
}
