import { constants, copyFile, fstatSync, read, readSync, type Stats, write, writeSync } from "node:fs";
import { setImmediate as nextTurn } from "node:timers/promises";
import { promisify } from "node:util";
import { StowageError } from "../stowage-error.ts";
import type { ContentCheck, ContentProof } from "./content-check.ts";
import { changedSource, type OpenFile, type SourceFile } from "./open-file.ts";
import type { PosixHooks } from "./posix-commands.ts";
import { errnoName } from "./posix-errors.ts";
import { abandon, untilAbort } from "./until-abort.ts";
import type { VolumeFileSystem } from "./volume-root.ts";

/** Files up to this size (256 KiB) are read and written whole, synchronously: for them the five system calls more of a kernel copy cost more than the bytes. */
export const SMALL_FILE_BYTES: number = 256 * 1024;

const CHUNK_BYTES = 1024 * 1024;
/** How often a copy in the kernel is looked after: its progress, and whether its source still has what it is to copy. */
const LOOK_MS = 100;
/** The longest stretch without a turn of the event loop. */
const STRETCH_MS = 8;

const copyFileAsync = promisify(copyFile);
const readAsync = promisify(read);
const writeAsync = promisify(write);

export interface CopyTarget {
  /** Empty, open for writing, and but on FUSE for reading too. */
  readonly file: OpenFile;
  readonly fileSystem: VolumeFileSystem["kind"];
}

export interface CopyOptions {
  /** Whether blocks may be shared or copied without passing through here: not where the bytes that were read must be known. */
  readonly throughKernel: boolean;
  /** Whether the kernel may copy the bytes. Nothing stops such a copy but the end of the process, so that it is for children of ours. */
  readonly kernelCopy: boolean;
  readonly hooks: Pick<PosixHooks, "signal" | "throttle"> & { progress(bytes: number): void };
  /** Told of copies in the kernel that go on although nobody waits for them: +1, and -1 if they end. */
  readonly onAbandoned: (change: 1 | -1) => void;
}

// ---------- small files ----------

let smallBuffer: Buffer | undefined;

/**
 * The content of a small file, in a buffer that the next call uses again: be done with it before anything else runs. Throws when it has more or fewer bytes than
 * when it was opened.
 */
export function readSmallFile(source: SourceFile): Buffer {
  smallBuffer ??= Buffer.allocUnsafeSlow(SMALL_FILE_BYTES + 1);
  const { size } = source.stats;
  // One byte more than there should be: exactly `size` then says that the end was reached, without another call.
  let bytes = readSync(source.fd, smallBuffer, 0, size + 1, 0);
  while (bytes < size) {
    const more = readSync(source.fd, smallBuffer, bytes, size + 1 - bytes, bytes);
    if (more === 0) throw changedSource(source, bytes);
    bytes += more;
  }
  if (bytes > size) throw changedSource(source, bytes);
  return smallBuffer.subarray(0, size);
}

/** Writes all of `content` at the start of the file. */
export function writeWhole(fd: number, content: Uint8Array): void {
  let written = 0;
  while (written < content.length) written += writeSync(fd, content, written, content.length - written, written);
}

// ---------- large files ----------

/**
 * Copies a large file into `target` by the quickest way that shows what must be shown: sharing its blocks, in the kernel, or through a buffer. Checks that
 * the source was whole and stayed as it is, and ends `check`. The mode of the target may be the source's afterwards.
 */
export async function copyLargeFile(
  source: SourceFile,
  target: CopyTarget,
  check: ContentCheck,
  options: CopyOptions,
): Promise<{ readonly method: "reflink" | "copy"; readonly proof: ContentProof }> {
  options.hooks.signal.throwIfAborted();
  // Through paths that name open files, which other systems do not have.
  const isOffered = process.platform === "linux" && options.throughKernel && target.fileSystem !== "fuse";
  // The kernel waits for nobody.
  const mayUseKernel = isOffered && options.kernelCopy && options.hooks.throttle === undefined;
  const isCloned = isOffered && (await tryReflink(source, target, options));
  if (isCloned) {
    if (check.readsBytes) await readContent(target.file, source.stats.size, check, options);
    else options.hooks.progress(source.stats.size);
  } else if (mayUseKernel && !check.readsBytes) {
    await copyInKernel(source, target.file, options);
  } else if (mayUseKernel && target.fileSystem === "local") {
    await copyAndFollow(source, target.file, check, options);
  } else {
    await copyThroughBuffers(source, target.file, check, options);
  }
  const { size } = fstatSync(target.file.fd);
  source.assertUnchanged();
  if (size !== source.stats.size) throw changedSource(source, size);
  return { method: isCloned ? "reflink" : "copy", proof: check.end(size) };
}

