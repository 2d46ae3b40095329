import { mkdir, readdir, readFile, stat, symlink, utimes } from "node:fs/promises";
import { relative } from "node:path";
import { describe, expect, test } from "vitest";
import type { Broker, OperationContext } from "../src/lib/broker.ts";
import { digestOf } from "../src/lib/digest.ts";
import { createMemoryBroker } from "../src/lib/memory-broker.ts";
import { Workspace, type WorkspaceInit } from "../src/lib/workspace.ts";
import { singleBroker } from "./support/brokers.ts";
import { statusOf, transferErrorOf } from "./support/outcomes.ts";
import { useTemporaryDirectory } from "./support/temporary-directory.ts";

const directory = useTemporaryDirectory();

function workspaceOf(init: Partial<WorkspaceInit> = {}): Workspace {
  return new Workspace({ name: "data", broker: createMemoryBroker(), brokerType: "test", ...init });
}

/** A workspace with the files `a` (5 bytes) and `b` (6 bytes). */
async function filled(init: Partial<WorkspaceInit> = {}): Promise<Workspace> {
  const workspace = workspaceOf(init);
  await workspace.uploadFiles([
    { file: "a", localPath: await directory.write("source-a", "aaaaa") },
    { file: "b", localPath: await directory.write("source-b", "bbbbbb") },
  ]);
  return workspace;
}

/** A broker every method of which fails the test. */
function untouchable(): Broker {
  const never = (): never => {
    throw new Error("the backend was touched");
  };
  const base = createMemoryBroker();
  return Object.fromEntries(
    Object.entries(base).map(([name, value]) => [name, typeof value === "function" && name !== "errorCode" ? never : value]),
  ) as unknown as Broker;
}

describe("what may not be done", () => {
  const everything = (workspace: Workspace) => ({
    upload: () => workspace.uploadFiles([{ file: "a", localPath: "/a" }]),
    download: () => workspace.downloadFiles([{ file: "a", localPath: "/nowhere/a" }]),
    move: () => workspace.moveFiles([{ file: "a", newPath: "b" }]),
    copy: () => workspace.copyFiles([{ file: "a", newPath: "b" }]),
    delete: () => workspace.deleteFiles(["a"]),
    "dry run": () => workspace.deleteFiles(["a"], { dryRun: true }),
    write: () => workspace.openWrite("a"),
    read: () => workspace.openRead("a"),
    sweep: () => Array.fromAsync(workspace.sweep()),
    "sign PUT": () => workspace.fileUrl("a", { method: "PUT" }),
    "sign GET": () => workspace.fileUrl("a", { method: "GET" }),
  });
  const refusals = async (init: Partial<WorkspaceInit>): Promise<Record<string, string>> => {
    const broker = { ...untouchable(), createSignedUrl: async () => Promise.reject(new Error("the backend was touched")) };
    const found: Record<string, string> = {};
    for (const [name, call] of Object.entries(everything(workspaceOf({ broker, ...init })))) {
      try {
        await call();
        found[name] = "allowed";
      } catch (error) {
        found[name] = (error as { code: string }).code;
      }
    }
    return found;
  };

  test("a read-only workspace refuses changes without touching the backend", async () => {
    const found = await refusals({ readOnly: true });
    const refused = Object.entries(found).filter(([, code]) => code === "READ_ONLY");
    expect(refused.map(([name]) => name)).toEqual(["upload", "move", "copy", "delete", "dry run", "write", "sweep", "sign PUT"]);
  });

  test("an archived workspace refuses everything but to look", async () => {
    expect(new Set(Object.values(await refusals({ archived: true })))).toEqual(new Set(["ARCHIVED"]));
    const workspace = workspaceOf({ archived: true, baseUrl: "https://x" });
    expect(await workspace.statFile("a")).toBeUndefined();
    expect(await Array.fromAsync(workspace.listFiles())).toEqual([]);
    expect(await workspace.fileUrl("a")).toBe("https://x/a");
  });

  test("a workspace without moves refuses them alone, and says by which setting", async () => {
    const workspace = await filled({ moveEnabled: false });
    const error = await transferErrorOf(workspace.moveFiles([{ file: "a", newPath: "c" }]));
    expect(error.code).toBe("READ_ONLY");
    expect(error.message).toContain("moveEnabled");
    expect((await workspace.copyFiles([{ file: "a", newPath: "c" }])).map(statusOf)).toEqual(["done"]);
  });

  test("a refused batch has an outcome for every item", async () => {
    const error = await transferErrorOf(workspaceOf({ readOnly: true }).deleteFiles(["a", "b"]));
    expect(error.outcomes.map(statusOf)).toEqual(["failed READ_ONLY", "failed READ_ONLY"]);
    await expect(workspaceOf({ readOnly: true }).deleteFiles([])).rejects.toMatchObject({ code: "READ_ONLY" });
  });

  test("what the broker cannot do is UNSUPPORTED, naming its type and the method", async () => {
    const { copyFile: _c, openRead: _r, openWrite: _w, sweep: _s, ...broker } = createMemoryBroker();
    const workspace = workspaceOf({ broker, brokerType: "tape" });
    const calls: [string, () => Promise<unknown>][] = [
      ["copyFile", () => workspace.copyFiles([{ file: "a", newPath: "b" }])],
      ["openRead", () => workspace.openRead("a")],
      ["openWrite", () => workspace.openWrite("a")],
      ["sweep", () => Array.fromAsync(workspace.sweep())],
    ];
    for (const [method, call] of calls) {
      await expect(call()).rejects.toMatchObject({
        code: "UNSUPPORTED",
        message: expect.stringMatching(new RegExp(`"tape".*${method}`, "u")),
      });
    }
    expect(workspace.getFileSystemPaths(["a"])).toBeUndefined();
    expect(await workspace.fileUrl("a", { method: "GET" })).toBeUndefined();
  });
});

