import type { OutcomeCounts } from "./outcome.ts";
import type { StowageError } from "./stowage-error.ts";

/** What all spans of a batch say. */
export interface BatchSpanOptions {
  /** `upload`, `download`, `move`, `copy`, `delete`. */
  readonly operation: string;
  readonly workspace: string;
  readonly brokerType: string;
}

/** The span of one batch. */
export interface BatchSpan {
  item(path: string): ItemSpan;
  /** Runs `body` with this span as the active one. */
  run<T>(body: () => T): T;
  end(counts: OutcomeCounts, error: StowageError | undefined): void;
}

/** The span of one item; its parent is the batch's. */
export interface ItemSpan {
  /** Runs `body` with this span as the active one, so that what it calls becomes its child. */
  run<T>(body: () => T): T;
  end(facts: { readonly [name: string]: string | number }, error: StowageError | undefined): void;
}

// `@opentelemetry/api` puts itself here when a program registers a provider.
const REGISTERED = Symbol.for("opentelemetry.js.api.1");

/**
 * Begins a batch's span, where the program has set OpenTelemetry up; `undefined` otherwise, without looking for the package at all.
 * The package is an optional peer, so nothing of its types may show here.
 */
export function startBatchSpan(options: BatchSpanOptions): Promise<BatchSpan | undefined> | undefined {
  return (globalThis as { [REGISTERED]?: unknown })[REGISTERED] === undefined ? undefined : createBatchSpan(options);
}

async function createBatchSpan({ operation, workspace, brokerType }: BatchSpanOptions): Promise<BatchSpan | undefined> {
  const api = await import("@opentelemetry/api").catch(() => undefined);
  if (api === undefined) return undefined;
  const { context, SpanKind, SpanStatusCode, trace } = api;
  const tracer = trace.getTracer("@stowage/core");
  const common = { "stowage.operation": operation, "stowage.workspace": workspace, "stowage.broker.type": brokerType };
  const batch = tracer.startSpan(`stowage.${operation}.batch`, { kind: SpanKind.INTERNAL, attributes: common });
  const batchContext = trace.setSpan(context.active(), batch);

  return {
    item(path) {
      const attributes = { ...common, "stowage.file.path": path };
      const span = tracer.startSpan(`stowage.${operation}`, { kind: SpanKind.CLIENT, attributes }, batchContext);
      const itemContext = trace.setSpan(batchContext, span);
      return {
        run: (body) => context.with(itemContext, body),
        end(facts, error) {
          for (const [name, value] of Object.entries(facts)) span.setAttribute(`stowage.${name}`, value);
          if (error !== undefined) {
            span.setAttribute("error.type", error.code);
            span.setStatus({ code: SpanStatusCode.ERROR, message: error.message });
          }
          span.end();
        },
      };
    },
    run: (body) => context.with(batchContext, body),
    end(counts, error) {
      for (const [status, count] of Object.entries(counts)) batch.setAttribute(`stowage.files.${status}`, count);
      if (error !== undefined) {
        batch.setAttribute("error.type", error.code);
        batch.setStatus({ code: SpanStatusCode.ERROR, message: error.message });
      }
      batch.end();
    },
  };
}
