import { createHash } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, symlinkSync, unlinkSync, utimesSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type CommandRun, makeFolder, records, runStowage, writeFiles } from "./support/command.ts";

let folder: string;
let remove: () => void;

beforeEach(() => {
  ({ folder, remove } = makeFolder());
  writeFiles(folder, {
    "stowage.yaml": `
workspaces:
  data: { title: Raw data, baseUrl: "https://files.example.org/raw", broker: { type: host, hostPath: ./data } }
  archive: { broker: { type: host, hostPath: ./archive } }
  readonly: { readOnly: true, broker: { type: host, hostPath: ./data } }
`,
    "data/raw/a.csv": "a,1\n",
    "data/raw/b.csv": "b,2\n",
    "data/raw/2026/c.csv": "c,3\n",
    "data/raw/2026/.hidden": "h",
    "data/top.txt": "top",
    "archive/old.txt": "old",
    "local/x.txt": "xx",
    "local/sub/y.txt": "yyy",
    "local/sub/empty": "",
  });
});

afterEach(() => {
  chmodSync(folder, 0o755);
  remove();
});

const run = (...args: string[]): Promise<CommandRun> => runStowage(args, { cwd: folder });

/** A run that must go well; gives its standard output. */
async function good(...args: string[]): Promise<string> {
  const done = await run(...args);
  expect({ args, status: done.status, stderr: done.stderr }).toEqual({ args, status: 0, stderr: "" });
  return done.stdout;
}

const read = (path: string): string => readFileSync(join(folder, path), "utf8");
const exists = (path: string): boolean => existsSync(join(folder, path));
const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

describe("ls", () => {
  test("without an address shows the workspaces", async () => {
    expect(await good("ls")).toBe("data:      host  Raw data\narchive:   host\nreadonly:  host  read-only\n");
  });

  test("shows files and directories of one level, sorted", async () => {
    expect(await good("ls", "data:")).toBe("raw/\ntop.txt\n");
    expect(await good("ls", "data:raw")).toBe("2026/\na.csv\nb.csv\n");
    expect(await good("ls", "--files", "data:raw/")).toBe("a.csv\nb.csv\n");
  });

  test("-r shows everything below by its path, names that begin with a dot too", async () => {
    expect(await good("ls", "-r", "data:raw")).toBe("2026/.hidden\n2026/c.csv\na.csv\nb.csv\n");
  });

  test("-l shows sizes and times", async () => {
    utimesSync(join(folder, "data/raw/a.csv"), new Date(2026, 0, 2, 3, 4, 5), new Date(2026, 0, 2, 3, 4, 5));
    const lines = (await good("ls", "-l", "data:raw")).split("\n");
    expect(lines[0]).toMatch(/^ {33}2026\/$/);
    expect(lines[1]).toBe("       4 B  2026-01-02 03:04:05  a.csv");
  });

  test("shows what a pattern matches, and a file by its name", async () => {
    expect(await good("ls", "data:raw/**/*.csv")).toBe("raw/2026/c.csv\nraw/a.csv\nraw/b.csv\n");
    expect(await good("ls", "data:top.txt")).toBe("top.txt\n");
  });

  test("of two addresses puts a headline over each", async () => {
    expect(await good("ls", "data:raw/2026", "archive:")).toBe("data:raw/2026\n.hidden\nc.csv\n\narchive:\nold.txt\n");
  });

  test("--json gives an object for each", async () => {
    const listed = records(await run("ls", "--json", "data:raw"));
    expect(listed[0]).toEqual({ event: "directory", path: "raw/2026" });
    expect(listed[1]).toMatchObject({ event: "file", path: "raw/a.csv", size: 4 });
    expect(Number.isNaN(Date.parse(String(listed[1]?.modified)))).toBe(false);
  });

  test("shows control characters escaped, and gives them unescaped in JSON", async () => {
    writeFiles(folder, { "data/odd/a\u001b[2Jb": "x" });
    expect(await good("ls", "data:odd")).toBe("a\\u{1b}[2Jb\n");
    expect(records(await run("ls", "--json", "data:odd"))[0]).toMatchObject({ path: "odd/a\u001b[2Jb" });
  });

  test("names what it cannot list, lists the rest, and says in its exit code that something is missing", async () => {
    writeFiles(folder, { "data/odd/good": "x" });
    const { writeFileSync } = await import("node:fs");
    writeFileSync(Buffer.concat([Buffer.from(join(folder, "data/odd/bad")), Buffer.from([0xff])]), "x");
    const listed = await run("ls", "data:odd");
    expect(listed.stdout).toBe("good\n");
    expect(listed.stderr).toMatch(/^stowage: [^\n]*bad[^\n]*\n$/);
    expect(listed.status).not.toBe(0);
  });

  test("of an empty workspace shows nothing", async () => {
    unlinkSync(join(folder, "archive/old.txt"));
    expect(await good("ls", "archive:")).toBe("");
  });
});

