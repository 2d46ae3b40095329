import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInlineExecutor } from "./inline-executor.ts";
import type { PosixExecutor, PosixVolume } from "./posix-commands.ts";
import { openPosixSession, type VolumeFacts } from "./posix-session.ts";

export type { VolumeFacts } from "./posix-session.ts";

export interface PosixExecutorOptions {
  readonly mode?: "auto" | "inline" | "process" | undefined;
}

export interface OpenedPosixExecutor extends PosixExecutor {
  readonly facts: VolumeFacts;
}

/** The folder of this machine where downloads of this user are noted, so that a crash leaves nothing beside their targets for ever. */
export function localRecordsFolder(): string | undefined {
  const uid = process.getuid?.();
  return uid === undefined ? undefined : join(tmpdir(), `.stowage-inflight-${uid}`);
}

export async function createPosixExecutor(
  volume: PosixVolume,
  _options: PosixExecutorOptions = {},
  signal?: AbortSignal | undefined,
): Promise<OpenedPosixExecutor> {
  signal?.throwIfAborted();
  const session = openPosixSession(volume, { changeDirectory: false, localRecords: localRecordsFolder() });
  return { ...createInlineExecutor(session), facts: session.facts };
}

/** Opens a volume, tells what was found, and closes it. Throws as opening it for use would. */
export async function inspectVolume(volume: PosixVolume, signal?: AbortSignal | undefined): Promise<VolumeFacts> {
  const executor = await createPosixExecutor(volume, {}, signal);
  await executor.close();
  return executor.facts;
}
