import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { lstat, readdir, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createLimits, type Outcome, type Workspace } from "@stowage/core";
import { type Broker, type OperationContext, StowageError, type StowageErrorCode, sleep, wrapBroker } from "@stowage/core/broker";
import { type CaseOfGroup, type ConformanceCase, casesOf } from "../conformance-case.ts";
import type { BackendOperation } from "../conformance-target.ts";
import {
  describeError,
  expectBrokerRejects,
  expectBytes,
  expectCode,
  expectDone,
  expectFailed,
  expectRejected,
  outcomesOf,
  settleMs,
  witness,
} from "../expectations.ts";
import type { Harness } from "../harness.ts";
import { countOpenHandles } from "../local-tree.ts";
import { fault, linux, method, rawNames, without, writable } from "../needs.ts";
import { BASE_BYTES, versionFile } from "../overwriting.ts";
import { readVersion } from "../whole-version.ts";
import { withoutBatches } from "../without-batches.ts";

const FOREVER = Number.POSITIVE_INFINITY;
const QUICK_RETRY = { attempts: 4, baseDelayMs: 1, maxDelayMs: 5 } as const;

const cases: readonly CaseOfGroup[] = [
  {
    id: "H101",
    name: "a batch that is cancelled before it starts touches nothing, and reports every item as cancelled",
    needs: [writable],
    async run(harness) {
      await harness.put("there", "there");
      const before = await harness.rawNames();
      let calls = 0;
      const { workspace } = await harness.open({ wrap: counting(() => calls++) });
      const localPath = await harness.localFile("x");
      const target = harness.localPath();
      const options = { signal: AbortSignal.abort() };
      const batches: readonly [string, Promise<readonly Outcome<unknown>[]>][] = [
        [
          "upload",
          workspace.uploadFiles(
            [
              { file: "a", localPath },
              { file: "b", localPath },
            ],
            options,
          ),
        ],
        ["download", workspace.downloadFiles([{ file: "there", localPath: target }], options)],
        ["move", workspace.moveFiles([{ file: "there", newPath: "moved" }], options)],
        ["delete", workspace.deleteFiles(["there"], options)],
      ];
      for (const [what, batch] of batches) {
        const outcomes = await outcomesOf(batch.then(notRefused(what)));
        for (const { status } of outcomes) assert.equal(status, "cancelled", what);
      }
      assert.equal(calls, 0, "calls that reached the broker");
      assert.deepEqual(await harness.list(), ["there"]);
      assert.deepEqual(await harness.rawNames(), before);
      assert.ok(!(await readdir(harness.scratch)).includes(target.slice(harness.scratch.length + 1)));
    },
  },
  {
    id: "H101a",
    name: "a broker that is given an aborted signal refuses, and does nothing",
    needs: [writable],
    async run(harness) {
      await harness.put("there", "there");
      const localPath = await harness.localFile("x");
      const context = (): OperationContext => harness.context({ signal: AbortSignal.abort() });
      const { broker } = harness;
      const file = harness.stored("there");
      const other = harness.stored("other");
      await expectBrokerRejects(broker, broker.uploadFile({ file: other, localPath }, context()), "upload");
      await expectBrokerRejects(broker, broker.moveFile({ file, newPath: other.path }, context()), "move");
      await expectBrokerRejects(broker, broker.deleteFile(file, context()), "delete");
      await expectBrokerRejects(broker, broker.downloadFile({ file, localPath: harness.localPath() }, context()), "download");
      assert.deepEqual(await harness.list(), ["there"]);
    },
  },
  {
    id: "H102",
    name: "an upload that is aborted in its middle rejects within a second and leaves nothing",
    needs: [writable],
    async run(harness) {
      await harness.put("dir/neighbour", "neighbour");
      const before = await harness.rawNames();
      await abortInTheMiddle(harness, {
        call: (localPath, context) => harness.broker.uploadFile({ file: harness.stored("dir/one"), localPath }, context),
      });
      assert.deepEqual(await harness.list(), ["dir/neighbour"]);
      assert.deepEqual(await harness.rawNames(), before);
      await abortInTheMiddle(harness, {
        prepare: () => harness.put("dir/one", "the previous state"),
        call: (localPath, context) => harness.broker.uploadFile({ file: harness.stored("dir/one"), localPath }, context),
      });
      expectBytes(await harness.get("dir/one"), Buffer.from("the previous state"), "the previous file");
    },
  },
  {
    id: "H102a",
    name: "a download that is aborted in its middle rejects within a second and leaves nothing",
    needs: [writable],
    async run(harness) {
      const target = harness.localPath();
      await abortInTheMiddle(harness, {
        prepare: async (localPath) => {
          await rm(target, { force: true });
          await harness.workspace.uploadFiles([{ file: "one", localPath }]);
        },
        call: (_localPath, context) => harness.broker.downloadFile({ file: harness.stored("one"), localPath: target }, context),
      });
      const names = await readdir(harness.scratch);
      assert.deepEqual(
        names.filter((name) => name.includes(".stowage") || join(harness.scratch, name) === target),
        [],
      );
    },
  },
  {
    id: "H102b",
    name: "a slow batch that is cancelled settles within a second, and says so of each item",
    needs: [writable],
    async run(harness) {
      const { workspace } = await harness.open({ limits: createLimits({ bytesPerSecond: 512 * 1024 }) });
      const localPath = await harness.localFile(harness.random.bytes(4 * 1024 * 1024));
      const stop = new AbortController();
      const batch = workspace.uploadFiles(
        [
          { file: "a", localPath },
          { file: "b", localPath },
        ],
        { signal: stop.signal },
      );
      const settled = outcomesOf(batch);
      await sleep(300);
      stop.abort();
      const abortedAt = performance.now();
      const outcomes = await settled;
      assert.ok(performance.now() - abortedAt < settleMs(), "within a second");
      const stored = await harness.list();
      for (const [index, outcome] of outcomes.entries()) {
        // Where a file moves in one step it may be whole already; then it must be said so.
        assert.ok(outcome.status === "cancelled" || outcome.status === "done", `item ${index} is ${outcome.status}`);
        assert.equal(stored.includes(index === 0 ? "a" : "b"), outcome.status === "done", `item ${index} is ${outcome.status}`);
      }
      // A broker that was given up on may still be cleaning up; it must come to its end.
      for (const until = performance.now() + settleMs(); (await harness.remains()).length > 0 && performance.now() < until; )
        await sleep(20);
      assert.deepEqual(await harness.remains(), [], "nothing is left behind");
    },
  },
  {
    id: "H102c",
    name: "a reader whose signal aborts stops giving bytes within a second",
    needs: [method("openRead")],
    async run(harness) {
      await harness.put("one", harness.random.bytes(8 * 1024 * 1024));
      const stop = new AbortController();
      const open = harness.broker.openRead?.bind(harness.broker);
      assert.ok(open !== undefined);
      const reader = await open(harness.stored("one"), {}, harness.context({ signal: stop.signal }));
      let bytes = 0;
      let bytesAfter = 0;
      let abortedAt = 0;
      const error = await (async () => {
        for await (const chunk of reader) {
          bytes += chunk.length;
          if (abortedAt === 0) {
            abortedAt = performance.now();
            stop.abort();
          } else {
            bytesAfter += chunk.length;
          }
        }
      })().then(
        () => undefined,
        (reason: unknown) => reason ?? new Error("nothing"),
      );
      await reader.close();
      assert.ok(performance.now() - abortedAt < settleMs(), "within a second");
      // A reader that had given everything in its first chunk had nothing left to stop.
      if (error === undefined)
        assert.deepEqual({ bytes, bytesAfter }, { bytes: reader.size, bytesAfter: 0 }, "the reader went on, or ended early");
    },
  },
  {
    id: "H102d",
    name: "a writer whose signal aborts publishes nothing",
    needs: [method("openWrite"), writable],
    async run(harness) {
      await harness.put("there", "previous");
      const before = await harness.rawNames();
      const open = harness.broker.openWrite?.bind(harness.broker);
      assert.ok(open !== undefined);
      for (const path of ["there", "new"]) {
        const stop = new AbortController();
        const writer = await open(harness.stored(path), {}, harness.context({ signal: stop.signal }));
        await writer.write(Buffer.alloc(100_000, 1));
        stop.abort();
        const failure = await writer.commit().then(
          () => undefined,
          (reason: unknown) => reason ?? new Error("nothing"),
        );
        assert.ok(failure !== undefined, "a commit after the abort should fail");
        await writer.abort(failure);
      }
      assert.deepEqual(await harness.list(), ["there"]);
      expectBytes(await harness.get("there"), Buffer.from("previous"), "the previous file");
      assert.deepEqual(await harness.rawNames(), before);
    },
  },
  {
    id: "H103",
    name: "cancelling a batch ends what has not started, and every item has an outcome that is true",
    needs: [writable],
    async run(harness) {
      const stop = new AbortController();
      let started = 0;
      const { workspace } = await harness.open({
        wrap: (broker) =>
          wrapBroker(withoutBatches(broker), {
            methods: {
              async uploadFile(next, upload, context) {
                if (++started === 4) setTimeout(() => stop.abort(), 20);
                if (started > 4) await sleep(60_000, context.signal);
                return next(upload, context);
              },
            },
          }),
      });
      const localPath = await harness.localFile("queued");
      const items = Array.from({ length: 40 }, (_, index) => ({ file: `q/${index}`, localPath }));
      const outcomes = await outcomesOf(workspace.uploadFiles(items, { signal: stop.signal, concurrency: 2 }));
      assert.equal(outcomes.length, 40);
      const stored = new Set(await harness.list());
      let cancelled = 0;
      for (const [index, outcome] of outcomes.entries()) {
        assert.ok(outcome.status === "done" || outcome.status === "cancelled", `item ${index} is ${outcome.status}`);
        if (outcome.status === "cancelled") cancelled++;
        assert.equal(stored.has(`q/${index}`), outcome.status === "done", `item ${index} is ${outcome.status}`);
      }
      assert.ok(started <= 6, `${started} uploads were started`);
      witness("cancelled items", cancelled, 34);
    },
  },
  {
    id: "H104",
    name: "a transfer in which no byte moves any more is STALLED, and one that outlives its deadline is TIMEOUT",
    async run(harness) {
      await harness.put("one", harness.random.bytes(1_000_000));
      const { workspace } = await harness.open({
        wrap: (broker) =>
          wrapBroker(withoutBatches(broker), {
            methods: {
              // The peer goes silent as soon as the broker asks for bytes.
              downloadFile: (next, download, context) =>
                next(download, {
                  ...context,
                  bytesPerSecond: 1e12,
                  throttle: () => silence(context.signal),
                  progress: () => undefined,
                }),
            },
          }),
      });
      const silence = async (signal: AbortSignal): Promise<void> => {
        wasThereAlready ||= existsSync(download.localPath);
        await sleep(60_000, signal);
      };
      let wasThereAlready = false;
      const download = { file: "one", localPath: harness.localPath() };
      const options = { retry: { attempts: 1 } } as const;
      const started = performance.now();
      const stalled = await outcomesOf(workspace.downloadFiles([download], { ...options, stallTimeoutMs: 250 }));
      if (wasThereAlready) return harness.skip("the broker asks for bytes when they have moved already: nothing can be stalled from here");
      await expectFailed(Promise.resolve(stalled), "a stalled download", "STALLED");
      await expectFailed(
        workspace.downloadFiles([download], { ...options, deadline: new Date(Date.now() + 250) }),
        "a download with a deadline",
        "TIMEOUT",
      );
      assert.ok(performance.now() - started < 2 * settleMs() + 500, "both within a second of their time");
      await assert.rejects(lstat(download.localPath), { code: "ENOENT" }, "nothing is left at the local path");
    },
  },
  {
    id: "H104a",
    name: "a backend that goes silent is STALLED within a second of the time that is allowed",
    needs: [fault("stall", "download")],
    async run(harness) {
      await harness.put("one", harness.random.bytes(300_000));
      await harness.place.faults?.inject({ kind: "stall", operation: "download", times: FOREVER });
      const started = performance.now();
      await expectFailed(
        harness.workspace.downloadFiles([{ file: "one", localPath: harness.localPath() }], {
          stallTimeoutMs: 300,
          retry: { attempts: 1 },
        }),
        "the download",
        "STALLED",
      );
      assert.ok(performance.now() - started < 300 + settleMs());
      witness("faults that struck", harness.place.faults?.struck() ?? 0, 1);
      await harness.place.faults?.clear();
    },
  },
  {
    id: "H104b",
    name: "a deadline that has passed already lets nothing start",
    needs: [writable],
    async run(harness) {
      await expectFailed(
        harness.workspace.uploadFiles([{ file: "late", localPath: await harness.localFile("late") }], { deadline: new Date(0) }),
        "the upload",
        "TIMEOUT",
      );
      assert.deepEqual(await harness.list(), []);
    },
  },
  ...(["upload", "download", "move", "delete", "stat", "list"] as const).flatMap((operation): CaseOfGroup[] => [
    {
      id: `H105-${operation}`,
      name: `a ${operation} that fails twice for a reason that passes succeeds at the third attempt`,
      needs: [fault("unavailable", operation), writable],
      async run(harness) {
        await harness.put("one", "one");
        await harness.place.faults?.inject({ kind: "unavailable", operation, times: 2 });
        await perform(harness, operation);
        const struck = harness.place.faults?.struck() ?? 0;
        await expectPerformed(harness, operation);
        witness("faults that struck", struck, 2);
      },
    },
    {
      id: `H107-${operation}`,
      name: `a ${operation} whose last attempt fails is a failure, never a success`,
      needs: [fault("unavailable", operation), writable],
      async run(harness) {
        await harness.put("one", "one");
        await harness.place.faults?.inject({ kind: "unavailable", operation, times: FOREVER });
        await expectRejected(perform(harness, operation), `the ${operation}`, "UNAVAILABLE", "TIMEOUT");
        witness("faults that struck", harness.place.faults?.struck() ?? 0, 1);
        await harness.place.faults?.clear();
        assert.deepEqual(await harness.list(), ["one"], "nothing has changed");
        expectBytes(await harness.get("one"), Buffer.from("one"), "the file");
      },
    },
  ]),
  {
    id: "H105a",
    name: "the workspace repeats what the broker calls retryable, and the broker can be called again",
    needs: [writable],
    async run(harness) {
      const failing = failFirst(2, "UNAVAILABLE");
      const { workspace } = await harness.open({ wrap: failing.wrap });
      const bytes = harness.random.bytes(20_000);
      const outcome = await expectDone(
        workspace.uploadFiles([{ file: "again", localPath: await harness.localFile(bytes) }], { retry: QUICK_RETRY }),
        "the upload",
      );
      assert.equal(outcome.attempts, 3);
      expectBytes(await harness.get("again"), bytes, "the stored file");
    },
  },
  {
    id: "H106",
    name: "what is not retryable is not tried again",
    needs: [writable],
    async run(harness) {
      const failing = failFirst(FOREVER, "PERMISSION_DENIED");
      const { workspace } = await harness.open({ wrap: failing.wrap });
      const outcome = await expectFailed(
        workspace.uploadFiles([{ file: "no", localPath: await harness.localFile("no") }], { retry: QUICK_RETRY }),
        "the upload",
        "PERMISSION_DENIED",
      );
      assert.equal(outcome.attempts, 1);
      assert.equal(failing.calls(), 1);
      assert.deepEqual(await harness.list(), []);
    },
  },
  {
    id: "H106a",
    name: "the broker calls a denied access PERMISSION_DENIED, and not retryable",
    needs: [fault("denied", "upload"), writable],
    async run(harness) {
      await harness.place.faults?.inject({ kind: "denied", operation: "upload", times: FOREVER });
      const outcome = await expectFailed(
        harness.workspace.uploadFiles([{ file: "no", localPath: await harness.localFile("no") }], { retry: QUICK_RETRY }),
        "the upload",
        "PERMISSION_DENIED",
      );
      assert.equal(outcome.attempts, 1);
      assert.equal(harness.place.faults?.struck(), 1);
      await harness.place.faults?.clear();
    },
  },
  {
    id: "H107a",
    name: "when every attempt fails the last error is raised, after as many attempts as were allowed",
    needs: [writable],
    async run(harness) {
      const failing = failFirst(FOREVER, "UNAVAILABLE");
      const { workspace } = await harness.open({ wrap: failing.wrap });
      const outcome = await expectFailed(
        workspace.uploadFiles([{ file: "no", localPath: await harness.localFile("no") }], { retry: { ...QUICK_RETRY, attempts: 3 } }),
        "the upload",
        "UNAVAILABLE",
      );
      assert.equal(outcome.attempts, 3);
      assert.equal(failing.calls(), 3);
      assert.match(describeError((outcome.error as Error).cause ?? outcome.error), /failure 3/, "it is the last error");
    },
  },
  {
    id: "H108",
    name: "what the backend says about when to come back is honoured",
    needs: [fault("rate-limited", "upload"), writable],
    async run(harness) {
      await harness.place.faults?.inject({ kind: "rate-limited", operation: "upload", times: 1, retryAfterMs: 1_000 });
      const started = performance.now();
      const outcome = await expectDone(
        harness.workspace.uploadFiles([{ file: "later", localPath: await harness.localFile("later") }], { retry: QUICK_RETRY }),
        "the upload",
      );
      assert.ok(performance.now() - started >= 990, "not before a second has passed");
      witness("faults that struck", harness.place.faults?.struck() ?? 0, 1);
      assert.ok(outcome.attempts >= 1);
    },
  },
  {
    id: "H109",
    name: "an upload whose answer is lost ends as one whole file",
    needs: [fault("lost-response", "upload"), writable],
    async run(harness) {
      const bytes = harness.random.bytes(50_000);
      await harness.place.faults?.inject({ kind: "lost-response", operation: "upload", times: 1 });
      await expectDone(
        harness.workspace.uploadFiles([{ file: "once", localPath: await harness.localFile(bytes) }], { retry: QUICK_RETRY }),
        "the upload",
      );
      witness("faults that struck", harness.place.faults?.struck() ?? 0, 1);
      assert.deepEqual(await harness.list(), ["once"]);
      expectBytes(await harness.get("once"), bytes, "the file");
    },
  },
  {
    id: "H109a",
    name: "a deletion whose answer is lost ends well",
    needs: [fault("lost-response", "delete"), writable],
    async run(harness) {
      await harness.put("once", "once");
      await harness.place.faults?.inject({ kind: "lost-response", operation: "delete", times: 1 });
      const [outcome] = await harness.workspace.deleteFiles(["once"], { retry: QUICK_RETRY });
      // The second attempt finds nothing; whether that was the first one's work nobody can know.
      assert.ok(outcome?.status === "done" || outcome?.status === "skipped");
      witness("faults that struck", harness.place.faults?.struck() ?? 0, 1);
      assert.deepEqual(await harness.list(), []);
    },
  },
  {
    id: "H109b",
    name: "a move whose answer is lost loses no file, whatever it reports",
    needs: [fault("lost-response", "move"), writable],
    async run(harness) {
      const bytes = harness.random.bytes(50_000);
      await harness.put("source", bytes);
      await harness.place.faults?.inject({ kind: "lost-response", operation: "move", times: 1 });
      await outcomesOf(harness.workspace.moveFiles([{ file: "source", newPath: "target" }], { retry: QUICK_RETRY }));
      witness("faults that struck", harness.place.faults?.struck() ?? 0, 1);
      expectBytes(await harness.get("target"), bytes, "the moved file");
      assert.deepEqual(await harness.list(), ["target"]);
    },
  },
  {
    id: "H111",
    name: "no more files move at once than are allowed, and no fewer than possible",
    needs: [writable],
    async run(harness) {
      let active = 0;
      let most = 0;
      const { workspace } = await harness.open({
        wrap: (broker) =>
          wrapBroker(withoutBatches(broker), {
            methods: {
              async uploadFile(next, upload, context) {
                most = Math.max(most, ++active);
                try {
                  await sleep(10);
                  return await next(upload, context);
                } finally {
                  active--;
                }
              },
            },
          }),
      });
      const localPath = await harness.localFile("x");
      const items = Array.from({ length: 30 }, (_, index) => ({ file: `c/${index}`, localPath }));
      await workspace.uploadFiles(items, { concurrency: 3 });
      assert.equal(most, 3);
      assert.equal((await harness.list()).length, 30);
    },
  },
  {
    id: "H112",
    name: "the broker asks the bandwidth limit for every byte that it moves",
    needs: [writable],
    async run(harness) {
      const bytes = harness.random.bytes(3_000_000);
      const localPath = await harness.localFile(bytes);
      const up = harness.context({ bytesPerSecond: 1e12 });
      await harness.broker.uploadFile({ file: harness.stored("one"), localPath }, up);
      assert.ok(up.record.throttled >= bytes.length, `an upload of ${bytes.length} bytes asked for ${up.record.throttled}`);
      const down = harness.context({ bytesPerSecond: 1e12 });
      await harness.broker.downloadFile({ file: harness.stored("one"), localPath: harness.localPath() }, down);
      assert.ok(down.record.throttled >= bytes.length, `a download of ${bytes.length} bytes asked for ${down.record.throttled}`);
    },
  },
  {
    id: "H112a",
    exclusive: true,
    name: "a bandwidth limit holds over all that moves",
    needs: [writable],
    async run(harness) {
      const { workspace } = await harness.open({ limits: createLimits({ bytesPerSecond: 4_000_000 }) });
      const localPath = await harness.localFile(harness.random.bytes(1_000_000));
      const started = performance.now();
      await workspace.uploadFiles(Array.from({ length: 4 }, (_, index) => ({ file: `slow/${index}`, localPath })));
      const seconds = (performance.now() - started) / 1000;
      assert.ok(seconds >= 0.85, `4 MB at 4 MB/s took ${seconds.toFixed(2)} s`);
      assert.ok(seconds < settleMs() / 500, `4 MB at 4 MB/s took ${seconds.toFixed(2)} s`);
    },
  },
  {
    id: "H113",
    exclusive: true,
    name: "after thousands of operations no more handles are open than before",
    needs: [linux, writable],
    timeoutMs: 180_000,
    async run(harness) {
      const localPath = await harness.localFile(harness.random.bytes(3_000));
      const target = harness.localPath();
      const turn = async (count: number): Promise<void> => {
        for (let index = 0; index < count; index++) {
          const path = `r/${index % 10}`;
          await harness.workspace.uploadFiles([{ file: path, localPath }]);
          await harness.workspace.downloadFiles([{ file: path, localPath: target }]);
          await harness.workspace.moveFiles([{ file: path, newPath: `${path}-moved` }], { ifExists: "replace" });
          await outcomesOf(harness.workspace.downloadFiles([{ file: path, localPath: target }], { retry: { attempts: 1 } }));
          for await (const _entry of harness.workspace.listFiles("r")) break;
          if (harness.broker.openRead !== undefined) {
            const reader = await harness.workspace.openRead(`${path}-moved`);
            for await (const _chunk of reader) break;
            await reader.close();
          }
          if (harness.broker.openWrite !== undefined) {
            const writer = await harness.workspace.openWrite("r/streamed");
            await writer.write(Buffer.alloc(10));
            await (index % 2 === 0 ? writer.commit() : writer.abort(new Error("no")));
          }
          await harness.workspace.statFile(path);
          await harness.workspace.deleteFiles([`${path}-moved`]);
        }
      };
      await turn(10);
      const before = { handles: await countOpenHandles(), resources: process.getActiveResourcesInfo().length };
      if (before.handles === undefined) return harness.skip("open handles cannot be counted here");
      const rounds = harness.rounds(60, 1_200);
      await turn(rounds);
      await sleep(50);
      const handles = (await countOpenHandles()) ?? 0;
      assert.ok(handles <= before.handles + 4, `${handles - before.handles} more handles after ${rounds * 9} operations`);
      const resources = process.getActiveResourcesInfo().length;
      assert.ok(resources <= before.resources + 8, `${resources - before.resources} more active resources`);
    },
  },
  {
    id: "H115",
    name: "a workspace that is closed while files move settles, and leaves nothing half done",
    needs: [writable],
    async run(harness) {
      const { workspace } = await harness.open({ limits: createLimits({ bytesPerSecond: 2_000_000 }) });
      const localPath = await versionFile(harness, 5);
      const batch = outcomesOf(workspace.uploadFiles(Array.from({ length: 30 }, (_, index) => ({ file: `closing/${index}`, localPath }))));
      const settled = batch.then(
        (outcomes) => outcomes,
        (error: unknown) => {
          expectCode(error, "the batch", "CLOSED", "CANCELLED");
          return undefined;
        },
      );
      await sleep(100);
      const closing = workspace.close();
      const outcomes = await settled;
      await closing;
      const stored = await harness.list();
      for (const path of stored) {
        const bytes = await harness.get(path);
        assert.equal(bytes && readVersion(bytes, BASE_BYTES), 5, `${path} is whole`);
      }
      for (const [index, outcome] of (outcomes ?? []).entries()) {
        assert.ok(["done", "cancelled", "failed"].includes(outcome.status));
        if (outcome.status === "done") assert.ok(stored.includes(`closing/${index}`), `item ${index} is done and stored`);
      }
      assert.deepEqual(await harness.remains(), [], "nothing is left behind");
    },
  },
  {
    id: "H116",
    name: "a clock that is wrong is named, and not tried again",
    needs: [fault("clock-skew", "upload"), writable],
    async run(harness) {
      await harness.place.faults?.inject({ kind: "clock-skew", operation: "upload", times: FOREVER });
      const outcome = await expectFailed(
        harness.workspace.uploadFiles([{ file: "skew", localPath: await harness.localFile("skew") }], { retry: QUICK_RETRY }),
        "the upload",
        "UNAUTHENTICATED",
      );
      assert.equal(outcome.attempts, 1);
      await harness.place.faults?.clear();
    },
  },
  {
    id: "H117",
    name: "credentials that expire are UNAUTHENTICATED, or refreshed so that the file is stored",
    needs: [fault("expired-credentials", "upload"), writable],
    async run(harness) {
      await harness.place.faults?.inject({ kind: "expired-credentials", operation: "upload", times: 1 });
      const [outcome] = await outcomesOf(
        harness.workspace.uploadFiles([{ file: "token", localPath: await harness.localFile("token") }], { retry: QUICK_RETRY }),
      );
      witness("faults that struck", harness.place.faults?.struck() ?? 0, 1);
      await harness.place.faults?.clear();
      if (outcome?.status === "failed") expectCode(outcome.error, "the upload", "UNAUTHENTICATED");
      else expectBytes(await harness.get("token"), Buffer.from("token"), "the stored file");
    },
  },
  {
    id: "H190",
    name: "a full backend is NO_SPACE or QUOTA_EXCEEDED, keeps what was there and leaves nothing",
    needs: [fault("no-space", "upload"), writable],
    async run(harness) {
      await harness.put("there", "there");
      const before = await harness.rawNames();
      const localPath = await harness.localFile(harness.random.bytes(300_000));
      await harness.place.faults?.inject({ kind: "no-space", operation: "upload", times: FOREVER });
      try {
        for (const file of ["new", "there"]) {
          await expectFailed(
            harness.workspace.uploadFiles([{ file, localPath }], { retry: QUICK_RETRY }),
            `uploading "${file}"`,
            "NO_SPACE",
            "QUOTA_EXCEEDED",
          );
        }
      } finally {
        await harness.place.faults?.clear();
      }
      expectBytes(await harness.get("there"), Buffer.from("there"), "the previous file");
      assert.deepEqual(await harness.list(), ["there"]);
      assert.deepEqual(await harness.rawNames(), before);
    },
  },
  {
    id: "H191",
    name: "an upload whose connection breaks in the middle is done again, whole",
    needs: [fault("reset", "upload"), writable],
    async run(harness) {
      const bytes = harness.random.bytes(500_000);
      await harness.place.faults?.inject({ kind: "reset", operation: "upload", times: 1 });
      await expectDone(
        harness.workspace.uploadFiles([{ file: "again", localPath: await harness.localFile(bytes) }], { retry: QUICK_RETRY }),
        "the upload",
      );
      witness("faults that struck", harness.place.faults?.struck() ?? 0, 1);
      expectBytes(await harness.get("again"), bytes, "the stored file");
    },
  },
  {
    id: "H192",
    name: "bytes that change on the way up are found where a digest is known, and nothing is stored",
    needs: [fault("corrupt-write", "upload"), writable],
    async run(harness) {
      await harness.place.faults?.inject({ kind: "corrupt-write", operation: "upload", times: FOREVER });
      await expectFailed(
        harness.workspace.uploadFiles([{ file: "rotten", localPath: await harness.localFile(harness.random.bytes(50_000)) }], {
          checksum: "crc32",
          retry: QUICK_RETRY,
        }),
        "the upload",
        "CHECKSUM_MISMATCH",
      );
      witness("faults that struck", harness.place.faults?.struck() ?? 0, 1);
      await harness.place.faults?.clear();
      assert.deepEqual(await harness.list(), []);
    },
  },
  {
    id: "H193",
    name: "sweeping removes what an abandoned writer left, and nothing that was stored",
    needs: [method("sweep"), method("openWrite"), writable],
    async run(harness) {
      await harness.put("dir/kept", "kept");
      const before = await harness.rawNames();
      const abandoned = await harness.open();
      const open = abandoned.broker.openWrite?.bind(abandoned.broker);
      assert.ok(open !== undefined);
      const writer = await open(harness.stored("dir/abandoned"), {}, harness.context());
      await writer.write(Buffer.alloc(50_000, 1));
      // Old enough for any clock.
      await sleep(20);
      for (const deep of [false, true]) {
        for await (const name of harness.workspace.sweep({ olderThanMs: 0, deep })) assert.ok(name.length > 0);
      }
      await writer.abort(new Error("too late")).catch(() => undefined);
      assert.deepEqual(await harness.list(), ["dir/kept"]);
      expectBytes(await harness.get("dir/kept"), Buffer.from("kept"), "the stored file");
      assert.deepEqual(await harness.rawNames(), before);
    },
  },
  {
    id: "H194",
    name: "sweeping leaves alone what is younger than it was told, and works on an empty workspace",
    needs: [method("sweep"), rawNames, writable],
    async run(harness) {
      assert.deepEqual(await Array.fromAsync(harness.workspace.sweep({ olderThanMs: 0, deep: true })), []);
      if (harness.broker.openWrite === undefined) return;
      const writer = await harness.workspace.openWrite("dir/young");
      await writer.write(Buffer.alloc(50_000, 1));
      assert.deepEqual(await Array.fromAsync(harness.workspace.sweep({ olderThanMs: 3_600_000, deep: true })), []);
      const details = await writer.commit();
      assert.equal(details.bytes, 50_000);
      assert.deepEqual(await harness.list(), ["dir/young"]);
    },
  },
  {
    id: "H195",
    name: "without sweep a workspace says so, or finds nothing to do",
    needs: [without(method("sweep")), writable],
    async run(harness) {
      await harness.put("kept", "kept");
      const names = await Array.fromAsync(harness.workspace.sweep({ olderThanMs: 0 })).catch((error: unknown) => {
        expectCode(error, "sweep", "UNSUPPORTED");
        return [];
      });
      assert.deepEqual(names, []);
      assert.deepEqual(await harness.list(), ["kept"]);
    },
  },
  {
    id: "H196",
    name: "what the broker reports while it works keeps the watchdog quiet",
    needs: [writable],
    async run(harness) {
      // Slow, but never silent: each piece passes well within the time that is allowed.
      const { workspace } = await harness.open({ limits: createLimits({ bytesPerSecond: 2_000_000 }) });
      const items = await Promise.all(
        Array.from({ length: 4 }, async (_, index) => ({
          file: `steady/${index}`,
          localPath: await harness.localFile(harness.random.bytes(400_000)),
        })),
      );
      const outcomes = await outcomesOf(workspace.uploadFiles(items, { stallTimeoutMs: 3_000, concurrency: 1 }));
      for (const outcome of outcomes) assert.equal(outcome.status, "done");
    },
  },
];

