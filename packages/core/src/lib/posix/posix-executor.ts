import { tmpdir } from "node:os";
import { join } from "node:path";
import { createAutoExecutor } from "./auto-executor.ts";
import { isCannotStart } from "./child-command.ts";
import { createInlineExecutor } from "./inline-executor.ts";
import { readMounts } from "./mountinfo.ts";
import type { PosixExecutor, PosixVolume } from "./posix-commands.ts";
import { openPosixSession, type VolumeFacts } from "./posix-session.ts";
import type { ProcessExecutor } from "./process-executor.ts";
import { fileSystemOfType } from "./volume-root.ts";

export type { VolumeFacts } from "./posix-session.ts";

export interface PosixExecutorOptions {
  /**
   * `"process"`: in child processes, which can be killed when the file system hangs. `"inline"`: in this process. `"auto"`: in children where the file
   * system may hang (network, FUSE); elsewhere small work here, and in children large batches, large copies and large listings; all of it here where no
   * child can be started. Defaults to `"auto"`.
   */
  readonly mode?: "auto" | "inline" | "process" | undefined;
  /** The most children for commands and listings; streams have others. Defaults to 2. */
  readonly children?: number | undefined;
  /** A child that has work and says nothing for so long is killed, and what it did fails with `TIMEOUT`. Milliseconds. Defaults to never: aborts do as much. */
  readonly commandTimeoutMs?: number | undefined;
  /** A child with nothing to do ends after so long. Milliseconds. Defaults to 5,000. */
  readonly idleMs?: number | undefined;
}

export interface OpenedPosixExecutor extends PosixExecutor {
  readonly facts: VolumeFacts;
}

/** The folder of this machine where downloads of this user are noted, so that a crash leaves nothing beside their targets for ever. */
export function localRecordsFolder(): string | undefined {
  const uid = process.geteuid?.();
  return uid === undefined ? undefined : join(tmpdir(), `.stowage-inflight-${uid}`);
}

/** Opens the volume. Throws what `openVolumeRoot` throws. */
export async function createPosixExecutor(
  volume: PosixVolume,
  options: PosixExecutorOptions = {},
  signal?: AbortSignal | undefined,
): Promise<OpenedPosixExecutor> {
  signal?.throwIfAborted();
  const { mode = "auto", children = 2, commandTimeoutMs, idleMs = 5000 } = options;
  const localRecords = localRecordsFolder();
  // Loaded when there is use for it: most programs never start a child.
  const createProcess = async (): Promise<ProcessExecutor> => {
    const { createProcessExecutor } = await import("./process-executor.ts");
    return createProcessExecutor(volume, { localRecords, children, commandTimeoutMs, idleMs });
  };

  if (mode === "process" || (mode === "auto" && mayHang(volume.rootPath))) {
    const executor = await createProcess();
    try {
      // Opening in the child comes first: what hangs there can be killed.
      return withFacts(executor, await executor.open(signal));
    } catch (error) {
      await executor.close();
      if (mode === "process" || !isCannotStart(error)) throw error;
    }
  }
  const session = openPosixSession(volume, { changeDirectory: false, localRecords });
  const inline = createInlineExecutor(session);
  return withFacts(mode === "auto" ? createAutoExecutor(session, inline, createProcess) : inline, session.facts);
}

/** Opens a volume, tells what was found, and closes it. Throws as opening it for use would. */
export async function inspectVolume(volume: PosixVolume, signal?: AbortSignal | undefined): Promise<VolumeFacts> {
  const executor = await createPosixExecutor(volume, {}, signal);
  await executor.close();
  return executor.facts;
}

function withFacts(executor: PosixExecutor, facts: VolumeFacts): OpenedPosixExecutor {
  const { kind, run, runBatch, list, openRead, openWrite, sweep, close } = executor;
  return { facts, kind, run, runBatch, list, openRead, openWrite, sweep, close };
}

/** Judged by the path alone: looking at it is what might hang. */
function mayHang(rootPath: string): boolean {
  let longest: { readonly mountPoint: string; readonly type: string } | undefined;
  try {
    for (const mount of readMounts()) {
      const { mountPoint } = mount;
      const covers = mountPoint === "/" || rootPath === mountPoint || rootPath.startsWith(`${mountPoint}/`);
      // Of several at one place the last one is seen.
      if (covers && mountPoint.length >= (longest?.mountPoint.length ?? 0)) longest = mount;
    }
  } catch {
    return false;
  }
  return longest !== undefined && fileSystemOfType(longest.type).kind !== "local";
}
