import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { haveCommand } from "../../../test/support/debian-packages.ts";
import { commandPath } from "../src/index.ts";
import { makeFolder, writeFiles } from "./support/command.ts";

let folder: string;
let remove: () => void;

beforeEach(() => {
  ({ folder, remove } = makeFolder());
  writeFiles(folder, {
    "stowage.yaml": "workspaces:\n  data: { broker: { type: host, hostPath: ./data } }\n",
    "data/raw/a.txt": "a",
    "data/raw/b.txt": "bb",
    ...Object.fromEntries(Array.from({ length: 60 }, (_, index) => [`local/${index}.bin`, Buffer.alloc(200_000, index)])),
  });
});

afterEach(() => remove());

interface TerminalRun {
  readonly status: number | null;
  /** Both streams, as the terminal got them. */
  readonly text: string;
}

/** Runs the command in a terminal (that of `script`, util-linux), answering `answer` to the first question. */
function runInTerminal(args: readonly string[], answer?: string, environment: Readonly<Record<string, string>> = {}): Promise<TerminalRun> {
  const { NO_COLOR: _, ...inherited } = process.env;
  const line = [process.execPath, commandPath, ...args].map((word) => `'${word}'`).join(" ");
  const child = spawn("script", ["-qefc", line, "/dev/null"], { cwd: folder, env: { ...inherited, TERM: "xterm", ...environment } });
  let text = "";
  child.stdout.on("data", (chunk: Buffer) => {
    text += chunk.toString();
    if (answer !== undefined && text.includes("[y/N]")) {
      child.stdin.write(/[\u0000-\u001f]/.test(answer) ? answer : `${answer}\n`);
      answer = undefined;
    }
  });
  return new Promise((resolve) => child.on("close", (status) => resolve({ status, text: text.replaceAll("\r\n", "\n") })));
}

const hasTerminal = haveCommand("script", "bsdutils");

describe.skipIf(!hasTerminal)("on a terminal", () => {
  test("a copy shows a bar while it runs, takes it away, and ends with one line", async () => {
    const { status, text } = await runInTerminal(["cp", "-r", "local", "data:copy"]);
    expect(status).toBe(0);
    expect(text).toMatch(/[█░]{24} +\d+ % {2}[\d.]+ [KM]?i?B of 11\.4 MiB {2}\d+ of 60 files/);
    const last = text.slice(text.lastIndexOf("\r\u001b[2K") + "\r\u001b[2K".length);
    expect(last).toMatch(/^60 files copied, 11\.4 MiB in \d+\.\d s[^\n]*\n$/);
    expect(text).not.toContain("copied local/7.bin");
  });

  test("--verbose shows the files too, and --quiet nothing", async () => {
    expect((await runInTerminal(["cp", "-r", "local", "data:copy", "--verbose"])).text).toContain("copied local/7.bin → data:copy/7.bin");
    expect((await runInTerminal(["cp", "-r", "local", "data:copy", "--quiet"])).text).toBe("");
  });

  test("errors are red, and not with NO_COLOR", async () => {
    expect((await runInTerminal(["stat", "data:nope"])).text).toMatch(/^\u001b\[31mstowage:\u001b\[0m "data:nope" does not exist/);
    expect((await runInTerminal(["stat", "data:nope"], undefined, { NO_COLOR: "1" })).text).toMatch(/^stowage: "data:nope"/);
  });

  test("rm asks, with what it is about, and deletes nothing without a yes", async () => {
    const asked = await runInTerminal(["rm", "-r", "data:raw"], "no");
    expect(asked.text).toContain("Delete 2 files (3 B): data:raw? [y/N]");
    expect(asked.text).toContain("nothing was deleted");
    expect([asked.status, existsSync(join(folder, "data/raw/a.txt"))]).toEqual([180, true]);
    expect((await runInTerminal(["rm", "data:raw/a.txt"], "y")).status).toBe(0);
    expect([existsSync(join(folder, "data/raw/a.txt")), existsSync(join(folder, "data/raw/b.txt"))]).toEqual([false, true]);
  });

  test.each([
    ["Ctrl-C", "\u0003", "SIGINT: cancelling"],
    ["Ctrl-D", "\u0004", "nothing was deleted"],
  ])("%s instead of an answer deletes nothing", async (_, key, said) => {
    const asked = await runInTerminal(["rm", "-r", "data:raw"], key);
    expect(asked.text).toContain(said);
    expect([asked.status, existsSync(join(folder, "data/raw/a.txt"))]).toEqual([180, true]);
  });

  test("rm --yes does not ask", async () => {
    const done = await runInTerminal(["rm", "-r", "data:raw", "--yes"]);
    expect([done.status, done.text.includes("[y/N]"), existsSync(join(folder, "data/raw/b.txt"))]).toEqual([0, false, false]);
  });

  test("--json asks nothing of colours and bars", async () => {
    const { text } = await runInTerminal(["cp", "-r", "local", "data:copy", "--json"]);
    for (const line of text.trim().split("\n")) expect(() => JSON.parse(line), line).not.toThrow();
  });
});