describe("stat", () => {
  test("shows what is known of a file", async () => {
    utimesSync(join(folder, "data/top.txt"), new Date(2026, 0, 2, 3, 4, 5), new Date(2026, 0, 2, 3, 4, 5));
    const shown = await good("stat", "--url", "data:top.txt");
    expect(shown).toContain("data:top.txt\n");
    expect(shown).toMatch(/^ {2}size +3 bytes$/m);
    expect(shown).toMatch(/^ {2}modified +2026-01-02 03:04:05$/m);
    expect(shown).toMatch(/^ {2}local path +\/.*top\.txt$/m);
    expect(shown).toMatch(/^ {2}url +https:\/\/files\.example\.org\/raw\/top\.txt$/m);
  });

  test("of several files goes on after one that is missing", async () => {
    const shown = await run("stat", "--json", "data:nope", "data:top.txt");
    expect(shown.status).toBe(163);
    expect(records(shown).map(({ event, path }) => [event, path])).toEqual([
      ["error", undefined],
      ["file", "top.txt"],
    ]);
  });

  test("says where no URL can be had", async () => {
    for (const args of [
      ["--url", "archive:old.txt"],
      ["--signed-url", "1h", "data:top.txt"],
    ]) {
      const shown = await run("stat", ...args);
      expect(shown.status).toBe(174);
      expect(shown.stderr).toMatch(/^stowage: the [^\n]*; [^\n]+\n$/);
    }
  });
});

