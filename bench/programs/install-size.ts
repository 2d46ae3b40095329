// install-size <package folder>…: what the files of installed packages take, in KiB; what they bring with them is not counted.
import { globSync, lstatSync } from "node:fs";
import { join } from "node:path";

let bytes = 0;
for (const folder of process.argv.slice(2)) {
  for (const file of globSync("**/*", { cwd: folder, exclude: ["**/node_modules/**"] })) {
    const stats = lstatSync(join(folder, file));
    if (stats.isFile()) bytes += stats.size;
  }
}
if (bytes === 0) throw new Error("nothing is installed there");
console.log(JSON.stringify({ kibibytes: bytes / 1024 }));
