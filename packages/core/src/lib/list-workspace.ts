import type { ListProblem } from "./broker.ts";
import { iterateBroker } from "./broker-iteration.ts";
import { escapePath, isFilePath, parseDirectoryPath, parseFilePath } from "./file-path.ts";
import type { FileDetails, FilePath } from "./files.ts";
import { StowageError } from "./stowage-error.ts";
import type { ListFilesOptions, SweepOptions } from "./workspace.ts";
import type { WorkspaceRuntime } from "./workspace-runtime.ts";

const DAY_MS = 24 * 60 * 60 * 1000;

/** Lists files; see `Workspace.listFiles`. */
export function listWorkspace(
  runtime: WorkspaceRuntime,
  directory: string | undefined,
  options: ListFilesOptions,
): AsyncIterableIterator<FileDetails, undefined> {
  const { onProblem, recursive = false, signal } = options;
  let place: FilePath | "" = "";
  let prefix = "";
  let problems = 0;
  let firstProblem: StowageError | undefined;
  let thrown: { readonly error: unknown } | undefined;

  const report = (problem: ListProblem): void => {
    const error = runtime.wrap(problem.error, "list", problem.path);
    if (onProblem === undefined) {
      problems++;
      firstProblem ??= error;
      return;
    }
    try {
      onProblem({ path: problem.path, error });
    } catch (error) {
      // Called from the midst of a broker: it must not see the caller's errors.
      thrown ??= { error };
    }
  };
  const call = { operation: "list", file: directory, access: "look", signal } as const;
  return iterateBroker<FileDetails>(
    runtime,
    call,
    (context) => {
      place = parseDirectoryPath(directory ?? "");
      prefix = place === "" ? "" : `${place}/`;
      const startAfter = options.startAfter === undefined ? undefined : parseFilePath(options.startAfter);
      return runtime.broker.listFiles(place, { recursive, startAfter, onProblem: report }, context);
    },
    {
      accept(details) {
        if (thrown !== undefined) throw thrown.error;
        if (isBelow(details.file.path, prefix)) return true;
        report(describeForeign(details, prefix));
        return false;
      },
      end() {
        if (thrown !== undefined) throw thrown.error;
        if (firstProblem === undefined) return;
        throw new StowageError(
          `the listing is not complete, ${problems} of its entries could not be given; first: ${firstProblem.message}`,
          { code: firstProblem.code, workspace: runtime.name, file: firstProblem.file, cause: firstProblem },
        );
      },
    },
  );
}

/** Names from a broker are input: one that is no path, or lies elsewhere, must not reach somebody who acts on it. */
function isBelow(path: unknown, prefix: string): boolean {
  return typeof path === "string" && (prefix === "" || path.startsWith(prefix)) && isFilePath(path);
}

function describeForeign(details: FileDetails, prefix: string): ListProblem {
  const { path } = details.file;
  const shown = escapePath(String(path));
  try {
    parseFilePath(path);
  } catch (error) {
    return { path: shown, error };
  }
  const problem = `the broker listed "${shown}", which does not lie in "${escapePath(prefix)}"`;
  return { path: shown, error: new StowageError(problem, { code: "INVALID_PATH" }) };
}

/** Removes what crashed sessions left; see `Workspace.sweep`. */
export function sweepWorkspace(runtime: WorkspaceRuntime, options: SweepOptions): AsyncIterableIterator<string, undefined> {
  const { broker } = runtime;
  const { olderThanMs = DAY_MS, deep = false, signal } = options;
  return iterateBroker<string>(runtime, { operation: "sweep", access: "write", signal }, (context) => {
    if (!(olderThanMs >= 0)) throw new StowageError(`olderThanMs must be 0 or more, got ${olderThanMs}`, { code: "INVALID_ARGUMENT" });
    if (broker.sweep === undefined) throw runtime.unsupported("sweep");
    return broker.sweep({ olderThanMs, deep }, context);
  });
}
