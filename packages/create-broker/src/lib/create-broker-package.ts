import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export interface CreateBrokerOptions {
  /** Where the package goes: new, or empty. Relative ones begin at the working directory. */
  readonly directory: string;
  /** The package's name. Defaults to the directory's. */
  readonly name?: string | undefined;
}

export interface CreatedBroker extends BrokerNames {
  /** Absolute. */
  readonly directory: string;
  /** Relative to it, sorted. */
  readonly files: readonly string[];
}

export interface BrokerNames {
  readonly packageName: string;
  /** What a configuration's `type` says. */
  readonly type: string;
  /** The type in camel case. */
  readonly identifier: string;
}

/** The template is a broker that works as it is, of this name; what follows from the name is replaced. */
const TEMPLATE_PACKAGE = "stowage-broker-flat";

/** Published packages may not hold a `.gitignore`: it would be obeyed, and is renamed here. */
const RENAMED: Readonly<Record<string, string>> = { gitignore: ".gitignore" };

/** Files of a directory that does not count as used. */
const HARMLESS: readonly string[] = [".git", ".gitignore", "LICENSE", "README.md"];

/** The broker's names that follow from its package's: `@acme/stowage-broker-tape-robot` has the type `tape-robot`. Throws an Error that says what is wrong. */
export function brokerNames(packageName: string): BrokerNames {
  const [, scope, bare] = /^(@[a-z0-9][a-z0-9._-]*\/)?(.*)$/s.exec(packageName) ?? [];
  if (bare === undefined || !/^[a-z][a-z0-9._-]*$/.test(bare) || packageName.length > 214) {
    throw new Error(`"${packageName}" is no name for a package; use lower-case letters, digits and dashes, like "stowage-broker-tape"`);
  }
  const type = bare
    .replace(/^stowage-/, "")
    .replace(/^broker-|-broker$/, "")
    .replaceAll(/[._]/g, "-");
  if (!/^[a-z][a-z0-9]*(-[a-z0-9]+)*$/.test(type) || type === "broker") {
    throw new Error(`"${packageName}" leaves no name for the broker's type; use one like "stowage-broker-tape"`);
  }
  return {
    packageName: `${scope ?? ""}${bare}`,
    type,
    identifier: type.replaceAll(/-(.)/g, (_dash, letter: string) => letter.toUpperCase()),
  };
}

/** Lays out a package with a broker that works and passes the conformance run, to be changed into one's own. Throws an Error that says what is in the way. */
export async function createBrokerPackage(options: CreateBrokerOptions): Promise<CreatedBroker> {
  const directory = resolve(options.directory);
  const names = brokerNames(options.name ?? basename(directory));
  await mkdir(directory, { recursive: true });
  const template = await readTemplate();
  const present = await readdir(directory);
  const inTheWay = present.filter((name) => !HARMLESS.includes(name));
  if (inTheWay.length > 0) {
    throw new Error(`the directory "${directory}" is not empty (${inTheWay.slice(0, 3).join(", ")}); name a new one`);
  }
  const files: string[] = [];
  for (const [name, content] of template) {
    const path = join(directory, name);
    await mkdir(dirname(path), { recursive: true });
    try {
      // Never over what is there: a README or LICENSE of one's own stays.
      await writeFile(path, rename(content, names), { flag: "wx" });
      files.push(name);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
  }
  return { ...names, directory, files: files.sort() };
}

async function readTemplate(): Promise<Map<string, string>> {
  // Two directories up from src/lib and from dist/lib alike.
  const root = fileURLToPath(new URL("../../template", import.meta.url));
  const files = new Map<string, string>();
  const visit = async (relative: string): Promise<void> => {
    for (const entry of await readdir(join(root, relative), { withFileTypes: true })) {
      const name = relative === "" ? entry.name : `${relative}/${entry.name}`;
      if (entry.isDirectory()) await visit(name);
      else files.set(RENAMED[name] ?? name, await readFile(join(root, name), "utf8"));
    }
  };
  await visit("");
  return files;
}

function rename(content: string, { packageName, type, identifier }: BrokerNames): string {
  const capital = `${identifier[0]?.toUpperCase()}${identifier.slice(1)}`;
  return content
    .replaceAll(TEMPLATE_PACKAGE, packageName)
    .replaceAll(/\bflat(?=Broker\b)/g, identifier)
    .replaceAll(/Flat(?=Broker|Reader)/g, capital)
    .replaceAll(/"flat(-?)"/g, `"${type}$1"`)
    .replaceAll(/`flat`/g, `\`${type}\``)
    .replaceAll(/type: flat\b/g, `type: ${type}`);
}
