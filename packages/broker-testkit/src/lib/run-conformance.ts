import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Workspace } from "@stowage/core";
import type { Broker, BrokerDefinition } from "@stowage/core/broker";
import { brokerMembers } from "./broker-members.ts";
import type { ConformanceCase, ConformanceGroup, Need, Subject } from "./conformance-case.ts";
import { conformanceCases } from "./conformance-cases.ts";
import { type CaseResult, type ConformanceReport, completeReport, conformanceVersions } from "./conformance-report.ts";
import { type ConformancePlace, type ConformanceTarget, resolveTraits } from "./conformance-target.ts";
import { type CaseSkipped, describeError } from "./expectations.ts";
import { createHarness, type Opened, type OpenOptions, readRawNames } from "./harness.ts";
import { createRandom } from "./random.ts";

export interface ConformanceOptions {
  /** Run only these: ids (`B20`), groups (`B`), or a function. A selection certifies nothing. */
  readonly only?: readonly string[] | ((entry: ConformanceCase) => boolean) | undefined;
  /** Told of each case as it ends. */
  report?(result: CaseResult): void;
  /** Stops before the next case; what has not run is missing from the report, which is not complete then. */
  readonly signal?: AbortSignal | undefined;
  /** How many cases run at once. Several are quicker where cases wait for a backend; times of single cases mean less then. Defaults to 1. */
  readonly concurrency?: number | undefined;
  /** Repeats the random choices of another run. Defaults to a new seed. */
  readonly seed?: string | undefined;
  /** Many more rounds of everything that is a race. Defaults to false. */
  readonly soak?: boolean | undefined;
  /** Cases to run in place of the kit's own. */
  readonly cases?: readonly ConformanceCase[] | undefined;
}

/** How long a case that was given up may take to stop before the next one starts. */
const ABANDON_MS = 2_000;
const CASE_TIMEOUT_MS = 60_000;
const CLEAN_UP_MS = 60_000;

/** Runs the cases over a target, each in a place of its own, and reports what they showed. Rejects only when the target itself cannot be used. */
export async function runConformance(target: ConformanceTarget, options: ConformanceOptions = {}): Promise<ConformanceReport> {
  const all = options.cases ?? conformanceCases;
  const chosen = selectCases(all, options.only);
  const seed = options.seed ?? randomBytes(6).toString("hex");
  const startedAt = new Date();
  const started = performance.now();
  const declared = await describeDeclarations(target);
  const results = new Map<ConformanceCase, CaseResult>();
  const runOne = async (entry: ConformanceCase): Promise<void> => {
    if (options.signal?.aborted) return;
    const result = await runCase(target, entry, { seed, soak: options.soak === true });
    results.set(entry, result);
    options.report?.(result);
  };
  const isAlone = (entry: ConformanceCase): boolean => entry.exclusive === true || options.concurrency === undefined;
  const waiting = chosen.filter((entry) => !isAlone(entry)).values();
  const lane = async (): Promise<void> => {
    for (const entry of waiting) await runOne(entry);
  };
  await Promise.all(Array.from({ length: Math.max(1, options.concurrency ?? 1) }, lane));
  for (const entry of chosen.filter(isAlone)) await runOne(entry);
  return completeReport({
    format: "stowage-conformance-1",
    target: target.name,
    brokerType: target.definition.type,
    versions: conformanceVersions(target.package),
    seed,
    startedAt: startedAt.toISOString(),
    durationMs: Math.round(performance.now() - started),
    complete: results.size === all.length,
    declared,
    cases: chosen.flatMap((entry) => results.get(entry) ?? []),
  });
}

/** The cases that a selection names. Throws a RangeError when a name fits none. */
export function selectCases(all: readonly ConformanceCase[], only: ConformanceOptions["only"]): readonly ConformanceCase[] {
  if (only === undefined) return all;
  if (typeof only === "function") return all.filter(only);
  for (const name of only) {
    if (!all.some(({ id, group }) => id === name || group === name))
      throw new RangeError(`no conformance case or group is named "${name}"`);
  }
  return all.filter(({ id, group }) => only.includes(id) || only.includes(group satisfies ConformanceGroup));
}

export interface CaseSettings {
  readonly seed: string;
  readonly soak: boolean;
}

