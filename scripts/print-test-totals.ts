/** Prints the totals of a vitest JSON report as its last line; fails when tests failed, were skipped, or did not exist. */
import { readFileSync } from "node:fs";

interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numFailedTestSuites: number;
  readonly testResults: readonly {
    readonly name: string;
    readonly assertionResults: readonly { readonly status: string; readonly fullName: string }[];
  }[];
}

/** Where conformance cases are tests of their own: those of what the broker does not declare are skips by design, and say so. */
const UNDECLARED = /run-conformance\.test\.ts$/;

const report = JSON.parse(readFileSync(process.argv[2] as string, "utf8")) as Report;
let skipped = 0;
for (const file of report.testResults) {
  for (const result of file.assertionResults) {
    if (result.status === "passed" || result.status === "failed") continue;
    if (UNDECLARED.test(file.name)) continue;
    skipped++;
    console.log(`${result.status}: ${result.fullName} (${file.name})`);
  }
}
if (skipped > 0) console.log(`${skipped} tests were skipped; nothing may be skipped here`);
console.log(`${report.numPassedTests} passed, ${report.numFailedTests} failed`);
const ok = report.numFailedTests === 0 && report.numFailedTestSuites === 0 && skipped === 0 && report.numPassedTests > 0;
process.exit(ok ? 0 : 1);