/** Feeds `check` (without ending it) with all that a file holds, and reports that as progress. Throws when it is not `size` bytes. */
export async function readContent(
  file: OpenFile,
  size: number,
  check: ContentCheck,
  options: Pick<CopyOptions, "hooks" | "onAbandoned">,
): Promise<void> {
  const buffer = takeBuffer();
  let reading: Promise<number> = Promise.resolve(0);
  try {
    for (let position = 0; ; ) {
      reading = hold(fill(file.fd, buffer, position), file);
      const bytes = await untilAbort(reading, options.hooks.signal, options.onAbandoned);
      if (bytes === 0) {
        if (position === size) return;
        throw new StowageError(`the file holds ${position} bytes where ${size} were written; try again`, {
          code: "SOURCE_CHANGED",
          retryable: true,
        });
      }
      check.update(buffer.subarray(0, bytes));
      position += bytes;
      options.hooks.progress(bytes);
    }
  } finally {
    giveBufferAfter(reading, buffer);
  }
}

// ---------- reflink ----------

/** Pairs of devices between which the system has said that it shares no blocks. */
const withoutReflink = new Set<string>();
const NEVER_REFLINK: ReadonlySet<string | undefined> = new Set(["ENOTSUP", "EOPNOTSUPP", "EXDEV", "ENOTTY", "ENOSYS"]);

async function tryReflink(source: SourceFile, target: CopyTarget, options: CopyOptions): Promise<boolean> {
  const pair = devicePair(source.stats, target.file.fd);
  if (withoutReflink.has(pair)) return false;
  try {
    const cloning = copyFileAsync(addressOf(source), addressOf(target.file), constants.COPYFILE_FICLONE_FORCE);
    await untilAbort(hold(cloning, source, target.file), options.hooks.signal, options.onAbandoned);
    return true;
  } catch (error) {
    options.hooks.signal.throwIfAborted();
    // Whatever it is, the next way will meet it again if it is about more than sharing blocks.
    if (NEVER_REFLINK.has(errnoName(error))) withoutReflink.add(pair);
    return false;
  }
}

function devicePair(source: Pick<Stats, "dev">, targetFd: number): string {
  return `${source.dev}:${fstatSync(targetFd).dev}`;
}

/** The very file that is open, for calls that want a path; no link can get in between. */
function addressOf(file: OpenFile): string {
  return process.platform === "linux" ? `/proc/self/fd/${file.fd}` : `/dev/fd/${file.fd}`;
}

// ---------- kernel ----------

/** Keeps files open while a thread works on them, also when nobody waits for it any more. */
function hold<T>(work: Promise<T>, ...files: readonly OpenFile[]): Promise<T> {
  for (const file of files) file.useUntil(work);
  return work;
}

async function copyInKernel(source: SourceFile, target: OpenFile, options: CopyOptions): Promise<void> {
  await watchKernelCopy(source, target, options, async (copy) => {
    let seen = 0;
    const report = (): void => {
      const { size } = fstatSync(target.fd);
      if (size > seen) options.hooks.progress(size - seen);
      seen = Math.max(seen, size);
    };
    while (!copy.isDone) {
      await copy.pause(LOOK_MS);
      copy.assertSourceHolds();
      report();
    }
  });
}

/** Reads what the kernel has copied so far, so that the digest is of what was written and costs no pass of its own. */
async function copyAndFollow(source: SourceFile, target: OpenFile, check: ContentCheck, options: CopyOptions): Promise<void> {
  await watchKernelCopy(source, target, options, (copy) => followCopy(source, target, check, options, copy));
}

interface KernelCopy {
  readonly isDone: boolean;
  /** Rejects with what made the copy fail. */
  readonly end: Promise<void>;
  /** Waits for the end of the copy, an abort or some milliseconds. */
  pause(milliseconds: number): Promise<void>;
  /** Throws when the source has become shorter: the kernel's copy then turns for ever at its end. */
  assertSourceHolds(): void;
}