describe("downloads", () => {
  test("make missing parent directories, and resolve relative paths against the working directory", async () => {
    const workspace = await filled();
    const deep = directory.join("deep", "er", "a");
    const near = directory.join("deep", "er", "b");
    const outcomes = await workspace.downloadFiles([
      { file: "a", localPath: relative(process.cwd(), deep) },
      { file: "b", localPath: near },
    ]);
    expect(outcomes.map(statusOf)).toEqual(["done", "done"]);
    expect(await readFile(deep, "utf8")).toBe("aaaaa");
    expect(await readFile(near, "utf8")).toBe("bbbbbb");
  });

  test("into something that is no directory fail their item alone", async () => {
    const workspace = await filled();
    const file = await directory.write("in-the-way", "x");
    const error = await transferErrorOf(
      workspace.downloadFiles([
        { file: "a", localPath: `${file}/a` },
        { file: "b", localPath: directory.join("fine") },
      ]),
    );
    expect(error.outcomes.map(statusOf)).toEqual(["failed NOT_A_FILE", "done"]);
  });

  test("pass `partial` on only when the consumer mounts the workspace", async () => {
    const seen: unknown[] = [];
    const memory = singleBroker();
    const broker: Broker = {
      ...memory,
      downloadFile: (download, context) => {
        seen.push(download.partial);
        return memory.downloadFile(download, context);
      },
    };
    const workspace = await filled({ broker });
    const items = [{ file: "a", localPath: directory.join("partial"), partial: true }];
    await workspace.downloadFiles(items);
    await workspace.downloadFiles(items, { linkPartial: true });
    await workspace.downloadFiles([{ ...items[0]!, partial: false }], { linkPartial: true });
    expect(seen).toEqual([undefined, true, undefined]);
  });

  test("of files with control characters in their names work; they cannot be targets", async () => {
    const memory = singleBroker();
    const names: string[] = [];
    const broker: Broker = {
      ...memory,
      deleteFile: async (file) => {
        names.push(file.path);
        return "deleted";
      },
    };
    const workspace = workspaceOf({ broker });
    expect((await workspace.deleteFiles(["tab\there"])).map(statusOf)).toEqual(["done"]);
    expect(names).toEqual(["tab\there"]);
    const error = await transferErrorOf(workspace.moveFiles([{ file: "tab\there", newPath: "also\nhere" }]));
    expect(error.outcomes.map(statusOf)).toEqual(["failed INVALID_PATH"]);
  });
});

