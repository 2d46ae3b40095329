import { execFileSync, spawn } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { PosixOperations } from "../src/lib/posix/posix-operations.ts";
import {
  bytes,
  copy,
  download,
  file,
  hooks,
  isLinux,
  isRoot,
  move,
  openDescriptors,
  PosixFixture,
  remove,
  run,
  stat,
  upload,
  write,
} from "./support/posix-volume.ts";

const code = (expected: string) => expect.objectContaining({ code: expected });
const KIB = 1024;
const MIB = KIB * KIB;

const WAYS = [
  { name: "in a user's process", options: { changeDirectory: false } },
  { name: "in a child", options: { changeDirectory: true } },
];

describe.skipIf(!isLinux).each(WAYS)("what goes wrong, $name", ({ options }) => {
  let fixture: PosixFixture;
  let operations: PosixOperations;

  beforeEach(() => {
    fixture = new PosixFixture();
    operations = fixture.open({}, options);
  });
  afterEach(() => fixture.remove());

  test("sources that are no regular files are refused at once, and a FIFO is not waited for", async () => {
    execFileSync("mkfifo", [join(fixture.local, "fifo"), join(fixture.root, "fifo")]);
    mkdirSync(join(fixture.local, "directory"));
    mkdirSync(join(fixture.root, "directory"));
    const server = createServer().listen(join(fixture.root, "socket"));
    try {
      await new Promise((resolve) => server.once("listening", resolve));
      for (const localPath of [join(fixture.local, "fifo"), join(fixture.local, "directory"), join(fixture.root, "socket"), "/dev/null"]) {
        await expect(run(operations, upload(localPath, "target")), localPath).rejects.toEqual(code("NOT_A_FILE"));
      }
      const target = join(fixture.local, "target");
      for (const path of ["fifo", "directory", "socket"]) {
        await expect(run(operations, download(path, target)), path).rejects.toEqual(code("NOT_A_FILE"));
        await expect(run(operations, copy(path, "target")), path).rejects.toEqual(code("NOT_A_FILE"));
        await expect(run(operations, move(path, "target")), path).rejects.toEqual(code("NOT_A_FILE"));
        await expect(run(operations, remove(path)), path).rejects.toEqual(code("NOT_A_FILE"));
        expect(await run(operations, stat(path)), path).toBeUndefined();
        await expect(operations.openRead({ file: file(path) }, hooks())).rejects.toEqual(code("NOT_A_FILE"));
      }
      expect(fixture.names()).toEqual(["directory", "fifo", "socket"]);
    } finally {
      server.close();
    }
  });

  test("a local target that is a pipe or a device is left alone", async () => {
    execFileSync("mkfifo", [join(fixture.local, "fifo")]);
    fixture.storedFile("a");
    await expect(run(operations, download("a", join(fixture.local, "fifo")))).rejects.toEqual(code("NOT_A_FILE"));
    await expect(run(operations, download("a", "/dev/null"))).rejects.toEqual(code("NOT_A_FILE"));
    expect(statSync("/dev/null").isCharacterDevice()).toBe(true);
  });

  test.skipIf(!isRoot).each([100 * KIB, 3 * MIB])(
    "a full volume fails with NO_SPACE, keeps what was there and nothing else (%i bytes; needs root)",
    async (size) => {
      const mountPoint = join(fixture.folder, "small");
      fixture.mountTmpfs(mountPoint, "size=2m");
      const full = fixture.open({ rootPath: mountPoint }, options);
      await run(full, upload(fixture.localFile("old", "old"), "a/file"));
      writeFileSync(join(mountPoint, "filler"), bytes(2 * MIB - 64 * KIB));
      const localPath = fixture.localFile("source", bytes(size));
      for (const checksum of ["auto", "crc32"] as const) {
        await expect(run(full, upload(localPath, "a/file", { checksum }))).rejects.toEqual(code("NO_SPACE"));
        await expect(run(full, upload(localPath, "b/file", { checksum, ifExists: "fail" }))).rejects.toEqual(code("NO_SPACE"));
      }
      expect(readFileSync(join(mountPoint, "a/file"), "utf8")).toBe("old");
      expect(fixture.names(mountPoint).filter((name) => name.includes(".stowage") || name === "b/file")).toEqual([]);
      fixture.storedFile("big", bytes(size));
      await expect(run(operations, download("big", join(mountPoint, "local")))).rejects.toEqual(code("NO_SPACE"));
      expect(fixture.names(mountPoint).filter((name) => name.includes(".stowage") || name === "local")).toEqual([]);
      const writer = await full.openWrite(write("c"), hooks());
      await expect(writer.write(bytes(size))).rejects.toEqual(code("NO_SPACE"));
      await writer.abort(new Error("over"));
      expect(fixture.names(mountPoint).filter((name) => name.includes(".stowage") || name === "c")).toEqual([]);
      // Inodes run out, too.
      const few = join(fixture.folder, "few");
      fixture.mountTmpfs(few, "size=2m,nr_inodes=2");
      await expect(run(fixture.open({ rootPath: few }, options), upload(fixture.localFile("tiny"), "a/b"))).rejects.toEqual(
        code("NO_SPACE"),
      );
    },
  );

  test.skipIf(!isRoot)("a volume that is mounted read-only can be read and nothing else (needs root)", async () => {
    const mountPoint = join(fixture.folder, "readonly");
    fixture.storedFile("a", "content");
    mkdirSync(mountPoint);
    fixture.mount(mountPoint, ["--bind", fixture.root, mountPoint]);
    execFileSync("mount", ["-o", "remount,bind,ro", mountPoint]);
    const readonly = fixture.open({ rootPath: mountPoint }, options);
    const target = join(fixture.local, "target");
    await run(readonly, download("a", target));
    expect(readFileSync(target, "utf8")).toBe("content");
    for (const command of [
      upload(target, "b"),
      upload(target, "d/b"),
      upload(target, "b", { ifExists: "fail" }),
      copy("a", "b"),
      move("a", "b"),
      remove("a"),
    ]) {
      await expect(run(readonly, command), command.verb).rejects.toEqual(code("READ_ONLY"));
    }
    await expect(readonly.openWrite(write("b"), hooks())).rejects.toEqual(code("READ_ONLY"));
    expect(fixture.names()).toEqual(["a"]);
  });

  test.skipIf(!isRoot)("what may not be read or written is PERMISSION_DENIED (needs root, to become somebody else)", async () => {
    const localPath = fixture.localFile("secret", "secret");
    const open = fixture.localFile("open", "open");
    chmodSync(localPath, 0o600);
    fixture.storedFile("closed/file", "x");
    fixture.storedFile("file", "x");
    chmodSync(join(fixture.root, "closed"), 0o700);
    chmodSync(join(fixture.root, "file"), 0o600);
    chmodSync(fixture.folder, 0o755);
    chmodSync(fixture.local, 0o777);
    const target = join(fixture.local, "target");
    process.seteuid!(65534);
    try {
      for (const command of [
        upload(localPath, "a"),
        upload(open, "new"),
        upload(open, "closed/new"),
        upload(open, "new/directory"),
        download("file", target),
        download("closed/file", target),
        stat("closed/file"),
        remove("file"),
        remove("closed/file"),
        move("file", "other"),
        move("file", "other", { ifExists: "replace" }),
        copy("file", "other"),
      ]) {
        await expect(run(operations, command), `${command.verb} ${command.file.path}`).rejects.toEqual(code("PERMISSION_DENIED"));
      }
    } finally {
      process.seteuid!(0);
    }
    expect(fixture.names()).toEqual(["closed", "closed/file", "file"]);
    expect(fixture.temporaryNames()).toEqual([]);
  });

  test.each([2000, 40 * MIB])(
    "a source of %i bytes that grows, shrinks or is rewritten during the copy is an error, and nothing is left",
    async (size) => {
      // The moment between opening and reading is when the first temporary name is announced: after the source was opened and looked at.
      let interfere = (): void => {};
      const watched = fixture.open({}, { ...options, beforeTemporary: () => interfere() });
      const changes = [
        ["SOURCE_CHANGED", (path: string) => appendFileSync(path, "more")],
        ["SHORT_SOURCE", (path: string) => truncateSync(path, Math.floor(size / 2))],
        ["SHORT_SOURCE", (path: string) => truncateSync(path, 0)],
        [
          "SOURCE_CHANGED",
          (path: string) => {
            const fd = openSync(path, "r+");
            writeSync(fd, "changed");
            closeSync(fd);
            utimesSync(path, 1, 1);
          },
        ],
      ] as const;
      for (const [index, [expected, change]] of changes.entries()) {
        for (const checksum of ["auto", "crc32"] as const) {
          const path = fixture.localFile("source", bytes(size));
          interfere = () => change(path);
          await expect(
            run(watched, upload(path, `${index}-${checksum}/file`, { checksum })),
            `${expected} ${index} ${checksum}`,
          ).rejects.toEqual(code(expected));
        }
      }
      expect(fixture.names().filter((name) => name.includes("file") || name.includes(".stowage"))).toEqual([]);
    },
  );

  test("a large source that is cut while the kernel copies it is noticed, though the copy never ends by itself", async () => {
    const path = join(fixture.local, "large");
    writeFileSync(path, "x");
    for (const checksum of ["auto", "crc32"] as const) {
      truncateSync(path, 1024 * MIB);
      const uploading = run(operations, upload(path, "file", { checksum, temporaryName: ".stowage-cut" }));
      uploading.catch(() => {});
      while ((statSync(join(fixture.root, ".stowage-cut"), { throwIfNoEntry: false })?.size ?? 0) === 0) await delay(1);
      truncateSync(path, MIB);
      await expect(uploading).rejects.toEqual(code("SHORT_SOURCE"));
      expect(fixture.names()).toEqual([]);
      if (options.changeDirectory) {
        // The thread is lost, unless the source is given back what it lacks: which only this test does.
        expect(operations.abandonedCopies).toBe(1);
        truncateSync(path, 1024 * MIB);
        await expect.poll(() => operations.abandonedCopies, { timeout: 30_000 }).toBe(0);
      } else {
        expect(operations.abandonedCopies).toBe(0);
      }
    }
  }, 120_000);

  test("an abort during a large copy settles within a second, and leaves nothing", async () => {
    const path = join(fixture.local, "large");
    writeFileSync(path, "x");
    truncateSync(path, 1024 * MIB);
    fixture.storedFile("old", "old");
    const before = openDescriptors();
    for (const checksum of ["auto", "crc32", "sha256"] as const) {
      const controller = new AbortController();
      let moved = 0;
      const uploading = run(operations, upload(path, "old", { checksum }), {
        signal: controller.signal,
        progress: (count) => (moved += count),
      });
      uploading.catch(() => {});
      while (moved === 0) await delay(1);
      const aborted = performance.now();
      controller.abort(new Error("enough"));
      await expect(uploading).rejects.toThrow("enough");
      expect(performance.now() - aborted).toBeLessThan(1000);
      expect(fixture.names()).toEqual(["old"]);
      expect(fixture.read("old")).toBe("old");
      await expect.poll(() => operations.abandonedCopies, { timeout: 30_000 }).toBe(0);
    }
    expect(openDescriptors()).toBeLessThanOrEqual(before + 1);
  }, 120_000);

  test("a source that vanished is FILE_NOT_FOUND; one that is unlinked while it is copied is copied whole", async () => {
    const path = fixture.localFile("source", bytes(5 * MIB));
    const uploading = run(operations, upload(path, "file", { checksum: "crc32" }));
    unlinkSync(path);
    await uploading;
    expect(readFileSync(join(fixture.root, "file")).equals(bytes(5 * MIB))).toBe(true);
    await expect(run(operations, upload(path, "file"))).rejects.toEqual(code("FILE_NOT_FOUND"));
  });

  test("a temporary file that cannot be removed is named as a leftover", async () => {
    let interfere = (): void => {};
    const target = join(fixture.root, "a");
    const path = fixture.localFile("source", bytes(300 * KIB));
    const progress = (): void => interfere();
    interfere = () => {
      // Somebody puts a directory in the place of our temporary file.
      const name = fixture.names(target).find((candidate) => candidate.startsWith(".stowage-"))!;
      rmSync(join(target, name));
      mkdirSync(join(target, name, "x"), { recursive: true });
      interfere = () => {};
      appendFileSync(path, "more");
    };
    const command = upload(path, "a/file", { temporaryName: ".stowage-mine" });
    await expect(run(operations, command, { progress })).rejects.toMatchObject({ code: "SOURCE_CHANGED", leftovers: ["a/.stowage-mine"] });
    expect(existsSync(join(target, "file"))).toBe(false);
  });

  test("a directory that is removed or replaced between two calls is walked anew", async () => {
    const path = fixture.localFile("source", "content");
    await run(operations, upload(path, "a/b/first"));
    renameSync(join(fixture.root, "a"), join(fixture.root, "moved"));
    await run(operations, upload(path, "a/b/second"));
    expect(fixture.names().filter((name) => /first|second/.test(name))).toEqual(["a/b/second", "moved/b/first"]);
    expect(await run(operations, stat("a/b/first"))).toBeUndefined();
    rmSync(join(fixture.root, "a"), { recursive: true });
    expect(await run(operations, stat("a/b/second"))).toBeUndefined();
    expect(await run(operations, remove("a/b/second"))).toBe("missing");
    await run(operations, upload(path, "a/b/third"));
    expect(fixture.read("a/b/third")).toBe("content");
    // Another directory in its place, and of a name above it.
    renameSync(join(fixture.root, "a/b"), join(fixture.root, "a/was-b"));
    mkdirSync(join(fixture.root, "a/b"));
    await run(operations, upload(path, "a/b/replaced"));
    expect(fixture.names(join(fixture.root, "a"))).toEqual(["b", "b/replaced", "was-b", "was-b/third"]);
    renameSync(join(fixture.root, "a"), join(fixture.root, "was-a"));
    mkdirSync(join(fixture.root, "a/b"), { recursive: true });
    expect(await run(operations, stat("a/b/replaced"))).toBeUndefined();
    await run(operations, upload(path, "a/b/again"));
    expect(fixture.names(join(fixture.root, "a"))).toEqual(["b", "b/again"]);
    rmSync(join(fixture.root, "a"), { recursive: true });
    fixture.storedFile("a", "a file by now");
    await expect(run(operations, upload(path, "a/b/fourth"))).rejects.toEqual(code("NOT_A_FILE"));
  });

  test("a target directory that is removed during the call is made again, once", async () => {
    const path = fixture.localFile("source", "content");
    let interfere = (): void => {};
    const watched = fixture.open({}, { ...options, beforeTemporary: () => interfere() });
    let count = 0;
    let total = 0;
    interfere = () => {
      if (count++ === 0) rmdirSync(join(fixture.root, "a/b"));
    };
    await run(watched, upload(path, "a/b/file"), { progress: (moved) => (total += moved) });
    expect(fixture.read("a/b/file")).toBe("content");
    expect([count, total]).toEqual([2, 7]);

    interfere = () => rmdirSync(join(fixture.root, "c/d"));
    await expect(run(watched, upload(path, "c/d/file"))).rejects.toMatchObject({ code: "STALE_HANDLE", retryable: true });
  });

  test("a large copy into a directory that is removed meanwhile is made again, and what was reported is taken back", async () => {
    const path = fixture.localFile("source", bytes(3 * MIB));
    let isRemoved = false;
    let total = 0;
    const progress = (count: number): void => {
      total += count;
      if (isRemoved) return;
      isRemoved = true;
      rmSync(join(fixture.root, "a"), { recursive: true });
    };
    await run(operations, upload(path, "a/b/file"), { progress });
    expect(readFileSync(join(fixture.root, "a/b/file")).equals(bytes(3 * MIB))).toBe(true);
    expect(total).toBe(3 * MIB);
  });

  test("a root that is removed is an error that another attempt does not cure", async () => {
    const path = fixture.localFile("source");
    await run(operations, upload(path, "a/file"));
    rmSync(fixture.root, { recursive: true });
    mkdirSync(fixture.root);
    await expect(run(operations, upload(path, "a/file"))).rejects.toMatchObject({ code: "STALE_HANDLE", retryable: false });
    expect(fixture.names()).toEqual([]);
  });

  test("handles are bounded: of a thousand directories only some stay open, all work", async () => {
    const bounded = fixture.open({}, { ...options, maximumHandles: 16 });
    const path = fixture.localFile("source");
    const before = openDescriptors();
    for (let index = 0; index < 300; index++) await run(bounded, upload(path, `d${index % 10}/e${index}/f/file`));
    expect(bounded.directories.handles).toBeLessThanOrEqual(16);
    expect(openDescriptors() - before).toBeLessThanOrEqual(17);
    for (let index = 0; index < 300; index += 7) expect(await run(bounded, stat(`d${index % 10}/e${index}/f/file`))).toBeDefined();
    await bounded.close();
    expect(openDescriptors()).toBeLessThanOrEqual(before);
  });

  test("a directory in use is not let go for the bound's sake", async () => {
    const bounded = fixture.open({}, { ...options, maximumHandles: 3 });
    const source = fixture.localFile("source");
    const writer = await bounded.openWrite(write("held/deep/file"), hooks());
    await writer.write(Buffer.from("content"));
    for (let index = 0; index < 20; index++) await run(bounded, upload(source, `other${index}/file`));
    // What was let go has given its descriptor to somebody else by now.
    await writer.commit();
    expect(fixture.read("held/deep/file")).toBe("content");
    expect(fixture.names().filter((name) => name.endsWith("/deep/file"))).toEqual(["held/deep/file"]);
  });

  test("a path deeper than the bound of handles still works", async () => {
    const bounded = fixture.open({}, { ...options, maximumHandles: 2 });
    const path = Array.from({ length: 30 }, (_, index) => `d${index}`).join("/");
    await run(bounded, upload(fixture.localFile("source", "deep"), `${path}/file`));
    expect(fixture.read(`${path}/file`)).toBe("deep");
    expect(bounded.directories.handles).toBeLessThanOrEqual(2);
  });
});

