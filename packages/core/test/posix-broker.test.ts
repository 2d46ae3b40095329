import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { BatchResult, TransferDetails } from "../src/lib/broker.ts";
import { createPosixBroker, type PosixBroker, type PosixBrokerOptions } from "../src/lib/posix/posix-broker.ts";
import { childrenOf, collect, ExecutorFixture, eventually, stateOf } from "./support/executor-fixture.ts";
import { operationContext } from "./support/operation-context.ts";
import { bytes, file, isLinux } from "./support/posix-volume.ts";

const MIB = 1024 * 1024;
const LONG = "x".repeat(256);

describe.skipIf(!isLinux)("a broker over a directory", () => {
  let fixture: ExecutorFixture;
  let others: ReadonlySet<number>;
  const brokers: PosixBroker[] = [];
  const children = (): number[] => childrenOf(process.pid).filter((pid) => !others.has(pid));

  beforeEach(() => {
    fixture = new ExecutorFixture();
    others = new Set(childrenOf(process.pid));
  });
  afterEach(async () => {
    for (const child of children()) if (stateOf(child) === "T") process.kill(child, "SIGCONT");
    for (const broker of brokers.splice(0)) await broker.close();
    await fixture.remove();
  });

  async function open(options: Partial<PosixBrokerOptions> = {}): Promise<PosixBroker> {
    const broker = await createPosixBroker({ volume: fixture.volume(), ...options });
    brokers.push(broker);
    return broker;
  }

  function numbered(count: number, localPath: string, prefix = "f"): { file: ReturnType<typeof file>; localPath: string }[] {
    return Array.from({ length: count }, (_, index) => ({ file: file(`${prefix}${index}`), localPath }));
  }

  const sorted = (results: readonly BatchResult<unknown>[]): number[] => results.map(({ index }) => index).sort((a, b) => a - b);

  test("tells what it can, and classifies errors of the file system", async () => {
    const broker = await open();
    expect(broker.capabilities).toEqual({ atomicReplace: true, ifAbsent: "exact", containment: "pinned" });
    expect(broker.errorCode(Object.assign(new Error("full"), { code: "ENOSPC" }))).toBe("NO_SPACE");
    expect(broker.errorCode(new Error("what?"))).toBe("UNKNOWN");
    expect(broker.getFileSystemPath(file("a/b"))).toBe(join(fixture.root, "a/b"));
  });

  test("refuses everything once it is closed, and aborted calls at once", async () => {
    const broker = await open();
    const reason = new Error("enough");
    await expect(broker.statFile(file("a"), operationContext({ signal: AbortSignal.abort(reason) }))).rejects.toBe(reason);
    await expect(collect(broker.deleteFiles([file("a")], operationContext({ signal: AbortSignal.abort(reason) })))).rejects.toBe(reason);
    await broker.close();
    await expect(broker.statFile(file("a"), operationContext())).rejects.toMatchObject({ code: "CLOSED" });
    await expect(collect(broker.deleteFiles([file("a")], operationContext()))).rejects.toMatchObject({ code: "CLOSED" });
    await expect(collect(broker.listFiles("", { recursive: true, onProblem() {} }, operationContext()))).rejects.toMatchObject({
      code: "CLOSED",
    });
    brokers.pop();
  });

  test("refuses a name that no file system takes before it does anything; in a batch that item alone", async () => {
    const broker = await open();
    const localPath = fixture.localFile("x");
    await expect(broker.uploadFile({ file: file(`new/${LONG}`), localPath }, operationContext())).rejects.toMatchObject({
      code: "INVALID_PATH",
    });
    await expect(broker.moveFile({ file: file("a"), newPath: file(`b/${LONG}`).path }, operationContext())).rejects.toMatchObject({
      code: "INVALID_PATH",
    });
    expect(readdirSync(fixture.root)).toEqual([]);
    const progress = new Map<number, number>();
    const context = operationContext({ progress: (count, index) => void progress.set(index!, count) });
    const uploads = [
      { file: file("a"), localPath },
      { file: file(LONG), localPath },
      { file: file("c"), localPath },
    ];
    const results = await collect(broker.uploadFiles(uploads, context));
    expect(sorted(results)).toEqual([0, 1, 2]);
    expect(results.find(({ index }) => index === 1)).toMatchObject({ ok: false, error: { code: "INVALID_PATH" } });
    expect([...progress.keys()].sort()).toEqual([0, 2]);
    expect(readdirSync(fixture.root).filter((name) => name !== ".stowage")).toEqual(["a", "c"]);
  });

  test.each(["inline", "process", "auto"] as const)(
    "obeys ifExists, durability and checksum, one by one and in batches (executor %s)",
    async (mode) => {
      const broker = await open({ executor: { mode } });
      const localPath = fixture.localFile("x", "new");
      fixture.storedFile("there", "old");
      for (const ifExists of ["fail", "skip"] as const) {
        await expect(broker.uploadFile({ file: file("there"), localPath }, operationContext({ ifExists }))).rejects.toMatchObject({
          code: "FILE_EXISTS",
        });
        const results = await collect(
          broker.uploadFiles(
            [
              { file: file("there"), localPath },
              { file: file(`fresh-${ifExists}`), localPath },
            ],
            operationContext({ ifExists }),
          ),
        );
        expect(results.sort((a, b) => a.index - b.index)).toMatchObject([{ ok: false, error: { code: "FILE_EXISTS" } }, { ok: true }]);
      }
      expect(fixture.read("there")).toBe("old");
      const context = operationContext({ durability: "power", checksum: "sha256" });
      expect(await broker.uploadFile({ file: file("there"), localPath }, context)).toMatchObject({
        verified: "digest",
        digest: { algorithm: "sha256" },
      });
      const [copied] = await collect(
        broker.downloadFiles([{ file: file("there"), localPath: join(fixture.local, "back") }], operationContext({ checksum: "crc32" })),
      );
      expect(copied).toMatchObject({ ok: true, value: { verified: "digest", digest: { algorithm: "crc32" } } });
      expect(readFileSync(join(fixture.local, "back"), "utf8")).toBe("new");
      expect(await broker.copyFile({ file: file("there"), newPath: file("deep/er").path }, operationContext())).toMatchObject({ bytes: 3 });
      const moves = await collect(
        broker.moveFiles([{ file: file("deep/er"), newPath: file("up").path }], operationContext({ ifExists: "fail" })),
      );
      expect(moves).toMatchObject([{ ok: true, value: { method: "rename" } }]);
      const deleted = await collect(broker.deleteFiles([file("up"), file("none")], operationContext()));
      expect(deleted.sort((a, b) => a.index - b.index)).toMatchObject([{ value: "deleted" }, { value: "missing" }]);
    },
  );

  test("pays for bandwidth: what is read and written as a stream before, copies afterwards", async () => {
    const broker = await open();
    let paid = 0;
    const context = operationContext({
      bytesPerSecond: 1e9,
      throttle: async (count) => {
        paid += count;
      },
    });
    await broker.uploadFile({ file: file("a"), localPath: fixture.localFile("x", bytes(1000)) }, context);
    expect(paid).toBe(1000);
    await collect(broker.downloadFiles([{ file: file("a"), localPath: join(fixture.local, "y") }], context));
    expect(paid).toBe(2000);
    const reader = await broker.openRead(file("a"), {}, context);
    await collect(reader);
    await reader.close();
    const writer = await broker.openWrite(file("b"), {}, context);
    await writer.write(bytes(500));
    await writer.abort(new Error("no"));
    expect(paid).toBe(3500);
    await broker.moveFile({ file: file("a"), newPath: file("c").path }, context);
    expect(paid).toBe(3500);
  });

  test("with a bandwidth limit a large file waits for it piece by piece, and an abort while waiting leaves nothing", async () => {
    const broker = await open();
    const localPath = fixture.localFile("large", bytes(3 * 1024 * 1024 + 5));
    const events: string[] = [];
    const cancel = new AbortController();
    const context = operationContext({
      bytesPerSecond: 1e9,
      throttle: async (count) => void events.push(`wait ${count}`),
      progress: (count) => void events.push(`moved ${count}`),
    });
    await broker.uploadFile({ file: file("large"), localPath }, context);
    const pieces = [1048576, 1048576, 1048576, 5];
    expect(events).toEqual(pieces.flatMap((count) => [`wait ${count}`, `moved ${count}`]));

    const waiting = operationContext({
      bytesPerSecond: 1,
      signal: cancel.signal,
      throttle: async () => {
        cancel.abort(new Error("enough"));
        throw cancel.signal.reason;
      },
    });
    await expect(broker.uploadFile({ file: file("other"), localPath }, waiting)).rejects.toThrow("enough");
    expect(readdirSync(fixture.root).filter((name) => name !== ".stowage")).toEqual(["large"]);
  });

  test("a bandwidth limit holds back a batch that runs in children", async () => {
    const broker = await open({ executor: { mode: "process" } });
    let taken = 0;
    const slow = operationContext({ bytesPerSecond: 1000, throttle: () => delay(1) });
    const localPath = fixture.localFile("x", "x");
    for await (const _ of broker.uploadFiles(numbered(6000, localPath), slow)) {
      taken++;
      if (taken === 200) break;
    }
    expect(readdirSync(fixture.root).length).toBeLessThan(4000);
  });

  test("reports problems of a listing, and shows that it is alive", async () => {
    const broker = await open();
    writeFileSync(Buffer.concat([Buffer.from(`${fixture.root}/`), Buffer.from([0xff])]), "");
    fixture.storedFile("a");
    const problems: string[] = [];
    let alive = 0;
    const listing = broker.listFiles(
      "",
      { recursive: true, onProblem: ({ path }) => void problems.push(path) },
      operationContext({ progress: () => void alive++ }),
    );
    expect((await collect(listing)).map((entry) => entry.file.path)).toEqual(["a"]);
    expect(problems).toEqual(["\\xff"]);
    expect(alive).toBeGreaterThan(0);
  });

  test("sweeps, and keeps what others may need", async () => {
    const broker = await open();
    fixture.storedFile("a/.stowage-1");
    expect(await collect(broker.sweep({ olderThanMs: 60_000, deep: true }, operationContext()))).toEqual([]);
    expect(await collect(broker.sweep({ olderThanMs: 0, deep: true }, operationContext()))).toEqual(["a/.stowage-1"]);
  });

  describe("work in this process", () => {
    test("lets others have their turn, in batches and between calls that need not wait", async () => {
      const broker = await open({ executor: { mode: "inline" } });
      const localPath = fixture.localFile("x", bytes(4096));
      // In time of the processor: others have their turn on this machine, too, and its disk may let one wait.
      let longest = 0;
      let turns = 0;
      let watching = true;
      let last = process.cpuUsage();
      const watch = (): void => {
        const { user, system } = process.cpuUsage(last);
        longest = Math.max(longest, (user + system) / 1000);
        last = process.cpuUsage();
        turns++;
        if (watching) setImmediate(watch);
      };
      watch();
      const results = await collect(broker.uploadFiles(numbered(2000, localPath), operationContext()));
      for (let index = 0; index < 20_000; index++) await broker.statFile(file(`f${index % 2000}`), operationContext());
      await collect(broker.listFiles("", { recursive: true, onProblem() {} }, operationContext()));
      await new Promise(setImmediate);
      watching = false;
      expect(results.every(({ ok }) => ok)).toBe(true);
      expect(turns).toBeGreaterThan(20);
      // 10 ms are meant; compiling and collecting garbage come on top.
      expect(longest).toBeLessThan(80);
      expect(children()).toEqual([]);
    });

    test("a batch ends when its consumer does", async () => {
      const broker = await open({ executor: { mode: "inline" } });
      const localPath = fixture.localFile("x", bytes(4096));
      let taken = 0;
      for await (const _ of broker.uploadFiles(numbered(3000, localPath), operationContext())) if (++taken === 5) break;
      const count = readdirSync(fixture.root).length;
      expect(count).toBeLessThan(3000);
      await delay(50);
      expect(readdirSync(fixture.root).length).toBe(count);
      expect(fixture.temporaryNames()).toEqual([]);
    });

    test("an abort ends a batch with what was done and the caller's reason for the rest", async () => {
      const broker = await open({ executor: { mode: "inline" } });
      const controller = new AbortController();
      const reason = new Error("enough");
      const results: BatchResult<TransferDetails>[] = [];
      for await (const result of broker.uploadFiles(
        numbered(3000, fixture.localFile("x", bytes(4096))),
        operationContext({ signal: controller.signal }),
      )) {
        results.push(result);
        if (results.length === 10) controller.abort(reason);
      }
      expect(sorted(results).length).toBe(3000);
      const failed = results.filter(({ ok }) => !ok) as { error: unknown }[];
      expect(failed.length).toBeGreaterThan(0);
      expect(new Set(failed.map(({ error }) => error))).toEqual(new Set([reason]));
    });
  });

  describe("left to itself", () => {
    test("does what is small here, and starts no child for it", async () => {
      const broker = await open();
      const results = await collect(broker.uploadFiles(numbered(100, fixture.localFile("x")), operationContext()));
      expect(sorted(results).length).toBe(100);
      await collect(broker.listFiles("", { recursive: true, onProblem() {} }, operationContext()));
      expect(children()).toEqual([]);
    });

    test("begins a large batch here and goes on in children", async () => {
      const broker = await open();
      const uploads = numbered(3000, fixture.localFile("x", bytes(4096)));
      const seen = new Map<number, number>();
      const results: BatchResult<TransferDetails>[] = [];
      let most = 0;
      for await (const result of broker.uploadFiles(
        uploads,
        operationContext({ progress: (count, index) => void seen.set(index!, (seen.get(index!) ?? 0) + count) }),
      )) {
        results.push(result);
        if (results.length % 100 === 0) most = Math.max(most, children().length);
      }
      expect(sorted(results)).toEqual(uploads.map((_, index) => index));
      expect(results.every(({ ok }) => ok)).toBe(true);
      expect(most).toBeGreaterThan(0);
      expect([...seen.values()].every((count) => count === 4096)).toBe(true);
      expect(seen.size).toBe(3000);
      for (const result of results) expect(result).toMatchObject({ value: { file: { path: `f${result.index}` } } });
    });

    test("copies what is large in a child, alone and among small ones", async () => {
      const broker = await open();
      const large = fixture.localFile("large", "");
      truncateSync(large, 65 * MIB);
      const small = fixture.localFile("small");
      const uploading = broker.uploadFile({ file: file("alone"), localPath: large }, operationContext());
      await eventually(() => children().length > 0, "a child is started");
      expect(await uploading).toMatchObject({ bytes: 65 * MIB, method: expect.stringMatching(/copy|reflink/) });
      const results = await collect(
        broker.uploadFiles(
          [
            { file: file("s1"), localPath: small },
            { file: file("l"), localPath: large },
            { file: file("s2"), localPath: small },
          ],
          operationContext(),
        ),
      );
      expect(results.sort((a, b) => a.index - b.index)).toMatchObject([
        { index: 0, ok: true },
        { index: 1, ok: true, value: { bytes: 65 * MIB } },
        { index: 2, ok: true },
      ]);
      const moved = await broker.moveFile({ file: file("l"), newPath: file("m").path }, operationContext());
      expect(moved.method).toBe("rename");
      await expect(
        broker.downloadFile({ file: file("none"), localPath: join(fixture.local, "none") }, operationContext()),
      ).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    });

    test("reads a large tree in children, from where it had come here", async () => {
      const broker = await open();
      const paths: string[] = [];
      for (let directory = 0; directory < 300; directory++) for (let index = 0; index < 5; index++) paths.push(`d${directory}/${index}`);
      for (const path of paths) fixture.storedFile(path, "");
      const seen: string[] = [];
      let most = 0;
      for await (const entry of broker.listFiles("", { recursive: true, onProblem() {} }, operationContext())) {
        seen.push(entry.file.path);
        if (seen.length % 100 === 0) {
          most = Math.max(most, children().length);
          await delay(20);
        }
      }
      expect(seen).toEqual(paths.sort());
      expect(most).toBeGreaterThan(0);
    });

    test("does everything here in a program that cannot start children", () => {
      // A copy of the source, from which the package's name leads nowhere, as in a bundle.
      const copy = join(fixture.folder, "bundle");
      mkdirSync(copy);
      cpSync(fileURLToPath(new URL("../src", import.meta.url)), copy, { recursive: true });
      writeFileSync(join(fixture.folder, "package.json"), JSON.stringify({ type: "module" }));
      const large = fixture.localFile("large", "");
      truncateSync(large, 65 * MIB);
      const program = join(fixture.folder, "program.mjs");
      writeFileSync(
        program,
        `import { createPosixBroker } from "./bundle/posix.ts";
        const broker = await createPosixBroker({ volume: ${JSON.stringify(fixture.volume())} });
        const context = { signal: new AbortController().signal, durability: "process", checksum: "auto", ifExists: "replace", temporaryId: "t1", progress() {},
          reserve: async () => ({ [Symbol.dispose]() {} }), throttle: async () => {}, journal: {}, log() {} };
        const uploads = Array.from({ length: 600 }, (_, index) => ({ file: { path: "f" + index }, localPath: index === 300 ? ${JSON.stringify(large)} : ${JSON.stringify(fixture.localFile("x"))} }));
        let ok = 0;
        for await (const result of broker.uploadFiles(uploads, context)) if (result.ok) ok++; else console.log(result.error);
        await broker.uploadFile({ file: { path: "alone" }, localPath: ${JSON.stringify(large)} }, { ...context, temporaryId: "t2" });
        let listed = 0;
        for await (const entry of broker.listFiles("", { recursive: true, onProblem() {} }, context)) listed++;
        await broker.close();
        const failure = await createPosixBroker({ volume: ${JSON.stringify(fixture.volume())}, executor: { mode: "process" } }).catch((error) => error.code);
        console.log(ok, listed, failure);`,
      );
      const { stdout, stderr } = spawnSync(process.execPath, [program], { encoding: "utf8" });
      expect(stderr).toBe("");
      expect(stdout).toBe("600 601 UNSUPPORTED\n");
    });
  });

  test("that is opened in vain leaves no child behind", async () => {
    await expect(
      open({ volume: fixture.volume({ rootPath: join(fixture.folder, "none") }), executor: { mode: "process" } }),
    ).rejects.toMatchObject({ code: "VOLUME_NOT_MOUNTED" });
    await expect(open({ executor: { mode: "process" }, signal: AbortSignal.abort(new Error("no")) })).rejects.toMatchObject({
      message: "no",
    });
    const opening = open({ executor: { mode: "process" }, signal: AbortSignal.timeout(5) });
    await opening.catch(() => undefined);
    for (const broker of brokers.splice(0)) await broker.close();
    await eventually(() => children().length === 0, "children end");
    expect(existsSync(join(fixture.root, ".stowage"))).toBe(false);
  });
});
