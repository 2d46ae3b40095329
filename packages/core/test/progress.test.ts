import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createProgressTracker } from "../src/lib/progress.ts";
import type { Progress } from "../src/lib/transfer-options.ts";

describe("progress", () => {
  test("reports an item's bytes and its end", () => {
    const reports: Progress[] = [];
    const tracker = createProgressTracker((progress) => reports.push(progress), { total: 1, totalBytes: 10 });
    const part = tracker.part("item", 10);
    part.begin();
    part.add(4);
    part.itemEnded("item", 10, 10);
    part.close();
    expect(reports).toEqual([
      { item: "item", itemBytes: 4, itemTotal: 10, bytes: 4, totalBytes: 10, done: 0, total: 1 },
      { item: "item", itemBytes: 10, itemTotal: 10, bytes: 10, totalBytes: 10, done: 1, total: 1 },
    ]);
  });

  test("at most ten reports a second between an item's beginning and its end", async () => {
    const reports: Progress[] = [];
    const part = createProgressTracker((progress) => reports.push(progress), {}).part("item");
    part.begin();
    const before = performance.now();
    while (performance.now() - before < 250) {
      part.add(1);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    expect(reports.length).toBeGreaterThanOrEqual(2);
    expect(reports.length).toBeLessThanOrEqual(4);
  });

  test("what the listener throws is ignored", () => {
    const tracker = createProgressTracker(() => {
      throw new Error("display gone");
    }, {});
    const part = tracker.part("item");
    part.add(1);
    part.itemEnded("item", 1, 1);
    tracker.itemEnded("other", undefined);
  });

  test("a chunk counts its bytes as they move and its items as they end, never twice", () => {
    const reports: Progress[] = [];
    const tracker = createProgressTracker((progress) => reports.push(progress), { total: 2 });
    const part = tracker.part();
    part.begin();
    part.add(30);
    part.itemEnded("a", undefined, 10);
    part.itemEnded("b", undefined, 20);
    part.close();
    expect(reports.map(({ item, bytes, done }) => ({ item, bytes, done }))).toEqual([
      { item: undefined, bytes: 30, done: 0 },
      { item: "a", bytes: 30, done: 1 },
      { item: "b", bytes: 30, done: 2 },
    ]);
    expect(reports[0]).not.toHaveProperty("item");
  });

  test("neither an item's bytes nor the batch's ever fall, whatever is repeated, fails or ends", () => {
    const event = fc.oneof(
      fc.record({ kind: fc.constant("begin" as const), part: fc.nat(3) }),
      fc.record({ kind: fc.constant("add" as const), part: fc.nat(3), bytes: fc.nat(1000) }),
      fc.record({ kind: fc.constant("end" as const), part: fc.nat(3), bytes: fc.option(fc.nat(1000), { nil: undefined }) }),
    );
    fc.assert(
      fc.property(fc.array(event, { maxLength: 60 }), (events) => {
        const last = new Map<unknown, number>();
        let bytes = 0;
        let done = 0;
        const falls: Progress[] = [];
        const tracker = createProgressTracker((progress) => {
          // What a listener throws is ignored, so nothing may be asserted here.
          if (progress.bytes < bytes || progress.done < done) falls.push(progress);
          ({ bytes, done } = progress);
          if (progress.item !== "chunk item") {
            if (progress.itemBytes < (last.get(progress.item) ?? 0)) falls.push(progress);
            last.set(progress.item, progress.itemBytes);
          }
        }, {});
        const parts = [tracker.part("item 0"), tracker.part("item 1"), tracker.part("item 2"), tracker.part()];
        const ended = new Set<number>();
        for (const step of events) {
          const part = parts[step.part]!;
          if (ended.has(step.part)) continue;
          if (step.kind === "begin") part.begin();
          else if (step.kind === "add") part.add(step.bytes);
          else if (step.part === 3) part.itemEnded("chunk item", undefined, step.bytes);
          else {
            part.itemEnded(`item ${step.part}`, undefined, step.bytes);
            part.close();
            ended.add(step.part);
          }
        }
        expect(falls).toEqual([]);
      }),
    );
  });
});
