import { fstatSync, openSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { OpenFile } from "../src/lib/posix/open-file.ts";
import { describePosixError, errnoName, posixErrorCode, posixErrorFacts } from "../src/lib/posix/posix-errors.ts";
import { runSteps, type Steps, wait } from "../src/lib/posix/steps.ts";
import { untilAbort } from "../src/lib/posix/until-abort.ts";
import { StowageError } from "../src/lib/stowage-error.ts";
import { PosixFixture } from "./support/posix-volume.ts";

let fixture: PosixFixture;
beforeEach(() => {
  fixture = new PosixFixture();
});
afterEach(() => fixture.remove());

function systemError(code: string, errno: number): Error {
  return Object.assign(new Error(`${code}: failed, open '/proc/self/fd/7/x'`), { code, errno });
}

describe("errors of file systems", () => {
  test.runIf(process.platform === "linux")("are known also where Node has no name for them", () => {
    const unnamed = (errno: number): Error => systemError(`Unknown system error -${errno}`, -errno);
    expect(errnoName(unnamed(116))).toBe("ESTALE");
    expect(posixErrorFacts(unnamed(116))).toBe("STALE_HANDLE");
    expect(posixErrorFacts(unnamed(122))).toBe("QUOTA_EXCEEDED");
    expect(posixErrorFacts(unnamed(112))).toBe("UNAVAILABLE");
    expect(posixErrorFacts(unnamed(512))).toBe("UNAVAILABLE");
    expect(errnoName(unnamed(4000))).toBeUndefined();
    expect(posixErrorFacts(unnamed(4000))).toBe("UNKNOWN");
  });

  test.each([
    ["ENOENT", "FILE_NOT_FOUND"],
    ["EEXIST", "FILE_EXISTS"],
    ["EISDIR", "NOT_A_FILE"],
    ["EACCES", "PERMISSION_DENIED"],
    ["EPERM", "PERMISSION_DENIED"],
    ["EROFS", "READ_ONLY"],
    ["ENOSPC", "NO_SPACE"],
    ["EDQUOT", "QUOTA_EXCEEDED"],
    ["ENAMETOOLONG", "INVALID_PATH"],
    ["ESTALE", "STALE_HANDLE"],
    ["EIO", "UNAVAILABLE"],
    ["EMFILE", "UNAVAILABLE"],
    ["EBUSY", "UNAVAILABLE"],
    ["ETIMEDOUT", "TIMEOUT"],
    ["EHOSTDOWN", "UNAVAILABLE"],
    ["ENOTCONN", "VOLUME_NOT_MOUNTED"],
    ["EXDEV", "UNSUPPORTED"],
  ])("%s is %s, and its message names the file and no path under /proc", (errno, code) => {
    expect(posixErrorCode(systemError(errno, -1))).toBe(code);
    const error = describePosixError(systemError(errno, -1), { action: "open", path: "a/\u001b[31mb", side: "workspace" }) as StowageError;
    expect(error).toMatchObject({ code, file: "a/\u001b[31mb", cause: { code: errno } });
    expect(error.message).toContain(`"a/\\u{1b}[31mb"`);
    expect(error.message).toContain(errno);
    expect(error.message).not.toContain("/proc");
    expect(describePosixError(systemError(errno, -1), { action: "open", path: "/x", side: "local" })).toMatchObject({
      file: undefined,
      message: expect.stringContaining("local file"),
    });
  });

  test("that are none stay as they are", () => {
    const other = new TypeError("a mistake");
    expect(describePosixError(other, { action: "open", path: "a", side: "workspace" })).toBe(other);
    const known = new StowageError("known", { code: "CONFLICT" });
    expect(describePosixError(known, { action: "open", path: "a", side: "workspace" })).toBe(known);
    expect(posixErrorFacts(known)).toEqual({ code: "CONFLICT", retryable: false, retryAfterMs: undefined });
    expect(posixErrorFacts(other)).toBe("UNKNOWN");
    expect(posixErrorFacts(undefined)).toBe("UNKNOWN");
    expect(posixErrorFacts(AbortSignal.abort().reason)).toBe("CANCELLED");
    expect(posixErrorFacts(Object.assign(new Error("late"), { name: "TimeoutError" }))).toBe("TIMEOUT");
  });
});

describe("a file that is open", () => {
  test("is closed once, and not while a thread uses it", async () => {
    const file = new OpenFile(openSync(fixture.localFile("file"), "r"));
    const isOpen = (): boolean => {
      try {
        return fstatSync(file.fd).isFile();
      } catch {
        return false;
      }
    };
    const one = Promise.withResolvers<void>();
    const other = Promise.withResolvers<void>();
    file.useUntil(one.promise);
    file.useUntil(other.promise);
    file.discard();
    file.close();
    expect(isOpen()).toBe(true);
    one.reject(new Error("nobody hears this"));
    await Promise.allSettled([one.promise]);
    expect(isOpen()).toBe(true);
    other.resolve();
    await other.promise;
    await Promise.resolve();
    expect(isOpen()).toBe(false);
    const closing = new OpenFile(openSync(fixture.localFile("file"), "r"));
    const use = Promise.withResolvers<void>();
    closing.useUntil(use.promise);
    closing.close();
    expect(fstatSync(closing.fd).isFile()).toBe(true);
    use.resolve();
    await use.promise;
    await Promise.resolve();
    expect(() => fstatSync(closing.fd)).toThrow("EBADF");
    const next = openSync(fixture.localFile("next"), "r");
    file.close();
    closing.close();
    file.discard();
    expect(fstatSync(next).isFile()).toBe(true);
  });
});

describe("steps", () => {
  test("without anything to wait for are done at once, with their value or error", () => {
    function* steps(fails: boolean): Steps<number> {
      if (fails) throw new Error("failed");
      return 7;
    }
    expect(runSteps(steps(false))).toBe(7);
    expect(() => runSteps(steps(true))).toThrow("failed");
  });

  test("that wait give a promise, see failures where they wait, and clean up", async () => {
    const log: string[] = [];
    function* steps(): Steps<string> {
      try {
        const first = yield* wait(Promise.resolve("one"));
        log.push(first);
        try {
          yield* wait(Promise.reject(new Error("two")));
        } catch (error) {
          log.push((error as Error).message);
        }
        return yield* wait(Promise.resolve("three"));
      } finally {
        log.push("cleaned");
      }
    }
    expect(await runSteps(steps())).toBe("three");
    expect(log).toEqual(["one", "two", "cleaned"]);
    function* failing(): Steps<void> {
      yield* wait(Promise.resolve());
      throw new Error("later");
    }
    await expect(runSteps(failing())).rejects.toThrow("later");
  });
});

describe("waiting until an abort", () => {
  test("gives the work's end, or the signal's reason with the work let go", async () => {
    const changes: number[] = [];
    const note = (change: number): void => void changes.push(change);
    const controller = new AbortController();
    expect(await untilAbort(Promise.resolve(1), controller.signal, note)).toBe(1);
    await expect(untilAbort(Promise.reject(new Error("failed")), controller.signal, note)).rejects.toThrow("failed");
    expect(changes).toEqual([]);
    const work = Promise.withResolvers<void>();
    const waiting = untilAbort(work.promise, controller.signal, note);
    controller.abort(new Error("enough"));
    await expect(waiting).rejects.toThrow("enough");
    expect(changes).toEqual([1]);
    work.reject(new Error("nobody hears this"));
    await Promise.allSettled([work.promise]);
    await Promise.resolve();
    expect(changes).toEqual([1, -1]);
    await expect(untilAbort(new Promise(() => {}), controller.signal)).rejects.toThrow("enough");
  });
});
