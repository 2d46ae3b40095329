import type { Broker } from "./broker.ts";
import { BROKER_METHODS, type BrokerMethodName } from "./broker-methods.ts";
import { StowageError } from "./stowage-error.ts";
import { wrapBroker } from "./wrap-broker.ts";

/** Refuses whatever would change what `broker` holds, with `READ_ONLY`, before the backend hears of it. */
export function withReadOnly(broker: Broker): Broker {
  const refuseChanges = (method: BrokerMethodName): void => {
    if (BROKER_METHODS[method].changes) {
      throw new StowageError(`${method} is refused: this broker is read-only`, { code: "READ_ONLY" });
    }
  };
  return wrapBroker(broker, {
    async promise(call, next) {
      refuseChanges(call.method);
      return next(call.context);
    },
    async *stream(call, next) {
      refuseChanges(call.method);
      yield* next(call.context);
    },
    async *batch(call, next) {
      refuseChanges(call.method);
      yield* next(call.items, call.context);
    },
    methods: {
      async createSignedUrl(next, file, options, context) {
        if (options.method !== "GET") {
          throw new StowageError("a URL to write with is refused: this broker is read-only", { code: "READ_ONLY", file: file.path });
        }
        return next(file, options, context);
      },
    },
  });
}
