import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createInflightRecords, INFLIGHT_DIRECTORY } from "../src/lib/posix/inflight-records.ts";
import { PinnedDirectories } from "../src/lib/posix/pinned-directory.ts";
import { localRecordsFolder } from "../src/lib/posix/posix-executor.ts";
import { processState, thisProcess } from "../src/lib/posix/process-identity.ts";
import { openVolumeRoot } from "../src/lib/posix/volume-root.ts";
import { childrenOf, collect, ExecutorFixture, eventually, stateOf } from "./support/executor-fixture.ts";
import { download, hooks, isLinux, isRoot, upload } from "./support/posix-volume.ts";

const HOUR = 3_600_000;

describe.skipIf(!isLinux)("what crashed sessions leave", () => {
  let fixture: ExecutorFixture;
  const programs: ChildProcess[] = [];
  const cleanUps: (() => void)[] = [];

  beforeEach(() => {
    fixture = new ExecutorFixture();
  });
  afterEach(async () => {
    for (const cleanUp of cleanUps.splice(0)) cleanUp();
    for (const program of programs.splice(0)) program.kill("SIGKILL");
    await fixture.remove();
  });

  /** A program that begins to write (and to download) in some directories and goes no further. */
  async function startWriter(mode: "inline" | "process", ...directories: string[]): Promise<ChildProcess> {
    const source = `
      import { createPosixExecutor } from ${JSON.stringify(new URL("../src/lib/posix/posix-executor.ts", import.meta.url).href)};
      const executor = await createPosixExecutor(${JSON.stringify(fixture.volume())}, { mode: "${mode}" });
      const hooks = { signal: new AbortController().signal, progress() {} };
      for (const [index, directory] of ${JSON.stringify(directories)}.entries()) {
        const writer = await executor.openWrite({
          file: { path: directory + "unfinished" }, ifExists: "replace", durability: "process", checksum: "auto", temporaryName: ".stowage-${randomUUID()}-" + index,
        }, hooks);
        await writer.write(Buffer.alloc(1000));
      }
      console.log("ready");
      setInterval(() => {}, 1000);
    `;
    const path = join(fixture.folder, `writer-${randomUUID()}.mjs`);
    writeFileSync(path, source);
    const program = spawn(process.execPath, [path], { stdio: ["ignore", "pipe", "inherit"] });
    programs.push(program);
    await new Promise((resolve) => program.stdout!.once("data", resolve));
    return program;
  }

  async function kill(program: ChildProcess): Promise<void> {
    const children = childrenOf(program.pid!);
    const ended = new Promise((resolve) => program.once("exit", resolve));
    program.kill("SIGKILL");
    await ended;
    await eventually(() => children.every((pid) => stateOf(pid) === undefined), "its children notice by themselves");
  }

  async function sweep(options: { olderThanMs?: number; deep?: boolean } = {}): Promise<string[]> {
    const executor = await fixture.executor({ mode: "inline" });
    return (await collect(executor.sweep({ olderThanMs: 0, deep: false, ...options }, hooks()))).sort();
  }

  test.each(["inline", "process"] as const)("is found by its records and removed, the records too (executor %s)", async (mode) => {
    fixture.storedFile("kept", "kept");
    const writer = await startWriter(mode, "", "a/", "a/b/");
    expect(fixture.temporaryNames().length).toBeGreaterThanOrEqual(3);
    await kill(writer);
    const swept = await sweep();
    // A child that sees its parent gone cleans up by itself.
    if (mode === "inline") expect(swept.map((name) => name.replace(/\.stowage-.*/, ""))).toEqual(["", "a/", "a/b/"]);
    expect(fixture.names()).toEqual(["a", "a/b", "kept"]);
    expect(await sweep()).toEqual([]);
    expect(fixture.read("kept")).toBe("kept");
  });

  test("is left alone while its writer lives, however old", async () => {
    const writer = await startWriter("inline", "a/");
    for (const name of readdirSync(join(fixture.root, INFLIGHT_DIRECTORY))) utimesSync(join(fixture.root, INFLIGHT_DIRECTORY, name), 0, 0);
    expect(await sweep({ olderThanMs: 0 })).toEqual([]);
    expect(await sweep({ olderThanMs: 0, deep: true })).toEqual([]);
    expect(fixture.temporaryNames().length).toBe(1);
    await kill(writer);
    expect((await sweep({ deep: true })).length).toBe(1);
  });

  test("is left alone until it is old enough", async () => {
    await kill(await startWriter("inline", "a/"));
    expect(await sweep({ olderThanMs: HOUR })).toEqual([]);
    expect(await sweep({ olderThanMs: HOUR, deep: true })).toEqual([]);
    expect(readdirSync(join(fixture.root, INFLIGHT_DIRECTORY)).length).toBe(1);
    expect((await sweep()).length).toBe(1);
  });

  test("in a directory where somebody else works who lives, is left alone for a day", async () => {
    await kill(await startWriter("inline", "a/", "b/"));
    const living = await startWriter("inline", "a/");
    const swept = await sweep();
    expect(swept.map((name) => name.slice(0, 2))).toEqual(["b/"]);
    await kill(living);
    expect((await sweep()).length).toBe(2);
    expect(fixture.names()).toEqual(["a", "b"]);
  });

  test("without a record is found by a deep sweep only; nothing else of that kind of name goes", async () => {
    for (const name of ["x", "x/y"]) mkdirSync(join(fixture.root, name));
    for (const name of [".stowage-1", "x/.stowage-2-3", "x/y/.stowage-4"]) fixture.storedFile(name);
    for (const name of ["stowage-5", "x/.stowage5", "x/.stowage-6.txt", "x/.stowage-ä"]) fixture.storedFile(name);
    mkdirSync(join(fixture.root, ".stowage-directory"));
    fixture.storedFile(".stowage-directory/.stowage-7");
    fixture.storedFile("outside/.stowage-8");
    symlinkSync("../outside", join(fixture.root, "x/link"));
    symlinkSync("y", join(fixture.root, "x/.stowage-link"));
    expect(await sweep()).toEqual([]);
    expect(await sweep({ deep: true })).toEqual([".stowage-1", "outside/.stowage-8", "x/.stowage-2-3", "x/y/.stowage-4"]);
    expect(fixture.temporaryNames().sort()).toEqual(
      [".stowage-directory", ".stowage-directory/.stowage-7", "x/.stowage-6.txt", "x/.stowage-link", "x/.stowage-ä"].sort(),
    );
  });

  test("a record cannot make a sweep leave the root, follow links, or remove what is no temporary file", async () => {
    const outside = join(fixture.folder, "outside");
    mkdirSync(outside);
    writeFileSync(join(outside, ".stowage-1"), "");
    writeFileSync(join(fixture.folder, ".stowage-2"), "");
    fixture.storedFile("a/important");
    symlinkSync(outside, join(fixture.root, "link"));
    mkdirSync(join(fixture.root, INFLIGHT_DIRECTORY), { recursive: true });
    const record = join(fixture.root, INFLIGHT_DIRECTORY, "evil");
    writeFileSync(record, `${JSON.stringify({ stowage: 1, pid: 1, started: "0", root: "/", bootId: "b" })}\n`);
    for (const directory of ["..", "../outside", outside, "link", "a/../../outside", ".", "a", "a\0b", "", 5, null, { x: 1 }]) {
      appendFileSync(record, `${JSON.stringify({ directory })}\n`);
    }
    appendFileSync(record, '{"directory":"a');
    symlinkSync(join(outside, ".stowage-1"), join(fixture.root, INFLIGHT_DIRECTORY, "linked"));
    utimesSync(record, 0, 0);
    // What the link leads to cannot be swept, and that is said.
    await expect(sweep()).rejects.toMatchObject({ code: "PERMISSION_DENIED" });
    expect(existsSync(join(outside, ".stowage-1"))).toBe(true);
    expect(existsSync(join(fixture.folder, ".stowage-2"))).toBe(true);
    expect(fixture.read("a/important")).toBe("a/important");
  });

  test("a record of another machine is believed dead only after a silence", async () => {
    mkdirSync(join(fixture.root, INFLIGHT_DIRECTORY), { recursive: true });
    fixture.storedFile("a/.stowage-1");
    const record = join(fixture.root, INFLIGHT_DIRECTORY, "other");
    writeFileSync(
      record,
      `${JSON.stringify({ stowage: 1, pid: 1, started: "1", bootId: "elsewhere", pidNamespace: "x", root: "/data" })}\n{"directory":"a"}\n`,
    );
    expect(await sweep()).toEqual([]);
    const before = Date.now() / 1000 - 59;
    utimesSync(record, before, before);
    expect(await sweep()).toEqual([]);
    utimesSync(record, before - 5, before - 5);
    expect(await sweep()).toEqual(["a/.stowage-1"]);
    expect(existsSync(record)).toBe(false);
  });

  test("a record whose writer crashed in the middle of a line, or before the first, is swept", async () => {
    mkdirSync(join(fixture.root, INFLIGHT_DIRECTORY), { recursive: true });
    for (const [name, content] of [
      ["empty", ""],
      ["cut", '{"stowage":1,"pi'],
      ["half", `{"stowage":1,"pid":1,"root":"/"}\n{"directory":"a"}\n{"direc`],
    ]) {
      const record = join(fixture.root, INFLIGHT_DIRECTORY, name!);
      writeFileSync(record, content!);
      utimesSync(record, 0, 0);
    }
    fixture.storedFile("a/.stowage-1");
    expect(await sweep()).toEqual(["a/.stowage-1"]);
    expect(fixture.names()).toEqual(["a"]);
  });

  test("a finished file with an old time of its own is not taken for something old", async () => {
    // Between getting its source's time and taking its name.
    fixture.storedFile("a/.stowage-1");
    utimesSync(join(fixture.root, "a/.stowage-1"), 1, 1);
    expect(await sweep({ deep: true, olderThanMs: 5000 })).toEqual([]);
  });

  test("of downloads, beside their targets on this machine, goes too", async () => {
    fixture.storedFile("big", "");
    writeFileSync(join(fixture.root, "big"), Buffer.alloc(50_000_000));
    const source = `
      import { createPosixExecutor } from ${JSON.stringify(new URL("../src/lib/posix/posix-executor.ts", import.meta.url).href)};
      import { existsSync } from "node:fs";
      const executor = await createPosixExecutor(${JSON.stringify(fixture.volume())}, { mode: "inline" });
      const temporaryName = ".stowage-download1";
      const hooks = { signal: new AbortController().signal, progress() { process.kill(process.pid, "SIGKILL"); } };
      await executor.run({ verb: "download", file: { path: "big" }, localPath: ${JSON.stringify(join(fixture.local, "big"))}, partial: false, ifExists: "replace", durability: "process", checksum: "crc32", temporaryName }, hooks);
    `;
    const path = join(fixture.folder, "downloader.mjs");
    writeFileSync(path, source);
    const program = spawn(process.execPath, [path], { stdio: "ignore" });
    await new Promise((resolve) => program.once("exit", resolve));
    expect(readdirSync(fixture.local)).toEqual([".stowage-download1"]);
    // Those of other workspaces are theirs to sweep.
    const other = new ExecutorFixture();
    const otherExecutor = await other.executor({ mode: "inline" });
    expect(await collect(otherExecutor.sweep({ olderThanMs: 0, deep: true }, hooks()))).toEqual([]);
    await other.remove();
    expect(await sweep()).toEqual([join(fixture.local, ".stowage-download1")]);
    expect(readdirSync(fixture.local)).toEqual([]);
  });

  test.skipIf(!isRoot)("that may not be removed is said, and stays recorded", async () => {
    await kill(await startWriter("inline", "a/", "b/"));
    // Executors are opened before: they may read everything.
    const executor = await fixture.executor({ mode: "inline" });
    chmodSync(join(fixture.root, "a"), 0o500);
    for (const name of [".stowage", ".stowage/inflight"]) chmodSync(join(fixture.root, name), 0o777);
    chmodSync(join(fixture.root, "b"), 0o777);
    process.seteuid!(65534);
    const swept: string[] = [];
    try {
      const sweeping = async (): Promise<void> => {
        for await (const name of executor.sweep({ olderThanMs: 0, deep: false }, hooks())) swept.push(name);
      };
      await expect(sweeping()).rejects.toMatchObject({ code: "PERMISSION_DENIED" });
    } finally {
      process.seteuid!(0);
      chmodSync(join(fixture.root, "a"), 0o755);
    }
    expect(swept.map((name) => name.slice(0, 2))).toEqual(["b/"]);
    expect((await sweep()).map((name) => name.slice(0, 2))).toEqual(["a/"]);
  });

  test("an abort ends a sweep", async () => {
    fixture.storedFile("a/.stowage-1");
    const executor = await fixture.executor({ mode: "inline" });
    const reason = new Error("enough");
    await expect(collect(executor.sweep({ olderThanMs: 0, deep: true }, hooks({ signal: AbortSignal.abort(reason) })))).rejects.toBe(
      reason,
    );
  });
});

