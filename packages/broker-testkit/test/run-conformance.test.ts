import { execFile } from "node:child_process";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { createMemoryBroker } from "@stowage/core";
import { wrapBroker } from "@stowage/core/broker";
import { describe, expect, test } from "vitest";
import {
  type ConformanceCase,
  type ConformanceReport,
  type ConformanceTarget,
  conformanceCases,
  conformanceSuite,
  formatReport,
  type Harness,
  type Need,
  runConformance,
  type SuiteRunner,
  type SuiteTestContext,
  verifyReport,
  wrapTarget,
} from "../src/index.ts";
import { lockedTarget, memoryTarget, SECRET } from "./targets.ts";

const declared: Need = { name: "something declared", probe: true, isMet: () => true };
const undeclared: Need = { name: "something undeclared", probe: true, isMet: () => false };
const absent: Need = { name: "something absent", probe: false, isMet: () => false };

function makeCase(id: string, run: (harness: Harness) => Promise<void>, more: Partial<ConformanceCase> = {}): ConformanceCase {
  return { id, group: "A", name: `the case ${id}`, needs: [], run, ...more };
}

async function statusOf(entry: ConformanceCase, target: ConformanceTarget = memoryTarget()): Promise<ConformanceReport["cases"][number]> {
  const report = await runConformance(target, { cases: [entry] });
  return report.cases[0]!;
}

describe("what a case comes to", () => {
  test("a case that ends well has passed", async () => {
    expect(await statusOf(makeCase("A1", async () => {}))).toMatchObject({ status: "passed" });
  });

  test("a declared capability whose case fails, fails the run", async () => {
    const entry = makeCase(
      "A1",
      async () => {
        throw new Error("it is not so");
      },
      { needs: [declared] },
    );
    const report = await runConformance(memoryTarget(), { cases: [entry, makeCase("A2", async () => {})] });
    expect(report.passed).toBe(false);
    expect(report.cases[0]).toMatchObject({ status: "failed", reason: expect.stringContaining("it is not so") });
  });

  test("an undeclared capability that holds is reported, and fails nothing", async () => {
    const report = await runConformance(memoryTarget(), {
      cases: [makeCase("A1", async () => {}, { needs: [undeclared] }), makeCase("A2", async () => {})],
    });
    expect(report.cases[0]).toMatchObject({ status: "undeclared", reason: expect.stringContaining("something undeclared") });
    expect(report.passed).toBe(true);
    expect(formatReport(report)).toContain("declare them");
  });

  test("an undeclared capability that does not hold is a skip that says so", async () => {
    const entry = makeCase(
      "A1",
      async () => {
        throw new Error("no such thing");
      },
      { needs: [undeclared] },
    );
    expect(await statusOf(entry)).toMatchObject({ status: "skipped", reason: expect.stringMatching(/not declared.*no such thing/) });
  });

  test("what is not there is not tried", async () => {
    let runs = 0;
    const entry = makeCase("A1", async () => void runs++, { needs: [absent, undeclared] });
    expect(await statusOf(entry)).toMatchObject({ status: "skipped", reason: "needs something absent" });
    expect(runs).toBe(0);
  });

  test("a case may find that it does not apply", async () => {
    expect(await statusOf(makeCase("A1", async (harness) => harness.skip("not on Tuesdays")))).toMatchObject({
      status: "skipped",
      reason: "not on Tuesdays",
    });
    expect(await statusOf(makeCase("A1", async () => {}, { skip: () => "not here" }))).toMatchObject({
      status: "skipped",
      reason: "not here",
    });
  });

  test("a case that hangs fails when its time is up", async () => {
    const entry = makeCase("A1", () => new Promise(() => {}), { timeoutMs: 50 });
    expect(await statusOf(entry)).toMatchObject({ status: "failed", reason: expect.stringContaining("did not end within 0.05 s") });
  });

  test("a place that cannot be opened fails the case", async () => {
    let opened = 0;
    const target: ConformanceTarget = {
      ...memoryTarget(),
      open: async () => {
        // The first place is for the report's own look at what is declared.
        if (opened++ > 0) throw new Error("the server is down");
        return memoryTarget().open();
      },
    };
    expect(
      await statusOf(
        makeCase("A1", async () => {}),
        target,
      ),
    ).toMatchObject({
      status: "failed",
      reason: expect.stringContaining("the server is down"),
    });
  });

  test("a broker that cannot be closed fails a case that had passed", async () => {
    const target = wrapTarget(memoryTarget(), { name: "sticky" }, (broker) =>
      wrapBroker(broker, {
        methods: {
          close: async () => {
            throw new Error("the door is stuck");
          },
        },
      }),
    );
    expect(
      await statusOf(
        makeCase("A1", async () => {}),
        target,
      ),
    ).toMatchObject({
      status: "failed",
      reason: expect.stringMatching(/cleaning up.*the door is stuck/),
    });
  });

  test("a place is cleaned up, and scratch removed, also when the case fails", async () => {
    let cleaned = 0;
    let scratch = "";
    const inner = memoryTarget();
    const target: ConformanceTarget = { ...inner, open: async () => ({ ...(await inner.open()), cleanUp: async () => void cleaned++ }) };
    await statusOf(
      makeCase("A1", async (harness) => {
        scratch = harness.scratch;
        await harness.openPlace();
        throw new Error("no");
      }),
      target,
    );
    expect(cleaned).toBe(3);
    await expect(readdir(scratch)).rejects.toThrow("ENOENT");
  });

  test("no secret of the target gets into the report", async () => {
    const entry = makeCase("A1", async () => {
      throw new Error(`wrong password ${SECRET}`);
    });
    const report = await runConformance(lockedTarget(), { cases: [entry] });
    expect(JSON.stringify(report)).not.toContain(SECRET);
    expect(report.cases[0]?.reason).toContain("wrong password …");
  });
});

