import type { Broker, ErrorFacts, OperationContext } from "./broker.ts";
import { escapePath } from "./file-path.ts";
import { defaultLimits, type Limits } from "./limits.ts";
import { createOperationScope, type OperationScope, type ScopeOptions } from "./operation-context.ts";
import { type RetryOptions, resolveRetryOptions } from "./retry.ts";
import { type OperationResult, runOperation } from "./run-operation.ts";
import { StowageError } from "./stowage-error.ts";
import type { WorkspaceInit } from "./workspace.ts";
import { classifyError, type Redact, redactFields, wrapError } from "./wrap-error.ts";

/** What an operation is about to do with a workspace. */
export type Access = "look" | "read" | "write" | "move";

/** Something that was begun and has not ended, as `close` sees it. */
export interface OpenOperation {
  /** Begin nothing new; come to an end by yourself. */
  closing?(): void;
  /** End now. */
  cancel(reason: StowageError): void;
}

/**
 * The inside of a `Workspace`: a plain object, so that `transferFiles` of one copy of this package can work with a workspace of another.
 * Not for applications.
 */
export interface WorkspaceRuntime {
  readonly name: string;
  readonly brokerType: string;
  readonly broker: Broker;
  readonly limits: Limits;
  readonly journal: OperationContext["journal"];
  readonly log: OperationContext["log"];
  readonly redact: Redact;
  /** Why this may not be done: `CLOSED`, `ARCHIVED` or `READ_ONLY`. */
  refusal(access: Access): StowageError | undefined;
  /** The error for a method that the broker does not have. */
  unsupported(method: string): StowageError;
  classify(error: unknown): ErrorFacts;
  /** Wraps an error once. `operation` as it goes after "cannot". */
  wrap(error: unknown, operation: string, file?: string | undefined): StowageError;
  /** Registers what `close` waits for; returns what ends it. Throws `CLOSED`. */
  begin(operation: OpenOperation): () => void;
  /** Runs one call with retries, watched by `close`. Rejects with a wrapped error. */
  call<T>(
    call: { readonly operation: string; readonly file?: string | undefined; readonly access: Access },
    options: CallOptions,
    body: (context: OperationContext) => Promise<T>,
  ): Promise<T>;
  close(signal?: AbortSignal | undefined): Promise<void>;
}

export type CallOptions = Omit<Partial<ScopeOptions>, "journal" | "log" | "limits"> & { readonly retry?: RetryOptions | undefined };

const NO_JOURNAL: OperationContext["journal"] = { record: async () => undefined, settle: async () => undefined };

export function createWorkspaceRuntime(init: WorkspaceInit): WorkspaceRuntime {
  const { name, broker } = init;
  const brokerType = init.brokerType ?? "custom";
  const redact: Redact = init.redact ?? ((text) => text);
  const { log: sink } = init;
  const open = new Set<OpenOperation>();
  const idle: (() => void)[] = [];
  let closed = false;
  let closing: Promise<void> | undefined;

  const fail = (code: "CLOSED" | "ARCHIVED" | "READ_ONLY" | "UNSUPPORTED", problem: string): StowageError =>
    new StowageError(`the workspace "${escapePath(name)}" ${problem}`, { code, workspace: name });

  const runtime: WorkspaceRuntime = {
    name,
    brokerType,
    broker,
    limits: init.limits ?? defaultLimits(),
    journal: init.journal ?? NO_JOURNAL,
    redact,
    log:
      sink === undefined
        ? () => undefined
        : (level, message, fields) => sink(level, redact(message), fields === undefined ? undefined : redactFields(fields, redact)),

    refusal(access) {
      if (closed) return fail("CLOSED", "is closed");
      if (access === "look") return undefined;
      if (init.archived === true) return fail("ARCHIVED", "is archived; its files can be listed, nothing else");
      if (access === "read") return undefined;
      if (init.readOnly === true) return fail("READ_ONLY", "is read-only (readOnly in its configuration)");
      if (access === "move" && init.moveEnabled === false) {
        return fail("READ_ONLY", "does not allow moves (moveEnabled is false in its configuration)");
      }
      return undefined;
    },

    unsupported: (method) => fail("UNSUPPORTED", `cannot do this: its broker, of type "${escapePath(brokerType)}", has no ${method}`),

    classify: (error) => classifyError(error, broker),

    wrap: (error, operation, file) => wrapError(error, classifyError(error, broker), { workspace: name, operation, file }, redact),

    begin(operation) {
      if (closed) throw fail("CLOSED", "is closed");
      open.add(operation);
      return () => {
        if (!open.delete(operation) || open.size > 0) return;
        for (const wake of idle.splice(0)) wake();
      };
    },

    async call({ operation, file, access }, options, body) {
      const refusal = runtime.refusal(access);
      if (refusal !== undefined) throw refusal;
      const scope = createScope(runtime, options);
      const end = runtime.begin(scope);
      try {
        const { classify, log } = runtime;
        const policy = resolveRetryOptions(options.retry);
        const result = await runOperation(scope, body, { policy, classify, log, deadline: options.deadline });
        if (!result.ok) throw runtime.wrap(withLeftovers(result), operation, file);
        return result.value;
      } finally {
        scope.dispose();
        end();
      }
    },

    close(signal) {
      closed = true;
      const cancel = (): void => {
        for (const operation of [...open]) operation.cancel(fail("CLOSED", "was closed"));
      };
      if (signal?.aborted) cancel();
      else signal?.addEventListener("abort", cancel, { once: true });
      closing ??= (async () => {
        for (const operation of [...open]) operation.closing?.();
        if (open.size > 0) await new Promise<void>((resolve) => idle.push(resolve));
        try {
          await broker.close();
        } catch (error) {
          throw runtime.wrap(error, "close");
        }
      })();
      return closing.finally(() => signal?.removeEventListener("abort", cancel));
    },
  };
  return runtime;
}

export function createScope(runtime: WorkspaceRuntime, options: Omit<Partial<ScopeOptions>, "journal" | "log">): OperationScope {
  return createOperationScope({ ...options, limits: options.limits ?? runtime.limits, journal: runtime.journal, log: runtime.log });
}

/** The error of a failed call, knowing of what its earlier attempts left behind too. */
export function withLeftovers(result: Extract<OperationResult<unknown>, { ok: false }>): unknown {
  const { error, leftovers } = result;
  if (leftovers.length === 0 || !StowageError.is(error)) return error;
  const { message, code, file, workspace, retryable, retryAfterMs, cause } = error;
  return new StowageError(message, { code, file, workspace, retryable, retryAfterMs, cause, leftovers });
}
