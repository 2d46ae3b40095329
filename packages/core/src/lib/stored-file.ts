import { resolve } from "node:path";
import { DIGEST_ALGORITHMS } from "./digest.ts";
import { escapePath, parseFilePath, parseTargetPath } from "./file-path.ts";
import type { Digest, FileInput, FilePath, StoredFile } from "./files.ts";
import { StowageError } from "./stowage-error.ts";

/** A file that exists, as a caller names it. Throws `INVALID_PATH` or `INVALID_ARGUMENT`. */
export function parseFile(input: FileInput): StoredFile {
  return parse(input, parseFilePath);
}

/** A file that is to come into being, as a caller names it. Throws `INVALID_PATH` or `INVALID_ARGUMENT`. */
export function parseTarget(input: FileInput): StoredFile {
  return parse(input, parseTargetPath);
}

/** The absolute form of a local path. Throws `INVALID_ARGUMENT`. */
export function resolveLocalPath(localPath: string): string {
  if (typeof localPath !== "string" || localPath === "" || localPath.includes("\0")) {
    const shown = typeof localPath === "string" ? `"${escapePath(localPath)}"` : String(localPath);
    throw new StowageError(`invalid localPath ${shown}: a path of the local file system was expected`, { code: "INVALID_ARGUMENT" });
  }
  return resolve(localPath);
}

function parse(input: FileInput, parsePath: (path: string) => FilePath): StoredFile {
  if (typeof input === "string") return { path: parsePath(input) };
  if (typeof input !== "object" || input === null) {
    throw new StowageError(`a file is a path or an object with a path, not ${input === null ? "null" : typeof input}`, {
      code: "INVALID_ARGUMENT",
    });
  }
  const path = parsePath(input.path);
  const { size, digest, version, mediaType, metadata } = input;
  if (size !== undefined && !(Number.isSafeInteger(size) && size >= 0)) {
    throw new StowageError(`the size of "${escapePath(path)}" is ${size}; a number of bytes was expected`, {
      code: "INVALID_ARGUMENT",
      file: path,
    });
  }
  if (digest !== undefined && !isDigest(digest)) {
    throw new StowageError(
      `the digest of "${escapePath(path)}" is not valid; expected { algorithm: ${DIGEST_ALGORITHMS.join(" | ")}, value: lower-case hexadecimal }`,
      { code: "INVALID_ARGUMENT", file: path },
    );
  }
  return { path, size, digest, version, mediaType, metadata };
}

function isDigest(digest: Digest): boolean {
  return DIGEST_ALGORITHMS.includes(digest.algorithm) && typeof digest.value === "string" && /^[0-9a-f]+$/u.test(digest.value);
}

/** Fails when a file is not what the caller promised of it. */
export function assertPromises(file: StoredFile, actual: { readonly size: number; readonly digest?: Digest | undefined }): void {
  const { path, size, digest } = file;
  if (size !== undefined && size !== actual.size) {
    throw new StowageError(`"${escapePath(path)}" has ${actual.size} bytes where ${size} were promised`, {
      code: actual.size < size ? "SHORT_SOURCE" : "SOURCE_CHANGED",
      file: path,
    });
  }
  if (digest !== undefined && digest.algorithm === actual.digest?.algorithm && digest.value !== actual.digest.value) {
    throw new StowageError(`"${escapePath(path)}" has the ${digest.algorithm} ${actual.digest.value} where ${digest.value} was promised`, {
      code: "CHECKSUM_MISMATCH",
      file: path,
    });
  }
}
