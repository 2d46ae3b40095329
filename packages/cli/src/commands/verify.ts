import { basename, join, resolve } from "node:path";
import { DIGEST_ALGORITHMS, type DigestAlgorithm, escapePath, StowageError, type Workspace } from "@stowage/core";
import { type Command, Option } from "commander";
import { joinPath, type LocalAddress, parseAddress, parseWorkspaceAddress, type WorkspaceAddress } from "../lib/address.ts";
import { type CompareOptions, type Comparison, comparePairs, compareWithList, findExtras, readListedDigests } from "../lib/compare.ts";
import { formatListedDigest, readDigest } from "../lib/contents.ts";
import type { CommandContext, Start } from "../lib/context.ts";
import { nameOf } from "../lib/copy-plan.ts";
import { describeError, EXIT_CODES, exitCodeFor } from "../lib/exit.ts";
import { formatBytes, formatCount, formatDuration } from "../lib/format.ts";
import { parseCount } from "../lib/option-values.ts";
import { createProgressBar } from "../lib/progress.ts";
import { type Operand, resolveLocalOperand, resolveWorkspaceOperand, type SelectedFile } from "../lib/selection.ts";
import { displayPath } from "../lib/structured-file.ts";

interface Flags {
  readonly list?: string;
  readonly create?: true;
  readonly checksum?: DigestAlgorithm;
  readonly quick?: true;
  readonly ignoreExtra?: true;
  readonly literal?: true;
  readonly concurrency?: number;
}

export function define(command: Command, start: Start): void {
  command
    .argument("<address>", "name:file, name:directory or a pattern")
    .argument("[other]", "the same in another workspace, or on this machine")
    .option("--list <file>", "compare with a list of digests, as sha256sum writes it")
    .option("--create", "print such a list instead of comparing")
    .addOption(new Option("--checksum <algorithm>", "what contents are compared by (default: sha256)").choices([...DIGEST_ALGORITHMS]))
    .option("--quick", "compare sizes, and the digests that both storages know; read nothing")
    .option("--ignore-extra", "files that only the other side has are no difference")
    .option("--literal", "take *, ?, [ and { in names as letters")
    .addOption(new Option("-j, --concurrency <n>", "files at once (default: 4)").argParser(parseCount(1, 256)))
    .addHelpText(
      "after",
      `
Reads every byte of both sides. Ends with exit code ${EXIT_CODES.verificationFailed} when anything differs.

Examples:
  $ stowage verify data:raw ./raw                     with a directory of this machine
  $ stowage verify data:raw archive:raw --quick       with another workspace, without reading
  $ stowage verify data:raw --create > raw.sha256     make a list
  $ stowage verify data:raw --list raw.sha256         compare with it, today or next year`,
    )
    .action((address: string, other: string | undefined, flags: Flags) => start((context) => verify(address, other, flags, context)));
}

async function verify(text: string, otherText: string | undefined, flags: Flags, context: CommandContext): Promise<number> {
  const ways = [otherText !== undefined && "another place", flags.list !== undefined && "--list", flags.create && "--create"].filter(
    (way) => way !== false && way !== undefined,
  );
  if (ways.length === 0)
    throw invalid("nothing to compare with; name another place, or a list of digests with --list, or make one with --create");
  if (ways.length > 1) throw invalid(`${ways.join(" and ")} do not go together; leave one out`);

  const { session, signal } = context;
  const address = parseWorkspaceAddress(text);
  const workspace = await session.open(address.workspace);
  const operand = await resolveWorkspaceOperand(workspace, address, { signal, recursive: true, literal: flags.literal === true });
  const report = createReport(flags, context);
  if (flags.create) return createList(operand, workspace, report, context);
  const comparisons =
    flags.list === undefined
      ? compareTrees(operand, workspace, otherText!, flags, report, context)
      : compareList(operand, workspace, flags, report, context);
  for await (const comparison of comparisons) report.tell(comparison);
  return report.end();
}

