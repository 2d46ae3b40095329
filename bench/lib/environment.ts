/** With what the figures were made. Names no host and no path. */
import { execFileSync, spawnSync } from "node:child_process";
import { statfsSync } from "node:fs";
import { availableParallelism, cpus, loadavg, release, totalmem } from "node:os";
import type { Tool } from "./workload.ts";

export interface Environment {
  readonly date: string;
  readonly commit: string;
  /** The tree held changes that are in no commit. */
  readonly modified: boolean;
  readonly node: string;
  readonly kernel: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly fileSystem: string;
  /** One-minute load average when the workload began: other work on the machine makes figures worth less. */
  readonly loadBefore: number;
  readonly tools: Readonly<Record<string, string>>;
}

const FILE_SYSTEMS: Readonly<Record<number, string>> = {
  61267: "ext4",
  1481003842: "xfs",
  2435016766: "btrfs",
  16914836: "tmpfs",
  2035054128: "overlay",
};

export function describeEnvironment(directory: string, tools: Readonly<Partial<Record<Tool | "zod", string>>>): Environment {
  const root = new URL("../..", import.meta.url).pathname;
  const git = (...parameters: string[]): string => execFileSync("git", parameters, { cwd: root, encoding: "utf8" }).trim();
  const type = statfsSync(directory).type;
  return {
    date: new Date().toISOString().slice(0, 10),
    commit: git("rev-parse", "--short=10", "HEAD"),
    modified: git("status", "--porcelain", "--", "packages").length > 0,
    node: process.versions.node,
    kernel: /^\d+(?:\.\d+)*/.exec(release())?.[0] ?? release(),
    cpu: cpus()[0]?.model ?? "unknown",
    cores: availableParallelism(),
    memoryGiB: Math.round(totalmem() / 1024 ** 3),
    fileSystem: FILE_SYSTEMS[type] ?? `0x${type.toString(16)}`,
    loadBefore: Math.round((loadavg()[0] ?? 0) * 10) / 10,
    tools,
  };
}

/** The first number with a dot that a command says of its version. */
export function commandVersion(command: string, option = "--version"): string {
  const { stdout } = spawnSync(command, [option], { encoding: "utf8" });
  return /\d+\.\d+[\w.-]*/.exec(stdout ?? "")?.[0] ?? "unknown";
}