describe("cp", () => {
  test("stores a file under a new name, into a directory, and into the root", async () => {
    expect(await good("cp", "local/x.txt", "archive:new/name.txt")).toMatch(
      /^copied local\/x\.txt → archive:new\/name\.txt \(2 B, \w+, verified by length\)\n1 file copied/,
    );
    await good("cp", "local/x.txt", "archive:new/");
    await good("cp", "local/x.txt", "archive:new");
    await good("cp", "local/x.txt", "archive:");
    expect([read("archive/new/name.txt"), read("archive/new/x.txt"), read("archive/x.txt")]).toEqual(["xx", "xx", "xx"]);
  });

  test("fetches a file under a new name, and into a directory", async () => {
    await good("cp", "data:raw/a.csv", "out.csv");
    await good("cp", "data:raw/a.csv", "local");
    await good("cp", "data:raw/a.csv", "made/");
    expect([read("out.csv"), read("local/a.csv"), read("made/a.csv")]).toEqual(["a,1\n", "a,1\n", "a,1\n"]);
  });

  test("-r puts the content of a directory right into the target, however often it runs", async () => {
    for (let time = 0; time < 2; time++) await good("cp", "-r", "local", "archive:local");
    expect(await good("ls", "-r", "archive:")).toBe("local/sub/empty\nlocal/sub/y.txt\nlocal/x.txt\nold.txt\n");
    for (let time = 0; time < 2; time++) await good("cp", "-r", "data:raw/", "out");
    expect([read("out/a.csv"), read("out/2026/c.csv"), read("out/2026/.hidden")]).toEqual(["a,1\n", "c,3\n", "h"]);
  });

  test("of several sources keeps each name", async () => {
    await good("cp", "-r", "local/sub", "local/x.txt", "archive:both");
    expect(await good("ls", "-r", "archive:both")).toBe("sub/empty\nsub/y.txt\nx.txt\n");
  });

  test("keeps the path below the fixed part of a pattern, on either side", async () => {
    await good("cp", "data:raw/**/*.csv", "out");
    expect([read("out/a.csv"), read("out/2026/c.csv"), exists("out/2026/.hidden")]).toEqual(["a,1\n", "c,3\n", false]);
    // What the pattern does not match is not left out: nobody asked for it.
    symlinkSync("nowhere", join(folder, "local/dangling"));
    symlinkSync(join(folder, "data"), join(folder, "local/link.txt"));
    await good("cp", "local/*.txt", "archive:texts");
    unlinkSync(join(folder, "local/link.txt"));
    await good("cp", "local/**/*.txt", "archive:texts");
    expect(await good("ls", "-r", "archive:texts")).toBe("sub/y.txt\nx.txt\n");
  });

  test("-r with a pattern takes directories that match, with all that is in them", async () => {
    await good("cp", "-r", "data:raw/2*", "out");
    expect([read("out/2026/c.csv"), exists("out/a.csv")]).toEqual(["c,3\n", false]);
  });

  test("takes a file whose name looks like a pattern as that file", async () => {
    writeFiles(folder, { "data/odd/[a].txt": "brackets", "data/odd/a.txt": "plain" });
    await good("cp", "data:odd/[a].txt", "one.txt");
    expect(read("one.txt")).toBe("brackets");
    unlinkSync(join(folder, "data/odd/[a].txt"));
    await good("cp", "data:odd/[a].txt", "matched/");
    expect(read("matched/a.txt")).toBe("plain");
    expect((await run("cp", "--literal", "data:odd/[a].txt", "none")).status).toBe(163);
  });

  test("copies from one workspace to another, and inside one", async () => {
    await good("cp", "-r", "data:raw", "archive:raw", "--checksum", "sha256");
    await good("cp", "data:top.txt", "data:copy/top.txt");
    await good("cp", "-r", "data:raw/2026", "data:raw/2027");
    expect([read("archive/raw/2026/c.csv"), read("data/copy/top.txt"), read("data/raw/2027/c.csv")]).toEqual(["c,3\n", "top", "c,3\n"]);
  });

  test("--if-exists says what becomes of a target that is there", async () => {
    await good("cp", "local/x.txt", "archive:old.txt", "--if-exists", "skip");
    expect(read("archive/old.txt")).toBe("old");
    const failed = await run("cp", "local/x.txt", "archive:old.txt", "--if-exists", "fail");
    expect([failed.status, read("archive/old.txt")]).toEqual([173, "old"]);
    await good("cp", "local/x.txt", "archive:old.txt");
    expect(read("archive/old.txt")).toBe("xx");
    const again = records(await run("cp", "local/x.txt", "archive:old.txt", "--if-exists", "skip-same", "--json"));
    expect(again[0]).toMatchObject({ event: "file", status: "skipped", reason: "same" });
  });

  test("--dry-run says what would be done, and does nothing", async () => {
    expect(await good("cp", "-r", "local", "archive:", "--dry-run")).toContain("would copy local/sub/y.txt → archive:sub/y.txt (3 B)\n");
    expect(await good("ls", "-r", "archive:")).toBe("old.txt\n");
  });

  test("--json tells of every file, and ends with a summary", async () => {
    const told = records(await run("cp", "-r", "local", "archive:l", "--json", "--checksum", "sha256"));
    const file = told.find((record) => record.to === "archive:l/x.txt");
    expect(file).toMatchObject({
      event: "file",
      operation: "copy",
      status: "done",
      from: "local/x.txt",
      bytes: 2,
      verified: "digest",
      digest: { algorithm: "sha256", value: sha256("xx") },
    });
    expect(told.at(-1)).toMatchObject({ event: "summary", operation: "copy", done: 3, failed: 0, bytes: 5 });
  });

  test("goes on after a file that fails, names it, and tells the rest", async () => {
    writeFiles(folder, { "archive/l/x.txt/blocks": "a directory in the way" });
    const copied = await run("cp", "-r", "local", "archive:l");
    expect(copied.status).not.toBe(0);
    expect(copied.stderr).toMatch(/^stowage: [^\n]*x\.txt[^\n]*\n$/);
    expect(copied.stdout).toContain("2 files copied");
    expect(copied.stdout).toContain("1 failed");
    expect(read("archive/l/sub/y.txt")).toBe("yyy");
  });

  test("names what it leaves out of a local directory; --skip-special says that this is fine", async () => {
    symlinkSync(join(folder, "data"), join(folder, "local/link-to-directory"));
    symlinkSync("x.txt", join(folder, "local/link-to-file"));
    symlinkSync("nowhere", join(folder, "local/dangling"));
    writeFiles(folder, { "local/.stowage-left": "a temporary file of ours" });
    const copied = await run("cp", "-r", "local", "archive:l");
    expect(copied.status).toBe(163);
    expect(copied.stderr.split("\n").sort()).toEqual([
      "",
      expect.stringContaining("local/dangling"),
      expect.stringContaining("local/link-to-directory"),
    ]);
    expect(await good("ls", "-r", "archive:l")).toBe("link-to-file\nsub/empty\nsub/y.txt\nx.txt\n");
    expect((await run("cp", "-r", "local", "archive:l", "--skip-special")).status).toBe(0);
  });

  test("reads standard input and writes standard output", async () => {
    const stored = await runStowage(["cp", "-", "archive:in.txt", "--checksum", "crc32"], { cwd: folder, input: "from a pipe" });
    expect([stored.status, stored.stderr, read("archive/in.txt")]).toEqual([0, "", "from a pipe"]);
    expect(await good("cp", "archive:in.txt", "archive:old.txt", "-")).toBe("from a pipeold");
    const refused = await runStowage(["cp", "-", "archive:in.txt", "--if-exists", "fail"], { cwd: folder, input: "again" });
    expect([refused.status, read("archive/in.txt")]).toEqual([173, "from a pipe"]);
  });

  test("--timeout gives up what has not ended in time, and says so", async () => {
    const late = await run("cp", "-r", "local", "archive:l", "--timeout", "0s");
    expect(late.status).toBe(172);
    expect(late.stderr).toMatch(/^stowage: [^\n]*deadline[^\n]*\n$/);
    expect((await run("ls", "archive:l")).status).toBe(163);
  });

  test("takes names with colons and blanks", async () => {
    writeFiles(folder, { "odd name: 1.txt": "odd" });
    await good("cp", "./odd name: 1.txt", "archive:");
    expect(await good("cp", "archive:odd name: 1.txt", "-")).toBe("odd");
  });

  test("keeps the time of a file", async () => {
    utimesSync(join(folder, "local/x.txt"), new Date(1_600_000_000_000), new Date(1_600_000_000_000));
    await good("cp", "local/x.txt", "archive:");
    expect(Math.round(statSync(join(folder, "archive/x.txt")).mtimeMs)).toBe(1_600_000_000_000);
  });

  test("opens a workspace where --volume says that it is mounted, and refuses what is no mount", async () => {
    mkdirSync(join(folder, "not-mounted"));
    const listed = await run("ls", "archive:", "--volume", "archive=not-mounted");
    expect(listed.status).toBe(172);
    expect(listed.stderr).toContain("not-mounted");
  });
});

