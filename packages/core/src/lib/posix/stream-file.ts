import { fstatSync, read } from "node:fs";
import { promisify } from "node:util";
import type { FileReader, FileWriter } from "../broker.ts";
import { escapePath } from "../file-path.ts";
import type { StoredFile } from "../files.ts";
import { StowageError } from "../stowage-error.ts";
import { checkContent } from "./content-check.ts";
import { writeAt } from "./copy-file.ts";
import { changedSource, type OpenFile, openStoredFile, type SourceFile } from "./open-file.ts";
import type { ReadCommand, WriteCommand } from "./posix-commands.ts";
import { describePosixError } from "./posix-errors.ts";
import {
  assertReplaceable,
  createTemporary,
  discardTemporary,
  openVolumePlace,
  type Place,
  publishTemporary,
  setModified,
  syncFile,
} from "./publish-file.ts";
import { correctMode, describeTransfer, type OperationEnvironment, type OperationHooks, syncPublished } from "./store-file.ts";
import { untilAbort } from "./until-abort.ts";

const readAsync = promisify(read);

/** Bytes in a chunk of a reader, at the most. */
const CHUNK_BYTES = 512 * 1024;

/** Opens a file of the volume as a stream. */
export function openReader(environment: OperationEnvironment, command: ReadCommand, hooks: OperationHooks): FileReader {
  const source = openStoredFile(environment.directories, command.file.path);
  const { size } = source.stats;
  const start = Math.min(Math.max(0, command.range?.start ?? 0), size);
  const end = Math.min(Math.max(start, command.range?.end ?? size), size);
  const { path } = command.file;
  let isOpen = true;
  return {
    file: { path, size },
    size: end - start,
    modified: source.stats.mtime,
    localPath: process.platform === "linux" ? `/proc/${process.pid}/fd/${source.fd}` : undefined,
    [Symbol.asyncIterator]: () => readChunks(environment, source, command.file, { start, end }, hooks, () => isOpen),
    async close() {
      isOpen = false;
      source.discard();
    },
  };
}

async function* readChunks(
  environment: OperationEnvironment,
  source: SourceFile,
  file: StoredFile,
  { start, end }: { readonly start: number; readonly end: number },
  hooks: OperationHooks,
  isOpen: () => boolean,
): AsyncGenerator<Uint8Array> {
  // What was promised of the whole file cannot be held against a part of it.
  const isWhole = start === 0 && end === source.stats.size;
  const check = isWhole ? checkContent(file, "none") : undefined;
  for (let position = start; position < end; ) {
    const chunk = await readChunk(environment, source, Math.min(CHUNK_BYTES, end - position), position, hooks, isOpen);
    position += chunk.length;
    if (check?.readsBytes) check.update(chunk);
    hooks.progress(chunk.length);
    yield chunk;
  }
  assertOpen(file, hooks, isOpen);
  source.assertUnchanged();
  check?.end(source.stats.size);
}

async function readChunk(
  environment: OperationEnvironment,
  source: SourceFile,
  size: number,
  position: number,
  hooks: OperationHooks,
  isOpen: () => boolean,
): Promise<Uint8Array> {
  assertOpen(source, hooks, isOpen);
  // Not reused: the consumer may keep it.
  const chunk = Buffer.allocUnsafeSlow(size);
  let bytes = 0;
  while (bytes < size) {
    const reading = readAsync(source.fd, chunk, bytes, size - bytes, position + bytes);
    source.useUntil(reading);
    const { bytesRead } = await untilAbort(reading, hooks.signal, environment.onAbandoned).catch((error: unknown) => {
      throw describePosixError(error, { action: "read", path: source.path, side: "workspace" });
    });
    if (bytesRead === 0) throw changedSource(source, position + bytes);
    bytes += bytesRead;
    assertOpen(source, hooks, isOpen);
  }
  return chunk;
}

function assertOpen(file: { readonly path: string }, hooks: OperationHooks, isOpen: () => boolean): void {
  hooks.signal.throwIfAborted();
  if (!isOpen()) throw new StowageError(`this reader of "${escapePath(file.path)}" is closed`, { code: "CLOSED", file: file.path });
}

/** Begins a file on the volume that is given piece by piece, and appears when it is committed. */
export function openWriter(environment: OperationEnvironment, command: WriteCommand, hooks: OperationHooks): FileWriter {
  const { file } = command;
  if (file.size !== undefined && command.size !== undefined && file.size !== command.size) {
    throw new StowageError(`"${escapePath(file.path)}" was promised to have ${file.size} bytes and ${command.size} bytes; give one size`, {
      code: "INVALID_ARGUMENT",
      file: file.path,
    });
  }
  const place = openVolumePlace(environment, file.path, command);
  let temporary: OpenFile;
  try {
    assertReplaceable(place, command.ifExists);
    temporary = createTemporary(place, environment.volume.fileMode, "write");
  } catch (error) {
    place.release();
    throw error;
  }
  return createWriter(environment, command, hooks, place, temporary);
}

function createWriter(
  environment: OperationEnvironment,
  command: WriteCommand,
  hooks: OperationHooks,
  place: Place,
  temporary: OpenFile,
): FileWriter {
  const { file, checksum } = command;
  const check = checkContent({ ...file, size: file.size ?? command.size }, checksum === "auto" ? "crc32" : checksum);
  let position = 0;
  let isEnded = false;

  const assertAlive = (): void => {
    hooks.signal.throwIfAborted();
    if (isEnded) throw new StowageError(`this writer of "${escapePath(file.path)}" has ended`, { code: "CLOSED", file: file.path });
  };
  const giveUp = (error: unknown): void => {
    if (isEnded) return;
    isEnded = true;
    temporary.discard();
    discardTemporary(place, error);
    place.release();
  };

  const finish = async (): Promise<ReturnType<typeof describeTransfer>> => {
    const found = check.end(position);
    // What nobody asked for is told, but there is nothing that it was held against.
    const proof = checksum === "auto" && file.digest === undefined ? { ...found, verified: "length" as const } : found;
    if (!environment.isChild) correctMode(temporary, environment.volume.fileMode);
    if (command.modified !== undefined) setModified(temporary.fd, command.modified.getTime());
    const { durability, ifExists } = command;
    if (durability === "power") await syncFile(temporary, place);
    const { ino } = fstatSync(temporary.fd, { bigint: true });
    hooks.signal.throwIfAborted();
    temporary.close();
    publishTemporary(place, ifExists);
    if (durability === "power") await syncPublished(place, ifExists, ino);
    return describeTransfer(file.path, position, "stream", proof);
  };

  return {
    async write(chunk) {
      assertAlive();
      const writing = writeAt(temporary.fd, chunk, position);
      temporary.useUntil(writing);
      try {
        await untilAbort(writing, hooks.signal, environment.onAbandoned);
      } catch (error) {
        throw describePosixError(error, { action: "write", path: file.path, side: "workspace" });
      }
      check.update(chunk);
      position += chunk.length;
      hooks.progress(chunk.length);
    },
    async commit() {
      assertAlive();
      try {
        const details = await finish();
        isEnded = true;
        place.release();
        return details;
      } catch (error) {
        const described = describePosixError(error, { action: "write", path: file.path, side: "workspace" });
        giveUp(described);
        throw described;
      }
    },
    async abort(reason) {
      giveUp(reason);
    },
  };
}
