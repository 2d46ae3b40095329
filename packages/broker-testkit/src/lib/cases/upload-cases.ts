import assert from "node:assert/strict";
import { appendFileSync, closeSync, openSync, truncateSync, writeSync } from "node:fs";
import { mkdir, readFile, stat, symlink, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createLimits } from "@stowage/core";
import { DIGEST_ALGORITHMS, type Digest, digestOf, sleep } from "@stowage/core/broker";
import { type CaseOfGroup, type ConformanceCase, casesOf } from "../conformance-case.ts";
import { expectBrokerRejects, expectBytes, expectDone, expectFailed, outcomesOf, witness } from "../expectations.ts";
import type { Harness } from "../harness.ts";
import { makeFifo, tryWithFifo } from "../local-tree.ts";
import {
  atomicReplace,
  exactIfAbsent,
  fileMode,
  hook,
  method,
  partSizes,
  rawNames,
  sharedInProcess,
  trait,
  without,
  writable,
} from "../needs.ts";
import { BASE_BYTES, readWhileWriting, versionFile } from "../overwriting.ts";
import { readVersion, versionBytes } from "../whole-version.ts";

const WRONG_DIGEST: Digest = { algorithm: "sha256", value: "00".repeat(32) };

const cases: readonly CaseOfGroup[] = [
  {
    id: "B15",
    name: "an uploaded file has the bytes of its source, and the outcome says so",
    async run(harness) {
      const bytes = harness.random.bytes(70_001);
      const outcome = await expectDone(
        harness.workspace.uploadFiles([{ file: "one.bin", localPath: await harness.localFile(bytes) }]),
        "the upload",
      );
      assert.equal(outcome.bytes, bytes.length);
      assert.equal(outcome.file.path, "one.bin");
      assert.equal(outcome.file.size ?? bytes.length, bytes.length);
      expectBytes(await harness.get("one.bin"), bytes, "the stored file");
    },
  },
  {
    id: "B16",
    name: "a file without bytes is stored, found and read like any other",
    async run(harness) {
      const outcome = await expectDone(
        harness.workspace.uploadFiles([{ file: "empty", localPath: await harness.localFile("") }]),
        "the upload",
      );
      assert.equal(outcome.bytes, 0);
      assert.equal((await harness.workspace.statFile("empty"))?.size, 0);
      expectBytes(await harness.get("empty"), Buffer.alloc(0), "the empty file");
      assert.deepEqual(await harness.list(), ["empty"]);
    },
  },
  {
    id: "B17",
    name: "sizes around powers of two come through whole",
    async run(harness) {
      await roundTripSizes(harness, [1, 511, 512, 513, 4_095, 4_096, 4_097, 65_535, 65_536, 65_537, 1_048_575, 1_048_576, 1_048_577]);
    },
  },
  {
    id: "B17a",
    name: "sizes around those of a part come through whole",
    needs: [partSizes],
    async run(harness) {
      await roundTripSizes(
        harness,
        harness.traits.partSizes.flatMap((size) => [size - 1, size, size + 1]),
      );
    },
  },
  {
    id: "B18",
    name: "a file larger than the memory budget is stored within it",
    async run(harness) {
      const { broker } = harness;
      const context = harness.context({ memoryBytes: 1024 * 1024 });
      const localPath = await harness.localFile(harness.random.bytes(6 * 1024 * 1024 + 5));
      const details = await broker.uploadFile({ file: harness.stored("large"), localPath }, context);
      assert.equal(details.bytes, 6 * 1024 * 1024 + 5);
      assert.ok(context.record.mostReserved <= 1024 * 1024, "the kit grants no more than the budget");
      assert.equal(context.record.reserved, 0, "every reservation is given back");
      const { workspace } = await harness.open({ limits: createLimits({ memoryBytes: 256 * 1024 }) });
      await expectDone(workspace.uploadFiles([{ file: "large-2", localPath }]), "an upload through a workspace with 256 KiB of memory");
      expectBytes(await harness.get("large-2"), await readFile(localPath), "the stored file");
    },
  },
  {
    id: "B18a",
    exclusive: true,
    name: "memory does not grow with the size of the file",
    skip: ({ traits }) => (traits.holdsFilesInMemory ? "its files are this process's memory" : undefined),
    async run(harness) {
      const length = harness.traits.largeFileBytes;
      const localPath = harness.localPath();
      await writeFile(localPath, "");
      // Sparse: the size is what matters here.
      await truncate(localPath, length);
      await harness.put("warm", harness.random.bytes(100_000));
      const before = process.memoryUsage().arrayBuffers;
      let most = before;
      const timer = setInterval(() => {
        most = Math.max(most, process.memoryUsage().arrayBuffers);
      }, 5);
      try {
        await expectDone(harness.workspace.uploadFiles([{ file: "large", localPath }]), "the upload");
      } finally {
        clearInterval(timer);
      }
      const growth = most - before;
      assert.ok(growth < Math.max(length / 2, 24 * 1024 * 1024), `${growth} bytes of buffers for a file of ${length}`);
      assert.equal((await harness.workspace.statFile("large"))?.size, length);
    },
  },
  {
    id: "B19",
    name: "missing directories are made",
    async run(harness) {
      await harness.put("a/b/c/d/e/deep.txt", "deep");
      await harness.put("a/b/side.txt", "side");
      assert.deepEqual(await harness.list(), ["a/b/c/d/e/deep.txt", "a/b/side.txt"]);
    },
  },
  {
    id: "B20",
    name: "a reader of a file that is being replaced sees the old or the new one, whole",
    needs: [atomicReplace],
    async run(harness) {
      await readWhileWriting(harness, {
        write: async (version) => {
          await harness.workspace.uploadFiles([{ file: "shared.bin", localPath: await versionFile(harness, version) }]);
        },
      });
    },
  },
  {
    id: "B21",
    name: "one missing source fails its own item and no other",
    async run(harness) {
      const good = await harness.localFile("good");
      const outcomes = await outcomesOf(
        harness.workspace.uploadFiles([
          { file: "first", localPath: good },
          { file: "second", localPath: harness.localPath() },
          { file: "third", localPath: good },
        ]),
      );
      assert.deepEqual(
        outcomes.map(({ status }) => status),
        ["done", "failed", "done"],
      );
      const failed = outcomes[1];
      assert.ok(failed?.status === "failed");
      assert.equal((failed.error as { code?: unknown }).code, "FILE_NOT_FOUND");
      assert.deepEqual(await harness.list(), ["first", "third"]);
    },
  },
  {
    id: "B22",
    name: "a source shorter than promised fails and leaves nothing",
    async run(harness) {
      await expectNothingStored(harness, "short.bin", async (localPath) => {
        await writeFile(localPath, harness.random.bytes(1_000));
        const promised = { file: { path: "short.bin", size: 1_001 }, localPath };
        await expectFailed(harness.workspace.uploadFiles([promised]), "the upload", "SHORT_SOURCE", "SOURCE_CHANGED");
        await expectBrokerRejects(
          harness.broker,
          harness.broker.uploadFile({ file: { ...harness.stored("short.bin"), size: 1_001 }, localPath }, harness.context()),
          "the upload at the broker",
          "SHORT_SOURCE",
          "SOURCE_CHANGED",
        );
      });
    },
  },
  {
    id: "B22a",
    name: "a source longer than promised fails and leaves nothing",
    async run(harness) {
      await expectNothingStored(harness, "long.bin", async (localPath) => {
        await writeFile(localPath, harness.random.bytes(1_000));
        await expectFailed(
          harness.workspace.uploadFiles([{ file: { path: "long.bin", size: 999 }, localPath }]),
          "the upload",
          "SOURCE_CHANGED",
          "SHORT_SOURCE",
          "CHECKSUM_MISMATCH",
        );
      });
    },
  },
  {
    id: "B23",
    name: "a source that grows while it is read fails, or is stored as it was at one moment",
    async run(harness) {
      const before = harness.random.bytes(3 * 1024 * 1024);
      const extra = harness.random.bytes(50_000);
      const { localPath } = await uploadWhile(harness, before, (path) => appendFileSync(path, extra));
      const stored = await harness.get("changing.bin");
      if (stored === undefined) return;
      const whole = stored.length === before.length ? before : await readFile(localPath);
      expectBytes(stored, whole, "the stored file");
    },
  },
  {
    id: "B23a",
    name: "a source that is cut while it is read fails, or is stored as it was at one moment",
    async run(harness) {
      const before = harness.random.bytes(3 * 1024 * 1024);
      const { details } = await uploadWhile(harness, before, (path) => truncateSync(path, 100_000));
      const stored = await harness.get("changing.bin");
      assert.equal(stored?.length, details?.bytes, "what is stored is what was reported");
      if (stored === undefined) return;
      assert.ok(stored.length === before.length || stored.length === 100_000, `${stored.length} bytes are stored`);
      expectBytes(stored, before.subarray(0, stored.length), "the stored file");
    },
  },
  {
    id: "B23b",
    name: "a source that is replaced in place while it is read fails, or is stored as it was at one moment",
    async run(harness) {
      const before = versionBytes(1, 3 * 1024 * 1024);
      const after = versionBytes(2, 3 * 1024 * 1024);
      await uploadWhile(harness, before, (path) => {
        // The same inode, other bytes.
        const file = openSync(path, "r+");
        writeSync(file, after.subarray(0, before.length));
        closeSync(file);
      });
      const stored = await harness.get("changing.bin");
      if (stored === undefined) return;
      assert.equal(stored.length, before.length);
      const isOld = stored.equals(before);
      assert.ok(isOld || stored.equals(after.subarray(0, before.length)), "the stored file is a mixture of two states of its source");
    },
  },
  {
    id: "B24",
    name: "a directory or a FIFO as source is NOT_A_FILE at once",
    async run(harness) {
      const directory = harness.localPath();
      await mkdir(directory);
      await expectFailed(harness.workspace.uploadFiles([{ file: "x", localPath: directory }]), "uploading a directory", "NOT_A_FILE");
      const fifo = harness.localPath();
      if (await makeFifo(fifo)) {
        const failed = await tryWithFifo(fifo, () =>
          expectFailed(harness.workspace.uploadFiles([{ file: "x", localPath: fifo }]), "uploading a FIFO", "NOT_A_FILE"),
        );
        assert.notEqual(failed, "waited", "a FIFO is refused, not waited for");
      }
      assert.deepEqual(await harness.list(), []);
    },
  },
  {
    id: "B25",
    name: "a symbolic link as source uploads what it points to",
    async run(harness) {
      const link = harness.localPath();
      await symlink(await harness.localFile("behind the link"), link);
      await expectDone(harness.workspace.uploadFiles([{ file: "linked", localPath: link }]), "the upload");
      expectBytes(await harness.get("linked"), Buffer.from("behind the link"), "the stored file");
      if (harness.place.directory !== undefined) {
        assert.ok((await stat(join(harness.place.directory, "linked"))).isFile());
      }
    },
  },
  {
    id: "B26",
    name: "a failed upload leaves no file and nothing else",
    async run(harness) {
      await expectNothingStored(harness, "wrong/sum.bin", async (localPath) => {
        await writeFile(localPath, harness.random.bytes(300_000));
        await expectFailed(
          harness.workspace.uploadFiles([{ file: { path: "wrong/sum.bin", digest: WRONG_DIGEST }, localPath }]),
          "an upload with a wrong digest",
          "CHECKSUM_MISMATCH",
        );
      });
    },
  },
  {
    id: "B27",
    name: "a failed replacement keeps the previous file",
    async run(harness) {
      await harness.put("kept.bin", "the previous state");
      const before = await harness.rawNames();
      await expectFailed(
        harness.workspace.uploadFiles([{ file: { path: "kept.bin", digest: WRONG_DIGEST }, localPath: await harness.localFile("new") }]),
        "an upload with a wrong digest",
        "CHECKSUM_MISMATCH",
      );
      expectBytes(await harness.get("kept.bin"), Buffer.from("the previous state"), "the previous file");
      assert.deepEqual(await harness.rawNames(), before, "nothing is left beside it");
    },
  },
  {
    id: "B28",
    name: "the outcome names the file under which it is found",
    async run(harness) {
      const { file } = await expectDone(
        harness.workspace.uploadFiles([{ file: "some/name.txt", localPath: await harness.localFile("named") }]),
        "the upload",
      );
      assert.deepEqual(await harness.list(), [file.path]);
      const found = await harness.workspace.statFile(file);
      assert.equal(found?.file.path, file.path);
      assert.equal(found?.size, 5);
    },
  },
  {
    id: "B29",
    name: "the media type is kept",
    needs: [trait("keepsMediaType")],
    async run(harness) {
      await expectDone(
        harness.workspace.uploadFiles([
          { file: { path: "page", mediaType: "text/html; charset=utf-8" }, localPath: await harness.localFile("<p>") },
        ]),
        "the upload",
      );
      assert.equal((await harness.workspace.statFile("page"))?.file.mediaType, "text/html; charset=utf-8");
    },
  },
  {
    id: "B30",
    name: "metadata is kept: none, empty values, and Unicode",
    needs: [trait("keepsMetadata")],
    async run(harness) {
      for (const [index, metadata] of [{}, { key: "value" }, { empty: "", place: "Zürich 東京 🚢" }].entries()) {
        const path = `meta-${index}`;
        await expectDone(
          harness.workspace.uploadFiles([{ file: { path, metadata }, localPath: await harness.localFile("m") }]),
          "the upload",
        );
        assert.deepEqual({ ...(await harness.workspace.statFile(path))?.file.metadata }, metadata);
      }
    },
  },
  {
    id: "B31",
    name: 'ifExists "fail" refuses an existing file and keeps it, and stores a new one',
    async run(harness) {
      await harness.put("there", "first");
      const localPath = await harness.localFile("second");
      await expectFailed(
        harness.workspace.uploadFiles([{ file: "there", localPath }], { ifExists: "fail" }),
        "storing over it",
        "FILE_EXISTS",
      );
      expectBytes(await harness.get("there"), Buffer.from("first"), "the existing file");
      await expectDone(harness.workspace.uploadFiles([{ file: "new", localPath }], { ifExists: "fail" }), "storing a new one");
      expectBytes(await harness.get("new"), Buffer.from("second"), "the new file");
    },
  },
  {
    id: "B31a",
    name: 'ifExists "skip" is a skip, not an error, and keeps the existing file',
    async run(harness) {
      await harness.put("there", "first");
      const localPath = await harness.localFile("second");
      const outcomes = await harness.workspace.uploadFiles(
        [
          { file: "there", localPath },
          { file: "new", localPath },
        ],
        { ifExists: "skip" },
      );
      assert.deepEqual(
        outcomes.map((outcome) => (outcome.status === "skipped" ? outcome.reason : outcome.status)),
        ["exists", "done"],
      );
      expectBytes(await harness.get("there"), Buffer.from("first"), "the existing file");
    },
  },
  {
    id: "B31b",
    name: 'ifExists "skip-same" skips what is the same and replaces what is not',
    needs: [trait("keepsModified")],
    async run(harness) {
      const first = await harness.localFile("same bytes");
      await harness.workspace.uploadFiles([{ file: "there", localPath: first }]);
      const again = await harness.workspace.uploadFiles([{ file: "there", localPath: first }], { ifExists: "skip-same" });
      assert.deepEqual(
        again.map((outcome) => (outcome.status === "skipped" ? outcome.reason : outcome.status)),
        ["same"],
      );
      await expectDone(
        harness.workspace.uploadFiles([{ file: "there", localPath: await harness.localFile("other!") }], { ifExists: "skip-same" }),
        "storing something else",
      );
      expectBytes(await harness.get("there"), Buffer.from("other!"), "the replaced file");
    },
  },
  {
    id: "B33",
    name: "of racing creations exactly one wins",
    needs: [exactIfAbsent],
    async run(harness) {
      const rounds = harness.rounds(12, 100);
      const brokers = [harness.broker];
      if (harness.traits.sharedWith !== "nobody") brokers.push((await harness.open()).broker);
      const racers = 6;
      const sources = await Promise.all(Array.from({ length: racers }, (_, racer) => versionFile(harness, racer + 1)));
      for (let round = 0; round < rounds; round++) {
        const file = harness.stored(`race-${round}`);
        const results = await Promise.allSettled(
          sources.map((localPath, racer) =>
            (brokers[racer % brokers.length] ?? harness.broker).uploadFile({ file, localPath }, harness.context({ ifExists: "fail" })),
          ),
        );
        const winners = results.flatMap((result, racer) => (result.status === "fulfilled" ? [racer + 1] : []));
        assert.equal(winners.length, 1, `round ${round}: the number of winners`);
        for (const result of results) {
          if (result.status === "rejected") {
            await expectBrokerRejects(
              harness.broker,
              Promise.reject(result.reason),
              `a loser of round ${round}`,
              "FILE_EXISTS",
              "CONFLICT",
            );
          }
        }
        const bytes = await harness.get(file.path);
        assert.equal(bytes && readVersion(bytes, BASE_BYTES), winners[0], `round ${round}: the winner's bytes are stored`);
      }
    },
  },
  {
    id: "B34",
    name: "racing replacements end in one whole version",
    async run(harness) {
      const rounds = harness.rounds(10, 100);
      const brokers = [harness.broker];
      if (harness.traits.sharedWith !== "nobody") brokers.push((await harness.open()).broker);
      const sources = await Promise.all(Array.from({ length: 6 }, (_, racer) => versionFile(harness, racer + 1)));
      for (let round = 0; round < rounds; round++) {
        const results = await Promise.allSettled(
          sources.map((localPath, racer) =>
            (brokers[racer % brokers.length] ?? harness.broker).uploadFile({ file: harness.stored("race"), localPath }, harness.context()),
          ),
        );
        const wins = results.filter(({ status }) => status === "fulfilled").length;
        assert.ok(wins >= 1, "at least one of them succeeds");
        const bytes = await harness.get("race");
        assert.ok(bytes !== undefined, "the file is there");
        const version = readVersion(bytes, BASE_BYTES);
        assert.equal(typeof version, "number", `round ${round}: ${version}`);
      }
    },
  },
  {
    id: "B34a",
    name: "uploads of many files at once do not disturb each other",
    async run(harness) {
      const files = await Promise.all(
        Array.from({ length: 24 }, async (_, index) => ({ file: `same/place/${index}`, localPath: await versionFile(harness, index) })),
      );
      // Without the workspace's batches: each call on its own, in one directory, at one moment.
      await Promise.all(
        files.map(({ file, localPath }) => harness.broker.uploadFile({ file: harness.stored(file), localPath }, harness.context())),
      );
      for (const [index, { file }] of files.entries()) {
        const bytes = await harness.get(file);
        assert.equal(bytes && readVersion(bytes, BASE_BYTES), index);
      }
    },
  },
  {
    id: "B35",
    exclusive: true,
    name: "stored files have the declared mode, whatever the umask, and belong to this process",
    needs: [hook("directory"), fileMode],
    async run(harness) {
      const localPath = await harness.localFile("mode");
      const umask = process.umask(0o077);
      try {
        await expectDone(harness.workspace.uploadFiles([{ file: "mode.txt", localPath }]), "the upload");
      } finally {
        process.umask(umask);
      }
      const stats = await stat(join(harness.place.directory ?? "", "mode.txt"));
      assert.equal((stats.mode & 0o7777).toString(8), (harness.traits.fileMode ?? 0).toString(8), "the mode");
      if (process.geteuid !== undefined) assert.equal(stats.uid, process.geteuid(), "the owner");
    },
  },
  {
    id: "B36",
    name: "two items for one target are refused, and neither is stored",
    async run(harness) {
      const localPath = await harness.localFile("twice");
      const batch = harness.workspace.uploadFiles([
        { file: "one", localPath },
        { file: "same", localPath },
        { file: "same", localPath },
      ]);
      const error = await batch.then(
        () => undefined,
        (reason: unknown) => reason,
      );
      assert.equal((error as { code?: unknown } | undefined)?.code, "CONFLICT");
      assert.equal(await harness.workspace.statFile("same"), undefined);
    },
  },
  {
    id: "B137",
    name: "a digest that is asked for is computed, reported and right",
    async run(harness) {
      const bytes = harness.random.bytes(200_003);
      const localPath = await harness.localFile(bytes);
      for (const algorithm of DIGEST_ALGORITHMS) {
        const path = `digest/${algorithm}`;
        const outcome = await expectDone(harness.workspace.uploadFiles([{ file: path, localPath }], { checksum: algorithm }), algorithm);
        assert.equal(outcome.verified, "digest", `${algorithm}: verified`);
        assert.deepEqual({ ...outcome.digest }, { ...digestOf(bytes, algorithm) }, `${algorithm}: the digest`);
      }
    },
  },
  {
    id: "B138",
    name: 'an upload that says verified "digest" shows the right digest',
    async run(harness) {
      for (const checksum of ["auto", "none"] as const) {
        const bytes = harness.random.bytes(50_000);
        const outcome = await expectDone(
          harness.workspace.uploadFiles([{ file: `honest-${checksum}`, localPath: await harness.localFile(bytes) }], { checksum }),
          checksum,
        );
        if (outcome.verified === "digest") {
          assert.ok(outcome.digest !== undefined, "the digest is there");
          assert.deepEqual({ ...outcome.digest }, { ...digestOf(bytes, outcome.digest.algorithm) });
        } else {
          assert.ok(["length", "none"].includes(outcome.verified));
        }
      }
    },
  },
  {
    id: "B139",
    name: "a digest that the caller gives is held against the bytes, whichever algorithm it is of",
    async run(harness) {
      const bytes = harness.random.bytes(30_000);
      const localPath = await harness.localFile(bytes);
      for (const algorithm of DIGEST_ALGORITHMS) {
        const right = digestOf(bytes, algorithm);
        const path = `given/${algorithm}`;
        const outcome = await expectDone(harness.workspace.uploadFiles([{ file: { path, digest: right }, localPath }]), algorithm);
        assert.equal(outcome.verified, "digest", `${algorithm}: verified`);
        const wrong: Digest = { algorithm, value: right.value.replace(/.$/, (last) => (last === "0" ? "1" : "0")) };
        const call = harness.broker.uploadFile(
          { file: { ...harness.stored(`wrong/${algorithm}`), digest: wrong }, localPath },
          harness.context(),
        );
        await expectBrokerRejects(harness.broker, call, `a wrong ${algorithm}`, "CHECKSUM_MISMATCH");
      }
      assert.deepEqual(await harness.list("wrong"), []);
    },
  },
  {
    id: "B140",
    name: "the source's time of modification is kept",
    needs: [trait("keepsModified")],
    async run(harness) {
      const localPath = await harness.localFile("old");
      const modified = new Date("2001-02-03T04:05:06.789Z");
      await utimes(localPath, new Date(), modified);
      await expectDone(harness.workspace.uploadFiles([{ file: "old.txt", localPath }]), "the upload");
      assert.equal((await harness.workspace.statFile("old.txt"))?.modified?.getTime(), modified.getTime());
    },
  },
  {
    id: "B141",
    name: "progress adds up to the size of the file",
    async run(harness) {
      const bytes = harness.random.bytes(2_500_000);
      const context = harness.context();
      await harness.broker.uploadFile({ file: harness.stored("counted"), localPath: await harness.localFile(bytes) }, context);
      assert.equal(context.record.progressed, bytes.length, "the sum of what was reported");
    },
  },
  {
    id: "B142",
    name: 'durability "power" is kept, or refused as UNSUPPORTED',
    async run(harness) {
      const localPath = await harness.localFile("durable");
      const [outcome] = await outcomesOf(harness.workspace.uploadFiles([{ file: "p/q/durable", localPath }], { durability: "power" }));
      assert.ok(outcome !== undefined);
      if (outcome.status === "failed") {
        assert.equal((outcome.error as { code?: unknown }).code, "UNSUPPORTED");
        assert.deepEqual(await harness.list(), []);
      } else {
        expectBytes(await harness.get("p/q/durable"), Buffer.from("durable"), "the stored file");
      }
    },
  },
  {
    id: "B143",
    name: "a directory in the way of a file is refused, and what is in it stays",
    needs: [without(trait("filesBelowFiles"))],
    async run(harness) {
      await harness.put("dir/inside", "inside");
      await expectFailed(
        harness.workspace.uploadFiles([{ file: "dir", localPath: await harness.localFile("file") }]),
        "storing over a directory",
        "NOT_A_FILE",
        "FILE_EXISTS",
        "CONFLICT",
      );
      assert.deepEqual(await harness.list(), ["dir/inside"]);
    },
  },
  {
    id: "B144",
    name: "a writer publishes at commit and not before",
    needs: [method("openWrite")],
    async run(harness) {
      const writer = await harness.workspace.openWrite("streamed.bin");
      const chunk = Buffer.alloc(10_000);
      const parts: Buffer[] = [];
      for (let index = 0; index < 40; index++) {
        harness.random.bytes(10_000).copy(chunk);
        parts.push(Buffer.from(chunk));
        await writer.write(chunk);
        // The chunk is the caller's again: what is written over it must not be stored.
        chunk.fill(0xee);
      }
      assert.equal(await harness.workspace.statFile("streamed.bin"), undefined, "before commit it is not there");
      assert.deepEqual(await harness.list(), [], "before commit it is not listed");
      const details = await writer.commit();
      assert.equal(details.bytes, 400_000);
      expectBytes(await harness.get("streamed.bin"), Buffer.concat(parts), "the streamed file");
    },
  },
  {
    id: "B145",
    name: "a writer that is aborted leaves nothing, and keeps the previous file",
    needs: [method("openWrite")],
    async run(harness) {
      await harness.put("there", "previous");
      const before = await harness.rawNames();
      for (const path of ["there", "fresh/new"]) {
        const writer = await harness.workspace.openWrite(path);
        await writer.write(harness.random.bytes(100_000));
        await writer.abort(new Error("changed my mind"));
      }
      assert.deepEqual(await harness.list(), ["there"]);
      expectBytes(await harness.get("there"), Buffer.from("previous"), "the previous file");
      const left = (await harness.rawNames())?.filter((name) => name !== "fresh");
      assert.deepEqual(left, before, "nothing else is left");
    },
  },
  {
    id: "B146",
    name: "a writer that was promised another size, or another digest, fails at commit and leaves nothing",
    needs: [method("openWrite")],
    async run(harness) {
      const attempts = [
        { path: "fewer", size: 101 },
        { path: "more", size: 99 },
      ] as const;
      for (const { path, size } of attempts) {
        const writer = await harness.workspace.openWrite(path, { size });
        const failure = await (async () => {
          await writer.write(Buffer.alloc(100, 1));
          await writer.commit();
        })().then(
          () => undefined,
          (reason: unknown) => reason ?? new Error("nothing"),
        );
        assert.ok(failure !== undefined, `${path} bytes than promised should fail`);
        await writer.abort(failure);
      }
      const writer = await harness.workspace.openWrite({ path: "other", digest: WRONG_DIGEST });
      await writer.write(Buffer.alloc(100, 1));
      const failure = await writer.commit().then(
        () => undefined,
        (reason: unknown) => reason,
      );
      assert.equal((failure as { code?: unknown } | undefined)?.code, "CHECKSUM_MISMATCH");
      await writer.abort(failure);
      assert.deepEqual(await harness.list(), []);
    },
  },
  {
    id: "B147",
    name: "a writer makes files without bytes, of one byte, and of many small writes",
    needs: [method("openWrite")],
    async run(harness) {
      const empty = await harness.workspace.openWrite("none", { size: 0 });
      assert.equal((await empty.commit()).bytes, 0);
      const one = await harness.workspace.openWrite("one");
      await one.write(Buffer.alloc(0));
      await one.write(Buffer.from([7]));
      assert.equal((await one.commit()).bytes, 1);
      const bytes = harness.random.bytes(3_001);
      const many = await harness.workspace.openWrite("many");
      for (let offset = 0; offset < bytes.length; offset += 7) await many.write(bytes.subarray(offset, offset + 7));
      await many.commit();
      expectBytes(await harness.get("none"), Buffer.alloc(0), "no bytes");
      expectBytes(await harness.get("one"), Buffer.from([7]), "one byte");
      expectBytes(await harness.get("many"), bytes, "many small writes");
    },
  },
  {
    id: "B148",
    name: 'a writer with ifExists "fail" refuses an existing file, at the latest at commit',
    needs: [method("openWrite")],
    async run(harness) {
      await harness.put("there", "first");
      const failure = await (async () => {
        const writer = await harness.workspace.openWrite("there", { ifExists: "fail" });
        try {
          await writer.write(Buffer.from("second"));
          await writer.commit();
        } catch (error) {
          await writer.abort(error);
          throw error;
        }
      })().then(
        () => undefined,
        (reason: unknown) => reason,
      );
      assert.equal((failure as { code?: unknown } | undefined)?.code, "FILE_EXISTS");
      expectBytes(await harness.get("there"), Buffer.from("first"), "the existing file");
    },
  },
  {
    id: "B149",
    name: "a writer replaces atomically: a reader sees the old or the new file, whole",
    needs: [method("openWrite"), atomicReplace],
    async run(harness) {
      await readWhileWriting(harness, {
        write: async (version) => {
          const writer = await harness.workspace.openWrite("shared.bin");
          const bytes = versionBytes(version, BASE_BYTES);
          await writer.write(bytes.subarray(0, 30_000));
          // Readers must have their turn while the file is half written.
          await sleep(1);
          await writer.write(bytes.subarray(30_000));
          await writer.commit();
        },
      });
    },
  },
  {
    id: "B150",
    name: "without openWrite a workspace refuses to open a writer as UNSUPPORTED",
    needs: [without(method("openWrite")), writable],
    async run(harness) {
      const failure = await harness.workspace.openWrite("x").then(
        () => undefined,
        (reason: unknown) => reason,
      );
      assert.equal((failure as { code?: unknown } | undefined)?.code, "UNSUPPORTED");
      assert.deepEqual(await harness.list(), []);
    },
  },
  {
    id: "B151",
    name: "a failed upload leaves nothing in the backend that the broker does not show",
    needs: [rawNames],
    async run(harness) {
      await harness.put("dir/neighbour", "neighbour");
      const before = await harness.rawNames();
      const localPath = await harness.localFile(harness.random.bytes(2_000_000));
      const stop = new AbortController();
      const context = harness.context({ signal: stop.signal, onThrottle: () => stop.abort(), onProgress: () => stop.abort() });
      const aborted = harness.broker.uploadFile({ file: harness.stored("dir/aborted"), localPath }, context);
      // What moves in one step may be stored by then; it is no failed upload.
      await aborted.then(
        () => harness.workspace.deleteFiles(["dir/aborted"]),
        () => undefined,
      );
      await harness.broker
        .uploadFile({ file: { ...harness.stored("dir/wrong"), size: 7 }, localPath }, harness.context())
        .catch(() => undefined);
      await harness.broker
        .uploadFile({ file: harness.stored("dir/neighbour"), localPath }, harness.context({ ifExists: "fail" }))
        .catch(() => undefined);
      assert.deepEqual(await harness.rawNames(), before);
    },
  },
  {
    id: "B152",
    name: "a file opened again through another session has the same bytes at once",
    needs: [sharedInProcess],
    async run(harness) {
      const other = await harness.open();
      for (let version = 0; version < 10; version++) {
        await expectDone(harness.workspace.uploadFiles([{ file: "seen", localPath: await versionFile(harness, version) }]), "the upload");
        const bytes = await harness.get("seen", other.workspace);
        assert.equal(bytes && readVersion(bytes, BASE_BYTES), version, "what the other session reads");
      }
    },
  },
];

