import { constants } from "node:fs";
import { type FileHandle, mkdir, open, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { isSystemError, StowageError } from "@stowage/core/broker";

/** One line: an object with a `type`. */
export interface JournalLine {
  readonly type: string;
}

/** An append-only file of JSON lines. What `append` has returned for survives any crash, of the machine too. */
export interface Journal<Line extends JournalLine> {
  /** What stood there when it was opened, oldest first. */
  readonly lines: readonly Line[];
  /** Appends all lines with one write and one fsync. Appends at the same time come one after the other. */
  append(...lines: readonly Line[]): Promise<void>;
  close(): Promise<void>;
}

/** Opens or makes a journal for its one writer. A torn last line, which a crash leaves, is cut off. Throws `CONFLICT` when more than that is damaged. */
export async function openJournal<Line extends JournalLine>(path: string): Promise<Journal<Line>> {
  await mkdir(dirname(path), { recursive: true });
  const handle = await open(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  try {
    const { lines, goodBytes } = parseLines<Line>(await handle.readFile(), path);
    await handle.truncate(goodBytes);
    await syncDirectory(dirname(path));
    return createJournal(handle, lines, goodBytes);
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** What stands in a journal, without opening it for writing; empty when there is none. Throws as `openJournal` does. */
export async function readJournal<Line extends JournalLine>(path: string): Promise<Line[]> {
  try {
    return parseLines<Line>(await readFile(path), path).lines;
  } catch (error) {
    if (isSystemError(error, "ENOENT", "ENOTDIR")) return [];
    throw error;
  }
}

function createJournal<Line extends JournalLine>(handle: FileHandle, lines: readonly Line[], goodBytes: number): Journal<Line> {
  let size = goodBytes;
  let last: Promise<void> = Promise.resolve();

  async function write(text: Buffer): Promise<void> {
    try {
      for (let written = 0; written < text.length; ) {
        written += (await handle.write(text, written, text.length - written, size + written)).bytesWritten;
      }
      await handle.datasync();
      size += text.length;
    } catch (error) {
      // Half a line (a full disk) must not become the beginning of the next one.
      await handle.truncate(size).catch(() => undefined);
      throw error;
    }
  }

  return {
    lines,
    append: (...added) => {
      if (added.length === 0) return last;
      const text = Buffer.from(added.map((line) => `${JSON.stringify(line)}\n`).join(""));
      const result = last.then(() => write(text));
      last = result.catch(() => undefined);
      return result;
    },
    close: async () => {
      await last;
      await handle.close();
    },
  };
}

function parseLines<Line extends JournalLine>(content: Buffer, path: string): { lines: Line[]; goodBytes: number } {
  const lines: Line[] = [];
  let goodBytes = 0;
  for (let start = 0; start < content.length; ) {
    const end = content.indexOf(0x0a, start);
    if (end === -1) break;
    const line = parseLine<Line>(content.toString("utf8", start, end));
    if (line === undefined) {
      // A crash of the machine may keep the end of the last line and lose its middle.
      if (end === content.length - 1) break;
      throw new StowageError(`the journal "${path}" is damaged in line ${lines.length + 1}; start the job anew, without resuming`, {
        code: "CONFLICT",
      });
    }
    lines.push(line);
    start = end + 1;
    goodBytes = start;
  }
  return { lines, goodBytes };
}

function parseLine<Line extends JournalLine>(text: string): Line | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && typeof (value as { type?: unknown }).type === "string"
      ? (value as Line)
      : undefined;
  } catch {
    return undefined;
  }
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
