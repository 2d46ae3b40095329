import { type BatchOptions, createLimits, DIGEST_ALGORITHMS, type DigestAlgorithm, type TransferOptions } from "@stowage/core";
import { type Command, Option } from "commander";
import type { CommandContext } from "./context.ts";
import { parseBytes, parseCount, parseDuration } from "./option-values.ts";

/** What `addBatchOptions` makes of the arguments. */
export interface BatchFlags {
  readonly concurrency?: number;
  readonly failFast?: true;
  readonly dryRun?: true;
  readonly retries?: number;
  readonly stallTimeout?: number;
  readonly timeout?: number;
  readonly bandwidth?: number;
}

/** What `addTransferOptions` makes of the arguments. */
export interface TransferFlags extends BatchFlags {
  readonly ifExists?: NonNullable<TransferOptions["ifExists"]>;
  readonly checksum?: "auto" | "none" | DigestAlgorithm;
  readonly durability?: "process" | "power";
}

const SPEED = "Speed and patience:";

/** Options of every command that works on many files. */
export function addBatchOptions(command: Command): Command {
  return command
    .option("-n, --dry-run", "say what would be done, and change nothing")
    .addOption(new Option("-j, --concurrency <n>", "files at once (default: 8)").argParser(parseCount(1, 1024)).helpGroup(SPEED))
    .addOption(new Option("--bandwidth <rate>", 'bytes per second at most, such as "50MB"').argParser(parseBytes).helpGroup(SPEED))
    .addOption(
      new Option("--retries <n>", "times that a failed attempt is repeated where that may help (default: 3)")
        .argParser(parseCount(0, 100))
        .helpGroup(SPEED),
    )
    .addOption(
      new Option("--stall-timeout <time>", "give an attempt up when no byte has moved for so long; 0s: never (default: 2m)")
        .argParser(parseDuration)
        .helpGroup(SPEED),
    )
    .addOption(new Option("--timeout <time>", "give up what has not ended after so long").argParser(parseDuration).helpGroup(SPEED))
    .addOption(new Option("--fail-fast", "start nothing new after the first failure").helpGroup(SPEED));
}

/** Options of the commands that store or fetch files. */
export function addTransferOptions(command: Command, defaultIfExists: "replace" | "fail"): Command {
  command
    .addOption(
      new Option(
        "--if-exists <what>",
        `what to do with a target that exists (default: ${defaultIfExists}); skip-same leaves it when it has the same content`,
      ).choices(["replace", "fail", "skip", "skip-same"]),
    )
    .addOption(
      new Option(
        "--checksum <algorithm>",
        "compute and compare a digest of every byte; auto: what costs no second look (default: auto)",
      ).choices(["auto", "none", ...DIGEST_ALGORITHMS]),
    )
    .addOption(
      new Option(
        "--durability <what>",
        "what a stored file survives: a crash of the process, or a loss of power (default: process)",
      ).choices(["process", "power"]),
    );
  return addBatchOptions(command);
}

export function batchOptions(flags: BatchFlags, context: Pick<CommandContext, "signal">): BatchOptions {
  return {
    signal: context.signal,
    concurrency: flags.concurrency,
    failFast: flags.failFast,
    dryRun: flags.dryRun,
    retry: flags.retries === undefined ? undefined : { attempts: flags.retries + 1 },
    stallTimeoutMs: flags.stallTimeout,
    deadline: flags.timeout === undefined ? undefined : new Date(Date.now() + flags.timeout),
    limits: flags.bandwidth === undefined ? undefined : createLimits({ bytesPerSecond: flags.bandwidth }),
  };
}

export function transferOptions(flags: TransferFlags, context: Pick<CommandContext, "signal">): TransferOptions {
  return { ...batchOptions(flags, context), ifExists: flags.ifExists, checksum: flags.checksum, durability: flags.durability };
}
