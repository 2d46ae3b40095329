import { formatReport, runConformance } from "@stowage/broker-testkit";
import { expect, test } from "vitest";
import { fakeTarget } from "./support/s3-target.ts";

const TARGETS = [
  fakeTarget(),
  fakeTarget(
    { integrity: "md5", conditionalWrites: "put" },
    { conditions: "put", checksums: "ignored" },
    "s3 on the fake, as an older server",
  ),
];

test.each(TARGETS)("the broker passes on $name", { timeout: 180_000 }, async (target) => {
  const report = await runConformance(target, { concurrency: 4 });
  expect(report.passed, formatReport(report)).toBe(true);
  expect(report.complete).toBe(true);
});
