import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  bytes,
  copy,
  download,
  hooks,
  isLinux,
  isRoot,
  move,
  PosixFixture,
  remove,
  run,
  stat,
  upload,
  write,
} from "./support/posix-volume.ts";

const code = (expected: string) => expect.objectContaining({ code: expected });
const KIB = 1024;

/** A FUSE mount whose program is ours; an ended one says why not. */
async function mountFuse(mountPoint: string, ...features: string[]): Promise<ChildProcess> {
  mkdirSync(mountPoint, { recursive: true });
  const daemon = spawn(process.execPath, [new URL("support/fuse-daemon.mjs", import.meta.url).pathname, mountPoint, ...features], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await new Promise<void>((resolve, reject) => {
    daemon.stdout!.once("data", () => resolve());
    daemon.once("close", (exitCode) => reject(new Error(`the FUSE program ended with ${exitCode}`)));
  });
  return daemon;
}

describe.skipIf(!isLinux || !isRoot || !existsSync("/dev/fuse"))("a volume on a FUSE mount (needs root, to mount)", () => {
  let fixture: PosixFixture;
  let mountPoint: string;
  let daemon: ChildProcess | undefined;

  beforeEach(() => {
    fixture = new PosixFixture();
    mountPoint = join(fixture.folder, "fuse");
  });
  afterEach(async () => {
    // Unmounting ends the program, and what waits for its answer.
    spawnSync("umount", ["-l", mountPoint]);
    daemon?.kill("SIGKILL");
    await fixture.remove();
  });

  test.each([false, true])("is known as one, can be read, and refuses every change (in a child: %s)", async (changeDirectory) => {
    daemon = await mountFuse(mountPoint, "no-links");
    mkdirSync(join(mountPoint, "a"));
    writeFileSync(join(mountPoint, "a/file"), bytes(300 * KIB));
    const operations = fixture.open({ rootPath: mountPoint, requireMount: { types: ["fuse"] } }, { changeDirectory });
    expect(operations.root.fileSystem).toEqual({ type: "fuse", kind: "fuse" });
    const target = join(fixture.local, "target");
    await run(operations, download("a/file", target));
    expect(readFileSync(target).equals(bytes(300 * KIB))).toBe(true);
    expect(await run(operations, stat("a/file"))).toMatchObject({ size: 300 * KIB });
    for (const command of [upload(target, "new"), copy("a/file", "new"), move("a/file", "new"), remove("a/file")]) {
      await expect(run(operations, command), command.verb).rejects.toMatchObject({
        code: "READ_ONLY",
        message: expect.stringContaining("fuseWrites"),
      });
    }
    await expect(operations.openWrite(write("new"), hooks())).rejects.toEqual(code("READ_ONLY"));
    expect(fixture.names(mountPoint)).toEqual(["a", "a/file"]);
  });

  test.each([false, true])(
    "with best effort stores, moves and deletes without hard links, but promises no power (in a child: %s)",
    async (changeDirectory) => {
      daemon = await mountFuse(mountPoint, "no-links");
      const operations = fixture.open({ rootPath: mountPoint, fuseWrites: "best-effort" }, { changeDirectory });
      for (const size of [10, 300 * KIB, 2 * KIB * KIB]) {
        const source = fixture.localFile("source", bytes(size));
        for (const checksum of ["auto", "sha256"] as const) {
          for (const ifExists of ["replace", "fail"] as const) {
            const path = `a/${size}-${checksum}-${ifExists}`;
            await run(operations, upload(source, path, { checksum, ifExists }));
            expect(readFileSync(join(mountPoint, path)).equals(bytes(size))).toBe(true);
            await expect(run(operations, upload(source, path, { ifExists: "skip" }))).rejects.toEqual(code("FILE_EXISTS"));
          }
        }
        await run(operations, upload(source, "old"));
        await expect(run(operations, move("old", `a/${size}-auto-fail`))).rejects.toEqual(code("FILE_EXISTS"));
        await run(operations, move("old", "new/old", { ifExists: "fail" }));
        await run(operations, move("new/old", "new/older", { ifExists: "replace" }));
        expect(readFileSync(join(mountPoint, "new/older")).equals(bytes(size))).toBe(true);
        expect(await run(operations, remove("new/older"))).toBe("deleted");
        for (const command of [
          upload(source, "power", { durability: "power" }),
          copy(`a/${size}-auto-fail`, "power", { durability: "power" }),
          move(`a/${size}-auto-fail`, "power", { durability: "power" }),
          remove(`a/${size}-auto-fail`, "power"),
        ]) {
          await expect(run(operations, command), command.verb).rejects.toEqual(code("UNSUPPORTED"));
        }
      }
      // Somebody is quicker while a large file is on its way: noticed as late as can be.
      const large = fixture.localFile("source", bytes(2 * KIB * KIB));
      const progress = (): void => writeFileSync(join(mountPoint, "quicker"), "theirs");
      await expect(run(operations, upload(large, "quicker", { ifExists: "fail" }), { progress })).rejects.toEqual(code("FILE_EXISTS"));
      expect(readFileSync(join(mountPoint, "quicker"), "utf8")).toBe("theirs");
      const writer = await operations.openWrite(write("written", { ifExists: "fail" }), hooks());
      await writer.write(Buffer.from("content"));
      await writer.commit();
      expect(readFileSync(join(mountPoint, "written"), "utf8")).toBe("content");
      expect(fixture.names(mountPoint).filter((name) => name.includes(".stowage"))).toEqual([]);
    },
  );

  test("that lies inside another volume is refused for itself", async () => {
    mountPoint = join(fixture.root, "inner");
    daemon = await mountFuse(mountPoint);
    const operations = fixture.open();
    const source = fixture.localFile("source");
    await run(operations, upload(source, "beside"));
    await expect(run(operations, upload(source, "inner/file"))).rejects.toEqual(code("READ_ONLY"));
    await expect(run(operations, upload(source, "inner/deep/file"))).rejects.toEqual(code("READ_ONLY"));
    await expect(run(operations, move("beside", "inner/file"))).rejects.toEqual(code("READ_ONLY"));
    expect(fixture.read("beside")).toBe("source");
  });

  test("takes a partial download as a copy when the local side has no symbolic links", async () => {
    daemon = await mountFuse(mountPoint, "no-links");
    fixture.storedFile("a", "content");
    const operations = fixture.open();
    for (const ifExists of ["replace", "fail"] as const) {
      const target = join(mountPoint, `target-${ifExists}`);
      expect(await run(operations, download("a", target, { partial: true, ifExists }))).toMatchObject({ method: "copy", bytes: 7 });
      expect(readFileSync(target, "utf8")).toBe("content");
    }
    expect(fixture.names(mountPoint)).toEqual(["target-fail", "target-replace"]);
  });

  test("whose program has died says to mount it again", async () => {
    daemon = await mountFuse(mountPoint);
    writeFileSync(join(mountPoint, "file"), "x");
    const operations = fixture.open({ rootPath: mountPoint });
    const ended = new Promise((resolve) => daemon!.once("exit", resolve));
    daemon.kill("SIGKILL");
    await ended;
    for (const command of [stat("file"), download("file", join(fixture.local, "target")), stat("deep/file")]) {
      await expect(run(operations, command)).rejects.toMatchObject({
        code: "VOLUME_NOT_MOUNTED",
        message: expect.stringContaining("mount it again"),
      });
    }
    expect(() => fixture.open({ rootPath: join(mountPoint, "below") })).toThrow(code("VOLUME_NOT_MOUNTED"));
  });

  test.each(["no-links", "links"])(
    "that takes names of another case for the same keeps a file that is moved to another spelling of its name (%s)",
    async (links) => {
      daemon = await mountFuse(mountPoint, "ignore-case", links);
      const operations = fixture.open({ rootPath: mountPoint, fuseWrites: "best-effort" });
      await run(operations, upload(fixture.localFile("source", "content"), "Directory/file"));
      for (const ifExists of ["fail", "replace"] as const) {
        await expect(run(operations, move("Directory/file", "Directory/File", { ifExists }))).rejects.toEqual(code("UNSUPPORTED"));
        expect(fixture.names(mountPoint)).toEqual(["Directory", "Directory/file"]);
        expect(readFileSync(join(mountPoint, "Directory/file"), "utf8")).toBe("content");
      }
      // The same name by way of a directory spelt differently.
      await run(operations, move("Directory/file", "DIRECTORY/file", { ifExists: "replace" }));
      expect(readFileSync(join(mountPoint, "Directory/file"), "utf8")).toBe("content");
    },
  );
});
