import type { Broker, FileReader, FileWriter, OperationContext } from "./broker.ts";
import { BROKER_METHODS } from "./broker-methods.ts";
import type { Limits } from "./limits.ts";
import { wrapBroker } from "./wrap-broker.ts";

/**
 * Bounds what `broker` does at once: files on the move (a batch counts as one, an open reader or writer until it ends), buffers,
 * bytes per second. Comes on top of the limits of whoever calls, which therefore must not be the same object: a call that holds
 * memory of a budget and waits for more of it could wait for itself.
 */
export function withLimits(broker: Broker, limits: Limits): Broker {
  return wrapBroker(broker, {
    async promise(call, next) {
      if (!BROKER_METHODS[call.method].moves) return next(limitContext(call.context, limits));
      const place = await limits.acquireFile(call.context.signal);
      try {
        return await next(limitContext(call.context, limits));
      } finally {
        place[Symbol.dispose]();
      }
    },
    async *stream(call, next) {
      yield* next(limitContext(call.context, limits));
    },
    async *batch(call, next) {
      const place = await limits.acquireFile(call.context.signal);
      try {
        yield* next(call.items, limitContext(call.context, limits));
      } finally {
        place[Symbol.dispose]();
      }
    },
    methods: {
      async openRead(next, file, options, context) {
        const place = await limits.acquireFile(context.signal);
        try {
          return holdWhileReading(await next(file, options, limitContext(context, limits)), place);
        } catch (error) {
          place[Symbol.dispose]();
          throw error;
        }
      },
      async openWrite(next, file, options, context) {
        const place = await limits.acquireFile(context.signal);
        try {
          return holdWhileWriting(await next(file, options, limitContext(context, limits)), place);
        } catch (error) {
          place[Symbol.dispose]();
          throw error;
        }
      },
    },
  });
}

function limitContext(context: OperationContext, limits: Limits): OperationContext {
  return {
    ...context,
    async reserve(bytes) {
      const outer = await context.reserve(bytes);
      try {
        const inner = await limits.reserve(bytes, context.signal);
        return {
          [Symbol.dispose]() {
            inner[Symbol.dispose]();
            outer[Symbol.dispose]();
          },
        };
      } catch (error) {
        outer[Symbol.dispose]();
        throw error;
      }
    },
    async throttle(bytes) {
      await context.throttle(bytes);
      await limits.throttle(bytes, context.signal);
    },
  };
}

function holdWhileReading(reader: FileReader, place: Disposable): FileReader {
  return {
    file: reader.file,
    size: reader.size,
    modified: reader.modified,
    localPath: reader.localPath,
    [Symbol.asyncIterator]: () => reader[Symbol.asyncIterator](),
    async close() {
      try {
        await reader.close();
      } finally {
        place[Symbol.dispose]();
      }
    },
  };
}

function holdWhileWriting(writer: FileWriter, place: Disposable): FileWriter {
  return {
    write: (chunk) => writer.write(chunk),
    async commit() {
      try {
        return await writer.commit();
      } finally {
        place[Symbol.dispose]();
      }
    },
    async abort(reason) {
      try {
        await writer.abort(reason);
      } finally {
        place[Symbol.dispose]();
      }
    },
  };
}
