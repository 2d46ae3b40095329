import {
  type Broker,
  type ErrorFacts,
  type OperationContext,
  StowageError,
  type StowageErrorCode,
  sleep,
  wrapBroker,
} from "@stowage/core/broker";
import type { BackendFault, BackendFaultKind, BackendFaults, BackendOperation } from "../conformance-target.ts";

/** An error of a backend that was made to fail. The broker's `errorCode` knows it; nothing else should need to. */
export class InjectedFault extends Error {
  override readonly name = "InjectedFault";
  readonly facts: ErrorFacts;

  constructor(fault: BackendFault, facts: ErrorFacts) {
    super(`injected: ${fault.kind} in ${fault.operation}`);
    this.facts = facts;
  }
}

export interface FaultyBroker {
  readonly broker: Broker;
  readonly faults: BackendFaults;
}

export interface FaultyBrokerOptions {
  /** Moves are a copy and a deletion, each of which can be made to fail. Needs a broker with `copyFile`. Defaults to false. */
  readonly movesByCopy?: boolean | undefined;
}

const CODES: Partial<Record<BackendFaultKind, StowageErrorCode>> = {
  unavailable: "UNAVAILABLE",
  "rate-limited": "RATE_LIMITED",
  reset: "UNAVAILABLE",
  denied: "PERMISSION_DENIED",
  "no-space": "NO_SPACE",
  "lost-response": "UNAVAILABLE",
  stall: "STALLED",
  "expired-credentials": "UNAUTHENTICATED",
  "clock-skew": "UNAUTHENTICATED",
};

const OPERATIONS: Partial<Record<keyof Broker, BackendOperation>> = {
  uploadFile: "upload",
  uploadFiles: "upload",
  openWrite: "upload",
  downloadFile: "download",
  downloadFiles: "download",
  openRead: "download",
  moveFile: "move",
  moveFiles: "move",
  copyFile: "move",
  deleteFile: "delete",
  deleteFiles: "delete",
  statFile: "stat",
  listFiles: "list",
};

/**
 * A broker that does what `broker` does until it is told to fail, and then fails as the contract wants: an error that `errorCode`
 * knows, and nothing left behind. Batches are made of single calls, so that one item can fail and another not.
 */
export function createFaultyBroker(broker: Broker, options: FaultyBrokerOptions = {}): FaultyBroker {
  let active: BackendFault | undefined;
  let left = 0;
  let struck = 0;
  let cleared = Promise.withResolvers<void>();

  /** The fault that strikes this call, if any. */
  const strike = (operation: BackendOperation, step?: BackendFault["step"]): BackendFault | undefined => {
    if (active === undefined || left <= 0 || active.operation !== operation || active.step !== step) return undefined;
    left--;
    struck++;
    return active;
  };

  const run = async <T>(
    operation: BackendOperation,
    step: BackendFault["step"],
    context: OperationContext,
    next: (context: OperationContext) => Promise<T>,
  ): Promise<T> => {
    const fault = strike(operation, step);
    if (fault === undefined) return next(context);
    const failure = new InjectedFault(fault, {
      code: CODES[fault.kind] ?? "UNKNOWN",
      ...(fault.kind === "expired-credentials" || fault.kind === "clock-skew" ? { retryable: false } : {}),
      retryAfterMs: fault.retryAfterMs,
    });
    switch (fault.kind) {
      case "lost-response":
        await next(context);
        throw failure;
      case "reset":
        // Where bytes flow, in their middle.
        return next({
          ...context,
          // Without a limit there would be nobody to ask.
          bytesPerSecond: context.bytesPerSecond ?? 1e12,
          throttle: async (bytes) => {
            await context.throttle(bytes);
            throw failure;
          },
          progress: () => {
            throw failure;
          },
        });
      case "stall":
        await Promise.race([sleep(2 ** 31 - 1, context.signal), cleared.promise]);
        throw failure;
      default:
        throw failure;
    }
  };

  const wrapped = wrapBroker(broker, {
    promise(call, next) {
      const operation = OPERATIONS[call.method];
      if (call.method === "copyFile" && options.movesByCopy === true) return run("move", "copy", call.context, next);
      return operation === undefined ? next(call.context) : run(operation, undefined, call.context, next);
    },
    async *stream(call, next) {
      if (call.method === "listFiles") await run("list", undefined, call.context, async () => undefined);
      yield* next(call.context);
    },
    methods: {
      errorCode: (next, error) => (error instanceof InjectedFault ? error.facts : next(error)),
      ...(options.movesByCopy && broker.copyFile !== undefined
        ? {
            async moveFile(_next, move, context) {
              if (move.file.path === move.newPath) return broker.moveFile(move, context);
              const copy = broker.copyFile?.bind(broker);
              if (copy === undefined) throw new StowageError("moves by copy need copyFile", { code: "UNSUPPORTED" });
              const details = await run("move", "copy", context, (inner) => copy(move, inner));
              await run("move", "delete", context, (inner) => broker.deleteFile(move.file, inner));
              return details;
            },
          }
        : {}),
    },
  });
  const { downloadFiles: _downloads, uploadFiles: _uploads, moveFiles: _moves, deleteFiles: _deletions, ...single } = wrapped;

  return {
    broker: single,
    faults: {
      supports: ({ kind, operation, step }) => {
        if (step !== undefined && (operation !== "move" || options.movesByCopy !== true || kind === "reset")) return false;
        if (step === undefined && operation === "move" && options.movesByCopy === true) return false;
        if (kind === "reset") return operation === "upload" || operation === "download";
        return CODES[kind] !== undefined;
      },
      inject(fault) {
        active = fault;
        left = fault.times;
        struck = 0;
        cleared = Promise.withResolvers<void>();
      },
      struck: () => struck,
      clear() {
        active = undefined;
        left = 0;
        cleared.resolve();
      },
    },
  };
}
