import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { brokerNames, createBrokerPackage } from "../src/index.ts";

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, "../../..");
const TEMPLATE = join(import.meta.dirname, "../template");
const BIN = join(import.meta.dirname, "../bin/create-broker.js");

let directory: string;
beforeEach(async () => {
  directory = await realpath(await mkdtemp(join(tmpdir(), "stowage-create-")));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

/** What `npm install` would do, with this tree's packages in the place of published ones. */
async function install(where: string): Promise<void> {
  await mkdir(join(where, "node_modules/@stowage"), { recursive: true });
  await mkdir(join(where, "node_modules/@types"), { recursive: true });
  for (const name of ["core", "broker-testkit"]) await symlink(join(ROOT, "packages", name), join(where, "node_modules/@stowage", name));
  for (const name of ["zod", "@types/node"]) {
    await symlink(await realpath(join(ROOT, "node_modules", name)), join(where, "node_modules", name));
  }
}

describe("the template", () => {
  test("is the broker of docs/writing-a-broker.md, word for word", async () => {
    const page = await readFile(join(ROOT, "docs/writing-a-broker.md"), "utf8");
    const blocks = [...page.matchAll(/^```[a-z]+ (\S+)\n([\s\S]*?)^```$/gm)];
    expect(blocks.length).toBeGreaterThan(8);
    for (const [, name = "", content] of blocks) expect(await readFile(join(TEMPLATE, name), "utf8"), name).toBe(content);
    const files = (await readdir(TEMPLATE, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile());
    expect(files.map(({ name }) => name).filter((name) => !blocks.some(([, block]) => block?.endsWith(name)))).toEqual(
      expect.arrayContaining(["README.md", "gitignore"]),
    );
    expect(files).toHaveLength(blocks.length + 2);
  });
});

describe("a package that was created", () => {
  test("carries its own names, and none of the template's", async () => {
    const created = await createBrokerPackage({ directory: join(directory, "tape"), name: "@acme/stowage-broker-tape-robot" });
    expect(created).toMatchObject({ packageName: "@acme/stowage-broker-tape-robot", type: "tape-robot", identifier: "tapeRobot" });
    expect(created.files).toEqual([
      ".gitignore",
      "README.md",
      "package.json",
      "src/entry.ts",
      "src/index.ts",
      "src/publish.ts",
      "src/reader.ts",
      "src/transfer.ts",
      "test/conformance-target.ts",
      "test/conformance.test.ts",
      "tsconfig.build.json",
      "tsconfig.json",
    ]);
    const source = await readFile(join(created.directory, "src/index.ts"), "utf8");
    expect(source).toContain('export const tapeRobotBroker: BrokerDefinition<"tape-robot", TapeRobotBrokerConfig>');
    expect(source).toContain('type: "tape-robot"');
    for (const file of created.files) {
      const text = await readFile(join(created.directory, file), "utf8");
      expect(text, file).not.toMatch(/flatBroker|FlatBroker|FlatReader|broker-flat|"flat"|`flat`/);
    }
    expect(JSON.parse(await readFile(join(created.directory, "package.json"), "utf8"))).toMatchObject({
      name: "@acme/stowage-broker-tape-robot",
    });
  });

  test("is typed, built, tested and imported as its README says", { timeout: 180_000 }, async () => {
    const { directory: where } = await createBrokerPackage({ directory: join(directory, "stowage-broker-tape") });
    await install(where);
    const tsc = join(ROOT, "node_modules/.bin/tsc");
    const built = async (project: string): Promise<void> => {
      // The published core has types of its own; here its sources stand in for them.
      await run(tsc, ["-p", project, "--skipLibCheck", "--typeRoots", join(where, "node_modules/@types")], { cwd: where }).catch(
        (error: { readonly stdout?: string }) => {
          throw new Error(error.stdout);
        },
      );
    };
    await built("tsconfig.json");
    await writeFile(
      join(where, "quick.test.ts"),
      `import { describe, test } from "node:test";
       import { conformanceSuite } from "@stowage/broker-testkit";
       import { conformanceTarget } from "./test/conformance-target.ts";
       conformanceSuite(conformanceTarget, { describe, test }, { only: ["A", "B20", "C37", "F73"] });`,
    );
    const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("NODE_TEST")));
    const { stdout } = await run(process.execPath, ["--test", "--test-reporter=tap", "quick.test.ts"], { cwd: where, env: environment });
    expect(stdout).toMatch(/# fail 0\b/);
    expect(Number(/# pass (\d+)/.exec(stdout)?.[1])).toBeGreaterThan(15);
  });

  test("leaves what was there, and refuses a directory in use", async () => {
    const mine = join(directory, "tape");
    await mkdir(join(mine, ".git"), { recursive: true });
    await writeFile(join(mine, "README.md"), "my own words");
    const created = await createBrokerPackage({ directory: mine });
    expect(created.files).not.toContain("README.md");
    expect(await readFile(join(mine, "README.md"), "utf8")).toBe("my own words");
    await expect(createBrokerPackage({ directory: mine })).rejects.toThrow(/is not empty \(.*package\.json/);
  });
});

describe("names", () => {
  test.each([
    ["tape", "tape", "tape"],
    ["stowage-broker-tape", "tape", "tape"],
    ["my-broker", "my", "my"],
    ["broker-tape", "tape", "tape"],
    ["@acme/stowage-broker-tape.robot_2", "tape-robot-2", "tapeRobot2"],
  ])("%s has the type %s", (name, type, identifier) => {
    expect(brokerNames(name)).toEqual({ packageName: name, type, identifier });
  });

  test.each(["", "Tape", "stowage-broker", "broker", "1tape", "a/b", "../x", "tape robot", "stowage-broker-", "x".repeat(215)])(
    "%j is refused with an example of a good one",
    (name) => {
      expect(() => brokerNames(name)).toThrow(/stowage-broker-tape/);
    },
  );
});

describe("the command", () => {
  test("makes the package and says what to do next", async () => {
    const { stdout } = await run(process.execPath, [BIN, "stowage-broker-tape"], { cwd: directory });
    expect(stdout).toContain('a broker of the type "tape"');
    expect(stdout).toContain("cd stowage-broker-tape\n  npm install\n  npm test");
    expect(await readdir(join(directory, "stowage-broker-tape"))).toContain("package.json");
  });

  test("explains itself, and what is wrong", async () => {
    const { stdout } = await run(process.execPath, [BIN, "--help"], { cwd: directory });
    expect(stdout).toContain("npm create @stowage/broker");
    for (const [parameters, message] of [
      [[], /name one directory/],
      [["a", "b"], /name one directory/],
      [["Not A Name"], /is no name for a package/],
      [["x", "--nome", "y"], /--nome/],
    ] as const) {
      await expect(run(process.execPath, [BIN, ...parameters], { cwd: directory })).rejects.toMatchObject({
        code: 1,
        stderr: expect.stringMatching(message),
      });
    }
  });
});
