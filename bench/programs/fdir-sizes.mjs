// fdir-sizes <folder>: counts every file, its bytes and the length of its path.
import { lstatSync } from "node:fs";
import { fdir } from "fdir";

const [root] = process.argv.slice(2);
let [files, bytes, pathCharacters] = [0, 0, 0];
for (const path of await new fdir().withRelativePaths().crawl(root).withPromise()) {
  files++;
  bytes += lstatSync(`${root}/${path}`).size;
  pathCharacters += path.length;
}
console.log(JSON.stringify({ files, bytes, pathCharacters }));