async function watchKernelCopy(
  source: SourceFile,
  target: OpenFile,
  options: CopyOptions,
  watch: (copy: KernelCopy) => Promise<void>,
): Promise<void> {
  const { signal } = options.hooks;
  const copying = hold(copyFileAsync(addressOf(source), addressOf(target)), source, target);
  let isDone = false;
  let wake: (() => void) | undefined;
  const wakeUp = (): void => wake?.();
  const settle = (): void => {
    isDone = true;
    wakeUp();
  };
  copying.then(settle, settle);
  signal.addEventListener("abort", wakeUp, { once: true });
  try {
    await watch({
      get isDone() {
        return isDone;
      },
      end: copying,
      async pause(milliseconds) {
        signal.throwIfAborted();
        if (isDone) return;
        const { promise, resolve } = Promise.withResolvers<void>();
        wake = resolve;
        const timer = setTimeout(resolve, milliseconds);
        await promise;
        clearTimeout(timer);
        wake = undefined;
        signal.throwIfAborted();
      },
      assertSourceHolds() {
        if (isDone) return;
        const { size } = fstatSync(source.fd);
        if (size < source.stats.size) throw changedSource(source, size);
      },
    });
    await copying;
  } catch (error) {
    if (!isDone) abandon(copying, options.onAbandoned);
    throw error;
  } finally {
    signal.removeEventListener("abort", wakeUp);
  }
}

/** Reads `target` from its start to the end that `copy` keeps moving. */
async function followCopy(
  source: SourceFile,
  target: OpenFile,
  check: ContentCheck,
  options: CopyOptions,
  copy: KernelCopy,
): Promise<void> {
  const { signal, progress } = options.hooks;
  const buffer = takeBuffer();
  try {
    let position = 0;
    let turned = performance.now();
    let looked = turned;
    for (;;) {
      // Asked before reading: what is not there by then will not come.
      const isLast = copy.isDone;
      const bytes = readSync(target.fd, buffer, 0, CHUNK_BYTES, position);
      if (bytes > 0) {
        check.update(buffer.subarray(0, bytes));
        position += bytes;
        progress(bytes);
        if (position > source.stats.size) throw changedSource(source, position);
      } else if (isLast) {
        break;
      }
      const now = performance.now();
      if (now - looked > LOOK_MS) {
        copy.assertSourceHolds();
        looked = now;
      }
      if (bytes < CHUNK_BYTES && !copy.isDone) {
        await copy.pause(1);
        turned = performance.now();
      } else if (now - turned > STRETCH_MS) {
        await nextTurn();
        signal.throwIfAborted();
        turned = performance.now();
      }
    }
    // A full disk ends it early, too: that comes first.
    await copy.end;
    if (position !== source.stats.size) throw changedSource(source, position);
  } finally {
    giveBuffer(buffer);
  }
}

// ---------- buffers ----------

const idleBuffers: Buffer[] = [];
const IDLE_BUFFERS = 4;

function takeBuffer(): Buffer {
  return idleBuffers.pop() ?? Buffer.allocUnsafeSlow(CHUNK_BYTES);
}

function giveBuffer(buffer: Buffer): void {
  if (idleBuffers.length < IDLE_BUFFERS) idleBuffers.push(buffer);
}

/** As soon as no thread works on it. */
function giveBufferAfter(work: Promise<unknown>, buffer: Buffer): void {
  const give = (): void => giveBuffer(buffer);
  work.then(give, give);
}

/** Copies through two buffers: while one is digested and written, the other is filled. Nothing of it holds the event loop. */
async function copyThroughBuffers(source: SourceFile, target: OpenFile, check: ContentCheck, options: CopyOptions): Promise<void> {
  let filling = takeBuffer();
  let emptying = takeBuffer();
  let reading = hold(fill(source.fd, filling, 0), source);
  let writing: Promise<void> = Promise.resolve();
  try {
    for (let position = 0; ; ) {
      const bytes = await untilAbort(reading, options.hooks.signal, options.onAbandoned);
      if (bytes === 0) break;
      if (position + bytes > source.stats.size) throw changedSource(source, position + bytes);
      [filling, emptying] = [emptying, filling];
      const piece = emptying.subarray(0, bytes);
      await options.hooks.throttle?.(bytes);
      reading = hold(fill(source.fd, filling, position + bytes), source);
      writing = hold(writeAt(target.fd, piece, position), target);
      if (check.readsBytes) check.update(piece);
      await untilAbort(writing, options.hooks.signal, options.onAbandoned);
      position += bytes;
      options.hooks.progress(bytes);
    }
  } finally {
    giveBufferAfter(reading, filling);
    giveBufferAfter(writing, emptying);
  }
}

async function fill(fd: number, buffer: Buffer, position: number): Promise<number> {
  const { bytesRead } = await readAsync(fd, buffer, 0, CHUNK_BYTES, position);
  return bytesRead;
}

/** Writes all of `bytes` at `position`. */
export async function writeAt(fd: number, bytes: Uint8Array, position: number): Promise<void> {
  let written = 0;
  while (written < bytes.length) {
    const { bytesWritten } = await writeAsync(fd, bytes, written, bytes.length - written, position + written);
    written += bytesWritten;
  }
}
