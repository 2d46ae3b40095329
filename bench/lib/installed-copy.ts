/** Our packages as a user gets them: packed, installed with npm in an empty folder, beside the peers that are npm packages. */
import { execFileSync } from "node:child_process";
import { copyFileSync, globSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import { basename, join } from "node:path";
import { packPackages } from "../../scripts/pack-packages.ts";

/** Peers that come from npm. */
export const NPM_PEERS = { "fs-extra": "11.4.1", fdir: "6.5.0" } as const;

export interface InstalledCopy {
  readonly folder: string;
  readonly packages: string;
  readonly versions: Readonly<Record<string, string>>;
}

const root = new URL("../..", import.meta.url).pathname;
const OURS = ["@stowage/core", "@stowage/broker-host"];

/**
 * Builds and packs core and the host broker, installs them with zod and the peers below `parent`, and writes the programs of
 * `bench/programs` there as JavaScript, so that no run pays for stripping types. Without `ours`, only the peers.
 */
export function installCopy(parent: string, ours: boolean): InstalledCopy {
  const folder = mkdtempSync(join(parent, "stowage-bench-installed-"));
  try {
    const zod = (JSON.parse(readFileSync(join(root, "node_modules/zod/package.json"), "utf8")) as { version: string }).version;
    const packages = join(folder, "packages");
    mkdirSync(packages);
    const tarballs: string[] = [];
    if (ours) {
      execFileSync(join(root, "node_modules/.bin/tsc"), ["-b", "packages/core", "packages/broker-host"], { cwd: root, stdio: "inherit" });
      tarballs.push(...packPackages(packages, OURS).map(({ tarball }) => tarball));
    }
    writeFileSync(join(folder, "package.json"), JSON.stringify({ name: "bench", private: true, type: "module" }));
    const peers = Object.entries(NPM_PEERS).map(([name, version]) => `${name}@${version}`);
    execFileSync(
      "npm",
      ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", ...tarballs, `zod@${zod}`, ...peers],
      {
        cwd: folder,
        stdio: "inherit",
      },
    );
    writePrograms(folder);
    const installed = ours ? [...OURS, "zod", ...Object.keys(NPM_PEERS)] : ["zod", ...Object.keys(NPM_PEERS)];
    const versions = Object.fromEntries(
      installed.map((name) => [
        name,
        (JSON.parse(readFileSync(join(folder, "node_modules", name, "package.json"), "utf8")) as { version: string }).version,
      ]),
    );
    return { folder, packages, versions };
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
}

/** The peers' programs are JavaScript: their packages are installed here only, where no type checker looks. */
function writePrograms(folder: string): void {
  for (const file of globSync("bench/programs/*.mjs", { cwd: root })) copyFileSync(join(root, file), join(folder, basename(file)));
  for (const file of globSync("bench/programs/*.ts", { cwd: root })) {
    const text = stripTypeScriptTypes(readFileSync(join(root, file), "utf8"));
    writeFileSync(join(folder, `${basename(file, ".ts")}.mjs`), text);
  }
}
