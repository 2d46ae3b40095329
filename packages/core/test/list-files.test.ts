import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, readdirSync, renameSync, rmdirSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { FileDetails, FilePath } from "../src/lib/files.ts";
import { createDirectoryPages, type DirectoryReader, walkFiles } from "../src/lib/posix/list-files.ts";
import { PinnedDirectories } from "../src/lib/posix/pinned-directory.ts";
import type { ListCommand, ListPage, PosixHooks } from "../src/lib/posix/posix-commands.ts";
import type { OpenedPosixExecutor } from "../src/lib/posix/posix-executor.ts";
import { compareNames, createSortedNames } from "../src/lib/posix/sorted-names.ts";
import { openVolumeRoot } from "../src/lib/posix/volume-root.ts";
import { ExecutorFixture } from "./support/executor-fixture.ts";
import { hooks, isLinux, isRoot, openDescriptors } from "./support/posix-volume.ts";

interface Listing {
  readonly paths: string[];
  readonly entries: FileDetails[];
  readonly problems: { readonly path: string; readonly error: unknown }[];
}

async function read(pages: AsyncIterable<ListPage>): Promise<Listing> {
  const listing: Listing = { paths: [], entries: [], problems: [] };
  for await (const page of pages) {
    listing.entries.push(...page.entries);
    listing.problems.push(...page.problems);
  }
  listing.paths.push(...listing.entries.map((entry) => entry.file.path));
  return listing;
}

function command(overrides: Partial<Record<keyof ListCommand, unknown>> = {}): ListCommand {
  return { directory: "", recursive: true, pageSize: 1024, ...overrides } as ListCommand;
}

const byBytes = (left: string, right: string): number => Buffer.compare(Buffer.from(left), Buffer.from(right));