describe("moves", () => {
  test("onto an existing file fail unless asked to replace or skip", async () => {
    const workspace = await filled();
    const moves = [{ file: "a", newPath: "b" }];
    expect((await transferErrorOf(workspace.moveFiles(moves))).outcomes.map(statusOf)).toEqual(["failed FILE_EXISTS"]);
    expect((await workspace.moveFiles(moves, { ifExists: "skip" })).map(statusOf)).toEqual(["skipped exists"]);
    expect((await workspace.statFile("a"))?.size).toBe(5);
    expect((await workspace.moveFiles(moves, { ifExists: "replace" })).map(statusOf)).toEqual(["done"]);
    expect([(await workspace.statFile("b"))?.size, await workspace.statFile("a")]).toEqual([5, undefined]);
  });

  test("onto itself do nothing, after a look whether it exists", async () => {
    const memory = createMemoryBroker();
    const untouched = {
      ...memory,
      moveFile: () => Promise.reject(new Error("moved")),
      moveFiles: () => Promise.reject(new Error("moved")),
    };
    const workspace = await filled({ broker: untouched as unknown as Broker });
    const [outcome] = await workspace.moveFiles([{ file: "a", newPath: "a" }]);
    expect(outcome).toMatchObject({ status: "done", method: "rename", bytes: 5, file: { path: "a" } });
    const missing = await transferErrorOf(workspace.moveFiles([{ file: "zz", newPath: "zz" }]));
    expect(missing.outcomes.map(statusOf)).toEqual(["failed FILE_NOT_FOUND"]);
    expect(await workspace.copyFiles([{ file: "a", newPath: "a" }])).toMatchObject([{ status: "done", method: "copy" }]);
  });
});

describe("skip-same", () => {
  test("skips an upload whose target has the same size and digest, or the same size and time, and replaces others", async () => {
    const workspace = await filled();
    const local = await directory.write("again-a", "aaaaa");
    const skip = { ifExists: "skip-same" } as const;
    // Another time, but the digest that the broker knows is that of the local bytes.
    await utimes(local, new Date(), new Date(0));
    expect((await workspace.uploadFiles([{ file: "a", localPath: local }], skip)).map(statusOf)).toEqual(["skipped same"]);
    const changed = await directory.write("changed-a", "AAAAA");
    await utimes(changed, new Date(), new Date(1));
    expect((await workspace.uploadFiles([{ file: "a", localPath: changed }], skip)).map(statusOf)).toEqual(["done"]);
    expect((await workspace.uploadFiles([{ file: "new", localPath: changed }], skip)).map(statusOf)).toEqual(["done"]);
    const longer = await directory.write("longer-a", "AAAAAA");
    expect((await workspace.uploadFiles([{ file: "a", localPath: longer }], skip)).map(statusOf)).toEqual(["done"]);
  });

  test("by time, where the broker knows no digest", async () => {
    const memory = singleBroker();
    const broker: Broker = {
      ...memory,
      async statFile(file, context) {
        const details = await memory.statFile(file, context);
        return details && { ...details, file: { ...details.file, digest: undefined } };
      },
    };
    const workspace = workspaceOf({ broker });
    const local = await directory.write("timed", "12345");
    const items = [{ file: "a", localPath: local }];
    const skip = { ifExists: "skip-same" } as const;
    await workspace.uploadFiles(items);
    expect((await workspace.uploadFiles(items, skip)).map(statusOf)).toEqual(["skipped same"]);
    const { mtime } = await stat(local);
    await utimes(local, mtime, new Date(mtime.getTime() + 1));
    expect((await workspace.uploadFiles(items, skip)).map(statusOf)).toEqual(["done"]);
  });

  test("skips a download that is there already, and what a caller's digest proves", async () => {
    const workspace = await filled();
    const target = directory.join("down-a");
    const items = [{ file: "a", localPath: target }];
    const skip = { ifExists: "skip-same" } as const;
    expect((await workspace.downloadFiles(items, skip)).map(statusOf)).toEqual(["done"]);
    expect((await workspace.downloadFiles(items, skip)).map(statusOf)).toEqual(["skipped same"]);
    // Same size and time, other bytes: without a promise of the caller, the time is believed.
    const { mtime } = await stat(target);
    await directory.write("down-a", "xxxxx");
    await utimes(target, mtime, mtime);
    expect((await workspace.downloadFiles(items, skip)).map(statusOf)).toEqual(["skipped same"]);
    const digest = digestOf(Buffer.from("aaaaa"), "sha256");
    const promised = [{ file: { path: "a", digest }, localPath: target }];
    expect((await workspace.downloadFiles(promised, skip)).map(statusOf)).toEqual(["done"]);
    expect(await readFile(target, "utf8")).toBe("aaaaa");
    expect((await workspace.downloadFiles(promised, skip)).map(statusOf)).toEqual(["skipped same"]);
  });

  test("replaces a local symbolic link, it is never the same", async () => {
    const workspace = await filled();
    await symlink(await directory.write("linked", "aaaaa"), directory.join("link"));
    const [outcome] = await workspace.downloadFiles([{ file: "a", localPath: directory.join("link") }], { ifExists: "skip-same" });
    expect(outcome?.status).toBe("done");
  });

  test("of a move leaves the source alone when the target is the same", async () => {
    const workspace = await filled();
    await workspace.copyFiles([{ file: "a", newPath: "c" }]);
    const skip = { ifExists: "skip-same" } as const;
    expect((await workspace.moveFiles([{ file: "a", newPath: "c" }], skip)).map(statusOf)).toEqual(["skipped same"]);
    expect(await workspace.statFile("a")).toBeDefined();
    expect((await workspace.moveFiles([{ file: "a", newPath: "b" }], skip)).map(statusOf)).toEqual(["done"]);
  });
});

