import { getEventListeners } from "node:events";
import { describe, expect, test } from "vitest";
import { createLimits, defaultLimits } from "../src/lib/limits.ts";
import { sleep } from "../src/lib/retry.ts";

describe("limits", () => {
  test("let no more files move than allowed, and admit in the order of asking", async () => {
    const limits = createLimits({ files: 2 });
    const admitted: number[] = [];
    let moving = 0;
    let most = 0;
    await Promise.all(
      Array.from({ length: 10 }, async (_, index) => {
        const place = await limits.acquireFile();
        admitted.push(index);
        most = Math.max(most, ++moving);
        await sleep(1);
        moving--;
        place[Symbol.dispose]();
      }),
    );
    expect(most).toBe(2);
    expect(admitted).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  test("without a number of files nobody waits", async () => {
    const limits = createLimits();
    await Promise.all(Array.from({ length: 1000 }, () => limits.acquireFile()));
  });

  test("a large reservation is not starved by small ones that come later", async () => {
    const limits = createLimits({ memoryBytes: 10 });
    const first = await limits.reserve(6);
    const order: string[] = [];
    const large = limits.reserve(8).then((room) => {
      order.push("large");
      return room;
    });
    const small = limits.reserve(2).then((room) => {
      order.push("small");
      return room;
    });
    await sleep(5);
    expect(order).toEqual([]);
    first[Symbol.dispose]();
    (await large)[Symbol.dispose]();
    (await small)[Symbol.dispose]();
    expect(order).toEqual(["large", "small"]);
  });

  test("more than the whole budget waits for all of it, and gets it", async () => {
    const limits = createLimits({ memoryBytes: 10 });
    const small = await limits.reserve(1);
    let granted = false;
    const all = limits.reserve(1000).then((room) => {
      granted = true;
      return room;
    });
    await sleep(5);
    expect(granted).toBe(false);
    small[Symbol.dispose]();
    const room = await all;
    room[Symbol.dispose]();
    // Disposed twice, it is given back once.
    room[Symbol.dispose]();
    await limits.reserve(10);
    const waiting = limits.reserve(1).then(() => "granted");
    expect(await Promise.race([waiting, sleep(10).then(() => "waiting")])).toBe("waiting");
  });

  test("an abort ends a wait, frees its place in the queue and leaves no listener", async () => {
    const limits = createLimits({ files: 1, memoryBytes: 4 });
    const place = await limits.acquireFile();
    const controller = new AbortController();
    const given = limits.acquireFile(controller.signal);
    const behind = limits.acquireFile();
    controller.abort(new Error("no longer"));
    await expect(given).rejects.toThrow("no longer");
    place[Symbol.dispose]();
    (await behind)[Symbol.dispose]();
    await expect(limits.reserve(1, controller.signal)).rejects.toThrow("no longer");

    const used = new AbortController();
    const held = await limits.reserve(4);
    const waits = Array.from({ length: 30 }, () => limits.reserve(4, used.signal).then((room) => room[Symbol.dispose]()));
    held[Symbol.dispose]();
    await Promise.all(waits);
    expect(getEventListeners(used.signal, "abort")).toHaveLength(0);
  });

  test("a cancelled waiter at the head lets those behind it pass when they fit", async () => {
    const limits = createLimits({ memoryBytes: 10 });
    await limits.reserve(6);
    const controller = new AbortController();
    const large = limits.reserve(9, controller.signal);
    const small = limits.reserve(3);
    controller.abort();
    await expect(large).rejects.toThrow();
    (await small)[Symbol.dispose]();
  });

  test("bandwidth is held over time, after a short burst", async () => {
    const limits = createLimits({ bytesPerSecond: 100_000 });
    const before = performance.now();
    for (let chunk = 0; chunk < 30; chunk++) await limits.throttle(1000);
    const elapsed = performance.now() - before;
    // 30,000 bytes at 100,000 a second are 300 ms, 100 of which may be used ahead of time.
    expect(elapsed).toBeGreaterThan(150);
    expect(elapsed).toBeLessThan(1500);
  });

  test("an abort ends a wait for bandwidth", async () => {
    const limits = createLimits({ bytesPerSecond: 10 });
    const controller = new AbortController();
    const wait = limits.throttle(10_000, controller.signal);
    controller.abort(new Error("stop"));
    await expect(wait).rejects.toThrow("stop");
    // What was not used is not paid for.
    await limits.throttle(0.5);
  });

  test.each([{ files: 0 }, { files: 0.5 }, { memoryBytes: -1 }, { bytesPerSecond: Number.NaN }])("%o is refused", (options) => {
    expect(() => createLimits(options)).toThrow(RangeError);
  });

  test("the default limits are one object for the whole process", () => {
    expect(defaultLimits()).toBe(defaultLimits());
    expect((globalThis as { [key: symbol]: { limits?: unknown } })[Symbol.for("@stowage/core/1")]?.limits).toBe(defaultLimits());
  });
});