/**
 * Calls off a transfer as soon as its first bytes move. What moves in one step, or in another process that tells of it later, may
 * have ended by then; it gets a file that takes its time, and is called off by the clock.
 */
async function abortInTheMiddle(
  harness: Harness,
  transfer: {
    readonly prepare?: (localPath: string) => Promise<unknown>;
    readonly call: (localPath: string, context: OperationContext) => Promise<unknown>;
  },
): Promise<void> {
  for (const { mebibytes, by } of [{ mebibytes: 8, by: "bytes" } as const, { mebibytes: 192, by: "time" } as const]) {
    const localPath = harness.localPath();
    await writeFile(localPath, "");
    await truncate(localPath, mebibytes * 1024 * 1024);
    await harness.workspace.deleteFiles(["dir/one"]);
    await transfer.prepare?.(localPath);
    const stop = new AbortController();
    let abortedAt = 0;
    const abort = (): void => {
      if (abortedAt !== 0) return;
      abortedAt = performance.now();
      stop.abort();
    };
    const timer = by === "time" ? setTimeout(abort, 30) : undefined;
    const onMove = by === "bytes" ? abort : undefined;
    // A digest, so that the bytes are read and not left to the kernel.
    const context = harness.context({ signal: stop.signal, checksum: "sha256", onThrottle: onMove, onProgress: onMove });
    const failure = await transfer.call(localPath, context).then(
      () => undefined,
      (reason: unknown) => reason ?? new Error("nothing"),
    );
    clearTimeout(timer);
    await rm(localPath);
    if (failure === undefined) continue;
    assert.ok(abortedAt !== 0, `it failed by itself: ${describeError(failure)}`);
    const took = performance.now() - abortedAt;
    assert.ok(took < settleMs(), `it took ${took.toFixed(0)} ms to settle`);
    return;
  }
  throw new assert.AssertionError({ message: "what was aborted in its middle should reject" });
}

