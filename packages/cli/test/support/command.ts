import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { commandPath } from "../../src/index.ts";

/** How a run of the command ended. */
export interface CommandRun {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly cwd: string;
  readonly environment?: Readonly<Record<string, string>> | undefined;
  /** What standard input holds; it is empty otherwise. */
  readonly input?: string | Uint8Array | undefined;
  /** Called with the running process. */
  readonly onStart?: ((child: ReturnType<typeof spawn>) => void) | undefined;
}

/** Runs the real command as a process of its own. */
export function runStowage(args: readonly string[], options: RunOptions): Promise<CommandRun> {
  const { STOWAGE_CONFIG: _, STOWAGE_DEBUG: __, NO_COLOR: ___, ...inherited } = process.env;
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [commandPath, ...args], { cwd: options.cwd, env: { ...inherited, ...options.environment } });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on("data", (chunk: Buffer) => out.push(chunk));
    child.stderr.on("data", (chunk: Buffer) => err.push(chunk));
    child.on("error", reject);
    child.on("close", (status, signal) =>
      resolve({ status, signal, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() }),
    );
    // A command that fails early does not read what it is given.
    child.stdin.on("error", () => {});
    child.stdin.end(options.input ?? "");
    options.onStart?.(child);
  });
}

/** A fresh folder, and a function that removes it. */
export function makeFolder(): { readonly folder: string; remove(): void } {
  const folder = mkdtempSync(join(tmpdir(), "stowage-cli-"));
  return { folder, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

/** Writes files below a folder, by their paths. */
export function writeFiles(folder: string, files: Readonly<Record<string, string | Uint8Array>>): void {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), content);
  }
}

/** The JSON objects of `--json`, one a line. */
export function records(run: CommandRun): Record<string, unknown>[] {
  return run.stdout
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}
