import type { Broker, OperationContext } from "./broker.ts";
import type { BrokerMethodName } from "./broker-methods.ts";
import { escapePath } from "./file-path.ts";
import { wrapBroker } from "./wrap-broker.ts";
import { classifyError } from "./wrap-error.ts";

export interface LogOptions {
  /** Removes secrets. Without it an error's message, which may quote one, is not logged; its code always is. */
  readonly redact?: ((text: string) => string) | undefined;
}

/**
 * Tells `log` of the end of every operation: level `debug`, or `warn` when it failed, with the fields `method`, `file` (escaped) or
 * `items`, `durationMs`, and `bytes`, `results`, `failed`, `code` as they apply. What `log` throws is ignored.
 */
export function withLog(broker: Broker, log: OperationContext["log"], options: LogOptions = {}): Broker {
  const begin = (method: BrokerMethodName, subject: unknown): ((end: { error?: unknown; fields?: Fields }) => void) => {
    const startedAt = performance.now();
    return ({ error, fields }) => {
      const failure = error === undefined ? {} : describeError(broker, error, options);
      try {
        log(error === undefined ? "debug" : "warn", error === undefined ? `${method} ended` : `${method} failed`, {
          method,
          ...describeSubject(subject),
          durationMs: Math.round(performance.now() - startedAt),
          ...fields,
          ...failure,
        });
      } catch {
        // Logging must not fail what it tells of.
      }
    };
  };

  return wrapBroker(broker, {
    async promise(call, next) {
      const end = begin(call.method, call.parameters[0]);
      try {
        const value = await next(call.context);
        end({ fields: bytesOf(value) });
        return value;
      } catch (error) {
        end({ error });
        throw error;
      }
    },
    async *stream(call, next) {
      const end = begin(call.method, call.parameters[0]);
      let results = 0;
      let failure: unknown;
      try {
        for await (const value of next(call.context)) {
          results++;
          yield value;
        }
      } catch (error) {
        failure = error;
        throw error;
      } finally {
        end({ error: failure, fields: { results } });
      }
    },
    async *batch(call, next) {
      const end = begin(call.method, call.items);
      let results = 0;
      let failed = 0;
      let failure: unknown;
      try {
        for await (const result of next(call.items, call.context)) {
          results++;
          if (!result.ok) {
            failed++;
            failure ??= result.error;
          }
          yield result;
        }
      } catch (error) {
        failure = error;
        throw error;
      } finally {
        end({ error: failure, fields: { results, failed } });
      }
    },
  });
}

type Fields = Readonly<Record<string, unknown>>;

function describeSubject(subject: unknown): Fields {
  if (Array.isArray(subject)) return { items: subject.length };
  if (typeof subject === "string") return { file: escapePath(subject) };
  if (typeof subject !== "object" || subject === null) return {};
  const { path, file, newPath } = subject as { path?: unknown; file?: { path?: unknown } | undefined; newPath?: unknown };
  const subjectPath = path ?? file?.path;
  return {
    ...(typeof subjectPath === "string" && { file: escapePath(subjectPath) }),
    ...(typeof newPath === "string" && { newPath: escapePath(newPath) }),
  };
}

function bytesOf(value: unknown): Fields {
  const bytes = typeof value === "object" && value !== null ? (value as { bytes?: unknown }).bytes : undefined;
  return typeof bytes === "number" ? { bytes } : {};
}

function describeError(broker: Broker, error: unknown, { redact }: LogOptions): Fields {
  const { code } = classifyError(error, broker);
  return redact === undefined ? { code } : { code, message: redact(error instanceof Error ? error.message : String(error)) };
}
