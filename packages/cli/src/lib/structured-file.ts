import { open } from "node:fs/promises";
import { relative } from "node:path";
import { escapePath, StowageError } from "@stowage/core";
import { type Document, isMap, isPair, isScalar, isSeq, LineCounter, type Node, parseDocument } from "yaml";

/** A YAML or JSON file as a person wrote it. */
export interface StructuredFile {
  /** Absolute. */
  readonly path: string;
  readonly value: unknown;
  /** `file:line:column` of the key or item at `keys`, or of the nearest thing around it; for messages. */
  locate(keys: readonly PropertyKey[]): string;
}

/** Nobody writes more by hand; a device or an endless pipe given by mistake ends here. */
const MAXIMUM_BYTES = 16 * 1024 * 1024;

/** How a file is called in messages: relative to the working directory where that is shorter. */
export function displayPath(path: string, workingDirectory: string): string {
  const short = relative(workingDirectory, path);
  return escapePath(short !== "" && short.length < path.length && !short.startsWith("../../") ? short : path);
}

/** Reads YAML 1.2, of which JSON is a part. Errors say the line; `kind` says what the file is for. Throws `FILE_NOT_FOUND`, `INVALID_CONFIGURATION`. */
export async function readStructuredFile(path: string, kind: string, workingDirectory: string): Promise<StructuredFile> {
  const shown = displayPath(path, workingDirectory);
  const text = await readText(path, shown, kind);
  const lines = new LineCounter();
  // prettyErrors would print the lines around an error, and with them the secrets that may stand there.
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true, version: "1.2" });
  const at = (offset: number): string => {
    const { line, col } = lines.linePos(offset);
    return `${shown}:${Math.max(1, line)}:${Math.max(1, col)}`;
  };
  const [problem] = document.errors;
  if (problem !== undefined)
    throw invalid(`${at(problem.pos[0])}: the ${kind} is not valid YAML or JSON: ${firstSentence(problem.message)}; correct it there`);
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    throw invalid(
      `${shown}: the ${kind} cannot be read: ${error instanceof Error ? firstSentence(error.message) : String(error)}; write it without aliases`,
    );
  }
  return {
    path,
    value,
    locate: (keys) => {
      const offset = findOffset(document, keys);
      return offset === undefined ? shown : at(offset);
    },
  };
}

/** The keys that a message begins with, as in `broker.accounts[0].name: is required`; none when it begins otherwise. */
export function keysOfDescription(description: string): PropertyKey[] {
  const [path = ""] = /^[\p{L}\p{N}_$.[\]"-]+(?=[: ])/u.exec(description) ?? [];
  const keys: PropertyKey[] = [];
  for (const [, index, quoted, name] of path.matchAll(/\[(\d+)\]|\["([^"]*)"\]|([^.[\]]+)/g)) {
    keys.push(index === undefined ? (quoted ?? name ?? "") : Number(index));
  }
  return keys;
}

async function readText(path: string, shown: string, kind: string): Promise<string> {
  let handle: Awaited<ReturnType<typeof open>>;
  try {
    handle = await open(path, "r");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") {
      throw new StowageError(`the ${kind} "${shown}" does not exist; check the path`, { code: "FILE_NOT_FOUND", cause: error });
    }
    if (code === "EACCES" || code === "EPERM") {
      throw new StowageError(`the ${kind} "${shown}" may not be read by this user; change its permissions`, {
        code: "PERMISSION_DENIED",
        cause: error,
      });
    }
    throw error;
  }
  try {
    if ((await handle.stat()).isDirectory()) {
      throw new StowageError(`the ${kind} "${shown}" is a directory; name a file in it`, { code: "NOT_A_FILE" });
    }
    const chunks: Buffer[] = [];
    let bytes = 0;
    const buffer = Buffer.allocUnsafe(64 * 1024);
    for (;;) {
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, null);
      if (bytesRead === 0) break;
      bytes += bytesRead;
      if (bytes > MAXIMUM_BYTES) throw invalid(`the ${kind} "${shown}" has more than 16 MiB; it is not what it should be, check the path`);
      chunks.push(Buffer.from(buffer.subarray(0, bytesRead)));
    }
    return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks));
  } catch (error) {
    if ((error as { code?: unknown }).code === "ERR_ENCODING_INVALID_ENCODED_DATA")
      throw invalid(`the ${kind} "${shown}" is not UTF-8 text; save it as UTF-8`);
    throw error;
  } finally {
    await handle.close();
  }
}

function findOffset(document: Document.Parsed, keys: readonly PropertyKey[]): number | undefined {
  let node: unknown = document.contents;
  let offset = startOf(node);
  for (const key of keys) {
    if (isMap(node)) {
      const pair = node.items.find((item) => isPair(item) && isScalar(item.key) && String(item.key.value) === String(key));
      if (pair === undefined) return offset;
      offset = startOf(pair.key) ?? offset;
      node = pair.value;
    } else if (isSeq(node)) {
      const item = node.items[Number(key)];
      if (item === undefined) return offset;
      offset = startOf(item) ?? offset;
      node = item;
    } else {
      return offset;
    }
  }
  return offset;
}

function startOf(node: unknown): number | undefined {
  return (node as Node | null | undefined)?.range?.[0];
}

function firstSentence(message: string): string {
  const [line = ""] = message.split("\n", 1);
  return escapePath(line.replace(/[.:]$/, ""));
}

function invalid(message: string): StowageError {
  return new StowageError(message, { code: "INVALID_CONFIGURATION" });
}
