#!/usr/bin/env node
// Plain JavaScript that any Node parses, so that an old one can say what is wrong.
import { existsSync } from "node:fs";

const [major, minor] = process.versions.node.split(".").map(Number);
if (major < 22 || (major === 22 && minor < 18)) {
  process.stderr.write(`create-broker: this is Node.js ${process.version}; install Node.js 22.18 or newer\n`);
  process.exitCode = 1;
} else {
  // tsconfig.json is not published: where it lies is the development tree, which runs from source.
  const isDevelopmentTree = existsSync(new URL("../tsconfig.json", import.meta.url));
  await import(isDevelopmentTree ? "../src/main.ts" : "../dist/main.js");
}
