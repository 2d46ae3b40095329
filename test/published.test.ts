import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type PackedPackage, packPackages } from "../scripts/pack-packages.ts";

/**
 * What a stranger gets: packed tarballs, installed with npm into an empty folder, used from outside. The packages here are the built
 * ones; nothing in this folder can see the source tree.
 */
const root = new URL("..", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "stowage-published-"));
let packed: PackedPackage[] = [];

/** Every name that the contract promises to importers of `@stowage/core`. */
const PROMISED = {
  types: [
    "FilePath", "Digest", "StoredFile", "FileInput", "FileDetails", "FileDownload", "FileUpload", "FileMove", "ByteRange", "BrokerVolume",
    "SecretReference", "StowageErrorCode", "ErrorFacts", "TransferDetails", "TransferMethod", "OperationContext", "BatchResult<1>",
    "ParsedDownload", "ParsedUpload", "ParsedMove", "FileWriter", "FileReader", "ListProblem", "Broker", 'BrokerDefinition<"x", {}>',
    "AnyBrokerDefinition", "BrokerOptions<never>", "BrokerTypes", "BrokerRegistry<never>", "Outcome<1>", "BatchOptions", "Progress",
  ],
  values: [
    "createBrokerRegistry", "defineBroker", "getBroker", "getBrokerTypes", "addBrokerType", "Workspace", "openWorkspace", "validateWorkspace",
    "maskWorkspaceConfig", "restoreMaskedConfig", "importScaleWorkspace", "transferFiles", "createLimits", "StowageError", "TransferError",
    "parseFilePath", "secret", "memoryBroker",
  ],
} as const; // biome-ignore format: a table of names

const BROKER = `
import { createMemoryBroker, type BrokerDefinition } from "@stowage/core";
import { defineBroker } from "@stowage/core/broker";
import * as z from "zod";

export interface LinesConfig { readonly shelf: string }
export const linesBroker: BrokerDefinition<"lines", LinesConfig> = defineBroker({
  type: "lines",
  config: z.strictObject({ shelf: z.string() }),
  volume: () => undefined,
  open: async () => createMemoryBroker(),
});
declare module "@stowage/core" { interface BrokerTypes { lines: typeof linesBroker } }
`;

const APPLICATION = `
import { addBrokerType, getBroker, openWorkspace } from "@stowage/core";
import { hostBroker } from "@stowage/broker-host";
import { linesBroker } from "./broker.js";

addBrokerType(linesBroker);
const type: "lines" = getBroker("lines").type;
await using workspace = await openWorkspace({ name: "w", broker: { type: "lines", shelf: "top" } }, { brokers: [linesBroker, hostBroker] });
// @ts-expect-error: a key that this broker does not have
void (() => openWorkspace({ name: "w", broker: { type: "lines", shelff: "top" } }, { brokers: [linesBroker, hostBroker] }));
console.log(type, workspace.name);
`;

function write(path: string, content: string): void {
  mkdirSync(dirname(join(folder, path)), { recursive: true });
  writeFileSync(join(folder, path), content);
}

function run(command: string, ...options: string[]): { status: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync(join(folder, "node_modules/.bin", command), options, {
    cwd: folder,
    encoding: "utf8",
    env: { ...process.env, PATH: `${dirname(process.execPath)}:${process.env.PATH}` },
  });
  return { status, output: `${stdout}${stderr}` };
}

beforeAll(() => {
  const bin = join(root, "node_modules/.bin");
  const environment = { ...process.env, PATH: `${bin}:${process.env.PATH}` };
  execFileSync(join(bin, "tsc"), ["-b"], { cwd: root, stdio: "pipe", env: environment });
  for (const bundled of ["core", "cli"]) {
    execFileSync(join(bin, "tsup"), [], { cwd: join(root, "packages", bundled), stdio: "pipe", env: environment });
  }
  mkdirSync(join(folder, "tarballs"));
  packed = packPackages(join(folder, "tarballs"));
  write("package.json", JSON.stringify({ name: "outside", private: true, type: "module" }));
  const tarballs = packed.map(({ tarball }) => tarball);
  execFileSync("npm", ["install", "--no-audit", "--no-fund", ...tarballs, "zod@4", "typescript@7.0.2", "@types/node@24"], {
    cwd: folder,
    stdio: "pipe",
  });
  write("src/broker.ts", BROKER);
  write("src/application.ts", APPLICATION);
  write(
    "src/names.ts",
    `import * as core from "@stowage/core";\n${PROMISED.types.map((name, index) => `export type T${index} = core.${name};`).join("\n")}\n` +
      `export const values: unknown[] = [${PROMISED.values.map((name) => `core.${name}`).join(", ")}];\n`,
  );
  write(
    "tsconfig.json",
    JSON.stringify({
      compilerOptions: {
        target: "es2024",
        module: "nodenext",
        strict: true,
        exactOptionalPropertyTypes: true,
        skipLibCheck: false,
        types: ["node"],
        outDir: "built",
        rootDir: "src",
        declaration: true,
      },
      include: ["src"],
    }),
  );
}, 300_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("an outside package defines a broker and type-checks without skipLibCheck; every promised name is there", () => {
  expect(run("tsc", "-p", ".")).toEqual({ status: 0, output: "" });
});

test("the outside application runs under plain node", () => {
  const { status, stdout, stderr } = spawnSync(process.execPath, ["built/application.js"], { cwd: folder, encoding: "utf8" });
  expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: "lines w\n", stderr: "" });
});

test("the command finds an outside broker by file and by package name, also when that package has its own copy of core", () => {
  const home = "node_modules/@acme/stowage-broker-lines";
  write(
    `${home}/package.json`,
    JSON.stringify({ name: "@acme/stowage-broker-lines", version: "1.0.0", type: "module", exports: "./broker.js" }),
  );
  cpSync(join(folder, "built/broker.js"), join(folder, home, "broker.js"));
  cpSync(join(folder, "node_modules/@stowage/core"), join(folder, home, "node_modules/@stowage/core"), { recursive: true });

  for (const broker of ["./built/broker.js", "@acme/stowage-broker-lines"]) {
    write("stowage.yaml", `brokers: ["${broker}"]\nworkspaces:\n  notes:\n    broker: { type: lines, shelf: top }\n`);
    const types = run("stowage", "types", "--json");
    expect(types.output).toContain('"lines"');
    expect(types.status).toBe(0);
    expect(run("stowage", "ls", "notes:")).toEqual({ status: 0, output: "" });
  }
});

test("the installed command works on a host workspace", () => {
  mkdirSync(join(folder, "store"), { recursive: true });
  write("stowage.yaml", `workspaces:\n  store:\n    broker: { type: host, hostPath: ${JSON.stringify(join(folder, "store"))} }\n`);
  write("hello.txt", "hello\n");
  expect(run("stowage", "cp", "hello.txt", "store:greetings/hello.txt").status).toBe(0);
  expect(run("stowage", "ls", "-r", "store:").output).toContain("greetings/hello.txt");
});
