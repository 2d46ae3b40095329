import { cpSync, existsSync, mkdirSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type CommandRun, makeFolder, records, runStowage, writeFiles } from "./support/command.ts";

const { folder, remove } = makeFolder();
const core = fileURLToPath(new URL("../../core", import.meta.url));
const zod = dirname(fileURLToPath(import.meta.resolve("zod/package.json")));

/** A broker over the memory broker that holds one file, wants a token, and says it in its errors. */
const brokerModule = (from: string): string => `
import { createMemoryBroker, defineBroker, secret, Workspace } from "${from}";
import * as z from "zod";

async function open({ token, shelf, failing }) {
  if (failing) throw new Error("401 for token " + token);
  const broker = createMemoryBroker();
  const seed = new Workspace({ name: "seed", broker });
  const writer = await seed.openWrite("hello.txt");
  await writer.write(new TextEncoder().encode("hello from " + shelf));
  await writer.commit();
  return { ...broker, downloadFile: async () => { throw new Error("the server refused " + token); } };
}

export const shelfBroker = defineBroker({
  type: "shelf",
  config: z.strictObject({ shelf: z.string(), failing: z.boolean().optional(), token: secret(z.string()) }),
  validate: async ({ token, shelf }) => (shelf === "bottom" ? [{ name: "dust", description: "nobody has used " + token + " for long" }] : []),
  open,
});
export const somethingElse = 1;
`;

beforeAll(() => {
  writeFiles(folder, {
    "stowage.yaml": `brokers: ["@acme/stowage-broker-shelf"]
workspaces:
  top: { broker: { type: shelf, shelf: top, token: tok-4711-secret } }
  bottom: { broker: { type: shelf, shelf: bottom, token: tok-4711-secret } }
  failing: { broker: { type: shelf, shelf: top, failing: true, token: { fromEnvironment: SHELF_TOKEN } } }
  file: { broker: { type: shelf, shelf: top, failing: true, token: { fromFile: secrets/token } } }
`,
    "secrets/token": "tok-4711-secret\n",
    "module.yaml": `brokers: [./brokers/shelf.ts]\nworkspaces:\n  top: { broker: { type: shelf, shelf: typed, token: tok-4711-secret } }\n`,
    "brokers/shelf.ts": brokerModule("@stowage/core").replace(
      "({ token, shelf, failing })",
      "({ token, shelf, failing }: Record<string, string>)",
    ),
    "package.json": '{ "type": "module" }',
    // Only \`import\` may have it, as of many packages: \`require.resolve\` would not find it.
    "node_modules/@acme/stowage-broker-shelf/package.json": JSON.stringify({
      name: "@acme/stowage-broker-shelf",
      version: "7.1.2",
      type: "module",
      exports: { ".": { import: "./shelf.js" } },
    }),
    // Node does not strip types below node_modules; the copy of core lies beside it.
    "node_modules/@acme/stowage-broker-shelf/shelf.js": brokerModule("../../../own-core/src/index.ts"),
    "own-core/package.json": '{ "name": "@stowage/core", "version": "0.0.9", "type": "module" }',
  });
  cpSync(join(core, "src"), join(folder, "own-core/src"), { recursive: true });
  mkdirSync(join(folder, "node_modules/@stowage"), { recursive: true });
  symlinkSync(zod, join(folder, "node_modules/zod"));
  symlinkSync(core, join(folder, "node_modules/@stowage/core"));
});

afterAll(remove);

const run = (...args: string[]): Promise<CommandRun> => runStowage(args, { cwd: folder, environment: { SHELF_TOKEN: "tok-4711-secret" } });

describe("a broker from somebody else's package, with a copy of core of its own", () => {
  test("is listed with where it comes from", async () => {
    const listed = await run("types", "--json");
    expect(listed.stderr).toBe("");
    const shelf = records(listed).find((record) => record.type === "shelf");
    expect(shelf).toMatchObject({ isInstalled: true, origin: "@acme/stowage-broker-shelf", version: "7.1.2" });
    expect(shelf?.file).toContain("node_modules/@acme/stowage-broker-shelf/shelf.js");
    expect((await run("types")).stdout).toMatch(/^shelf +@acme\/stowage-broker-shelf 7\.1\.2/m);
  });

  test("is opened by its type, and works", async () => {
    expect(await run("ls", "top:")).toMatchObject({ status: 0, stdout: "hello.txt\n", stderr: "" });
    expect(await run("cp", "top:hello.txt", "-")).toMatchObject({ status: 0, stdout: "hello from top", stderr: "" });
  });

  test("is in the schema of the configuration", async () => {
    const schema = JSON.parse((await run("schema")).stdout) as {
      $defs: { workspace: { properties: { broker: { oneOf: { properties: { type: { const: string } } }[] } } } };
    };
    expect(schema.$defs.workspace.properties.broker.oneOf.map((branch) => branch.properties.type.const)).toEqual(
      expect.arrayContaining(["memory", "shelf"]),
    );
  });

  test("is found in a TypeScript module beside the configuration too, whatever the working directory is", async () => {
    const listed = await runStowage(["cp", "--config", join(folder, "module.yaml"), "top:hello.txt", "-"], { cwd: dirname(folder) });
    expect(listed).toMatchObject({ status: 0, stdout: "hello from typed", stderr: "" });
  });
});

