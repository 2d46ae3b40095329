import { execFileSync } from "node:child_process";
import { appendFile, chmod, lstat, mkdir, readdir, readFile, readlink, stat, symlink, truncate, writeFile } from "node:fs/promises";
import { beforeEach, describe, expect, test } from "vitest";
import {
  addLeftover,
  assertUnchanged,
  ensureLocalDirectory,
  openLocalSource,
  type PublishContext,
  publishLocalFile,
} from "../src/lib/local-file.ts";
import { leftoversOf } from "../src/lib/operation-context.ts";
import { stowageErrorOf } from "./support/outcomes.ts";
import { useTemporaryDirectory } from "./support/temporary-directory.ts";

const directory = useTemporaryDirectory();
let count = 0;
let place = "";

beforeEach(async () => {
  place = directory.join(`case${count++}`);
  await mkdir(place);
});

function context(changes: Partial<PublishContext> = {}): PublishContext {
  return { ifExists: "replace", durability: "process", temporaryId: "t1", signal: new AbortController().signal, ...changes };
}

describe("publishing a local file", () => {
  test("shows the whole new file, with the time that was asked for, and nothing else", async () => {
    const modified = new Date("2020-02-03T04:05:06.789Z");
    await publishLocalFile(`${place}/file`, context(), async (handle) => {
      await handle.writeFile("first ");
      expect(await readdir(place)).toEqual([".stowage-t1"]);
      await handle.writeFile("second");
      return { modified };
    });
    expect(await readFile(`${place}/file`, "utf8")).toBe("first second");
    expect((await stat(`${place}/file`)).mtime.getTime()).toBe(modified.getTime());
    expect(await readdir(place)).toEqual(["file"]);
  });

  test("keeps every time to the millisecond", async () => {
    for (let offset = 0; offset < 200; offset++) {
      const modified = new Date(Date.UTC(2026, 0, 1) + offset * 1_234_567);
      await publishLocalFile(`${place}/file`, context(), async () => ({ modified }));
      const { mtimeNs } = await stat(`${place}/file`, { bigint: true });
      expect(Number(mtimeNs / 1_000_000n)).toBe(modified.getTime());
    }
  });

  test("a failure keeps the previous file and leaves nothing", async () => {
    await writeFile(`${place}/file`, "previous");
    const run = publishLocalFile(`${place}/file`, context(), async (handle) => {
      await handle.writeFile("half");
      throw new Error("the source broke");
    });
    await expect(run).rejects.toThrow("the source broke");
    expect(await readFile(`${place}/file`, "utf8")).toBe("previous");
    expect(await readdir(place)).toEqual(["file"]);
  });

  test("an abort while writing keeps the previous file", async () => {
    await writeFile(`${place}/file`, "previous");
    const controller = new AbortController();
    const run = publishLocalFile(`${place}/file`, context({ signal: controller.signal }), async (handle) => {
      await handle.writeFile("whole");
      controller.abort(new Error("stopped"));
    });
    await expect(run).rejects.toThrow("stopped");
    expect(await readFile(`${place}/file`, "utf8")).toBe("previous");
    expect(await readdir(place)).toEqual(["file"]);
  });

  test("an abort before the start touches nothing", async () => {
    const run = publishLocalFile(`${place}/file`, context({ signal: AbortSignal.abort(new Error("early")) }), async () => {
      throw new Error("must not be called");
    });
    await expect(run).rejects.toThrow("early");
    expect(await readdir(place)).toEqual([]);
  });

  test.each(["fail", "skip"] as const)("%s does not touch an existing file, nor one that came meanwhile", async (ifExists) => {
    await writeFile(`${place}/there`, "kept");
    let called = false;
    const existing = publishLocalFile(`${place}/there`, context({ ifExists }), async () => {
      called = true;
    });
    expect((await stowageErrorOf(existing)).code).toBe("FILE_EXISTS");
    expect(called).toBe(false);

    const race = publishLocalFile(`${place}/late`, context({ ifExists }), async (handle) => {
      await handle.writeFile("ours");
      await writeFile(`${place}/late`, "theirs");
    });
    expect((await stowageErrorOf(race)).code).toBe("FILE_EXISTS");
    expect(await readFile(`${place}/late`, "utf8")).toBe("theirs");

    await publishLocalFile(`${place}/new`, context({ ifExists }), async (handle) => handle.writeFile("new"));
    expect(await readFile(`${place}/new`, "utf8")).toBe("new");
    expect((await readdir(place)).sort()).toEqual(["late", "new", "there"]);
  });

  test("power brings file and directory to stable storage", async () => {
    await publishLocalFile(`${place}/file`, context({ durability: "power" }), async (handle) => handle.writeFile("x"));
    expect(await readFile(`${place}/file`, "utf8")).toBe("x");
  });

  test("a symbolic link is replaced, what it points to stays", async () => {
    await writeFile(`${place}/outside`, "untouched");
    await symlink(`${place}/outside`, `${place}/link`);
    await publishLocalFile(`${place}/link`, context(), async (handle) => handle.writeFile("new"));
    expect((await lstat(`${place}/link`)).isFile()).toBe(true);
    expect(await readFile(`${place}/outside`, "utf8")).toBe("untouched");
  });

  test("a symbolic link at the temporary name is not followed", async () => {
    await symlink(`${place}/elsewhere`, `${place}/.stowage-t1`);
    await expect(publishLocalFile(`${place}/file`, context(), async () => undefined)).rejects.toMatchObject({ code: "EEXIST" });
    expect(await readlink(`${place}/.stowage-t1`)).toBe(`${place}/elsewhere`);
    expect(await readdir(place)).toEqual([".stowage-t1"]);
  });

  test("a directory or a FIFO is never replaced", async () => {
    await mkdir(`${place}/directory`);
    execFileSync("mkfifo", [`${place}/fifo`]);
    for (const name of ["directory", "fifo"]) {
      const run = publishLocalFile(`${place}/${name}`, context(), async () => undefined);
      expect((await stowageErrorOf(run)).code).toBe("NOT_A_FILE");
    }
    expect((await readdir(place)).sort()).toEqual(["directory", "fifo"]);
  });
});

