import { openSync } from "node:fs";
import { type Broker, type BrokerDefinition, parseFilePath, StowageError, sleep, wrapBroker } from "@stowage/core/broker";
import * as z from "zod";
import { omittingBroker } from "../faults/lying-broker.ts";
import { createTestContext } from "../test-context.ts";
import { withoutBatches } from "../without-batches.ts";
import { codeOf } from "./broken-answers.ts";
import type { BrokenBroker } from "./broken-broker.ts";
import { withContext } from "./broken-publishing.ts";

/** Faults in how a broker behaves towards whoever holds it: signals, limits, errors, configuration. */
export const brokenManners: readonly BrokenBroker[] = [
  {
    name: "ignores that it is called off",
    base: "anything",
    caughtBy: ["H101a", "H102", "H102a"],
    break: (broker) => withContext(broker, (context) => ({ ...context, signal: new AbortController().signal })),
  },
  {
    name: "takes eight seconds to notice that it is called off",
    base: "anything",
    caughtBy: ["H102"],
    break: (broker) =>
      wrapBroker(withoutBatches(broker), {
        async promise(call, next) {
          try {
            return await next(call.context);
          } catch (error) {
            if (call.context.signal.aborted) await sleep(8_000);
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
    name: "believes every configuration",
    base: "secrets",
    caughtBy: ["A5a", "A6"],
    breakDefinition: (definition) => ({ ...definition, config: z.looseObject({}).transform((value) => ({ name: "any", ...value })) }),
  },
  {
    name: "leaves a probe behind when it validates",
    base: "secrets",
    caughtBy: ["A7"],
    breakDefinition: (definition) => {
      const known = definition as unknown as BrokerDefinition<string, unknown>;
      const probing: BrokerDefinition<string, unknown> = {
        ...known,
        async validate(config, context) {
          const broker = await known.open(config, context);
          const quiet = createTestContext();
          const writer = await broker.openWrite?.({ path: parseFilePath("probe.tmp") }, {}, quiet);
          await writer?.commit();
          return (await known.validate?.(config, context)) ?? [];
        },
      };
      return probing as unknown as typeof definition;
    },
  },
  {
    name: "throws when a backend does not answer its validation",
    base: "secrets",
    caughtBy: ["A8"],
    breakDefinition: (definition) => {
      const known = definition as unknown as BrokerDefinition<string, unknown>;
      const strict: BrokerDefinition<string, unknown> = {
        ...known,
        async validate(config, context) {
          const [warning] = (await known.validate?.(config, context)) ?? [];
          if (warning !== undefined) throw new StowageError(warning.description, { code: "UNAVAILABLE" });
          return [];
        },
      };
      return strict as unknown as typeof definition;
    },
  },
  {
    name: "describes another volume each time",
    base: "secrets",
    caughtBy: ["A12", "A13"],
    breakDefinition: (definition) => {
      let count = 0;
      const moody: BrokerDefinition<string, unknown> = {
        ...(definition as unknown as BrokerDefinition<string, unknown>),
        volume: () => ({ kind: "bind", source: `/mnt/${++count}` }),
      };
      return moody as unknown as typeof definition;
    },
  },
  {
    name: "loses the last file of each page",
    base: "secrets",
    caughtBy: ["F76"],
    breakDefinition: (definition) => ({
      ...definition,
      open: async (config, context) => {
        const { pageSize } = config as { readonly pageSize?: number };
        const broker = await definition.open(config, context);
        return pageSize === undefined ? broker : omittingBroker(broker, (_entry, index) => index % (pageSize + 1) === pageSize);
      },
    }),
  },
  {
    name: "declares what the contract does not know",
    base: "anything",
    caughtBy: ["I127"],
    break: (broker) => ({ ...wrapBroker(broker, {}), capabilities: { atomicReplace: true, ifAbsent: "mostly" as "exact" } }),
  },
  {
    name: "does not say of which item its progress is",
    base: "anything",
    caughtBy: ["I204"],
    break: (broker) => withContext(broker, (context) => ({ ...context, progress: (bytes) => context.progress(bytes) })),
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

/** What of an object the definition knows: everything else is dropped without a word. */
function pick(value: Readonly<Record<string, unknown>>, definition: Pick<BrokerDefinition<string, unknown>, "config">): unknown {
  const schema = z.toJSONSchema(definition.config, { io: "input" }) as { readonly properties?: Readonly<Record<string, unknown>> };
  const known = Object.keys(schema.properties ?? {});
  return Object.fromEntries(Object.entries(value).filter(([key]) => known.includes(key)));
}
