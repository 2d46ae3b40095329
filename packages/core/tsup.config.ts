import { defineConfig } from "tsup";

// One file an entry and one for what they share: a hundred small modules cost more to find than to run. Types come from tsc.
export default defineConfig({
  entry: { index: "src/index.ts", broker: "src/broker.ts", posix: "src/posix.ts", "posix-child": "src/posix-child.ts" },
  format: "esm",
  target: "node22",
  platform: "node",
  splitting: true,
  clean: false,
  dts: false,
  sourcemap: false,
  removeNodeProtocol: false,
});
