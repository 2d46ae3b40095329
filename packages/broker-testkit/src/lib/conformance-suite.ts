import { randomBytes } from "node:crypto";
import type { ConformanceCase } from "./conformance-case.ts";
import { CONFORMANCE_GROUPS, type ConformanceGroup } from "./conformance-case.ts";
import { conformanceCases } from "./conformance-cases.ts";
import type { CaseResult } from "./conformance-report.ts";
import type { ConformanceTarget } from "./conformance-target.ts";
import { runCase, selectCases } from "./run-conformance.ts";

/** What a test runner gives to a running test, as far as the kit uses it. */
export interface SuiteTestContext {
  skip?(reason?: string): void;
  /** node:test. */
  diagnostic?(message: string): void;
  /** vitest. */
  annotate?(message: string): unknown;
}

/** A test runner: `node:test`, vitest, or anything else with these two functions. */
export interface SuiteRunner {
  describe(name: string, body: () => void): unknown;
  test(name: string, body: (context: SuiteTestContext) => Promise<void>): unknown;
}

export interface SuiteOptions {
  /** Ids, groups, or a function. */
  readonly only?: readonly string[] | ((entry: ConformanceCase) => boolean) | undefined;
  readonly seed?: string | undefined;
  readonly soak?: boolean | undefined;
  /** Fail where a promise is kept that the broker does not declare, instead of only saying so. Defaults to false. */
  readonly failUndeclared?: boolean | undefined;
}

/**
 * Makes one test of each conformance case: `conformanceSuite(target, { describe, test })`. Give the tests of your runner a minute each;
 * the kit has time limits of its own.
 */
export function conformanceSuite(target: ConformanceTarget, runner: SuiteRunner, options: SuiteOptions = {}): void {
  const seed = options.seed ?? randomBytes(6).toString("hex");
  const chosen = selectCases(conformanceCases, options.only);
  runner.describe(`conformance of ${target.name}`, () => {
    for (const [group, title] of Object.entries(CONFORMANCE_GROUPS) as [ConformanceGroup, string][]) {
      const members = chosen.filter((entry) => entry.group === group);
      if (members.length === 0) continue;
      runner.describe(`${group}: ${title}`, () => {
        for (const entry of members) {
          runner.test(`${entry.id} ${entry.name}`, async (context) => {
            const result = await runCase(target, entry, { seed, soak: options.soak === true });
            conclude(result, context, options.failUndeclared === true, seed);
          });
        }
      });
    }
  });
}

function conclude({ status, reason = "" }: CaseResult, context: SuiteTestContext, failUndeclared: boolean, seed: string): void {
  if (status === "failed" || (status === "undeclared" && failUndeclared)) throw new Error(`${reason}\nseed ${seed}`);
  if (status === "skipped") {
    // Some runners throw here, others return.
    context.skip?.(reason);
    return;
  }
  if (status === "undeclared") {
    if (context.diagnostic !== undefined) context.diagnostic(`undeclared: ${reason}`);
    else void context.annotate?.(`undeclared: ${reason}`);
  }
}
