import { randomUUID } from "node:crypto";
import { mkdir, readFile, rmdir } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import { isSystemError, StowageError } from "@stowage/core/broker";
import { EXIT_CODES, exitCodeOf } from "./exit-codes.ts";
import { type JobDirectory, jobDirectory } from "./job-directory.ts";
import { JobError } from "./job-error.ts";
import type { JobEvent, StepName, StepStatus } from "./job-event.ts";
import { readJobManifest, type StagedJob } from "./job-manifest.ts";
import type { JobFailure, JobResult, StepResult, StoredOutput, UsedInput } from "./job-result.ts";
import type { PreparedRun, RunReference, StartedHandle, StepExit } from "./job-runtime.ts";
import { inputVariable, type JobSpec } from "./job-spec.ts";
import { type Journal, openJournal } from "./journal.ts";
import { type LogFile, openLogFile } from "./log-file.ts";
import { emptyDirectory, removeTree } from "./remove-tree.ts";
import type { ResolvedRunOptions } from "./run-job.ts";
import { fingerprintJob, type MainRecord, type PostRecord, type RunLine, type RunState, replayRun } from "./run-journal.ts";
import { acquireRunLock, type RunLock } from "./run-lock.ts";
import { describeFailure, describeStageFailure } from "./stage-failure.ts";
import { isStagedIntact, stageIn } from "./stage-in.ts";
import { type StageOutResult, stageOut } from "./stage-out.ts";
import { runStageStep, type StageEnd, type StageHooks } from "./stage-step.ts";
import type { StageFailure, StepRequest } from "./step-protocol.ts";
import { writeJsonFile } from "./write-json.ts";

/** What a stage step has to clean up after itself when it is cancelled, before it is killed. */
const STAGE_GRACE_MS = 5000;

/** The longest time that a timer takes. */
const MAXIMUM_TIMER_MS = 2 ** 31 - 1;

/** One run of a job, from taking its directory to giving it back. */
export class JobRun {
  readonly #spec: JobSpec;
  readonly #options: ResolvedRunOptions;
  readonly #layout: JobDirectory;
  readonly #lock: RunLock;
  readonly #journal: Journal<RunLine>;
  /** Where an interrupted run stopped; `undefined` for a new one. */
  readonly #earlier: RunState | undefined;
  readonly #runId: string;
  readonly #startedAt: Date;
  readonly #begunAt = performance.now();
  readonly #steps: StepResult[] = [];
  readonly #failures: JobFailure[] = [];
  readonly #stored = new Map<string, StoredOutput>();
  #main: MainRecord | undefined;
  #post: PostRecord = { unmatched: [], unmatchedCount: 0 };
  #failure: StageFailure | undefined;

  private constructor(
    spec: JobSpec,
    options: ResolvedRunOptions,
    holding: {
      readonly layout: JobDirectory;
      readonly lock: RunLock;
      readonly journal: Journal<RunLine>;
      readonly earlier: RunState | undefined;
    },
  ) {
    this.#spec = spec;
    this.#options = options;
    this.#layout = holding.layout;
    this.#lock = holding.lock;
    this.#journal = holding.journal;
    this.#earlier = holding.earlier;
    this.#runId = holding.earlier?.run ?? options.runId ?? randomUUID();
    this.#startedAt = holding.earlier === undefined ? new Date() : new Date(holding.earlier.startedAt);
  }

  /** Takes the run's directory: waits for nobody, stops what a dead owner left running, and removes or keeps what it left there. */
  static async begin(spec: JobSpec, options: ResolvedRunOptions): Promise<JobRun> {
    const layout = jobDirectory(join(options.scratch, spec.name));
    const lock = await acquireRunLock(layout.lock);
    let journal: Journal<RunLine> | undefined;
    try {
      journal = await openRunJournal(layout, options);
      const known = replayRun(journal.lines);
      if (known !== undefined) await stopEarlier(known, spec, layout, lock, options);
      const earlier = options.resume === true ? known : undefined;
      if (earlier !== undefined) assertResumable(earlier, spec, options);
      else {
        await journal.close();
        await clearRunDirectory(layout);
        journal = await openJournal<RunLine>(layout.journal);
      }
      const run = new JobRun(spec, options, { layout, lock, journal, earlier });
      await run.#writeBeginning();
      return run;
    } catch (error) {
      await journal?.close();
      await lock.release();
      throw error;
    }
  }

