import { readFile } from "node:fs/promises";
import { registerHooks } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { type AnyBrokerDefinition, createBrokerRegistry, escapePath, isBrokerDefinition, memoryBroker, StowageError } from "@stowage/core";
import { didYouMean } from "@stowage/core/broker";
import type { Configuration } from "./configuration.ts";

/** Our own broker types, and the packages that hold them; tried without being named. */
export const FIRST_PARTY_PACKAGES: Readonly<Record<string, string>> = {
  box: "@stowage/broker-box",
  gpfs: "@stowage/broker-gpfs",
  host: "@stowage/broker-host",
  nfs: "@stowage/broker-nfs",
  rclone: "@stowage/rclone",
  s3: "@stowage/broker-s3",
};

/** A broker type that can be used, and where it was found. */
export interface KnownBroker {
  readonly definition: AnyBrokerDefinition;
  /** `built in`, or the package or module as the configuration names it. */
  readonly origin: string;
  /** The file that it was loaded from. */
  readonly file?: string | undefined;
  /** Of the package, where it is one. */
  readonly version?: string | undefined;
}

/** Where brokers are looked up: a configuration, or a folder without one. */
export type BrokerPlace = Pick<Configuration, "folder" | "brokers" | "locate">;

export function folderAsBrokerPlace(folder: string): BrokerPlace {
  return { folder, brokers: [], locate: () => folder };
}

/**
 * The definitions for `types`: those of the modules that the configuration lists, then `memory`, then our own packages, which are
 * looked up from its folder and, failing that, beside this command. Throws `UNKNOWN_BROKER_TYPE` with what to install.
 */
export async function loadBrokers(place: BrokerPlace, types: Iterable<string>): Promise<Map<string, KnownBroker>> {
  const brokers = await loadListedBrokers(place);
  for (const type of new Set(types)) {
    if (brokers.has(type)) continue;
    const packageName = Object.hasOwn(FIRST_PARTY_PACKAGES, type) ? FIRST_PARTY_PACKAGES[type] : undefined;
    if (packageName === undefined) throw unknownType(type, brokers);
    const found = await loadFirstParty(place.folder, type, packageName);
    if (found === undefined) {
      throw new StowageError(
        `the broker type "${type}" needs the package ${packageName}, which is not installed; in "${place.folder}" run: npm install ${packageName}`,
        { code: "UNKNOWN_BROKER_TYPE" },
      );
    }
    brokers.set(type, found);
  }
  return brokers;
}

/** One of our own packages, looked up from `folder` and then beside this command; `undefined` when it is not installed. */
export async function loadFirstParty(folder: string, type: string, packageName: string): Promise<KnownBroker | undefined> {
  const folders = [pathToFileURL(join(folder, "stowage.yaml")).href, import.meta.url];
  for (const folder of folders) {
    let loaded: LoadedModule;
    try {
      loaded = await importFrom(packageName, folder);
    } catch (error) {
      if (isNotInstalled(error, packageName)) continue;
      throw brokenModule(packageName, error);
    }
    for (const broker of await definitionsOf(loaded, packageName)) {
      if (broker.definition.type === type) return broker;
    }
    throw new StowageError(
      `the package ${packageName} holds no broker of type "${type}"; install a version that agrees with this command`,
      {
        code: "CONTRACT_MISMATCH",
      },
    );
  }
  return undefined;
}

/** What the configuration lists, and `memory`. Throws `INVALID_CONFIGURATION` for a module that is not there or holds no broker. */
export async function loadListedBrokers(place: BrokerPlace): Promise<Map<string, KnownBroker>> {
  const brokers = new Map<string, KnownBroker>([[memoryBroker.type, { definition: memoryBroker, origin: "built in" }]]);
  for (const [index, specifier] of place.brokers.entries()) {
    const where = place.locate(["brokers", index]);
    for (const broker of await loadModuleBrokers(specifier, place.folder, where)) {
      const { type } = broker.definition;
      const existing = brokers.get(type);
      if (existing !== undefined && existing.definition !== broker.definition) {
        throw invalid(
          `${where}: "${escapePath(specifier)}" holds the broker type "${type}", which ${existing.origin} has too; remove one of them`,
        );
      }
      brokers.set(type, broker);
    }
  }
  return brokers;
}

async function loadModuleBrokers(specifier: string, folder: string, where: string): Promise<KnownBroker[]> {
  let loaded: LoadedModule;
  try {
    loaded = await importModule(specifier, pathToFileURL(join(folder, "stowage.yaml")).href);
  } catch (error) {
    throw StowageError.is(error) ? new StowageError(`${where}: ${error.message}`, { code: error.code, cause: error }) : error;
  }
  const brokers = await definitionsOf(loaded, specifier);
  if (brokers.length === 0) {
    throw invalid(
      `${where}: the module "${escapePath(specifier)}" exports no broker; export the value that defineBroker({ type, config, open }) gives`,
    );
  }
  return brokers;
}

