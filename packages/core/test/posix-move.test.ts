import { execFileSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { haveCommand } from "../../../test/support/debian-packages.ts";
import { digestOf } from "../src/lib/digest.ts";
import type { PosixOperations } from "../src/lib/posix/posix-operations.ts";
import { bytes, file, isLinux, isRoot, move, openDescriptors, PosixFixture, run } from "./support/posix-volume.ts";

const code = (expected: string) => expect.objectContaining({ code: expected });
const KIB = 1024;

const WAYS = [
  { name: "in a user's process", options: { changeDirectory: false } },
  { name: "in a child", options: { changeDirectory: true } },
  { name: "without /proc", options: { changeDirectory: false, containment: "checked" as const } },
].filter(({ options }) => isLinux || options.containment === "checked");

describe.each(WAYS)("moving, $name", ({ options }) => {
  let fixture: PosixFixture;
  let operations: PosixOperations;

  beforeEach(() => {
    fixture = new PosixFixture();
    operations = fixture.open({}, options);
  });
  afterEach(() => fixture.remove());

  test.each(["replace", "fail", "skip"] as const)("with %s renames to a path that is free, and makes directories", async (ifExists) => {
    const path = fixture.storedFile("a/file", "content");
    utimesSync(path, 1, 1000.5);
    const { ino } = statSync(path);
    const details = await run(operations, move("a/file", "b/c/file", { ifExists }));
    expect(details).toEqual({ file: { path: "b/c/file", size: 7 }, method: "rename", bytes: 7, verified: "length" });
    expect(fixture.names()).toEqual(["a", "b", "b/c", "b/c/file"]);
    const moved = statSync(join(fixture.root, "b/c/file"));
    expect([moved.ino, moved.nlink, moved.mtimeMs]).toEqual([ino, 1, 1_000_500]);
  });

  test("onto an existing file fails, unless it is to be replaced", async () => {
    fixture.storedFile("a", "new");
    fixture.storedFile("b", "old");
    for (const ifExists of ["fail", "skip"] as const) {
      await expect(run(operations, move("a", "b", { ifExists }))).rejects.toEqual(code("FILE_EXISTS"));
    }
    expect([fixture.read("a"), fixture.read("b")]).toEqual(["new", "old"]);
    await run(operations, move("a", "b", { ifExists: "replace" }));
    expect(fixture.names()).toEqual(["b"]);
    expect(fixture.read("b")).toBe("new");
  });

  test("neither moves nor replaces what is no file", async () => {
    fixture.storedFile("a", "content");
    mkdirSync(join(fixture.root, "directory/full"), { recursive: true });
    symlinkSync("a", join(fixture.root, "link"));
    for (const ifExists of ["fail", "replace"] as const) {
      for (const source of ["directory", "link"])
        await expect(run(operations, move(source, "x", { ifExists }))).rejects.toEqual(code("NOT_A_FILE"));
      await expect(run(operations, move("a", "directory", { ifExists }))).rejects.toEqual(code("NOT_A_FILE"));
      await expect(run(operations, move("a", "a/below", { ifExists }))).rejects.toEqual(code("NOT_A_FILE"));
      for (const source of ["missing", "no/such/file", "a/below"]) {
        await expect(run(operations, move(source, "x", { ifExists }))).rejects.toEqual(code("FILE_NOT_FOUND"));
      }
    }
    expect(fixture.names()).toEqual(["a", "directory", "directory/full", "link"]);
    // A link that is the target is replaced, not followed.
    fixture.storedFile("b", "other");
    await run(operations, move("b", "link", { ifExists: "replace" }));
    expect([fixture.read("a"), fixture.read("link")]).toEqual(["content", "other"]);
  });

  test.each(["replace", "fail"] as const)(
    "with %s of two links of one file lets the source go: an earlier attempt was cut short between link and unlink",
    async (ifExists) => {
      fixture.storedFile("a/one", "content");
      mkdirSync(join(fixture.root, "b"));
      linkSync(join(fixture.root, "a/one"), join(fixture.root, "b/two"));
      linkSync(join(fixture.root, "a/one"), join(fixture.root, "a/three"));
      expect(await run(operations, move("a/one", "b/two", { ifExists }))).toMatchObject({ method: "rename" });
      expect(fixture.names()).toEqual(["a", "a/three", "b", "b/two"]);
      // In one directory, and with names that only differ in case.
      linkSync(join(fixture.root, "a/three"), join(fixture.root, "a/THREE"));
      await run(operations, move("a/three", "a/THREE", { ifExists }));
      expect(fixture.names()).toEqual(["a", "a/THREE", "b", "b/two"]);
      expect(fixture.read("a/THREE")).toBe("content");
    },
  );

  test("checks the size that was promised, and the digest when one is asked for by name", async () => {
    fixture.storedFile("a", "content");
    const right = digestOf(Buffer.from("content"), "sha256");
    const wrong = digestOf(Buffer.from("other"), "sha256");
    await expect(run(operations, move(file("a", { size: 6 }), "b"))).rejects.toEqual(code("SOURCE_CHANGED"));
    await expect(run(operations, move(file("a", { size: 8 }), "b"))).rejects.toEqual(code("SHORT_SOURCE"));
    await expect(run(operations, move(file("a", { digest: wrong }), "b", { checksum: "sha256" }))).rejects.toEqual(
      code("CHECKSUM_MISMATCH"),
    );
    expect(fixture.names()).toEqual(["a"]);
    expect(await run(operations, move(file("a", { size: 7, digest: right }), "b", { checksum: "sha256" }))).toMatchObject({
      method: "rename",
      verified: "digest",
      digest: right,
    });
  });

  test("with durability power works as well", async () => {
    fixture.storedFile("a/file", "content");
    await run(operations, move("a/file", "b/c/file", { durability: "power" }));
    await run(operations, move("b/c/file", "d/file", { durability: "power", ifExists: "replace" }));
    expect(fixture.names()).toEqual(["a", "b", "b/c", "d", "d/file"]);
  });
});

describe.skipIf(!isLinux || !isRoot).each(WAYS)(
  "moving to another file system inside the volume, $name (needs root, to mount)",
  ({ options }) => {
    let fixture: PosixFixture;
    let operations: PosixOperations;

    beforeEach(() => {
      fixture = new PosixFixture();
      fixture.mountTmpfs(join(fixture.root, "other"), "size=4m");
      operations = fixture.open({}, options);
    });
    afterEach(() => fixture.remove());

    test.each([0, 100, 300 * KIB, 1024 * KIB + 1])("%i bytes are copied, proven by digest, and only then removed", async (size) => {
      const content = bytes(size);
      for (const [index, ifExists] of (["replace", "fail", "skip"] as const).entries()) {
        const path = fixture.storedFile(`a/file${index}`, content);
        utimesSync(path, 1, 1000.5);
        const details = await run(operations, move(`a/file${index}`, `other/b/file${index}`, { ifExists }));
        expect(details).toEqual({
          file: { path: `other/b/file${index}`, size, digest: digestOf(content, "crc32") },
          method: "copy",
          bytes: size,
          digest: digestOf(content, "crc32"),
          verified: "digest",
        });
        expect(existsSync(path)).toBe(false);
        const moved = join(fixture.root, `other/b/file${index}`);
        expect(readFileSync(moved).equals(content)).toBe(true);
        expect([statSync(moved).mode & 0o777, statSync(moved).mtimeMs]).toEqual([0o644, expect.closeTo(1_000_500, 2)]);
        // And back again.
        await run(operations, move(`other/b/file${index}`, `back/file${index}`, { ifExists, checksum: "sha256" }));
        expect(readFileSync(join(fixture.root, `back/file${index}`)).equals(content)).toBe(true);
      }
      expect(fixture.temporaryNames()).toEqual([]);
    });

    test("replaces or refuses an existing file", async () => {
      fixture.storedFile("a", "new");
      fixture.storedFile("other/b", "old");
      await expect(run(operations, move("a", "other/b"))).rejects.toEqual(code("FILE_EXISTS"));
      expect([fixture.read("a"), fixture.read("other/b")]).toEqual(["new", "old"]);
      await run(operations, move("a", "other/b", { ifExists: "replace" }));
      expect(fixture.names()).toEqual(["other", "other/b"]);
      expect(fixture.read("other/b")).toBe("new");
    });

    test("keeps the source when there is no space for the copy, and when it is not what was promised", async () => {
      for (const size of [200 * KIB, 5 * 1024 * KIB]) {
        fixture.storedFile("other/filler", bytes(4 * 1024 * KIB - 100 * KIB));
        const path = fixture.storedFile("a", bytes(size));
        await expect(run(operations, move("a", "other/a"))).rejects.toEqual(code("NO_SPACE"));
        await run(operations, move("other/filler", "filler", { ifExists: "replace" }));
        await expect(run(operations, move(file("a", { digest: digestOf(Buffer.from("x"), "md5") }), "other/a"))).rejects.toEqual(
          code(size > 4 * 1024 * KIB ? "NO_SPACE" : "CHECKSUM_MISMATCH"),
        );
        expect(readFileSync(path).equals(bytes(size))).toBe(true);
        expect(fixture.names()).not.toContain("other/a");
        expect(fixture.temporaryNames()).toEqual([]);
      }
    });

    test("ends what an earlier attempt could not: a copy of the same size, time and content is taken for its own", async () => {
      for (const size of [100, 300 * KIB]) {
        const path = fixture.storedFile("a", bytes(size));
        utimesSync(path, 1, 1_700_000_000.123456);
        fixture.storedFile("other/a", bytes(size));
        // The same content at another time is somebody else's file.
        await expect(run(operations, move("a", "other/a"))).rejects.toEqual(code("FILE_EXISTS"));
        utimesSync(join(fixture.root, "other/a"), 1, 1_700_000_000.123456);
        expect(await run(operations, move("a", "other/a"))).toMatchObject({
          method: "copy",
          verified: "digest",
          digest: digestOf(bytes(size), "crc32"),
        });
        expect(fixture.names()).toEqual(["other", "other/a"]);
        // Other content of the same size and time is, too.
        fixture.storedFile("a", bytes(size, 2));
        utimesSync(path, 1, 1_700_000_000.123456);
        await expect(run(operations, move("a", "other/a"))).rejects.toEqual(code("FILE_EXISTS"));
        expect(fixture.names()).toEqual(["a", "other", "other/a"]);
        execFileSync("rm", [path, join(fixture.root, "other/a")]);
      }
    });

    test("within one file system an equal file is just in the way", async () => {
      for (const name of ["a", "b"]) utimesSync(fixture.storedFile(name, "same"), 1, 1);
      await expect(run(operations, move("a", "b"))).rejects.toEqual(code("FILE_EXISTS"));
      expect(fixture.names()).toEqual(["a", "b", "other"]);
      expect(lstatSync(join(fixture.root, "a")).nlink).toBe(1);
    });

    test("a source that cannot be removed is an error that says that both exist, and moving again ends it", async () => {
      fixture.storedFile("closed/file", "content");
      chmodSync(fixture.folder, 0o755);
      chmodSync(join(fixture.root, "other"), 0o777);
      chmodSync(join(fixture.root, "closed"), 0o755);
      for (const ifExists of ["fail", "replace"] as const) {
        process.seteuid!(65534);
        try {
          await expect(run(operations, move("closed/file", "other/file", { ifExists }))).rejects.toMatchObject({
            code: "PERMISSION_DENIED",
            message: expect.stringContaining("both exist"),
          });
        } finally {
          process.seteuid!(0);
        }
        expect([fixture.read("closed/file"), fixture.read("other/file")]).toEqual(["content", "content"]);
      }
      expect(await run(operations, move("closed/file", "other/file"))).toMatchObject({ method: "copy", verified: "digest" });
      expect(fixture.names()).toEqual(["closed", "other", "other/file"]);
    });

    test.each([100, 3 * 1024 * KIB])(
      "a copy of %i bytes that does not hold what was written costs nothing: the source stays, nothing appears",
      async (size) => {
        fixture.storedFile("a", bytes(size));
        let isSpoilt = false;
        // Once the bytes are written and before they are read again, the medium loses one of them.
        const progress = (count: number): void => {
          if (isSpoilt || count === 0) return;
          isSpoilt = true;
          const fd = openSync(join(fixture.root, "other/.stowage-spoilt"), "r+");
          writeSync(fd, Buffer.from([bytes(1)[0]! ^ 1]), 0, 1, 0);
          closeSync(fd);
        };
        const command = move("a", "other/a", { temporaryName: ".stowage-spoilt" });
        await expect(run(operations, command, { progress })).rejects.toMatchObject({ code: "CHECKSUM_MISMATCH", retryable: true });
        expect(fixture.names()).toEqual(["a", "other"]);
        expect(readFileSync(join(fixture.root, "a")).equals(bytes(size))).toBe(true);
      },
    );

    test("a source that changes while it is moved stays", async () => {
      const path = fixture.storedFile("a", bytes(3 * 1024 * KIB));
      let isChanged = false;
      const progress = (): void => {
        if (!isChanged) writeFileSync(path, "rewritten");
        isChanged = true;
      };
      await expect(run(operations, move("a", "other/a"), { progress })).rejects.toMatchObject({
        code: expect.stringMatching(/SHORT_SOURCE|SOURCE_CHANGED/),
      });
      expect(fixture.names()).toEqual(["a", "other"]);
      expect(fixture.read("a")).toBe("rewritten");
    });

    test("one directory that is mounted in two places: a file moved onto itself stays, and it can be moved to another name", async () => {
      mkdirSync(join(fixture.root, "real"));
      mkdirSync(join(fixture.root, "again"));
      fixture.mount(join(fixture.root, "again"), ["--bind", join(fixture.root, "real"), join(fixture.root, "again")]);
      fixture.storedFile("real/file", "content");
      for (const ifExists of ["fail", "replace"] as const) {
        await run(operations, move("real/file", "again/file", { ifExists }));
        expect(fixture.read("real/file")).toBe("content");
      }
      // The system answers EXDEV here, although it is one device.
      expect(await run(operations, move("real/file", "again/other"))).toMatchObject({ method: "copy", verified: "digest" });
      expect(fixture.names().filter((name) => name.startsWith("real"))).toEqual(["real", "real/other"]);
      linkSync(join(fixture.root, "real/other"), join(fixture.root, "real/link"));
      await run(operations, move("real/link", "again/other"));
      expect(fixture.names().filter((name) => name.startsWith("real"))).toEqual(["real", "real/other"]);
      expect(fixture.read("real/other")).toBe("content");
    });

    test("descriptors go back to what they were", async () => {
      const cycle = async (): Promise<void> => {
        fixture.storedFile("a/file", bytes(300 * KIB));
        await run(operations, move("a/file", "other/b/file"));
        fixture.storedFile("a/file", bytes(300 * KIB));
        await run(operations, move("a/file", "other/b/file")).catch(() => {});
        await run(operations, move("other/b/file", "a/file", { ifExists: "replace" }));
      };
      await cycle();
      const before = openDescriptors();
      for (let index = 0; index < 5; index++) await cycle();
      expect(openDescriptors()).toBe(before);
    });
  },
);

// Not a skip where the kernel has no such file system: nothing could be installed to make it run. The FUSE tests have one that ignores case, too.
const hasVfat = isLinux && isRoot && readFileSync("/proc/filesystems", "utf8").includes("vfat") && haveCommand("mkfs.vfat", "dosfstools");
if (!hasVfat) console.warn("left out: a move on vfat, which this kernel does not have, or which needs root");

if (hasVfat) {
  describe("moving on a file system that does not tell case apart (needs root, and vfat)", () => {
    test("a name that only changes its case is changed, and the file is not removed", async () => {
      const fixture = new PosixFixture();
      try {
        const image = join(fixture.folder, "image");
        const mountPoint = join(fixture.folder, "vfat");
        mkdirSync(mountPoint);
        execFileSync("sh", ["-c", 'truncate -s 20M "$1" && mkfs.vfat "$1"', "sh", image], { stdio: "pipe" });
        fixture.mount(mountPoint, ["-o", "loop", image, mountPoint]);
        const operations = fixture.open({ rootPath: mountPoint });
        writeFileSync(join(mountPoint, "file"), "content");
        // There are no hard links there either: the next best way.
        await run(operations, move("file", "File"));
        expect(fixture.names(mountPoint)).toEqual(["File"]);
        await run(operations, move("File", "FILE", { ifExists: "replace" }));
        expect(fixture.names(mountPoint)).toEqual(["FILE"]);
        expect(readFileSync(join(mountPoint, "FILE"), "utf8")).toBe("content");
        writeFileSync(join(mountPoint, "other"), "other");
        await expect(run(operations, move("FILE", "other"))).rejects.toEqual(code("FILE_EXISTS"));
      } finally {
        await fixture.remove();
      }
    });
  });
}
