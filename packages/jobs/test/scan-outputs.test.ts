import { execFileSync, fork, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, writeFileSync } from "node:fs";
import { chmod, link, mkdir, mkdtemp, open, readdir, readFile, rename, rm, symlink, truncate, utimes, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { handlePath, pinDirectory } from "../src/lib/pinned-directory.ts";
import { isUnchanged, MAXIMUM_REFUSALS, openScannedFile, type ScanResult, scanOutputs } from "../src/lib/scan-outputs.ts";

let base: string;
let output: string;
const SECRET = "not for the job to see";

beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), "stowage-scan-"));
  output = join(base, "output");
  await mkdir(output);
  await mkdir(join(base, "outside"));
  await writeFile(join(base, "outside", "secret"), SECRET);
});
afterEach(() => rm(base, { recursive: true, force: true }));

const put = async (path: string, content: string | Uint8Array = "x"): Promise<string> => {
  const target = join(output, path);
  await mkdir(join(target, ".."), { recursive: true });
  await writeFile(target, content);
  return target;
};
const paths = (result: ScanResult): string[] => result.files.map(({ path }) => path);
const reasons = (result: ScanResult): Record<string, string> =>
  Object.fromEntries(result.refusals.map(({ path, reason }) => [path, reason]));
const openHandles = async (): Promise<number> => (await readdir("/proc/self/fd")).length;

