import { getEventListeners } from "node:events";
import { afterEach, describe, expect, test } from "vitest";
import type { OperationContext } from "../src/lib/broker.ts";
import { createLimits } from "../src/lib/limits.ts";
import { createOperationScope, createTemporaryId, type OperationScope, type ScopeOptions } from "../src/lib/operation-context.ts";
import { sleep } from "../src/lib/retry.ts";
import { StowageError } from "../src/lib/stowage-error.ts";
import { forever, untilAborted } from "./support/brokers.ts";

const scopes: OperationScope[] = [];

function scopeWith(options: Partial<ScopeOptions> = {}): OperationScope {
  const scope = createOperationScope({
    limits: createLimits(),
    journal: { record: async () => undefined, settle: async () => undefined },
    log: () => undefined,
    ...options,
  });
  scopes.push(scope);
  return scope;
}

afterEach(() => {
  for (const scope of scopes.splice(0)) scope.dispose();
});

const cancelled = new StowageError("stop", { code: "CANCELLED" });

describe("an operation's context", () => {
  test("survives being spread, as brokers do to change a part of it", async () => {
    const scope = scopeWith();
    const result = await scope.run(async (context) => {
      const copy: OperationContext = { ...context, temporaryId: `${context.temporaryId}-1` };
      (await copy.reserve(10))[Symbol.dispose]();
      await copy.throttle(10);
      copy.progress(1);
      return copy.signal === context.signal && !copy.signal.aborted;
    });
    expect(result).toMatchObject({ ok: true, value: true });
  });

  test("has an id of letters and digits that never repeats", () => {
    const ids = new Set(Array.from({ length: 10_000 }, createTemporaryId));
    expect(ids.size).toBe(10_000);
    for (const id of ids) expect(id).toMatch(/^[0-9a-z]+$/u);
  });

  test("hands on durability, checksum, ifExists, deadline, with their defaults", async () => {
    const deadline = new Date(Date.now() + 60_000);
    const seen = async (scope: OperationScope): Promise<unknown> => {
      const result = await scope.run(async ({ durability, checksum, ifExists, deadline: until }) => [
        durability,
        checksum,
        ifExists,
        until,
      ]);
      return result.ok && result.value;
    };
    expect(await seen(scopeWith())).toEqual(["process", "auto", "replace", undefined]);
    const chosen = scopeWith({ durability: "power", checksum: "md5", ifExists: "skip", deadline });
    expect(await seen(chosen)).toEqual(["power", "md5", "skip", deadline]);
  });

  test("a call that throws instead of rejecting is a failure like any other", async () => {
    const result = await scopeWith().run(() => {
      throw new Error("thrown");
    });
    expect(result).toMatchObject({ ok: false, error: new Error("thrown"), reason: undefined, abandoned: false });
  });
});

describe("the end of a scope", () => {
  test("the caller's abort reaches what runs, and is the reason of what comes after", async () => {
    const controller = new AbortController();
    const scope = scopeWith({ signal: controller.signal });
    const run = scope.run(({ signal }) => untilAborted(signal));
    controller.abort(new Error("the user pressed a key"));
    const result = await run;
    expect(result).toMatchObject({ ok: false, reason: { code: "CANCELLED", cause: new Error("the user pressed a key") } });
    let called = false;
    const late = await scope.run(async () => {
      called = true;
    });
    expect(late).toMatchObject({ ok: false, reason: { code: "CANCELLED" } });
    expect(called).toBe(false);
  });

  test("a call that ignores the abort is abandoned within a second, its temporary name reported", async () => {
    const scope = scopeWith();
    let temporaryId = "";
    const run = scope.run((context) => {
      temporaryId = context.temporaryId;
      return forever();
    });
    const before = performance.now();
    scope.cancel(cancelled);
    const result = await run;
    expect(performance.now() - before).toBeLessThan(1000);
    expect(performance.now() - before).toBeGreaterThan(500);
    expect(result).toMatchObject({ ok: false, abandoned: true, leftovers: [`.stowage-${temporaryId}`] });
  });

  test("clean-up after an abort is waited for, and what it could not remove is told", async () => {
    const scope = scopeWith();
    let cleaned = false;
    const run = scope.run(async ({ signal }) => {
      try {
        await untilAborted(signal);
      } catch (error) {
        await sleep(50);
        cleaned = true;
        throw Object.assign(new Error("stopped"), { leftovers: ["part-1"], cause: error });
      }
    });
    scope.cancel(cancelled);
    const result = await run;
    expect(cleaned).toBe(true);
    expect(result).toMatchObject({ ok: false, abandoned: false, leftovers: ["part-1"] });
  });

  test("what succeeds in spite of the abort has succeeded", async () => {
    const scope = scopeWith();
    const run = scope.run(() => sleep(30).then(() => "stored"));
    scope.cancel(cancelled);
    expect(await run).toMatchObject({ ok: true, value: "stored" });
  });

  test("the deadline ends it with TIMEOUT, one in the past at once", async () => {
    const scope = scopeWith({ deadline: new Date(Date.now() + 40) });
    const result = await scope.run(({ signal }) => untilAborted(signal));
    expect(result).toMatchObject({ ok: false, reason: { code: "TIMEOUT", retryable: false } });
    expect(scopeWith({ deadline: new Date(0) }).ended?.code).toBe("TIMEOUT");
  });

  test("a deadline years away does not end it now, nor overflow a timer", async () => {
    const warnings: string[] = [];
    const onWarning = (warning: Error): void => void warnings.push(warning.name);
    process.on("warning", onWarning);
    const scope = scopeWith({ deadline: new Date(Date.now() + 90 * 24 * 3600 * 1000) });
    await sleep(20);
    process.off("warning", onWarning);
    expect(scope.ended).toBeUndefined();
    expect(warnings).toEqual([]);
  });

  test("reaches everything that still runs, in whatever order the rest has ended", async () => {
    const orders = [
      [0, 2, 1],
      [2, 0],
      [1, 4, 0],
      [0, 4, 3, 1],
      [4, 3, 2, 1, 0],
    ];
    for (const order of orders) {
      const scope = scopeWith();
      const finish: (() => void)[] = [];
      const runs = Array.from({ length: 5 }, (_, index) =>
        scope.run(({ signal }) =>
          Promise.race([new Promise<void>((resolve) => finish.push(resolve)), untilAborted(signal)]).then(() => index),
        ),
      );
      for (const index of order) {
        finish[index]!();
        await runs[index];
      }
      scope.cancel(cancelled);
      const results = await Promise.all(runs);
      expect(results.map(({ ok }) => ok)).toEqual(Array.from({ length: 5 }, (_, index) => order.includes(index)));
      for (const result of results) if (!result.ok) expect(result).toMatchObject({ reason: cancelled, abandoned: false });
    }
  });

  test("many scopes on one signal leave no listener behind", async () => {
    const controller = new AbortController();
    for (let round = 0; round < 50; round++) {
      const scope = scopeWith({ signal: controller.signal });
      await scope.run(async () => undefined);
      expect(getEventListeners(controller.signal, "abort")).toHaveLength(1);
      scope.dispose();
    }
    expect(getEventListeners(controller.signal, "abort")).toHaveLength(0);
  });

  test("an epilogue runs after the end, is not aborted, and is abandoned when the second is over", async () => {
    const scope = scopeWith();
    scope.cancel(cancelled);
    const done = await scope.run(async ({ signal }) => sleep(20).then(() => signal.aborted), { epilogue: true });
    expect(done).toMatchObject({ ok: true, value: false });
    const before = performance.now();
    expect(await scope.run(() => forever(), { epilogue: true })).toMatchObject({ ok: false, abandoned: true });
    expect(performance.now() - before).toBeLessThan(950);
  });
});

