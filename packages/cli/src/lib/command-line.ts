import { Command, CommanderError } from "commander";
import { COMMANDS } from "./command-table.ts";
import type { GlobalOptions, Start } from "./context.ts";
import { gatherPairs } from "./option-values.ts";
import { commandVersion } from "./version.ts";

/** Global options that take a value: what follows them is not the command's name. */
const WITH_VALUE: ReadonlySet<string> = new Set(["-c", "--config", "--volume"]);

/** Runs the command that `args` ask for and ends the process with its exit code. */
export async function runCommandLine(args: readonly string[]): Promise<void> {
  // Whoever reads may have had enough; a command that is at work hears of it through its output and stops.
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== "EPIPE") throw error;
    });
  }
  const name = findCommandName(args);
  let exitCode = 0;
  const start: Start = async (body) => {
    const { runBody } = await import("./run-body.ts");
    exitCode = await runBody(program.opts<GlobalOptions>(), body);
  };
  const program = createProgram();
  for (const entry of COMMANDS) {
    const command = program
      .command(entry.name)
      .summary(entry.summary)
      .description(`${entry.summary[0]!.toUpperCase()}${entry.summary.slice(1)}.`);
    command.helpGroup(entry.group);
    if (entry.name === name) (await entry.load()).define(command, start);
  }
  try {
    await program.parseAsync(args, { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode !== 0) process.exitCode = await reportUsage(error, name, args.includes("--json"));
    return;
  }
  const { leaveProcess } = await import("./run-body.ts");
  await leaveProcess(exitCode);
}

function createProgram(): Command {
  return new Command("stowage")
    .description("Moves, checks and stores the files of jobs, wherever they live.")
    .usage("[options] <command>")
    .exitOverride()
    .configureOutput({ outputError: () => {} })
    .configureHelp({ showGlobalOptions: true })
    .version(commandVersion(), "-V, --version", "print the version")
    .helpOption("-h, --help", "print help for a command")
    .helpCommand("help [command]", "print help for a command")
    .option("-c, --config <file>", "the configuration; default: the nearest stowage.yaml upwards")
    .option("--volume <name=path>", "open this workspace where it is mounted; may be repeated", gatherPairs)
    .option("--json", "print one JSON object a line")
    .option("-q, --quiet", "print only results and failures")
    .option("-v, --verbose", "print a line for every file")
    .addHelpText(
      "after",
      `
A file in a workspace is written name:path, with the name that stowage.yaml gives the workspace.
Everything else is a path of this machine; write ./a:b for a name with a colon.

Examples:
  $ stowage ls                                   the workspaces
  $ stowage ls -l data:raw                       what is in a directory
  $ stowage cp -r ./results archive:2026/run-7   copy a directory into a workspace
  $ stowage verify archive:2026/run-7 ./results  compare byte by byte
  $ stowage run job.yaml                         run a job`,
    );
}

/** The first argument that is no option; of `help ls` it is `ls`. */
function findCommandName(args: readonly string[]): string | undefined {
  const names: string[] = [];
  for (let index = 0; index < args.length && names.length < 2; index++) {
    const argument = args[index]!;
    if (argument === "--") break;
    if (WITH_VALUE.has(argument)) index++;
    else if (!argument.startsWith("-")) names.push(argument);
  }
  return names[0] === "help" ? names[1] : names[0];
}

async function reportUsage(error: CommanderError, name: string | undefined, isJson: boolean): Promise<number> {
  const { EXIT_CODES } = await import("@stowage/jobs");
  // Commander has printed the whole help already.
  if (error.code !== "commander.help") {
    const message = error.message
      .replace(/^error: /, "")
      .replace(/\n\(Did you mean (.*)\?\)/, " (did you mean $1?)")
      .replace(/\.$/, "");
    const help = COMMANDS.some((entry) => entry.name === name) ? `stowage ${name} --help` : "stowage --help";
    const { escapePath } = await import("@stowage/core");
    const text = `${escapePath(message)}; see "${help}"`;
    const record = { event: "error", code: "INVALID_ARGUMENT", message: text, exitCode: EXIT_CODES.badArguments };
    if (isJson) process.stdout.write(`${JSON.stringify(record)}\n`);
    process.stderr.write(`stowage: ${text}\n`);
  }
  return EXIT_CODES.badArguments;
}
