/**
 * A lint rule: only the files named here may reach a file system, so that every path inside a volume goes through the pinned handles of
 * `core/src/lib/posix` (rule R2) and every other file access is one that somebody thought about.
 */
import { globSync, readFileSync } from "node:fs";
import { relative, sep } from "node:path";

const root = new URL("..", import.meta.url).pathname;

/** Path prefix → why it may import `node:fs` (or a module over it). */
const ALLOWED: Readonly<Record<string, string>> = {
  "packages/core/src/lib/posix/": "the one owner of paths inside a volume",
  "packages/core/src/lib/local-file.ts": "the local side of downloads and uploads",
  "packages/core/src/lib/same-file.ts": "judges whether a local target is what would be fetched",
  "packages/core/src/lib/verb-download.ts": "looks at local targets",
  "packages/core/src/lib/transfer-routes.ts": "its spool folder under the system's temporary directory",
  "packages/core/src/lib/secrets.ts": "reads { fromFile } secrets",
  "packages/core/src/lib/file-journal.ts": "the journal's own file",
  "packages/jobs/src/": "the job's scratch directory, its outputs by pinned handles",
  "packages/cli/src/": "configuration files and the local side of commands",
  "packages/broker-testkit/src/": "makes fixtures and looks at what brokers left",
  "packages/create-broker/src/": "writes the template",
};

const FILE_SYSTEM_IMPORT = /(?:from|import\()\s*["'](?:node:)?(?:fs|fs\/promises|fs-extra)["']/;

const offenders = globSync("packages/*/src/**/*.ts", { cwd: root })
  .map((file) => relative(root, `${root}/${file}`).split(sep).join("/"))
  .filter((file) => FILE_SYSTEM_IMPORT.test(readFileSync(`${root}/${file}`, "utf8")))
  .filter((file) => !Object.keys(ALLOWED).some((prefix) => file.startsWith(prefix)));

if (offenders.length > 0) {
  console.error(
    `these files import node:fs but may not:\n${offenders.map((file) => `  ${file}`).join("\n")}\n` +
      "Use the posix commands of @stowage/core/posix for volumes and publishLocalFile for local files, or add the file with a reason to scripts/check-volume-access.ts.",
  );
  process.exit(1);
}
