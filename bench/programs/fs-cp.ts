// fs-cp <source> <target>: Node's own recursive copy.
import { cp } from "node:fs/promises";

const [source, target] = process.argv.slice(2) as [string, string];
await cp(source, target, { recursive: true });
