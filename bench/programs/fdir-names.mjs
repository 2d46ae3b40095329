// fdir-names <folder>: counts every file and the length of its path.
import { fdir } from "fdir";

const [root] = process.argv.slice(2);
let [files, pathCharacters] = [0, 0];
for (const path of await new fdir().withRelativePaths().crawl(root).withPromise()) {
  files++;
  pathCharacters += path.length;
}
console.log(JSON.stringify({ files, pathCharacters }));
