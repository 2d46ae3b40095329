// engine-overhead <variant> <items>: what one item costs in the transfer engine, over a broker whose own work is next to nothing.
import { createMemoryBroker, type FileMove, Workspace } from "@stowage/core";

const [variant, count] = process.argv.slice(2) as [string, string];
const items = Number(count);
const broker = createMemoryBroker();
const workspace = new Workspace({ name: "bench", broker });
const writer = await workspace.openWrite("source");
await writer.write(Buffer.from("x"));
await writer.commit();

const moves = (prefix: string): FileMove[] =>
  Array.from({ length: items }, (_, index) => ({ file: "source", newPath: `${prefix}/${index % 100}/${index}` }));
async function* streamed<T>(values: readonly T[]): AsyncGenerator<T> {
  yield* values;
}

/** Each variant runs twice; the first run warms the code. */
const variants: Record<string, (prefix: string) => Promise<number>> = {
  async direct(prefix) {
    const context = {
      signal: new AbortController().signal,
      durability: "process",
      checksum: "auto",
      ifExists: "replace",
      temporaryId: "bench",
      progress() {},
      reserve: async () => ({ [Symbol.dispose]() {} }),
      throttle: async () => {},
      journal: { record: async () => {}, settle: async () => {} },
      log() {},
    } as const;
    const { parseFilePath } = await import("@stowage/core");
    const file = { path: parseFilePath("source") };
    const list = moves(prefix);
    const started = performance.now();
    for (const { newPath } of list) await broker.copyFile({ file, newPath: parseFilePath(newPath) }, context);
    return performance.now() - started;
  },
  async array(prefix) {
    const list = moves(prefix);
    const started = performance.now();
    await workspace.copyFiles(list);
    return performance.now() - started;
  },
  async stream(prefix) {
    const list = moves(prefix);
    const started = performance.now();
    let done = 0;
    for await (const _outcome of workspace.copyFiles(streamed(list))) done++;
    if (done !== items) throw new Error(`${done} outcomes for ${items} items`);
    return performance.now() - started;
  },
  async progress(prefix) {
    const list = moves(prefix);
    const started = performance.now();
    await workspace.copyFiles(list, { onProgress() {} });
    return performance.now() - started;
  },
  async batch(prefix) {
    // A batch method of the broker: chunks of items in one call.
    const list = moves(prefix).map(({ newPath }) => newPath);
    await workspace.copyFiles(moves(prefix));
    const started = performance.now();
    await workspace.deleteFiles(list);
    return performance.now() - started;
  },
};
const run = variants[variant];
if (run === undefined) throw new Error(`no variant ${variant}`);
await run("warm-up");
const elapsedMs = await run("measured");
await workspace.close();
console.log(JSON.stringify({ microsecondsPerItem: (elapsedMs * 1000) / items }));
