import type { Broker, ErrorFacts } from "./broker.ts";
import { isRetryableCode, STOWAGE_ERROR_CODES } from "./error-codes.ts";
import { escapePath } from "./file-path.ts";
import { leftoversOf } from "./operation-context.ts";
import { StowageError } from "./stowage-error.ts";
import { systemErrorCode } from "./system-error.ts";

/** Removes secrets from a text. */
export type Redact = (text: string) => string;

/** What was being done when an error came up. */
export interface ErrorPlace {
  readonly workspace: string;
  /** What cannot be done, as it goes after "cannot": `upload`, `list`. */
  readonly operation: string;
  /** Path inside the workspace. */
  readonly file?: string | undefined;
}

const KNOWN_CODES: ReadonlySet<string> = new Set(STOWAGE_ERROR_CODES);

/** How deep a chain of causes is copied. */
const CAUSE_DEPTH = 5;

/** What an error means: by itself when it is a `StowageError`, else by its broker, else by the system call that failed. */
export function classifyError(error: unknown, broker: Pick<Broker, "errorCode">): ErrorFacts {
  if (StowageError.is(error)) return { code: error.code, retryable: error.retryable, retryAfterMs: error.retryAfterMs };
  let answer: ReturnType<Broker["errorCode"]>;
  try {
    answer = broker.errorCode(error);
  } catch {
    answer = "UNKNOWN";
  }
  const facts = typeof answer === "string" ? { code: answer } : answer;
  if (facts.code !== "UNKNOWN" && KNOWN_CODES.has(facts.code)) return facts;
  if (isTimeout(error)) return { code: "TIMEOUT" };
  return { ...facts, code: systemErrorCode(error) ?? "UNKNOWN" };
}

/**
 * The error that a user sees: says what could not be done with which file where, and holds a redacted copy of what was thrown as its cause. An error
 * that has been wrapped before is given back as it is.
 */
export function wrapError(error: unknown, facts: ErrorFacts, place: ErrorPlace, redact: Redact): StowageError {
  const known = StowageError.is(error) ? error : undefined;
  // Wrapped before, and by us: a workspace is named nowhere else.
  if (known?.workspace !== undefined && redact(known.message) === known.message) return known;
  const file = known?.file ?? place.file;
  const subject = place.file === undefined ? "" : ` "${escapePath(place.file)}"`;
  const detail = messageOf(error);
  return new StowageError(redact(`cannot ${place.operation}${subject} (workspace "${escapePath(place.workspace)}"): ${detail}`), {
    code: facts.code,
    file,
    workspace: place.workspace,
    retryable: facts.retryable ?? isRetryableCode(facts.code),
    retryAfterMs: facts.retryAfterMs,
    leftovers: leftoversOf(error).map((name) => redact(name)),
    cause: known === undefined ? copyCause(error, redact) : copyCause(known.cause, redact),
  });
}

/**
 * A copy of what was thrown that can be logged: messages, stacks and plain texts are redacted, and nothing else but numbers and
 * booleans is kept, for requests and responses hold credentials.
 */
export function copyCause(cause: unknown, redact: Redact, depth: number = CAUSE_DEPTH): unknown {
  if (typeof cause === "string") return redact(cause);
  if (typeof cause !== "object" || cause === null) return typeof cause === "function" || typeof cause === "symbol" ? String(cause) : cause;
  if (depth === 0) return undefined;
  const inner = (cause as { cause?: unknown }).cause;
  const copy = new Error(redact(messageOf(cause)), inner === undefined ? undefined : { cause: copyCause(inner, redact, depth - 1) });
  const { name, stack, errors } = cause as { name?: unknown; stack?: unknown; errors?: unknown };
  hide(copy, "name", typeof name === "string" ? redact(name) : "Error");
  hide(copy, "stack", typeof stack === "string" ? redact(stack) : undefined);
  if (Array.isArray(errors))
    hide(
      copy,
      "errors",
      errors.slice(0, 10).map((error) => copyCause(error, redact, depth - 1)),
    );
  for (const [key, value] of Object.entries(cause)) {
    if (key === "message" || key === "name" || key === "stack" || key === "cause") continue;
    if (typeof value === "string") Object.assign(copy, { [key]: redact(value) });
    else if (typeof value === "number" || typeof value === "boolean" || typeof value === "bigint") Object.assign(copy, { [key]: value });
  }
  return copy;
}

/** Log fields with every text in them redacted. */
export function redactFields(fields: Readonly<Record<string, unknown>>, redact: Redact): Record<string, unknown> {
  return redactValue(fields, redact, 4) as Record<string, unknown>;
}

function redactValue(value: unknown, redact: Redact, depth: number): unknown {
  if (typeof value === "string") return redact(value);
  if (typeof value !== "object" || value === null || value instanceof Date) return value;
  if (depth === 0) return "…";
  if (value instanceof Error) return copyCause(value, redact);
  if (Array.isArray(value)) return value.map((element) => redactValue(element, redact, depth - 1));
  return Object.fromEntries(Object.entries(value).map(([key, element]) => [key, redactValue(element, redact, depth - 1)]));
}

function messageOf(error: unknown): string {
  if (typeof error !== "object" || error === null) return String(error);
  const { message, name, code } = error as { message?: unknown; name?: unknown; code?: unknown };
  if (typeof message === "string" && message !== "") return message;
  if (typeof code === "string" && code !== "") return code;
  return typeof name === "string" && name !== "" ? name : "something without a message was thrown";
}

function hide(target: object, key: string, value: unknown): void {
  Object.defineProperty(target, key, { value, writable: true, configurable: true, enumerable: false });
}

function isTimeout(error: unknown): boolean {
  return typeof error === "object" && error !== null && (error as { name?: unknown }).name === "TimeoutError";
}