function counting(onCall: () => void): (broker: Broker) => Broker {
  return (broker) =>
    wrapBroker(broker, {
      promise(call, next) {
        onCall();
        return next(call.context);
      },
      async *batch(call, next) {
        onCall();
        yield* next(call.items, call.context);
      },
    });
}

function failFirst(times: number, code: StowageErrorCode): { wrap(broker: Broker): Broker; calls(): number } {
  let calls = 0;
  return {
    calls: () => calls,
    wrap: (broker) =>
      wrapBroker(withoutBatches(broker), {
        methods: {
          async uploadFile(next, upload, context) {
            calls++;
            if (calls <= times) throw new StowageError(`failure ${calls}`, { code });
            return next(upload, context);
          },
        },
      }),
  };
}

function notRefused(what: string): (outcomes: readonly Outcome<unknown>[]) => readonly Outcome<unknown>[] {
  return (outcomes) => {
    assert.ok(
      outcomes.some(({ status }) => status !== "cancelled"),
      `${what}: a batch with cancelled items should reject`,
    );
    return outcomes;
  };
}

async function perform(harness: Harness, operation: BackendOperation): Promise<void> {
  const retry = QUICK_RETRY;
  const { workspace }: { workspace: Workspace } = harness;
  switch (operation) {
    case "upload":
      await raise(workspace.uploadFiles([{ file: "two", localPath: await harness.localFile("two") }], { retry }));
      break;
    case "download":
      await raise(workspace.downloadFiles([{ file: "one", localPath: harness.localPath() }], { retry }));
      break;
    case "move":
      await raise(workspace.moveFiles([{ file: "one", newPath: "two" }], { retry }));
      break;
    case "delete":
      await raise(workspace.deleteFiles(["one"], { retry }));
      break;
    case "stat":
      assert.equal((await workspace.statFile("one"))?.size, 3);
      break;
    case "list":
      assert.deepEqual(
        (await Array.fromAsync(workspace.listFiles())).map(({ file }) => file.path),
        ["one"],
      );
      break;
  }
}

async function raise(batch: Promise<readonly Outcome<unknown>[]>): Promise<void> {
  for (const outcome of await outcomesOf(batch)) {
    if (outcome.status === "failed") throw outcome.error;
    assert.equal(outcome.status, "done");
  }
}

async function expectPerformed(harness: Harness, operation: BackendOperation): Promise<void> {
  await harness.place.faults?.clear();
  const expected: Partial<Record<BackendOperation, string[]>> = { upload: ["one", "two"], move: ["two"], delete: [] };
  assert.deepEqual(await harness.list(), expected[operation] ?? ["one"]);
}

/** Group H: what goes wrong, what is limited, what is called off. */
export const faultCases: readonly ConformanceCase[] = casesOf("H", cases);
