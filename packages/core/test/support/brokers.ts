import type { Broker } from "../../src/lib/broker.ts";
import { createMemoryBroker } from "../../src/lib/memory-broker.ts";

/** The memory broker without its batch methods, some of its methods replaced. */
export function singleBroker(overrides: Partial<Broker> = {}): Broker {
  const { downloadFiles: _d, uploadFiles: _u, moveFiles: _m, deleteFiles: _x, ...rest } = createMemoryBroker();
  return { ...rest, ...overrides };
}

/** The memory broker with its batch methods, some of its methods replaced. */
export function batchBroker(overrides: Partial<Broker> = {}): Broker {
  return { ...createMemoryBroker(), ...overrides };
}

/** An error as a driver throws it: raw, with a code of its own. */
export class DriverError extends Error {
  readonly code: string;
  constructor(code: string, message: string = code) {
    super(message);
    this.code = code;
  }
}

/** Settles when the signal aborts, never otherwise; rejects as brokers do. */
export function untilAborted(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/** Never settles, as what hangs in a kernel. */
export function forever(): Promise<never> {
  return new Promise(() => undefined);
}
