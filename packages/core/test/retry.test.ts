import { getEventListeners } from "node:events";
import { describe, expect, test } from "vitest";
import type { ErrorFacts } from "../src/lib/broker.ts";
import { nextRetryDelay, resolveRetryOptions, retry, sleep } from "../src/lib/retry.ts";

const unavailable: ErrorFacts = { code: "UNAVAILABLE" };
const quick = { baseDelayMs: 1, maxDelayMs: 2 };
const classify = (): ErrorFacts => unavailable;

describe("retry", () => {
  test("repeats a retryable failure and tells how many attempts it took", async () => {
    const attempts: number[] = [];
    const result = await retry(
      async (attempt) => {
        attempts.push(attempt);
        if (attempt < 3) throw new Error("not yet");
        return "there";
      },
      { options: quick, classify },
    );
    expect(result).toEqual({ value: "there", attempts: 3 });
    expect(attempts).toEqual([1, 2, 3]);
  });

  test("raises the failure of the last attempt, not of the first", async () => {
    const run = retry(async (attempt) => Promise.reject(new Error(`failure ${attempt}`)), { options: { ...quick, attempts: 3 }, classify });
    await expect(run).rejects.toThrow("failure 3");
  });

  test("never repeats what is not retryable", async () => {
    let attempts = 0;
    const run = retry(
      async () => {
        attempts++;
        throw new Error("denied");
      },
      { options: quick, classify: () => ({ code: "PERMISSION_DENIED" }) },
    );
    await expect(run).rejects.toThrow("denied");
    expect(attempts).toBe(1);
  });

  test("believes a broker that calls a code retryable, or not, against the code's habit", async () => {
    const policy = resolveRetryOptions();
    const state = { attempts: 1, startedAt: performance.now() };
    expect(nextRetryDelay({ code: "CONFLICT", retryable: true }, policy, state)).toBeTypeOf("number");
    expect(nextRetryDelay({ code: "UNAVAILABLE", retryable: false }, policy, state)).toBeUndefined();
  });

  test("never waits less than the backend asked for, even beyond the longest own wait", async () => {
    const policy = resolveRetryOptions({ baseDelayMs: 1, maxDelayMs: 2 });
    for (let round = 0; round < 50; round++) {
      const delay = nextRetryDelay({ code: "RATE_LIMITED", retryAfterMs: 700 }, policy, { attempts: 1, startedAt: performance.now() });
      expect(delay).toBeGreaterThanOrEqual(700);
    }
    const before = performance.now();
    await retry(async (attempt) => (attempt === 1 ? Promise.reject(new Error("slow down")) : attempt), {
      options: quick,
      classify: () => ({ code: "RATE_LIMITED", retryAfterMs: 60 }),
    });
    expect(performance.now() - before).toBeGreaterThanOrEqual(59);
  });

  test("waits at random between nothing and a bound that doubles up to the longest wait", () => {
    const policy = resolveRetryOptions({ attempts: 20, baseDelayMs: 100, maxDelayMs: 1000 });
    const delays = (attempts: number): number[] =>
      Array.from({ length: 300 }, () => nextRetryDelay(unavailable, policy, { attempts, startedAt: performance.now() })!);
    for (const [attempts, bound] of [
      [1, 100],
      [2, 200],
      [4, 800],
      [5, 1000],
      [12, 1000],
    ] as const) {
      const seen = delays(attempts);
      expect(Math.max(...seen)).toBeLessThanOrEqual(bound);
      expect(Math.max(...seen)).toBeGreaterThan(bound * 0.8);
      expect(Math.min(...seen)).toBeLessThan(bound * 0.2);
    }
  });

  test("gives up when the wait would go beyond the budget or the deadline", () => {
    const startedAt = performance.now() - 900;
    const facts: ErrorFacts = { code: "RATE_LIMITED", retryAfterMs: 200 };
    expect(nextRetryDelay(facts, resolveRetryOptions({ budgetMs: 1000 }), { attempts: 1, startedAt })).toBeUndefined();
    expect(nextRetryDelay(facts, resolveRetryOptions({ budgetMs: 60_000 }), { attempts: 1, startedAt })).toBeTypeOf("number");
    const soon = new Date(Date.now() + 100);
    expect(nextRetryDelay(facts, resolveRetryOptions(), { attempts: 1, startedAt, deadline: soon })).toBeUndefined();
  });

  test("an abort ends the wait between attempts at once, with the reason", async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    const before = performance.now();
    const run = retry(async () => Promise.reject(new Error("busy")), {
      options: { baseDelayMs: 60_000, maxDelayMs: 60_000, budgetMs: 600_000 },
      classify: () => ({ code: "RATE_LIMITED", retryAfterMs: 60_000 }),
      signal: controller.signal,
    });
    setTimeout(() => controller.abort(reason), 20);
    await expect(run).rejects.toBe(reason);
    expect(performance.now() - before).toBeLessThan(1000);
  });

  test("a sleep leaves no listener on the signal", async () => {
    const controller = new AbortController();
    await Promise.all(Array.from({ length: 20 }, () => sleep(1, controller.signal)));
    expect(getEventListeners(controller.signal, "abort")).toHaveLength(0);
  });
});