describe("a dry run", () => {
  test("of uploads tells bytes, what would be replaced, and what is missing or no file, and changes nothing", async () => {
    const workspace = await filled();
    const local = await directory.write("dry", "1234567");
    const items = [
      { file: "a", localPath: local },
      { file: "new", localPath: local },
      { file: "c", localPath: directory.join("missing") },
      { file: "d", localPath: directory.path },
      { file: "../e", localPath: local },
      { file: "twice", localPath: local },
      { file: "twice", localPath: local },
      { file: { path: "f", size: 9 }, localPath: local },
    ];
    const error = await transferErrorOf(workspace.uploadFiles(items, { dryRun: true }));
    expect(error.outcomes.map(statusOf)).toEqual([
      "planned",
      "planned",
      "failed FILE_NOT_FOUND",
      "failed NOT_A_FILE",
      "failed INVALID_PATH",
      "failed CONFLICT",
      "failed CONFLICT",
      "failed SHORT_SOURCE",
    ]);
    expect(error.outcomes.slice(0, 2)).toMatchObject([
      { bytes: 7, wouldReplace: true },
      { bytes: 7, wouldReplace: false },
    ]);
    expect((await workspace.statFile("a"))?.size).toBe(5);
    expect(await workspace.statFile("new")).toBeUndefined();
  });

  test.each([
    ["fail", "failed FILE_EXISTS"],
    ["skip", "skipped exists"],
    ["skip-same", "skipped same"],
    ["replace", "planned"],
  ] as const)("with ifExists %s says %s", async (ifExists, expected) => {
    const workspace = await filled();
    const local = directory.join("source-a");
    const options = { dryRun: true, ifExists } as const;
    const outcomesOf = (run: Promise<{ status: string }[]>) => run.catch((error: { outcomes: { status: string }[] }) => error.outcomes);
    await workspace.copyFiles([{ file: "a", newPath: "a2" }]);
    await workspace.downloadFiles([{ file: "a", localPath: directory.join("dry-down") }]);
    const runs = [
      () => workspace.uploadFiles([{ file: "a", localPath: local }], options),
      () => workspace.downloadFiles([{ file: "a", localPath: directory.join("dry-down") }], options),
      () => workspace.moveFiles([{ file: "a", newPath: "a2" }], options),
      () => workspace.copyFiles([{ file: "a", newPath: "a2" }], options),
    ];
    for (const run of runs) expect((await outcomesOf(run())).map((outcome) => statusOf(outcome as never))).toEqual([expected]);
  });

  test("of downloads makes no directory, and knows when there is no room", async () => {
    const memory = singleBroker();
    const broker: Broker = {
      ...memory,
      async statFile(file, context: OperationContext) {
        const details = await memory.statFile(file, context);
        return details && (file.path === "b" ? { ...details, size: 2 ** 60 } : details);
      },
    };
    const workspace = await filled({ broker });
    const error = await transferErrorOf(
      workspace.downloadFiles(
        [
          { file: "a", localPath: directory.join("plan", "a") },
          { file: "b", localPath: directory.join("plan", "b") },
          { file: "zz", localPath: directory.join("plan", "z") },
        ],
        { dryRun: true },
      ),
    );
    expect(error.outcomes.map(statusOf)).toEqual(["planned", "failed NO_SPACE", "failed FILE_NOT_FOUND"]);
    expect(await readdir(directory.path)).not.toContain("plan");
  });

  test("of moves and deletions looks and changes nothing", async () => {
    const workspace = await filled();
    const error = await transferErrorOf(
      workspace.moveFiles(
        [
          { file: "a", newPath: "c" },
          { file: "zz", newPath: "y" },
          { file: "b", newPath: "b" },
        ],
        { dryRun: true },
      ),
    );
    expect(error.outcomes.map(statusOf)).toEqual(["planned", "failed FILE_NOT_FOUND", "planned"]);
    const onto = await transferErrorOf(workspace.moveFiles([{ file: "a", newPath: "b" }], { dryRun: true }));
    expect(onto.outcomes.map(statusOf)).toEqual(["failed FILE_EXISTS"]);
    expect(error.outcomes[0]).toMatchObject({ bytes: 5, wouldReplace: false });
    const deletions = await workspace.deleteFiles(["a", "zz"], { dryRun: true });
    expect(deletions.map(statusOf)).toEqual(["planned", "skipped missing"]);
    expect((await workspace.statFile("a"))?.size).toBe(5);
  });

  test("calls no store hook", async () => {
    const workspace = await filled();
    const store = (): never => {
      throw new Error("called");
    };
    expect((await workspace.deleteFiles(["a"], { dryRun: true, store })).map(statusOf)).toEqual(["planned"]);
  });
});

