import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createHostBroker, type HostBrokerConfig, hostBroker } from "@stowage/broker-host";
import { getBroker, openWorkspace, StowageError, type Workspace } from "@stowage/core";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

let scratch: string;
let root: string;
const opened: Workspace[] = [];

beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), "stowage-host-"));
  root = join(scratch, "root");
  mkdirSync(root);
});

afterEach(async () => {
  for (const workspace of opened.splice(0)) await workspace.close();
  rmSync(scratch, { recursive: true, force: true });
});

async function open(config: Partial<HostBrokerConfig> = {}, options: { volumePath?: string } = {}): Promise<Workspace> {
  const workspace = await openWorkspace(
    { name: "files", broker: { type: "host", hostPath: root, ...config } },
    { brokers: [hostBroker], ...options },
  );
  opened.push(workspace);
  return workspace;
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  const error: unknown = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!StowageError.is(error)) throw new Error(`expected a StowageError, got ${String(error)}`);
  return error.code;
}

describe("files", () => {
  test.each(["auto", "inline", "process"] as const)(
    "go in, are found, listed, moved, copied, fetched and deleted (executor %s)",
    async (executor) => {
      const workspace = await open({ executor });
      const local = join(scratch, "local.txt");
      writeFileSync(local, "content");
      const [stored] = await workspace.uploadFiles([{ localPath: local, file: "a/b/first.txt" }]);
      expect(stored).toMatchObject({ status: "done", bytes: 7, verified: "length", file: { path: "a/b/first.txt", size: 7 } });
      expect(readFileSync(join(root, "a/b/first.txt"), "utf8")).toBe("content");

      expect(await workspace.statFile("a/b/first.txt")).toMatchObject({ size: 7, modified: statSync(local).mtime });
      expect(await workspace.statFile("a/b")).toBeUndefined();
      await workspace.moveFiles([{ file: "a/b/first.txt", newPath: "c/second.txt" }]);
      await workspace.copyFiles([{ file: "c/second.txt", newPath: "c/third.txt" }]);
      const listed = [];
      for await (const entry of workspace.listFiles("", { recursive: true })) listed.push(entry.file.path);
      expect(listed).toEqual(["c/second.txt", "c/third.txt"]);

      const fetched = join(scratch, "fetched.txt");
      await workspace.downloadFiles([{ file: "c/third.txt", localPath: fetched }]);
      expect(readFileSync(fetched, "utf8")).toBe("content");
      const deleted = await workspace.deleteFiles(["c/third.txt", "c/none.txt"]);
      expect(deleted.map(({ status }) => status)).toEqual(["done", "skipped"]);
      expect(workspace.getFileSystemPaths(["c/second.txt"])).toEqual([join(root, "c/second.txt")]);
    },
  );

  test.each(["inline", "process"] as const)("are read and written as streams (executor %s)", async (executor) => {
    const workspace = await open({ executor });
    const content = Buffer.alloc(3_000_000, "0123456789");
    const writer = await workspace.openWrite("big.bin", { size: content.length });
    for (let position = 0; position < content.length; position += 700_000)
      await writer.write(content.subarray(position, position + 700_000));
    await writer.commit();
    const reader = await workspace.openRead("big.bin");
    const chunks: Uint8Array[] = [];
    for await (const chunk of reader) chunks.push(chunk);
    await reader.close();
    expect(Buffer.concat(chunks).equals(content)).toBe(true);
    const range = await workspace.openRead("big.bin", { range: { start: 5, end: 12 } });
    const part: Uint8Array[] = [];
    for await (const chunk of range) part.push(chunk);
    await range.close();
    expect(Buffer.concat(part).toString()).toBe("5678901");
  });

  test("get the configured modes whatever the umask, and directories theirs", async () => {
    const before = process.umask(0o077);
    try {
      const workspace = await open({ fileMode: "0640", directoryMode: 0o750 });
      writeFileSync(join(scratch, "local"), "x");
      await workspace.uploadFiles([{ localPath: join(scratch, "local"), file: "made/file" }]);
    } finally {
      process.umask(before);
    }
    expect(statSync(join(root, "made")).mode & 0o777).toBe(0o750);
    expect(statSync(join(root, "made/file")).mode & 0o777).toBe(0o640);
  });

  test("leave no folder of records behind once the workspace is closed", async () => {
    const workspace = await open();
    writeFileSync(join(scratch, "local"), "x");
    await workspace.uploadFiles([{ localPath: join(scratch, "local"), file: "file" }]);
    opened.pop();
    await workspace.close();
    expect(readdirSync(root)).toEqual(["file"]);
  });

  test("outside of the directory are not reached through links", async () => {
    writeFileSync(join(scratch, "secret"), "secret");
    symlinkSync(join(scratch, "secret"), join(root, "out"));
    symlinkSync(scratch, join(root, "up"));
    const workspace = await open();
    expect(await codeOf(workspace.downloadFiles([{ file: "out", localPath: join(scratch, "stolen") }]))).toBe("PERMISSION_DENIED");
    expect(await codeOf(workspace.downloadFiles([{ file: "up/secret", localPath: join(scratch, "stolen") }]))).toBe("PERMISSION_DENIED");
    expect(existsSync(join(scratch, "stolen"))).toBe(false);
    expect(await codeOf(workspace.deleteFiles(["out"]))).toBe("NOT_A_FILE");
    expect(await codeOf(workspace.deleteFiles(["up/secret"]))).toBe("PERMISSION_DENIED");
    expect(readFileSync(join(scratch, "secret"), "utf8")).toBe("secret");
    expect(lstatSync(join(root, "up")).isSymbolicLink()).toBe(true);
  });
});