/** The trees on both sides, and what only one of them has. */
async function* compareTrees(
  operand: Operand,
  workspace: Workspace,
  otherText: string,
  flags: Flags,
  report: Report,
  context: CommandContext,
): AsyncGenerator<Comparison> {
  const { session, signal } = context;
  const otherAddress = parseAddress(otherText);
  if (otherAddress.kind === "stream") throw invalid('"-" cannot be compared with; store it first, or give a list of digests with --list');
  const other = otherAddress.kind === "workspace" ? await session.open(otherAddress.workspace) : undefined;
  const otherOperand = await resolveOther(operand, otherAddress, other, context);
  const otherPath = (file: SelectedFile): string => {
    if (operand.kind === "file" && otherOperand.kind === "file") return otherAddress.path;
    return below(other, otherAddress.path, file.relativePath);
  };
  const pairs = (async function* () {
    for await (const file of operand.files({ signal, onProblem: report.options.onProblem })) {
      const path = otherPath(file);
      yield {
        name: nameOf(workspace, file.path),
        otherName: nameOf(other, path),
        file: { workspace, path: file.path },
        other: { workspace: other, path },
      };
    }
  })();
  yield* comparePairs(pairs, report.options);
  if (flags.ignoreExtra || operand.kind !== "directory" || otherOperand.kind !== "directory") return;
  yield* findExtras(
    otherOperand.files({ signal, onProblem: report.options.onProblem }),
    (file) => ({ workspace, path: joinPath(operand.path, file.relativePath) }),
    (file) => nameOf(other, file.path),
    report.options,
  );
}

/** A pattern's counterpart is the directory that the other address names; a file's may be a directory that holds one of its name. */
async function resolveOther(
  operand: Operand,
  address: WorkspaceAddress | LocalAddress,
  other: Workspace | undefined,
  { signal }: CommandContext,
): Promise<Operand> {
  const options = { signal, recursive: true, literal: true };
  const resolved =
    other === undefined
      ? await resolveLocalOperand(address as LocalAddress, options)
      : await resolveWorkspaceOperand(other, address as WorkspaceAddress, options);
  if (operand.kind !== "file" && resolved.kind === "file")
    throw invalid(`"${operand.shown}" stands for many files and "${resolved.shown}" is one; name a directory`);
  return resolved;
}

function below(workspace: Workspace | undefined, directory: string, path: string): string {
  return workspace === undefined ? join(directory, path) : joinPath(directory, path);
}

async function* compareList(
  operand: Operand,
  workspace: Workspace,
  flags: Flags,
  report: Report,
  context: CommandContext,
): AsyncGenerator<Comparison> {
  const { signal, workingDirectory } = context;
  if (operand.kind === "glob") throw invalid("--list and a pattern do not go together; name the directory that the list is about");
  const path = resolve(workingDirectory, flags.list!);
  const listed = new Set<string>();
  // Of a single file the list may hold the name, with whatever stood before it.
  const isIt = (entry: { path: string }): boolean => operand.kind === "directory" || basename(entry.path) === operand.name;
  const entries = (async function* () {
    for await (const entry of readListedDigests(path, displayPath(path, workingDirectory), signal)) {
      if (!isIt(entry)) continue;
      listed.add(entry.path);
      yield entry;
    }
  })();
  const fileOf = (entry: { path: string }): { name: string; file: { workspace: Workspace; path: string } } => {
    const inside = operand.kind === "file" ? operand.path : joinPath(operand.path, entry.path);
    return { name: nameOf(workspace, inside), file: { workspace, path: inside } };
  };
  yield* compareWithList(entries, fileOf, report.options);
  if (listed.size === 0)
    throw new StowageError(`the list "${displayPath(path, workingDirectory)}" says nothing of "${operand.shown}"; check both`, {
      code: "INVALID_ARGUMENT",
    });
  if (flags.ignoreExtra || operand.kind !== "directory") return;
  for await (const file of operand.files({ signal, onProblem: report.options.onProblem })) {
    if (!listed.has(file.relativePath))
      yield { status: "different", path: nameOf(workspace, file.path), kind: "extra", message: "extra: the list does not have it" };
  }
}