describe("a run", () => {
  test("has cases enough, in all groups, with ids and sentences of their own", () => {
    expect(conformanceCases.length).toBeGreaterThanOrEqual(135);
    expect(new Set(conformanceCases.map(({ id }) => id)).size).toBe(conformanceCases.length);
    expect([...new Set(conformanceCases.map(({ group }) => group))]).toEqual(["A", "B", "C", "D", "E", "F", "G", "H", "I", "J"]);
    for (const { id, group, name } of conformanceCases) {
      expect(id.startsWith(group)).toBe(true);
      expect(name.split(" ").length, name).toBeGreaterThan(3);
    }
  });

  test("covers the facts that the contract has, each by its number", () => {
    const numbers = new Set(conformanceCases.map(({ id }) => Number.parseInt(id.slice(1), 10)));
    // 110: there is no circuit breaker. 126: spans are core's. 114 is in group J.
    const without = Array.from({ length: 131 }, (_, index) => index + 1).filter((number) => !numbers.has(number));
    expect(without).toEqual([110, 126]);
  });

  test("a selection by id or group runs just that, and certifies nothing", async () => {
    const report = await runConformance(memoryTarget(), { only: ["A133", "I118"] });
    expect(report.cases.map(({ id }) => id)).toEqual(["A133", "I118"]);
    expect(report.complete).toBe(false);
    expect(report.passed).toBe(true);
    await expect(runConformance(memoryTarget(), { only: ["Z9"] })).rejects.toThrow('"Z9"');
  });

  test("the same seed makes the same choices", async () => {
    const seen: string[] = [];
    const entry = makeCase("A1", async ({ random }) => void seen.push(`${random.word(8)} ${random.integer(0, 1e9)}`));
    for (const seed of ["one", "one", "two"]) await runConformance(memoryTarget(), { cases: [entry], seed });
    expect(seen[0]).toBe(seen[1]);
    expect(seen[2]).not.toBe(seen[0]);
  });

  test("stops before the next case when it is called off, and is not complete then", async () => {
    const stop = new AbortController();
    const cases = [makeCase("A1", async () => stop.abort()), makeCase("A2", async () => {})];
    const report = await runConformance(memoryTarget(), { cases, signal: stop.signal });
    expect(report.cases.map(({ id }) => id)).toEqual(["A1"]);
    expect(report.complete).toBe(false);
  });

  test("tells of each case as it ends, and keeps their order when several run at once", async () => {
    const cases = [30, 1, 10, 1].map((delay, index) =>
      makeCase(`A${index}`, () => new Promise((resolve) => setTimeout(resolve, delay)), { exclusive: index === 3 }),
    );
    const told: string[] = [];
    const report = await runConformance(memoryTarget(), { cases, concurrency: 3, report: ({ id }) => void told.push(id) });
    expect(report.cases.map(({ id }) => id)).toEqual(["A0", "A1", "A2", "A3"]);
    expect(told).toEqual(["A1", "A2", "A0", "A3"]);
  });
});

