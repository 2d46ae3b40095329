import { defineConfig } from "tsup";

// One file: it starts faster in a container than a tree of modules, and can be copied to where no npm is. Brokers are not in it: a
// configuration names them, and they are loaded from its folder.
export default defineConfig({
  entry: { main: "src/main.ts" },
  format: "esm",
  target: "node22",
  platform: "node",
  splitting: false,
  clean: false,
  dts: false,
  sourcemap: false,
  noExternal: [/.*/],
  external: [/^@stowage\/broker-(?!testkit)/, "@opentelemetry/api"],
  // CommonJS packages inside an ES module want a require.
  banner: { js: 'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);' },
});
