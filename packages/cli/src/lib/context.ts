import type { Output } from "./output.ts";
import type { Session } from "./session.ts";

/** Options that every command takes, before or after its name. */
export interface GlobalOptions {
  /** The configuration that the user named. */
  readonly config?: string | undefined;
  readonly json?: boolean | undefined;
  readonly quiet?: boolean | undefined;
  readonly verbose?: boolean | undefined;
  /** Where workspaces are mounted, by their names. */
  readonly volume?: ReadonlyMap<string, string> | undefined;
}

/** What a command is given beside its own arguments. */
export interface CommandContext {
  readonly output: Output;
  /** Aborts at the first SIGINT or SIGTERM. */
  readonly signal: AbortSignal;
  readonly workingDirectory: string;
  readonly options: GlobalOptions;
  /** Opens workspaces by name; closes them after the command. */
  readonly session: Session;
}

/** Runs a command's body, reports what it throws, and makes what it returns the exit code. Nothing is 0. */
export type Start = (body: (context: CommandContext) => Promise<number | undefined>) => Promise<void>;
