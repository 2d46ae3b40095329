import type { BatchResult, Broker, OperationContext } from "./broker.ts";
import {
  type BatchMethodName,
  BROKER_METHODS,
  type BrokerMember,
  type BrokerMethod,
  type BrokerMethodName,
  type PromiseMethodName,
  type StreamMethodName,
} from "./broker-methods.ts";

/** One call of a method of a wrapped broker. */
export interface BrokerCall<Name extends BrokerMethodName> {
  readonly method: Name;
  /** All arguments, the context included. */
  readonly parameters: readonly unknown[];
  readonly context: OperationContext;
}

/** What to do around the methods of a broker. What is left out passes straight through. */
export interface BrokerAround {
  /** Around every method that gives a promise, but `close`. `next` may be called again, and with another context. */
  promise?<T>(call: BrokerCall<PromiseMethodName>, next: (context: OperationContext) => Promise<T>): Promise<T>;
  /** Around listings and sweeps. */
  stream?<T>(call: BrokerCall<StreamMethodName>, next: (context: OperationContext) => AsyncIterable<T>): AsyncIterable<T>;
  /** Around every batch. `next` may be called again, with other items too; an index is a place in the array that it was given. */
  batch?<Item, T>(
    call: BrokerCall<BatchMethodName> & { readonly items: readonly Item[] },
    next: (items: readonly Item[], context: OperationContext) => AsyncIterable<BatchResult<T>>,
  ): AsyncIterable<BatchResult<T>>;
  /** Instead of the above, for one method. */
  readonly methods?: {
    readonly [Name in BrokerMethodName]?:
      | ((next: BrokerMethod<Name>, ...parameters: Parameters<BrokerMethod<Name>>) => ReturnType<BrokerMethod<Name>>)
      | undefined;
  };
}

type AnyMethod = (...parameters: unknown[]) => unknown;

/** A broker that does what `broker` does, with `around` around it. It has exactly the optional methods that `broker` has. */
export function wrapBroker(broker: Broker, around: BrokerAround): Broker {
  const inner = broker as unknown as Readonly<Record<string, unknown>>;
  const wrapped: Record<string, unknown> = {};
  for (const [name, member] of Object.entries(BROKER_METHODS) as [keyof Broker, BrokerMember][]) {
    if (name === "capabilities") {
      wrapped[name] = broker.capabilities;
      continue;
    }
    if (inner[name] === undefined) continue;
    // Looked up at each call, as `broker.method()` would be: brokers may be instances of classes, or replace a method.
    const next: AnyMethod = (...parameters) => (inner[name] as AnyMethod).apply(broker, parameters);
    wrapped[name] = surround(name, member, next, around);
  }
  // The table is complete by its type, and each method has the shape that the table says.
  return wrapped as unknown as Broker;
}

function surround(name: BrokerMethodName, member: BrokerMember, next: AnyMethod, around: BrokerAround): AnyMethod {
  const own = around.methods?.[name] as AnyMethod | undefined;
  if (own !== undefined) return (...parameters) => own(next, ...parameters);
  const { promise, stream, batch } = around;
  const withContext = (parameters: readonly unknown[], context: OperationContext): unknown[] => [...parameters.slice(0, -1), context];
  switch (member.shape) {
    case "promise":
      if (promise === undefined) return next;
      return (...parameters) =>
        promise({ method: name as PromiseMethodName, parameters, context: contextOf(parameters) }, async (context) =>
          next(...withContext(parameters, context)),
        );
    case "stream":
      if (stream === undefined) return next;
      return (...parameters) =>
        stream(
          { method: name as StreamMethodName, parameters, context: contextOf(parameters) },
          (context) => next(...withContext(parameters, context)) as AsyncIterable<unknown>,
        );
    case "batch":
      if (batch === undefined) return next;
      return (...parameters) =>
        batch(
          { method: name as BatchMethodName, parameters, context: contextOf(parameters), items: parameters[0] as readonly unknown[] },
          (items, context) => next(items, context) as AsyncIterable<BatchResult<unknown>>,
        );
    default:
      return next;
  }
}

function contextOf(parameters: readonly unknown[]): OperationContext {
  return parameters.at(-1) as OperationContext;
}