test("uploads of a directory, a missing file and a file fail or succeed by themselves", async () => {
  await mkdir(directory.join("folder"), { recursive: true });
  const local = await directory.write("plain", "x");
  const error = await transferErrorOf(
    workspaceOf().uploadFiles([
      { file: "a", localPath: directory.join("folder") },
      { file: "b", localPath: directory.join("nothing") },
      { file: "c", localPath: relative(process.cwd(), local) },
    ]),
  );
  expect(error.outcomes.map(statusOf)).toEqual(["failed NOT_A_FILE", "failed FILE_NOT_FOUND", "done"]);
});

test.each(["in a batch", "one by one"])("a deletion whose first answer was lost counts as done (%s)", async (form) => {
  const memory = createMemoryBroker();
  let answers = 0;
  const lose = <T>(value: T): T => {
    if (answers++ === 0) throw Object.assign(new Error("the answer was lost"), { code: "ECONNRESET" });
    return value;
  };
  const { deleteFiles, ...single } = memory;
  const broker: Broker = {
    ...single,
    deleteFile: async (file, context) => lose(await memory.deleteFile(file, context)),
    ...(form === "in a batch" && {
      async *deleteFiles(files, context) {
        for await (const result of deleteFiles(files, context)) yield lose(result);
      },
    }),
  };
  const workspace = await filled({ broker });
  const [outcome] = await workspace.deleteFiles(["a"], { retry: { baseDelayMs: 1 } });
  expect(outcome).toMatchObject({ status: "done", method: "delete", attempts: 2 });
  expect(await workspace.deleteFiles(["a"])).toMatchObject([{ status: "skipped", reason: "missing" }]);
});
