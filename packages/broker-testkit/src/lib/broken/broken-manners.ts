import { openSync } from "node:fs";
import { type Broker, type BrokerDefinition, type ErrorFacts, StowageError, sleep, wrapBroker } from "@stowage/core/broker";
import * as z from "zod";
import { withoutBatches } from "../without-batches.ts";
import type { BrokenBroker } from "./broken-broker.ts";
import { withContext } from "./broken-publishing.ts";

/** Faults in how a broker behaves towards whoever holds it: signals, limits, errors, configuration. */
export const brokenManners: readonly BrokenBroker[] = [
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
    name: "ignores that it is called off",
    base: "anything",
    caughtBy: ["H101a", "H102", "H102a"],
    break: (broker) => withContext(broker, (context) => ({ ...context, signal: new AbortController().signal })),
  },
  {
    name: "takes three seconds to notice that it is called off",
    base: "anything",
    caughtBy: ["H102"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        async promise(call, next) {
          try {
            return await next(call.context);
          } catch (error) {
            if (call.context.signal.aborted) await sleep(3_000);
            throw error;
          }
        },
      }),
  },
  {
    name: "leaks a handle with every download",
    base: "anything",
    caughtBy: ["H113"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          downloadFile: (next, download, context) => {
            openSync("/dev/null", "r");
            return next(download, context);
          },
        },
      }),
  },
  {
    name: "leaks a handle when a listing is left early",
    base: "anything",
    caughtBy: ["F80"],
    break: (broker) =>
      wrapBroker(broker, {
        methods: {
          async *listFiles(next, directory, options, context) {
            openSync("/dev/null", "r");
            yield* next(directory, options, context);
          },
        },
      }),
  },
  {
    name: "asks no bandwidth limit",
    base: "anything",
    caughtBy: ["H112", "H112a"],
    break: (broker) => withContext(broker, (context) => ({ ...context, throttle: async () => undefined })),
  },
  {
    name: "keeps the memory that it has reserved",
    base: "anything",
    caughtBy: ["B18"],
    break: (broker) =>
      withContext(withoutBatches(broker), (context) => ({
        ...context,
        async reserve(bytes) {
          await context.reserve(Math.min(bytes, 1));
          return { [Symbol.dispose]: () => undefined };
        },
      })),
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
  {
    name: "tells its secret in an error",
    base: "secrets",
    caughtBy: ["A9"],
    breakDefinition: (definition) => ({
      ...definition,
      open: async (config, context) => {
        const broker = await definition.open(config, context);
        return wrapBroker(withoutBatches(broker), {
          async promise(call, next) {
            try {
              return await next(call.context);
            } catch (error) {
              const code = codeOf(broker, error);
              throw new StowageError(`the request failed; it was made with ${JSON.stringify(config)}`, { code, cause: error });
            }
          },
        });
      },
    }),
  },
  {
    name: "writes its secret into the log",
    base: "secrets",
    caughtBy: ["A9"],
    breakDefinition: (definition) => ({
      ...definition,
      open: async (config, context) =>
        wrapBroker(withoutBatches(await definition.open(config, context)), {
          promise(call, next) {
            call.context.log("debug", "a request", { config });
            return next(call.context);
          },
        }),
    }),
  },
  {
    name: "changes the configuration that it is given",
    base: "anything",
    caughtBy: ["A132"],
    breakDefinition: (definition) => ({
      ...definition,
      open: async (config, context) => {
        Object.assign(config as object, { openedAt: Date.now() });
        return definition.open(config, context);
      },
    }),
  },
  {
    name: "takes any key in its configuration",
    base: "anything",
    caughtBy: ["A6", "A10"],
    breakDefinition: (definition) => ({
      ...definition,
      config: z.looseObject({}).transform((value) => definition.config.parse(pick(value, definition))),
    }),
  },
  {
    name: "shares its files with every other place",
    base: "anything",
    caughtBy: ["A1"],
    breakDefinition: (definition) => {
      let only: Promise<Broker> | undefined;
      return {
        ...definition,
        // Whoever comes first opens for all, and nobody closes.
        open: async (config, context) => {
          only ??= definition.open(config, context);
          return { ...wrapBroker(await only, {}), close: async () => undefined };
        },
      };
    },
  },
];

function codeOf(broker: Broker, error: unknown): ErrorFacts["code"] {
  if (StowageError.is(error)) return error.code;
  const facts = broker.errorCode(error);
  return typeof facts === "string" ? facts : facts.code;
}

/** What of an object the definition knows: everything else is dropped without a word. */
function pick(value: Readonly<Record<string, unknown>>, definition: Pick<BrokerDefinition<string, unknown>, "config">): unknown {
  const schema = z.toJSONSchema(definition.config, { io: "input" }) as { readonly properties?: Readonly<Record<string, unknown>> };
  const known = Object.keys(schema.properties ?? {});
  return Object.fromEntries(Object.entries(value).filter(([key]) => known.includes(key)));
}
