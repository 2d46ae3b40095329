import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { StowageError } from "../stowage-error.ts";

/**
 * How the program that is one file starts a child: it says so here, `globalThis[Symbol.for("@stowage/posix-child-command")]`, and when `script` is run
 * with `arguments` it imports `@stowage/core/posix-child` and does nothing else. Where this is absent, that module is looked up as a file.
 */
export interface ChildCommand {
  readonly script: string;
  readonly arguments: readonly string[];
}

export const CHILD_COMMAND: symbol = Symbol.for("@stowage/posix-child-command");

/** How to start a child. Throws `UNSUPPORTED` where that cannot be known. */
export function findChildCommand(): { readonly script: string; readonly args: readonly string[] } {
  const command = (globalThis as { [key: symbol]: Partial<ChildCommand> | undefined })[CHILD_COMMAND];
  if (typeof command?.script === "string") return { script: command.script, args: command.arguments ?? [] };
  return { script: resolveEntry("@stowage/core/posix-child"), args: [] };
}

const cannotStart = new WeakSet<object>();

/** Whether an error says that this program cannot start children at all. */
export function isCannotStart(error: unknown): boolean {
  return typeof error === "object" && error !== null && cannotStart.has(error);
}

function resolveEntry(entry: string): string {
  try {
    // Some test runners and bundlers know no import.meta.resolve.
    if (typeof import.meta.resolve === "function") return fileURLToPath(import.meta.resolve(entry));
    return createRequire(import.meta.url).resolve(entry);
  } catch (cause) {
    const error = new StowageError(
      `the module "${entry}" cannot be found, which children for file work run; install @stowage/core beside this program, or say how to start one (see the documentation of the executor "process")`,
      { code: "UNSUPPORTED", cause },
    );
    cannotStart.add(error);
    throw error;
  }
}