async function createList(operand: Operand, workspace: Workspace, report: Report, { signal, output }: CommandContext): Promise<number> {
  const { algorithm, onProblem } = report.options;
  if (!LISTABLE.has(algorithm))
    throw invalid(
      `no list can be made of ${algorithm} digests, whose length does not tell them from others; use sha256, sha1, md5 or crc32`,
    );
  for await (const file of operand.files({ signal, onProblem })) {
    const digest = await readDigest({ workspace, path: file.path }, algorithm, signal);
    output.record({ event: "digest", path: file.relativePath, digest });
    output.result(formatListedDigest(file.relativePath, digest));
  }
  return report.exitCode();
}

const LISTABLE: ReadonlySet<DigestAlgorithm> = new Set(["sha256", "sha1", "md5", "crc32"]);

interface Report {
  readonly options: CompareOptions;
  tell(comparison: Comparison): void;
  exitCode(): number;
  end(): number;
}

function createReport(flags: Flags, { output, signal }: CommandContext): Report {
  const startedAt = performance.now();
  const counts = { same: 0, different: 0, problems: 0, bytes: 0 };
  let [read, firstError]: [number, unknown] = [0, undefined];
  const bar = createProgressBar(
    output,
    () => ({}),
    (item) => item as string | undefined,
  );
  const exitCode = (): number => {
    if (counts.different > 0) return EXIT_CODES.verificationFailed;
    return firstError === undefined ? EXIT_CODES.success : exitCodeFor(firstError);
  };
  return {
    options: {
      signal,
      algorithm: flags.checksum ?? "sha256",
      isQuick: flags.quick === true,
      concurrency: flags.concurrency ?? 4,
      onProblem: (problem) => {
        counts.problems++;
        firstError ??= problem.error;
        const message = describeError(problem.error);
        output.record({ event: "problem", path: problem.path, message });
        output.failure(message.includes(problem.path) ? message : `"${problem.path}": ${message}`);
      },
      onBytes: (bytes) => {
        read += bytes;
        bar.update({ itemBytes: read, bytes: read, done: counts.same + counts.different });
      },
    },
    tell(comparison) {
      output.record({ event: "comparison", ...comparison, error: undefined });
      if (comparison.status === "same") {
        counts.same++;
        counts.bytes += comparison.bytes;
        if (output.isVerbose)
          output.line(
            `same ${escapePath(comparison.path)}${comparison.digest === undefined ? "" : ` (${comparison.digest.algorithm} ${comparison.digest.value})`}`,
          );
      } else {
        // What could not be read is no proven difference, but no proof either.
        if (comparison.kind === "unreadable") counts.problems++;
        else counts.different++;
        firstError ??= comparison.error;
        output.result(`${output.style("red", escapePath(comparison.path))}  ${comparison.message}`);
      }
    },
    exitCode,
    end() {
      bar.end();
      const durationMs = Math.round(performance.now() - startedAt);
      const { same, different, problems, bytes } = counts;
      output.record({ event: "summary", operation: "verify", same, different, problems, bytes, durationMs });
      const how = flags.quick
        ? "by what is known without reading"
        : flags.list === undefined
          ? `by ${flags.checksum ?? "sha256"}`
          : "by the list";
      const findings = [`${formatCount(same, "file")} the same (${formatBytes(bytes)}, ${how}, in ${formatDuration(durationMs)})`];
      if (different > 0) findings.push(output.style("red", formatCount(different, "difference")));
      if (problems > 0) findings.push(`${problems.toLocaleString("en-US")} not compared`);
      output.line(findings.join("; "));
      if (different > 0)
        output.failure(
          `verification failed: ${formatCount(different, "difference")}; copy again with --if-exists skip-same, or look at the files`,
        );
      return exitCode();
    },
  };
}

function invalid(message: string): StowageError {
  return new StowageError(message, { code: "INVALID_ARGUMENT" });
}
