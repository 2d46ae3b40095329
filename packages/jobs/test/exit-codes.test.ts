import { STOWAGE_ERROR_CODES, StowageError } from "@stowage/core/broker";
import { describe, expect, test } from "vitest";
import { EXIT_CODE_MEANINGS, EXIT_CODES, exitCodeOf } from "../src/lib/exit-codes.ts";
import { JobError } from "../src/lib/job-error.ts";

const TABLE: Readonly<Record<string, number>> = {
  FILE_NOT_FOUND: 163,
  FILE_DELETED: 163,
  FILE_EXISTS: 173,
  NOT_A_FILE: 163,
  PERMISSION_DENIED: 170,
  UNAUTHENTICATED: 170,
  INVALID_CONFIGURATION: 161,
  UNKNOWN_BROKER_TYPE: 161,
  CONTRACT_MISMATCH: 161,
  INVALID_PATH: 161,
  INVALID_ARGUMENT: 160,
  CHECKSUM_MISMATCH: 169,
  SHORT_SOURCE: 169,
  SOURCE_CHANGED: 169,
  VOLUME_NOT_MOUNTED: 172,
  STALE_HANDLE: 172,
  READ_ONLY: 170,
  NO_SPACE: 171,
  QUOTA_EXCEEDED: 171,
  ARCHIVED: 170,
  UNSUPPORTED: 174,
  RATE_LIMITED: 172,
  TIMEOUT: 172,
  STALLED: 172,
  UNAVAILABLE: 172,
  CONFLICT: 173,
  NOT_RECORDED: 175,
  CLOSED: 191,
  CANCELLED: 180,
  UNKNOWN: 191,
};

describe("exit codes", () => {
  test.each(STOWAGE_ERROR_CODES)("%s has the documented code", (code) => {
    expect(exitCodeOf(new StowageError("x", { code }))).toBe(TABLE[code]);
  });

  test("a failure that says nothing of its own counts for the step that it stopped", () => {
    const unknown = new StowageError("x", { code: "UNKNOWN" });
    expect(exitCodeOf(unknown, "pre")).toBe(164);
    expect(exitCodeOf(unknown, "post")).toBe(168);
    expect(exitCodeOf(new Error("x"), "pre")).toBe(164);
    expect(exitCodeOf(new Error("x"))).toBe(191);
    expect(exitCodeOf(undefined)).toBe(191);
  });

  test("a file that is missing while outputs are stored is no missing input", () => {
    const missing = new StowageError("x", { code: "FILE_NOT_FOUND" });
    expect(exitCodeOf(missing, "pre")).toBe(163);
    expect(exitCodeOf(missing, "post")).toBe(168);
  });

  test.each([
    ["invalid-job", 162],
    ["already-running", 190],
    ["command-not-started", 165],
    ["timed-out", 166],
    ["killed", 176],
    ["outputs-refused", 167],
  ] as const)("a job error of reason %s has the code %i", (reason, code) => {
    expect(exitCodeOf(new JobError("x", { reason }))).toBe(code);
  });

  test("a step that failed passes on the code of what stopped it", () => {
    expect(exitCodeOf(new JobError("x", { reason: "step-failed", code: "NO_SPACE" }), "pre")).toBe(171);
    expect(exitCodeOf(new JobError("x", { reason: "step-failed" }), "post")).toBe(168);
  });

  test("the operating system's word on space and access counts, also unwrapped", () => {
    expect(exitCodeOf(Object.assign(new Error("x"), { code: "ENOSPC" }), "pre")).toBe(171);
    expect(exitCodeOf(Object.assign(new Error("x"), { code: "EACCES" }))).toBe(170);
    expect(exitCodeOf(Object.assign(new Error("x"), { code: "ENOENT" }))).toBe(191);
  });

  test("an abort is an interruption", () => {
    expect(exitCodeOf(new DOMException("stop", "AbortError"))).toBe(180);
  });

  test("a code that a newer core made up does not break the table", () => {
    expect(exitCodeOf(new StowageError("x", { code: "toString" as never }), "post")).toBe(168);
  });

  test("all codes are distinct, in our range, and explained", () => {
    const { success, ...others } = EXIT_CODES;
    const codes = Object.values(others);
    expect(success).toBe(0);
    expect(new Set(codes).size).toBe(codes.length);
    expect(codes.every((code) => code >= 160 && code <= 191)).toBe(true);
    expect(Object.keys(EXIT_CODE_MEANINGS).sort()).toEqual(Object.keys(EXIT_CODES).sort());
  });
});
