import type { ValidationWarning } from "./broker-definition.ts";
import { describeProblem } from "./config-error.ts";
import { isPlainObject } from "./schema-walk.ts";
import { StowageError } from "./stowage-error.ts";
import { type ReadConfigOptions, type ReadWorkspaceConfig, readWorkspaceConfig } from "./workspace-config.ts";

export interface ValidateWorkspaceOptions extends ReadConfigOptions {
  /** What is stored under this name now; a change of the broker's type is a warning. */
  readonly previous?: unknown;
  /** When the backend must have answered. Milliseconds, at most 2 ** 31 - 1. Defaults to 10,000. */
  readonly deadlineMs?: number | undefined;
  /** Where the broker's volume is mounted, if it is. */
  readonly volumePath?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Something that keeps a workspace from working. */
export interface ValidationError {
  /** Stable, in snake_case: `unknown_key`, `missing_key`, `invalid_value`, `unknown_broker_type`, `missing_secret`, ... */
  readonly name: string;
  /** What is wrong, where, and what to do about it. Never holds a secret. */
  readonly description: string;
}

export interface WorkspaceValidation {
  /** Whether there are no errors. Warnings do not count. */
  readonly isValid: boolean;
  readonly errors: readonly ValidationError[];
  readonly warnings: readonly ValidationWarning[];
}

/**
 * Checks a configuration, and asks its broker to look at the backend. Whatever is wrong with the configuration is reported, all of
 * it; a backend that does not answer is a warning. Changes nothing. Rejects only when `signal` aborts, with `CANCELLED`.
 */
export async function validateWorkspace(config: unknown, options: ValidateWorkspaceOptions = {}): Promise<WorkspaceValidation> {
  const errors: ValidationError[] = [];
  const warnings: ValidationWarning[] = [];
  const limit = limitTime(options.deadlineMs ?? DEFAULT_DEADLINE_MS, options.signal);
  try {
    warnings.push(...compareWithPrevious(config, options.previous));
    const read = await limit.race(readWorkspaceConfig(config, options));
    if (read === TOO_LATE) {
      errors.push({
        name: "timeout",
        description: "the configuration could not be read in time; look at the files that its secrets refer to",
      });
    } else if ("definition" in read) {
      const found = await askBroker(read, options.volumePath, limit);
      // A broker's own words may quote what it was given.
      errors.push(...found.errors.map(({ name, description }) => ({ name, description: read.redact(description) })));
      warnings.push(...found.warnings.map(({ name, description }) => ({ name, description: read.redact(description) })));
    } else {
      errors.push(...read.problems.map((problem) => ({ name: problem.name, description: describeProblem(problem) })));
    }
  } finally {
    limit.end();
  }
  return { isValid: errors.length === 0, errors, warnings };
}

const DEFAULT_DEADLINE_MS = 10_000;

const TOO_LATE: unique symbol = Symbol("too late");

async function askBroker(
  { definition, brokerConfig }: ReadWorkspaceConfig,
  volumePath: string | undefined,
  limit: TimeLimit,
): Promise<Pick<WorkspaceValidation, "errors" | "warnings">> {
  try {
    definition.volume?.(brokerConfig);
  } catch (error) {
    return { errors: [{ name: "invalid_volume", description: `the broker cannot name its volume: ${messageOf(error)}` }], warnings: [] };
  }
  if (definition.validate === undefined) return { errors: [], warnings: [] };
  try {
    const answer = await limit.race(definition.validate(brokerConfig, { signal: limit.signal, volumePath }));
    if (answer === TOO_LATE) {
      return {
        errors: [],
        warnings: [
          {
            name: "validation_timeout",
            description: `the ${definition.type} broker did not answer in time; it may be out of reach, or slow`,
          },
        ],
      };
    }
    return { errors: [], warnings: Array.isArray(answer) ? answer.map(asWarning) : [] };
  } catch (error) {
    if (limit.cancelled(error)) throw error;
    if (
      StowageError.is(error) &&
      (error.code === "INVALID_CONFIGURATION" || error.code === "UNKNOWN_BROKER_TYPE" || error.code === "INVALID_PATH")
    ) {
      return { errors: [{ name: error.code.toLowerCase(), description: messageOf(error) }], warnings: [] };
    }
    return {
      errors: [],
      warnings: [
        { name: "validation_failed", description: `the ${definition.type} broker could not look at its backend: ${messageOf(error)}` },
      ],
    };
  }
}

function asWarning(warning: unknown): ValidationWarning {
  const { name, description } = isPlainObject(warning) ? warning : {};
  return {
    name: typeof name === "string" ? name : "warning",
    description: typeof description === "string" ? description : String(warning),
  };
}

function compareWithPrevious(config: unknown, previous: unknown): ValidationWarning[] {
  const [before, after] = [typeOf(previous), typeOf(config)];
  if (before === undefined || after === undefined || before === after) return [];
  return [
    {
      name: "broker_type",
      description: `the broker's type changes from ${JSON.stringify(before)} to ${JSON.stringify(after)}: what is stored stays where it was, and jobs that are queued or running may fail`,
    },
  ];
}

function typeOf(config: unknown): string | undefined {
  const broker = isPlainObject(config) ? config.broker : undefined;
  return isPlainObject(broker) && typeof broker.type === "string" ? broker.type : undefined;
}

function messageOf(error: unknown): string {
  return error instanceof Error && error.message !== "" ? error.message : String(error);
}

interface TimeLimit {
  /** Aborts at the deadline, and when the caller's signal does. */
  readonly signal: AbortSignal;
  /** Gives `TOO_LATE` at the deadline; rejects with `CANCELLED` when the caller's signal aborts. `promise` is left to itself then. */
  race<T>(promise: Promise<T>): Promise<T | typeof TOO_LATE>;
  cancelled(error: unknown): boolean;
  end(): void;
}

function limitTime(milliseconds: number, signal: AbortSignal | undefined): TimeLimit {
  const controller = new AbortController();
  let giveUp: (() => void) | undefined;
  let cancellation: StowageError | undefined;
  const ended = new Promise<typeof TOO_LATE>((resolve, reject) => {
    giveUp = () => {
      if (signal?.aborted === true) {
        cancellation = new StowageError("the validation was cancelled", { code: "CANCELLED", cause: signal.reason });
        reject(cancellation);
      } else {
        resolve(TOO_LATE);
      }
      controller.abort(signal?.aborted === true ? signal.reason : new DOMException("the validation took too long", "TimeoutError"));
    };
  });
  // Heard by whoever races; when nobody does any more, by nobody.
  ended.catch(() => undefined);
  const timer = setTimeout(() => giveUp?.(), milliseconds);
  const onAbort = (): void => giveUp?.();
  if (signal?.aborted === true) onAbort();
  else signal?.addEventListener("abort", onAbort, { once: true });
  return {
    signal: controller.signal,
    race: (promise) => Promise.race([ended, promise]),
    cancelled: (error) => cancellation !== undefined && error === cancellation,
    end() {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    },
  };
}
