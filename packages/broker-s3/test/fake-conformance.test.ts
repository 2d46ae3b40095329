import { formatReport, runConformance } from "@stowage/broker-testkit";
import { expect, test } from "vitest";
import { fakeTarget } from "./support/s3-target.ts";

test("the broker passes on the fake, which is as Amazon's S3 is", { timeout: 180_000 }, async () => {
  const report = await runConformance(fakeTarget(), { concurrency: 6 });
  expect(report.passed, formatReport(report)).toBe(true);
  expect(report.complete).toBe(true);
});

test("the broker passes on the fake as a server without conditions, checksums and Content-MD5", { timeout: 180_000 }, async () => {
  const target = fakeTarget(
    { integrity: "none", conditionalWrites: "put" },
    { conditions: "501", checksums: "ignored", contentMd5: "ignored" },
    "s3 on a poor server",
  );
  const report = await runConformance(target, { concurrency: 6, only: ["B", "C", "D", "E", "I"] });
  expect(report.passed, formatReport(report)).toBe(true);
});
