/** Packs every publishable package of the workspace, as they would be published. Needs a build. */
import { execFileSync } from "node:child_process";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";

export interface PackedPackage {
  readonly name: string;
  readonly tarball: string;
}

const root = new URL("..", import.meta.url).pathname;

/** Writes the tarballs into `folder`, an absolute path. `only` names the packages that are wanted; defaults to all. */
export function packPackages(folder: string, only?: readonly string[]): PackedPackage[] {
  return globSync("packages/*/package.json", { cwd: root })
    .sort()
    .map((file) => ({ file, manifest: JSON.parse(readFileSync(join(root, file), "utf8")) as { name: string; version: string } }))
    .filter(({ manifest }) => only === undefined || only.includes(manifest.name))
    .map(({ file, manifest }) => {
      // `pnpm pack` writes `publishConfig` and the `workspace:` ranges as they will be; `npm pack` does not.
      execFileSync("npx", ["-y", "pnpm@12.21.0", "pack", "--pack-destination", folder], { cwd: join(root, file, ".."), stdio: "pipe" });
      return { name: manifest.name, tarball: join(folder, `${manifest.name.replace("@", "").replace("/", "-")}-${manifest.version}.tgz`) };
    });
}
