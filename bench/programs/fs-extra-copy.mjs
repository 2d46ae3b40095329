// fs-extra-copy <source> <target>
import fsExtra from "fs-extra";

const [source, target] = process.argv.slice(2);
await fsExtra.copy(source, target);
