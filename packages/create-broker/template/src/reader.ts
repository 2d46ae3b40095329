import { type ByteRange, type FileReader, type OperationContext, type StoredFile, StowageError } from "@stowage/core/broker";
import { type OpenEntry, toStoredFile } from "./entry.ts";
import { createCheck } from "./transfer.ts";

const CHUNK_BYTES = 256 * 1024;

/** Takes over the open entry. A range that begins beyond the end gives no bytes; one that ends beyond it is cut. */
export function openFlatReader(
  { handle, entry }: OpenEntry,
  file: StoredFile,
  range: ByteRange | undefined,
  context: OperationContext,
): FileReader {
  const start = Math.min(range?.start ?? 0, entry.size);
  const end = Math.min(Math.max(start, range?.end ?? entry.size), entry.size);
  const isWhole = start === 0 && end === entry.size;
  const check = createCheck(isWhole ? file : { path: file.path }, isWhole ? [entry.digest.algorithm] : []);
  let closing: Promise<void> | undefined;
  return {
    file: toStoredFile(entry),
    size: end - start,
    modified: new Date(entry.modified),
    async *[Symbol.asyncIterator]() {
      for (let position = start; position < end; ) {
        context.signal.throwIfAborted();
        const wanted = Math.min(CHUNK_BYTES, end - position);
        await context.throttle(wanted);
        // New for each chunk: a consumer may keep or change what it was given.
        const { buffer, bytesRead } = await handle.read(Buffer.allocUnsafe(wanted), 0, wanted, position);
        if (bytesRead === 0) {
          throw new StowageError(`the file ended after ${position} of ${end} bytes`, { code: "SHORT_SOURCE", file: file.path });
        }
        position += bytesRead;
        check.update(buffer.subarray(0, bytesRead));
        context.progress(bytesRead);
        yield buffer.subarray(0, bytesRead);
      }
      if (isWhole) check.end(entry.digest);
    },
    close() {
      closing ??= handle.close();
      return closing;
    },
  };
}
