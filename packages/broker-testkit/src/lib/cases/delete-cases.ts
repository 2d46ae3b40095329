import assert from "node:assert/strict";
import { lstat, mkdir, readFile, stat, symlink } from "node:fs/promises";
import { join } from "node:path";
import { type CaseOfGroup, type ConformanceCase, casesOf } from "../conformance-case.ts";
import { expectBrokerRejects, expectBytes, expectDone, expectFailed, outcomesOf } from "../expectations.ts";
import { fault, hook, method, trait, without, writable } from "../needs.ts";

const cases: readonly CaseOfGroup[] = [
  {
    id: "E62",
    name: "a deleted file is gone, and no other",
    async run(harness) {
      await harness.put("dir/one", "one");
      await harness.put("dir/two", "two");
      await harness.put("dir/one.more", "more");
      const outcome = await expectDone(harness.workspace.deleteFiles(["dir/one"]), "the deletion");
      assert.equal(outcome.method, "delete");
      assert.equal(await harness.workspace.statFile("dir/one"), undefined);
      assert.deepEqual(await harness.list(), ["dir/one.more", "dir/two"]);
    },
  },
  {
    id: "E63",
    name: "deleting what is missing is no failure",
    async run(harness) {
      await harness.put("there", "there");
      const [outcome] = await harness.workspace.deleteFiles(["not/there"]);
      assert.ok(
        (outcome?.status === "skipped" && outcome.reason === "missing") || outcome?.status === "done",
        "skipped where the backend knows, else done",
      );
      assert.deepEqual(await harness.list(), ["there"]);
    },
  },
  {
    id: "E63a",
    name: "the broker says what it knows: deleted, missing or unknown",
    async run(harness) {
      await harness.put("there", "there");
      const known = await harness.broker.deleteFile(harness.stored("there"), harness.context());
      assert.ok(known === "deleted" || known === "unknown", `a file that was there: ${known}`);
      const missing = await harness.broker.deleteFile(harness.stored("there"), harness.context());
      assert.ok(missing === "missing" || missing === "unknown", `a file that was not there: ${missing}`);
      assert.equal(known === "deleted", missing === "missing", "a broker that knows the one knows the other");
    },
  },
  {
    id: "E64",
    name: "deleting twice is no failure",
    async run(harness) {
      await harness.put("one", "one");
      await expectDone(harness.workspace.deleteFiles(["one"]), "the first deletion");
      const [again] = await harness.workspace.deleteFiles(["one"]);
      assert.ok(again?.status === "skipped" || again?.status === "done");
      assert.deepEqual(await harness.list(), []);
    },
  },
  {
    id: "E65",
    name: "the last file of a directory goes alone: its neighbours and what is beside the directory stay",
    async run(harness) {
      await harness.put("a/b/only", "only");
      await harness.put("a/beside", "beside");
      await harness.workspace.deleteFiles(["a/b/only"]);
      assert.deepEqual(await harness.list(), ["a/beside"]);
      await harness.put("a/b/again", "again");
      assert.deepEqual(await harness.list(), ["a/b/again", "a/beside"]);
    },
  },
  {
    id: "E65a",
    name: "directories that become empty stay on disk",
    needs: [hook("directory")],
    async run(harness) {
      await harness.put("a/b/only", "only");
      await harness.workspace.deleteFiles(["a/b/only"]);
      assert.ok((await stat(join(harness.place.directory ?? "", "a/b"))).isDirectory());
    },
  },
  {
    id: "E66",
    name: "a deletion never reaches through a symbolic link",
    needs: [hook("directory")],
    async run(harness) {
      const directory = harness.place.directory ?? "";
      const outside = harness.localPath();
      await mkdir(outside);
      const victim = await harness.localFile("outside");
      await harness.put("real", "inside");
      await symlink(victim, join(directory, "link-to-outside"));
      await symlink("real", join(directory, "link-to-real"));
      await symlink(harness.scratch, join(directory, "link-to-directory"));
      const inDirectory = `link-to-directory/${victim.slice(harness.scratch.length + 1)}`;
      await outcomesOf(harness.workspace.deleteFiles(["link-to-outside", "link-to-real", inDirectory, "link-to-directory"]));
      assert.equal(await readFile(victim, "utf8"), "outside", "the file behind the link");
      assert.equal(await readFile(join(directory, "real"), "utf8"), "inside", "the file inside the workspace behind the link");
      assert.ok((await stat(harness.scratch)).isDirectory());
    },
  },
  {
    id: "E67",
    name: "a directory is not deleted, neither full nor empty",
    needs: [hook("directory")],
    async run(harness) {
      const directory = harness.place.directory ?? "";
      await harness.put("full/inside", "inside");
      await mkdir(join(directory, "empty"));
      await expectBrokerRejects(
        harness.broker,
        harness.broker.deleteFile(harness.stored("full"), harness.context()),
        "deleting a full directory",
        "NOT_A_FILE",
      );
      await expectFailed(harness.workspace.deleteFiles(["empty"]), "deleting an empty directory", "NOT_A_FILE");
      assert.ok((await lstat(join(directory, "empty"))).isDirectory());
      assert.deepEqual(await harness.list(), ["full/inside"]);
    },
  },
  {
    id: "E67a",
    name: "deleting the name of a directory deletes nothing below it",
    async run(harness) {
      await harness.put("dir/inside", "inside");
      await harness.put("dir/deeper/inside", "deeper");
      await outcomesOf(harness.workspace.deleteFiles(["dir"]));
      assert.deepEqual(await harness.list(), ["dir/deeper/inside", "dir/inside"]);
    },
  },
  {
    id: "E68",
    name: "2,500 deletions, of which 1,499 are of missing files, each have their right outcome",
    async run(harness) {
      await harness.putMany(Array.from({ length: 1_001 }, (_, index) => ({ path: `many/${index}`, bytes: Buffer.from("x") })));
      await harness.put("many/kept", "kept");
      const files = harness.random.shuffle(Array.from({ length: 2_500 }, (_, index) => `many/${index}`));
      const outcomes = await harness.workspace.deleteFiles(files);
      assert.equal(outcomes.length, files.length);
      let skipped = 0;
      for (const [index, outcome] of outcomes.entries()) {
        assert.equal(outcome.item, files[index], "outcomes are in the order of the items");
        if (outcome.status === "skipped") {
          skipped++;
          assert.ok(Number(files[index]?.slice(5)) >= 1_001, `${files[index]} was there, but is said to be missing`);
        } else {
          assert.equal(outcome.status, "done");
        }
      }
      assert.ok(skipped === 0 || skipped === 1_499, `${skipped} are said to be missing, of 1,499 that were`);
      assert.deepEqual(await harness.list(), ["many/kept"]);
    },
  },
  {
    id: "E68a",
    name: "deletions that are denied fail, and the others are done",
    needs: [fault("denied", "delete")],
    async run(harness) {
      for (let index = 0; index < 20; index++) await harness.put(`some/${index}`, "x");
      const files = Array.from({ length: 20 }, (_, index) => `some/${index}`);
      await harness.place.faults?.inject({ kind: "denied", operation: "delete", times: 5 });
      const outcomes = await outcomesOf(harness.workspace.deleteFiles(files));
      await harness.place.faults?.clear();
      const failed = outcomes.filter((outcome) => outcome.status === "failed");
      assert.equal(failed.length, 5);
      for (const outcome of failed) {
        assert.ok(outcome.status === "failed");
        assert.equal((outcome.error as { code?: unknown }).code, "PERMISSION_DENIED");
      }
      assert.deepEqual(await harness.list(), failed.map(({ item }) => item).sort());
    },
  },
  {
    id: "E68b",
    name: "a batch of deletions at the broker gives one result for each file",
    needs: [method("deleteFiles")],
    async run(harness) {
      const paths = Array.from({ length: 30 }, (_, index) => `batch/${index}`);
      for (const path of paths.slice(0, 20)) await harness.put(path, "x");
      const seen = new Map<number, string>();
      for await (const result of harness.broker.deleteFiles?.(paths.map(harness.stored), harness.context()) ?? []) {
        assert.ok(!seen.has(result.index), `item ${result.index} has two results`);
        assert.ok(result.ok, `item ${result.index} failed`);
        seen.set(result.index, result.value);
      }
      assert.deepEqual(
        [...seen.keys()].sort((left, right) => left - right),
        paths.map((_, index) => index),
      );
      for (const [index, deletion] of seen) {
        assert.ok(index < 20 ? deletion !== "missing" : deletion !== "deleted", `item ${index} is said to be ${deletion}`);
      }
      assert.deepEqual(await harness.list(), []);
    },
  },
  {
    id: "E68c",
    name: "without a batch of its own the broker still deletes a batch",
    needs: [without(method("deleteFiles"))],
    async run(harness) {
      for (const path of ["a", "b", "c"]) await harness.put(path, path);
      const outcomes = await harness.workspace.deleteFiles(["a", "c"]);
      assert.deepEqual(
        outcomes.map(({ status }) => status),
        ["done", "done"],
      );
      assert.deepEqual(await harness.list(), ["b"]);
    },
  },
  {
    id: "E69",
    name: "a file that is deleted while it is read gives its bytes or an error, and nothing stays in the listing",
    needs: [method("openRead")],
    async run(harness) {
      const bytes = harness.random.bytes(500_000);
      await harness.put("dir/open", bytes);
      const reader = await harness.workspace.openRead("dir/open");
      try {
        await harness.workspace.deleteFiles(["dir/open"]);
        assert.deepEqual(await harness.list(), []);
        const parts: Uint8Array[] = [];
        try {
          for await (const chunk of reader) parts.push(Buffer.from(chunk));
        } catch {
          return;
        }
        expectBytes(Buffer.concat(parts), bytes, "what the reader gave without an error");
      } finally {
        await reader.close();
      }
      assert.deepEqual(await harness.list(), []);
    },
  },
  {
    id: "E70",
    name: "a deleted file is missing for reading, whatever versions a store keeps of it",
    async run(harness) {
      await harness.put("one", "first");
      await harness.put("one", "second");
      await harness.workspace.deleteFiles(["one"]);
      assert.equal(await harness.workspace.statFile("one"), undefined);
      await expectFailed(
        harness.workspace.downloadFiles([{ file: "one", localPath: harness.localPath() }]),
        "downloading a deleted file",
        "FILE_NOT_FOUND",
        "FILE_DELETED",
      );
      assert.deepEqual(await harness.list(), []);
      await harness.put("one", "third");
      expectBytes(await harness.get("one"), Buffer.from("third"), "a file stored after the deletion");
    },
  },
  {
    id: "E177",
    name: "what lies below a file is missing, and the file stays",
    needs: [without(trait("filesBelowFiles"))],
    async run(harness) {
      await harness.put("file", "file");
      const [outcome] = await outcomesOf(harness.workspace.deleteFiles(["file/below"]));
      assert.ok(outcome?.status === "skipped" || outcome?.status === "done" || outcome?.status === "failed");
      assert.deepEqual(await harness.list(), ["file"]);
    },
  },
];

/** Group E: deleting files. Every case needs a broker that may write. */
export const deleteCases: readonly ConformanceCase[] = casesOf(
  "E",
  cases.map((entry) => ({ ...entry, needs: [writable, ...(entry.needs ?? [])] })),
);
