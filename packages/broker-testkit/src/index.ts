export { type BrokenBase, type BrokenBroker, breakTarget } from "./lib/broken/broken-broker.ts";
export { brokenBrokers } from "./lib/broken/broken-brokers.ts";
export {
  CONFORMANCE_GROUPS,
  type ConformanceCase,
  type ConformanceGroup,
  type Need,
  type Subject,
} from "./lib/conformance-case.ts";
export { conformanceCases } from "./lib/conformance-cases.ts";
export {
  type CaseResult,
  type CaseStatus,
  type ConformanceReport,
  type ConformanceVersions,
  type FormatOptions,
  formatReport,
  verifyReport,
} from "./lib/conformance-report.ts";
export {
  conformanceSuite,
  type SuiteOptions,
  type SuiteRunner,
  type SuiteTestContext,
} from "./lib/conformance-suite.ts";
export {
  type BackendFault,
  type BackendFaultKind,
  type BackendFaults,
  type BackendOperation,
  type ConformancePlace,
  type ConformanceSamples,
  type ConformanceTarget,
  type ConformanceTraits,
  type SeedFile,
  type TargetChanges,
  wrapTarget,
} from "./lib/conformance-target.ts";
export { createFaultyBroker, type FaultyBroker, type FaultyBrokerOptions, InjectedFault } from "./lib/faults/faulty-broker.ts";
export { type KillHarnessOptions, type KillReport, runKillHarness } from "./lib/faults/kill-harness.ts";
export {
  corruptingBroker,
  duplicatingBroker,
  omittingBroker,
  reorderingBroker,
  truncatingBroker,
} from "./lib/faults/lying-broker.ts";
export {
  type Script,
  type ScriptedRequest,
  type ScriptedResponse,
  type ScriptedServer,
  startScriptedServer,
} from "./lib/faults/scripted-server.ts";
export type { Harness, Opened, OpenOptions } from "./lib/harness.ts";
export {
  CONTROL_NAMES,
  HOSTILE_LISTING,
  INVALID_PATHS,
  invalidPath,
  ODD_NAMES,
  oddPath,
  SHELL_NAMES,
  UNICODE_NAMES,
} from "./lib/hostile-names.ts";
export { type HostileTree, plantHostileTree } from "./lib/hostile-tree.ts";
export { createRandom, type Random } from "./lib/random.ts";
export { type ConformanceOptions, runConformance } from "./lib/run-conformance.ts";
export { type ContextRecord, createTestContext, type TestContext, type TestContextOptions } from "./lib/test-context.ts";
export { createWorkload, type WorkloadFile, type WorkloadOptions, writeWorkload } from "./lib/workload.ts";
