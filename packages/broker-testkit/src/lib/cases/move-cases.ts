import assert from "node:assert/strict";
import { link, mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { digestOf } from "@stowage/core/broker";
import { type CaseOfGroup, type ConformanceCase, casesOf } from "../conformance-case.ts";
import { expectBrokerRejects, expectBytes, expectDone, expectFailed, expectRejected, outcomesOf, witness } from "../expectations.ts";
import { exactIfAbsent, fault, hook, method, trait, without, writable } from "../needs.ts";
import { BASE_BYTES } from "../overwriting.ts";
import { readVersion, versionBytes } from "../whole-version.ts";

const QUICK_RETRY = { attempts: 3, baseDelayMs: 1, maxDelayMs: 5 } as const;
const FOREVER = Number.POSITIVE_INFINITY;

const cases: readonly CaseOfGroup[] = [
  {
    id: "D50",
    name: "a file moves within its directory",
    async run(harness) {
      const bytes = harness.random.bytes(20_000);
      await harness.put("dir/old", bytes);
      const outcome = await expectDone(harness.workspace.moveFiles([{ file: "dir/old", newPath: "dir/new" }]), "the move");
      assert.equal(outcome.file.path, "dir/new");
      assert.equal(outcome.bytes, bytes.length);
      assert.deepEqual(await harness.list(), ["dir/new"]);
      expectBytes(await harness.get("dir/new"), bytes, "the moved file");
    },
  },
  {
    id: "D51",
    name: "a file moves into directories that are not there yet",
    async run(harness) {
      await harness.put("old", "moved");
      await expectDone(harness.workspace.moveFiles([{ file: "old", newPath: "x/y/z/new" }]), "the move");
      assert.deepEqual(await harness.list(), ["x/y/z/new"]);
      expectBytes(await harness.get("x/y/z/new"), Buffer.from("moved"), "the moved file");
    },
  },
  {
    id: "D52",
    name: "moving what is missing is FILE_NOT_FOUND, makes nothing, and fails its own item only",
    async run(harness) {
      await harness.put("there", "there");
      const outcomes = await outcomesOf(
        harness.workspace.moveFiles([
          { file: "not/there", newPath: "new/place" },
          { file: "there", newPath: "moved" },
        ]),
      );
      assert.deepEqual(
        outcomes.map(({ status }) => status),
        ["failed", "done"],
      );
      assert.ok(outcomes[0]?.status === "failed");
      assert.equal((outcomes[0].error as { code?: unknown }).code, "FILE_NOT_FOUND");
      assert.deepEqual(await harness.list(), ["moved"]);
    },
  },
  {
    id: "D53",
    name: "moving a file onto itself changes nothing and succeeds",
    async run(harness) {
      await harness.put("dir/same", "same");
      const [outcome] = await harness.workspace.moveFiles([{ file: "dir/same", newPath: "dir/same" }]);
      assert.ok(outcome?.status === "done" || outcome?.status === "skipped");
      expectBytes(await harness.get("dir/same"), Buffer.from("same"), "the file");
    },
  },
  {
    id: "D54",
    name: "moving onto an existing file is FILE_EXISTS, and both files stay",
    async run(harness) {
      await harness.put("one", "one");
      await harness.put("two", "two");
      await expectFailed(harness.workspace.moveFiles([{ file: "one", newPath: "two" }]), "the move", "FILE_EXISTS");
      await expectFailed(
        harness.workspace.moveFiles([{ file: "one", newPath: "two" }], { ifExists: "fail" }),
        "the move with fail",
        "FILE_EXISTS",
      );
      expectBytes(await harness.get("one"), Buffer.from("one"), "the source");
      expectBytes(await harness.get("two"), Buffer.from("two"), "the target");
    },
  },
  {
    id: "D54a",
    name: "moving onto an existing file replaces it, or skips, as it is told",
    async run(harness) {
      await harness.put("one", "one");
      await harness.put("two", "two");
      const [skipped] = await harness.workspace.moveFiles([{ file: "one", newPath: "two" }], { ifExists: "skip" });
      assert.equal(skipped?.status, "skipped");
      assert.deepEqual(await harness.list(), ["one", "two"]);
      await expectDone(harness.workspace.moveFiles([{ file: "one", newPath: "two" }], { ifExists: "replace" }), "replace");
      assert.deepEqual(await harness.list(), ["two"]);
      expectBytes(await harness.get("two"), Buffer.from("one"), "the target");
    },
  },
  {
    id: "D54b",
    name: "of racing moves to one target exactly one wins, and no file is lost",
    needs: [exactIfAbsent],
    async run(harness) {
      for (let round = 0; round < harness.rounds(8, 60); round++) {
        const sources = Array.from({ length: 5 }, (_, index) => `round-${round}/source-${index}`);
        for (const [index, source] of sources.entries()) await harness.put(source, versionBytes(index + 1, BASE_BYTES));
        const newPath = harness.stored(`round-${round}/target`).path;
        const results = await Promise.allSettled(
          sources.map((source) =>
            harness.broker.moveFile({ file: harness.stored(source), newPath }, harness.context({ ifExists: "fail" })),
          ),
        );
        const winners = results.flatMap((result, index) => (result.status === "fulfilled" ? [index] : []));
        assert.equal(winners.length, 1, `round ${round}: the number of winners`);
        for (const [index, source] of sources.entries()) {
          const bytes = await harness.get(index === winners[0] ? newPath : source);
          assert.equal(bytes && readVersion(bytes, BASE_BYTES), index + 1, `round ${round}: file ${index} is still somewhere`);
        }
      }
    },
  },
  {
    id: "D55",
    name: "a move to another device is a verified copy, and the source goes",
    needs: [hook("otherDeviceDirectory")],
    async run(harness) {
      const bytes = harness.random.bytes(300_000);
      await harness.put("here.bin", bytes);
      const newPath = `${harness.place.otherDeviceDirectory}/there.bin`;
      const outcome = await expectDone(harness.workspace.moveFiles([{ file: "here.bin", newPath }]), "the move");
      assert.notEqual(outcome.method, "rename");
      assert.equal(outcome.verified, "digest", "the source goes only after the copy is proven");
      expectBytes(await harness.get(newPath), bytes, "the moved file");
      assert.equal(await harness.workspace.statFile("here.bin"), undefined, "the source is gone");
      await expectDone(harness.workspace.moveFiles([{ file: newPath, newPath: "back/here.bin" }]), "the move back");
      expectBytes(await harness.get("back/here.bin"), bytes, "the file that came back");
    },
  },
  {
    id: "D55a",
    name: "a move to another device refuses an existing target, and keeps both",
    needs: [hook("otherDeviceDirectory")],
    async run(harness) {
      const newPath = `${harness.place.otherDeviceDirectory}/there.bin`;
      await harness.put("here.bin", "here");
      await harness.put(newPath, "there");
      await expectFailed(harness.workspace.moveFiles([{ file: "here.bin", newPath }]), "the move", "FILE_EXISTS");
      expectBytes(await harness.get("here.bin"), Buffer.from("here"), "the source");
      expectBytes(await harness.get(newPath), Buffer.from("there"), "the target");
    },
  },
  {
    id: "D56",
    name: "a move whose copy fails keeps the source, and says that it failed",
    needs: [fault("unavailable", "move", "copy")],
    async run(harness) {
      const bytes = harness.random.bytes(30_000);
      await harness.put("source", bytes);
      await harness.place.faults?.inject({ kind: "unavailable", operation: "move", step: "copy", times: FOREVER });
      await expectFailed(harness.workspace.moveFiles([{ file: "source", newPath: "target" }], { retry: QUICK_RETRY }), "the move");
      witness("faults that struck", harness.place.faults?.struck() ?? 0, 1);
      await harness.place.faults?.clear();
      expectBytes(await harness.get("source"), bytes, "the source");
      assert.deepEqual(await harness.list(), ["source"]);
    },
  },
  {
    id: "D57",
    name: "a move whose deletion fails says so, keeps both files, and converges when it is repeated",
    needs: [fault("denied", "move", "delete")],
    async run(harness) {
      const bytes = harness.random.bytes(30_000);
      await harness.put("source", bytes);
      await harness.place.faults?.inject({ kind: "denied", operation: "move", step: "delete", times: FOREVER });
      await expectFailed(harness.workspace.moveFiles([{ file: "source", newPath: "target" }], { retry: QUICK_RETRY }), "the move");
      witness("faults that struck", harness.place.faults?.struck() ?? 0, 1);
      await harness.place.faults?.clear();
      expectBytes(await harness.get("source"), bytes, "the source");
      expectBytes(await harness.get("target"), bytes, "the target");
      await expectDone(harness.workspace.moveFiles([{ file: "source", newPath: "target" }], { ifExists: "replace" }), "the repeated move");
      assert.deepEqual(await harness.list(), ["target"]);
    },
  },
  {
    id: "D58",
    name: "a move of a large file keeps every byte",
    async run(harness) {
      const bytes = harness.random.bytes(Math.min(harness.traits.largeFileBytes, 8 * 1024 * 1024) + 1);
      await harness.put("large", bytes);
      const outcome = await expectDone(harness.workspace.moveFiles([{ file: "large", newPath: "moved/large" }]), "the move");
      assert.equal(outcome.bytes, bytes.length);
      expectBytes(await harness.get("moved/large"), bytes, "the moved file");
    },
  },
  {
    id: "D59",
    name: "a moved file keeps its time, media type and metadata",
    needs: [trait("keepsMetadata")],
    async run(harness) {
      const file = { path: "old", mediaType: "text/plain", metadata: { sample: "17" } };
      await harness.workspace.uploadFiles([{ file, localPath: await harness.localFile("kept") }]);
      const before = await harness.workspace.statFile("old");
      await harness.workspace.moveFiles([{ file: "old", newPath: "new" }]);
      const after = await harness.workspace.statFile("new");
      assert.deepEqual({ ...after?.file.metadata }, { ...before?.file.metadata });
      assert.deepEqual({ ...after?.file.metadata }, { sample: "17" });
      if (harness.traits.keepsMediaType) assert.equal(after?.file.mediaType, "text/plain");
    },
  },
  {
    id: "D59a",
    name: "a moved file keeps its time of modification",
    needs: [trait("keepsModified")],
    async run(harness) {
      await harness.put("old", "kept");
      const before = await harness.workspace.statFile("old");
      await new Promise((resolve) => setTimeout(resolve, 20));
      await harness.workspace.moveFiles([{ file: "old", newPath: "new" }]);
      assert.equal((await harness.workspace.statFile("new"))?.modified?.getTime(), before?.modified?.getTime());
    },
  },
  {
    id: "D60",
    name: "a chain or a swap within one batch is refused before anything moves",
    async run(harness) {
      await harness.put("a", "was a");
      await harness.put("b", "was b");
      const chain = [
        { file: "a", newPath: "b" },
        { file: "b", newPath: "c" },
      ];
      const swap = [
        { file: "a", newPath: "b" },
        { file: "b", newPath: "a" },
      ];
      for (const moves of [chain, swap]) {
        await expectRejected(harness.workspace.moveFiles(moves, { ifExists: "replace" }), "the batch", "CONFLICT");
        expectBytes(await harness.get("a"), Buffer.from("was a"), "the first file");
        expectBytes(await harness.get("b"), Buffer.from("was b"), "the second file");
        assert.deepEqual(await harness.list(), ["a", "b"]);
      }
    },
  },
  {
    id: "D61",
    name: "a reader sees a moved file at one of its two paths at any moment",
    needs: [trait("atomicMove")],
    async run(harness) {
      await harness.put("place/0", "wanderer");
      let moves = 0;
      let looks = 0;
      let finished = false;
      const wanted = harness.rounds(40, 400);
      const until = performance.now() + 15_000;
      const mover = async (): Promise<void> => {
        try {
          while (!finished && (moves < wanted || looks < wanted) && performance.now() < until) {
            await harness.workspace.moveFiles([{ file: `place/${moves % 2}`, newPath: `place/${(moves + 1) % 2}` }]);
            moves++;
            // A broker that never waits for anything would keep everybody else from their turn.
            await setImmediate();
          }
        } finally {
          finished = true;
        }
      };
      const watcher = async (): Promise<void> => {
        while (!finished) {
          const before = moves;
          const [first, second] = [await harness.workspace.statFile("place/0"), await harness.workspace.statFile("place/1")];
          // With a move between the two looks the file may rightly be missed by both; look again from the other side.
          if (first === undefined && second === undefined && moves === before) {
            const again = [await harness.workspace.statFile("place/1"), await harness.workspace.statFile("place/0")];
            if (again.every((details) => details === undefined) && moves === before) {
              throw new assert.AssertionError({ message: `after ${moves} moves the file was at neither path` });
            }
          }
          looks++;
          await setImmediate();
        }
      };
      const watching = watcher().finally(() => {
        finished = true;
      });
      await Promise.all([mover(), watching]);
      witness("moves", moves, wanted);
      witness("looks at a moving file", looks, wanted);
    },
  },
  {
    id: "D167",
    name: "a directory is not moved as if it were a file",
    async run(harness) {
      await harness.put("dir/inside", "inside");
      await expectFailed(harness.workspace.moveFiles([{ file: "dir", newPath: "elsewhere" }]), "the move", "NOT_A_FILE", "FILE_NOT_FOUND");
      assert.deepEqual(await harness.list(), ["dir/inside"]);
    },
  },
  {
    id: "D168",
    name: "a file is not moved below itself or below another file",
    needs: [without(trait("filesBelowFiles"))],
    async run(harness) {
      await harness.put("one", "one");
      await harness.put("two", "two");
      for (const newPath of ["one/below", "two/below"]) {
        const [outcome] = await outcomesOf(harness.workspace.moveFiles([{ file: "one", newPath }])).catch((error: unknown) => {
          assert.equal((error as { code?: unknown }).code, "CONFLICT");
          return [{ status: "failed" as const }];
        });
        assert.equal(outcome?.status, "failed", newPath);
      }
      assert.deepEqual(await harness.list(), ["one", "two"]);
      expectBytes(await harness.get("one"), Buffer.from("one"), "the source");
    },
  },
  {
    id: "D169",
    name: "two names of one file become one when the one is moved onto the other",
    needs: [hook("directory")],
    async run(harness) {
      const directory = harness.place.directory ?? "";
      await harness.put("first", "one inode");
      await link(join(directory, "first"), join(directory, "second"));
      await expectDone(harness.workspace.moveFiles([{ file: "first", newPath: "second" }], { ifExists: "replace" }), "the move");
      assert.deepEqual(await harness.list(), ["second"]);
      expectBytes(await harness.get("second"), Buffer.from("one inode"), "the file");
    },
  },
  {
    id: "D170",
    name: "a move that is promised another size or digest fails, and the source stays",
    async run(harness) {
      await harness.put("one", "twelve bytes");
      const wrong = [
        { path: "one", size: 11 },
        { path: "one", digest: digestOf(Buffer.from("other bytes"), "sha256") },
      ];
      for (const file of wrong) {
        const [outcome] = await outcomesOf(harness.workspace.moveFiles([{ file, newPath: "two" }]));
        if (outcome?.status === "failed") continue;
        // What moves without a look at the bytes cannot know better; then it must not claim to have looked.
        assert.equal(outcome?.status, "done");
        assert.ok(outcome?.status === "done" && file.digest !== undefined, "a wrong size is seen");
        assert.notEqual(outcome.verified, "digest");
        await harness.workspace.moveFiles([{ file: "two", newPath: "one" }]);
      }
      assert.deepEqual(await harness.list(), ["one"]);
    },
  },
  {
    id: "D171",
    name: "a copy inside the workspace has the same bytes, and the source stays",
    needs: [method("copyFile")],
    async run(harness) {
      const bytes = harness.random.bytes(200_000);
      await harness.put("one", bytes);
      const outcome = await expectDone(harness.workspace.copyFiles([{ file: "one", newPath: "deep/two" }]), "the copy");
      assert.equal(outcome.bytes, bytes.length);
      assert.equal(outcome.file.path, "deep/two");
      expectBytes(await harness.get("one"), bytes, "the source");
      expectBytes(await harness.get("deep/two"), bytes, "the copy");
      await harness.put("one", "changed since");
      expectBytes(await harness.get("deep/two"), bytes, "the copy after the source was replaced");
    },
  },
  {
    id: "D172",
    name: "a copy obeys ifExists and reports what is missing",
    needs: [method("copyFile")],
    async run(harness) {
      await harness.put("one", "one");
      await harness.put("two", "two");
      await expectFailed(harness.workspace.copyFiles([{ file: "one", newPath: "two" }], { ifExists: "fail" }), "fail", "FILE_EXISTS");
      expectBytes(await harness.get("two"), Buffer.from("two"), "the target");
      await expectDone(harness.workspace.copyFiles([{ file: "one", newPath: "two" }], { ifExists: "replace" }), "replace");
      expectBytes(await harness.get("two"), Buffer.from("one"), "the target");
      await expectFailed(harness.workspace.copyFiles([{ file: "no/such", newPath: "x" }]), "a missing source", "FILE_NOT_FOUND");
      assert.deepEqual(await harness.list(), ["one", "two"]);
    },
  },
  {
    id: "D173",
    name: "without copyFile a workspace copies by way of the bytes, or refuses as UNSUPPORTED; it never moves",
    needs: [without(method("copyFile"))],
    async run(harness) {
      await harness.put("one", "one");
      const [outcome] = await outcomesOf(harness.workspace.copyFiles([{ file: "one", newPath: "two" }])).catch((error: unknown) => {
        assert.equal((error as { code?: unknown }).code, "UNSUPPORTED");
        return [undefined];
      });
      expectBytes(await harness.get("one"), Buffer.from("one"), "the source");
      if (outcome === undefined) return;
      if (outcome.status === "failed") {
        assert.equal((outcome.error as { code?: unknown }).code, "UNSUPPORTED");
        assert.equal(await harness.workspace.statFile("two"), undefined);
      } else {
        expectBytes(await harness.get("two"), Buffer.from("one"), "the copy");
      }
    },
  },
  {
    id: "D174",
    name: "a move that is aborted in its middle leaves the file whole at one of its paths",
    async run(harness) {
      const bytes = harness.random.bytes(1_000_000);
      await harness.put("source", bytes);
      const stop = new AbortController();
      const context = harness.context({ signal: stop.signal, onThrottle: () => stop.abort(), onProgress: () => stop.abort() });
      await harness.broker
        .moveFile({ file: harness.stored("source"), newPath: harness.stored("target").path }, context)
        .catch(() => undefined);
      const left = await harness.list();
      // A copy that was finished before the abort may be there as well: both are whole then.
      assert.ok(left.length === 1 || left.length === 2, `the file is somewhere: ${left.join(", ")}`);
      for (const path of left) expectBytes(await harness.get(path), bytes, path);
      await expectBrokerRejects(
        harness.broker,
        harness.broker.moveFile(
          { file: harness.stored(left[0] ?? ""), newPath: harness.stored("third").path },
          harness.context({ signal: AbortSignal.abort() }),
        ),
        "a move with a signal that has aborted",
      );
      assert.deepEqual(await harness.list(), left);
    },
  },
  {
    id: "D175",
    name: "where moving is disabled nothing moves",
    async run(harness) {
      await harness.put("one", "one");
      const { workspace } = await harness.open({ moveEnabled: false });
      const error = await outcomesOf(workspace.moveFiles([{ file: "one", newPath: "two" }])).then(
        ([outcome]) => (outcome?.status === "failed" ? outcome.error : undefined),
        (reason: unknown) => reason,
      );
      assert.ok(error !== undefined, "the move is refused");
      assert.deepEqual(await harness.list(), ["one"]);
    },
  },
  {
    id: "D176",
    name: "directories are no part of a moved file: what else was in the old one stays, on disk too",
    needs: [hook("directory")],
    async run(harness) {
      const directory = harness.place.directory ?? "";
      await harness.put("old/moved", "moved");
      await mkdir(join(directory, "old/empty"));
      await harness.put("old/stays", "stays");
      await harness.workspace.moveFiles([{ file: "old/moved", newPath: "new/moved" }]);
      assert.equal(await readFile(join(directory, "old/stays"), "utf8"), "stays");
      assert.deepEqual(await harness.rawNames(), ["new", "new/moved", "old", "old/empty", "old/stays"]);
    },
  },
];

/** Group D: moving and copying inside a workspace. Every case needs a broker that may write. */
export const moveCases: readonly ConformanceCase[] = casesOf(
  "D",
  cases.map((entry) => ({ ...entry, needs: [writable, ...(entry.needs ?? [])] })),
);
