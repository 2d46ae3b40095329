#!/usr/bin/env node
// Plain JavaScript that any Node parses, so that an old one can say what is wrong.
import { existsSync } from "node:fs";
import nodeModule from "node:module";

const [major, minor] = process.versions.node.split(".").map(Number);
if (major < 22 || (major === 22 && minor < 18)) {
  process.stderr.write(`stowage: this is Node.js ${process.version}; install Node.js 22.18 or newer\n`);
  process.exitCode = 174;
} else {
  nodeModule.enableCompileCache?.();
  // tsconfig.json is not published: where it lies is the development tree, which runs from source so that no old build is ever run.
  const isDevelopmentTree = existsSync(new URL("../tsconfig.json", import.meta.url));
  await import(isDevelopmentTree ? "../src/main.ts" : "../dist/main.js");
}
