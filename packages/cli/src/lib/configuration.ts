import { stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { StowageError } from "@stowage/core";
import { didYouMean } from "@stowage/core/broker";
import { displayPath, readStructuredFile } from "./structured-file.ts";

/** `stowage.yaml`: the workspaces that a person may name, and where their brokers come from. */
export interface Configuration {
  /** Absolute. */
  readonly path: string;
  /** What relative broker modules, and packages, are looked up from. */
  readonly folder: string;
  /** Package names and module files, as written. */
  readonly brokers: readonly string[];
  /** What stands under each workspace's name, as written; parsed when it is opened. */
  readonly workspaces: ReadonlyMap<string, Readonly<Record<string, unknown>>>;
  /** `file:line:column`, for messages. */
  locate(keys: readonly PropertyKey[]): string;
}

export const CONFIGURATION_NAMES = ["stowage.yaml", "stowage.yml", "stowage.json"] as const;

const KEYS = ["version", "brokers", "workspaces"];

export interface FindOptions {
  /** Named by the user: `--config`, or STOWAGE_CONFIG. */
  readonly explicitPath?: string | undefined;
  readonly workingDirectory: string;
}

/** Reads the file that was named, or the nearest `stowage.yaml` upwards from the working directory. */
export async function loadConfiguration(options: FindOptions): Promise<Configuration> {
  const { workingDirectory } = options;
  const path =
    options.explicitPath === undefined ? await findConfiguration(workingDirectory) : resolve(workingDirectory, options.explicitPath);
  if (path === undefined) {
    throw invalid(`no ${CONFIGURATION_NAMES[0]} in "${workingDirectory}" or a folder above it; create one, or name it with --config`);
  }
  return readConfiguration(path, workingDirectory);
}

/** The nearest configuration upwards, or `undefined`. Throws `INVALID_CONFIGURATION` for what cannot be told apart or trusted. */
export async function findConfiguration(workingDirectory: string): Promise<string | undefined> {
  for (let folder = resolve(workingDirectory); ; folder = dirname(folder)) {
    const found: string[] = [];
    for (const name of CONFIGURATION_NAMES) {
      const path = join(folder, name);
      if (await isFile(path)) found.push(path);
    }
    if (found.length > 1) {
      throw invalid(`both "${found[0]}" and "${found[1]}" exist; remove one, or name the right one with --config`);
    }
    const [path] = found;
    if (path !== undefined) {
      await assertTrusted(path, workingDirectory);
      return path;
    }
    if (dirname(folder) === folder) return undefined;
  }
}

// A configuration can name code to load. One that somebody else has put into a shared folder (/tmp) must not be run by everybody who works below it.
async function assertTrusted(path: string, workingDirectory: string): Promise<void> {
  const user = process.geteuid?.();
  if (user === undefined) return;
  const [owner, here] = [(await stat(path)).uid, (await stat(workingDirectory)).uid];
  if (owner === user || owner === 0 || owner === here) return;
  throw new StowageError(
    `"${path}" belongs to another user (uid ${owner}) and may name code to be run; if you trust it, say so with --config "${path}"`,
    { code: "PERMISSION_DENIED" },
  );
}

async function isFile(path: string): Promise<boolean> {
  try {
    return !(await stat(path)).isDirectory();
  } catch {
    return false;
  }
}

async function readConfiguration(path: string, workingDirectory: string): Promise<Configuration> {
  const file = await readStructuredFile(path, "configuration", workingDirectory);
  const { value } = file;
  if (!isRecord(value)) {
    throw invalid(`${file.locate([])}: the configuration holds no "workspaces"; write "workspaces:" and below it a name for each`);
  }
  for (const key of Object.keys(value)) {
    if (KEYS.includes(key)) continue;
    const hint = didYouMean(key, KEYS);
    const remedy =
      hint === ""
        ? key === "broker" || key === "name"
          ? "; a workspace stands under its name in `workspaces`"
          : `; known keys: ${KEYS.join(", ")}`
        : "";
    throw invalid(`${file.locate([key])}: unknown key "${key}"${hint}${remedy}`);
  }
  if (value.version !== undefined && String(value.version) !== "1") {
    throw invalid(`${file.locate(["version"])}: version ${JSON.stringify(value.version)} is not known; write version: "1"`);
  }
  return {
    path: file.path,
    folder: dirname(file.path),
    brokers: readBrokers(value.brokers, file.locate),
    workspaces: readWorkspaces(value.workspaces, file.locate, displayPath(path, workingDirectory)),
    locate: file.locate,
  };
}

function readBrokers(value: unknown, locate: Configuration["locate"]): string[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value))
    throw invalid(`${locate(["brokers"])}: "brokers" is not a list; write "- @acme/stowage-broker-tape" or "- ./my-broker.ts" below it`);
  return value.map((item: unknown, index) => {
    if (typeof item === "string" && item !== "") return item;
    throw invalid(
      `${locate(["brokers", index])}: item ${index + 1} of "brokers" is no text; give the name of a package or the path of a module`,
    );
  });
}

function readWorkspaces(value: unknown, locate: Configuration["locate"], shown: string): Map<string, Record<string, unknown>> {
  if (value === undefined) throw invalid(`${shown}: "workspaces" is missing; write "workspaces:" and below it a name for each`);
  if (!isRecord(value))
    throw invalid(`${locate(["workspaces"])}: "workspaces" is no mapping; write a name, and below it what the workspace is`);
  const workspaces = new Map<string, Record<string, unknown>>();
  for (const [name, workspace] of Object.entries(value)) {
    const where = locate(["workspaces", name]);
    if (!isRecord(workspace)) throw invalid(`${where}: the workspace "${name}" is no mapping; write "broker:" below it, with its type`);
    if (Object.hasOwn(workspace, "name")) {
      throw invalid(`${locate(["workspaces", name, "name"])}: the workspace "${name}" has a key "name"; remove it, the key above names it`);
    }
    workspaces.set(name, workspace);
  }
  return workspaces;
}

/** What stands under a workspace's name. Throws `INVALID_ARGUMENT` with the nearest name. */
export function findWorkspace(configuration: Configuration, name: string): Readonly<Record<string, unknown>> {
  const workspace = configuration.workspaces.get(name);
  if (workspace !== undefined) return workspace;
  const names = [...configuration.workspaces.keys()];
  const known = names.length === 0 ? "it defines none" : `it defines ${names.slice(0, 10).join(", ")}${names.length > 10 ? ", …" : ""}`;
  throw new StowageError(`unknown workspace "${name}"${didYouMean(name, names)}: ${known} (${configuration.path})`, {
    code: "INVALID_ARGUMENT",
  });
}

/**
 * Of the problems that a configuration has, those that a person must act upon: a key that is missing because it is misspelt is one
 * mistake, not two. `describe` gives `path: what is wrong`.
 */
export function withoutConsequences<T>(problems: readonly T[], describe: (problem: T) => string): T[] {
  const meant = new Set<string>();
  for (const problem of problems) {
    const [, path, hint] = /^(.*?)[^.[\]]+: unknown key \(did you mean "([^"]+)"\?\)/.exec(describe(problem)) ?? [];
    if (hint !== undefined) meant.add(`${path}${hint}: is required`);
  }
  return problems.filter((problem) => ![...meant].some((text) => describe(problem).startsWith(text)));
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function invalid(message: string): StowageError {
  return new StowageError(message, { code: "INVALID_CONFIGURATION" });
}