describe.skipIf(!isLinux)("the record of a session", () => {
  let fixture: ExecutorFixture;
  beforeEach(() => {
    fixture = new ExecutorFixture();
  });
  afterEach(() => fixture.remove());

  const recordsOf = (root: string): string[] => {
    const folder = join(root, INFLIGHT_DIRECTORY);
    return existsSync(folder) ? readdirSync(folder).map((name) => readFileSync(join(folder, name), "utf8")) : [];
  };

  test("names each directory once, before anything is there, and who writes", async () => {
    const executor = await fixture.executor({ mode: "inline" });
    const local = fixture.localFile("x");
    expect(recordsOf(fixture.root)).toEqual([]);
    for (const target of ["a/1", "a/2", "b/c/3", "4", "a/5"]) await executor.run(upload(local, target), hooks());
    const [record, ...others] = recordsOf(fixture.root);
    expect(others).toEqual([]);
    const lines = record!
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines[0]).toMatchObject({ stowage: 1, root: fixture.root, pid: process.pid, bootId: thisProcess().bootId });
    expect(lines.slice(1)).toEqual([{ directory: "a" }, { directory: "b/c" }, { directory: "" }]);
  });

  test("goes when the session is closed, with the folder that held it", async () => {
    const executor = await fixture.executor({ mode: "inline" });
    await executor.run(upload(fixture.localFile("x"), "a/1"), hooks());
    await executor.run(download("a/1", join(fixture.local, "back")), hooks());
    await executor.close();
    expect(fixture.names()).toEqual(["a", "a/1"]);
    const folder = localRecordsFolder()!;
    const notes = existsSync(folder) ? readdirSync(folder).map((name) => readFileSync(join(folder, name), "utf8")) : [];
    expect(notes.filter((note) => note.includes(fixture.root))).toEqual([]);
  });

  test("stays when something could not be cleaned up", async () => {
    const executor = await fixture.executor({ mode: "inline" });
    const records = collectRecords();
    records.note("a");
    records.keep();
    records.close();
    await executor.close();
    expect(recordsOf(fixture.root).length).toBe(1);
  });

  test("does not grow for ever: a new one follows, and the old one goes when nothing needs it", () => {
    const records = collectRecords();
    const end = records.begin();
    for (let index = 0; index < 10_000; index++) records.note(`d${index}`);
    expect(recordsOf(fixture.root).length).toBe(3);
    // The first operation may still need what it noted.
    records.begin()();
    expect(recordsOf(fixture.root).length).toBe(3);
    const other = records.begin();
    end();
    expect(recordsOf(fixture.root).length).toBe(1);
    other();
    const all = recordsOf(fixture.root).join("");
    expect(all).toContain('"d9999"');
    expect(all).not.toContain('"d0"');
    records.close();
    expect(fixture.names()).toEqual([]);
  });

  test("of sessions that begin and end at once do not get in each other's way", async () => {
    const executors = await Promise.all(Array.from({ length: 4 }, () => fixture.executor({ mode: "inline" })));
    const local = fixture.localFile("x");
    for (let round = 0; round < 30; round++) {
      await Promise.all(
        executors.map(async (_, index) => {
          const executor = await fixture.executor({ mode: "inline" });
          await executor.run(upload(local, `f${round}-${index}`), hooks());
          await executor.close();
        }),
      );
    }
    expect(fixture.names().filter((name) => name.startsWith(".stowage"))).toEqual([]);
  });

  test.skipIf(!isRoot)("is done without where it may not be written; the files are", async () => {
    mkdirSync(join(fixture.root, "mine"));
    chmodSync(join(fixture.root, "mine"), 0o777);
    const executor = await fixture.executor({ mode: "inline" });
    const local = fixture.localFile("x");
    chmodSync(fixture.folder, 0o755);
    process.seteuid!(65534);
    try {
      await executor.run(upload(local, "mine/file"), hooks());
    } finally {
      process.seteuid!(0);
    }
    expect(fixture.names()).toEqual(["mine", "mine/file"]);
  });

  test("is done without where a link or a file is in its place", async () => {
    const outside = join(fixture.folder, "outside");
    mkdirSync(outside);
    symlinkSync(outside, join(fixture.root, ".stowage"));
    const executor = await fixture.executor({ mode: "inline" });
    await executor.run(upload(fixture.localFile("x"), "file"), hooks());
    expect(readdirSync(outside)).toEqual([]);
    const other = new ExecutorFixture();
    other.storedFile(".stowage", "a file");
    const otherExecutor = await other.executor({ mode: "inline" });
    await otherExecutor.run(upload(other.localFile("x"), "file"), hooks());
    expect(other.read(".stowage")).toBe("a file");
    await other.remove();
  });

  test("is shown to be of a living session by a beat now and then, and is written again when it was swept away", () => {
    // A clock of our own: a real one would take twenty seconds.
    const beats: (() => void)[] = [];
    const original = globalThis.setInterval;
    globalThis.setInterval = ((beat: () => void) => {
      beats.push(beat);
      return { unref() {} };
    }) as unknown as typeof setInterval;
    const records = collectRecords();
    globalThis.setInterval = original;
    records.note("a");
    const [name] = readdirSync(join(fixture.root, INFLIGHT_DIRECTORY));
    const path = join(fixture.root, INFLIGHT_DIRECTORY, name!);
    utimesSync(path, 0, 0);
    for (const beat of beats) beat();
    expect(statSync(path).mtimeMs).toBeGreaterThan(Date.now() - 60_000);
    utimesSync(path, 0, 0);

    rmSync(path);
    for (const beat of beats) beat();
    expect(recordsOf(fixture.root).length).toBe(1);
    expect(recordsOf(fixture.root)[0]).toContain('{"directory":"a"}');
    records.close();
  });

  function collectRecords(): ReturnType<typeof createInflightRecords> {
    const root = openVolumeRoot(fixture.volume());
    const directories = new PinnedDirectories(root, { symlinks: "inside", directoryMode: 0o755, changeDirectory: false });
    return createInflightRecords(directories, undefined);
  }
});

describe.skipIf(!isLinux)("a process's identity", () => {
  test("says that it lives, and that another which had its number does not", async () => {
    expect(processState(thisProcess())).toBe("alive");
    expect(processState({ ...thisProcess(), started: "1" })).toBe("dead");
    expect(processState({ ...thisProcess(), bootId: "another" })).toBe("unknown");
    expect(processState({ ...thisProcess(), pidNamespace: "another" })).toBe("unknown");
    const program = spawn("sleep", ["100"]);
    await delay(50);
    const { pid } = program;
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8").split(" ");
    const identity = { ...thisProcess(), pid: pid!, started: stat[21] };
    expect(processState(identity)).toBe("alive");
    program.kill("SIGKILL");
    await new Promise((resolve) => program.once("exit", resolve));
    expect(stateOf(pid!)).toBeUndefined();
    expect(processState(identity)).toBe("dead");
  });
});
