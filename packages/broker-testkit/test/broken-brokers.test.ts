import { describe, expect, test } from "vitest";
import { type BrokenBase, breakTarget, brokenBrokers, type ConformanceTarget, formatReport, runConformance } from "../src/index.ts";
import { conformanceTarget as hastyTarget } from "./crashing-target.ts";
import { conformanceTarget as hostTarget } from "./host-target.ts";
import { faultyMemoryTarget, lockedTarget, memoryTarget } from "./targets.ts";

const GOOD: Readonly<Record<BrokenBase, () => ConformanceTarget>> = {
  anything: memoryTarget,
  faults: faultyMemoryTarget,
  copying: () => faultyMemoryTarget({ movesByCopy: true }),
  directory: () => hostTarget,
  secrets: lockedTarget,
};

/** What has nothing to do with any of the faults: a broker that fails here too is not broken in the way that it says. */
const HARMLESS = ["A2", "A133", "I118"];

describe("the kit fails every broken broker, for the right reason", () => {
  for (const broken of brokenBrokers) {
    test(`a broker that ${broken.name}`, { timeout: 120_000 }, async () => {
      const target = GOOD[broken.base]();
      const only = [...broken.caughtBy, ...HARMLESS];
      const report = await runConformance(breakTarget(target, broken), { only });
      const failed = report.cases.filter(({ status }) => status === "failed").map(({ id }) => id);
      expect(failed.sort(), formatReport(report, { verbose: true })).toEqual([...broken.caughtBy].sort());
      expect(report.passed).toBe(false);
      // None of them proves itself by an experiment that proved nothing, or that could not begin.
      for (const { status, reason } of report.cases)
        if (status === "failed") expect(reason).not.toMatch(/nothing is proven|could not be opened/);
    });
  }

  test("a broker whose files another process can see half, or that a kill cuts off", { timeout: 120_000 }, async () => {
    const report = await runConformance(hastyTarget, { only: ["J114", "J129", ...HARMLESS], seed: "cut" });
    const failed = report.cases.filter(({ status }) => status === "failed").map(({ id, reason }) => [id, reason]);
    expect(failed).toEqual([
      ["J129", expect.stringMatching(/a reader saw|missing for a moment/)],
      ["J114", expect.stringMatching(/round \d+ of seed .*killed .*(churn\/\d is|was stored and is lost|version)/)],
    ]);
  });

  test("there are enough of them, each with a name of its own", () => {
    expect(brokenBrokers.length).toBeGreaterThanOrEqual(80);
    expect(new Set(brokenBrokers.map(({ name }) => name)).size).toBe(brokenBrokers.length);
  });

  for (const [base, good] of Object.entries(GOOD)) {
    test(`without a fault the same cases pass: ${base}`, { timeout: 120_000 }, async () => {
      const only = [...new Set(brokenBrokers.filter((broken) => broken.base === base).flatMap(({ caughtBy }) => caughtBy)), ...HARMLESS];
      const report = await runConformance(good(), { only, concurrency: 4 });
      expect(report.passed, formatReport(report)).toBe(true);
      expect(report.counts.skipped, formatReport(report, { verbose: true })).toBe(0);
    });
  }
});