describe("a listing that lies", () => {
  test("cannot make a copy write beside its target", async () => {
    writeFiles(folder, {
      "liar.yaml": "brokers: [./brokers/liar.ts]\nworkspaces:\n  liar: { broker: { type: liar } }\n",
      "brokers/liar.ts": `
import { createMemoryBroker, defineBroker } from "@stowage/core";
import * as z from "zod";
const names = ["../escaped", "/tmp/stowage-cli-escaped", "a/../../escaped", "raw/../../escaped", "good"];
export const liar = defineBroker({
  type: "liar",
  config: z.strictObject({}),
  open: async () => ({
    ...createMemoryBroker(),
    async *listFiles() { for (const path of names) yield { file: { path, size: 1 }, size: 1 } as never; },
    downloadFiles: undefined,
    downloadFile: async ({ file, localPath }, context) => {
      (await import("node:fs")).writeFileSync(localPath, "x");
      return { file, method: "stream", bytes: 1, verified: "length" } as never;
    },
  }) as never,
});
`,
    });
    const copied = await run("cp", "--config", "liar.yaml", "-r", "liar:", "deep/target");
    expect(copied.status).not.toBe(0);
    expect(copied.stderr.trim().split("\n")).toHaveLength(4);
    for (const line of copied.stderr.trim().split("\n")) expect(line).toMatch(/^stowage: .*escaped/);
    expect(existsSync(join(folder, "deep/target/good"))).toBe(true);
    for (const path of ["escaped", "deep/escaped", "../escaped"]) expect(existsSync(join(folder, path)), path).toBe(false);
    expect(existsSync("/tmp/stowage-cli-escaped")).toBe(false);
  });
});

test("rm -r empties a directory also where a listing loses its place when files go", async () => {
  writeFiles(folder, {
    "pages.yaml": "brokers: [./brokers/pages.ts]\nworkspaces:\n  pages: { broker: { type: pages } }\n",
    "brokers/pages.ts": `
import { createMemoryBroker, defineBroker } from "@stowage/core";
import * as z from "zod";
export const pages = defineBroker({
  type: "pages",
  config: z.strictObject({}),
  open: async () => {
    const files = new Set(Array.from({ length: 100 }, (_, index) => "dir/" + String(index).padStart(3, "0")));
    return {
      ...createMemoryBroker(),
      deleteFiles: undefined,
      deleteFile: async ({ path }) => (files.delete(path) ? "deleted" : "missing"),
      statFile: async () => undefined,
      // A page begins at a number: what is deleted meanwhile moves others before it.
      async *listFiles() {
        for (let offset = 0; offset < files.size; offset += 10) {
          for (const path of [...files].slice(offset, offset + 10)) yield { file: { path, size: 1 }, size: 1 } as never;
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
      },
    } as never;
  },
});
`,
  });
  const removed = await run("rm", "--config", "pages.yaml", "-r", "pages:dir", "--json", "-j", "1");
  expect(removed.status).toBe(0);
  expect(records(removed).at(-1)).toMatchObject({ event: "summary", done: 100, failed: 0 });
});

describe("a secret", () => {
  test.each([
    ["an error while a workspace is opened", ["ls", "failing:"], /401 for token/],
    ["an error with a secret from a file", ["ls", "file:"], /401 for token/],
    ["an error of a transfer", ["cp", "top:hello.txt", "out.txt"], /the server refused/],
    ["an error as JSON", ["cp", "top:hello.txt", "out.txt", "--json"], /the server refused/],
    ["a warning", ["validate", "bottom"], /nobody has used/],
    ["a warning as JSON", ["validate", "bottom", "--json"], /nobody has used/],
  ])("is not in %s", async (_, args, message) => {
    for (const debug of ["", "1"]) {
      const done = await runStowage(args, { cwd: folder, environment: { SHELF_TOKEN: "tok-4711-secret", STOWAGE_DEBUG: debug } });
      expect(done.stdout + done.stderr).toMatch(message);
      expect(done.stdout + done.stderr).not.toContain("4711");
    }
  });

  test("that is not there is named by where it should be", async () => {
    const done = await runStowage(["ls", "failing:"], { cwd: folder });
    expect(done.status).toBe(161);
    expect(done.stderr).toMatch(/^stowage: stowage\.yaml:5:\d+: [^\n]*SHELF_TOKEN[^\n]*\n$/);
  });
});
