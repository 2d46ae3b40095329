import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { BatchResult } from "../src/lib/broker.ts";
import { digestOf } from "../src/lib/digest.ts";
import type { PosixCommand } from "../src/lib/posix/posix-commands.ts";
import type { PosixOperations } from "../src/lib/posix/posix-operations.ts";
import {
  bytes,
  copy,
  download,
  file,
  hooks,
  isLinux,
  openDescriptors,
  PosixFixture,
  remove,
  run,
  stat,
  upload,
} from "./support/posix-volume.ts";

const code = (expected: string) => expect.objectContaining({ code: expected });

const KIB = 1024;
const SIZES = [0, 1, 4096, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, KIB * KIB + 1];

const WAYS = [
  { name: "in a user's process", options: { changeDirectory: false } },
  { name: "in a child", options: { changeDirectory: true } },
  { name: "without /proc", options: { changeDirectory: false, containment: "checked" as const } },
].filter(({ options }) => isLinux || options.containment === "checked");

describe.each(WAYS)("files of a volume, $name", ({ options }) => {
  let fixture: PosixFixture;
  let operations: PosixOperations;
  const umask = process.umask();

  beforeEach(() => {
    process.umask(0o077);
    fixture = new PosixFixture();
    operations = fixture.open({}, options);
  });
  afterEach(async () => {
    await fixture.remove();
    process.umask(umask);
  });

  test.each(SIZES)("%i bytes come back as they were, with every kind of checksum", async (size) => {
    const content = bytes(size, size + 1);
    const localPath = fixture.localFile("source", content);
    for (const checksum of ["auto", "none", "crc32", "sha256"] as const) {
      const digest = checksum === "crc32" || checksum === "sha256" ? digestOf(content, checksum) : undefined;
      const stored = await run(operations, upload(localPath, `a/${checksum}`, { checksum }));
      expect(stored).toEqual({
        file: { path: `a/${checksum}`, size, ...(digest && { digest }) },
        method: "copy",
        bytes: size,
        verified: digest === undefined ? "length" : "digest",
        ...(digest && { digest }),
      });
      expect(readFileSync(join(fixture.root, `a/${checksum}`)).equals(content)).toBe(true);

      const target = join(fixture.local, `back-${checksum}`);
      const fetched = await run(operations, download(`a/${checksum}`, target, { checksum }));
      expect(fetched).toMatchObject({ method: "copy", bytes: size, verified: stored.verified });
      expect(fetched.digest).toEqual(digest);
      expect(readFileSync(target).equals(content)).toBe(true);

      const copied = await run(operations, copy(`a/${checksum}`, `b/${checksum}`, { checksum }));
      expect(copied).toMatchObject({ file: { path: `b/${checksum}` }, bytes: size, verified: stored.verified });
      expect(readFileSync(join(fixture.root, `b/${checksum}`)).equals(content)).toBe(true);
    }
    expect(fixture.temporaryNames()).toEqual([]);
  });

  test.each([100, 300 * KIB])("stored files of %i bytes have the configured modes, whatever the umask and the source", async (size) => {
    const localPath = fixture.localFile("source", bytes(size));
    chmodSync(localPath, 0o640);
    const wide = fixture.open({ fileMode: 0o664, directoryMode: 0o775 }, options);
    await run(operations, upload(localPath, "plain/deep/file"));
    await run(wide, upload(localPath, "wide/deep/file"));
    const mode = (path: string): string => (statSync(join(fixture.root, path)).mode & 0o7777).toString(8);
    expect([mode("plain"), mode("plain/deep"), mode("plain/deep/file")]).toEqual(["755", "755", "644"]);
    expect([mode("wide"), mode("wide/deep"), mode("wide/deep/file")]).toEqual(["775", "775", "664"]);
  });

  test.each([100, 300 * KIB])("a fetched file of %i bytes has the mode that the user's umask leaves", async (size) => {
    fixture.storedFile("a", bytes(size));
    const target = join(fixture.local, "target");
    await run(operations, download("a", target));
    expect((statSync(target).mode & 0o7777).toString(8)).toBe("600");
  });

  test("the source's time of modification is kept to within a microsecond, and to the millisecond exactly", async () => {
    const small = fixture.localFile("source");
    const large = fixture.localFile("large", bytes(300 * KIB));
    const target = join(fixture.local, "target");
    const known = [0, 1, 1_700_000_000.123, 1_700_000_000.1235, 1_699_999_999.999999, 2_147_483_648.5, 1_234_567_890.000001];
    const random = Array.from({ length: 150 }, () => Math.random() * 4e9);
    for (const seconds of [...known, ...random]) {
      for (const source of known.includes(seconds) ? [small, large] : [small]) {
        utimesSync(source, 5, seconds);
        const before = statSync(source, { bigint: true });
        await run(operations, upload(source, "kept"));
        const stored = statSync(join(fixture.root, "kept"), { bigint: true });
        expect(Math.abs(Number(stored.mtimeNs - before.mtimeNs))).toBeLessThanOrEqual(1000);
        expect((await run(operations, stat("kept")))?.modified).toEqual(statSync(source).mtime);
        await run(operations, download("kept", target));
        expect(statSync(target).mtime).toEqual(statSync(source).mtime);
      }
    }
  });

  test("times before 1970 are kept to the millisecond", async () => {
    const localPath = fixture.localFile("source");
    utimesSync(localPath, new Date(-1500), new Date(-1501));
    await run(operations, upload(localPath, "old"));
    expect((await run(operations, stat("old")))?.modified).toEqual(new Date(-1501));
  });

  test("what was promised of the content is checked before anything becomes visible", async () => {
    for (const size of [1000, 300 * KIB]) {
      const content = bytes(size);
      const localPath = fixture.localFile("source", content);
      fixture.storedFile("stored", content);
      const right = digestOf(content, "sha256");
      const wrong = digestOf(bytes(size, 2), "sha256");
      const target = join(fixture.local, "target");
      const cases = [
        [{ size: size + 1 }, "SHORT_SOURCE"],
        [{ size: size - 1 }, "SOURCE_CHANGED"],
        [{ digest: wrong }, "CHECKSUM_MISMATCH"],
        [{ size, digest: wrong }, "CHECKSUM_MISMATCH"],
      ] as const;
      for (const [facts, expected] of cases) {
        await expect(run(operations, upload(localPath, file("new", facts)))).rejects.toEqual(code(expected));
        await expect(run(operations, upload(localPath, file("new", facts), { checksum: "crc32" }))).rejects.toEqual(code(expected));
        await expect(run(operations, download(file("stored", facts), target))).rejects.toEqual(code(expected));
        await expect(run(operations, copy(file("stored", facts), "new"))).rejects.toEqual(code(expected));
      }
      expect(existsSync(join(fixture.root, "new"))).toBe(false);
      expect(existsSync(target)).toBe(false);
      expect(fixture.temporaryNames()).toEqual([]);
      // A promise that holds is a verification, whatever else was asked for.
      expect(await run(operations, upload(localPath, file("new", { size, digest: right }), { checksum: "none" }))).toMatchObject({
        verified: "digest",
        digest: right,
      });
      expect(await run(operations, upload(localPath, file("new", { digest: right }), { checksum: "crc32" }))).toMatchObject({
        verified: "digest",
        digest: digestOf(content, "crc32"),
      });
      await run(operations, remove("new"));
    }
  });

  test("uploading replaces a file, and a link instead of what it points to", async () => {
    const outside = join(fixture.folder, "outside");
    writeFileSync(outside, "untouched");
    symlinkSync(outside, join(fixture.root, "link"));
    fixture.storedFile("file", "old");
    const localPath = fixture.localFile("source", "new");
    await run(operations, upload(localPath, "file"));
    await run(operations, upload(localPath, "link"));
    expect(fixture.read("file")).toBe("new");
    expect(fixture.read("link")).toBe("new");
    expect(lstatSync(join(fixture.root, "link")).isSymbolicLink()).toBe(false);
    expect(readFileSync(outside, "utf8")).toBe("untouched");
  });

  test.each(["fail", "skip"] as const)("with %s an existing file stays, and the error says so", async (ifExists) => {
    fixture.storedFile("file", "old");
    mkdirSync(join(fixture.root, "directory"));
    symlinkSync("nowhere", join(fixture.root, "link"));
    for (const content of ["new", bytes(300 * KIB)]) {
      const localPath = fixture.localFile("source", content);
      await expect(run(operations, upload(localPath, "file", { ifExists }))).rejects.toEqual(code("FILE_EXISTS"));
      await expect(run(operations, upload(localPath, "link", { ifExists }))).rejects.toEqual(code("FILE_EXISTS"));
      await expect(run(operations, upload(localPath, "directory", { ifExists }))).rejects.toEqual(code("NOT_A_FILE"));
      await expect(run(operations, copy("file", "file", { ifExists }))).rejects.toEqual(code("FILE_EXISTS"));
      const target = fixture.localFile("target", "mine");
      await expect(run(operations, download("file", target, { ifExists }))).rejects.toEqual(code("FILE_EXISTS"));
      expect(readFileSync(target, "utf8")).toBe("mine");
      await run(operations, upload(localPath, `fresh-${content.length}`, { ifExists }));
      expect(statSync(join(fixture.root, `fresh-${content.length}`)).nlink).toBe(1);
    }
    expect(fixture.read("file")).toBe("old");
    expect(readlinkSync(join(fixture.root, "link"))).toBe("nowhere");
    expect(fixture.temporaryNames()).toEqual([]);
  });

  test("a directory is never replaced, a file never becomes one", async () => {
    mkdirSync(join(fixture.root, "directory"));
    mkdirSync(join(fixture.root, "full/of"), { recursive: true });
    fixture.storedFile("file", "x");
    mkdirSync(join(fixture.local, "directory"));
    for (const size of [10, 300 * KIB]) {
      const localPath = fixture.localFile("source", bytes(size));
      await expect(run(operations, upload(localPath, "directory"))).rejects.toEqual(code("NOT_A_FILE"));
      await expect(run(operations, upload(localPath, "full"))).rejects.toEqual(code("NOT_A_FILE"));
      await expect(run(operations, upload(localPath, "file/below"))).rejects.toEqual(code("NOT_A_FILE"));
      await expect(run(operations, upload(localPath, "file/below/deep"))).rejects.toEqual(code("NOT_A_FILE"));
      fixture.storedFile("stored", bytes(size));
      await expect(run(operations, download("stored", join(fixture.local, "directory")))).rejects.toEqual(code("NOT_A_FILE"));
    }
    expect(fixture.temporaryNames()).toEqual([]);
  });

  test("deleting removes the file and nothing else", async () => {
    fixture.storedFile("a/b/file");
    fixture.storedFile("target");
    symlinkSync("target", join(fixture.root, "link"));
    symlinkSync("a", join(fixture.root, "linked"));
    expect(await run(operations, remove("a/b/file"))).toBe("deleted");
    expect(existsSync(join(fixture.root, "a/b"))).toBe(true);
    expect(await run(operations, remove("a/b/file"))).toBe("missing");
    expect(await run(operations, remove("no/such/directory"))).toBe("missing");
    expect(await run(operations, remove("target/below"))).toBe("missing");
    await expect(run(operations, remove("a"))).rejects.toEqual(code("NOT_A_FILE"));
    await expect(run(operations, remove("link"))).rejects.toEqual(code("NOT_A_FILE"));
    await expect(run(operations, remove("linked/b"))).rejects.toEqual(code("PERMISSION_DENIED"));
    expect(fixture.names()).toEqual(["a", "a/b", "link", "linked", "target"]);
  });

  test("stat tells size and time of a file, and nothing of what is none", async () => {
    fixture.storedFile("a/file", "12345");
    utimesSync(join(fixture.root, "a/file"), 1, 1_700_000_000.5);
    symlinkSync("a/file", join(fixture.root, "link"));
    symlinkSync("nowhere", join(fixture.root, "dangling"));
    symlinkSync("a", join(fixture.root, "directory"));
    const details = { size: 5, modified: new Date(1_700_000_000_500) };
    expect(await run(operations, stat("a/file"))).toEqual({ file: { path: "a/file", size: 5 }, ...details });
    expect(await run(operations, stat("link"))).toEqual({ file: { path: "link", size: 5 }, ...details });
    expect(await run(operations, stat("directory/file"))).toEqual({ file: { path: "directory/file", size: 5 }, ...details });
    for (const path of ["a", "missing", "a/missing", "no/such", "a/file/below", "dangling", "directory", "dangling/below"]) {
      expect(await run(operations, stat(path)), path).toBeUndefined();
    }
  });

  test("what is not there cannot be fetched or copied, and the message tells the sides apart", async () => {
    const target = join(fixture.local, "target");
    for (const path of ["missing", "no/such/file"]) {
      await expect(run(operations, download(path, target))).rejects.toMatchObject({
        code: "FILE_NOT_FOUND",
        file: path,
        message: expect.stringContaining("in this workspace"),
      });
      await expect(run(operations, copy(path, "b"))).rejects.toEqual(code("FILE_NOT_FOUND"));
    }
    await expect(run(operations, upload(join(fixture.local, "missing"), "a"))).rejects.toMatchObject({
      code: "FILE_NOT_FOUND",
      file: undefined,
      message: expect.stringContaining("local"),
    });
    fixture.storedFile("a");
    await expect(run(operations, download("a", join(fixture.local, "no/such/target")))).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
      message: expect.stringContaining("make it first"),
    });
    await expect(run(operations, download("a", "relative"))).rejects.toEqual(code("INVALID_ARGUMENT"));
    await expect(run(operations, upload("relative", "b"))).rejects.toEqual(code("INVALID_ARGUMENT"));
    await expect(run(operations, download("a", `${fixture.local}/`))).rejects.toEqual(code("INVALID_ARGUMENT"));
    mkdirSync(join(fixture.root, "directory"));
    await expect(run(operations, download("directory", target))).rejects.toEqual(code("NOT_A_FILE"));
  });

  test("no message names a path under /proc", async () => {
    fixture.storedFile("file");
    const localPath = fixture.localFile("source");
    const commands: PosixCommand[] = [
      upload(localPath, `${"long".repeat(100)}`),
      upload(localPath, `${"long".repeat(100)}/x`),
      download("long".repeat(100), join(fixture.local, "t")),
      stat(`${"long".repeat(100)}/x`),
      remove("long".repeat(100)),
    ];
    for (const command of commands) {
      const error = await run(operations, command).then(
        () => undefined,
        (thrown: Error) => thrown,
      );
      if (command.verb === "stat") continue;
      expect(error, command.verb).toMatchObject({ code: "INVALID_PATH" });
      expect(error?.message).not.toContain("/proc");
    }
  });

  test("partial downloads are links to the file itself, not to links on the way", async () => {
    fixture.storedFile("real/file", "content");
    symlinkSync("real", join(fixture.root, "alias"));
    symlinkSync("real/file", join(fixture.root, "leaf"));
    for (const path of ["real/file", "alias/file", "leaf"]) {
      const target = join(fixture.local, path.replace("/", "-"));
      const details = await run(operations, download(path, target, { partial: true }));
      expect(details).toMatchObject({ method: "link", bytes: 7, verified: "length", file: { path, size: 7 } });
      expect(readlinkSync(target)).toBe(join(fixture.root, "real/file"));
    }
    const target = join(fixture.local, "leaf");
    await run(operations, download("real/file", target, { partial: true }));
    await expect(run(operations, download("real/file", target, { partial: true, ifExists: "fail" }))).rejects.toEqual(code("FILE_EXISTS"));
    await run(operations, download("real/file", join(fixture.local, "fresh"), { partial: true, ifExists: "fail" }));
    expect(readFileSync(join(fixture.local, "fresh"), "utf8")).toBe("content");
    await expect(run(operations, download("missing", target, { partial: true }))).rejects.toEqual(code("FILE_NOT_FOUND"));
    await expect(run(operations, download(file("real/file", { size: 8 }), target, { partial: true }))).rejects.toEqual(
      code("SHORT_SOURCE"),
    );
    expect(await run(operations, download("real/file", target, { partial: true, checksum: "sha256" }))).toMatchObject({
      method: "link",
      verified: "digest",
      digest: digestOf(Buffer.from("content"), "sha256"),
    });
    await expect(
      run(
        operations,
        download(file("real/file", { digest: digestOf(Buffer.from("other"), "sha256") }), target, { partial: true, checksum: "sha256" }),
      ),
    ).rejects.toEqual(code("CHECKSUM_MISMATCH"));
    // Full downloads replace a link that an earlier one has made, and do not write through it.
    await run(operations, download("real/file", target));
    expect(lstatSync(target).isSymbolicLink()).toBe(false);
    expect(fixture.read("real/file")).toBe("content");
    expect(fixture.temporaryNames()).toEqual([]);
  });

  test("a batch settles every command once, grouped by directory, whatever fails", async () => {
    const localPath = fixture.localFile("source", "content");
    const large = fixture.localFile("large", bytes(300 * KIB));
    const commands = Array.from({ length: 60 }, (_, index) =>
      upload(index % 7 === 3 ? join(fixture.local, "missing") : index % 11 === 5 ? large : localPath, `d${index % 3}/file${index}`),
    );
    const results: BatchResult<unknown>[] = [];
    const moved = new Map<number, number>();
    const progress = (count: number, index?: number): void => {
      moved.set(index!, (moved.get(index!) ?? 0) + count);
    };
    await operations.runBatch(commands, hooks({ progress }), (result) => results.push(result));
    expect(results.map(({ index }) => index).sort((a, b) => a - b)).toEqual(commands.map((_, index) => index));
    const directories = results.map(({ index }) => index % 3);
    expect(directories).toEqual([...directories].sort());
    for (const result of results) {
      const { localPath: source, file: target } = commands[result.index]!;
      expect(result.ok, String(result.index)).toBe(source !== join(fixture.local, "missing"));
      if (!result.ok) continue;
      expect(readFileSync(join(fixture.root, target.path)).equals(readFileSync(source))).toBe(true);
      expect(moved.get(result.index)).toBe(statSync(source).size);
    }
    expect(fixture.temporaryNames()).toEqual([]);
  });

  test("a batch of all verbs", async () => {
    fixture.storedFile("a/1", "one");
    fixture.storedFile("a/2", "two");
    const results: unknown[] = [];
    await operations.runBatch<PosixCommand>(
      [remove("a/1"), stat("a/2"), copy("a/2", "b/3"), download("a/2", join(fixture.local, "two")), remove("a/none")],
      hooks(),
      (result) => {
        results[result.index] = result.ok ? result.value : result.error;
      },
    );
    expect(results[0]).toBe("deleted");
    expect(results[1]).toMatchObject({ size: 3 });
    expect(results[2]).toMatchObject({ file: { path: "b/3" } });
    expect(results[3]).toMatchObject({ bytes: 3 });
    expect(results[4]).toBe("missing");
  });

  test("after an abort nothing of a batch is begun", async () => {
    const localPath = fixture.localFile("source");
    const controller = new AbortController();
    const results: BatchResult<unknown>[] = [];
    await operations.runBatch(
      Array.from({ length: 10 }, (_, index) => upload(localPath, `file${index}`)),
      hooks({ signal: controller.signal }),
      (result) => {
        results.push(result);
        if (results.length === 3) controller.abort(new Error("enough"));
      },
    );
    expect(results.map(({ ok }) => ok)).toEqual([true, true, true, ...Array(7).fill(false)]);
    expect(results[9]).toMatchObject({ error: { message: "enough" } });
    expect(fixture.names()).toHaveLength(3);
  });

  test("a batch lets the event loop turn whenever 8 ms have passed", async () => {
    const localPath = fixture.localFile("source");
    // A clock by which every look at it takes a millisecond: on a busy machine the real one proves nothing.
    let clock = 0;
    const now = vi.spyOn(performance, "now").mockImplementation(() => clock++);
    let turns = 0;
    let isCounting = true;
    const count = (): void => {
      turns++;
      if (isCounting) setImmediate(count);
    };
    setImmediate(count);
    const filesInTurn = new Map<number, number>();
    const commands = Array.from({ length: 300 }, (_, index) => upload(localPath, `file${index}`));
    try {
      await operations.runBatch(commands, hooks(), () => filesInTurn.set(turns, (filesInTurn.get(turns) ?? 0) + 1));
    } finally {
      isCounting = false;
      now.mockRestore();
    }
    expect(Math.max(...filesInTurn.values())).toBeLessThanOrEqual(12);
    expect(filesInTurn.size).toBeGreaterThan(20);
  });

  test("every directory is told of before a temporary name is made there, once", async () => {
    const localPath = fixture.localFile("source");
    await run(operations, upload(localPath, "a/b/one"));
    await run(operations, upload(localPath, "a/b/two"));
    await run(operations, upload(localPath, "three"));
    await run(operations, stat("a/b/one"));
    await run(operations, remove("a/b/one"));
    expect(fixture.announced).toEqual(["a/b", ""]);
  });

  test("what fails to be told of fails the command, and nothing is made", async () => {
    const deaf = fixture.open(
      {},
      {
        ...options,
        beforeTemporary: () => {
          throw new Error("no record");
        },
      },
    );
    await expect(run(deaf, upload(fixture.localFile("source"), "file"))).rejects.toThrow("no record");
    expect(fixture.names()).toEqual([]);
  });

  test("temporary names that a killed process has left are removed by their command", async () => {
    fixture.storedFile("a/.stowage-left");
    fixture.localFile(".stowage-left");
    const temporaryName = ".stowage-left";
    expect(operations.removeTemporary(upload("/x", "a/file", { temporaryName }))).toEqual([]);
    expect(operations.removeTemporary(copy("b", "a/file", { temporaryName }))).toEqual([]);
    expect(operations.removeTemporary(download("a/x", join(fixture.local, "x"), { temporaryName }))).toEqual([]);
    expect(operations.removeTemporary(upload("/x", "missing/file", { temporaryName }))).toEqual([]);
    expect(operations.removeTemporary(stat("a"))).toEqual([]);
    expect(fixture.temporaryNames()).toEqual([]);
    mkdirSync(join(fixture.root, "a/.stowage-left"));
    expect(operations.removeTemporary(upload("/x", "a/file", { temporaryName }))).toEqual(["a/.stowage-left"]);
  });

  test("a temporary name that is taken is no target that exists", async () => {
    fixture.storedFile("a/.stowage-taken");
    const command = upload(fixture.localFile("source"), "a/file", { temporaryName: ".stowage-taken", ifExists: "skip" });
    await expect(run(operations, command)).rejects.toMatchObject({ code: "UNAVAILABLE", retryable: true });
  });

  test.skipIf(!isLinux)("descriptors go back to what they were", async () => {
    const localPath = fixture.localFile("source", bytes(300 * KIB));
    await run(operations, upload(localPath, "warm/file"));
    const held = operations.directories.handles;
    const before = openDescriptors();
    for (let index = 0; index < 20; index++) {
      await run(operations, upload(localPath, "warm/file"));
      await run(operations, download("warm/file", join(fixture.local, "target"), { checksum: "crc32" }));
      await run(operations, download("warm/missing", join(fixture.local, "target"))).catch(() => {});
      await run(operations, upload(localPath, "warm/file", { ifExists: "fail" })).catch(() => {});
      await run(operations, upload(localPath, file("warm/file", { digest: digestOf(Buffer.from("x"), "crc32") }))).catch(() => {});
      await run(operations, stat("warm/file"));
    }
    expect(operations.directories.handles).toBe(held);
    expect(openDescriptors()).toBe(before);
    expect(operations.abandonedCopies).toBe(0);
  });
});