describe("a report", () => {
  const cases = [makeCase("A1", async () => {}), makeCase("B1", async (harness) => harness.skip("no"), { group: "B" })];

  test("says what was run with, and what the broker declares", async () => {
    const target: ConformanceTarget = { ...memoryTarget(), package: { name: "@acme/stowage-broker-x", version: "1.2.3" } };
    const report = await runConformance(target, { cases });
    expect(report.versions).toMatchObject({
      kit: "0.1.0",
      core: "0.1.0",
      node: process.versions.node,
      contract: 1,
      package: "@acme/stowage-broker-x@1.2.3",
    });
    expect(report.declared).toMatchObject({
      atomicReplace: true,
      ifAbsent: "exact",
      openRead: true,
      createSignedUrl: false,
      volume: false,
    });
    expect(formatReport(report)).toMatch(/PASSED: 1 passed, 0 failed, 1 skipped/);
    expect(formatReport(report)).not.toContain("the case A1");
    expect(formatReport(report, { verbose: true })).toContain("the case A1");
  });

  test("survives JSON, and shows when it was changed", async () => {
    const report = JSON.parse(JSON.stringify(await runConformance(memoryTarget(), { cases }))) as ConformanceReport;
    expect(verifyReport(report)).toBe(true);
    const changed = structuredClone(report) as unknown as { cases: { status: string }[]; passed: boolean; target: string };
    changed.cases[0]!.status = "failed";
    expect(verifyReport(changed as unknown as ConformanceReport)).toBe(false);
    expect(verifyReport({ ...report, passed: false })).toBe(false);
    expect(verifyReport({ ...report, target: "another" })).toBe(false);
    expect(verifyReport({ ...report, counts: { ...report.counts, failed: 1 } })).toBe(false);
  });

  test("of the same run twice has the same digest, whatever the times", async () => {
    const [first, second] = [
      await runConformance(memoryTarget(), { cases, seed: "s" }),
      await runConformance(memoryTarget(), { cases, seed: "s" }),
    ];
    expect(second.digest).toEqual(first.digest);
    const other = await runConformance(memoryTarget(), { cases: cases.slice(1), seed: "s" });
    expect(other.digest).not.toEqual(first.digest);
    expect(other.passed, "a run in which nothing passed has not passed").toBe(false);
  });
});

describe("the suite for test runners", () => {
  function record(): { runner: SuiteRunner; tests: { name: string; body: (context: SuiteTestContext) => Promise<void> }[] } {
    const tests: { name: string; body: (context: SuiteTestContext) => Promise<void> }[] = [];
    return { tests, runner: { describe: (_name, body) => body(), test: (name, body) => tests.push({ name, body }) } };
  }

  test("makes a test of each case; failures throw, skips are skips, the undeclared is told", async () => {
    const good = record();
    conformanceSuite(memoryTarget(), good.runner, { only: ["A133", "A12", "C46"] });
    expect(good.tests.map(({ name }) => name.split(" ")[0])).toEqual(["A12", "A133", "C46"]);
    const skips: (string | undefined)[] = [];
    const told: string[] = [];
    const context: SuiteTestContext = { skip: (reason) => void skips.push(reason), annotate: (message) => told.push(message) };
    for (const { body } of good.tests) await body(context);
    expect(skips).toEqual(["needs volume", "needs getFileSystemPath"]);

    const bad = record();
    const broken = wrapTarget(memoryTarget(), { name: "deaf" }, () => ({ ...createMemoryBroker(), errorCode: () => "NOPE" as never }));
    conformanceSuite(broken, bad.runner, { only: ["A134"] });
    await expect(bad.tests[0]?.body(context)).rejects.toThrow("NOPE");

    const shy = record();
    const modest = { ...memoryTarget(), traits: { ...memoryTarget().traits, keepsMediaType: false } };
    conformanceSuite(modest, shy.runner, { only: ["B29"] });
    await shy.tests[0]?.body(context);
    expect(told).toEqual([expect.stringContaining("keepsMediaType")]);
    const strict = record();
    conformanceSuite(modest, strict.runner, { only: ["B29"], failUndeclared: true });
    await expect(strict.tests[0]?.body(context)).rejects.toThrow("keepsMediaType");
  });

  test("runs under node:test", { timeout: 60_000 }, async () => {
    const directory = await mkdtemp(join(tmpdir(), "stowage-suite-"));
    try {
      const file = join(directory, "suite.test.mjs");
      const kit = pathToFileURL(join(import.meta.dirname, "../src/index.ts")).href;
      const targets = pathToFileURL(join(import.meta.dirname, "targets.ts")).href;
      await writeFile(
        file,
        `import { describe, test } from "node:test";
         import { conformanceSuite } from ${JSON.stringify(kit)};
         import { memoryTarget } from ${JSON.stringify(targets)};
         conformanceSuite(memoryTarget(), { describe, test }, { only: ["A133", "A12", "E62"] });`,
      );
      const output = await new Promise<string>((resolve) => {
        const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("NODE_TEST")));
        execFile(process.execPath, ["--test", "--test-reporter=tap", file], { env: environment }, (_error, stdout) => resolve(stdout));
      });
      expect(output).toMatch(/# pass 2\b/);
      expect(output).toMatch(/# skipped 1\b/);
      expect(output).toMatch(/# fail 0\b/);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  });
});

conformanceSuite(memoryTarget(), { describe, test }, { only: ["A", "C37", "C46"] });