describe.skipIf(!isLinux).each(["inline", "process", "auto"] as const)("a listing, executor %s", (mode) => {
  let fixture: ExecutorFixture;
  let executor: OpenedPosixExecutor;
  const list = (overrides: Parameters<typeof command>[0] = {}, own: Partial<PosixHooks> = {}): Promise<Listing> =>
    read(executor.list(command(overrides), hooks(own)));

  beforeEach(async () => {
    fixture = new ExecutorFixture();
    executor = await fixture.executor({ mode });
  });
  afterEach(() => fixture.remove());

  function tree(...paths: string[]): void {
    for (const path of paths) fixture.storedFile(path, path);
  }

  test("gives every file with size and time, sorted by the bytes of the whole path", async () => {
    const paths = ["a", "a.b", "a-b/c", "a/z", "a/b/c", "ab", "b", "é", "日本/語", "\u{1f600}", "\uffff", "empty dir/x", "Z", "~"];
    tree(...paths.filter((path) => path !== "a"));
    mkdirSync(join(fixture.root, "nothing/inside"), { recursive: true });
    const { entries, problems } = await list();
    expect(entries.map(({ file }) => file.path)).toEqual(paths.filter((path) => path !== "a").sort(byBytes));
    expect(problems).toEqual([]);
    for (const { file, size, modified } of entries) {
      expect(size).toBe(Buffer.byteLength(file.path));
      expect(file.size).toBe(size);
      expect(Math.abs(modified!.getTime() - Date.now())).toBeLessThan(60_000);
    }
  });

  test("not recursive, gives only what lies directly in the directory", async () => {
    tree("a", "b/c", "b/d/e", "f");
    expect((await list({ recursive: false })).paths).toEqual(["a", "f"]);
    expect((await list({ recursive: false, directory: "b" })).paths).toEqual(["b/c"]);
    expect((await list({ directory: "b" })).paths).toEqual(["b/c", "b/d/e"]);
  });

  test("of a directory that is missing, or a file, is empty", async () => {
    tree("a");
    expect((await list({ directory: "none" })).paths).toEqual([]);
    expect((await list({ directory: "a" })).paths).toEqual([]);
    expect((await list({ directory: "a/b" })).paths).toEqual([]);
  });

  test("has empty files, and none of ours, no directories, no pipes", async () => {
    tree("x");
    writeFileSync(join(fixture.root, "empty"), "");
    writeFileSync(join(fixture.root, ".stowage-1234"), "");
    mkdirSync(join(fixture.root, ".stowage/inflight"), { recursive: true });
    writeFileSync(join(fixture.root, ".stowage/inflight/1234"), "");
    writeFileSync(join(fixture.root, ".hidden"), "");
    execFileSync("mkfifo", [join(fixture.root, "pipe")]);
    expect((await list()).paths).toEqual([".hidden", "empty", "x"]);
  });

  test("has links to files inside, as the files that they lead to; nothing through links to directories, no links out, round or to nowhere", async () => {
    tree("real/file", "other");
    writeFileSync(join(fixture.folder, "secret"), "secret");
    symlinkSync("real/file", join(fixture.root, "inside"));
    symlinkSync(join(fixture.root, "other"), join(fixture.root, "absolute"));
    symlinkSync("inside", join(fixture.root, "real/../chain"));
    symlinkSync("real", join(fixture.root, "directory"));
    symlinkSync("../secret", join(fixture.root, "outside"));
    symlinkSync("/etc", join(fixture.root, "etc"));
    symlinkSync("round", join(fixture.root, "round"));
    symlinkSync("nothing", join(fixture.root, "broken"));
    const { entries, problems } = await list();
    expect(entries.map(({ file, size }) => [file.path, size])).toEqual([
      ["absolute", 5],
      ["chain", 9],
      ["inside", 9],
      ["other", 5],
      ["real/file", 9],
    ]);
    expect(problems).toEqual([]);
  });

  test("that refuses links has none", async () => {
    tree("real/file");
    symlinkSync("real/file", join(fixture.root, "inside"));
    const refusing = await fixture.executor({ mode }, { symlinks: "refuse" });
    expect((await read(refusing.list(command(), hooks()))).paths).toEqual(["real/file"]);
  });

  test("may begin with a link to a directory inside, and says the paths as they were asked for", async () => {
    tree("real/a", "real/deep/b");
    symlinkSync("real", join(fixture.root, "link"));
    symlinkSync("..", join(fixture.root, "real/up"));
    expect((await list({ directory: "link" })).paths).toEqual(["link/a", "link/deep/b"]);
    expect((await list({ directory: "link", startAfter: "link/a" })).paths).toEqual(["link/deep/b"]);
  });

  test("that would begin outside is refused", async () => {
    symlinkSync("/etc", join(fixture.root, "etc"));
    await expect(list({ directory: "etc" })).rejects.toMatchObject({ code: "PERMISSION_DENIED" });
  });

  test("reports names that are not UTF-8, escaped, and goes on; a real U+FFFD is a name like others", async () => {
    tree("a", "z", "\ufffd", "sub/x");
    for (const name of [
      [0x66, 0xff],
      [0xed, 0xa0, 0x80],
      [0x5c, 0x80],
    ])
      writeFileSync(Buffer.concat([Buffer.from(`${fixture.root}/`), Buffer.from(name)]), "");
    mkdirSync(Buffer.concat([Buffer.from(`${fixture.root}/sub/`), Buffer.from([0xfe])]));
    const { paths, problems } = await list();
    expect(paths).toEqual(["a", "sub/x", "z", "\ufffd"]);
    expect(problems.map(({ path }) => path).sort()).toEqual(["\\\\\\x80", "\\xed\\xa0\\x80", "f\\xff", "sub/\\xfe"]);
    for (const { error } of problems) expect(error).toMatchObject({ code: "INVALID_PATH" });
  });

  test.skipIf(!isRoot)("reports directories that cannot be read, and goes on", async () => {
    if (mode === "process") return; // A child has the rights that this process had when it was started.
    tree("a/1", "b/2", "c/3");
    chmodSync(join(fixture.root, "b"), 0o300);
    process.seteuid!(65534);
    try {
      const { paths, problems } = await list();
      expect(paths).toEqual(["a/1", "c/3"]);
      expect(problems).toMatchObject([{ path: "b/", error: { code: "PERMISSION_DENIED" } }]);
      await expect(list({ directory: "b" })).rejects.toMatchObject({ code: "PERMISSION_DENIED" });
    } finally {
      process.seteuid!(0);
    }
  });

  test("resumes behind any file, also one that is gone, and behind any path at all", async () => {
    const paths = ["a.b", "a/b/c", "a/b/d/e", "a/bb", "a0", "b", "c/x", "c/y/z", "d"].sort(byBytes);
    tree(...paths);
    const places = [...paths, "a", "a/b", "a/b/d", "a/b/c/none", "a/a", "a/b/z", "a/zz/zz", "aa/b", "b/c", "c", "c/y", "0", "zz", "b!"];
    for (const startAfter of places) {
      for (const pageSize of [1, 3, 1024]) {
        expect((await list({ startAfter, pageSize })).paths, startAfter).toEqual(paths.filter((path) => byBytes(path, startAfter) > 0));
      }
      const inDirectory = paths.filter((path) => path.startsWith("a/") && byBytes(path, startAfter) > 0);
      expect((await list({ startAfter, directory: "a" })).paths, startAfter).toEqual(inDirectory);
    }
    unlinkSync(join(fixture.root, "a/b/c"));
    expect((await list({ startAfter: "a/b/c" })).paths).toEqual(["a/b/d/e", "a/bb", "a0", "b", "c/x", "c/y/z", "d"]);
  });

  test("cuts large directories into pages, with the files of their subdirectories in between", async () => {
    const paths: string[] = [];
    for (let index = 0; index < 300; index++) paths.push(index % 10 === 5 ? `d${index}/x` : `f${index}`, `g/${index}`);
    tree(...paths);
    const sizes: number[] = [];
    const seen: string[] = [];
    for await (const page of executor.list(command({ pageSize: 7 }), hooks())) {
      sizes.push(page.entries.length);
      seen.push(...page.entries.map((entry) => entry.file.path));
    }
    expect(seen).toEqual(paths.sort(byBytes));
    expect(Math.max(...sizes)).toBe(7);
  });

  test("survives what vanishes while it goes on", async () => {
    for (let directory = 0; directory < 30; directory++) for (let index = 0; index < 10; index++) tree(`d${directory + 10}/${index}`);
    let count = 0;
    const seen: string[] = [];
    const problems: unknown[] = [];
    for await (const page of executor.list(command({ pageSize: 5 }), hooks())) {
      seen.push(...page.entries.map((entry) => entry.file.path));
      problems.push(...page.problems);
      if (count++ === 3) {
        rmSync(join(fixture.root, "d30"), { recursive: true });
        rmSync(join(fixture.root, "d38"), { recursive: true });
        unlinkSync(join(fixture.root, "d39/5"));
        symlinkSync("/etc", join(fixture.root, "d38"));
      }
    }
    expect(problems).toEqual([]);
    expect(seen.filter((path) => path.startsWith("d29/")).length).toBe(10);
    expect(seen.every((path) => /^d\d\d\/\d$/.test(path))).toBe(true);
    expect(new Set(seen).size).toBe(seen.length);
  });

  test("holds nothing open once it has ended, or its consumer has stopped", async () => {
    for (let directory = 0; directory < 60; directory++) for (let index = 0; index < 20; index++) tree(`d${directory}/e/${index}`);
    await list();
    const before = openDescriptors();
    for (let round = 0; round < 20; round++) {
      for await (const page of executor.list(command({ pageSize: 3 }), hooks())) if (page.entries.length > 0) break;
    }
    expect(openDescriptors()).toBeLessThanOrEqual(before + 4);
    for (const name of readdirSync(fixture.root)) rmSync(join(fixture.root, name), { recursive: true });
    expect((await list()).paths).toEqual([]);
  });

  test("ends with the caller's reason when it is aborted", async () => {
    for (let directory = 0; directory < 60; directory++) tree(`d${directory}/x`);
    const reason = new Error("enough");
    await expect(list({}, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const controller = new AbortController();
    const work = async (): Promise<void> => {
      for await (const _ of executor.list(command({ pageSize: 1 }), hooks({ signal: controller.signal }))) controller.abort(reason);
    };
    await expect(work()).rejects.toBe(reason);
  });
});

describe.skipIf(!isLinux)("directory pages", () => {
  let fixture: ExecutorFixture;
  beforeEach(() => {
    fixture = new ExecutorFixture();
  });
  afterEach(() => fixture.remove());

  interface Reading {
    readonly list: (command: ListCommand) => Promise<Listing>;
    readonly requests: number[];
    close(): void;
  }

  function open(memoryBytes?: number): Reading {
    const root = openVolumeRoot(fixture.volume());
    const directories = new PinnedDirectories(root, { symlinks: "inside", directoryMode: 0o755, changeDirectory: false });
    const pages = createDirectoryPages(directories, { symlinks: "inside", pause: () => undefined, memoryBytes });
    const requests: number[] = [];
    const reader: DirectoryReader = (asked, signal) => {
      requests.push(asked.length);
      return pages.read(asked, signal);
    };
    return {
      requests,
      list: (listCommand) => read(walkFiles(listCommand, reader, { listing: 1, together: 16, ahead: 64 }, hooks())),
      close() {
        directories.close();
        root.close();
      },
    };
  }

  test("of a directory with more names than fit in memory come from several readings, complete and in order", async () => {
    const names = Array.from({ length: 30_000 }, (_, index) => `name-${(index * 7919) % 30_000}`);
    for (const name of names) writeFileSync(join(fixture.root, name), "");
    const reading = open(100_000);
    try {
      expect((await reading.list(command())).paths).toEqual(names.sort(byBytes));
    } finally {
      reading.close();
    }
  });

  test("are asked for together, and few of them are asked for twice", async () => {
    for (let directory = 0; directory < 200; directory++) fixture.storedFile(`d${directory}/x`);
    const reading = open();
    try {
      expect((await reading.list(command())).paths.length).toBe(200);
      expect(reading.requests.length).toBeLessThan(25);
    } finally {
      reading.close();
    }
  });

  test("of a directory that became a link meanwhile are empty", async () => {
    fixture.storedFile("a/x");
    fixture.storedFile("b/y");
    const directories = new PinnedDirectories(openVolumeRoot(fixture.volume()), {
      symlinks: "inside",
      directoryMode: 0o755,
      changeDirectory: false,
    });
    const pages = createDirectoryPages(directories, { symlinks: "inside", pause: () => undefined });
    unlinkSync(join(fixture.root, "b/y"));
    rmdirSync(join(fixture.root, "b"));
    symlinkSync("a", join(fixture.root, "b"));
    const request = { listing: 1, path: "b" as FilePath, limit: 10, recursive: true };
    expect(await pages.read([request], new AbortController().signal)).toEqual([{ names: "", sizes: [], times: [] }]);
    directories.close();
  });

  test("any tree is listed whole and in order, from any place", async () => {
    const segment = fc.oneof(
      fc.constantFrom("a", "b", "a.", "a-", "a0", "A", "\u{10000}", "\uffff", "é", " ", "#", "\u007f", "~"),
      fc
        .string({ minLength: 1, maxLength: 4, unit: "binary" })
        .filter((name) => !/[/\0]|^\.\.?$|^\.stowage/.test(name) && name.isWellFormed()),
    );
    const path = fc.array(segment, { minLength: 1, maxLength: 4 }).map((segments) => segments.join("/"));
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(path, { maxLength: 25 }),
        path,
        fc.integer({ min: 1, max: 5 }),
        async (paths, startAfter, pageSize) => {
          rmSync(fixture.root, { recursive: true });
          mkdirSync(fixture.root);
          const made: string[] = [];
          for (const one of paths) {
            try {
              mkdirSync(join(fixture.root, dirname(one)), { recursive: true });
              writeFileSync(`${fixture.root}/${one}`, "", { flag: "wx" });
              made.push(one);
            } catch {
              // A file where a directory should be, or the other way round.
            }
          }
          made.sort(byBytes);
          const reading = open();
          try {
            expect((await reading.list(command({ pageSize }))).paths).toEqual(made);
            const rest = made.filter((one) => byBytes(one, startAfter) > 0);
            expect((await reading.list(command({ pageSize, startAfter }))).paths).toEqual(rest);
          } finally {
            reading.close();
          }
        },
      ),
      { numRuns: 150 },
    );
  });

  test("renamed directories do not make a listing leave the root", async () => {
    fixture.storedFile("a/b/x");
    for (let index = 0; index < 50; index++) fixture.storedFile(`a/c${index}/x`);
    const outside = join(fixture.folder, "outside");
    const reading = open();
    try {
      renameSync(join(fixture.root, "a"), outside);
      symlinkSync(outside, join(fixture.root, "a"));
      expect((await reading.list(command())).paths).toEqual([]);
    } finally {
      reading.close();
    }
  });
});

