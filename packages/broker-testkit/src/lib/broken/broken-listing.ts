import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { type Broker, type FilePath, type StoredFile, wrapBroker } from "@stowage/core/broker";
import { duplicatingBroker, omittingBroker, reorderingBroker } from "../faults/lying-broker.ts";
import { withoutBatches } from "../without-batches.ts";
import type { BrokenBroker } from "./broken-broker.ts";

/** Faults in listings, names and what is told of files. */
export const brokenListing: readonly BrokenBroker[] = [
  {
    name: "leaves files without bytes out of listings",
    base: "anything",
    caughtBy: ["F74", "B16"],
    break: (broker) => omittingBroker(broker, ({ size }) => size === 0),
  },
  {
    name: "loses the file at the boundary of a page",
    base: "anything",
    caughtBy: ["F75-1001"],
    break: (broker) => omittingBroker(broker, (_entry, index) => index === 1000),
  },
  {
    name: "lists a file twice",
    base: "anything",
    caughtBy: ["F75-33", "F73"],
    break: (broker) => duplicatingBroker(broker, 4),
  },
  {
    name: "lists in an order of the moment",
    base: "anything",
    caughtBy: ["F86"],
    break: (broker) => reorderingBroker(broker, 10),
  },
  {
    name: "lists what only begins with the directory's name",
    base: "anything",
    caughtBy: ["F77"],
    break: (broker) =>
      wrapBroker(broker, {
        methods: {
          async *listFiles(next, directory, options, context) {
            if (directory === "") return yield* next(directory, options, context);
            for await (const entry of next("", { ...options, recursive: true }, context)) {
              if (entry.file.path.startsWith(directory)) yield entry;
            }
          },
        },
      }),
  },
  {
    name: "lists temporary files",
    base: "directory",
    caughtBy: ["F82a"],
    break: (broker, place) =>
      wrapBroker(broker, {
        methods: {
          async *listFiles(next, directory, options, context) {
            yield* next(directory, options, context);
            const folder = join(place.directory ?? "", directory);
            const names = await readdir(folder).catch(() => []);
            for (const name of names.filter((found) => found.startsWith(".stowage-"))) {
              const path = (directory === "" ? name : `${directory}/${name}`) as FilePath;
              yield { file: { path }, size: (await stat(join(folder, name))).size };
            }
          },
        },
      }),
  },
  {
    name: "tells another size in a listing than in stat",
    base: "anything",
    caughtBy: ["F85"],
    break: (broker) =>
      wrapBroker(broker, {
        methods: {
          async *listFiles(next, directory, options, context) {
            for await (const entry of next(directory, options, context)) {
              yield { ...entry, file: { ...entry.file, size: entry.size + 1 }, size: entry.size + 1 };
            }
          },
        },
      }),
  },
  {
    name: "tells a digest of other bytes",
    base: "anything",
    caughtBy: ["F182"],
    break: (broker) =>
      wrapBroker(broker, {
        methods: {
          async statFile(next, file, context) {
            const details = await next(file, context);
            return details && { ...details, file: { ...details.file, digest: { algorithm: "crc32", value: "00000000" } } };
          },
        },
      }),
  },
  {
    name: "normalises names",
    base: "anything",
    caughtBy: ["G92"],
    break: (broker) => {
      const normal = <File extends StoredFile>(file: File): File => ({ ...file, path: file.path.normalize("NFC") as FilePath });
      return wrapBroker(withoutBatches(broker), {
        methods: {
          uploadFile: (next, upload, context) => next({ ...upload, file: normal(upload.file) }, context),
          downloadFile: (next, download, context) => next({ ...download, file: normal(download.file) }, context),
          statFile: (next, file, context) => next(normal(file), context),
        },
      });
    },
  },
  {
    name: "deletes everything below the name",
    base: "anything",
    caughtBy: ["E67a"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async deleteFile(next, file, context) {
            const below: StoredFile[] = [];
            for await (const entry of listBelow(broker, file, context)) below.push(entry.file);
            for (const entry of below) await next(entry, context);
            return next(file, context);
          },
        },
      }),
  },
  {
    name: "says that it deleted what was not there",
    base: "anything",
    caughtBy: ["E63a"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async deleteFile(next, file, context) {
            await next(file, context);
            return "deleted";
          },
        },
      }),
  },
];

function listBelow(broker: Broker, file: StoredFile, context: Parameters<Broker["statFile"]>[1]): ReturnType<Broker["listFiles"]> {
  return broker.listFiles(file.path, { recursive: true, onProblem: () => undefined }, context);
}
