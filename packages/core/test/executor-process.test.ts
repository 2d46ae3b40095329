import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { CHILD_COMMAND, type ChildCommand } from "../src/lib/posix/child-command.ts";
import { childrenOf, collect, ExecutorFixture, eventually, stateOf } from "./support/executor-fixture.ts";
import { bytes, file, hooks, isLinux, move, remove, stat, upload, write } from "./support/posix-volume.ts";

const holder = globalThis as { [key: symbol]: ChildCommand | undefined };
const GIB = 1024 ** 3;

describe.skipIf(!isLinux)("file work in children", () => {
  let fixture: ExecutorFixture;
  /** Children of this process that are none of ours. */
  let others: ReadonlySet<number>;
  const children = (): number[] => childrenOf(process.pid).filter((pid) => !others.has(pid));

  beforeEach(() => {
    fixture = new ExecutorFixture();
    others = new Set(childrenOf(process.pid));
  });
  afterEach(async () => {
    delete holder[CHILD_COMMAND];
    await fixture.remove();
    await eventually(() => children().length === 0, "children end when their executor is closed");
  });

  /** A local file that takes a copy long enough to look at. */
  function largeFile(): string {
    const path = fixture.localFile("large", "");
    truncateSync(path, 8 * GIB);
    return path;
  }

  async function settledIn<T>(work: Promise<T>): Promise<{ milliseconds: number; error: unknown; value: T | undefined }> {
    const began = performance.now();
    const outcome = await work.then(
      (value) => ({ value, error: undefined }),
      (error: unknown) => ({ value: undefined, error }),
    );
    return { milliseconds: performance.now() - began, ...outcome };
  }

  test("leaves this process as it is: its working directory, its umask, its descriptors", async () => {
    const before = { directory: process.cwd(), umask: process.umask() };
    const executor = await fixture.executor({ mode: "process" });
    await executor.run(upload(fixture.localFile("a"), "deep/er/a"), hooks());
    expect({ directory: process.cwd(), umask: process.umask() }).toEqual(before);
    const open = readdirSync("/proc/self/fd").map((fd) => linkOf(`/proc/self/fd/${fd}`));
    expect(open.filter((path) => path.startsWith(fixture.root))).toEqual([]);
  });

  test("is given nothing of this process's environment", async () => {
    process.env.STOWAGE_TEST_SECRET = "hunter2";
    try {
      await fixture.executor({ mode: "process" });
      const environment = readFileSync(`/proc/${children()[0]}/environ`, "utf8");
      expect(environment).not.toContain("hunter2");
      const names = environment.split("\0").map((line) => line.split("=")[0]);
      expect(names.filter((name) => name !== "" && !name?.startsWith("NODE_CHANNEL"))).toEqual([]);
    } finally {
      delete process.env.STOWAGE_TEST_SECRET;
    }
  });

  test("tells why a volume cannot be opened", async () => {
    await expect(fixture.executor({ mode: "process" }, { rootPath: join(fixture.folder, "none") })).rejects.toMatchObject({
      code: "VOLUME_NOT_MOUNTED",
    });
    await expect(fixture.executor({ mode: "process" }, { requireMount: { types: ["nfs4"] } })).rejects.toMatchObject({
      code: "VOLUME_NOT_MOUNTED",
    });
  });

  test("reports errors with their code, and progress", async () => {
    const executor = await fixture.executor({ mode: "process" });
    await expect(executor.run(upload(join(fixture.local, "none"), "a"), hooks())).rejects.toMatchObject({
      isStowageError: true,
      code: "FILE_NOT_FOUND",
    });
    const progress = countProgress();
    await executor.run(upload(fixture.localFile("b", bytes(5000)), "b"), hooks({ progress: (count) => progress.progress(count) }));
    expect(progress.bytes).toBe(5000);
    expect(await executor.run(stat("b"), hooks())).toMatchObject({ size: 5000, modified: statSync(join(fixture.root, "b")).mtime });
    expect(await executor.run(stat("none"), hooks())).toBeUndefined();
  });

  test("gives each item of a batch its own result, whatever its place", async () => {
    const executor = await fixture.executor({ mode: "process", children: 2 });
    const local = fixture.localFile("content", "content");
    const commands = Array.from({ length: 700 }, (_, index) =>
      upload(index % 50 === 7 ? join(fixture.local, "none") : local, `d${index % 13}/${index}`, { temporaryName: `.stowage-b-${index}` }),
    );
    const moved = new Map<number, number>();
    const progress = (count: number, index?: number): void => void moved.set(index!, (moved.get(index!) ?? 0) + count);
    const results = await collect(executor.runBatch(commands, hooks({ progress })));
    expect(results.map(({ index }) => index).sort((a, b) => a - b)).toEqual(commands.map((_, index) => index));
    for (const { index, ok } of results) expect(ok, String(index)).toBe(index % 50 !== 7);
    for (const [index, command] of commands.entries()) {
      expect(existsSync(join(fixture.root, command.file.path)), String(index)).toBe(index % 50 !== 7);
      expect(moved.get(index) ?? 0).toBe(index % 50 === 7 ? 0 : 7);
    }
    expect(fixture.temporaryNames()).toEqual([]);
  });

  test("stops when the consumer of a batch does, and leaves nothing unfinished", async () => {
    const executor = await fixture.executor({ mode: "process" });
    const local = fixture.localFile("content", bytes(20_000));
    const commands = Array.from({ length: 4000 }, (_, index) => upload(local, `f${index}`, { temporaryName: `.stowage-b-${index}` }));
    let taken = 0;
    for await (const _ of executor.runBatch(commands, hooks())) if (++taken === 10) break;
    const count = readdirSync(fixture.root).length;
    expect(count).toBeLessThan(4000);
    await delay(100);
    expect(readdirSync(fixture.root).length).toBe(count);
    expect(fixture.temporaryNames()).toEqual([]);
  });

  test("an abort ends a batch within a second; what had been done stays done", async () => {
    const executor = await fixture.executor({ mode: "process" });
    const local = fixture.localFile("content", bytes(20_000));
    const commands = Array.from({ length: 4000 }, (_, index) => upload(local, `f${index}`, { temporaryName: `.stowage-b-${index}` }));
    const controller = new AbortController();
    let done = 0;
    const work = (async () => {
      for await (const result of executor.runBatch(commands, hooks({ signal: controller.signal }))) {
        if (result.ok && ++done === 50) controller.abort(new Error("enough"));
      }
    })();
    await eventually(() => controller.signal.aborted, "the batch begins");
    const { milliseconds } = await settledIn(work);
    expect(milliseconds).toBeLessThan(1000);
    expect(done).toBeLessThan(4000);
    expect(fixture.temporaryNames()).toEqual([]);
  });

  describe("when a child hangs", () => {
    test("an abort settles within a second, with the caller's reason, and nothing is left", async () => {
      const executor = await fixture.executor({ mode: "process", children: 1 });
      const controller = new AbortController();
      const copying = executor.run(upload(largeFile(), "large"), hooks({ signal: controller.signal }));
      const settled = settledIn(copying);
      await eventually(() => fixture.temporaryNames().length > 0, "the copy begins");
      const [child] = children();
      process.kill(child!, "SIGSTOP");
      const began = performance.now();
      const reason = new Error("too slow");
      controller.abort(reason);
      const { error } = await settled;
      expect(performance.now() - began).toBeLessThan(1000);
      expect(error === reason || (error as { cause?: unknown }).cause === reason).toBe(true);
      await eventually(() => stateOf(child!) === undefined, "the child that hung is killed");
      const { leftovers = [] } = error as { leftovers?: string[] };
      expect(fixture.temporaryNames()).toEqual(leftovers);
      expect(existsSync(join(fixture.root, "large"))).toBe(false);
    });

    test("what others had asked of it is done by another", async () => {
      const executor = await fixture.executor({ mode: "process", children: 1 });
      const controller = new AbortController();
      const copying = settledIn(executor.run(upload(largeFile(), "large"), hooks({ signal: controller.signal })));
      await eventually(() => fixture.temporaryNames().length > 0, "the copy begins");
      fixture.storedFile("from", "moved");
      const others = Promise.all([
        executor.run(upload(fixture.localFile("small"), "small"), hooks()),
        executor.run(move("from", "to"), hooks()),
        executor.run(stat("from"), hooks()),
        collect(executor.list({ directory: "", recursive: true, pageSize: 100 }, hooks())),
      ]);
      process.kill(children()[0]!, "SIGSTOP");
      controller.abort();
      await copying;
      const [small, moved] = await others;
      expect(small).toMatchObject({ method: "copy", bytes: 5 });
      expect(moved).toMatchObject({ method: "rename" });
      expect(fixture.read("to")).toBe("moved");
    });

    test("four hung calls leave this process responsive, and all four can be aborted", async () => {
      const executor = await fixture.executor({ mode: "process", children: 4 });
      const large = largeFile();
      const controller = new AbortController();
      const calls = Array.from({ length: 4 }, (_, index) =>
        settledIn(executor.run(upload(large, `large${index}`), hooks({ signal: controller.signal }))),
      );
      await eventually(() => children().length === 4 && fixture.temporaryNames().length === 4, "four children copy");
      for (const child of children()) process.kill(child, "SIGSTOP");
      const began = performance.now();
      await delay(20);
      await new Promise((resolve) => writeFileAsync(join(fixture.folder, "alive"), resolve));
      expect(performance.now() - began).toBeLessThan(300);
      const aborted = performance.now();
      controller.abort(new Error("enough"));
      for (const { error } of await Promise.all(calls)) expect(error).toBeDefined();
      expect(performance.now() - aborted).toBeLessThan(1000);
    });

    test("one that was stopped while it had nothing to do is replaced when it does not answer an abort", async () => {
      const executor = await fixture.executor({ mode: "process", children: 1 });
      process.kill(children()[0]!, "SIGSTOP");
      const { error, milliseconds } = await settledIn(executor.run(stat("a"), hooks({ signal: AbortSignal.timeout(50) })));
      expect(error).toMatchObject({ name: "TimeoutError" });
      expect(milliseconds).toBeLessThan(1000);
      expect(await executor.run(stat("a"), hooks())).toBeUndefined();
    });

    test("a time limit ends it: TIMEOUT, which may be tried again", async () => {
      const executor = await fixture.executor({ mode: "process", children: 1, commandTimeoutMs: 300 });
      process.kill(children()[0]!, "SIGSTOP");
      // Nothing has begun that could be in doubt: it is simply done by another child.
      expect(await executor.run(stat("a"), hooks())).toBeUndefined();
      const copying = settledIn(executor.run(upload(largeFile(), "large"), hooks()));
      await eventually(() => fixture.temporaryNames().length > 0, "the copy begins");
      process.kill(children()[0]!, "SIGSTOP");
      expect((await copying).error).toMatchObject({ code: "TIMEOUT", retryable: true });
      expect(fixture.temporaryNames()).toEqual([]);
    });
  });

  describe("when a child is killed", () => {
    test("a batch of uploads is finished by another, each item once", async () => {
      const executor = await fixture.executor({ mode: "process", children: 2 });
      const local = fixture.localFile("content", bytes(20_000));
      const commands = Array.from({ length: 3000 }, (_, index) =>
        upload(local, `d${index % 7}/f${index}`, { temporaryName: `.stowage-b-${index}` }),
      );
      const seen = new Map<number, boolean>();
      let kills = 0;
      for await (const { index, ok } of executor.runBatch(commands, hooks())) {
        expect(seen.has(index)).toBe(false);
        seen.set(index, ok);
        if (seen.size % 700 === 350 && kills < 4) {
          kills++;
          process.kill(children()[0]!, "SIGKILL");
        }
      }
      expect(kills).toBeGreaterThan(2);
      expect(seen.size).toBe(3000);
      expect([...seen.values()].every(Boolean)).toBe(true);
      expect(fixture.temporaryNames()).toEqual([]);
      expect(fixture.names().filter((name) => /^d\d\/f/.test(name)).length).toBe(3000);
    });

    test("no move is lost or done twice; of those in its hands it is said that nobody knows", async () => {
      const executor = await fixture.executor({ mode: "process", children: 2 });
      for (let index = 0; index < 2000; index++) fixture.storedFile(`from/${index}`, String(index));
      const commands = Array.from({ length: 2000 }, (_, index) =>
        move(`from/${index}`, `to/${index}`, { temporaryName: `.stowage-b-${index}` }),
      );
      let kills = 0;
      let count = 0;
      const failed: { index: number; error: unknown }[] = [];
      for await (const result of executor.runBatch(commands, hooks())) {
        count++;
        if (!result.ok) failed.push(result);
        if (count % 400 === 200 && kills < 4) {
          kills++;
          process.kill(children()[0]!, "SIGKILL");
        }
      }
      expect(count).toBe(2000);
      expect(failed.length).toBeLessThanOrEqual(kills);
      for (const { error } of failed) expect(error).toMatchObject({ code: "UNAVAILABLE", retryable: false });
      const doubtful = new Set(failed.map(({ index }) => index));
      for (let index = 0; index < 2000; index++) {
        const [source, target] = [existsSync(join(fixture.root, `from/${index}`)), existsSync(join(fixture.root, `to/${index}`))];
        if (doubtful.has(index)) expect(source || target, String(index)).toBe(true);
        else expect({ source, target }, String(index)).toEqual({ source: false, target: true });
      }
    });

    test("again and again, a single command fails at last and says that it may be tried again", async () => {
      const executor = await fixture.executor({ mode: "process", children: 1 });
      const copying = settledIn(executor.run(upload(largeFile(), "large"), hooks()));
      // The next try has the same temporary name, and between a clean-up and that try there is but a moment without it: the file's birth tells them apart.
      const birthOfTemporary = (): number | undefined => {
        const [name] = fixture.temporaryNames();
        return name === undefined ? undefined : statSync(join(fixture.root, name), { throwIfNoEntry: false })?.birthtimeMs;
      };
      for (let round = 0; round < 3; round++) {
        await eventually(() => birthOfTemporary() !== undefined, "the copy begins");
        const born = birthOfTemporary();
        const [child] = children();
        process.kill(child!, "SIGKILL");
        await eventually(() => stateOf(child!) === undefined && birthOfTemporary() !== born, "another one cleans up");
      }
      expect((await copying).error).toMatchObject({ code: "UNAVAILABLE", retryable: true });
      expect(fixture.temporaryNames()).toEqual([]);
    });

    test("deletions are done again, and what is missing then is not known", async () => {
      const executor = await fixture.executor({ mode: "process", children: 1 });
      for (let index = 0; index < 3000; index++) fixture.storedFile(`f/${index}`, "");
      const commands = Array.from({ length: 3000 }, (_, index) => remove(`f/${index}`));
      const results: unknown[] = [];
      for await (const result of executor.runBatch(commands, hooks())) {
        results.push(result.ok && result.value);
        if (results.length % 300 === 100) for (const child of children()) process.kill(child, "SIGKILL");
      }
      expect(results.length).toBe(3000);
      expect(new Set(results).has("missing")).toBe(false);
      expect(results).toContain("deleted");
      expect(readdirSync(join(fixture.root, "f"))).toEqual([]);
    });

    test("a file that it may have stored is not taken for somebody else's", async () => {
      const executor = await fixture.executor({ mode: "process", children: 1 });
      const local = fixture.localFile("content", "content");
      const commands = Array.from({ length: 2000 }, (_, index) =>
        upload(local, `f${index}`, { ifExists: "fail", temporaryName: `.stowage-b-${index}` }),
      );
      let count = 0;
      for await (const result of executor.runBatch(commands, hooks())) {
        count++;
        if (!result.ok) expect(result.error).toMatchObject({ code: "UNAVAILABLE", retryable: false });
        if (count % 400 === 100) for (const child of children()) process.kill(child, "SIGKILL");
      }
      expect(count).toBe(2000);
      expect(fixture.temporaryNames()).toEqual([]);
    });

    test("its streams fail, those of other children go on, and nothing is left", async () => {
      const executor = await fixture.executor({ mode: "process" });
      fixture.storedFile("a", bytes(9_000_000));
      const reader = await executor.openRead({ file: file("a") }, hooks());
      const before = children();
      const writer = await executor.openWrite(write("b"), hooks());
      await writer.write(bytes(1000));
      expect(fixture.temporaryNames().length).toBe(1);
      const writing = children().find((child) => !before.includes(child));
      process.kill(writing!, "SIGKILL");
      await expect(writer.commit()).rejects.toMatchObject({ code: "UNAVAILABLE", retryable: true });
      await writer.abort(new Error("lost"));
      expect(fixture.temporaryNames()).toEqual([]);
      let size = 0;
      for await (const chunk of reader) size += chunk.length;
      expect(size).toBe(9_000_000);
      await reader.close();
    });
  });

  describe("streams", () => {
    test("carry what is read and written, in pieces of any size", async () => {
      const executor = await fixture.executor({ mode: "process" });
      const content = bytes(2_500_000);
      const writer = await executor.openWrite(write("a", { size: content.length, modified: new Date(1_600_000_000_123) }), hooks());
      for (let position = 0, step = 1; position < content.length; position += step, step = (step * 3) % 999_983) {
        await writer.write(content.subarray(position, position + step));
      }
      expect(await writer.commit()).toMatchObject({ method: "stream", bytes: content.length });
      expect(readFileSync(join(fixture.root, "a")).equals(content)).toBe(true);
      expect(statSync(join(fixture.root, "a")).mtime).toEqual(new Date(1_600_000_000_123));

      const progress = countProgress();
      const reader = await executor.openRead(
        { file: file("a"), range: { start: 100, end: 2_000_100 } },
        hooks({ progress: (count) => progress.progress(count) }),
      );
      expect(reader.size).toBe(2_000_000);
      expect(reader.modified).toEqual(new Date(1_600_000_000_123));
      const chunks = await collect(reader);
      expect(Buffer.concat(chunks).equals(content.subarray(100, 2_000_100))).toBe(true);
      expect(progress.bytes).toBe(2_000_000);
      await reader.close();
      await reader.close();
    });

    test("give a path by which this process can copy the very file", async () => {
      const executor = await fixture.executor({ mode: "process" });
      fixture.storedFile("a", "content");
      const reader = await executor.openRead({ file: file("a") }, hooks());
      expect(readFileSync(reader.localPath!, "utf8")).toBe("content");
      await reader.close();
      expect(existsSync(reader.localPath!)).toBe(false);
    });

    test("of a writer that is given up leave nothing", async () => {
      const executor = await fixture.executor({ mode: "process" });
      const writer = await executor.openWrite(write("a/b"), hooks());
      await writer.write(bytes(100_000));
      await writer.abort(new Error("no more"));
      expect(fixture.temporaryNames()).toEqual([]);
      expect(existsSync(join(fixture.root, "a/b"))).toBe(false);
    });

    test("fail when they should: a missing file, a size that does not hold, a short write", async () => {
      const executor = await fixture.executor({ mode: "process" });
      await expect(executor.openRead({ file: file("none") }, hooks())).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
      const writer = await executor.openWrite(write("a", { size: 10 }), hooks());
      await writer.write(bytes(4));
      await expect(writer.commit()).rejects.toMatchObject({ code: "SHORT_SOURCE" });
      await writer.abort(new Error("failed"));
      expect(fixture.names().filter((name) => name !== ".stowage" && !name.startsWith(".stowage/"))).toEqual([]);
    });

    test("of a child that hangs are let go of within a second", async () => {
      const executor = await fixture.executor({ mode: "process" });
      fixture.storedFile("a", bytes(9_000_000));
      const controller = new AbortController();
      const before = children();
      const reader = await executor.openRead({ file: file("a") }, hooks({ signal: controller.signal }));
      const child = children().find((pid) => !before.includes(pid))!;
      process.kill(child, "SIGSTOP");
      const reading = settledIn(collect(reader));
      await delay(50);
      const began = performance.now();
      controller.abort(new Error("enough"));
      expect((await reading).error).toMatchObject({ message: "enough" });
      await reader.close();
      expect(performance.now() - began).toBeLessThan(1000);
      await eventually(() => stateOf(child) === undefined, "the child that hung is killed");
    });
  });

  describe("children", () => {
    test("that have nothing to do end after a while, and are started again when there is something", async () => {
      const executor = await fixture.executor({ mode: "process", idleMs: 100 });
      await executor.run(stat("a"), hooks());
      await eventually(() => children().length === 0, "the idle child ends");
      expect(await executor.run(stat("a"), hooks())).toBeUndefined();
    });

    test("do not keep a program from ending, nor does one that hangs", async () => {
      const ended = await runProgram(`
        const executor = await createPosixExecutor(volume, { mode: "process" });
        await executor.run({ verb: "stat", file: { path: "a" } }, hooks);
        console.log("done");
      `);
      expect(ended).toMatchObject({ code: 0, signal: null, output: "done\n" });
      expect(ended.lingered).toBeLessThan(2500);
      const exited = await runProgram(`
        const executor = await createPosixExecutor(volume, { mode: "process", children: 1 });
        const [child] = (await import("node:fs")).readFileSync("/proc/self/task/" + process.pid + "/children", "utf8").trim().split(" ").map(Number);
        process.kill(child, "SIGSTOP");
        executor.run({ verb: "stat", file: { path: "a" } }, hooks).catch(() => {});
        setTimeout(() => { process.kill(child, "SIGKILL"); process.exit(7); }, 200);
      `);
      expect(exited).toMatchObject({ code: 7 });
    });

    test("go when this process is killed, also one whose only thread hangs", async () => {
      const script = join(fixture.folder, "hanging-child.mjs");
      const entry = new URL("../src/posix-child.ts", import.meta.url).href;
      writeFileSync(
        script,
        `import ${JSON.stringify(entry)};
        setTimeout(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0), 1500);`,
      );
      const program = startProgram(`
        globalThis[Symbol.for("@stowage/posix-child-command")] = { script: ${JSON.stringify(script)}, arguments: [] };
        const executor = await createPosixExecutor(volume, { mode: "process" });
        setInterval(() => {}, 1000);
        console.log("open");
      `);
      await new Promise((resolve) => program.stdout!.once("data", resolve));
      const orphans = childrenOf(program.pid!);
      expect(orphans.length).toBe(1);
      await delay(1800);
      program.kill("SIGKILL");
      await eventually(() => orphans.every((pid) => stateOf(pid) === undefined), "the orphan goes", 3000);
    });

    test("that cannot even start say why", async () => {
      const script = join(fixture.folder, "broken.mjs");
      writeFileSync(script, 'throw new Error("this one is broken");');
      holder[CHILD_COMMAND] = { script, arguments: [] };
      await expect(fixture.executor({ mode: "process" })).rejects.toMatchObject({
        code: "UNAVAILABLE",
        message: expect.stringContaining("this one is broken"),
      });
    });

    test("are started by the program's own command where it has one", async () => {
      const script = join(fixture.folder, "program.mjs");
      const entry = new URL("../src/posix-child.ts", import.meta.url).href;
      writeFileSync(script, `if (process.argv[2] === "--stowage-posix-child") await import(${JSON.stringify(entry)});`);
      holder[CHILD_COMMAND] = { script, arguments: ["--stowage-posix-child"] };
      const executor = await fixture.executor({ mode: "process" });
      expect(await executor.run(stat("a"), hooks())).toBeUndefined();
    });

    test("in which a copy that was given up still runs are replaced", async () => {
      const executor = await fixture.executor({ mode: "process", children: 1 });
      const [child] = children();
      const controller = new AbortController();
      const copying = settledIn(executor.run(upload(largeFile(), "large"), hooks({ signal: controller.signal })));
      await eventually(() => fixture.temporaryNames().length > 0, "the copy begins");
      const began = performance.now();
      controller.abort(new Error("enough"));
      expect((await copying).error).toMatchObject({ message: "enough" });
      expect(performance.now() - began).toBeLessThan(1000);
      await eventually(() => stateOf(child!) === undefined, "the worn child is killed, long before it would end by itself", 2500);
      expect(fixture.temporaryNames()).toEqual([]);
      expect(await executor.run(stat("a"), hooks())).toBeUndefined();
    });
  });

  function startProgram(body: string): ChildProcess {
    const modulePath = new URL("../src/lib/posix/posix-executor.ts", import.meta.url).href;
    const source = `
      import { createPosixExecutor } from ${JSON.stringify(modulePath)};
      const volume = ${JSON.stringify(fixture.volume())};
      const hooks = { signal: new AbortController().signal, progress() {} };
      ${body}
    `;
    const path = join(fixture.folder, `program-${Math.random().toString(36).slice(2)}.mjs`);
    writeFileSync(path, source);
    return spawn(process.execPath, [path], { stdio: ["ignore", "pipe", "inherit"] });
  }

  /** `lingered`: milliseconds between its last word and its end. */
  async function runProgram(body: string): Promise<{ code: number | null; signal: string | null; output: string; lingered: number }> {
    const program = startProgram(body);
    let output = "";
    let spoke = performance.now();
    program.stdout!.setEncoding("utf8").on("data", (text: string) => {
      output += text;
      spoke = performance.now();
    });
    const timer = setTimeout(() => program.kill("SIGKILL"), 10_000);
    const [code, signal] = await new Promise<[number | null, string | null]>((resolve) => {
      program.once("close", (exitCode, exitSignal) => resolve([exitCode, exitSignal]));
    });
    clearTimeout(timer);
    return { code, signal, output, lingered: performance.now() - spoke };
  }
});

function countProgress(): { bytes: number; progress(count: number): void } {
  return {
    bytes: 0,
    progress(count) {
      this.bytes += count;
    },
  };
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}

function writeFileAsync(path: string, done: (value: unknown) => void): void {
  void import("node:fs/promises").then(({ writeFile }) => writeFile(path, "alive").then(done));
}
