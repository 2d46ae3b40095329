import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import type { PosixVolume } from "../../src/lib/posix/posix-commands.ts";
import { createPosixExecutor, type OpenedPosixExecutor, type PosixExecutorOptions } from "../../src/lib/posix/posix-executor.ts";
import { PosixFixture } from "./posix-volume.ts";

/** A volume and the executors that were opened on it, which `remove` closes. */
export class ExecutorFixture extends PosixFixture {
  readonly #executors: OpenedPosixExecutor[] = [];

  async executor(options: PosixExecutorOptions = {}, volume: Partial<PosixVolume> = {}): Promise<OpenedPosixExecutor> {
    const executor = await createPosixExecutor(this.volume(volume), options);
    this.#executors.push(executor);
    return executor;
  }

  override async remove(): Promise<void> {
    for (const child of childrenOf(process.pid)) if (stateOf(child) === "T") process.kill(child, "SIGCONT");
    for (const executor of this.#executors.splice(0)) await executor.close();
    await super.remove();
  }
}

/** The processes that this one has started and that have not ended. */
export function childrenOf(pid: number): number[] {
  const children: number[] = [];
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const fields = statOf(Number(name));
    if (fields !== undefined && Number(fields[1]) === pid && fields[0] !== "Z" && fields[0] !== "X") children.push(Number(name));
  }
  return children;
}

/** `R`, `S`, `D`, `T` (stopped); `undefined` when there is no such process, or it has ended. */
export function stateOf(pid: number): string | undefined {
  const state = statOf(pid)?.[0];
  return state === "Z" || state === "X" ? undefined : state;
}

function statOf(pid: number): string[] | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  } catch {
    return undefined;
  }
}

/** Waits until `check` gives something, and gives that. */
export async function eventually<T>(check: () => T | undefined | false, what: string, milliseconds = 10_000): Promise<T> {
  const deadline = performance.now() + milliseconds;
  for (;;) {
    const value = check();
    if (value !== undefined && value !== false) return value;
    if (performance.now() > deadline) throw new Error(`waited ${milliseconds} ms in vain: ${what}`);
    await delay(5);
  }
}

export async function collect<T>(values: AsyncIterable<T>): Promise<T[]> {
  const collected: T[] = [];
  for await (const value of values) collected.push(value);
  return collected;
}
