import { execFileSync, spawn } from "node:child_process";
import { lstatSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { isFilePath } from "../src/lib/file-path.ts";
import type { PosixCommand } from "../src/lib/posix/posix-commands.ts";
import type { PosixOperations } from "../src/lib/posix/posix-operations.ts";
import { copy, download, file, hooks, isLinux, move, PosixFixture, remove, run, stat, upload, write } from "./support/posix-volume.ts";

const code = (expected: string) => expect.objectContaining({ code: expected });

const WAYS = [
  { name: "in a user's process", options: { changeDirectory: false } },
  { name: "in a child", options: { changeDirectory: true } },
  { name: "without /proc", options: { changeDirectory: false, containment: "checked" as const } },
].filter(({ options }) => isLinux || options.containment === "checked");

describe.each(WAYS)("containment, $name", ({ options }) => {
  let fixture: PosixFixture;
  let operations: PosixOperations;
  let outside: string;

  beforeEach(() => {
    fixture = new PosixFixture();
    outside = join(fixture.folder, "outside");
    mkdirSync(join(outside, "deep"), { recursive: true });
    writeFileSync(join(outside, "secret"), "secret");
    writeFileSync(join(outside, "deep/secret"), "secret");
    fixture.storedFile("inside/file", "content");
    fixture.localFile("source", "new");
    operations = fixture.open({}, options);
  });
  afterEach(async () => {
    // Whatever a test did: what lies outside is as it was.
    expect(fixture.names(outside)).toEqual(["deep", "deep/secret", "secret"]);
    expect(readFileSync(join(outside, "secret"), "utf8")).toBe("secret");
    await fixture.remove();
  });

  const target = (): string => join(fixture.local, "target");
  const everyRead = (path: string): PosixCommand[] => [
    download(path, target()),
    download(path, target(), { partial: true }),
    copy(path, "copied"),
    stat(path),
  ];
  const everyChange = (path: string): PosixCommand[] => [
    upload(join(fixture.local, "source"), path),
    upload(join(fixture.local, "source"), path, { ifExists: "fail" }),
    copy("inside/file", path),
    move("inside/file", path),
    move("inside/file", path, { ifExists: "replace" }),
  ];
  const everyRemoval = (path: string): PosixCommand[] => [remove(path), move(path, "moved"), move(path, "moved", { ifExists: "replace" })];

  async function failures(commands: readonly PosixCommand[]): Promise<(string | undefined)[]> {
    const codes: (string | undefined)[] = [];
    for (const command of commands) {
      codes.push(
        await run(operations, command).then(
          () => "nothing failed",
          (error: { code?: string }) => error.code,
        ),
      );
    }
    return codes;
  }

  test("paths with .., . or empty segments, or NUL, are refused even when nobody has parsed them", async () => {
    for (const path of [
      "..",
      "../outside/secret",
      "inside/../../outside/secret",
      "./inside/file",
      "inside/./file",
      "inside//file",
      "/inside/file",
      ".stowage/inflight/x",
      "inside/.stowage-x",
      "inside/",
      ".",
      "",
      "a\0b",
    ]) {
      const codes = await failures([...everyRead(path), ...everyChange(path), ...everyRemoval(path)]);
      expect(codes, JSON.stringify(path)).toEqual(codes.map(() => "INVALID_PATH"));
      await expect(operations.openRead({ file: file(path) }, hooks()), path).rejects.toEqual(code("INVALID_PATH"));
      await expect(operations.openWrite(write(path), hooks()), path).rejects.toEqual(code("INVALID_PATH"));
    }
    expect(fixture.read("inside/file")).toBe("content");
  });

  test("absolute paths stay below the root or are refused", async () => {
    for (const path of [join(outside, "secret"), "/etc/passwd"]) {
      const codes = await failures([...everyRead(path), ...everyChange(path), ...everyRemoval(path)]);
      expect(codes, path).toEqual(codes.map(() => "INVALID_PATH"));
    }
  });

  test("a parent that is a link out of the root is refused for everything, whether relative or absolute", async () => {
    symlinkSync(outside, join(fixture.root, "absolute"));
    symlinkSync("../outside", join(fixture.root, "relative"));
    symlinkSync("..", join(fixture.root, "parent"));
    symlinkSync("/", join(fixture.root, "slash"));
    symlinkSync("../../../../../../../../etc", join(fixture.root, "etc"));
    symlinkSync("inside/../..", join(fixture.root, "roundabout"));
    for (const path of [
      "absolute/secret",
      "relative/secret",
      "relative/deep/secret",
      "parent/outside/secret",
      `slash${outside}/secret`,
      "etc/passwd",
      "roundabout/outside/secret",
    ]) {
      const codes = await failures([...everyRead(path), ...everyChange(path), ...everyRemoval(path)]);
      expect(codes, path).toEqual(codes.map(() => "PERMISSION_DENIED"));
      await expect(operations.openRead({ file: file(path) }, hooks()), path).rejects.toEqual(code("PERMISSION_DENIED"));
      await expect(operations.openWrite(write(path), hooks()), path).rejects.toEqual(code("PERMISSION_DENIED"));
      const created = await failures([upload(join(fixture.local, "source"), `${path}-new/deep/er`)]);
      expect(created, path).toEqual(["PERMISSION_DENIED"]);
    }
    await expect(run(operations, upload(join(fixture.local, "source"), "absolute/x"))).rejects.toThrow(
      /containment.*"absolute" is a symbolic link|containment/,
    );
  });

  test("a file that is a link out of the root is not read, and replaced rather than written through", async () => {
    symlinkSync("/etc/passwd", join(fixture.root, "passwd"));
    symlinkSync(join(outside, "secret"), join(fixture.root, "secret"));
    symlinkSync("../outside/secret", join(fixture.root, "relative"));
    symlinkSync("secret", join(fixture.root, "indirect"));
    for (const path of ["indirect", "passwd", "secret", "relative"]) {
      expect(await failures(everyRead(path)), path).toEqual([
        "PERMISSION_DENIED",
        "PERMISSION_DENIED",
        "PERMISSION_DENIED",
        "PERMISSION_DENIED",
      ]);
      expect(await failures(everyRemoval(path)), path).toEqual(["NOT_A_FILE", "NOT_A_FILE", "NOT_A_FILE"]);
      await run(operations, upload(join(fixture.local, "source"), path));
      expect(lstatSync(join(fixture.root, path)).isFile(), path).toBe(true);
    }
  });

  test("links that stay inside are followed for reading, by whatever way they go", async () => {
    fixture.storedFile("a/b/c/deep", "deep");
    symlinkSync("a/b", join(fixture.root, "directory"));
    symlinkSync(join(fixture.root, "a"), join(fixture.root, "absolute"));
    symlinkSync("../../inside/file", join(fixture.root, "a/b/up"));
    symlinkSync("directory/c/deep", join(fixture.root, "leaf"));
    symlinkSync("leaf", join(fixture.root, "leaf2"));
    symlinkSync("../a/./b//c/", join(fixture.root, "inside/slashes"));
    symlinkSync(".", join(fixture.root, "a/here"));
    const expected: Record<string, string> = {
      "directory/c/deep": "deep",
      "absolute/b/c/deep": "deep",
      "absolute/b/up": "content",
      "directory/up": "content",
      leaf: "deep",
      leaf2: "deep",
      "inside/slashes/deep": "deep",
      "a/here/here/b/c/deep": "deep",
    };
    for (const [path, content] of Object.entries(expected)) {
      await run(operations, download(path, target()));
      expect(readFileSync(target(), "utf8"), path).toBe(content);
      expect(await run(operations, stat(path)), path).toMatchObject({ file: { path }, size: content.length });
      await run(operations, copy(path, "copied"));
      expect(fixture.read("copied"), path).toBe(content);
    }
  });

  test("links that stay inside are not followed for writing or deleting", async () => {
    symlinkSync("inside", join(fixture.root, "link"));
    symlinkSync("inside/file", join(fixture.root, "leaf"));
    expect(await failures([...everyChange("link/new"), ...everyRemoval("link/file")])).toEqual(Array(8).fill("PERMISSION_DENIED"));
    expect(await failures(everyRemoval("leaf"))).toEqual(Array(3).fill("NOT_A_FILE"));
    expect(fixture.names()).toEqual(["inside", "inside/file", "leaf", "link"]);
  });

  test("with symlinks refused none is followed", async () => {
    symlinkSync("inside", join(fixture.root, "link"));
    symlinkSync("inside/file", join(fixture.root, "leaf"));
    const strict = fixture.open({ symlinks: "refuse" }, options);
    for (const path of ["link/file", "leaf"]) {
      for (const command of everyRead(path))
        await expect(run(strict, command), `${command.verb} ${path}`).rejects.toEqual(code("PERMISSION_DENIED"));
    }
    expect(await run(strict, stat("inside/file"))).toBeDefined();
  });

  test("circles and long chains of links end", async () => {
    symlinkSync("circle", join(fixture.root, "circle"));
    symlinkSync("two", join(fixture.root, "one"));
    symlinkSync("one", join(fixture.root, "two"));
    for (let index = 0; index < 45; index++)
      symlinkSync(index === 0 ? "inside/file" : `chain${index - 1}`, join(fixture.root, `chain${index}`));
    for (const path of ["circle", "circle/x", "one", "chain44"]) {
      await expect(run(operations, download(path, target())), path).rejects.toEqual(code("NOT_A_FILE"));
      expect(await run(operations, stat(path)), path).toBeUndefined();
    }
    await run(operations, download("chain39", target()));
    expect(readFileSync(target(), "utf8")).toBe("content");
  });

  test("whatever a path looks like, what it names is inside the root", async () => {
    symlinkSync("..", join(fixture.root, "up"));
    symlinkSync("/", join(fixture.root, "slash"));
    symlinkSync("inside", join(fixture.root, "link"));
    const segment = fc.oneof(
      fc.constantFrom(
        "..",
        ".",
        "",
        "up",
        "slash",
        "link",
        "inside",
        "file",
        "outside",
        "secret",
        "etc",
        "passwd",
        "...",
        " ",
        "~",
        "-",
        "\\",
        "a\\..\\b",
        "%2e%2e",
        "．．",
        "\u0000",
      ),
      fc.string({ unit: "binary", maxLength: 6 }),
    );
    const path = fc.array(segment, { maxLength: 6 }).map((segments) => segments.join("/"));
    await fc.assert(
      fc.asyncProperty(path, async (candidate) => {
        let details: unknown;
        try {
          details = await run(operations, stat(candidate));
        } catch (error) {
          expect(["INVALID_PATH", "PERMISSION_DENIED", "NOT_A_FILE"]).toContain((error as { code: string }).code);
          return;
        }
        if (details === undefined) return;
        // It was found: then it is one that the parser lets pass, and lies below the root.
        expect(isFilePath(candidate)).toBe(true);
        const full = resolve(fixture.root, candidate);
        expect(relative(fixture.root, full).startsWith("..")).toBe(false);
      }),
      { numRuns: 10_000 },
    );
  }, 120_000);
});

describe.skipIf(!isLinux)("a parent that is swapped for a link out of the root, again and again, while calls are made", () => {
  test("lets nothing outside be read, written, linked or deleted", async () => {
    const fixture = new PosixFixture();
    const outside = join(fixture.folder, "outside");
    mkdirSync(join(outside, "deep"), { recursive: true });
    const swapping = `
      import { renameSync, symlinkSync, unlinkSync } from "node:fs";
      const [root, outside] = process.argv.slice(2);
      process.chdir(root);
      process.on("disconnect", () => process.exit());
      let swaps = 0;
      let rubbish = 0;
      // Makes way when the other side has made something there meanwhile.
      const insist = (work, name) => { for (;;) try { return work(); } catch (error) {
        if (!["EEXIST", "ENOTEMPTY", "EISDIR", "ENOTDIR", "EPERM"].includes(error.code)) throw error;
        renameSync(name, root + "/rubbish/" + rubbish++);
      } };
      const exchange = (name, target) => {
        renameSync(name, name + ".real");
        insist(() => symlinkSync(target, name), name);
        for (let spin = 0; spin < 5000; spin++);
        insist(() => unlinkSync(name), name);
        insist(() => renameSync(name + ".real", name), name);
      };
      const swap = () => {
        for (let index = 0; index < 50; index++) {
          exchange("a", outside);
          exchange("a/deep", outside + "/deep");
          exchange("a/leaf", outside + "/leaf");
          swaps++;
        }
        process.send(swaps);
        setImmediate(swap);
      };
      swap();
    `;
    // The same names outside, with other content.
    for (const name of ["file", "leaf", "deep/file", "deep/victim", "victim"]) writeFileSync(join(outside, name), "secret");
    for (const name of ["a/file", "a/leaf", "a/deep/file"]) fixture.storedFile(name, "content");
    mkdirSync(join(fixture.root, "rubbish"));
    const before = fixture.names(outside);
    const source = fixture.localFile("source", "new");
    const target = join(fixture.local, "target");
    const child = spawn(process.execPath, ["--input-type=module", "-e", swapping, "x", fixture.root, outside], {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    const ended = new Promise((resolvePromise) => child.once("exit", resolvePromise));
    let swaps = 0;
    child.on("message", (count: number) => {
      swaps = count;
    });
    try {
      for (const changeDirectory of [false, true]) {
        const operations = fixture.open({}, { changeDirectory });
        const codes = new Map<string, number>();
        const note = (name: string): void => void codes.set(name, (codes.get(name) ?? 0) + 1);
        const deadline = performance.now() + 4000;
        for (let round = 0; performance.now() < deadline; round++) {
          const commands: PosixCommand[] = [
            upload(source, `a/new${round % 5}`),
            upload(source, `a/deep/new${round % 5}`, { ifExists: "fail" }),
            upload(source, `a/deep/made${round % 9}/x/new`),
            download("a/file", target),
            download("a/leaf", target),
            download("a/deep/file", target, { checksum: "crc32" }),
            copy("a/deep/file", "a/copy"),
            copy("a/leaf", "copied"),
            move(`a/new${round % 5}`, `a/deep/moved${round % 5}`, { ifExists: "replace" }),
            remove("a/deep/victim"),
            remove("a/victim"),
            remove(`a/deep/moved${round % 5}`),
            stat("a/deep/file"),
          ];
          await operations.runBatch(commands, hooks(), (result) => {
            note(result.ok ? "done" : ((result.error as { code?: string }).code ?? String(result.error)));
          });
          if (lstatSync(target, { throwIfNoEntry: false })?.isFile()) expect(readFileSync(target, "utf8")).toBe("content");
          const copied = lstatSync(join(fixture.root, "copied"), { throwIfNoEntry: false });
          if (copied !== undefined) expect(fixture.read("copied")).toBe("content");
        }
        // Nothing but what may come of such a fight, and both sides of it have been seen.
        expect(
          [...codes.keys()].filter(
            (name) => !["done", "PERMISSION_DENIED", "FILE_NOT_FOUND", "FILE_EXISTS", "STALE_HANDLE", "NOT_A_FILE"].includes(name),
          ),
        ).toEqual([]);
        expect(codes.get("done")).toBeGreaterThan(100);
        expect(codes.get("PERMISSION_DENIED")).toBeGreaterThan(10);
      }
    } finally {
      child.kill("SIGKILL");
      await ended;
    }
    expect(swaps).toBeGreaterThan(50);
    expect(fixture.names(outside)).toEqual(before);
    for (const name of ["file", "leaf", "deep/file", "deep/victim", "victim"])
      expect(readFileSync(join(outside, name), "utf8")).toBe("secret");
    await fixture.remove();
  }, 60_000);
});

describe.skipIf(!isLinux)("what happens to a directory that is held", () => {
  test("a write that has begun ends in the directory that it began in", async () => {
    const fixture = new PosixFixture();
    const operations = fixture.open();
    const outside = join(fixture.folder, "outside");
    mkdirSync(outside);
    fixture.storedFile("a/b/old");
    const writer = await operations.openWrite(write("a/b/file"), hooks());
    await writer.write(Buffer.from("content"));
    execFileSync("mv", [join(fixture.root, "a"), join(fixture.root, "moved")]);
    symlinkSync(outside, join(fixture.root, "a"));
    mkdirSync(join(outside, "b"));
    await writer.commit();
    expect(fixture.names(outside)).toEqual(["b"]);
    expect(fixture.read("moved/b/file")).toBe("content");
    await fixture.remove();
  });
});