describe("a volume path", () => {
  test("takes the place of the host path, and must be a mount", async () => {
    // The temporary directory may be a mount of its own; this is part of the system wherever it runs.
    expect(await codeOf(open({ hostPath: "/nowhere" }, { volumePath: "/usr" }))).toBe("VOLUME_NOT_MOUNTED");
    const workspace = await open({ hostPath: "/nowhere" }, { volumePath: "/dev/shm" });
    expect(workspace.volume).toEqual({ kind: "bind", source: "/nowhere" });
  });

  test("is where the files' paths in the file system begin", async () => {
    const workspace = await open({ hostPath: "/nowhere" }, { volumePath: "/dev/shm" });
    expect(workspace.getFileSystemPaths(["x/y"])).toEqual(["/dev/shm/x/y"]);
  });
});

describe("the definition", () => {
  test("is in the types of the registry", () => {
    const typed: () => typeof hostBroker = () => getBroker("host");
    expect(typed).toBeTypeOf("function");
  });

  test("names the directory to mount without looking at it", () => {
    expect(hostBroker.volume!({ hostPath: "/does//not/exist/" })).toEqual({ kind: "bind", source: "/does/not/exist" });
  });
});

describe("host roots", () => {
  test("refuse what lies elsewhere when the configuration is parsed", () => {
    const bounded = createHostBroker({ hostRoots: ["/data/", "/srv/x"] });
    expect(bounded.config.safeParse({ hostPath: "/data" }).success).toBe(true);
    expect(bounded.config.safeParse({ hostPath: "/data/a" }).success).toBe(true);
    expect(bounded.config.safeParse({ hostPath: "/database" }).success).toBe(false);
    expect(bounded.config.safeParse({ hostPath: "/srv" }).success).toBe(false);
    expect(createHostBroker({ hostRoots: [] }).config.safeParse({ hostPath: "/data" }).success).toBe(false);
  });

  test("refuse what only seems to lie inside", async () => {
    symlinkSync("/usr", join(root, "elsewhere"));
    const bounded = createHostBroker({ hostRoots: [root] });
    const opening = openWorkspace({ name: "w", broker: { type: "host", hostPath: join(root, "elsewhere") } }, { brokers: [bounded] });
    expect(await codeOf(opening)).toBe("INVALID_CONFIGURATION");
    mkdirSync(join(root, "inside"));
    const workspace = await openWorkspace({ name: "w", broker: { type: "host", hostPath: join(root, "inside") } }, { brokers: [bounded] });
    await workspace.close();
  });

  test("may hold the whole file system, which is refused otherwise", () => {
    expect(hostBroker.config.safeParse({ hostPath: "//" }).success).toBe(false);
    expect(createHostBroker({ hostRoots: ["/"] }).config.safeParse({ hostPath: "/" }).success).toBe(true);
  });

  test("that are relative are refused at once", () => {
    expect(() => createHostBroker({ hostRoots: ["data"] })).toThrow(/relative/);
  });
});

describe("a configuration", () => {
  test.each([
    [{}, /hostPath/],
    [{ hostPath: "" }, /empty/],
    [{ hostPath: "data" }, /relative/],
    [{ hostPath: "/data/../etc" }, /segment/],
    [{ hostPath: "/a\0b" }, /NUL/],
    [{ hostPath: "/data", fileMode: 644 }, /octal/],
    [{ hostPath: "/data", fileMode: "rw-r--r--" }, /octal/],
    [{ hostPath: "/data", fileMode: "0044" }, /owner/],
    [{ hostPath: "/data", directoryMode: "0600" }, /owner/],
    [{ hostPath: "/data", executor: "threads" }, /executor/],
    [{ hostPath: "/data", host_path: "/data" }, /host_path/],
  ])("%j is refused with a reason", (config, reason) => {
    const result = hostBroker.config.safeParse(config);
    expect(result.success).toBe(false);
    expect(JSON.stringify(result.error?.issues)).toMatch(reason);
  });
});

describe("validation", () => {
  const context = { signal: new AbortController().signal };

  test("finds nothing wrong with a directory that can be written to, and leaves it as it is", async () => {
    expect(await hostBroker.validate!({ hostPath: root }, context)).toEqual([]);
    expect(readdirSync(root)).toEqual([]);
  });

  test("warns of a missing directory, and of a missing mount", async () => {
    expect(await hostBroker.validate!({ hostPath: join(root, "none") }, context)).toMatchObject([{ name: "host_path_access" }]);
    expect(await hostBroker.validate!({ hostPath: "/usr", requireMount: true }, context)).toMatchObject([{ name: "host_path_access" }]);
  });

  test("warns of a directory that nothing can be written to", async () => {
    expect(await hostBroker.validate!({ hostPath: "/proc/self" }, context)).toMatchObject([{ name: "host_path_read_only" }]);
  });

  test("refuses a file", async () => {
    writeFileSync(join(root, "file"), "");
    await expect(hostBroker.validate!({ hostPath: join(root, "file") }, context)).rejects.toMatchObject({ code: "INVALID_CONFIGURATION" });
  });
});
