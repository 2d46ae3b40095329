// opendir-first-entry <folder> [warm]: the first file below a folder with node:fs alone; the floor of what a Node program can do.
import { opendir } from "node:fs/promises";
import { join } from "node:path";

const [root, warm] = process.argv.slice(2) as [string, string?];

async function firstFile(folder: string): Promise<string | undefined> {
  for await (const entry of await opendir(folder)) {
    const path = join(folder, entry.name);
    const found = entry.isDirectory() ? await firstFile(path) : path;
    if (found !== undefined) return found;
  }
  return undefined;
}

if (warm !== undefined) for (let warmUp = 0; warmUp < 3; warmUp++) await firstFile(root);
const started = performance.now();
const path = await firstFile(root);
console.log(warm === undefined ? path : JSON.stringify({ firstEntryMs: performance.now() - started }));