describe("the stall watchdog", () => {
  test("ends an attempt in which nothing moves with STALLED, and only that", async () => {
    const scope = scopeWith({ stallTimeoutMs: 60 });
    const lively = scope.run(async ({ progress }) => {
      for (let round = 0; round < 12; round++) {
        await sleep(20);
        progress(0);
      }
      return "arrived";
    });
    const stuck = await scope.run(({ signal }) => untilAborted(signal));
    expect(stuck).toMatchObject({ ok: false, reason: { code: "STALLED", retryable: true } });
    expect(await lively).toMatchObject({ ok: true, value: "arrived" });
    expect(scope.ended).toBeUndefined();
  });

  test("to wait for bandwidth or memory is no stall", async () => {
    const limits = createLimits({ memoryBytes: 10, bytesPerSecond: 1000 });
    const scope = scopeWith({ stallTimeoutMs: 40, limits });
    const room = await limits.reserve(10);
    setTimeout(() => room[Symbol.dispose](), 200);
    const result = await scope.run(async (context) => {
      (await context.reserve(5))[Symbol.dispose]();
      await context.throttle(300);
      return "patient";
    });
    expect(result).toMatchObject({ ok: true, value: "patient" });
  });

  test("0 never", async () => {
    const scope = scopeWith({ stallTimeoutMs: 0 });
    expect(await scope.run(() => sleep(100).then(() => "slow"))).toMatchObject({ ok: true, value: "slow" });
  });

  test("an abort ends the wait for memory", async () => {
    const limits = createLimits({ memoryBytes: 1 });
    await limits.reserve(1);
    const scope = scopeWith({ limits });
    const run = scope.run((context) => context.reserve(1));
    scope.cancel(cancelled);
    const before = performance.now();
    expect(await run).toMatchObject({ ok: false, abandoned: false });
    expect(performance.now() - before).toBeLessThan(300);
  });
});

describe("a lease", () => {
  test("outlives single calls; between them nothing stalls, in them it does", async () => {
    const scope = scopeWith({ stallTimeoutMs: 50 });
    const lease = scope.lease();
    expect(await lease.guard(async () => 1)).toBe(1);
    await sleep(150);
    expect(await lease.guard(async () => 2)).toBe(2);
    await expect(lease.guard(() => untilAborted(lease.context.signal))).rejects.toMatchObject({ code: "STALLED" });
    lease.release();
  });

  test("a call that ends does not hide that another stalls", async () => {
    const scope = scopeWith({ stallTimeoutMs: 50 });
    const lease = scope.lease();
    const stuck = lease.guard(() => untilAborted(lease.context.signal));
    await lease.guard(async () => undefined);
    await expect(Promise.race([stuck, sleep(2000)])).rejects.toMatchObject({ code: "STALLED" });
  });

  test("a call that hangs is abandoned when the scope ends, and none begins after", async () => {
    const scope = scopeWith();
    const lease = scope.lease();
    const before = performance.now();
    const hung = lease.guard(() => forever());
    scope.cancel(cancelled);
    await expect(hung).rejects.toBe(cancelled);
    expect(performance.now() - before).toBeLessThan(1000);
    let called = false;
    const late = lease.guard(async () => {
      called = true;
    });
    await expect(late).rejects.toBe(cancelled);
    expect(called).toBe(false);
  });
});
