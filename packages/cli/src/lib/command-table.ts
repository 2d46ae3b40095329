import type { Command } from "commander";
import type { Start } from "./context.ts";

/** What a file of `commands/` exports: adds arguments, options, examples and the action to a command. */
export interface CommandModule {
  readonly define: (command: Command, start: Start) => void;
}

export interface CommandEntry {
  readonly name: string;
  readonly summary: string;
  readonly group: string;
  /** Loaded only when the command is called, or its help is asked for. */
  load(): Promise<CommandModule>;
}

const FILES = "Files:";
const UPKEEP = "Upkeep:";
const SETUP = "Configuration and brokers:";

export const COMMANDS: readonly CommandEntry[] = [
  { name: "ls", summary: "list files of a workspace, or the workspaces", group: FILES, load: () => import("../commands/ls.ts") },
  { name: "stat", summary: "show what is known of files", group: FILES, load: () => import("../commands/stat.ts") },
  { name: "cp", summary: "copy files between workspaces and this machine", group: FILES, load: () => import("../commands/cp.ts") },
  { name: "mv", summary: "move files inside a workspace or to another one", group: FILES, load: () => import("../commands/mv.ts") },
  { name: "rm", summary: "delete files", group: FILES, load: () => import("../commands/rm.ts") },
  {
    name: "run",
    summary: "run a job: stage inputs, run its command, store outputs",
    group: "Jobs:",
    load: () => import("../commands/run.ts"),
  },
  {
    name: "verify",
    summary: "compare files with another place or with a list of digests",
    group: UPKEEP,
    load: () => import("../commands/verify.ts"),
  },
  { name: "sweep", summary: "remove what crashed sessions left unfinished", group: UPKEEP, load: () => import("../commands/sweep.ts") },
  {
    name: "validate",
    summary: "check the configuration and that every workspace can be reached",
    group: SETUP,
    load: () => import("../commands/validate.ts"),
  },
  { name: "types", summary: "list the broker types that can be used", group: SETUP, load: () => import("../commands/types.ts") },
  { name: "schema", summary: "print a JSON Schema", group: SETUP, load: () => import("../commands/schema.ts") },
  { name: "conform", summary: "prove a broker against the conformance kit", group: SETUP, load: () => import("../commands/conform.ts") },
];