/** Runs one case in a fresh place. Never rejects: whatever goes wrong is its result. */
export async function runCase(target: ConformanceTarget, entry: ConformanceCase, settings: CaseSettings): Promise<CaseResult> {
  const started = performance.now();
  const finish = (status: CaseResult["status"], reason?: string): CaseResult => ({
    id: entry.id,
    group: entry.group,
    name: entry.name,
    status,
    ...(reason === undefined ? {} : { reason: hideSecrets(reason, target.secrets ?? []) }),
    durationMs: Math.round(performance.now() - started),
  });

  const tasks: (() => Promise<void>)[] = [];
  let verdict: CaseResult;
  try {
    const stage = await openStage(target, entry, settings, (task) => tasks.push(task));
    const unmet = entry.needs.filter((need) => !need.isMet(stage.subject));
    const absent = unmet.filter(({ probe }) => !probe);
    const reason = absent.length > 0 ? `needs ${nameAll(absent)}` : entry.skip?.(stage.subject);
    if (reason !== undefined) {
      verdict = finish("skipped", reason);
    } else if (unmet.length > 0) {
      verdict = await runProbe(entry, stage, unmet, finish);
    } else {
      verdict = await runDeclared(entry, stage, finish);
    }
  } catch (error) {
    verdict = finish("failed", `the place could not be opened: ${explain(error)}`);
  }
  for (const task of tasks.reverse()) {
    try {
      await withTimeout(task(), CLEAN_UP_MS, "cleaning up");
    } catch (error) {
      if (verdict.status === "passed" || verdict.status === "undeclared") verdict = finish("failed", `cleaning up: ${explain(error)}`);
    }
  }
  return { ...verdict, durationMs: Math.round(performance.now() - started) };
}

interface Stage {
  readonly subject: Subject;
  readonly harness: ReturnType<typeof createHarness>;
  readonly timeoutMs: number;
}

type Finish = (status: CaseResult["status"], reason?: string) => CaseResult;

async function runDeclared(entry: ConformanceCase, stage: Stage, finish: Finish): Promise<CaseResult> {
  try {
    await withTimeout(entry.run(stage.harness), stage.timeoutMs, "the case");
    return finish("passed");
  } catch (error) {
    if (isSkip(error)) return finish("skipped", error.message);
    return finish("failed", explain(error));
  }
}

/** Without the declaration a failure is what one expects, and a success is news. */
async function runProbe(entry: ConformanceCase, stage: Stage, unmet: readonly Need[], finish: Finish): Promise<CaseResult> {
  try {
    await withTimeout(entry.run(stage.harness), stage.timeoutMs, "the case");
    return finish("undeclared", `holds although not declared: ${nameAll(unmet)}`);
  } catch (error) {
    if (isSkip(error)) return finish("skipped", error.message);
    return finish("skipped", `not declared, and does not hold: ${nameAll(unmet)} (${describeError(error)})`);
  }
}

async function openStage(
  target: ConformanceTarget,
  entry: ConformanceCase,
  settings: CaseSettings,
  atEnd: (task: () => Promise<void>) => void,
): Promise<Stage> {
  const scratch = await mkdtemp(join(tmpdir(), "stowage-conformance-"));
  atEnd(() => rm(scratch, { recursive: true, force: true }));
  const openPlace = async (): Promise<ConformancePlace> => {
    const place = await target.open();
    atEnd(() => place.cleanUp());
    return place;
  };
  const place = await openPlace();
  const definition = asDefinition(place.definition ?? target.definition);
  const random = createRandom(`${settings.seed} ${entry.id}`);

  const openWith = async (options: OpenOptions): Promise<Opened> => {
    const { place: at = place, mount, wrap, ...init } = options;
    const opener = asDefinition(at.definition ?? target.definition);
    const { config, volumePath } = mount ?? at;
    const parsed = opener.config.parse(config);
    const broker = await opener.open(parsed, { signal: new AbortController().signal, volumePath });
    const workspace = new Workspace({
      name: "conformance",
      brokerType: opener.type,
      volume: opener.volume?.(parsed),
      ...init,
      broker: wrap?.(broker) ?? broker,
    });
    atEnd(() => workspace.close());
    return { workspace, broker };
  };

  const emptyRawNames = place.rawNames === undefined ? undefined : await readRawNames(place);
  const first = await openWith({});
  const traits = resolveTraits(target.traits, place);
  const subject: Subject = { target, definition, place, broker: first.broker, traits };
  const harness = createHarness({
    target,
    definition,
    place,
    traits,
    scratch,
    random,
    soak: settings.soak,
    first,
    emptyRawNames,
    openWith,
    openPlace,
    atEnd,
  });
  return { subject, harness, timeoutMs: (entry.timeoutMs ?? CASE_TIMEOUT_MS) * (settings.soak ? 10 : 1) };
}