describe("sorted names", () => {
  const names = fc.uniqueArray(
    fc.string({ minLength: 1, maxLength: 6, unit: "binary" }).filter((name) => !name.includes("\0") && name.isWellFormed()),
  );

  test("compare as their bytes do", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), fc.string({ unit: "binary" }), (left, right) => {
        fc.pre(left.isWellFormed() && right.isWellFormed());
        expect(Math.sign(compareNames(left, right))).toBe(Math.sign(byBytes(left, right)));
      }),
    );
  });

  test("come out in order, whatever of them is kept", () => {
    fc.assert(
      fc.property(names, fc.integer({ min: 1, max: 200 }), fc.string({ maxLength: 2 }), (all, memoryBytes, from) => {
        const expected = all.filter((name) => byBytes(name, from) >= 0).sort(byBytes);
        const found: string[] = [];
        for (let next: string | undefined = from, turns = 0; next !== undefined; turns++) {
          expect(turns).toBeLessThan(all.length + 2);
          const sorted = createSortedNames({ from: next, memoryBytes });
          // Many times over, so that more than one run is made.
          for (const name of all) sorted.add(name);
          sorted.finish();
          for (let name = sorted.shift(); name !== undefined; name = sorted.shift()) found.push(name);
          expect(sorted.isDrained).toBe(true);
          next = sorted.next;
        }
        expect(found).toEqual(expected);
      }),
    );
  });

  test("beyond what memory allows are left for another time, the lesser half first", () => {
    const all = Array.from({ length: 50_000 }, (_, index) => String((index * 7919) % 50_000).padStart(6, "0"));
    const found: string[] = [];
    let turns = 0;
    for (let next: string | undefined = ""; next !== undefined; turns++) {
      const sorted = createSortedNames({ from: next, memoryBytes: 70_000 });
      for (const name of all) sorted.add(name);
      sorted.finish();
      for (let name = sorted.shift(); name !== undefined; name = sorted.shift()) found.push(name);
      next = sorted.next;
    }
    expect(found).toEqual([...all].sort());
    expect(turns).toBeGreaterThan(2);
    expect(turns).toBeLessThan(15);
  });
});
