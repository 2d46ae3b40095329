import { execFileSync, fork } from "node:child_process";
import { existsSync, linkSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { haveCommand } from "../../../test/support/debian-packages.ts";
import type { BatchResult } from "../src/lib/broker.ts";
import { isFilePath } from "../src/lib/file-path.ts";
import type { PosixCommand } from "../src/lib/posix/posix-commands.ts";
import {
  bytes,
  copy,
  download,
  hooks,
  isLinux,
  isRoot,
  move,
  openDescriptors,
  PosixFixture,
  run,
  upload,
  write,
} from "./support/posix-volume.ts";

const code = (expected: string) => expect.objectContaining({ code: expected });
const KIB = 1024;

let fixture: PosixFixture;
beforeEach(() => {
  fixture = new PosixFixture();
});
afterEach(() => fixture.remove());

const operationsUrl = JSON.stringify(new URL("../src/lib/posix/posix-operations.ts", import.meta.url).href);

/** The start of a program that works on a volume like a child of ours. */
const prelude = `
  import { openPosixOperations } from ${operationsUrl};
  const [root, ...rest] = process.argv.slice(2);
  const operations = openPosixOperations({ rootPath: root, symlinks: "inside", fileMode: 0o644, directoryMode: 0o755, fuseWrites: "refuse" },
    { changeDirectory: true, beforeTemporary: () => {} });
  const hooks = { signal: new AbortController().signal, progress: () => {} };
  const policy = { ifExists: "replace", durability: "process", checksum: "auto" };
`;

function program(name: string, body: string): string {
  return fixture.localFile(name, prelude + body);
}

describe("publishing", () => {
  test.each([1, 300])("a reader of a file that is being replaced sees the old or the new one, whole (%i KiB)", async (kib) => {
    const operations = fixture.open();
    const contents = [bytes(kib * KIB, 1), bytes(kib * KIB, 2)];
    const sources = contents.map((content, index) => fixture.localFile(`source${index}`, content));
    await run(operations, upload(sources[0]!, "file"));
    const path = join(fixture.root, "file");
    // The reader is another process: in this one reads and renames would take turns.
    const reader = fork(
      fixture.localFile(
        "reader.mjs",
        `import { readFileSync } from "node:fs";
         const [path, ...known] = process.argv.slice(2);
         const contents = known.map((name) => readFileSync(name));
         let reads = 0, seen = new Set(), broken = 0, isEnding = false;
         process.on("message", () => { isEnding = true; });
         const look = () => {
           for (let index = 0; index < 20; index++) {
             const content = readFileSync(path);
             const which = contents.findIndex((candidate) => candidate.equals(content));
             if (which < 0) broken++; else seen.add(which);
             reads++;
           }
           if (isEnding) { process.send({ reads, broken, seen: seen.size }); process.disconnect(); } else setImmediate(look);
         };
         process.send("ready");
         look();`,
      ),
      [path, ...sources],
    );
    await new Promise((resolve) => reader.once("message", resolve));
    const until = performance.now() + 1500;
    let rounds = 0;
    while (performance.now() < until) {
      await run(operations, upload(sources[++rounds % 2]!, "file"));
      await run(operations, copy("file", "file2"));
      await run(operations, move("file2", "file", { ifExists: "replace" }));
      await new Promise((resolve) => setImmediate(resolve));
    }
    const report = new Promise<{ reads: number; broken: number; seen: number }>((resolve) =>
      reader.once("message", (message) => resolve(message as never)),
    );
    reader.send("end");
    expect(await report).toMatchObject({ broken: 0, seen: 2 });
    expect((await report).reads).toBeGreaterThan(100);
  });

  test.each(["fail", "skip"] as const)("of twenty that store one file at the same moment with %s exactly one wins", async (ifExists) => {
    const racer = program(
      "racer.mts",
      `const { file } = { file: (path) => ({ path }) };
       process.on("message", async ({ round, sources }) => {
         const results = await Promise.all(sources.map((localPath, index) => operations.run({ ...policy, verb: "upload", ifExists: ${JSON.stringify(ifExists)},
           localPath, file: file("race/" + round), temporaryName: ".stowage-" + process.pid + "-" + round + "-" + index }, hooks)
           .then(() => localPath, (error) => error.code)));
         process.send(results);
       });
       process.send("ready");`,
    );
    const racers = [1, 2].map(() => fork(racer, [fixture.root]));
    await Promise.all(racers.map((child) => new Promise((resolve) => child.once("message", resolve))));
    const sources = Array.from({ length: 20 }, (_, index) =>
      fixture.localFile(`source${index}`, bytes(index % 3 === 0 ? 300 * KIB : 50, index)),
    );
    try {
      for (let round = 0; round < 25; round++) {
        const answers = racers.map(
          (child) => new Promise<string[]>((resolve) => child.once("message", (message) => resolve(message as string[]))),
        );
        for (const [index, child] of racers.entries()) child.send({ round, sources: sources.slice(index * 10, index * 10 + 10) });
        const results = (await Promise.all(answers)).flat();
        const winners = results.filter((result) => result.startsWith("/"));
        expect(winners, JSON.stringify(results)).toHaveLength(1);
        expect(results.filter((result) => result === "FILE_EXISTS")).toHaveLength(19);
        expect(readFileSync(join(fixture.root, `race/${round}`)).equals(readFileSync(winners[0]!))).toBe(true);
        expect(statSync(join(fixture.root, `race/${round}`)).nlink).toBe(1);
      }
    } finally {
      for (const child of racers) child.kill("SIGKILL");
    }
    expect(fixture.temporaryNames()).toEqual([]);
  });

  test("of twenty that move to one path in one process exactly one wins, and the others keep their files", async () => {
    const operations = fixture.open();
    for (let index = 0; index < 20; index++) fixture.storedFile(`from/${index}`, String(index));
    const results = await Promise.allSettled(Array.from({ length: 20 }, (_, index) => run(operations, move(`from/${index}`, "to"))));
    expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    expect(fixture.names().filter((name) => name.startsWith("from/"))).toHaveLength(19);
    expect(existsSync(join(fixture.root, `from/${fixture.read("to")}`))).toBe(false);
  });

  test("a name that is there with our own file already, as after a lost reply, is success", async () => {
    const operations = fixture.open();
    const source = fixture.localFile("source", bytes(300 * KIB));
    let isLinked = false;
    // Between writing and publishing somebody links our temporary file to the target: what a server does whose answer got lost.
    const progress = (): void => {
      if (isLinked) return;
      isLinked = true;
      linkSync(join(fixture.root, ".stowage-ours"), join(fixture.root, "file"));
    };
    await run(operations, upload(source, "file", { ifExists: "fail", temporaryName: ".stowage-ours" }), { progress });
    expect(isLinked).toBe(true);
    expect(readFileSync(join(fixture.root, "file")).equals(bytes(300 * KIB))).toBe(true);
    expect(fixture.names()).toEqual(["file"]);
  });

  test("what is stored is never opened by its final name: a reader's handle on the old file keeps it", async () => {
    const operations = fixture.open();
    await run(operations, upload(fixture.localFile("one", "one"), "file"));
    const { ino } = statSync(join(fixture.root, "file"));
    const held = await operations.openRead({ file: { path: "file" as never } }, hooks());
    await run(operations, upload(fixture.localFile("two", "two"), "file"));
    expect(statSync(join(fixture.root, "file")).ino).not.toBe(ino);
    const chunks: Uint8Array[] = [];
    for await (const chunk of held) chunks.push(chunk);
    expect(Buffer.concat(chunks).toString()).toBe("one");
    await held.close();
  });
});

const hasStrace = isLinux && haveCommand("strace", "strace");

describe.skipIf(!hasStrace)("durability, by the system calls that are made (needs strace)", () => {
  /** What reaches the disk and what changes names, in order, with the root as `/`. */
  function trace(body: string): string[] {
    const script = program("traced.mts", `${body}\nawait operations.close();`);
    const output = join(fixture.folder, "trace");
    const calls = "fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat";
    execFileSync(
      "strace",
      ["-f", "-y", "-qq", "-s", "300", "-e", `trace=${calls}`, "-o", output, process.execPath, script, fixture.root, fixture.local],
      {
        stdio: ["ignore", "inherit", "pipe"],
      },
    );
    const steps: string[] = [];
    for (const line of readFileSync(output, "utf8").split("\n")) {
      const call = /^\d+ +(?:<\.\.\. )?(\w+)\b(.*)$/.exec(line);
      if (call === null || line.includes("resumed") || line.includes(" = -1 ")) continue;
      const [, name, rest] = call;
      const shown = rest!.split(fixture.root).join("").split(fixture.local).join("LOCAL");
      const file = /<([^>]*)>/.exec(shown)?.[1] ?? "";
      if (name === "fsync" || name === "fdatasync") steps.push(`sync ${file === "" ? "/" : file}`);
      else steps.push(name!.replace(/at2?$/, ""));
    }
    return steps;
  }

  const stored = (ifExists: string, durability: string): string => `
    import { writeFileSync } from "node:fs";
    writeFileSync(rest[0] + "/source", "content");
    await operations.run({ ...policy, ifExists: "${ifExists}", durability: "${durability}", verb: "upload", localPath: rest[0] + "/source",
      file: { path: "a/b/file" }, temporaryName: ".stowage-t" }, hooks);
  `;

  test("power syncs the file before it gets its name, then its directory and every one that was made", () => {
    expect(trace(stored("replace", "power"))).toEqual([
      "mkdir",
      "mkdir",
      "sync /a/b/.stowage-t",
      "rename",
      "sync /a/b",
      "sync /a",
      "sync /",
    ]);
  });

  test("power syncs a new name, too", () => {
    expect(trace(stored("fail", "power"))).toEqual([
      "mkdir",
      "mkdir",
      "sync /a/b/.stowage-t",
      "link",
      "unlink",
      "sync /a/b",
      "sync /a",
      "sync /",
    ]);
  });

  test("power syncs the directories above once for each that is held, also when somebody else has made them", () => {
    mkdirSync(join(fixture.root, "a/b"), { recursive: true });
    expect(
      trace(
        stored("replace", "power") +
          stored("replace", "power")
            .replace(/import.*/, "")
            .replace("a/b/file", "a/b/second"),
      ),
    ).toEqual(["sync /a/b/.stowage-t", "rename", "sync /a/b", "sync /a", "sync /", "sync /a/b/.stowage-t", "rename", "sync /a/b"]);
  });

  test("process syncs nothing", () => {
    expect(trace(stored("replace", "process"))).toEqual(["mkdir", "mkdir", "rename"]);
    expect(trace(stored("fail", "process").replaceAll("a/b/file", "a/b/new"))).toEqual(["link", "unlink"]);
  });

  test("power syncs what is downloaded, linked, written, moved and deleted", () => {
    fixture.storedFile("a/file", "content");
    expect(
      trace(
        `await operations.run({ ...policy, durability: "power", verb: "download", partial: false, file: { path: "a/file" }, localPath: rest[0] + "/file", temporaryName: ".stowage-t" }, hooks);`,
      ),
    ).toEqual(["sync LOCAL/.stowage-t", "rename", "sync LOCAL"]);
    expect(
      trace(
        `await operations.run({ ...policy, durability: "power", verb: "download", partial: true, file: { path: "a/file" }, localPath: rest[0] + "/link", temporaryName: ".stowage-t" }, hooks);`,
      ),
    ).toEqual(["rename", "sync LOCAL"]);
    expect(
      trace(`const writer = await operations.openWrite({ ...policy, durability: "power", file: { path: "w/file" }, temporaryName: ".stowage-t" }, hooks);
        await writer.write(Buffer.from("x")); await writer.commit();`),
    ).toEqual(["mkdir", "sync /w/.stowage-t", "rename", "sync /w", "sync /"]);
    expect(
      trace(
        `await operations.run({ ...policy, durability: "power", verb: "move", ifExists: "fail", file: { path: "a/file" }, newPath: "m/file", temporaryName: ".stowage-t" }, hooks);`,
      ),
    ).toEqual(["mkdir", "sync /a/file", "link", "unlink", "sync /m", "sync /", "sync /a", "sync /"]);
    expect(trace(`await operations.run({ verb: "delete", durability: "power", file: { path: "m/file" } }, hooks);`)).toEqual([
      "unlink",
      "sync /m",
      "sync /",
    ]);
  });

  test.skipIf(!isRoot)("a move to another file system syncs the copy before the source goes, whatever is asked for (needs root)", () => {
    fixture.storedFile("a/file", "content");
    fixture.mountTmpfs(join(fixture.root, "other"), "size=1m");
    const steps = trace(
      `await operations.run({ ...policy, verb: "move", ifExists: "replace", file: { path: "a/file" }, newPath: "other/m/file", temporaryName: ".stowage-t" }, hooks);`,
    );
    expect(steps).toEqual(["mkdir", "sync /other/m/.stowage-t", "rename", "sync /other/m", "sync /other", "sync /", "unlink"]);
  });
});

describe.skipIf(!isLinux || !isRoot || !haveCommand("mkfs.xfs", "xfsprogs"))("sharing blocks (needs root, and XFS)", () => {
  test("on XFS a large file is a reflink, which says so, also with a checksum", async ({ skip }) => {
    const image = join(fixture.folder, "image");
    const mountPoint = join(fixture.folder, "xfs");
    mkdirSync(mountPoint);
    try {
      execFileSync("sh", ["-c", 'truncate -s 400M "$1" && mkfs.xfs -q "$1"', "sh", image], { stdio: "pipe" });
      fixture.mount(mountPoint, ["-o", "loop", image, mountPoint]);
    } catch (error) {
      skip(`no XFS here: ${String(error).split("\n")[0]}`);
    }
    const content = bytes(2 * KIB * KIB + 123);
    const source = join(mountPoint, "source");
    writeFileSync(source, content);
    for (const changeDirectory of [false, true]) {
      const operations = fixture.open({ rootPath: join(mountPoint) }, { changeDirectory });
      const name = `stored${changeDirectory}`;
      let moved = 0;
      const progress = (count: number): void => {
        moved += count;
      };
      expect(await run(operations, upload(source, name), { progress })).toMatchObject({ method: "reflink", verified: "length" });
      expect(moved).toBe(content.length);
      expect(await run(operations, copy(name, `${name}-copy`, { checksum: "sha256" }))).toMatchObject({
        method: "reflink",
        verified: "digest",
      });
      expect(await run(operations, download(name, join(mountPoint, `${name}-local`)))).toMatchObject({ method: "reflink" });
      for (const stored of [name, `${name}-copy`, `${name}-local`]) {
        expect(readFileSync(join(mountPoint, stored)).equals(content)).toBe(true);
        expect(statSync(join(mountPoint, stored)).mode & 0o777).toBe(0o644);
      }
      // Small files are quicker copied, and from another file system there is nothing to share.
      expect(await run(operations, upload(fixture.localFile("small"), "small"))).toMatchObject({ method: "copy" });
      expect(await run(operations, upload(fixture.localFile("large", content), "large"))).toMatchObject({ method: "copy" });
      expect(await run(operations, upload(fixture.localFile("large", content), "large"))).toMatchObject({ method: "copy" });
      expect(readFileSync(join(mountPoint, "large")).equals(content)).toBe(true);
    }
    expect(fixture.names(mountPoint).filter((name) => name.includes(".stowage"))).toEqual([]);
  });
});

describe("streams of a volume", () => {
  const WAYS = [
    { name: "in a user's process", options: { changeDirectory: false } },
    { name: "without /proc", options: { changeDirectory: false, containment: "checked" as const } },
  ].filter(({ options }) => isLinux || options.containment === "checked");

  async function read(reader: AsyncIterable<Uint8Array>): Promise<Buffer> {
    const chunks: Uint8Array[] = [];
    for await (const chunk of reader) chunks.push(chunk);
    return Buffer.concat(chunks);
  }
  const file = (path: string, facts: object = {}): { path: never } => ({ path: path as never, ...facts });

  test.each(WAYS)("write and read back any size and range, $name", async ({ options }) => {
    const operations = fixture.open({}, options);
    for (const size of [0, 1, 512 * KIB, 512 * KIB + 1, 3 * KIB * KIB + 7]) {
      const content = bytes(size);
      let moved = 0;
      const progress = (count: number): void => {
        moved += count;
      };
      const modified = new Date(1_600_000_000_123);
      const writer = await operations.openWrite(write(`a/${size}`, { size, modified }), hooks({ progress }));
      for (let start = 0; start < size; start += 700_000) {
        const chunk = Buffer.from(content.subarray(start, start + 700_000));
        await writer.write(chunk);
        chunk.fill(0);
      }
      expect(existsSync(join(fixture.root, `a/${size}`))).toBe(false);
      const details = await writer.commit();
      expect(details).toMatchObject({
        file: { path: `a/${size}`, size },
        method: "stream",
        bytes: size,
        verified: "length",
        digest: { algorithm: "crc32" },
      });
      expect(moved).toBe(size);
      expect(statSync(join(fixture.root, `a/${size}`)).mtime).toEqual(modified);
      expect(statSync(join(fixture.root, `a/${size}`)).mode & 0o777).toBe(0o644);

      for (const range of [
        undefined,
        { start: 0 },
        { start: 1, end: 2 },
        { start: size - 1 },
        { start: 5, end: 700_000 },
        { start: size },
        { start: size + 10, end: size + 20 },
      ]) {
        const reader = await operations.openRead({ file: file(`a/${size}`), range }, hooks());
        const expected = content.subarray(range?.start ?? 0, range?.end ?? size);
        expect([reader.size, reader.modified]).toEqual([expected.length, modified]);
        if (process.platform === "linux") expect(readFileSync(reader.localPath!).equals(content)).toBe(true);
        expect((await read(reader)).equals(expected)).toBe(true);
        await reader.close();
        await reader.close();
      }
    }
    expect(fixture.temporaryNames()).toEqual([]);
  });

  test("what was promised of a stream is checked at its end", async () => {
    const operations = fixture.open();
    const digest = { algorithm: "sha256" as const, value: "0".repeat(64) };
    fixture.storedFile("stored", "content");
    await expect(read(await operations.openRead({ file: file("stored", { size: 8 }) }, hooks()))).rejects.toEqual(code("SHORT_SOURCE"));
    await expect(read(await operations.openRead({ file: file("stored", { digest }) }, hooks()))).rejects.toEqual(code("CHECKSUM_MISMATCH"));
    const cases = [
      [{ size: 8 }, {}, "SHORT_SOURCE"],
      [{}, { size: 6 }, "SOURCE_CHANGED"],
      [{ digest }, {}, "CHECKSUM_MISMATCH"],
    ] as const;
    for (const [facts, options, expected] of cases) {
      const writer = await operations.openWrite(write(file("new", facts), options), hooks());
      await writer.write(Buffer.from("content"));
      await expect(writer.commit()).rejects.toEqual(code(expected));
      await expect(writer.commit()).rejects.toEqual(code("CLOSED"));
      await writer.abort(new Error("after all"));
    }
    await expect(operations.openWrite(write(file("new", { size: 1 }), { size: 2 }), hooks())).rejects.toEqual(code("INVALID_ARGUMENT"));
    expect(fixture.names()).toEqual(["stored"]);
  });

  test("an existing file stays when it is not to be replaced, at the beginning and at the end", async () => {
    const operations = fixture.open();
    fixture.storedFile("there", "old");
    await expect(operations.openWrite(write("there", { ifExists: "skip" }), hooks())).rejects.toEqual(code("FILE_EXISTS"));
    const writer = await operations.openWrite(write("new", { ifExists: "fail" }), hooks());
    await writer.write(Buffer.from("content"));
    fixture.storedFile("new", "quicker");
    await expect(writer.commit()).rejects.toEqual(code("FILE_EXISTS"));
    expect(fixture.names()).toEqual(["new", "there"]);
    expect(fixture.read("new")).toBe("quicker");
  });

  test("giving up leaves nothing, and descriptors go back", async () => {
    const operations = fixture.open();
    fixture.storedFile("stored", bytes(2 * KIB * KIB));
    const before = isLinux ? openDescriptors() : 0;
    const controller = new AbortController();
    const writer = await operations.openWrite(write("new"), hooks({ signal: controller.signal }));
    await writer.write(Buffer.from("content"));
    expect(fixture.temporaryNames()).toHaveLength(1);
    controller.abort(new Error("enough"));
    await expect(writer.write(Buffer.from("more"))).rejects.toThrow("enough");
    await expect(writer.commit()).rejects.toThrow("enough");
    await writer.abort(new Error("enough"));
    await writer.abort(new Error("enough"));
    const aborted = new AbortController();
    const reader = await operations.openRead({ file: file("stored") }, hooks({ signal: aborted.signal }));
    await expect(
      (async () => {
        for await (const _chunk of reader) aborted.abort(new Error("stop"));
      })(),
    ).rejects.toThrow("stop");
    await reader.close();
    const closing = await operations.openRead({ file: file("stored") }, hooks());
    await expect(
      (async () => {
        for await (const _chunk of closing) await closing.close();
      })(),
    ).rejects.toEqual(code("CLOSED"));
    expect(fixture.names()).toEqual(["stored"]);
    if (isLinux) expect(openDescriptors()).toBe(before);
  });

  test("a file that is cut or changed while it is read ends with an error, not early", async () => {
    const operations = fixture.open();
    const path = fixture.storedFile("stored", bytes(2 * KIB * KIB));
    const reading = async (change: () => void): Promise<void> => {
      const reader = await operations.openRead({ file: file("stored") }, hooks());
      try {
        for await (const _chunk of reader) change();
      } finally {
        await reader.close();
      }
    };
    await expect(reading(() => execFileSync("truncate", ["-s", "600000", path]))).rejects.toEqual(code("SHORT_SOURCE"));
    await expect(reading(() => execFileSync("truncate", ["-s", "1600000", path]))).rejects.toEqual(code("SOURCE_CHANGED"));
  });
});

test("every result of a batch is one command's, also of links and special files met on the way", async () => {
  const operations = fixture.open();
  symlinkSync("/etc", join(fixture.root, "etc"));
  const source = fixture.localFile("source");
  const commands: PosixCommand[] = ["a", "etc/x", "b", "c\u{202e}d"].map((path) => upload(source, path));
  const results: BatchResult<unknown>[] = [];
  await operations.runBatch(commands, hooks(), (result) => results.push(result));
  expect(results.toSorted((a, b) => a.index - b.index).map(({ ok }) => ok)).toEqual([true, false, true, true]);
  expect(commands.every(({ file: { path } }) => isFilePath(path))).toBe(true);
});