describe.skipIf(!isLinux)("descriptors that run out", () => {
  test("are taken from idle directories, and else are an error that passes by itself", async () => {
    const script = `
      import { openSync } from "node:fs";
      import { openPosixOperations } from ${JSON.stringify(new URL("../src/lib/posix/posix-operations.ts", import.meta.url).href)};
      const [root, source] = process.argv.slice(2);
      const operations = openPosixOperations({ rootPath: root, symlinks: "inside", fileMode: 0o644, directoryMode: 0o755, fuseWrites: "refuse" },
        { changeDirectory: true, beforeTemporary: () => {} });
      const hooks = { signal: new AbortController().signal, progress: () => {} };
      const upload = (path, temporaryName) => operations.run({ verb: "upload", localPath: source, file: { path }, ifExists: "replace",
        durability: "process", checksum: "auto", temporaryName }, hooks);
      for (let index = 0; index < 100; index++) await upload("d" + index + "/file", ".stowage-" + index);
      const held = operations.directories.handles;
      const taken = [];
      try { for (;;) taken.push(openSync("/dev/null")); } catch {}
      let outcome;
      try { await upload("e/file", ".stowage-x"); outcome = "stored"; } catch (error) { outcome = error.code + error.retryable; }
      console.log(JSON.stringify({ held, left: operations.directories.handles, outcome }));
      process.exit();
    `;
    const fixture = new PosixFixture();
    try {
      const scriptPath = fixture.localFile("script.mts", script);
      const output = execFileSync(
        "bash",
        ["-c", `ulimit -n 160; exec "${process.execPath}" "${scriptPath}" "${fixture.root}" "${fixture.localFile("source")}"`],
        {
          encoding: "utf8",
        },
      );
      const { held, left, outcome } = JSON.parse(output);
      expect(held).toBe(100);
      // The source takes the last one: the directories give theirs up, so that there is one for the new directory, and more.
      expect([outcome, left]).toEqual(["UNAVAILABLEtrue", 100]);
    } finally {
      await fixture.remove();
    }
  });
});

test("a process that waits in a FIFO's place holds nothing up", async () => {
  const fixture = new PosixFixture();
  execFileSync("mkfifo", [join(fixture.local, "fifo")]);
  symlinkSync(join(fixture.local, "fifo"), join(fixture.root, "link"));
  const writer = spawn("sh", ["-c", `exec 3> '${join(fixture.local, "fifo")}'`]);
  try {
    const started = performance.now();
    await expect(run(fixture.open(), upload(join(fixture.local, "fifo"), "a"))).rejects.toEqual(code("NOT_A_FILE"));
    expect(performance.now() - started).toBeLessThan(1000);
  } finally {
    writer.kill("SIGKILL");
    await fixture.remove();
  }
});
