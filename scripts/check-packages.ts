/** Runs publint and attw over every package as it would be published. Needs a build. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { packPackages } from "./pack-packages.ts";

const folder = mkdtempSync(join(tmpdir(), "stowage-pack-"));
let failed = false;
try {
  for (const { name, tarball } of packPackages(folder)) {
    for (const command of [
      ["publint", "run", tarball, "--strict"],
      ["attw", tarball, "--profile", "esm-only"],
    ]) {
      const [program, ...options] = command as [string, ...string[]];
      const { status, stdout, stderr } = spawnSync(program, options, { encoding: "utf8" });
      console.log(`${status === 0 ? "ok    " : "FAILED"} ${program} ${name}`);
      if (status !== 0) {
        failed = true;
        console.error(stdout, stderr);
      }
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exitCode = failed ? 1 : 0;
