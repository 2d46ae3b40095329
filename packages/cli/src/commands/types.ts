import { escapePath } from "@stowage/core";
import type { Command } from "commander";
import { FIRST_PARTY_PACKAGES, type KnownBroker, loadFirstParty, loadListedBrokers } from "../lib/brokers.ts";
import type { CommandContext, Start } from "../lib/context.ts";
import { describeError } from "../lib/exit.ts";
import { formatTable } from "../lib/format.ts";
import { displayPath } from "../lib/structured-file.ts";

export function define(command: Command, start: Start): void {
  command
    .addHelpText(
      "after",
      `
A configuration may use its own broker types: list their packages or modules under "brokers".

Examples:
  $ stowage types
  $ stowage types --json`,
    )
    .action(() => start(listTypes));
}

async function listTypes(context: CommandContext): Promise<undefined> {
  const { output, workingDirectory, session } = context;
  const place = await session.brokerPlace();
  const known = await loadListedBrokers(place);
  const rows: string[][] = [];
  const remarks: { type: string; remark: string; record: object }[] = [];
  for (const [type, packageName] of Object.entries(FIRST_PARTY_PACKAGES)) {
    if (known.has(type)) continue;
    try {
      const broker = await loadFirstParty(place.folder, type, packageName);
      if (broker !== undefined) known.set(type, broker);
      else
        remarks.push({
          type,
          remark: `not installed; run: npm install ${packageName}`,
          record: { isInstalled: false, package: packageName },
        });
    } catch (error) {
      remarks.push({
        type,
        remark: describeError(error),
        record: { isInstalled: false, package: packageName, message: describeError(error) },
      });
    }
  }
  for (const [type, broker] of [...known].sort(([left], [right]) => (left < right ? -1 : 1))) {
    output.record({ event: "type", type, isInstalled: true, origin: broker.origin, version: broker.version, file: broker.file });
    rows.push([escapePath(type), describeOrigin(broker, workingDirectory)]);
  }
  for (const { type, remark, record } of remarks) {
    output.record({ event: "type", type, ...record });
    rows.push([type, remark]);
  }
  for (const line of formatTable(rows)) output.result(line);
  return undefined;
}

function describeOrigin({ origin, version, file }: KnownBroker, workingDirectory: string): string {
  const name = version === undefined ? origin : `${origin} ${version}`;
  return file === undefined ? name : `${escapePath(name)}  ${displayPath(file, workingDirectory)}`;
}
