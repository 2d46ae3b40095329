import { dirname, join } from "node:path";
import type { ChildPool } from "./child-pool.ts";
import { splitPath } from "./pinned-directory.ts";
import type { PosixCommand, WriteCommand } from "./posix-commands.ts";

/** Time to look after what a lost child left, in milliseconds. */
const CLEAN_MS = 5000;
/** The same after an abort: with the grace that the child had, callers still settle within a second. */
const HASTY_CLEAN_MS = 350;

/** Names that are told of as perhaps left behind, when that could not be looked after. */
const LEFTOVERS_TOLD = 16;

/** Has a child remove the temporary names that another, which was lost, may have left; gives, in the order of the commands, what may still be there. */
export async function cleanTemporaries(
  pool: ChildPool,
  commands: readonly (PosixCommand | WriteCommand)[],
  signal: AbortSignal,
): Promise<(readonly string[])[]> {
  const makers = commands.filter((command) => "temporaryName" in command);
  if (makers.length === 0) return [];
  let stop = (): void => undefined;
  const names = await new Promise<readonly string[] | undefined>((resolve) => {
    let found: readonly string[] | undefined;
    const submitted = pool.submit({
      isShort: true,
      request: (task) => ({ kind: "clean", task, commands: makers }),
      onReply(reply) {
        if (reply.kind === "names") found = reply.names;
      },
      onEnded: () => resolve(found),
      onLost: () => resolve(undefined),
    });
    const giveUp = (): void => {
      resolve(undefined);
      submitted.cancel();
    };
    const hurry = (): void => {
      clearTimeout(timer);
      timer = setTimeout(giveUp, HASTY_CLEAN_MS);
    };
    let timer = setTimeout(giveUp, CLEAN_MS);
    stop = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", hurry);
    };
    if (signal.aborted) hurry();
    else signal.addEventListener("abort", hurry, { once: true });
  });
  stop();
  let told = 0;
  return commands.map((command) => {
    const name = temporaryPath(command);
    if (name === undefined || (names !== undefined && !names.includes(name))) return [];
    return told++ < LEFTOVERS_TOLD || names !== undefined ? [name] : [];
  });
}

function temporaryPath(command: PosixCommand | WriteCommand): string | undefined {
  if (!("temporaryName" in command)) return undefined;
  const { temporaryName } = command;
  if ("localPath" in command && command.verb === "download") return join(dirname(command.localPath), temporaryName);
  const { directory } = splitPath("newPath" in command ? command.newPath : command.file.path);
  return directory === "" ? temporaryName : `${directory}/${temporaryName}`;
}
