import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { isSystemError, StowageError } from "@stowage/core/broker";
import { EXIT_CODES, exitCodeOf } from "./exit-codes.ts";
import type { JobDirectory } from "./job-directory.ts";
import type { JobEvent, StepName, StepStatus } from "./job-event.ts";
import { readJobManifest } from "./job-manifest.ts";
import type { JobFailure, JobResult, StepResult, StoredOutput, UsedInput } from "./job-result.ts";
import type { PreparedRun, RunReference, StartedHandle, StepExit } from "./job-runtime.ts";
import type { JobSpec } from "./job-spec.ts";
import type { Journal } from "./journal.ts";
import { type LogFile, openLogFile } from "./log-file.ts";
import { createStop, describeBadExit, mainEnvironment } from "./main-command.ts";
import { makeEmptyDirectory, removeRunDirectory, type TakenDirectory, takeRunDirectory } from "./run-directory.ts";
import type { ResolvedRunOptions } from "./run-job.ts";
import { fingerprintJob, type MainRecord, type PostRecord, type RunLine, type RunState } from "./run-journal.ts";
import type { RunLock } from "./run-lock.ts";
import { describeFailure, describeStageFailure } from "./stage-failure.ts";
import { stageIn } from "./stage-in.ts";
import { type StageOutResult, stageOut } from "./stage-out.ts";
import { runStageStep, type StageEnd, type StageHooks } from "./stage-step.ts";
import { isStagedIntact } from "./staged-files.ts";
import type { StageFailure, StepRequest } from "./step-protocol.ts";
import { writeJsonFile } from "./write-json.ts";

/** What a stage step has to clean up after itself when it is cancelled, before it is killed. */
const STAGE_GRACE_MS = 5000;

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

  private constructor(spec: JobSpec, options: ResolvedRunOptions, taken: TakenDirectory) {
    this.#spec = spec;
    this.#options = options;
    this.#layout = taken.layout;
    this.#lock = taken.lock;
    this.#journal = taken.journal;
    this.#earlier = taken.earlier;
    this.#runId = taken.earlier?.run ?? options.runId ?? randomUUID();
    this.#startedAt = taken.earlier === undefined ? new Date() : new Date(taken.earlier.startedAt);
  }

  /** Takes the run's directory, and with it the earlier run that is to be resumed. Throws `already-running` while another run has it. */
  static async begin(spec: JobSpec, options: ResolvedRunOptions): Promise<JobRun> {
    const taken = await takeRunDirectory(spec, options);
    const run = new JobRun(spec, options, taken);
    try {
      await run.#writeBeginning();
      return run;
    } catch (error) {
      return run.abandon(error);
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
        this.#reuseMain();
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

  #reuseMain(): void {
    this.#main = this.#earlier?.main;
    this.#endStep("main", "reused");
    if (this.#main === undefined) return;
    const error = describeBadExit({ status: "exited", ...this.#main }, this.#main.timedOut, this.#spec);
    if (error !== undefined) this.#failMain(error, this.#main);
  }

  #failMain(error: unknown, main: MainRecord | undefined): void {
    const own = main !== undefined && !main.timedOut ? main.exitCode : null;
    const exitCode = own ?? exitCodeOf(error, "main");
    this.#fail({ exitCode, isCancelled: false, failures: [describeFailure(error, "main")], refusals: [], refusalCount: 0 }, "main");
  }

  /** Whether it is worth going on: the command has ended, however, by itself or by its time limit. */
  async #runMain(prepared: PreparedRun): Promise<boolean> {
    const { limits, workingDirectory } = this.#spec;
    for (const directory of [this.#layout.output, this.#layout.temporary, this.#layout.logs]) await makeEmptyDirectory(directory);
    const staged = await readJobManifest(this.#layout.path);
    const { started, startedAt } = await this.#startStep("main");
    const { stdout, stderr } = await openLogs(this.#layout.logs, limits.logBytes);
    const stop = createStop(this.#options.signal, limits.timeoutSeconds);
    let exit: StepExit | undefined;
    let problem: unknown;
    try {
      exit = await this.#options.runtime.runStep(
        {
          role: "main",
          run: this.#reference(),
          command: this.#spec.command,
          workingDirectory: resolve(this.#options.baseDirectory, workingDirectory ?? "."),
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
    if (isCancelled) {
      this.#fail(describeStageFailure(cancelled(), "main", true), "main");
      this.#endStep("main", "cancelled", times);
      return false;
    }
    const error = exit === undefined ? problem : describeBadExit(exit, timedOut, this.#spec);
    if (error !== undefined) this.#failMain(error, this.#main);
    this.#endStep("main", error === undefined ? "succeeded" : "failed", times);
    return exit?.status === "exited";
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
    if (resultFile !== undefined) await writeJsonFile(resultFile, final);
    await this.#writeEnd(final);
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

  /** Helps a later resumption to know that nothing is left to do; where the disk is full it will find that out step by step. */
  async #writeEnd(result: JobResult): Promise<void> {
    try {
      if (result.status === "succeeded") await writeJsonFile(this.#resultPath(), result);
      await this.#journal.append({ type: "ended", at: now(), status: result.status, exitCode: result.exitCode });
    } catch {
      // The result itself is on its way to whoever asked for it.
    }
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
    const spawns = step === "main" || this.#options.brokerModules !== undefined;
    await this.#journal.append({ type: "step-started", at: startedAt, step, spawns });
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

async function openLogs(directory: string, maximumBytes: number): Promise<{ readonly stdout: LogFile; readonly stderr: LogFile }> {
  const stdout = await openLogFile(join(directory, "stdout.log"), maximumBytes);
  try {
    return { stdout, stderr: await openLogFile(join(directory, "stderr.log"), maximumBytes) };
  } catch (error) {
    await stdout.close();
    throw error;
  }
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

function now(): string {
  return new Date().toISOString();
}
