import { describe, expect, test } from "vitest";
import { type ConformanceTarget, formatReport, runConformance } from "../src/index.ts";
import { faultyMemoryTarget, lockedTarget, memoryTarget, wrappedTargets } from "./targets.ts";

const targets: ConformanceTarget[] = [
  memoryTarget(),
  lockedTarget(),
  faultyMemoryTarget(),
  faultyMemoryTarget({ movesByCopy: true }),
  ...wrappedTargets(memoryTarget()),
];

describe("the memory broker and every wrapper pass", () => {
  for (const target of targets) {
    test(target.name, { timeout: 180_000 }, async () => {
      const report = await runConformance(target, { concurrency: 4 });
      expect(report.passed, formatReport(report)).toBe(true);
      expect(report.complete).toBe(true);
      expect(report.counts.undeclared, formatReport(report)).toBe(0);
    });
  }
});
