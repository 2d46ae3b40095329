/** Prints the totals of a vitest JSON report as its last line; fails when tests failed, were skipped, or did not exist. */
import { readFileSync } from "node:fs";

interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly numTodoTests: number;
  readonly numFailedTestSuites: number;
  readonly testResults: readonly {
    readonly name: string;
    readonly assertionResults: readonly { readonly status: string; readonly fullName: string }[];
  }[];
}

const report = JSON.parse(readFileSync(process.argv[2] as string, "utf8")) as Report;
for (const file of report.testResults) {
  for (const result of file.assertionResults) {
    if (result.status !== "passed" && result.status !== "failed") console.log(`${result.status}: ${result.fullName} (${file.name})`);
  }
}
const skipped = report.numPendingTests + report.numTodoTests;
if (skipped > 0) console.log(`${skipped} tests were skipped; nothing may be skipped here`);
console.log(`${report.numPassedTests} passed, ${report.numFailedTests} failed`);
const ok = report.numFailedTests === 0 && report.numFailedTestSuites === 0 && skipped === 0 && report.numPassedTests > 0;
process.exit(ok ? 0 : 1);