/** Every export with the definition mark, also one made by another copy of core. */
async function definitionsOf(loaded: LoadedModule, origin: string): Promise<KnownBroker[]> {
  const definitions = new Set(Object.values(loaded.exports).filter(isBrokerDefinition));
  const version = definitions.size === 0 ? undefined : await packageVersion(loaded.url);
  return [...definitions].map((definition) => {
    // The registry knows what a good definition is.
    createBrokerRegistry([definition]);
    return { definition, origin, file: loaded.url.startsWith("file:") ? fileURLToPath(loaded.url) : undefined, version };
  });
}

export interface LoadedModule {
  readonly exports: Readonly<Record<string, unknown>>;
  readonly url: string;
}

let imports = 0;

/** Imports what a person has named, as a module at the URL `parent` would. Throws `INVALID_CONFIGURATION` with what to do. */
export async function importModule(specifier: string, parent: string): Promise<LoadedModule> {
  try {
    return await importFrom(specifier, parent);
  } catch (error) {
    if (!isNotInstalled(error, specifier)) throw brokenModule(specifier, error);
    const folder = dirname(fileURLToPath(parent));
    const remedy = isPath(specifier)
      ? `check the path; it begins at "${folder}"`
      : `in "${folder}" run: npm install ${packageOf(specifier)}`;
    throw invalid(`the module "${escapePath(specifier)}" was not found; ${remedy}`, error);
  }
}

/** `createRequire` would not see packages that only `import` may have. */
async function importFrom(specifier: string, parent: string): Promise<LoadedModule> {
  const wanted = `stowage-import:${imports++}`;
  let url = "";
  const hooks = registerHooks({
    resolve(request, context, nextResolve) {
      if (request !== wanted) return nextResolve(request, context);
      const resolved = nextResolve(isPath(specifier) ? pathToUrl(specifier, parent) : specifier, { ...context, parentURL: parent });
      url = resolved.url;
      return resolved;
    },
  });
  try {
    return { exports: (await import(wanted)) as Record<string, unknown>, url };
  } finally {
    hooks.deregister();
  }
}

function isPath(specifier: string): boolean {
  return /^(?:\.{0,2}\/|file:)/.test(specifier);
}

// A path, not a URL: "#", "?" and "%" are letters like others.
function pathToUrl(specifier: string, parent: string): string {
  if (specifier.startsWith("file:")) return specifier;
  return pathToFileURL(join(specifier.startsWith("/") ? "/" : dirname(fileURLToPath(parent)), specifier)).href;
}

function packageOf(specifier: string): string {
  return specifier.split("/", specifier.startsWith("@") ? 2 : 1).join("/");
}

/** Whether the module itself is missing, and not one that it imports. */
function isNotInstalled(error: unknown, specifier: string): boolean {
  const { code, message } = error as { code?: unknown; message?: unknown };
  if (code !== "ERR_MODULE_NOT_FOUND" || typeof message !== "string") return false;
  const [, missing = ""] = /^Cannot find (?:module|package) '([^']*)'/.exec(message) ?? [];
  return isPath(specifier)
    ? missing.endsWith(specifier.replace(/^(?:\.{1,2}\/)+/, ""))
    : missing === packageOf(specifier) || missing.endsWith(`/node_modules/${specifier}`);
}

function brokenModule(specifier: string, error: unknown): StowageError {
  const code = StowageError.is(error) ? error.code : "INVALID_CONFIGURATION";
  const [message = ""] = (error instanceof Error ? error.message : String(error)).split("\n", 1);
  // A peer that was forgotten: npm 6 and --legacy-peer-deps do not install them.
  const [, missing] = /^Cannot find package '([^']+)'/.exec(message) ?? [];
  const remedy =
    missing === undefined || missing.startsWith("/") ? "correct or reinstall it" : `beside it run: npm install ${packageOf(missing)}`;
  return new StowageError(`the module "${escapePath(specifier)}" cannot be loaded: ${escapePath(message)}; ${remedy}`, {
    code,
    cause: error,
  });
}

function unknownType(type: string, brokers: ReadonlyMap<string, KnownBroker>): StowageError {
  const known = [...new Set([...brokers.keys(), ...Object.keys(FIRST_PARTY_PACKAGES)])].sort();
  const hint = didYouMean(type, known);
  return new StowageError(
    `unknown broker type "${escapePath(type)}"${hint}; known types: ${known.join(", ")}; list the package or module that holds another one under "brokers"`,
    { code: "UNKNOWN_BROKER_TYPE" },
  );
}

async function packageVersion(url: string): Promise<string | undefined> {
  if (!url.startsWith("file:")) return undefined;
  for (let folder = dirname(fileURLToPath(url)); ; folder = dirname(folder)) {
    try {
      const manifest = JSON.parse(await readFile(join(folder, "package.json"), "utf8")) as { name?: unknown; version?: unknown };
      if (typeof manifest.name === "string") return typeof manifest.version === "string" ? manifest.version : undefined;
    } catch {
      // No manifest here: the next folder up may have one.
    }
    if (dirname(folder) === folder) return undefined;
  }
}

function invalid(message: string, cause?: unknown): StowageError {
  return new StowageError(message, { code: "INVALID_CONFIGURATION", cause });
}
