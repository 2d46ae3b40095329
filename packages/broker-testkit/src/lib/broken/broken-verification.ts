import { writeFile } from "node:fs/promises";
import { type BatchResult, type Broker, type FileReader, type StoredFile, type TransferDetails, wrapBroker } from "@stowage/core/broker";
import { corruptingBroker, truncatingBroker } from "../faults/lying-broker.ts";
import { withoutBatches } from "../without-batches.ts";
import type { BrokenBroker } from "./broken-broker.ts";

/** Faults in what is checked, counted and reported. */
export const brokenVerification: readonly BrokenBroker[] = [
  {
    name: 'says "digest" when it checked nothing',
    base: "anything",
    caughtBy: ["B137", "B139", "C37a", "C44a"],
    break: (broker) => {
      const unchecked = (file: StoredFile): StoredFile => ({ ...file, digest: undefined });
      const claim = (details: TransferDetails, file: StoredFile): TransferDetails => ({
        ...details,
        verified: "digest",
        digest: file.digest ?? { algorithm: "sha256", value: "00".repeat(32) },
      });
      return wrapBroker(withoutBatches(broker), {
        methods: {
          uploadFile: async (next, upload, context) =>
            claim(await next({ ...upload, file: unchecked(upload.file) }, { ...context, checksum: "none" }), upload.file),
          downloadFile: async (next, download, context) =>
            claim(await next({ ...download, file: unchecked(download.file) }, { ...context, checksum: "none" }), download.file),
        },
      });
    },
  },
  {
    name: "gives a file with one byte changed",
    base: "anything",
    caughtBy: ["C37", "B15", "C45"],
    break: (broker) => corruptingBroker(withoutBatches(broker), 7),
  },
  {
    name: "gives a file without its last byte, as a success",
    base: "anything",
    caughtBy: ["C37", "C161"],
    break: (broker) => truncatingBroker(withoutBatches(broker)),
  },
  {
    name: "is off by one at the end of a range",
    base: "anything",
    caughtBy: ["C45"],
    break: (broker) =>
      wrapBroker(broker, {
        methods: {
          openRead: (next, file, { range }, context) =>
            next(file, { range: range?.end === undefined ? range : { start: range.start, end: range.end + 1 } }, context),
        },
      }),
  },
  {
    name: "forgets an outcome of a batch",
    base: "anything",
    caughtBy: ["I195", "I196", "I197", "E68b"],
    break: (broker) => mapBatches(broker, (result) => (result.index === 5 ? [] : [result])),
  },
  {
    name: "answers an item of a batch twice",
    base: "anything",
    caughtBy: ["I195", "I196", "I197", "E68b"],
    break: (broker) => mapBatches(broker, (result) => (result.index === 5 ? [result, result] : [result])),
  },
  {
    name: "reports a failed item of a batch as done",
    base: "anything",
    caughtBy: ["I195"],
    break: (broker) =>
      wrapBroker(broker, {
        methods: {
          async *uploadFiles(next, uploads, context) {
            for await (const result of next(uploads, context)) {
              const file = uploads[result.index]?.file;
              if (result.ok || file === undefined) yield result;
              else yield { index: result.index, ok: true, value: { file, method: "stream", bytes: 0, verified: "none" } };
            }
          },
        },
      }),
  },
  {
    name: "counts its progress twice",
    base: "anything",
    caughtBy: ["B141", "C158"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        promise: (call, next) =>
          next({
            ...call.context,
            progress: (bytes) => {
              call.context.progress(bytes);
              call.context.progress(bytes);
            },
          }),
      }),
  },
  {
    name: "reports another path than it stored under",
    base: "anything",
    caughtBy: ["B15", "B28"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          uploadFile: async (next, upload, context) => {
            const details = await next(upload, context);
            return { ...details, file: { ...details.file, path: `${details.file.path}.bin` as StoredFile["path"] } };
          },
        },
      }),
  },
  {
    name: "gives the caller its own bytes to write into",
    base: "anything",
    caughtBy: ["C163"],
    break: (broker) => {
      // A cache that hands out what it keeps.
      const kept = new Map<string, Uint8Array[]>();
      return wrapBroker(withoutBatches(broker), {
        methods: {
          async openRead(next, file, options, context) {
            const reader = await next(file, options, context);
            if (options.range !== undefined) return reader;
            const chunks = kept.get(file.path) ?? (await Array.fromAsync(reader));
            kept.set(file.path, chunks);
            return replay(reader, chunks);
          },
          async downloadFile(next, download, context) {
            const details = await next(download, context);
            const chunks = kept.get(download.file.path);
            if (chunks !== undefined) {
              await writeFile(download.localPath, Buffer.concat(chunks));
            }
            return details;
          },
        },
      });
    },
  },
];

function replay(reader: FileReader, chunks: readonly Uint8Array[]): FileReader {
  return {
    file: reader.file,
    size: reader.size,
    modified: reader.modified,
    async *[Symbol.asyncIterator]() {
      yield* chunks;
    },
    close: () => reader.close(),
  };
}

function mapBatches(broker: Broker, map: <T>(result: BatchResult<T>) => BatchResult<T>[]): Broker {
  return wrapBroker(broker, {
    async *batch(call, next) {
      for await (const result of next(call.items, call.context)) yield* map(result);
    },
  });
}
