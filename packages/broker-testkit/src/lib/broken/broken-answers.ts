import { truncate, writeFile } from "node:fs/promises";
import { type Broker, type ErrorFacts, type StowageErrorCode, wrapBroker } from "@stowage/core/broker";
import { withoutBatches } from "../without-batches.ts";
import type { BrokenBroker } from "./broken-broker.ts";

/** Faults in what a broker makes of a backend that fails. */
export const brokenAnswers: readonly BrokenBroker[] = [
  {
    name: "swallows the failure of its last retry",
    base: "faults",
    caughtBy: ["H107-upload", "H107-download"],
    break: (broker) => {
      const persistently = async <T>(attempt: () => Promise<T>, fallback: T): Promise<T> => {
        for (let tries = 0; tries < 3; tries++) {
          try {
            return await attempt();
          } catch (error) {
            if (codeOf(broker, error) !== "UNAVAILABLE") throw error;
          }
        }
        return fallback;
      };
      return wrapBroker(broker, {
        methods: {
          uploadFile: (next, upload, context) =>
            persistently(() => next(upload, context), { file: upload.file, method: "stream", bytes: 0, verified: "none" }),
          downloadFile: (next, download, context) =>
            persistently(() => next(download, context), { file: download.file, method: "stream", bytes: 0, verified: "none" }),
        },
      });
    },
  },
  {
    name: "takes no answer for nothing there",
    base: "faults",
    caughtBy: ["H105-stat", "H107-stat", "H105-list", "H107-list", "H105-delete", "H107-delete"],
    break: (broker) =>
      wrapBroker(broker, {
        methods: {
          statFile: (next, file, context) => next(file, context).catch(() => undefined),
          deleteFile: (next, file, context) => next(file, context).catch(() => "deleted" as const),
          async *listFiles(next, directory, options, context) {
            try {
              yield* next(directory, options, context);
            } catch {
              // An empty listing is so much more pleasant.
            }
          },
        },
      }),
  },
  {
    name: "gives up where another try would do",
    base: "faults",
    caughtBy: ["H105-upload", "H105-download", "H105-move", "H105-delete", "H105-stat", "H105-list", "C42", "H191"],
    break: (broker) => answering(broker, (facts) => ({ ...facts, retryable: false })),
  },
  {
    name: "calls a denied access worth another try",
    base: "faults",
    caughtBy: ["H106a"],
    break: (broker) => answering(broker, (facts) => (facts.code === "PERMISSION_DENIED" ? { ...facts, retryable: true } : facts)),
  },
  {
    name: "does not tell when to come back",
    base: "faults",
    caughtBy: ["H108"],
    break: (broker) => answering(broker, ({ code, retryable }) => ({ code, retryable })),
  },
  {
    name: "has one name for all that concerns credentials and space",
    base: "faults",
    caughtBy: ["H116", "H117", "H190"],
    break: (broker) => {
      const vague: readonly StowageErrorCode[] = ["UNAUTHENTICATED", "NO_SPACE"];
      return answering(broker, (facts) => (vague.includes(facts.code) ? { ...facts, code: "UNKNOWN" } : facts));
    },
  },
  {
    name: "reports denied deletions as done",
    base: "faults",
    caughtBy: ["E68a"],
    break: (broker) =>
      wrapBroker(broker, {
        methods: {
          deleteFile: (next, file, context) => next(file, context).catch(() => "deleted" as const),
        },
      }),
  },
  {
    name: "takes a broken connection for the end of the file",
    base: "faults",
    caughtBy: ["C42", "H191"],
    break: (broker) =>
      wrapBroker(broker, {
        methods: {
          async downloadFile(next, download, context) {
            try {
              return await next(download, context);
            } catch (error) {
              if (codeOf(broker, error) !== "UNAVAILABLE") throw error;
              await writeFile(download.localPath, "what has arrived");
              return { file: download.file, method: "stream", bytes: 16, verified: "none" };
            }
          },
          async uploadFile(next, upload, context) {
            try {
              return await next(upload, context);
            } catch (error) {
              if (codeOf(broker, error) !== "UNAVAILABLE") throw error;
              await truncate(upload.localPath, 100);
              return next({ ...upload, file: { path: upload.file.path } }, context);
            }
          },
        },
      }),
  },
  {
    name: "loses the file when the answer to a move is lost",
    base: "faults",
    caughtBy: ["H109b"],
    break: (broker) =>
      wrapBroker(broker, {
        methods: {
          async moveFile(next, move, context) {
            try {
              return await next(move, context);
            } catch (error) {
              // To be on the safe side, away with the half-made target.
              await broker.deleteFile({ path: move.newPath }, context);
              throw error;
            }
          },
        },
      }),
  },
  {
    name: "deletes the source after a copy that failed",
    base: "copying",
    caughtBy: ["D56"],
    break: (broker) =>
      wrapBroker(broker, {
        methods: {
          async moveFile(_next, move, context) {
            const details = await broker.copyFile?.(move, context).catch(() => undefined);
            await broker.deleteFile(move.file, context);
            return details ?? { file: { path: move.newPath }, method: "server-copy", bytes: 0, verified: "none" };
          },
        },
      }),
  },
  {
    name: "says that it moved what it could only copy",
    base: "copying",
    caughtBy: ["D57"],
    break: (broker) =>
      wrapBroker(broker, {
        methods: {
          async moveFile(next, move, context) {
            try {
              return await next(move, context);
            } catch (error) {
              const details = await broker.statFile({ path: move.newPath }, context);
              if (details === undefined) throw error;
              return { file: details.file, method: "server-copy", bytes: details.size, verified: "length" };
            }
          },
        },
      }),
  },
  {
    name: "calls every error unknown and worth another try",
    base: "anything",
    caughtBy: ["C38", "D52"],
    break: (broker) => {
      const facts: ErrorFacts = { code: "UNKNOWN", retryable: true };
      return wrapBroker(withoutBatches(broker), {
        async promise(call, next) {
          try {
            return await next(call.context);
          } catch (error) {
            throw call.context.signal.aborted ? error : new Error(error instanceof Error ? error.message : "it failed");
          }
        },
        methods: { errorCode: () => facts },
      });
    },
  },
  {
    name: "throws when it is asked about an error",
    base: "anything",
    caughtBy: ["A134"],
    break: (broker) =>
      wrapBroker(broker, {
        methods: { errorCode: (next, error) => ((error as { code: string }).code.startsWith("E") ? "UNKNOWN" : next(error)) },
      }),
  },
];

/** What the broker itself says of an error. */
export function codeOf(broker: Broker, error: unknown): StowageErrorCode {
  const facts = broker.errorCode(error);
  return typeof facts === "string" ? facts : facts.code;
}

function answering(broker: Broker, change: (facts: ErrorFacts) => ErrorFacts): Broker {
  return wrapBroker(broker, {
    methods: {
      errorCode(next, error) {
        const facts = next(error);
        return change(typeof facts === "string" ? { code: facts } : facts);
      },
    },
  });
}