/** What the broker declares: its facts, its optional methods, the target's traits. */
async function describeDeclarations(target: ConformanceTarget): Promise<Record<string, boolean | string | number>> {
  const place = await target.open();
  try {
    const definition = asDefinition(place.definition ?? target.definition);
    const broker: Broker = await definition.open(definition.config.parse(place.config), {
      signal: new AbortController().signal,
      volumePath: place.volumePath,
    });
    try {
      const declared: Record<string, boolean | string | number> = {
        volume: definition.volume !== undefined,
        validate: definition.validate !== undefined,
      };
      for (const [fact, value] of Object.entries(broker.capabilities)) if (value !== undefined) declared[fact] = value;
      for (const [name, kind] of brokerMembers) {
        if (kind === "optional") declared[name] = broker[name] !== undefined;
      }
      for (const [name, value] of Object.entries(target.traits ?? {})) {
        if (typeof value === "boolean" || typeof value === "string" || (typeof value === "number" && Number.isFinite(value))) {
          declared[`trait ${name}`] = value;
        }
      }
      return declared;
    } finally {
      // A broker that cannot be closed fails its cases: each says so.
      await broker.close().catch(() => undefined);
    }
  } finally {
    await place.cleanUp();
  }
}

function asDefinition(definition: ConformanceTarget["definition"]): BrokerDefinition<string, unknown> {
  // The types of its configuration were forgotten on the way; what is given to `open` has come out of its own `config`.
  return definition as unknown as BrokerDefinition<string, unknown>;
}

async function withTimeout<T>(work: Promise<T>, milliseconds: number, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  try {
    return await Promise.race([
      work,
      new Promise<never>((_resolve, reject) => {
        timer = setTimeout(() => reject(new Error(`${what} did not end within ${milliseconds / 1000} s`)), milliseconds);
      }),
    ]);
  } catch (error) {
    // What was given up goes on for a while; what it throws then is nobody's.
    await Promise.race([
      work.catch(() => undefined),
      new Promise((resolve) => {
        setTimeout(resolve, ABANDON_MS).unref();
      }),
    ]);
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function isSkip(error: unknown): error is CaseSkipped {
  return (error as { isCaseSkipped?: unknown } | undefined)?.isCaseSkipped === true;
}

function nameAll(needs: readonly Need[]): string {
  return needs.map(({ name }) => name).join(", ");
}

/** What went wrong, with the place in the kit that saw it, without a page of values. */
function explain(error: unknown): string {
  const lines: string[] = [];
  let cause: unknown = error;
  for (let depth = 0; cause !== undefined && cause !== null && depth < 4; depth++) {
    lines.push(`${depth === 0 ? "" : "caused by "}${describeError(cause)}`);
    const { actual, expected } = cause as { actual?: unknown; expected?: unknown };
    if (depth === 0 && (cause as { code?: unknown }).code === "ERR_ASSERTION" && (actual !== undefined || expected !== undefined)) {
      lines.push(`found ${shorten(actual)}, expected ${shorten(expected)}`);
    }
    cause = (cause as { cause?: unknown }).cause;
  }
  const frame = error instanceof Error ? error.stack?.split("\n").find((line) => /-cases\.[jt]s/.test(line)) : undefined;
  const position = frame?.match(/([a-z-]+-cases\.[jt]s:\d+)/)?.[1];
  if (position !== undefined) lines.push(`at ${position}`);
  return lines.join("\n");
}

function shorten(value: unknown): string {
  let text: string;
  try {
    text = JSON.stringify(value) ?? String(value);
  } catch {
    text = String(value);
  }
  return text.length > 400 ? `${text.slice(0, 400)}…` : text;
}

function hideSecrets(text: string, secrets: readonly string[]): string {
  return secrets.reduce((hidden, secret) => (secret === "" ? hidden : hidden.replaceAll(secret, "…")), text);
}
