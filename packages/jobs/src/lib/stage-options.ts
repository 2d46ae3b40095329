import type { BrokerSource, Workspace } from "@stowage/core";
import type { TransferEvent } from "./job-event.ts";

/** What staging in and staging out have in common. */
export interface StageOptions {
  /** Of the job: holds `input`, `output`, `tmp` and `input.json`. Made when it is missing. */
  readonly directory: string;
  /** Names the run in paths and records. Defaults to the one in `input.json`, else to a new one. */
  readonly runId?: string | undefined;
  /** What `{date}` is made of. Defaults to the time in `input.json`, else to now. */
  readonly startedAt?: Date | undefined;
  /** The broker types that the job's workspaces may use. Defaults to those of the default registry. */
  readonly brokers?: BrokerSource | undefined;
  /** Workspaces that are open already, by their name in the job; they stay open. */
  readonly openWorkspaces?: Readonly<Record<string, Workspace>> | undefined;
  /** Where workspaces' volumes are mounted, by their name in the job. */
  readonly volumePaths?: Readonly<Record<string, string>> | undefined;
  /** How many files move at once. Defaults to 8. */
  readonly concurrency?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onEvent?: ((event: TransferEvent) => void) | undefined;
}
