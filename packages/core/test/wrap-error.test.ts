import { inspect } from "node:util";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { ErrorFacts } from "../src/lib/broker.ts";
import type { StowageErrorCode } from "../src/lib/error-codes.ts";
import { StowageError } from "../src/lib/stowage-error.ts";
import { classifyError, copyCause, redactFields, wrapError } from "../src/lib/wrap-error.ts";
import { DriverError } from "./support/brokers.ts";

const place = { workspace: "data", operation: "upload", file: "a/b" };
const plain = (text: string): string => text;
const redact = (text: string): string => text.replaceAll("hunter2", "•••");
const broker = (answer: StowageErrorCode | ErrorFacts) => ({ errorCode: () => answer });

describe("classifying an error", () => {
  test("the broker's word counts", () => {
    expect(classifyError(new Error("x"), broker("QUOTA_EXCEEDED"))).toEqual({ code: "QUOTA_EXCEEDED" });
    expect(classifyError(new Error("x"), broker({ code: "CONFLICT", retryable: true, retryAfterMs: 5 }))).toEqual({
      code: "CONFLICT",
      retryable: true,
      retryAfterMs: 5,
    });
  });

  test("a StowageError is what it says, whatever the broker thinks, also one from another copy of this package", () => {
    const foreign = Object.assign(new Error("x"), { isStowageError: true, code: "NO_SPACE", retryable: false });
    expect(classifyError(foreign, broker("TIMEOUT"))).toMatchObject({ code: "NO_SPACE", retryable: false });
  });

  test("where the broker does not know, the system call that failed does", () => {
    expect(classifyError(new DriverError("ENOSPC"), broker("UNKNOWN")).code).toBe("NO_SPACE");
    expect(classifyError(new DOMException("late", "TimeoutError"), broker("UNKNOWN")).code).toBe("TIMEOUT");
    expect(classifyError(new Error("x"), broker("UNKNOWN")).code).toBe("UNKNOWN");
    expect(classifyError(undefined, broker("UNKNOWN")).code).toBe("UNKNOWN");
  });

  test("a broker that throws or invents codes while classifying does no harm", () => {
    const throwing = {
      errorCode(): never {
        throw new TypeError("cannot read properties of undefined");
      },
    };
    expect(classifyError("odd", throwing).code).toBe("UNKNOWN");
    expect(classifyError("odd", broker("NONSENSE" as StowageErrorCode)).code).toBe("UNKNOWN");
  });
});

describe("wrapping an error", () => {
  test("says what could not be done with which file where, and keeps the driver's error as the cause", () => {
    const error = wrapError(new DriverError("AccessDenied", "signature expired"), { code: "UNAUTHENTICATED" }, place, plain);
    expect(error.message).toBe('cannot upload "a/b" (workspace "data"): signature expired');
    expect(error).toMatchObject({ code: "UNAUTHENTICATED", file: "a/b", workspace: "data", retryable: false });
    expect(error.cause).toMatchObject({ message: "signature expired", code: "AccessDenied" });
  });

  test("happens once", () => {
    const once = wrapError(new Error("x"), { code: "TIMEOUT" }, place, plain);
    expect(wrapError(once, { code: "UNKNOWN" }, { ...place, operation: "move" }, plain)).toBe(once);
  });

  test("a broker's own StowageError keeps its code, facts and file, and gets the workspace", () => {
    const thrown = new StowageError("the part is gone", {
      code: "CONFLICT",
      file: "a/c",
      retryable: true,
      retryAfterMs: 9,
      leftovers: ["p"],
    });
    const facts = classifyError(thrown, broker("UNKNOWN"));
    expect(wrapError(thrown, facts, place, plain)).toMatchObject({
      code: "CONFLICT",
      file: "a/c",
      workspace: "data",
      retryable: true,
      retryAfterMs: 9,
      leftovers: ["p"],
    });
  });

  test("a path cannot write control characters to a terminal", () => {
    const error = wrapError(new Error("x"), { code: "UNKNOWN" }, { ...place, file: "a\u001b[2Jb" }, plain);
    expect(error.message).not.toContain("\u001b");
  });

  test("no secret remains in message, cause, stack or nested causes, however it is printed", () => {
    const inner = Object.assign(new DriverError("E1", "token hunter2 refused"), {
      request: { headers: { authorization: "Bearer hunter2" } },
      url: "https://x/?key=hunter2",
      hunter: Buffer.from("hunter2"),
      status: 403,
      errors: [new Error("nested hunter2")],
    });
    const outer = new Error("outer hunter2", { cause: inner });
    const error = wrapError(outer, { code: "PERMISSION_DENIED" }, place, redact);
    const printed = inspect(error, { depth: 20, showHidden: true }) + String(error) + JSON.stringify(error) + error.stack;
    expect(printed).not.toContain("hunter2");
    expect(printed).not.toContain("68756e74657232");
    expect(error.cause).toMatchObject({
      message: "outer •••",
      cause: { message: "token ••• refused", status: 403, url: "https://x/?key=•••" },
    });
  });

  test("a StowageError that holds a secret is not passed on as it is, even when it names a workspace", () => {
    const thrown = new StowageError("password hunter2", { code: "UNAUTHENTICATED", workspace: "data" });
    expect(wrapError(thrown, { code: "UNAUTHENTICATED" }, place, redact).message).not.toContain("hunter2");
  });

  test("anything can be thrown, in circles too", () => {
    const circle: { cause?: unknown; message: string } = { message: "round" };
    circle.cause = circle;
    expect(inspect(copyCause(circle, plain), { depth: 20 })).toContain("round");
    fc.assert(
      fc.property(fc.anything({ withBigInt: true, withDate: true, withNullPrototype: true }), (thrown) => {
        const error = wrapError(thrown, { code: "UNKNOWN" }, place, plain);
        expect(error.code).toBe("UNKNOWN");
        expect(error.message).toContain("cannot upload");
        inspect(error);
      }),
    );
  });
});

test("log fields are redacted at any depth, and bounded", () => {
  const fields = { url: "hunter2", nested: { list: ["hunter2", 3] }, error: new Error("hunter2") };
  const redacted = redactFields(fields, redact);
  expect(inspect(redacted, { depth: 10 })).not.toContain("hunter2");
  expect(redacted).toMatchObject({ url: "•••", nested: { list: ["•••", 3] } });
});
