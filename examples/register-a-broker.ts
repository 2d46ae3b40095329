/**
 * A broker of one's own: a definition is a value, `addBrokerType` makes it known, and a workspace's configuration can name it.
 * This one keeps files in the memory broker under a prefix of the day; docs/writing-a-broker.md builds one from nothing.
 */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { addBrokerType, createMemoryBroker, getBroker, getBrokerTypes, openWorkspace, validateWorkspace } from "@stowage/core";
import { defineBroker, withPrefix } from "@stowage/core/broker";
import * as z from "zod";

const dailyBroker = defineBroker({
  type: "daily",
  config: z.strictObject({ day: z.iso.date() }),
  open: async ({ day }) => withPrefix(createMemoryBroker(), day),
});

declare module "@stowage/core" {
  interface BrokerTypes {
    daily: typeof dailyBroker;
  }
}

addBrokerType(dailyBroker);
console.log(`known types: ${getBrokerTypes().join(", ")}; getBroker("daily").type is "${getBroker("daily").type}"`);

const findings = await validateWorkspace({ name: "today", broker: { type: "daily", dya: "2026-11-21" } });
console.log(`a misspelt key: ${findings.errors.map(({ description }) => description).join("; ")}`);

const folder = await mkdtemp(join(tmpdir(), "stowage-example-"));
const workspace = await openWorkspace({ name: "today", broker: { type: "daily", day: "2026-11-21" } });
try {
  await writeFile(join(folder, "note.txt"), "kept by a broker of our own\n");
  const [stored] = await workspace.uploadFiles([{ file: "notes/first.txt", localPath: join(folder, "note.txt") }]);
  if (stored?.status === "done") console.log(`stored ${stored.file.path}, ${stored.bytes} bytes, verified by ${stored.verified}`);
  await workspace.downloadFiles([{ file: "notes/first.txt", localPath: join(folder, "back.txt") }]);
  console.log(`read back: ${(await readFile(join(folder, "back.txt"), "utf8")).trim()}`);
} finally {
  await workspace.close();
  await rm(folder, { recursive: true });
}