describe("mv", () => {
  test("renames inside a workspace, and never onto another file unless it is told to", async () => {
    expect(await good("mv", "data:top.txt", "data:deep/er/top.txt")).toContain("rename");
    expect([exists("data/top.txt"), read("data/deep/er/top.txt")]).toEqual([false, "top"]);
    const refused = await run("mv", "data:raw/a.csv", "data:raw/b.csv");
    expect([refused.status, read("data/raw/a.csv"), read("data/raw/b.csv")]).toEqual([173, "a,1\n", "b,2\n"]);
    await good("mv", "data:raw/a.csv", "data:raw/b.csv", "--if-exists", "replace");
    expect([exists("data/raw/a.csv"), read("data/raw/b.csv")]).toEqual([false, "a,1\n"]);
  });

  test("moves what a pattern matches into a directory that the pattern matches too", async () => {
    await good("mv", "-r", "data:raw/*", "data:raw/old/");
    expect(await good("ls", "-r", "data:raw")).toBe("old/2026/.hidden\nold/2026/c.csv\nold/a.csv\nold/b.csv\n");
    await good("mv", "-r", "data:raw/*", "data:raw/old/");
    expect(await good("ls", "-r", "data:raw")).toBe("old/2026/.hidden\nold/2026/c.csv\nold/a.csv\nold/b.csv\n");
  });

  test("to another workspace copies, proves the copy by a digest, and deletes the source", async () => {
    const moved = records(await run("mv", "-r", "data:raw", "archive:raw", "--json"));
    expect(moved.filter(({ event }) => event === "file")).toHaveLength(4);
    for (const record of moved.slice(0, -1)) expect(record).toMatchObject({ operation: "move", status: "done", verified: "digest" });
    expect([exists("data/raw/a.csv"), read("archive/raw/2026/c.csv")]).toEqual([false, "c,3\n"]);
  });

  test("that was interrupted between copy and deletion is finished by the next run", async () => {
    writeFiles(folder, { "archive/raw/a.csv": "a,1\n", "archive/raw/b.csv": "something else" });
    const moved = await run("mv", "-r", "data:raw", "archive:raw");
    expect(moved.status).toBe(173);
    expect(moved.stderr).toMatch(/^stowage: [^\n]*b\.csv[^\n]*\n$/);
    expect([exists("data/raw/a.csv"), read("data/raw/b.csv"), read("archive/raw/b.csv")]).toEqual([false, "b,2\n", "something else"]);
    expect(exists("data/raw/2026/c.csv")).toBe(false);
  });

  test("keeps both files when the source cannot be deleted, and says so", async () => {
    // Root may delete everything: a broker over the host broker that may not.
    writeFiles(folder, {
      "sticky.ts": `import { hostBroker } from ${JSON.stringify(import.meta.resolve("@stowage/broker-host"))};
const deny = async () => { throw Object.assign(new Error("EACCES: permission denied, unlink"), { code: "EACCES" }); };
export const sticky = { ...hostBroker, type: "sticky", open: async (...args) => ({ ...(await hostBroker.open(...args)), deleteFile: deny, deleteFiles: undefined }) };`,
      "stowage.yaml": `brokers: [./sticky.ts]
workspaces:
  data: { broker: { type: sticky, hostPath: ${join(folder, "data")} } }
  archive: { broker: { type: host, hostPath: ./archive } }`,
    });
    const moved = await run("mv", "data:raw/a.csv", "archive:a.csv");
    expect(moved.stderr).toMatch(
      /^stowage: "data:raw\/a\.csv" was copied but not deleted, so both exist: [^\n]+; run the same command again to finish\n$/,
    );
    expect([moved.status, read("data/raw/a.csv"), read("archive/a.csv")]).toEqual([170, "a,1\n", "a,1\n"]);
  });
});

