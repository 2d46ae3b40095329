import assert from "node:assert/strict";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { FileRecord, FileUpload, Outcome, Progress } from "@stowage/core";
import { type BatchResult, StowageError } from "@stowage/core/broker";
import { brokerMembers } from "../broker-members.ts";
import { type CaseOfGroup, type ConformanceCase, casesOf } from "../conformance-case.ts";
import { expectBytes, expectCode, outcomesOf, settleMs, witness } from "../expectations.ts";
import type { Harness } from "../harness.ts";
import { method, writable } from "../needs.ts";
import { withoutBatches } from "../without-batches.ts";
import { createWorkload } from "../workload.ts";

const cases: readonly CaseOfGroup[] = [
  {
    id: "I118",
    name: "a batch of nothing has no outcomes",
    needs: [writable],
    async run({ workspace, broker, context }) {
      assert.deepEqual(await workspace.uploadFiles([]), []);
      assert.deepEqual(await workspace.downloadFiles([]), []);
      assert.deepEqual(await workspace.moveFiles([]), []);
      assert.deepEqual(await workspace.deleteFiles([]), []);
      assert.deepEqual(await Array.fromAsync(workspace.downloadFiles(nothing())), []);
      for (const name of ["uploadFiles", "downloadFiles", "moveFiles", "deleteFiles"] as const) {
        const batch = broker[name] as ((items: readonly never[], context: unknown) => AsyncIterable<unknown>) | undefined;
        if (batch === undefined) continue;
        assert.deepEqual(await Array.fromAsync(batch.call(broker, [], context())), [], name);
      }
    },
  },
  {
    id: "I119",
    name: "outcomes of an array come in the order of its items, with the caller's own objects",
    async run(harness) {
      await harness.putMany(Array.from({ length: 40 }, (_, index) => ({ path: `o/${index}`, bytes: harness.random.bytes(index * 500) })));
      const items = harness.random
        .shuffle(Array.from({ length: 40 }, (_, index) => index))
        .map((index) => ({ file: `o/${index}`, localPath: harness.localPath(), note: Symbol(String(index)) }));
      const outcomes = await harness.workspace.downloadFiles(items);
      assert.equal(outcomes.length, items.length);
      for (const [index, outcome] of outcomes.entries()) {
        assert.equal(outcome.item, items[index], "the caller's own object");
        assert.ok(outcome.status === "done");
        assert.equal(outcome.file.path, items[index]?.file);
      }
    },
  },
  {
    id: "I119a",
    name: "a stream of items gives one outcome for each, and throws at its end when one failed",
    async run(harness) {
      await harness.putMany(Array.from({ length: 60 }, (_, index) => ({ path: `s/${index}`, bytes: Buffer.from(`number ${index}`) })));
      const localPaths: string[] = [];
      async function* items(count: number): AsyncGenerator<{ file: string; localPath: string }> {
        for (let index = 0; index < count; index++) {
          const localPath = harness.localPath();
          localPaths.push(localPath);
          yield { file: `s/${index}`, localPath };
        }
      }
      const seen = new Map<string, Outcome<FileUpload>["status"]>();
      for await (const { item, status } of harness.workspace.downloadFiles(items(60))) {
        assert.ok(!seen.has(item.file), `${item.file} has two outcomes`);
        seen.set(item.file, status);
      }
      assert.equal(seen.size, 60);
      assert.ok([...seen.values()].every((status) => status === "done"));
      expectBytes(await readFile(localPaths[7] ?? ""), Buffer.from("number 7"), "one of the files");
      const statuses: string[] = [];
      const error = await (async () => {
        for await (const { status } of harness.workspace.downloadFiles(items(62), { retry: { attempts: 1 } })) statuses.push(status);
      })().then(
        () => undefined,
        (reason: unknown) => reason,
      );
      assert.equal(statuses.filter((status) => status === "done").length, 60);
      assert.equal(statuses.filter((status) => status === "failed").length, 2);
      expectCode(error, "the stream's end", "FILE_NOT_FOUND");
    },
  },
  {
    id: "I119b",
    name: "a stream that is left early ends its work, and takes no more items",
    async run(harness) {
      await harness.putMany(Array.from({ length: 5 }, (_, index) => ({ path: `s/${index}`, bytes: Buffer.from("x") })));
      let taken = 0;
      let returned = false;
      async function* items(): AsyncGenerator<{ file: string; localPath: string }> {
        try {
          for (;;) yield { file: `s/${taken++ % 5}`, localPath: harness.localPath() };
        } finally {
          returned = true;
        }
      }
      let outcomes = 0;
      for await (const outcome of harness.workspace.downloadFiles(items(), { concurrency: 2 })) {
        assert.equal(outcome.status, "done");
        if (++outcomes === 10) break;
      }
      const after = taken;
      await new Promise((resolve) => setTimeout(resolve, 50));
      assert.equal(taken, after, "no more items are taken");
      assert.ok(returned, "the source of the items is closed");
    },
  },
  {
    id: "I120",
    name: "a batch with a failed item rejects with an error that holds every outcome",
    async run(harness) {
      await harness.put("good", "good");
      const error = await harness.workspace
        .downloadFiles([
          { file: "good", localPath: harness.localPath() },
          { file: "bad", localPath: harness.localPath() },
        ])
        .then(
          () => undefined,
          (reason: unknown) => reason,
        );
      assert.ok(StowageError.is(error));
      assert.equal(error.code, "FILE_NOT_FOUND");
      const { outcomes, isTransferError } = error as unknown as { outcomes: readonly Outcome<unknown>[]; isTransferError: unknown };
      assert.equal(isTransferError, true);
      assert.deepEqual(
        outcomes.map(({ status }) => status),
        ["done", "failed"],
      );
      const failed = outcomes[1];
      assert.ok(failed?.status === "failed");
      assert.equal((failed.error as { file?: unknown }).file, "bad");
    },
  },
  {
    id: "I121",
    name: "failFast starts nothing after the first failure, and reports the rest as cancelled",
    needs: [writable],
    async run(harness) {
      const { workspace } = await harness.open({ wrap: withoutBatches });
      const localPath = await harness.localFile("x");
      const items = Array.from({ length: 30 }, (_, index) => ({
        file: `f/${String(index).padStart(2, "0")}`,
        localPath: index === 4 ? harness.localPath() : localPath,
      }));
      const outcomes = await outcomesOf(workspace.uploadFiles(items, { failFast: true, concurrency: 1 }));
      assert.deepEqual(
        outcomes.map(({ status }) => status),
        items.map((_, index) => (index < 4 ? "done" : index === 4 ? "failed" : "cancelled")),
      );
      assert.equal((await harness.list()).length, 4);
    },
  },
  {
    id: "I122",
    name: "the store hook is called for each file that was stored, moved or deleted, never for one that failed",
    needs: [writable],
    async run(harness) {
      const records: FileRecord[] = [];
      const store = (record: FileRecord): void => {
        records.push(record);
      };
      const localPath = await harness.localFile("recorded");
      await outcomesOf(
        harness.workspace.uploadFiles(
          [
            { file: "one", localPath },
            { file: "two", localPath: harness.localPath() },
            { file: "three", localPath },
          ],
          { store },
        ),
      );
      assert.deepEqual(records.map(({ operation, file }) => `${operation} ${file.path}`).sort(), ["upload one", "upload three"]);
      await outcomesOf(
        harness.workspace.moveFiles(
          [
            { file: "one", newPath: "four" },
            { file: "missing", newPath: "five" },
          ],
          { store },
        ),
      );
      const move = records.find(({ operation }) => operation === "move");
      assert.equal(move?.file.path, "four");
      assert.equal(move?.previousPath, "one");
      await harness.workspace.deleteFiles(["three"], { store });
      assert.equal(records.length, 4);
      assert.equal(records[3]?.operation, "delete");
      const ids = new Set(records.map(({ recordId }) => recordId));
      assert.equal(ids.size, 4, "each record has an id of its own");
    },
  },
  {
    id: "I123",
    name: "when the store hook throws, its item alone fails: a new file is removed, a replaced one stays",
    needs: [writable],
    async run(harness) {
      await harness.put("old", "old");
      const localPath = await harness.localFile("new");
      const outcomes = await outcomesOf(
        harness.workspace.uploadFiles(
          [
            { file: "fine", localPath },
            { file: "fresh", localPath },
            { file: "old", localPath },
          ],
          {
            store: ({ file }) => {
              if (file.path !== "fine") throw new Error("the catalogue is down");
            },
          },
        ),
      );
      assert.deepEqual(
        outcomes.map(({ status }) => status),
        ["done", "failed", "failed"],
      );
      for (const outcome of outcomes) if (outcome.status === "failed") expectCode(outcome.error, "the item", "NOT_RECORDED");
      assert.deepEqual(await harness.list(), ["fine", "old"]);
      expectBytes(await harness.get("old"), Buffer.from("new"), "what was replaced stays replaced");
    },
  },
  {
    id: "I124",
    name: "progress never falls, and ends at the whole",
    async run(harness) {
      const sizes = [0, 10, 300_000, 2_000_000];
      await harness.putMany(sizes.map((size) => ({ path: `p/${size}`, bytes: harness.random.bytes(size) })));
      const items = sizes.map((size) => ({ file: { path: `p/${size}`, size }, localPath: harness.localPath() }));
      const total = sizes.reduce((sum, size) => sum + size, 0);
      const reports: Progress[] = [];
      await harness.workspace.downloadFiles(items, { onProgress: (progress) => reports.push(progress) });
      witness("reports", reports.length, sizes.length);
      let bytes = 0;
      let done = 0;
      const perItem = new Map<unknown, number>();
      for (const report of reports) {
        assert.ok(report.bytes >= bytes, `${report.bytes} bytes after ${bytes}`);
        assert.ok(report.done >= done, `${report.done} items after ${done}`);
        assert.ok(report.bytes <= total, `${report.bytes} of ${total} bytes`);
        assert.ok(report.itemBytes >= (perItem.get(report.item) ?? 0), "the bytes of one item");
        ({ bytes, done } = report);
        perItem.set(report.item, report.itemBytes);
      }
      assert.equal(reports.at(-1)?.bytes, total);
      assert.equal(reports.at(-1)?.done, sizes.length);
    },
  },
  {
    id: "I125",
    name: "a dry run changes nothing and foresees what happens",
    needs: [writable],
    async run(harness) {
      await harness.put("there", "there");
      await harness.put("other", "other");
      const before = { files: await harness.list(), raw: await harness.rawNames() };
      const localPath = await harness.localFile("twelve bytes");
      const dryRun = true;
      const uploads = await outcomesOf(
        harness.workspace.uploadFiles(
          [
            { file: "there", localPath },
            { file: "new", localPath },
            { file: "lost", localPath: harness.localPath() },
          ],
          { dryRun },
        ),
      );
      assert.deepEqual(
        uploads.map((outcome) => (outcome.status === "planned" ? [outcome.bytes, outcome.wouldReplace] : outcome.status)),
        [[12, true], [12, false], "failed"],
      );
      const target = harness.localPath();
      const [download] = await harness.workspace.downloadFiles([{ file: "there", localPath: target }], { dryRun });
      assert.equal(download?.status, "planned");
      const moves = await outcomesOf(
        harness.workspace.moveFiles(
          [
            { file: "there", newPath: "elsewhere" },
            { file: "missing", newPath: "nowhere" },
          ],
          { dryRun },
        ),
      );
      assert.deepEqual(
        moves.map(({ status }) => status),
        ["planned", "failed"],
      );
      const [collision] = await outcomesOf(harness.workspace.moveFiles([{ file: "there", newPath: "other" }], { dryRun }));
      assert.equal(collision?.status, "failed");
      const deletions = await harness.workspace.deleteFiles(["there", "missing"], { dryRun });
      assert.equal(deletions[0]?.status, "planned");
      assert.ok(deletions[1]?.status === "skipped" || deletions[1]?.status === "planned");
      assert.deepEqual({ files: await harness.list(), raw: await harness.rawNames() }, before);
      expectBytes(await harness.get("there"), Buffer.from("there"), "the file");
      await assert.rejects(readFile(target), { code: "ENOENT" });
    },
  },
  {
    id: "I127",
    name: "what the broker declares has the shape of the contract",
    async run({ broker }) {
      for (const [name, kind] of brokerMembers) {
        if (kind === "fact") continue;
        const type = typeof broker[name];
        assert.ok(type === "function" || (kind === "optional" && type === "undefined"), `${name} is ${type}`);
      }
      const { atomicReplace, ifAbsent, containment } = broker.capabilities;
      assert.equal(typeof atomicReplace, "boolean", "capabilities.atomicReplace");
      assert.ok(ifAbsent === "exact" || ifAbsent === "best-effort", `capabilities.ifAbsent is ${ifAbsent}`);
      assert.ok(
        containment === undefined || containment === "pinned" || containment === "checked",
        `capabilities.containment is ${containment}`,
      );
    },
  },
  {
    id: "I195",
    name: "a batch of uploads at the broker gives one result for each, and one bad source spoils no other",
    needs: [method("uploadFiles"), writable],
    async run(harness) {
      const count = 30;
      const bad = new Set([0, 13, 29]);
      const uploads = await Promise.all(
        Array.from({ length: count }, async (_, index) => ({
          file: harness.stored(`u/${index}`),
          localPath: bad.has(index) ? harness.localPath() : await harness.localFile(`content ${index}`),
        })),
      );
      const results = await collectBatch(harness.broker.uploadFiles?.(uploads, harness.context()), count);
      for (const [index, result] of results) {
        assert.equal(result.ok, !bad.has(index), `item ${index}`);
        if (result.ok) assert.equal(result.value.file.path, `u/${index}`, "a result is of its own item");
        else assert.equal(expectKnownCode(harness, result.error), "FILE_NOT_FOUND");
      }
      for (let index = 0; index < count; index++) {
        const bytes = await harness.get(`u/${index}`);
        if (bad.has(index)) assert.equal(bytes, undefined);
        else expectBytes(bytes, Buffer.from(`content ${index}`), `item ${index}`);
      }
    },
  },
  {
    id: "I195a",
    name: "a batch of uploads obeys ifExists for each item",
    needs: [method("uploadFiles"), writable],
    async run(harness) {
      await harness.put("u/1", "first");
      const localPath = await harness.localFile("second");
      const uploads = [0, 1, 2].map((index) => ({ file: harness.stored(`u/${index}`), localPath }));
      const results = await collectBatch(harness.broker.uploadFiles?.(uploads, harness.context({ ifExists: "fail" })), 3);
      const existing = results.get(1);
      assert.ok(existing !== undefined && !existing.ok, "the existing one fails");
      assert.equal(expectKnownCode(harness, existing.error), "FILE_EXISTS");
      expectBytes(await harness.get("u/1"), Buffer.from("first"), "the existing file");
      expectBytes(await harness.get("u/2"), Buffer.from("second"), "another file");
    },
  },
  {
    id: "I196",
    name: "a batch of downloads at the broker gives one result for each, and a missing file spoils no other",
    needs: [method("downloadFiles")],
    async run(harness) {
      const count = 30;
      const bad = new Set([0, 7, 29]);
      await harness.putMany(
        Array.from({ length: count }, (_, index) => index)
          .filter((index) => !bad.has(index))
          .map((index) => ({ path: `d/${index}`, bytes: Buffer.from(`content ${index}`) })),
      );
      const directory = harness.localPath();
      await mkdir(directory);
      const downloads = Array.from({ length: count }, (_, index) => ({
        file: harness.stored(`d/${index}`),
        localPath: join(directory, String(index)),
      }));
      const results = await collectBatch(harness.broker.downloadFiles?.(downloads, harness.context()), count);
      for (const [index, result] of results) {
        assert.equal(result.ok, !bad.has(index), `item ${index}`);
        if (result.ok) expectBytes(await readFile(join(directory, String(index))), Buffer.from(`content ${index}`), `item ${index}`);
        else assert.equal(expectKnownCode(harness, result.error), "FILE_NOT_FOUND");
      }
    },
  },
  {
    id: "I197",
    name: "a batch of moves at the broker gives one result for each, and a missing file spoils no other",
    needs: [method("moveFiles"), writable],
    async run(harness) {
      const count = 20;
      await harness.putMany(
        Array.from({ length: count }, (_, index) => index)
          .filter((index) => index !== 3)
          .map((index) => ({ path: `m/${index}`, bytes: Buffer.from(`content ${index}`) })),
      );
      const moves = Array.from({ length: count }, (_, index) => ({
        file: harness.stored(`m/${index}`),
        newPath: harness.stored(`moved/${index % 4}/${index}`).path,
      }));
      const results = await collectBatch(harness.broker.moveFiles?.(moves, harness.context({ ifExists: "fail" })), count);
      for (const [index, result] of results) {
        assert.equal(result.ok, index !== 3, `item ${index}`);
        if (!result.ok) assert.equal(expectKnownCode(harness, result.error), "FILE_NOT_FOUND");
      }
      assert.equal((await harness.list("m")).length, 0);
      assert.equal((await harness.list("moved")).length, count - 1);
      expectBytes(await harness.get("moved/1/17"), Buffer.from("content 17"), "one of the moved files");
    },
  },
  {
    id: "I204",
    name: "in a batch, progress says of which item it is, and adds up to each item's size",
    needs: [method("uploadFiles"), writable],
    async run(harness) {
      const sizes = [0, 10, 70_000, 1_500_000, 3];
      const uploads = await Promise.all(
        sizes.map(async (size, index) => ({
          file: harness.stored(`p/${index}`),
          localPath: await harness.localFile(harness.random.bytes(size)),
        })),
      );
      const moved = sizes.map(() => 0);
      const unnamed: number[] = [];
      const onProgress = (bytes: number, index?: number): void => {
        if (index === undefined) unnamed.push(bytes);
        else moved[index] = (moved[index] ?? 0) + bytes;
      };
      await collectBatch(harness.broker.uploadFiles?.(uploads, harness.context({ onProgress })), sizes.length);
      assert.deepEqual(
        unnamed.filter((bytes) => bytes !== 0),
        [],
        "bytes of no item",
      );
      assert.deepEqual(moved, sizes);
    },
  },
  {
    id: "I198",
    name: "a batch that its caller leaves early stops its work, and what it has stored is whole",
    needs: [method("uploadFiles"), writable],
    async run(harness) {
      const bytes = harness.random.bytes(200_000);
      const localPath = await harness.localFile(bytes);
      const uploads = Array.from({ length: 60 }, (_, index) => ({ file: harness.stored(`left/${index}`), localPath }));
      let results = 0;
      for await (const result of harness.broker.uploadFiles?.(uploads, harness.context()) ?? []) {
        assert.ok(result.ok);
        if (++results === 3) break;
      }
      const at = await harness.list();
      await new Promise((resolve) => setTimeout(resolve, 60));
      assert.deepEqual(await harness.list(), at, "after return() nothing more is stored");
      for (const path of at) expectBytes(await harness.get(path), bytes, path);
      assert.deepEqual(await harness.remains(), [], "nothing is left behind");
    },
  },
  {
    id: "I199",
    name: "a batch whose signal aborts settles within a second, and what it has not done is not there",
    needs: [method("uploadFiles"), writable],
    async run(harness) {
      const localPath = await harness.localFile(harness.random.bytes(300_000));
      const uploads = Array.from({ length: 40 }, (_, index) => ({ file: harness.stored(`a/${index}`), localPath }));
      const stop = new AbortController();
      let abortedAt = 0;
      let throttled = 0;
      const context = harness.context({
        signal: stop.signal,
        onThrottle: () => {
          if (++throttled === 3) {
            abortedAt = performance.now();
            stop.abort();
          }
        },
      });
      const done = new Set<string>();
      try {
        for await (const result of harness.broker.uploadFiles?.(uploads, context) ?? []) {
          if (result.ok) done.add(result.value.file.path);
        }
      } catch {
        // What concerns all that is left may be thrown.
      }
      witness("pieces before the abort", throttled, 3);
      assert.ok(performance.now() - abortedAt < settleMs(), "within a second");
      assert.ok(done.size < 40, "the abort came too late to see anything");
      for (const path of done) assert.ok((await harness.list()).includes(path), `${path} was said to be stored`);
      assert.deepEqual(await harness.remains(), [], "nothing is left behind");
    },
  },
  {
    id: "I200",
    name: "a hundred files go up and come down through a workspace, with the bytes of each",
    needs: [writable],
    async run(harness) {
      const files = createWorkload({ seed: harness.random.word(8), files: 100, sizes: { minimum: 0, maximum: 20_000 } });
      const uploads = await Promise.all(
        files.map(async (file) => ({ file: { path: file.path, digest: file.digest }, localPath: await harness.localFile(file.bytes()) })),
      );
      for (const outcome of await harness.workspace.uploadFiles(uploads)) {
        assert.ok(outcome.status === "done");
        assert.equal(outcome.verified, "digest");
      }
      assert.deepEqual(await harness.list(), files.map(({ path }) => path).sort());
      const downloads = files.map((file) => ({ file: { path: file.path, digest: file.digest }, localPath: harness.localPath() }));
      for (const outcome of await harness.workspace.downloadFiles(downloads)) {
        assert.ok(outcome.status === "done");
        assert.equal(outcome.verified, "digest");
      }
      for (const [index, file] of files.entries()) {
        expectBytes(await readFile(downloads[index]?.localPath ?? ""), file.bytes(), file.path);
      }
    },
  },
];

async function* nothing(): AsyncGenerator<{ file: string; localPath: string }> {}

/** Every result of a batch by its index: one for each item, none twice. */
async function collectBatch<T>(batch: AsyncIterable<BatchResult<T>> | undefined, count: number): Promise<Map<number, BatchResult<T>>> {
  assert.ok(batch !== undefined);
  const results = new Map<number, BatchResult<T>>();
  for await (const result of batch) {
    assert.ok(Number.isInteger(result.index) && result.index >= 0 && result.index < count, `there is no item ${result.index}`);
    assert.ok(!results.has(result.index), `item ${result.index} has two results`);
    results.set(result.index, result);
  }
  const missing = Array.from({ length: count }, (_, index) => index).filter((index) => !results.has(index));
  assert.deepEqual(missing, [], "items without a result");
  return results;
}

function expectKnownCode(harness: Harness, error: unknown): string {
  if (StowageError.is(error)) return error.code;
  const facts = harness.broker.errorCode(error);
  return typeof facts === "string" ? facts : facts.code;
}

/** Group I: many files at once. */
export const batchCases: readonly ConformanceCase[] = casesOf("I", cases);