  /** Gives everything back without having run; throws `error`. */
  async abandon(error: unknown): Promise<never> {
    await this.#journal.close();
    await this.#lock.release();
    throw error;
  }

  /** Runs what is to be run. Never throws for what a step does; the result says it. */
  async complete(resultFile: string | undefined): Promise<JobResult> {
    try {
      const finished = await this.#finishedEarlier();
      if (finished !== undefined) return await this.#conclude({ ...finished, resumed: true }, resultFile);
      this.#emit({
        type: "run-started",
        job: this.#spec.name,
        run: this.#runId,
        resumed: this.#earlier !== undefined,
        directory: this.#layout.path,
      });
      await this.#runSteps();
      const result = await this.#describeResult();
      return await this.#conclude(result, resultFile);
    } finally {
      await this.#journal.close();
      await this.#lock.release().catch(() => undefined);
    }
  }

  // ---------- the steps ----------

  async #runSteps(): Promise<void> {
    try {
      const { runtime, signal } = this.#options;
      const prepared = await runtime.prepare({ ...this.#reference(), spec: this.#spec }, signal);
      const isMainDone = this.#isMainDone();
      if (!(await this.#runPre(prepared, isMainDone))) return this.#skip("main", "post");
      if (isMainDone) {
        this.#main = this.#earlier?.main;
        this.#endStep("main", "reused");
      } else if (!(await this.#runMain(prepared))) {
        return this.#skip("post");
      }
      if (!isSuccess(this.#main) && !this.#spec.storeOnFailure) return this.#skip("post");
      await this.#runPost(prepared);
    } catch (error) {
      // Not a step's own failure: the scratch directory is full, a runtime broke.
      this.#fail(describeStageFailure(error, "main", this.#isCancelled()), undefined);
    }
  }

  #isMainDone(): boolean {
    const main = this.#earlier?.main;
    if (main === undefined) return false;
    // A run that ended because its command failed is resumed by running the command again; one that was killed while it stored is not.
    return isSuccess(main) || (this.#spec.storeOnFailure && this.#earlier?.ended === undefined);
  }

  async #runPre(prepared: PreparedRun, isMainDone: boolean): Promise<boolean> {
    if (this.#earlier?.isPreDone === true && (isMainDone || (await this.#isStagedIntact()))) {
      this.#endStep("pre", "reused");
      return true;
    }
    const end = await this.#runStage("pre", prepared);
    return end.status === "done";
  }

  async #runPost(prepared: PreparedRun): Promise<void> {
    if (this.#earlier?.post !== undefined && this.#isMainDone()) {
      this.#post = this.#earlier.post;
      for (const output of this.#earlier.stored) this.#stored.set(`${output.workspace}\0${output.path}`, output);
      this.#endStep("post", "reused");
      return;
    }
    const end = await this.#runStage("post", prepared);
    if (end.status === "failed" || end.result === undefined) return;
    this.#stored.clear();
    for (const output of end.result.outputs) this.#stored.set(`${output.workspace}\0${output.path}`, output);
    this.#post = { unmatched: end.result.unmatched, unmatchedCount: end.result.unmatchedCount };
  }

  /** Pre or post step, in this process or its own. */
  async #runStage(step: "pre" | "post", prepared: PreparedRun): Promise<StageEnd> {
    const { started, startedAt } = await this.#startStep(step);
    const end = this.#options.brokerModules === undefined ? await this.#stageHere(step, prepared) : await this.#stageApart(step, prepared);
    const durationMs = Math.round(performance.now() - started);
    const isDone = end.status === "done";
    const post =
      isDone && end.result !== undefined ? { unmatched: end.result.unmatched, unmatchedCount: end.result.unmatchedCount } : undefined;
    await this.#journal.append({ type: "step-ended", at: now(), step, isDone, durationMs, post });
    if (end.status === "failed") this.#fail(end.failure, step);
    this.#endStep(step, isDone ? "succeeded" : end.failure.isCancelled ? "cancelled" : "failed", { startedAt, durationMs });
    return end;
  }

  async #stageHere(step: "pre" | "post", prepared: PreparedRun): Promise<StageEnd> {
    const { brokers, openWorkspaces, concurrency, signal, store } = this.#options;
    const hooks = this.#hooks();
    const common = {
      directory: this.#layout.path,
      runId: this.#runId,
      startedAt: this.#startedAt,
      brokers,
      openWorkspaces,
      volumePaths: this.#volumePaths(prepared),
      concurrency,
      signal,
      onEvent: hooks.onEvent,
    } as const;
    try {
      let result: StageOutResult | undefined;
      if (step === "pre") await stageIn(this.#spec, { ...common, linkPartial: prepared.linkPartial, resume: this.#earlier !== undefined });
      else
        result = await stageOut(this.#spec, {
          ...common,
          store,
          onBegin: hooks.onBegin,
          onStored: hooks.onStored,
          earlier: this.#earlierStageOut(),
        });
      return { status: "done", result };
    } catch (error) {
      return { status: "failed", failure: describeStageFailure(error, step, this.#isCancelled()) };
    }
  }

  async #stageApart(step: "pre" | "post", prepared: PreparedRun): Promise<StageEnd> {
    const { runtime, brokerModules = [], baseDirectory, concurrency, store, signal } = this.#options;
    const request: StepRequest = {
      version: 1,
      step,
      job: this.#spec,
      run: this.#runId,
      startedAt: this.#startedAt.toISOString(),
      directory: this.#layout.path,
      brokerModules,
      baseDirectory,
      volumePaths: this.#volumePaths(prepared),
      concurrency,
      linkPartial: prepared.linkPartial,
      resume: this.#earlier !== undefined,
      hasStore: store !== undefined,
      earlier: this.#earlierStageOut(),
    };
    try {
      const io = {
        signal: signal ?? new AbortController().signal,
        graceMs: STAGE_GRACE_MS,
        onStarted: (handle: StartedHandle) => this.#recordStarted(handle),
      };
      return await runStageStep(runtime, this.#reference(), request, this.#hooks(), io);
    } catch (error) {
      return { status: "failed", failure: describeStageFailure(error, step, this.#isCancelled()) };
    }
  }

  /** Whether it is worth going on: the command has ended, however, by itself or by its time limit. */
  async #runMain(prepared: PreparedRun): Promise<boolean> {
    const { limits, workingDirectory } = this.#spec;
    for (const directory of [this.#layout.output, this.#layout.temporary, this.#layout.logs]) await makeEmptyDirectory(directory);
    const staged = await readJobManifest(this.#layout.path);
    const { started, startedAt } = await this.#startStep("main");
    const stop = createStop(this.#options.signal, limits.timeoutSeconds);
    const stdout = await openLogFile(join(this.#layout.logs, "stdout.log"), limits.logBytes);
    const stderr = await openLogFile(join(this.#layout.logs, "stderr.log"), limits.logBytes);
    let exit: StepExit | undefined;
    let problem: unknown;
    try {
      exit = await this.#options.runtime.runStep(
        {
          role: "main",
          run: this.#reference(),
          command: this.#spec.command,
          workingDirectory: resolveFrom(this.#options.baseDirectory, workingDirectory),
          environment: mainEnvironment(this.#spec, this.#runId, prepared.directory, staged),
        },
        {
          signal: stop.signal,
          graceMs: limits.graceSeconds * 1000,
          onStarted: (handle) => this.#recordStarted(handle),
          onOutput: (stream, chunk) => this.#takeOutput(stream, chunk, stream === "stdout" ? stdout : stderr),
        },
      );
    } catch (error) {
      problem = error;
    } finally {
      stop.end();
    }
    const logs = { stdout: await stdout.close(), stderr: await stderr.close() };
    const durationMs = Math.round(performance.now() - started);
    return this.#endMain(exit, problem, stop.isTimedOut(), logs, { startedAt, durationMs });
  }

  async #endMain(
    exit: StepExit | undefined,
    problem: unknown,
    timedOut: boolean,
    logs: MainRecord["logs"],
    times: { readonly startedAt: string; readonly durationMs: number },
  ): Promise<boolean> {
    const isCancelled = this.#isCancelled();
    if (exit?.status === "exited") {
      this.#main = { exitCode: exit.exitCode, signal: exit.signal, timedOut, logs };
      // How it ended because it was told to says nothing of the job.
      const main = isCancelled ? undefined : this.#main;
      await this.#journal.append({
        type: "step-ended",
        at: now(),
        step: "main",
        isDone: main !== undefined,
        durationMs: times.durationMs,
        main,
      });
    }
    const error = isCancelled ? cancelled() : exit === undefined ? problem : describeBadExit(exit, timedOut, this.#spec);
    if (error === undefined) {
      this.#endStep("main", "succeeded", times);
      return true;
    }
    const exitCode = exit?.status === "exited" && !timedOut && exit.exitCode !== null ? exit.exitCode : exitCodeOf(error, "main");
    this.#fail(
      {
        exitCode: isCancelled ? EXIT_CODES.interrupted : exitCode,
        isCancelled,
        failures: [describeFailure(error, "main")],
        refusals: [],
        refusalCount: 0,
      },
      "main",
    );
    this.#endStep("main", isCancelled ? "cancelled" : "failed", times);
    return exit?.status === "exited" && !isCancelled;
  }

  async #takeOutput(stream: "stdout" | "stderr", chunk: Uint8Array, log: LogFile): Promise<void> {
    this.#emit({ type: "output", stream, chunk });
    await log.write(chunk);
  }

  // ---------- beginning and end ----------

  async #writeBeginning(): Promise<void> {
    const lines: RunLine[] = [];
    if (this.#earlier === undefined) {
      const { name: job } = this.#spec;
      lines.push({
        type: "run",
        version: 1,
        job,
        run: this.#runId,
        startedAt: this.#startedAt.toISOString(),
        fingerprint: fingerprintJob(this.#spec),
      });
    }
    lines.push({ type: "owner", at: now(), owner: this.#lock.owner });
    await this.#journal.append(...lines);
  }

  /** The result of a run that had succeeded and only could not clean up any more. */
  async #finishedEarlier(): Promise<JobResult | undefined> {
    if (this.#earlier?.ended?.status !== "succeeded") return undefined;
    try {
      return JSON.parse(await readFile(this.#resultPath(), "utf8")) as JobResult;
    } catch (error) {
      if (isSystemError(error, "ENOENT") || error instanceof SyntaxError) return undefined;
      throw error;
    }
  }

  async #describeResult(): Promise<JobResult> {
    const failure = this.#failure;
    const endedAt = new Date();
    const main =
      this.#main === undefined ? {} : { main: { exitCode: this.#main.exitCode, signal: this.#main.signal, timedOut: this.#main.timedOut } };
    return {
      version: 1,
      job: this.#spec.name,
      run: this.#runId,
      resumed: this.#earlier !== undefined,
      status: failure === undefined ? "succeeded" : failure.isCancelled ? "cancelled" : "failed",
      exitCode: failure?.exitCode ?? EXIT_CODES.success,
      startedAt: this.#startedAt.toISOString(),
      endedAt: endedAt.toISOString(),
      durationMs: Math.round(performance.now() - this.#begunAt),
      ...main,
      steps: this.#steps,
      inputs: await this.#describeInputs(),
      outputs: [...this.#stored.values()],
      ...this.#post,
      refusals: failure?.refusals ?? [],
      refusalCount: failure?.refusalCount ?? 0,
      logs: this.#main?.logs ?? {},
      errors: this.#failures,
      leftovers: [],
    };
  }

  async #describeInputs(): Promise<UsedInput[]> {
    const isStaged = this.#steps.some(({ step, status }) => step === "pre" && (status === "succeeded" || status === "reused"));
    if (!isStaged) return [];
    const staged = await readJobManifest(this.#layout.path);
    return staged.inputs.flatMap(({ name: input, workspace, files }) =>
      files.map(({ path, staged: at, size, digest, version, method, verified }) => ({
        input,
        workspace,
        path,
        staged: at,
        size,
        digest,
        version,
        method,
        verified,
      })),
    );
  }

  /** Writes the result down, then gives the directory back or keeps it. */
  async #conclude(result: JobResult, resultFile: string | undefined): Promise<JobResult> {
    const { keepDirectory = "failed" } = this.#options;
    const isKept = keepDirectory === "always" || (keepDirectory === "failed" && result.status !== "succeeded");
    let final: JobResult = isKept ? { ...result, directory: this.#layout.path } : { ...result, logs: withoutPaths(result.logs) };
    if (final.status === "succeeded") await writeJsonFile(this.#resultPath(), final);
    if (resultFile !== undefined) await writeJsonFile(resultFile, final);
    await this.#journal.append({ type: "ended", at: now(), status: final.status, exitCode: final.exitCode });
    if (!isKept) {
      const leftovers = await this.#removeDirectory();
      if (leftovers.length > 0) {
        final = { ...final, leftovers };
        if (resultFile !== undefined) await writeJsonFile(resultFile, final);
      }
    }
    this.#emit({ type: "run-ended", result: final });
    return final;
  }

  async #removeDirectory(): Promise<readonly string[]> {
    const leftovers = await this.#options.runtime.remove(this.#reference());
    if (leftovers.length > 0) return leftovers;
    await this.#journal.close();
    return removeRunDirectory(this.#layout, this.#lock);
  }

  // ---------- small things ----------

  #hooks(): StageHooks {
    return {
      onEvent: (event) => this.#emit(event),
      onBegin: (targets) => this.#journal.append({ type: "begun", targets }),
      onStored: async (outputs) => {
        if (outputs.length === 0) return;
        await this.#journal.append({ type: "stored", outputs });
        for (const output of outputs) this.#stored.set(`${output.workspace}\0${output.path}`, output);
      },
      store: this.#options.store,
    };
  }

  #earlierStageOut(): { readonly begun: RunState["begun"]; readonly stored: RunState["stored"] } | undefined {
    const earlier = this.#earlier;
    return earlier === undefined || !this.#isMainDone() ? undefined : { begun: earlier.begun, stored: earlier.stored };
  }

  #volumePaths(prepared: PreparedRun): Readonly<Record<string, string>> {
    return { ...prepared.volumePaths, ...this.#options.volumePaths };
  }

  #reference(): RunReference {
    return { job: this.#spec.name, runId: this.#runId, directory: this.#layout.path, owner: this.#lock.owner };
  }

  #resultPath(): string {
    return join(this.#layout.state, "result.json");
  }

  #isCancelled(): boolean {
    return this.#options.signal?.aborted === true;
  }

  async #isStagedIntact(): Promise<boolean> {
    try {
      return await isStagedIntact(await readJobManifest(this.#layout.path));
    } catch (error) {
      if (StowageError.is(error)) return false;
      throw error;
    }
  }

  async #recordStarted(handle: StartedHandle): Promise<void> {
    await this.#journal.append({ type: "started", handle });
  }

  async #startStep(step: StepName): Promise<{ readonly started: number; readonly startedAt: string }> {
    const startedAt = now();
    await this.#journal.append({ type: "step-started", at: startedAt, step });
    this.#emit({ type: "step-started", step });
    return { started: performance.now(), startedAt };
  }

  #endStep(
    step: StepName,
    status: StepStatus,
    times: { readonly startedAt?: string | undefined; readonly durationMs: number } = { durationMs: 0 },
  ): void {
    this.#steps.push({ step, status, ...times });
    this.#emit({ type: "step-ended", step, status, durationMs: times.durationMs });
  }

  #skip(...steps: readonly StepName[]): void {
    for (const step of steps) this.#endStep(step, "skipped");
  }

  /** The first failure decides the exit code; refusals may come with a later one. */
  #fail(failure: StageFailure, step: StepName | undefined): void {
    this.#failures.push(...failure.failures.map((known) => (step === undefined ? { ...known, step: undefined } : known)));
    const first = this.#failure;
    this.#failure = first === undefined ? failure : { ...first, refusals: failure.refusals, refusalCount: failure.refusalCount };
  }

  #emit(event: JobEvent): void {
    try {
      this.#options.onEvent?.(event);
    } catch {
      // A listener's trouble is not the job's.
    }
  }
}

/** Removes what is left of a run once its files are gone; somebody who takes the directory meanwhile keeps it. */
export async function removeRunDirectory(layout: JobDirectory, lock: RunLock): Promise<readonly string[]> {
  const leftovers = await emptyDirectory(layout.state, ["lock"]);
  if (leftovers.length > 0) return leftovers;
  await lock.remove();
  for (const directory of [layout.state, layout.path]) {
    try {
      await rmdir(directory);
    } catch (error) {
      if (!isSystemError(error, "ENOENT", "ENOTEMPTY", "EEXIST")) throw error;
    }
  }
  return [];
}

async function openRunJournal(layout: JobDirectory, options: ResolvedRunOptions): Promise<Journal<RunLine>> {
  try {
    return await openJournal<RunLine>(layout.journal);
  } catch (error) {
    if (options.resume === true || !StowageError.is(error) || error.code !== "CONFLICT") throw error;
    // Damaged, and nobody wants to resume it. What it started can still be found by its marks.
    await options.runtime.sweep();
    await removeTree(layout.journal);
    return openJournal<RunLine>(layout.journal);
  }
}

async function stopEarlier(
  known: RunState,
  spec: JobSpec,
  layout: JobDirectory,
  lock: RunLock,
  options: ResolvedRunOptions,
): Promise<void> {
  if (known.started.length === 0) return;
  const reference = { job: spec.name, runId: known.run, directory: layout.path, owner: known.owner ?? lock.owner };
  const left = await options.runtime.stop(reference, known.started);
  if (left.length === 0) return;
  throw new StowageError(`what an earlier run left running cannot be stopped: ${left.join(", ")}; stop it by hand`, {
    code: "UNAVAILABLE",
  });
}

function assertResumable(earlier: RunState, spec: JobSpec, options: ResolvedRunOptions): void {
  if (earlier.fingerprint !== fingerprintJob(spec)) {
    throw new StowageError(`the job "${spec.name}" is not what it was when the run ${earlier.run} began; run it anew, without resuming`, {
      code: "INVALID_ARGUMENT",
    });
  }
  if (options.runId !== undefined && options.runId !== earlier.run) {
    throw new StowageError(`the run to be resumed is ${earlier.run}, not ${options.runId}; leave the id out, or run the job anew`, {
      code: "INVALID_ARGUMENT",
    });
  }
}

/** The journal goes first: a directory that is half empty must not be taken for a run that can be resumed. */
async function clearRunDirectory(layout: JobDirectory): Promise<void> {
  const leftovers = [...(await emptyDirectory(layout.state, ["lock"])), ...(await emptyDirectory(layout.path, [".stowage"]))];
  if (leftovers.length === 0) return;
  throw new StowageError(
    `what an earlier run left cannot be removed: ${leftovers.slice(0, 5).join(", ")}; remove it, or give another scratch directory`,
    {
      code: "PERMISSION_DENIED",
    },
  );
}

async function makeEmptyDirectory(path: string): Promise<void> {
  const leftovers = await removeTree(path);
  if (leftovers.length > 0) {
    throw new StowageError(`cannot empty "${path}": ${leftovers.slice(0, 5).join(", ")}`, { code: "PERMISSION_DENIED" });
  }
  await mkdir(path);
}

/** What the command finds in its environment, beside what the platform needs. */
function mainEnvironment(spec: JobSpec, runId: string, directory: string, staged: StagedJob): Record<string, string> {
  const { input, output, temporary, manifest } = jobDirectory(directory);
  const environment: Record<string, string> = {
    TMPDIR: temporary,
    ...spec.environment,
    STOWAGE_JOB: spec.name,
    STOWAGE_RUN: runId,
    STOWAGE_JOB_DIRECTORY: directory,
    STOWAGE_JOB_MANIFEST: manifest,
    STOWAGE_INPUT: input,
    STOWAGE_OUTPUT: output,
  };
  for (const { name, kind, files } of staged.inputs) {
    const [first] = files;
    if (kind === "files") environment[inputVariable(name)] = join(input, name);
    else if (first !== undefined) environment[inputVariable(name)] = join(directory, first.staged);
  }
  return environment;
}

interface Stop {
  readonly signal: AbortSignal;
  isTimedOut(): boolean;
  end(): void;
}

/** Aborts when the caller does, or when the time is over. */
function createStop(signal: AbortSignal | undefined, timeoutSeconds: number | undefined): Stop {
  const controller = new AbortController();
  const onAbort = (): void => controller.abort(signal?.reason);
  if (signal?.aborted === true) onAbort();
  else signal?.addEventListener("abort", onAbort, { once: true });
  let timer: NodeJS.Timeout | undefined;
  let timedOut = false;
  const until = timeoutSeconds === undefined ? undefined : performance.now() + timeoutSeconds * 1000;
  const arm = (): void => {
    if (until === undefined) return;
    const rest = until - performance.now();
    timer = setTimeout(
      () => {
        if (rest > MAXIMUM_TIMER_MS) return arm();
        timedOut = !controller.signal.aborted;
        controller.abort(new JobError("the command ran into its time limit", { reason: "timed-out" }));
      },
      Math.max(1, Math.min(rest, MAXIMUM_TIMER_MS)),
    );
  };
  arm();
  return {
    signal: controller.signal,
    isTimedOut: () => timedOut,
    end: () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    },
  };
}

function describeBadExit(exit: StepExit, timedOut: boolean, { command, limits }: JobSpec): JobError | undefined {
  if (exit.status === "not-started") return new JobError(exit.message, { reason: "command-not-started" });
  const [program] = command;
  if (timedOut) {
    return new JobError(
      `the command "${program}" ran into its time limit of ${limits.timeoutSeconds} s and was stopped; raise limits.timeoutSeconds or give it less to do`,
      { reason: "timed-out" },
    );
  }
  if (exit.signal !== null) return new JobError(`the command "${program}" was killed by ${exit.signal}`, { reason: "killed" });
  if (exit.exitCode === 0) return undefined;
  return new JobError(`the command "${program}" failed with exit code ${exit.exitCode}; see what it wrote`, { reason: "main-failed" });
}

function withoutPaths({ stdout, stderr }: JobResult["logs"]): JobResult["logs"] {
  return { stdout: stdout && { ...stdout, path: undefined }, stderr: stderr && { ...stderr, path: undefined } };
}

function isSuccess(main: MainRecord | undefined): boolean {
  return main !== undefined && main.exitCode === 0 && !main.timedOut;
}

function cancelled(): StowageError {
  return new StowageError("the run was cancelled", { code: "CANCELLED" });
}

function resolveFrom(base: string, path: string | undefined): string {
  if (path === undefined) return base;
  return isAbsolute(path) ? path : join(base, path);
}

function now(): string {
  return new Date().toISOString();
}