describe("opening a local source", () => {
  test("gives size and time of a regular file, also through a symbolic link", async () => {
    await writeFile(`${place}/file`, "12345");
    await symlink("file", `${place}/link`);
    const source = await openLocalSource(`${place}/link`);
    expect(source.size).toBe(5);
    expect(source.modified.getTime()).toBe((await stat(`${place}/file`)).mtime.getTime());
    await assertUnchanged(source.handle, source.stats);
    await source.handle.close();
  });

  test("a missing file, also below a file, is FILE_NOT_FOUND; a directory, FIFO or link loop NOT_A_FILE, without waiting", async () => {
    await writeFile(`${place}/file`, "");
    execFileSync("mkfifo", [`${place}/fifo`]);
    await symlink("loop", `${place}/loop`);
    const codeOf = async (name: string): Promise<string> => (await stowageErrorOf(openLocalSource(`${place}/${name}`))).code;
    expect(await codeOf("nothing")).toBe("FILE_NOT_FOUND");
    expect(await codeOf("file/below")).toBe("FILE_NOT_FOUND");
    expect(await codeOf(".")).toBe("NOT_A_FILE");
    expect(await codeOf("fifo")).toBe("NOT_A_FILE");
    expect(await codeOf("loop")).toBe("NOT_A_FILE");
  });

  test("a source that is cut while it is read is SHORT_SOURCE; one that grows or is rewritten SOURCE_CHANGED", async () => {
    await writeFile(`${place}/file`, "1234567890");
    const open = async () => openLocalSource(`${place}/file`);
    const cut = await open();
    await truncate(`${place}/file`, 3);
    expect((await stowageErrorOf(assertUnchanged(cut.handle, cut.stats))).code).toBe("SHORT_SOURCE");
    await cut.handle.close();

    const grown = await open();
    await appendFile(`${place}/file`, "more");
    expect((await stowageErrorOf(assertUnchanged(grown.handle, grown.stats))).code).toBe("SOURCE_CHANGED");
    await grown.handle.close();

    const rewritten = await open();
    await new Promise((resolve) => setTimeout(resolve, 20));
    await writeFile(`${place}/file`, "7654321");
    expect((await stowageErrorOf(assertUnchanged(rewritten.handle, rewritten.stats))).code).toBe("SOURCE_CHANGED");
    await rewritten.handle.close();
  });

  test("a change of mode is no change of content", async () => {
    await writeFile(`${place}/file`, "x");
    const source = await openLocalSource(`${place}/file`);
    await chmod(`${place}/file`, 0o600);
    await assertUnchanged(source.handle, source.stats);
    await source.handle.close();
  });
});

describe("making directories", () => {
  test.each(["process", "power"] as const)("makes all that is missing (%s), and is content with what is there", async (durability) => {
    await ensureLocalDirectory(`${place}/a/b/c`, durability);
    await ensureLocalDirectory(`${place}/a/b/c`, durability);
    expect((await stat(`${place}/a/b/c`)).isDirectory()).toBe(true);
  });

  test("a file in the way is NOT_A_FILE", async () => {
    await writeFile(`${place}/file`, "");
    expect((await stowageErrorOf(ensureLocalDirectory(`${place}/file`, "process"))).code).toBe("NOT_A_FILE");
    expect((await stowageErrorOf(ensureLocalDirectory(`${place}/file/below`, "process"))).code).toBe("NOT_A_FILE");
  });
});

test("leftovers add up on an error", () => {
  const error = new Error("x");
  addLeftover(error, "one");
  addLeftover(error, "two");
  expect(leftoversOf(error)).toEqual(["one", "two"]);
  addLeftover("no object", "three");
  expect(leftoversOf("no object")).toEqual([]);
});
