import { createReadStream } from "node:fs";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createDigester, type Digest, type DigestAlgorithm, escapePath, StowageError, type Workspace } from "@stowage/core";

/** A file whose bytes can be looked at: in a workspace, or on this machine. */
export interface ReadableFile {
  /** `undefined`: this machine. */
  readonly workspace: Workspace | undefined;
  readonly path: string;
}

export interface FoundFile {
  /** Bytes. */
  readonly size: number;
  readonly modified?: Date | undefined;
  /** Where the storage knows one by itself. */
  readonly digest?: Digest | undefined;
  readonly version?: string | undefined;
}

/** What is known of a file without reading it; `undefined` when there is none, or it is no regular file. */
export async function findFile({ workspace, path }: ReadableFile, signal: AbortSignal): Promise<FoundFile | undefined> {
  if (workspace !== undefined) {
    const details = await workspace.statFile(path, { signal });
    return details === undefined
      ? undefined
      : { size: details.size, modified: details.modified, digest: details.file.digest, version: details.file.version };
  }
  try {
    const details = await stat(path);
    return details.isFile() ? { size: details.size, modified: details.mtime } : undefined;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw error;
  }
}

/** The digest of a file's bytes, every one of which is read. */
export async function readDigest(
  file: ReadableFile,
  algorithm: DigestAlgorithm,
  signal: AbortSignal,
  onBytes: (bytes: number) => void = () => {},
): Promise<Digest> {
  const digester = createDigester(algorithm);
  await readBytes(file, signal, (chunk) => {
    digester.update(chunk);
    onBytes(chunk.length);
  });
  return digester.digest();
}

async function readBytes(file: ReadableFile, signal: AbortSignal, onChunk: (chunk: Uint8Array) => void): Promise<void> {
  const { workspace, path } = file;
  if (workspace === undefined) {
    for await (const chunk of createReadStream(path, { signal, highWaterMark: 1024 * 1024 })) onChunk(chunk as Buffer);
  } else if (workspace.broker.openRead !== undefined) {
    const reader = await workspace.openRead(path, { signal });
    try {
      for await (const chunk of reader) onChunk(chunk);
    } finally {
      await reader.close();
    }
  } else {
    await readByDownload(workspace, path, signal, onChunk);
  }
}

// A broker need not be able to stream; what it can fetch can be read all the same.
async function readByDownload(
  workspace: Workspace,
  path: string,
  signal: AbortSignal,
  onChunk: (chunk: Uint8Array) => void,
): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "stowage-read-"));
  try {
    const localPath = join(folder, "content");
    await workspace.downloadFiles([{ file: path, localPath }], { signal });
    await readBytes({ workspace: undefined, path: localPath }, signal, onChunk);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Whether two files hold the same bytes; reads both unless their sizes differ already. */
export async function haveSameContent(left: ReadableFile, right: ReadableFile, signal: AbortSignal): Promise<boolean> {
  const [leftFound, rightFound] = await Promise.all([findFile(left, signal), findFile(right, signal)]);
  if (leftFound === undefined || rightFound === undefined || leftFound.size !== rightFound.size) return false;
  const [leftDigest, rightDigest] = await Promise.all([readDigest(left, "sha256", signal), readDigest(right, "sha256", signal)]);
  return leftDigest.value === rightDigest.value;
}

/** A line of a list of digests. */
export interface ListedDigest {
  /** As written: below whatever the list is about. */
  readonly path: string;
  readonly digest: Digest;
  /** Of the list's file. */
  readonly line: number;
}

const ALGORITHM_BY_LENGTH: Readonly<Record<number, DigestAlgorithm>> = { 8: "crc32", 32: "md5", 40: "sha1", 64: "sha256" };

/**
 * Reads one line as `sha256sum`, `md5sum` and the like write it: digest, blank, blank or `*`, path; a leading `\` says that
 * backslashes and line breaks in the path are escaped. Throws `INVALID_ARGUMENT`; `undefined` for an empty line or a comment.
 */
export function parseListedDigest(text: string, line: number, shownList: string): ListedDigest | undefined {
  if (text.trim() === "" || text.startsWith("#")) return undefined;
  const match = /^(\\?)([0-9a-fA-F]+) [ *](.+)$/s.exec(text);
  const algorithm = match === null ? undefined : ALGORITHM_BY_LENGTH[match[2]!.length];
  if (match === null || algorithm === undefined) {
    throw new StowageError(`${shownList}:${line}: this is no line of a list of digests; write "<digest>  <path>" as sha256sum does`, {
      code: "INVALID_ARGUMENT",
    });
  }
  const [, mark, value, path] = match;
  const plain = mark === "\\" ? path!.replace(/\\(.)/g, (_, letter: string) => ({ n: "\n", r: "\r" })[letter] ?? letter) : path!;
  return { path: plain.startsWith("./") ? plain.slice(2) : plain, digest: { algorithm, value: value!.toLowerCase() }, line };
}

/** The line for a file, as `sha256sum` writes it. */
export function formatListedDigest(path: string, digest: Digest): string {
  if (!/[\\\n\r]/.test(path)) return `${digest.value}  ${path}`;
  return `\\${digest.value}  ${path.replace(/[\\\n\r]/g, (letter) => ({ "\n": "\\n", "\r": "\\r" })[letter] ?? "\\\\")}`;
}

/** `sha256 0a1b…`, for messages. */
export function formatDigest(digest: Digest): string {
  return `${digest.algorithm} ${escapePath(digest.value)}`;
}