describe("rm", () => {
  test("deletes a file", async () => {
    expect(await good("rm", "data:top.txt")).toMatch(/^deleted data:top\.txt\n1 file deleted in \d\.\d s\n$/);
    expect(exists("data/top.txt")).toBe(false);
  });

  test("deletes what a pattern matches, and a directory with -r", async () => {
    await good("rm", "data:raw/*.csv");
    expect(await good("ls", "-r", "data:raw")).toBe("2026/.hidden\n2026/c.csv\n");
    await good("rm", "-r", "data:raw");
    expect(await good("ls", "data:")).toBe("top.txt\n");
  });

  test("--dry-run deletes nothing; --force finds no fault in what is not there", async () => {
    expect(await good("rm", "-r", "data:raw", "--dry-run")).toContain("would delete data:raw/a.csv\n");
    expect(exists("data/raw/a.csv")).toBe(true);
    expect((await run("rm", "data:nope")).status).toBe(163);
    await good("rm", "--force", "data:nope", "data:raw/*.nope");
  });

  test("deletes nothing of several addresses when one is a mistake", async () => {
    expect((await run("rm", "data:top.txt", "data:nope")).status).toBe(163);
    expect(exists("data/top.txt")).toBe(true);
  });

  test("empties a directory of many files", async () => {
    writeFiles(folder, Object.fromEntries(Array.from({ length: 2500 }, (_, index) => [`data/many/${index % 7}/${index}`, "x"])));
    await good("rm", "-r", "data:many", "--quiet");
    expect((await run("ls", "data:many")).status).toBe(163);
  });
});
