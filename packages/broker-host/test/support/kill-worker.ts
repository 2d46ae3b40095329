/**
 * A program to be killed: opens a host workspace and uploads, moves and downloads until it is. Before and after each change it appends a line to a log, by
 * which whoever killed it knows what must be there. Arguments: root, local directory, log, executor, seed.
 */
import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace } from "@stowage/core";
import { createRandom, makeContent, places, readContent, SLOTS } from "./kill-model.ts";

const [root, local, log, executor, seed] = process.argv.slice(2) as [string, string, string, "auto" | "inline" | "process", string];
const random = createRandom(Number(seed));
const pick = (count: number): number[] =>
  Array.from({ length: count }, () => Math.floor(random() * SLOTS)).filter((slot, index, all) => all.indexOf(slot) === index);
const note = (line: string): void => appendFileSync(log, `${line}\n`);

const workspace = await openWorkspace({ name: "killed", broker: { type: "host", hostPath: root, executor } }, { brokers: [hostBroker] });

/** Where each slot's file is, and its version: from what is on the disk. */
const current = Array.from({ length: SLOTS }, (_, slot) => {
  const found = places(slot).filter((path) => existsSync(join(root, path)));
  const versions = found.map((path) => readContent(readFileSync(join(root, path))).version);
  return { path: found[0] ?? places(slot)[0]!, version: Math.max(0, ...versions), isDouble: found.length > 1 };
});

// A move that was killed half way leaves both names: moving again ends it.
for (const [slot, state] of current.entries()) {
  if (!state.isDouble) continue;
  const [from, to] = places(slot) as [string, string];
  await workspace.moveFiles([{ file: from, newPath: to }], { ifExists: "replace" });
  state.path = to;
}
for (let slot = 0; slot < SLOTS; slot++) if (current[slot]!.version === 0) await upload([slot]);
note("ready");

for (;;) {
  const slots = pick(1 + Math.floor(random() * 30));
  const choice = random();
  if (choice < 0.4) await upload(slots);
  else if (choice < 0.75) await move(slots);
  else await download(slots);
}

async function upload(slots: readonly number[]): Promise<void> {
  const uploads = slots.map((slot) => {
    const version = current[slot]!.version + 1;
    const localPath = join(local, `source-${slot}`);
    writeFileSync(localPath, makeContent(slot, version, Number(seed)));
    note(`begin upload ${slot} ${version}`);
    return { file: current[slot]!.path, localPath, slot, version };
  });
  for (const { item } of await workspace.uploadFiles(uploads)) {
    current[item.slot]!.version = item.version;
    note(`done upload ${item.slot} ${item.version}`);
  }
}

async function move(slots: readonly number[]): Promise<void> {
  const moves = slots.map((slot) => {
    const { path } = current[slot]!;
    const newPath = places(slot).find((place) => place !== path)!;
    note(`begin move ${slot} ${newPath}`);
    return { file: path, newPath, slot };
  });
  for (const { item } of await workspace.moveFiles(moves)) {
    current[item.slot]!.path = item.newPath;
    note(`done move ${item.slot} ${item.newPath}`);
  }
}

async function download(slots: readonly number[]): Promise<void> {
  await workspace.downloadFiles(slots.map((slot) => ({ file: current[slot]!.path, localPath: join(local, `fetched-${slot}`) })));
}
