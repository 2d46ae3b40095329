import { readFile, truncate, writeFile } from "node:fs/promises";
import { type BatchResult, type Broker, type FileDetails, type FileReader, wrapBroker } from "@stowage/core/broker";

/** Cuts `bytes` off the end of what is downloaded or read, and says nothing of it. */
export function truncatingBroker(broker: Broker, bytes = 1): Broker {
  return wrapBroker(broker, {
    methods: {
      async downloadFile(next, download, context) {
        const details = await next(download, context);
        await truncate(download.localPath, Math.max(0, details.bytes - bytes));
        return details;
      },
      async openRead(next, file, options, context) {
        return cutReader(await next(file, options, context), bytes);
      },
    },
  });
}

/** Gives one byte of what is downloaded or read another value, and says nothing of it. */
export function corruptingBroker(broker: Broker, offset = 0): Broker {
  return wrapBroker(broker, {
    methods: {
      async downloadFile(next, download, context) {
        const details = await next(download, context);
        const content = await readFile(download.localPath);
        if (content.length > offset) {
          content[offset] = (content[offset] ?? 0) ^ 0x01;
          await writeFile(download.localPath, content);
        }
        return details;
      },
      async openRead(next, file, options, context) {
        return mapReader(await next(file, options, context), (chunk, position) => {
          const index = offset - position;
          if (index < 0 || index >= chunk.length) return chunk;
          const changed = Uint8Array.from(chunk);
          changed[index] = (changed[index] ?? 0) ^ 0x01;
          return changed;
        });
      },
    },
  });
}

/** Gives the entries of every listing in reverse, in groups of `window`, and the results of every batch as well. */
export function reorderingBroker(broker: Broker, window = 16): Broker {
  return wrapBroker(broker, {
    async *stream(call, next) {
      yield* reverseInGroups(next(call.context), window);
    },
    async *batch<Item, T>(
      call: { readonly items: readonly Item[]; readonly context: Parameters<Broker["statFile"]>[1] },
      next: (items: readonly Item[], context: Parameters<Broker["statFile"]>[1]) => AsyncIterable<BatchResult<T>>,
    ) {
      yield* reverseInGroups(next(call.items, call.context), window);
    },
  });
}

/** Gives every `every`th entry of a listing twice. */
export function duplicatingBroker(broker: Broker, every = 3): Broker {
  return wrapBroker(broker, {
    methods: {
      async *listFiles(next, directory, options, context) {
        let count = 0;
        for await (const entry of next(directory, options, context)) {
          yield entry;
          if (++count % every === 0) yield entry;
        }
      },
    },
  });
}

/** Leaves out of every listing the entries for which `leaveOut` says so. */
export function omittingBroker(broker: Broker, leaveOut: (entry: FileDetails, index: number) => boolean): Broker {
  return wrapBroker(broker, {
    methods: {
      async *listFiles(next, directory, options, context) {
        let index = 0;
        for await (const entry of next(directory, options, context)) {
          if (!leaveOut(entry, index++)) yield entry;
        }
      },
    },
  });
}

async function* reverseInGroups<T>(values: AsyncIterable<T>, window: number): AsyncGenerator<T> {
  let group: T[] = [];
  for await (const value of values) {
    group.push(value);
    if (group.length < window) continue;
    yield* group.reverse();
    group = [];
  }
  yield* group.reverse();
}

function cutReader(reader: FileReader, bytes: number): FileReader {
  const allowed = Math.max(0, reader.size - bytes);
  return mapReader(reader, (chunk, position) => chunk.subarray(0, Math.max(0, allowed - position)));
}

function mapReader(reader: FileReader, map: (chunk: Uint8Array, position: number) => Uint8Array): FileReader {
  return {
    file: reader.file,
    size: reader.size,
    modified: reader.modified,
    // Without `localPath`: whoever copies by it would not see what this reader gives.
    async *[Symbol.asyncIterator]() {
      let position = 0;
      for await (const chunk of reader) {
        const mapped = map(chunk, position);
        position += chunk.length;
        if (mapped.length > 0) yield mapped;
      }
    },
    close: () => reader.close(),
  };
}
