import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { createMemoryBroker, transferFiles, Workspace } from "@stowage/core";
import { digestOf, sleep, wrapBroker } from "@stowage/core/broker";
import { type CaseOfGroup, type ConformanceCase, casesOf } from "../conformance-case.ts";
import { expectBytes, expectDone, expectFailed, outcomesOf, witness } from "../expectations.ts";
import { runKillHarness } from "../faults/kill-harness.ts";
import { truncatingBroker } from "../faults/lying-broker.ts";
import { CHURN_FILES, CHURN_PLACES, startWorker, type WorkerTask, workerCommand } from "../faults/worker-source.ts";
import type { Harness } from "../harness.ts";
import { atomicReplace, hook, method, otherProcesses, rawNames, sharedInProcess, trait, writable } from "../needs.ts";
import { BASE_BYTES, readWhileWriting, versionFile } from "../overwriting.ts";
import { readVersion, versionBytes } from "../whole-version.ts";

const cases: readonly CaseOfGroup[] = [
  {
    id: "J128",
    name: "files that go to another workspace and back keep their bytes and digests",
    needs: [writable],
    async run(harness) {
      const sizes = [0, 1, 70_000, 1_200_000];
      for (const size of sizes) await harness.put(`t/${size}`, harness.random.bytes(size));
      const memory = memoryWorkspace(harness);
      const there = await transferFiles(
        harness.workspace,
        memory,
        sizes.map((size) => ({ file: `t/${size}`, newPath: `over/${size}` })),
        { checksum: "sha256" },
      );
      const { workspace: back } = await harness.open({ place: await harness.openPlace() });
      const again = await transferFiles(
        memory,
        back,
        sizes.map((size) => ({ file: `over/${size}`, newPath: `back/${size}` })),
        { checksum: "sha256" },
      );
      for (const [index, size] of sizes.entries()) {
        const original = await harness.get(`t/${size}`);
        assert.ok(original !== undefined);
        expectBytes(await harness.get(`back/${size}`, back), original, `${size} bytes`);
        for (const outcome of [there[index], again[index]]) {
          assert.ok(outcome?.status === "done");
          assert.equal(outcome.verified, "digest");
          assert.deepEqual({ ...outcome.digest }, { ...digestOf(original, "sha256") });
        }
      }
      await memory.close();
    },
  },
  {
    id: "J128a",
    name: "media type and metadata survive the way to another workspace and back",
    needs: [writable, trait("keepsMetadata"), trait("keepsMediaType")],
    async run(harness) {
      const file = { path: "with", mediaType: "text/csv", metadata: { run: "7", note: "ü" } };
      await harness.workspace.uploadFiles([{ file, localPath: await harness.localFile("a,b\n") }]);
      const memory = memoryWorkspace(harness);
      await transferFiles(harness.workspace, memory, [{ file: "with", newPath: "over" }]);
      await transferFiles(memory, harness.workspace, [{ file: "over", newPath: "back" }]);
      const details = await harness.workspace.statFile("back");
      assert.equal(details?.file.mediaType, "text/csv");
      assert.deepEqual({ ...details?.file.metadata }, { run: "7", note: "ü" });
      await memory.close();
    },
  },
  {
    id: "J128b",
    name: "a source that ends early stores nothing in the target",
    needs: [writable],
    async run(harness) {
      const memory = createMemoryBroker();
      const whole = new Workspace({ name: "whole", broker: memory });
      const local = await harness.localFile(harness.random.bytes(400_000));
      await whole.uploadFiles([{ file: "short", localPath: local }]);
      const lying = new Workspace({ name: "lying", broker: truncatingBroker(memory) });
      const before = await harness.rawNames();
      await expectFailed(
        transferFiles(lying, harness.workspace, [{ file: "short", newPath: "stored" }], { retry: { attempts: 1 } }),
        "a transfer from a source that ends early",
        "SHORT_SOURCE",
        "SOURCE_CHANGED",
        "CHECKSUM_MISMATCH",
      );
      assert.deepEqual(await harness.list(), []);
      assert.deepEqual(await harness.rawNames(), before);
      await whole.close();
    },
  },
  {
    id: "J128c",
    name: "repeating a transfer with skip-same moves nothing twice",
    needs: [writable, trait("keepsModified")],
    async run(harness) {
      const memory = memoryWorkspace(harness);
      for (const name of ["a", "b", "c"]) await harness.put(`t/${name}`, `content of ${name}`);
      const items = ["a", "b", "c"].map((name) => ({ file: `t/${name}`, newPath: name }));
      await transferFiles(harness.workspace, memory, items, { ifExists: "skip-same" });
      const again = await transferFiles(harness.workspace, memory, items, { ifExists: "skip-same" });
      assert.deepEqual(
        again.map((outcome) => (outcome.status === "skipped" ? outcome.reason : outcome.status)),
        ["same", "same", "same"],
      );
      const back = items.map(({ newPath }) => ({ file: newPath, newPath: `t/${newPath}` }));
      const returned = await transferFiles(memory, harness.workspace, back, { ifExists: "skip-same" });
      assert.ok(
        returned.every((outcome) => outcome.status === "skipped"),
        "and nothing on the way back",
      );
      await memory.close();
    },
  },
  {
    id: "J129",
    name: "a process that reads what another one overwrites sees whole files only",
    needs: [writable, otherProcesses, atomicReplace],
    timeoutMs: 90_000,
    async run(harness) {
      await harness.put("shared.bin", versionBytes(0, BASE_BYTES));
      const wanted = { stored: harness.rounds(100, 2_000), reads: harness.rounds(25, 500) };
      const giveUpAt = performance.now() + harness.rounds(30_000, 300_000);
      const tasks = await Promise.all([1_000, 2_000].map((firstVersion) => workerTask(harness, { mode: "overwrite", firstVersion })));
      let stored = 0;
      let reads = 0;
      const workers = tasks.map((task) =>
        startWorker(task, (line) => {
          if (line === "stored") stored++;
        }),
      );
      try {
        while ((stored < wanted.stored || reads < wanted.reads) && performance.now() < giveUpAt) {
          const bytes = await harness.get("shared.bin");
          assert.ok(bytes !== undefined, "the file was missing for a moment");
          const version = readVersion(bytes, BASE_BYTES);
          assert.equal(typeof version, "number", `a reader saw ${version}`);
          if (stored > 0) reads++;
          await sleep(2);
        }
      } finally {
        await Promise.all(workers.map((worker) => worker.stop()));
      }
      witness("replacements by other processes", stored, wanted.stored);
      witness("reads meanwhile", reads, wanted.reads);
      assert.deepEqual(await harness.list(), ["shared.bin"]);
    },
  },
  {
    id: "J114",
    name: "a process that is killed at any moment loses nothing that it had stored, shows nothing half, and leaves nothing after a sweep",
    needs: [writable, otherProcesses, method("sweep")],
    timeoutMs: 600_000,
    async run(harness) {
      await harness.put("wander/0", "the wandering file");
      const acknowledged = new Map<number, number>();
      const report = await runKillHarness({
        command: workerCommand(await workerTask(harness, { mode: "churn", firstVersion: 1 })),
        seed: harness.random.word(10),
        rounds: harness.rounds(6, 200),
        points: ["throttle", "stored", "moved"],
        onLine(line) {
          const [word, index, version] = line.split(" ");
          if (word === "stored") acknowledged.set(Number(index), Number(version));
        },
        async check() {
          const listed = await harness.list();
          const wandering = listed.filter((path) => path.startsWith("wander/"));
          assert.ok(wandering.length >= 1 && wandering.length <= CHURN_PLACES, `the wandering file is at: ${wandering.join(", ")}`);
          for (const path of wandering) expectBytes(await harness.get(path), Buffer.from("the wandering file"), path);
          for (let index = 0; index < CHURN_FILES; index++) {
            const bytes = await harness.get(`churn/${index}`);
            const version = bytes && readVersion(bytes, BASE_BYTES);
            const least = acknowledged.get(index);
            if (version === undefined) assert.equal(least, undefined, `churn/${index} was stored and is lost`);
            else if (typeof version === "string") throw new assert.AssertionError({ message: `churn/${index} is ${version}` });
            else assert.ok(version >= (least ?? 0), `churn/${index} is version ${version}, version ${least} had been stored`);
          }
          // The next worker counts from one again.
          acknowledged.clear();
          for await (const _name of harness.workspace.sweep({ olderThanMs: 0 })) {
            // What a sweep removes is its own affair; what is left is looked at below.
          }
          assert.deepEqual(await harness.remains(), [], "what is left after a sweep");
        },
      });
      witness("kills", report.killed, Math.ceil(report.rounds / 2));
    },
  },
  {
    id: "J130",
    name: "temporary names are made of the operation's own id, so that no two writers share one",
    needs: [writable, rawNames],
    async run(harness) {
      const localPath = await harness.localFile(harness.random.bytes(3_000_000));
      const before = new Set(await harness.rawNames());
      const temporaryId = `conformance${harness.random.word(12)}`;
      const during = new Set<string>();
      const see = (names: readonly string[]): void => {
        for (const name of names) if (!before.has(name) && name !== "dir" && !/^\.stowage(\/|$)/.test(name)) during.add(name);
      };
      const { directory } = harness.place;
      const looks: Promise<void>[] = [];
      const look = async (): Promise<void> => see((await harness.rawNames()) ?? []);
      const onProgress = (): void => {
        // At once: a broker that works synchronously has finished before anybody else has a turn.
        if (directory !== undefined) see(readdirSync(directory, { recursive: true, encoding: "utf8" }));
        else looks.push(look());
      };
      await harness.broker.uploadFile(
        { file: harness.stored("dir/target"), localPath },
        harness.context({ temporaryId, checksum: "sha256", onThrottle: look, onProgress }),
      );
      await Promise.all(looks);
      // What is still there is the file itself.
      for (const name of (await harness.rawNames()) ?? []) during.delete(name);
      for (const name of during) {
        assert.ok(name.includes(temporaryId), `"${name}" is there during the upload, and is not named by its id`);
        assert.ok(!name.includes("target"), `"${name}" has the target's name in it`);
      }
      assert.deepEqual(await harness.list(), ["dir/target"]);
    },
  },
  {
    id: "J131",
    name: "what is stored through one mount is seen through another within the declared time",
    needs: [writable, hook("secondMount")],
    async run(harness) {
      const { workspace } = await harness.open({ mount: harness.place.secondMount });
      for (let version = 0; version < 10; version++) {
        const path = version % 2 === 0 ? "seen" : `fresh-${version}`;
        await expectDone(harness.workspace.uploadFiles([{ file: path, localPath: await versionFile(harness, version) }]), "the upload");
        const until = performance.now() + harness.traits.visibilityMs;
        for (;;) {
          const bytes = await harness.get(path, workspace);
          const found = bytes && readVersion(bytes, BASE_BYTES);
          if (found === version) break;
          assert.ok(found === undefined || typeof found === "number", `the other mount shows ${found}`);
          assert.ok(performance.now() < until, `after ${harness.traits.visibilityMs} ms the other mount shows ${found ?? "nothing"}`);
          await sleep(20);
        }
      }
    },
  },
  {
    id: "J201",
    name: "two sessions of one place may work on the same directory at once",
    needs: [writable, sharedInProcess],
    async run(harness) {
      const other = await harness.open();
      const files = Array.from({ length: 40 }, (_, index) => `both/${index}`);
      const sources = await Promise.all(files.map((_, index) => versionFile(harness, index)));
      const half = (start: number): { file: string; localPath: string }[] =>
        files.flatMap((file, index) => (index % 2 === start ? [{ file, localPath: sources[index] ?? "" }] : []));
      await Promise.all([harness.workspace.uploadFiles(half(0)), other.workspace.uploadFiles(half(1))]);
      for (const workspace of [harness.workspace, other.workspace]) {
        assert.deepEqual(await harness.list("", workspace), [...files].sort());
      }
      await Promise.all([
        outcomesOf(harness.workspace.deleteFiles(files.slice(0, 30))),
        outcomesOf(other.workspace.deleteFiles(files.slice(10))),
      ]);
      assert.deepEqual(await harness.list(), []);
    },
  },
  {
    id: "J202",
    name: "a session reads whole files while another session of the place overwrites them",
    needs: [writable, sharedInProcess, atomicReplace],
    async run(harness) {
      const other = await harness.open();
      await readWhileWriting(harness, {
        write: async (version) => {
          await harness.workspace.uploadFiles([{ file: "shared.bin", localPath: await versionFile(harness, version) }]);
        },
        read: () => harness.get("shared.bin", other.workspace),
      });
    },
  },
  {
    id: "J203",
    name: "a transfer that is cancelled in its middle leaves nothing in the target",
    needs: [writable],
    async run(harness) {
      const memory = createMemoryBroker();
      const stop = new AbortController();
      const slow = new Workspace({
        name: "slow",
        broker: wrapBroker(memory, {
          methods: {
            async openRead(next, file, options, context) {
              const reader = await next(file, options, context);
              return {
                ...reader,
                async *[Symbol.asyncIterator]() {
                  for await (const chunk of reader) {
                    yield chunk;
                    stop.abort();
                    await sleep(10);
                  }
                },
              };
            },
            async downloadFile(next, download, context) {
              setTimeout(() => stop.abort(), 0);
              await sleep(60_000, context.signal);
              return next(download, context);
            },
          },
        }),
      });
      await slow.uploadFiles([{ file: "big", localPath: await harness.localFile(harness.random.bytes(4_000_000)) }]);
      const before = await harness.rawNames();
      const [outcome] = await outcomesOf(transferFiles(slow, harness.workspace, [{ file: "big" }], { signal: stop.signal }));
      assert.equal(outcome?.status, "cancelled");
      assert.deepEqual(await harness.list(), []);
      assert.deepEqual(await harness.rawNames(), before);
      await slow.close();
    },
  },
];

function memoryWorkspace(harness: Harness): Workspace {
  return new Workspace({ name: `memory ${harness.random.word(4)}`, broker: createMemoryBroker() });
}

async function workerTask(harness: Harness, task: Pick<WorkerTask, "mode" | "firstVersion">): Promise<WorkerTask> {
  const scratch = harness.localPath();
  await mkdir(scratch);
  return {
    ...task,
    module: harness.target.module ?? "",
    config: harness.place.config,
    volumePath: harness.place.volumePath,
    scratch,
    baseBytes: BASE_BYTES,
  };
}

/** Group J: more than one broker, session or process. */
export const crossingCases: readonly ConformanceCase[] = casesOf("J", cases);
