import type { OperationContext } from "@stowage/core/broker";
import { createRandom } from "./random.ts";

/** What a broker did with its context. */
export interface ContextRecord {
  /** The sum of all `progress` calls. */
  progressed: number;
  progressCalls: number;
  throttled: number;
  throttleCalls: number;
  reserved: number;
  mostReserved: number;
  readonly recorded: string[];
  readonly settled: string[];
  readonly logged: string[];
}

export interface TestContext extends OperationContext {
  readonly record: ContextRecord;
}

export type TestContextOptions = Partial<
  Pick<OperationContext, "signal" | "deadline" | "durability" | "checksum" | "ifExists" | "temporaryId" | "itemId">
> & {
  /** Called on `throttle`, before it settles. With it there is a bandwidth limit, though one that nobody feels. */
  readonly onThrottle?: ((bytes: number) => void | Promise<void>) | undefined;
  readonly onProgress?: ((bytes: number, index?: number) => void) | undefined;
  /** What brokers are told of the bandwidth limit; nothing is held to it. Defaults to none, or with `onThrottle` to 1e12. */
  readonly bytesPerSecond?: number | undefined;
  /** Bytes that may be reserved at once. Defaults to no limit. */
  readonly memoryBytes?: number | undefined;
};

const identifiers = createRandom(`${process.pid} ${Date.now()} ${process.hrtime.bigint()}`);

/** A context for calling a broker directly, without the workspace that stands before it in real use. */
export function createTestContext(options: TestContextOptions = {}): TestContext {
  const record: ContextRecord = {
    progressed: 0,
    progressCalls: 0,
    throttled: 0,
    throttleCalls: 0,
    reserved: 0,
    mostReserved: 0,
    recorded: [],
    settled: [],
    logged: [],
  };
  const budget = options.memoryBytes ?? Number.POSITIVE_INFINITY;
  const waiting: { readonly bytes: number; readonly grant: () => void }[] = [];
  const hold = (bytes: number): Disposable => {
    record.reserved += bytes;
    record.mostReserved = Math.max(record.mostReserved, record.reserved);
    let held = true;
    return {
      [Symbol.dispose](): void {
        if (!held) return;
        held = false;
        record.reserved -= bytes;
        for (let next = waiting[0]; next !== undefined && record.reserved + next.bytes <= budget; next = waiting[0]) {
          waiting.shift();
          next.grant();
        }
      },
    };
  };
  return {
    record,
    signal: options.signal ?? new AbortController().signal,
    deadline: options.deadline,
    durability: options.durability ?? "process",
    checksum: options.checksum ?? "auto",
    ifExists: options.ifExists ?? "replace",
    temporaryId: options.temporaryId ?? identifiers.word(16),
    itemId: options.itemId ?? identifiers.word(16),
    progress(bytes, index) {
      record.progressed += bytes;
      record.progressCalls++;
      options.onProgress?.(bytes, index);
    },
    reserve(bytes) {
      const amount = Math.min(bytes, budget);
      if (waiting.length === 0 && record.reserved + amount <= budget) return Promise.resolve(hold(amount));
      return new Promise((resolve) => waiting.push({ bytes: amount, grant: () => resolve(hold(amount)) }));
    },
    bytesPerSecond: options.bytesPerSecond ?? (options.onThrottle === undefined ? undefined : 1e12),
    async throttle(bytes) {
      record.throttled += bytes;
      record.throttleCalls++;
      await options.onThrottle?.(bytes);
    },
    journal: {
      async record(entry) {
        record.recorded.push(entry);
      },
      async settle(entry) {
        record.settled.push(entry);
      },
    },
    log(level, message, fields) {
      record.logged.push(`${level} ${message} ${fields === undefined ? "" : safeJson(fields)}`);
    },
  };
}

function safeJson(value: unknown): string {
  try {
    return JSON.stringify(value) ?? "";
  } catch {
    return String(value);
  }
}
