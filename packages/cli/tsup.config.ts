import { readFileSync } from "node:fs";
import { defineConfig } from "tsup";

const { version } = JSON.parse(readFileSync(new URL("./package.json", import.meta.url), "utf8")) as { version: string };

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
  removeNodeProtocol: false,
  minifyWhitespace: true,
  minifySyntax: true,
  define: { __STOWAGE_VERSION__: JSON.stringify(version) },
  noExternal: [/.*/],
  esbuildPlugins: [
    {
      // `import` of a built-in module stands at the top of the one file, and loads it in every run; thus it is loaded when it is first needed.
      name: "lazy built-in modules",
      setup(build) {
        build.onResolve({ filter: /^node:/ }, ({ path }) => ({ path, namespace: "built-in" }));
        build.onLoad({ filter: /.*/, namespace: "built-in" }, ({ path }) => ({
          contents: `module.exports = process.getBuiltinModule(${JSON.stringify(path)});`,
          loader: "js",
        }));
      },
    },
  ],
  banner: {
    js: 'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);',
  },
});
