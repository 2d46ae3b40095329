import { existsSync, globSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";

/** Which of our packages each one may import; the arrow of the architecture. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  core: [],
  "broker-host": ["core"],
  "broker-s3": ["core"],
  "broker-testkit": ["core"],
  "create-broker": [],
  jobs: ["core"],
  cli: ["core", "broker-host", "broker-testkit", "jobs"],
};

/** Packages that are peers wherever they are needed, so that one copy serves all; the command bundles its own. */
const PEERS = ["@stowage/core", "zod"];

interface Manifest {
  readonly name: string;
  readonly exports?: Record<string, string>;
  readonly publishConfig?: { readonly exports?: Record<string, unknown> };
  readonly dependencies?: Record<string, string>;
  readonly peerDependencies?: Record<string, string>;
  readonly devDependencies?: Record<string, string>;
}

const root = new URL("..", import.meta.url).pathname;
const packages = globSync("packages/*/package.json", { cwd: root }).map((file) => ({
  folder: file.split("/")[1] as string,
  manifest: JSON.parse(readFileSync(`${root}/${file}`, "utf8")) as Manifest,
}));

/** Module specifiers that a package's source imports, statically or not. */
function imports(folder: string): { specifier: string; file: string }[] {
  return globSync(`packages/${folder}/src/**/*.ts`, { cwd: root }).flatMap((file) => {
    const source = readFileSync(`${root}/${file}`, "utf8");
    return [
      ...source.matchAll(
        /^\s*(?:import|export)\b[^;"']*?from\s*"([^"]+)"|\bimport\(\s*"([^"]+)"\s*\)|\bimport\.meta\.resolve\(\s*"([^"]+)"/gm,
      ),
    ].map((match) => ({ specifier: (match[1] ?? match[2] ?? match[3]) as string, file }));
  });
}

test("there is a rule for every package", () => {
  expect(packages.map(({ folder }) => folder).sort()).toEqual(Object.keys(MAY_IMPORT).sort());
});

test.each(packages)("$folder imports only what the architecture allows and its manifest declares", ({ folder, manifest }) => {
  const declared = { ...manifest.dependencies, ...manifest.peerDependencies, ...(folder === "cli" ? manifest.devDependencies : {}) };
  for (const { specifier, file } of imports(folder)) {
    if (specifier.startsWith(".") || specifier.startsWith("node:")) continue;
    const name = specifier.startsWith("@") ? specifier.split("/").slice(0, 2).join("/") : (specifier.split("/")[0] as string);
    if (name === manifest.name) continue;
    expect(Object.keys(declared), `${file} imports ${specifier}`).toContain(name);
    if (name.startsWith("@stowage/")) {
      expect(MAY_IMPORT[folder], `${file} imports ${specifier}`).toContain(name.slice("@stowage/".length));
    }
  }
});

test.each(packages)("$folder declares core and zod as peers", ({ folder, manifest }) => {
  if (folder === "cli") return expect(Object.keys(manifest.dependencies ?? {})).toEqual([]); // everything is in its bundle
  for (const peer of PEERS) expect(Object.keys(manifest.dependencies ?? {})).not.toContain(peer);
});

test.each(packages)("every entry of $folder is a source file in development and a built one when published", ({ folder, manifest }) => {
  const published = manifest.publishConfig?.exports ?? {};
  expect(Object.keys(published)).toEqual(Object.keys(manifest.exports ?? {}));
  for (const [key, source] of Object.entries(manifest.exports ?? {})) {
    expect(existsSync(`${root}/packages/${folder}/${source}`), `${key} → ${source}`).toBe(true);
    if (key !== "./package.json") expect(source).toBe(`./src/${key === "." ? "index" : key.slice(2)}.ts`);
  }
});

test.each(packages)("$folder has a README and a licence", ({ folder }) => {
  expect(existsSync(`${root}/packages/${folder}/README.md`)).toBe(true);
  expect(existsSync(`${root}/packages/${folder}/LICENSE`)).toBe(true);
});
