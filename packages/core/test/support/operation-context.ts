import type { OperationContext } from "../../src/lib/broker.ts";
import type { FilePath, StoredFile } from "../../src/lib/files.ts";

let next = 0;

/** A context that limits nothing, for calling a broker directly. */
export function operationContext(overrides: Partial<OperationContext> = {}): OperationContext {
  return {
    signal: new AbortController().signal,
    durability: "process",
    checksum: "auto",
    ifExists: "replace",
    temporaryId: `t${process.pid}x${next++}`,
    progress: () => {},
    reserve: async () => ({ [Symbol.dispose]: () => {} }),
    throttle: async () => {},
    journal: { record: async () => {}, settle: async () => {} },
    log: () => {},
    ...overrides,
  };
}

export function storedFile(path: string, facts: Partial<Omit<StoredFile, "path">> = {}): StoredFile {
  return { path: path as FilePath, ...facts };
}

export async function collect<T>(values: AsyncIterable<T>): Promise<T[]> {
  const collected: T[] = [];
  for await (const value of values) collected.push(value);
  return collected;
}
