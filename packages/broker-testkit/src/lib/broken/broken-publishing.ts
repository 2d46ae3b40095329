import { mkdtemp, open, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Broker, type FileWriter, type OperationContext, type StoredFile, sleep, wrapBroker } from "@stowage/core/broker";
import { withoutBatches } from "../without-batches.ts";
import type { BrokenBroker } from "./broken-broker.ts";

/** Faults in how files come into being, are replaced and are moved. */
export const brokenPublishing: readonly BrokenBroker[] = [
  {
    name: "replaces in two steps, with nothing in between",
    base: "anything",
    caughtBy: ["B20", "J202"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async uploadFile(next, upload, context) {
            if (context.ifExists === "replace") await broker.deleteFile(upload.file, context);
            await sleep(2);
            return next(upload, context);
          },
        },
      }),
  },
  {
    name: "shows the first half of a file before the whole",
    base: "anything",
    caughtBy: ["B20"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async uploadFile(next, upload, context) {
            await withFirstHalf(upload.localPath, async (localPath) => {
              await next({ file: { path: upload.file.path }, localPath }, { ...context, ifExists: "replace", progress: () => undefined });
            });
            await sleep(2);
            return next(upload, context);
          },
        },
      }),
  },
  {
    name: "takes a short source for the whole",
    base: "anything",
    caughtBy: ["B22", "C41a"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          uploadFile: (next, upload, context) => next({ ...upload, file: withoutSize(upload.file) }, context),
          downloadFile: (next, download, context) => next({ ...download, file: withoutSize(download.file) }, context),
        },
      }),
  },
  {
    name: "overwrites where it should refuse",
    base: "anything",
    caughtBy: ["B31", "B33", "D54"],
    break: (broker) => withContext(withoutBatches(broker), (context) => ({ ...context, ifExists: "replace" })),
  },
  {
    name: "looks whether a file exists, and stores it a moment later",
    base: "anything",
    caughtBy: ["B33"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async uploadFile(next, upload, context) {
            if (context.ifExists === "replace") return next(upload, context);
            // The refusal, where there is one, is the good broker's own.
            if ((await broker.statFile(upload.file, context)) !== undefined) return next(upload, context);
            await sleep(1);
            return next(upload, { ...context, ifExists: "replace" });
          },
        },
      }),
  },
  {
    name: "uses one temporary name for everything",
    base: "directory",
    caughtBy: ["J130"],
    break: (broker) => withContext(withoutBatches(broker), (context) => ({ ...context, temporaryId: "temporary" })),
  },
  {
    name: "leaves its temporary file when an upload fails",
    base: "directory",
    caughtBy: ["B26", "B27", "B151"],
    break: (broker, place) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async uploadFile(next, upload, context) {
            try {
              return await next(upload, context);
            } catch (error) {
              await writeFile(join(place.directory ?? "", `.stowage-${context.temporaryId}`), "half a file");
              throw error;
            }
          },
        },
      }),
  },
  {
    name: "leaves half a download at the local path when it fails",
    base: "anything",
    caughtBy: ["C41a", "C44a", "C166"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async downloadFile(next, download, context) {
            try {
              return await next(download, context);
            } catch (error) {
              await writeFile(download.localPath, "half a file").catch(() => undefined);
              throw error;
            }
          },
        },
      }),
  },
  {
    name: "moves by way of nowhere: the file is at neither path for a moment",
    base: "anything",
    caughtBy: ["D61"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async moveFile(_next, move, context) {
            const directory = await mkdtemp(join(tmpdir(), "stowage-broken-"));
            try {
              const localPath = join(directory, "moving");
              await broker.downloadFile({ file: move.file, localPath }, { ...context, ifExists: "replace" });
              await broker.deleteFile(move.file, context);
              await sleep(3);
              return await broker.uploadFile({ file: { path: move.newPath }, localPath }, context);
            } finally {
              await rm(directory, { recursive: true, force: true });
            }
          },
        },
      }),
  },
  {
    name: "does not look whether its source changes",
    base: "anything",
    caughtBy: ["B23b"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async uploadFile(next, upload, context) {
            if (upload.file.size !== undefined || upload.file.digest !== undefined) return next(upload, context);
            const source = await open(upload.localPath);
            try {
              const writer = await broker.openWrite?.(upload.file, {}, context);
              if (writer === undefined) return await next(upload, context);
              for await (const chunk of source.createReadStream({ autoClose: false })) await writer.write(chunk as Uint8Array);
              return await writer.commit();
            } finally {
              await source.close();
            }
          },
        },
      }),
  },
  {
    name: "forgets the media type and the metadata",
    base: "anything",
    caughtBy: ["B29", "B30", "D59"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          uploadFile: (next, upload, context) =>
            next({ ...upload, file: { ...upload.file, mediaType: undefined, metadata: undefined } }, context),
        },
      }),
  },
  {
    name: "loses a byte where a part is full",
    base: "anything",
    caughtBy: ["B17"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async downloadFile(next, download, context) {
            const details = await next(download, context);
            if (details.bytes > 0 && details.bytes % 65_536 === 0) await truncate(download.localPath, details.bytes - 1);
            return details;
          },
        },
      }),
  },
  {
    name: "keeps the caller's buffer until the commit",
    base: "anything",
    caughtBy: ["B144"],
    break: (broker) =>
      mapWriter(broker, (writer) => {
        const chunks: Uint8Array[] = [];
        return {
          ...writer,
          async write(chunk) {
            chunks.push(chunk);
          },
          async commit() {
            for (const chunk of chunks) await writer.write(chunk);
            return writer.commit();
          },
        };
      }),
  },
  {
    name: "publishes at the first write",
    base: "anything",
    caughtBy: ["B144", "B145"],
    break: (broker) =>
      wrapBroker(broker, {
        methods: {
          async openWrite(next, file, options, context) {
            const early = await next(file, {}, context);
            await early.commit();
            return next(file, options, { ...context, ifExists: "replace", temporaryId: `${context.temporaryId}b` });
          },
        },
      }),
  },
  {
    name: "sweeps away what was stored",
    base: "anything",
    caughtBy: ["H193"],
    break: (broker) =>
      wrapBroker(broker, {
        methods: {
          async *sweep(next, options, context) {
            yield* next(options, context);
            for await (const { file } of broker.listFiles("", { recursive: true, onProblem: () => undefined }, context)) {
              await broker.deleteFile(file, context);
              yield file.path;
            }
          },
        },
      }),
  },
];

/** Gives every call of a broker a context of another making. */
export function withContext(broker: Broker, change: (context: OperationContext) => OperationContext): Broker {
  return wrapBroker(broker, {
    promise: (call, next) => next(change(call.context)),
    stream: (call, next) => next(change(call.context)),
    batch: (call, next) => next(call.items, change(call.context)),
  });
}

function mapWriter(broker: Broker, map: (writer: FileWriter) => FileWriter): Broker {
  return wrapBroker(broker, {
    methods: {
      openWrite: async (next, file, options, context) => map(await next(file, options, context)),
    },
  });
}

function withoutSize(file: StoredFile): StoredFile {
  const { size: _size, ...rest } = file;
  return rest;
}

async function withFirstHalf(localPath: string, use: (localPath: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), "stowage-broken-"));
  try {
    const source = await open(localPath);
    const half = join(directory, "half");
    try {
      const bytes = await source.readFile();
      await writeFile(half, bytes);
      await truncate(half, Math.floor(bytes.length / 2));
    } finally {
      await source.close();
    }
    await use(half);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
