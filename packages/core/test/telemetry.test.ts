import { AsyncLocalStorage } from "node:async_hooks";
import { type Context, type ContextManager, context, ROOT_CONTEXT, SpanStatusCode, trace } from "@opentelemetry/api";
import { BasicTracerProvider, InMemorySpanExporter, type ReadableSpan, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { createMemoryBroker } from "../src/lib/memory-broker.ts";
import { startBatchSpan } from "../src/lib/telemetry.ts";
import { Workspace } from "../src/lib/workspace.ts";
import { batchBroker, singleBroker } from "./support/brokers.ts";
import { transferErrorOf } from "./support/outcomes.ts";
import { useTemporaryDirectory } from "./support/temporary-directory.ts";

const directory = useTemporaryDirectory();
const exporter = new InMemorySpanExporter();

test("without a provider nothing is looked for", () => {
  expect(startBatchSpan({ operation: "upload", workspace: "data", brokerType: "test" })).toBeUndefined();
});

/** Keeps the active context over `await`, as the one of OpenTelemetry for Node does. */
function createContextManager(): ContextManager {
  const storage = new AsyncLocalStorage<Context>();
  const manager: ContextManager = {
    active: () => storage.getStore() ?? ROOT_CONTEXT,
    with: (active, body, self, ...parameters) => storage.run(active, () => body.call(self, ...parameters)),
    bind: (_context, target) => target,
    enable: () => manager,
    disable: () => manager,
  };
  return manager;
}

describe("with a provider", () => {
  beforeAll(() => {
    context.setGlobalContextManager(createContextManager());
    trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }));
  });
  afterEach(() => exporter.reset());
  afterAll(() => {
    trace.disable();
    context.disable();
  });

  function spans(): { batch: ReadableSpan; items: ReadableSpan[] } {
    const all = exporter.getFinishedSpans();
    const batches = all.filter(({ name }) => name.endsWith(".batch"));
    expect(batches).toHaveLength(1);
    return { batch: batches[0]!, items: all.filter(({ name }) => !name.endsWith(".batch")) };
  }

  test.each([
    ["single", singleBroker],
    ["batch", batchBroker],
  ] as const)("a batch is a span, each item a child of it (%s)", async (_kind, createBroker) => {
    const workspace = new Workspace({ name: "data", broker: createBroker(), brokerType: "memory" });
    const localPath = await directory.write("a", "12345");
    const items = [
      { file: "a", localPath },
      { file: "b", localPath: directory.join("missing") },
      { file: "c", localPath },
    ];
    await transferErrorOf(workspace.uploadFiles(items, { concurrency: 1 }));
    const { batch, items: children } = spans();
    expect(batch.name).toBe("stowage.upload.batch");
    expect(batch.attributes).toMatchObject({
      "stowage.workspace": "data",
      "stowage.broker.type": "memory",
      "stowage.operation": "upload",
      "stowage.files.done": 2,
      "stowage.files.failed": 1,
      "error.type": "FILE_NOT_FOUND",
    });
    expect(batch.status.code).toBe(SpanStatusCode.ERROR);
    expect(children.map(({ attributes }) => attributes["stowage.file.path"]).sort()).toEqual(["a", "b", "c"]);
    for (const child of children) {
      expect(child.parentSpanContext?.spanId).toBe(batch.spanContext().spanId);
      expect(child.spanContext().traceId).toBe(batch.spanContext().traceId);
    }
    const byPath = new Map(children.map((child) => [child.attributes["stowage.file.path"], child]));
    expect(byPath.get("a")!.attributes).toMatchObject({
      "stowage.bytes": 5,
      "stowage.method": "stream",
      "stowage.attempts": 1,
      "stowage.outcome": "done",
    });
    expect(byPath.get("b")!.attributes).toMatchObject({ "error.type": "FILE_NOT_FOUND", "stowage.outcome": "failed" });
    expect(byPath.get("b")!.status.code).toBe(SpanStatusCode.ERROR);
  });

  test("what a broker calls is a child of the item, in a chunk of the batch, and the batch of whoever called it", async () => {
    const seen = new Map<string, string | undefined>();
    const see = (name: string): void => void seen.set(name, trace.getActiveSpan()?.spanContext().spanId);
    const broker = batchBroker({
      deleteFile: async () => {
        see("single");
        return "deleted";
      },
      async *deleteFiles(files) {
        see("chunk");
        for (const index of files.keys()) yield { index, ok: true, value: "deleted" };
      },
    });
    const workspace = new Workspace({ name: "data", broker });
    const caller = trace.getTracer("test").startSpan("caller");
    await context.with(trace.setSpan(context.active(), caller), async () => {
      await workspace.deleteFiles(["a"]);
      await workspace.deleteFiles(["b", "c"], { concurrency: 1 });
    });
    const finished = exporter.getFinishedSpans();
    const batches = finished.filter(({ name }) => name.endsWith(".batch"));
    expect(batches.map(({ parentSpanContext }) => parentSpanContext?.spanId)).toEqual([
      caller.spanContext().spanId,
      caller.spanContext().spanId,
    ]);
    const single = finished.find(({ attributes }) => attributes["stowage.file.path"] === "a");
    expect(seen.get("single")).toBe(single?.spanContext().spanId);
    expect(seen.get("chunk")).toBe(batches[1]?.spanContext().spanId);
  });

  test("secrets are not in the status", async () => {
    const broker = singleBroker({ deleteFile: async () => Promise.reject(new Error("token hunter2")) });
    const workspace = new Workspace({ name: "data", broker, redact: (text) => text.replaceAll("hunter2", "•••") });
    await transferErrorOf(workspace.deleteFiles(["a"]));
    const { batch, items } = spans();
    expect(items[0]!.status.message).toContain("•••");
    expect(`${batch.status.message} ${items[0]!.status.message}`).not.toContain("hunter2");
  });

  test("cancelled and skipped items end their spans too", async () => {
    const workspace = new Workspace({ name: "data", broker: createMemoryBroker() });
    await workspace.deleteFiles(["a", "b"]);
    expect(spans().items.map(({ attributes }) => attributes["stowage.outcome"])).toEqual(["skipped", "skipped"]);
  });
});
