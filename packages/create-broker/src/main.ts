import { relative } from "node:path";
import { parseArgs } from "node:util";
import { createBrokerPackage } from "./lib/create-broker-package.ts";

const HELP = `Starts a package with a Stowage broker of your own.

Usage: npm create @stowage/broker <directory> [-- --name <package name>]

Examples:
  $ npm create @stowage/broker stowage-broker-tape
  $ npm create @stowage/broker tape -- --name @acme/stowage-broker-tape
`;

async function main(parameters: readonly string[]): Promise<void> {
  const { values, positionals } = parseArgs({
    args: [...parameters],
    allowPositionals: true,
    options: { name: { type: "string" }, help: { type: "boolean", short: "h" } },
  });
  const [directory] = positionals;
  if (values.help === true) {
    process.stdout.write(HELP);
    return;
  }
  if (directory === undefined || positionals.length > 1) throw new Error(`name one directory for the new package\n\n${HELP}`);
  const created = await createBrokerPackage({ directory, name: values.name });
  const where = relative(process.cwd(), created.directory) || ".";
  process.stdout.write(
    [
      `${created.packageName} is in ${where}: a broker of the type "${created.type}" that works and passes its conformance run.`,
      "",
      `  cd ${where}`,
      "  npm install",
      "  npm test",
      "",
      "Then make it your own, step by step, and keep the run green: see README.md there.",
      "",
    ].join("\n"),
  );
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`create-broker: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