/** Uploads a file to `changing.bin` that changes as soon as the broker has begun to move it. */
async function uploadWhile(
  harness: Harness,
  before: Buffer,
  change: (localPath: string) => void,
): Promise<{ readonly localPath: string; readonly details: { readonly bytes: number } | undefined }> {
  const localPath = await harness.localFile(before);
  let changes = 0;
  const changeOnce = (): void => {
    if (changes++ === 0) change(localPath);
  };
  const details = await harness.broker
    .uploadFile(
      { file: harness.stored("changing.bin"), localPath },
      // A digest makes brokers read the bytes that would leave them to the kernel otherwise.
      harness.context({ checksum: "sha256", onThrottle: changeOnce, onProgress: changeOnce }),
    )
    .catch(() => undefined);
  witness("changes of the source", changes, 1);
  return { localPath, details };
}

async function roundTripSizes(harness: Harness, sizes: readonly number[]): Promise<void> {
  for (const size of sizes) {
    const bytes = harness.random.bytes(size);
    const outcome = await expectDone(
      harness.workspace.uploadFiles([{ file: `size-${size}`, localPath: await harness.localFile(bytes) }]),
      `${size} bytes`,
    );
    assert.equal(outcome.bytes, size);
    expectBytes(await harness.get(`size-${size}`), bytes, `${size} bytes`);
  }
}

/** Runs something that must fail to store `path`, and makes sure that the backend holds nothing of it afterwards. */
async function expectNothingStored(harness: Harness, path: string, attempt: (localPath: string) => Promise<void>): Promise<void> {
  const before = await harness.rawNames();
  await attempt(harness.localPath());
  assert.deepEqual(await harness.list(), [], "nothing is visible");
  const after = await harness.rawNames();
  // Directories that were made on the way are no remains of a file.
  const remains = after?.filter((name) => !before?.includes(name) && !path.startsWith(`${name}/`));
  assert.deepEqual(remains ?? [], [], "nothing is left behind");
}

/** Group B: storing files. Every case needs a broker that may write. */
export const uploadCases: readonly ConformanceCase[] = casesOf(
  "B",
  cases.map((entry) => ({ ...entry, needs: [writable, ...(entry.needs ?? []).filter((need) => need !== writable)] })),
);