describe("scanOutputs", () => {
  test("finds every plain file with its size, empty ones and hidden ones too, in order", async () => {
    await put("b.txt", "12345");
    await put("a/deep/c.bin", new Uint8Array(3));
    await put("a/.hidden", "");
    await put("-rf", "1");
    await put("é\\name", "1");
    await mkdir(join(output, "empty"));
    const result = await scanOutputs(output);
    expect(paths(result)).toEqual(["-rf", "a/.hidden", "a/deep/c.bin", "b.txt", "é\\name"]);
    expect(result.files.map(({ size }) => size)).toEqual([1, 0, 3, 5, 1]);
    expect(result).toMatchObject({ bytes: 10, refusals: [], refusalCount: 0 });
  });

  test("refuses symbolic links and does not go where they lead", async () => {
    await symlink(join(base, "outside", "secret"), join(output, "to-file"));
    await symlink(join(base, "outside"), join(output, "to-directory"));
    await symlink("nowhere", join(output, "to-nothing"));
    await symlink(".", join(output, "to-itself"));
    const result = await scanOutputs(output);
    expect(paths(result)).toEqual([]);
    expect(reasons(result)).toEqual({
      "to-file": "symbolic-link",
      "to-directory": "symbolic-link",
      "to-nothing": "symbolic-link",
      "to-itself": "symbolic-link",
    });
  });

  test("refuses FIFOs and sockets without waiting on them", async () => {
    execFileSync("mkfifo", [join(output, "pipe")]);
    const server = createServer().listen(join(output, "socket"));
    await once(server, "listening");
    try {
      expect(reasons(await scanOutputs(output))).toEqual({ pipe: "fifo", socket: "socket" });
    } finally {
      server.close();
    }
  });

  test("refuses devices without opening them", async (context) => {
    if (spawnSync("mknod", [join(output, "device"), "c", "1", "5"]).status !== 0) context.skip("mknod needs CAP_MKNOD");
    expect(reasons(await scanOutputs(output))).toEqual({ device: "device" });
  });

  test("refuses setuid and setgid files, but not setgid directories", async () => {
    await chmod(await put("suid"), 0o4755);
    await chmod(await put("sgid"), 0o2755);
    await put("directory/file");
    await chmod(join(output, "directory"), 0o2755);
    const result = await scanOutputs(output);
    expect(reasons(result)).toEqual({ suid: "set-id", sgid: "set-id" });
    expect(paths(result)).toEqual(["directory/file"]);
  });

  test("refuses a hard link to a file outside, not two names of one file inside", async () => {
    await link(join(base, "outside", "secret"), join(output, "theirs"));
    await link(join(base, "outside", "secret"), join(output, "theirs-again"));
    await link(await put("one", "1234"), join(output, "two"));
    const result = await scanOutputs(output);
    expect(reasons(result)).toEqual({ theirs: "hard-link", "theirs-again": "hard-link" });
    expect(paths(result)).toEqual(["one", "two"]);
    expect(result.bytes).toBe(8);
  });

  test("refuses a sparse file, not one that has all its bytes, nor a small one", async () => {
    await truncate(await put("sparse"), 1024 ** 4);
    await put("dense", new Uint8Array(2 * 1024 * 1024));
    await truncate(await put("small"), 500_000);
    const half = await open(join(output, "half"), "w");
    await half.write(new Uint8Array(1024 * 1024), 0, 1024 * 1024, 3 * 1024 * 1024);
    await half.close();
    const result = await scanOutputs(output, { limits: { outputBytes: 2 ** 50 } });
    expect(reasons(result)).toEqual({ sparse: "sparse" });
    expect(paths(result)).toEqual(["dense", "half", "small"]);
    expect(reasons(await scanOutputs(output, { limits: { outputBytes: 2 ** 50, sparseRatio: 3 } }))).toEqual({
      sparse: "sparse",
      half: "sparse",
    });
  });

  test("refuses names that no path can have, and says them so that they can be printed", async () => {
    writeFileSync(Buffer.concat([Buffer.from(`${output}/bad-`), Buffer.from([0xff, 0xc0])]), "x");
    await put("new\nline");
    await put("\u001b[2J");
    await put(".stowage-1");
    await mkdir(join(output, ".stowage"));
    await writeFile(join(output, ".stowage", "inside"), "x");
    const result = await scanOutputs(output);
    expect(paths(result)).toEqual([]);
    expect(reasons(result)).toEqual({
      "bad-\\xff\\xc0": "name",
      "new\\u{a}line": "name",
      "\\u{1b}[2J": "name",
      ".stowage-1": "name",
      ".stowage": "name",
    });
    expect(JSON.stringify(result.refusals)).not.toMatch(/\\n|\\u001b/);
    for (const { message } of result.refusals) expect(message).not.toMatch(/^invalid/);
  });

  test("does not take a byte order mark in a name for nothing", async () => {
    await put("\ufeffname");
    expect(paths(await scanOutputs(output))).toEqual(["\ufeffname"]);
  });

  test("refuses absurd depth and does not go there", async () => {
    await put("1/2/3/file");
    await put("1/2/3/4/too-deep");
    const result = await scanOutputs(output, { limits: { outputDepth: 3 } });
    expect(paths(result)).toEqual(["1/2/3/file"]);
    expect(reasons(result)).toEqual({ "1/2/3/4": "depth" });
  });

  test("a tree of 2,000 levels costs no more than its limit", async () => {
    execFileSync("sh", ["-c", 'cd "$1"; i=0; while [ $i -lt 2000 ]; do mkdir d; cd -P d; i=$((i+1)); done', "sh", output]);
    const before = await openHandles();
    const result = await scanOutputs(output);
    expect(result.refusals).toMatchObject([{ reason: "depth" }]);
    expect(await openHandles()).toBe(before);
    const { removeTree } = await import("../src/lib/remove-tree.ts");
    expect(await removeTree(output)).toEqual([]);
  });

  test("stops at too many files and at too many bytes", async () => {
    for (let index = 0; index < 12; index++) await put(`file-${index}`, "12345678");
    expect((await scanOutputs(output, { limits: { outputFiles: 12, outputBytes: 96 } })).refusalCount).toBe(0);
    expect((await scanOutputs(output, { limits: { outputFiles: 11 } })).refusals).toMatchObject([{ reason: "files", path: "" }]);
    const many = await scanOutputs(output, { limits: { outputBytes: 95 } });
    expect(many.refusals).toMatchObject([{ reason: "bytes", path: "file-9" }]);
    expect(many.refusals[0]?.message).toContain("limits.outputBytes");
  });

  test("does not remember a directory with more names than could ever be right", async () => {
    execFileSync("sh", ["-c", 'cd "$1" && seq 1 3000 | xargs touch', "sh", output]);
    const result = await scanOutputs(output, { limits: { outputFiles: 1000 } });
    expect(result.refusals).toMatchObject([{ reason: "files" }]);
    expect(result.files).toEqual([]);
  });

  test("keeps the first refusals and counts them all", async () => {
    for (let index = 0; index < MAXIMUM_REFUSALS + 20; index++) await symlink("x", join(output, `link-${index}`));
    const result = await scanOutputs(output);
    expect(result.refusals).toHaveLength(MAXIMUM_REFUSALS);
    expect(result.refusalCount).toBe(MAXIMUM_REFUSALS + 20);
  });

  test("refuses to take a link or a file for the output directory", async () => {
    await rename(output, join(base, "moved"));
    await symlink(join(base, "outside"), output);
    await expect(scanOutputs(output)).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await rm(output);
    await expect(scanOutputs(output)).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await writeFile(output, "x");
    await expect(scanOutputs(output)).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
  });

  test("stops when it is told to", async () => {
    await put("a");
    const reason = new Error("stop");
    await expect(scanOutputs(output, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });

  test("says what this user may not read before anything is stored", async () => {
    await chmod(await put("closed"), 0);
    await put("directory/file");
    await chmod(join(output, "directory"), 0);
    const script = `import { scanOutputs } from ${JSON.stringify(new URL("../src/lib/scan-outputs.ts", import.meta.url).href)};
      console.log(JSON.stringify((await scanOutputs(process.argv[1])).refusals.map(({ path, reason }) => [path, reason])));`;
    await chmod(base, 0o755);
    const isRoot = process.geteuid?.() === 0;
    const child = spawnSync(process.execPath, ["--input-type=module", "-e", script, "--", output], {
      encoding: "utf8",
      ...(isRoot ? { uid: 65534, gid: 65534 } : {}),
    });
    await chmod(join(output, "directory"), 0o700);
    expect(child.stderr).toBe("");
    expect(JSON.parse(child.stdout)).toEqual([
      ["closed", "unreadable"],
      ["directory", "unreadable"],
    ]);
  });

  test("leaves no handle open", async () => {
    await put("a/b/c");
    await symlink("x", join(output, "a", "link"));
    const before = await openHandles();
    await scanOutputs(output);
    expect(await openHandles()).toBe(before);
  });
});

describe("opening what was scanned", () => {
  async function openAll(result: ScanResult): Promise<(string | undefined)[]> {
    const root = await pinDirectory(output);
    try {
      const contents: (string | undefined)[] = [];
      for (const file of result.files) {
        const handle = await openScannedFile(root, file);
        contents.push(handle && (await handle.readFile("utf8")));
        await handle?.close();
      }
      return contents;
    } finally {
      await root.handle.close();
    }
  }

  test("gives the very file, and a path by which another process reads it after it has been renamed away", async () => {
    const target = await put("a/b", "content");
    const [file] = (await scanOutputs(output)).files;
    const root = await pinDirectory(output);
    const handle = (await openScannedFile(root, file!))!;
    try {
      expect(await isUnchanged(handle, file!)).toBe(true);
      await rm(target);
      await symlink(join(base, "outside", "secret"), target);
      const path = handlePath(handle)!;
      expect(await readFile(path, "utf8")).toBe("content");
      expect(execFileSync("cat", [path], { encoding: "utf8" })).toBe("content");
      expect(await isUnchanged(handle, file!)).toBe(false);
    } finally {
      await handle.close();
      await root.handle.close();
    }
  });

  test.each<[string, (target: string) => Promise<unknown> | unknown]>([
    ["a symbolic link", (target) => symlink(join(base, "outside", "secret"), target)],
    ["a hard link to somebody else's file", (target) => link(join(base, "outside", "secret"), target)],
    ["another file of the same content", (target) => writeFile(target, "content")],
    ["a FIFO", (target) => execFileSync("mkfifo", [target])],
    ["a directory", (target) => mkdir(target)],
    ["nothing", () => undefined],
  ])("gives nothing when the file has become %s", async (_what, make) => {
    const target = await put("a/b", "content");
    const result = await scanOutputs(output);
    await rm(target);
    await make(target);
    expect(await openAll(result)).toEqual([undefined]);
  });

  test("gives nothing when the file has other content of the same length, its time set back", async () => {
    const target = await put("a/b", "content");
    await utimes(target, 1, 1);
    const result = await scanOutputs(output);
    await writeFile(target, "CONTENT");
    await utimes(target, 1, 1);
    expect(await openAll(result)).toEqual([undefined]);
  });

  test("gives nothing when a directory on the way has become a link", async () => {
    await put("a/secret", "content");
    const result = await scanOutputs(output);
    await rename(join(output, "a"), join(output, "b"));
    await symlink(join(base, "outside"), join(output, "a"));
    expect(await openAll(result)).toEqual([undefined]);
  });

  test("never gives what lies outside, however fast a process in the background swaps files and directories for links", async () => {
    await put("directory/secret", "harmless");
    await put("file", "harmless");
    await symlink(join(base, "outside"), join(base, "directory-link"));
    await symlink(join(base, "outside", "secret"), join(base, "file-link"));
    const swapper = join(base, "swapper.mjs");
    await writeFile(
      swapper,
      `import { renameSync, existsSync } from "node:fs";
       const [, , output, base] = process.argv;
       const swap = (target, link) => { renameSync(target, base + "/kept"); renameSync(link, target); renameSync(target, link); renameSync(base + "/kept", target); };
       process.send("ready");
       while (!existsSync(base + "/stop")) { swap(output + "/directory", base + "/directory-link"); swap(output + "/file", base + "/file-link"); }`,
    );
    const child = fork(swapper, [output, base]);
    try {
      await once(child, "message");
      const seen = new Set<string | undefined>();
      let refused = 0;
      for (const until = Date.now() + 1500; Date.now() < until; ) {
        const result = await scanOutputs(output).catch(() => undefined);
        if (result === undefined) continue;
        refused += result.refusalCount;
        for (const content of await openAll(result)) seen.add(content);
      }
      expect(refused).toBeGreaterThan(0);
      expect(seen).not.toContain(SECRET);
      for (const content of seen) expect([undefined, "harmless"]).toContain(content);
    } finally {
      writeFileSync(join(base, "stop"), "");
      await once(child, "exit");
    }
    expect(existsSync(join(base, "stop"))).toBe(true);
  });
});

describe("removeTree", () => {
  const load = async () => await import("../src/lib/remove-tree.ts");

  test("removes everything that a hostile job may leave, and nothing outside", async () => {
    const { removeTree } = await load();
    await put("a/b/c");
    await symlink(join(base, "outside"), join(output, "a", "link"));
    execFileSync("mkfifo", [join(output, "pipe")]);
    writeFileSync(Buffer.concat([Buffer.from(`${output}/`), Buffer.from([0xff])]), "x");
    await mkdir(join(output, "closed", "inner"), { recursive: true });
    await writeFile(join(output, "closed", "inner", "file"), "x");
    await chmod(join(output, "closed", "inner"), 0);
    await chmod(join(output, "closed"), 0);
    expect(await removeTree(output)).toEqual([]);
    expect(existsSync(output)).toBe(false);
    expect(await readFile(join(base, "outside", "secret"), "utf8")).toBe(SECRET);
  });

  test("of what is not there is nothing to do, of a link only the link goes", async () => {
    const { removeTree } = await load();
    expect(await removeTree(join(base, "missing"))).toEqual([]);
    expect(await removeTree(join(base, "missing", "deeper"))).toEqual([]);
    await symlink(join(base, "outside"), join(base, "link"));
    expect(await removeTree(join(base, "link"))).toEqual([]);
    expect(existsSync(join(base, "outside", "secret"))).toBe(true);
  });

  test("removes directories that their owner closed, also when that is not root", async () => {
    const script = `import { removeTree } from ${JSON.stringify(new URL("../src/lib/remove-tree.ts", import.meta.url).href)};
      import { mkdirSync, writeFileSync, chmodSync } from "node:fs";
      const target = process.argv[1] + "/mine";
      mkdirSync(target + "/a/b", { recursive: true }); writeFileSync(target + "/a/b/c", "x");
      chmodSync(target + "/a/b", 0); chmodSync(target + "/a", 0o400); chmodSync(target, 0o500);
      console.log(JSON.stringify(await removeTree(target)));`;
    await chmod(base, 0o777);
    const isRoot = process.geteuid?.() === 0;
    const child = spawnSync(process.execPath, ["--input-type=module", "-e", script, "--", base], {
      encoding: "utf8",
      ...(isRoot ? { uid: 65534, gid: 65534 } : {}),
    });
    expect(child.stderr).toBe("");
    expect(JSON.parse(child.stdout)).toEqual([]);
    expect(existsSync(join(base, "mine"))).toBe(false);
  });

  test("never leaves the tree, however fast directories are swapped for links meanwhile", async () => {
    const { removeTree } = await load();
    await symlink(join(base, "outside"), join(base, "link"));
    const swapper = spawn(process.execPath, [
      "-e",
      `const { renameSync, mkdirSync, existsSync } = require("node:fs"); const base = process.argv[1];
       process.stdout.write("ready");
       while (!existsSync(base + "/stop")) { try { mkdirSync(base + "/output/d/secret", { recursive: true }); renameSync(base + "/output/d", base + "/kept"); renameSync(base + "/link", base + "/output/d"); renameSync(base + "/output/d", base + "/link"); renameSync(base + "/kept", base + "/output/d"); } catch { try { renameSync(base + "/kept", base + "/kept-" + Math.random()); } catch {} try { require("node:fs").symlinkSync(base + "/outside", base + "/link"); } catch {} } }`,
      base,
    ]);
    await once(swapper.stdout, "data");
    for (const until = Date.now() + 1000; Date.now() < until; ) await removeTree(output);
    writeFileSync(join(base, "stop"), "");
    await once(swapper, "exit");
    expect(await readFile(join(base, "outside", "secret"), "utf8")).toBe(SECRET);
  });

  test("emptyDirectory keeps the directory and what it is told to keep", async () => {
    const { emptyDirectory } = await load();
    await put("a/b");
    await put("keep/c");
    expect(await emptyDirectory(output, ["keep"])).toEqual([]);
    expect(await readdir(output)).toEqual(["keep"]);
  });
});
