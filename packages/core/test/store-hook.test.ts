import { readFile, stat } from "node:fs/promises";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Broker } from "../src/lib/broker.ts";
import type { FilePath } from "../src/lib/files.ts";
import { createMemoryBroker } from "../src/lib/memory-broker.ts";
import { sleep } from "../src/lib/retry.ts";
import { createRecordId, type RecordIdentity } from "../src/lib/store-hook.ts";
import { StowageError } from "../src/lib/stowage-error.ts";
import type { FileRecord } from "../src/lib/transfer-options.ts";
import { Workspace } from "../src/lib/workspace.ts";
import { batchBroker, forever, singleBroker } from "./support/brokers.ts";
import { drain, statusOf, streamOf, transferErrorOf } from "./support/outcomes.ts";
import { useTemporaryDirectory } from "./support/temporary-directory.ts";

const directory = useTemporaryDirectory();

function workspaceOf(broker: Broker): Workspace {
  return new Workspace({ name: "data", broker });
}

const kinds = [
  ["single", singleBroker],
  ["batch", createMemoryBroker],
] as const;

const refuse = (): never => {
  throw new Error("the database is down");
};

describe.each(kinds)("the store hook (%s)", (_kind, createBroker) => {
  test("is told of every file that was stored, with the caller's object, and never of one that failed", async () => {
    const local = await directory.write("a", "hello");
    const workspace = workspaceOf(createBroker());
    const items = ["a", "b", "../c", "d"].map((file) => ({ file, localPath: file === "b" ? directory.join("missing") : local }));
    const records: FileRecord[] = [];
    const error = await transferErrorOf(workspace.uploadFiles(items, { store: (record) => void records.push(record), concurrency: 1 }));
    expect(error.outcomes.map(statusOf)).toEqual(["done", "failed FILE_NOT_FOUND", "failed INVALID_PATH", "done"]);
    expect(records.map(({ item }) => item)).toEqual([items[0], items[3]]);
    expect(records[0]).toMatchObject({
      operation: "upload",
      workspace: "data",
      file: { path: "a", size: 5, digest: { algorithm: "crc32" } },
    });
    expect(records[0]!.signal.aborted).toBe(false);
    expect(records[0]!.recordId).not.toBe(records[1]!.recordId);
  });

  test("that throws takes a new file away again, and leaves a replaced one", async () => {
    const old = await directory.write("old", "old");
    const fresh = await directory.write("fresh", "fresh content");
    const workspace = workspaceOf(createBroker());
    await workspace.uploadFiles([{ file: "there", localPath: old }]);
    const items = ["there", "new"].map((file) => ({ file, localPath: fresh }));
    const error = await transferErrorOf(workspace.uploadFiles(items, { store: refuse, concurrency: 1 }));
    expect(error.outcomes.map(statusOf)).toEqual(["failed NOT_RECORDED", "failed NOT_RECORDED"]);
    expect(error.outcomes[0]).toMatchObject({ error: { message: expect.stringContaining("the database is down") }, leftovers: [] });
    expect((await workspace.statFile("there"))?.size).toBe(13);
    expect(await workspace.statFile("new")).toBeUndefined();
  });

  test("that throws undoes no move and no deletion", async () => {
    const local = await directory.write("m", "x");
    const workspace = workspaceOf(createBroker());
    await workspace.uploadFiles(["a", "b", "c", "d"].map((file) => ({ file, localPath: local })));
    const moves = [
      { file: "a", newPath: "a2" },
      { file: "b", newPath: "b2" },
    ];
    const moved = await transferErrorOf(workspace.moveFiles(moves, { store: refuse, concurrency: 1 }));
    expect(moved.outcomes.map(statusOf)).toEqual(["failed NOT_RECORDED", "failed NOT_RECORDED"]);
    expect([await workspace.statFile("a"), (await workspace.statFile("a2"))?.size]).toEqual([undefined, 1]);
    const deleted = await transferErrorOf(workspace.deleteFiles(["c", "d"], { store: refuse, concurrency: 1 }));
    expect(deleted.outcomes.map(statusOf)).toEqual(["failed NOT_RECORDED", "failed NOT_RECORDED"]);
    expect(await workspace.statFile("c")).toBeUndefined();
  });

  test("of a download that throws takes the new local file away, not one that was there", async () => {
    const local = await directory.write("d", "content");
    const workspace = workspaceOf(createBroker());
    await workspace.uploadFiles(["a", "b"].map((file) => ({ file, localPath: local })));
    const kept = await directory.write(`kept-${_kind}`, "was here");
    const fresh = directory.join(`fresh-${_kind}`);
    const items = [
      { file: "a", localPath: kept },
      { file: "b", localPath: fresh },
    ];
    const error = await transferErrorOf(workspace.downloadFiles(items, { store: refuse, concurrency: 1 }));
    expect(error.outcomes.map(statusOf)).toEqual(["failed NOT_RECORDED", "failed NOT_RECORDED"]);
    expect(await readFile(kept, "utf8")).toBe("content");
    await expect(stat(fresh)).rejects.toMatchObject({ code: "ENOENT" });
  });

  test("does not undo what ifExists kept it from storing", async () => {
    const local = await directory.write("s", "x");
    const workspace = workspaceOf(createBroker());
    await workspace.uploadFiles([{ file: "a", localPath: local }]);
    const records: FileRecord[] = [];
    const outcomes = await workspace.uploadFiles(
      ["a", "b"].map((file) => ({ file, localPath: local })),
      { ifExists: "skip", store: (record) => void records.push(record), concurrency: 1 },
    );
    expect(outcomes.map(statusOf)).toEqual(["skipped exists", "done"]);
    expect(records.map(({ file }) => file.path)).toEqual(["b"]);
  });

  test("of a move and a copy tells where the file came from", async () => {
    const local = await directory.write("p", "x");
    const workspace = workspaceOf(createBroker());
    await workspace.uploadFiles([{ file: "a", localPath: local }]);
    const records: FileRecord[] = [];
    const store = (record: FileRecord): void => void records.push(record);
    await workspace.copyFiles([{ file: "a", newPath: "b" }], { store });
    await workspace.moveFiles([{ file: "a", newPath: "c" }], { store });
    expect(records.map(({ operation, previousPath, file }) => [operation, previousPath, file.path])).toEqual([
      ["copy", "a", "b"],
      ["move", "a", "c"],
    ]);
  });
});

describe("the store hook", () => {
  test("of a copy that throws takes the new copy away", async () => {
    const local = await directory.write("c", "x");
    const workspace = workspaceOf(createMemoryBroker());
    await workspace.uploadFiles([{ file: "a", localPath: local }]);
    await transferErrorOf(workspace.copyFiles([{ file: "a", newPath: "b" }], { store: refuse }));
    expect([(await workspace.statFile("a"))?.size, await workspace.statFile("b")]).toEqual([1, undefined]);
  });

  test("the existence of targets is asked for only when there is a hook", async () => {
    let stats = 0;
    const memory = singleBroker();
    const broker: Broker = {
      ...memory,
      statFile: (file, context) => {
        stats++;
        return memory.statFile(file, context);
      },
    };
    const local = await directory.write("e", "x");
    const items = [{ file: "a", localPath: local }];
    await workspaceOf(broker).uploadFiles(items);
    expect(stats).toBe(0);
    await workspaceOf(broker).uploadFiles(items, { store: () => undefined });
    expect(stats).toBe(1);
    // The broker refuses by itself to replace: what it stores is new.
    const fresh = [{ file: "b", localPath: local }];
    await transferErrorOf(workspaceOf(broker).uploadFiles(fresh, { store: refuse, ifExists: "fail" }));
    expect(stats).toBe(1);
    expect(await workspaceOf(broker).statFile("b")).toBeUndefined();
  });

  test("a new file that cannot be taken away again is named", async () => {
    const broker = singleBroker({ deleteFile: async () => Promise.reject(new Error("denied")) });
    const local = await directory.write("f", "x");
    const error = await transferErrorOf(workspaceOf(broker).uploadFiles([{ file: "a", localPath: local }], { store: refuse }));
    expect(error.outcomes[0]).toMatchObject({
      status: "failed",
      leftovers: ["a"],
      error: { message: expect.stringContaining("could not be removed") },
    });
  });

  test("is not awaited one by one, nor more at once than concurrency says", async () => {
    const local = await directory.write("g", "x");
    let running = 0;
    let most = 0;
    const items = Array.from({ length: 40 }, (_, index) => ({ file: `f${index}`, localPath: local }));
    await workspaceOf(createMemoryBroker()).uploadFiles(items, {
      ifExists: "fail",
      concurrency: 5,
      async store() {
        most = Math.max(most, ++running);
        await sleep(3);
        running--;
      },
    });
    expect(most).toBe(5);
  });

  test("a file that was stored when the batch is cancelled is recorded still", async () => {
    const controller = new AbortController();
    const local = await directory.write("h", "x");
    const memory = singleBroker();
    const broker: Broker = {
      ...memory,
      async uploadFile(upload, context) {
        const details = await memory.uploadFile(upload, context);
        controller.abort();
        return details;
      },
    };
    const records: FileRecord[] = [];
    const outcomes = await workspaceOf(broker).uploadFiles([{ file: "a", localPath: local }], {
      ifExists: "fail",
      signal: controller.signal,
      store: (record) => void records.push(record),
    });
    expect(outcomes.map(statusOf)).toEqual(["done"]);
    expect(records).toHaveLength(1);
    expect(records[0]!.signal.aborted).toBe(true);
  });

  test("one that hangs does not keep a cancelled batch longer than a second, and its file is taken away", async () => {
    const controller = new AbortController();
    const local = await directory.write("i", "x");
    const broker = singleBroker();
    const run = transferErrorOf(
      workspaceOf(broker).uploadFiles([{ file: "a", localPath: local }], { signal: controller.signal, store: () => forever() }),
    );
    await sleep(30);
    const before = performance.now();
    controller.abort();
    const error = await run;
    expect(performance.now() - before).toBeLessThan(1000);
    expect(error.outcomes.map(statusOf)).toEqual(["failed NOT_RECORDED"]);
    const again = new Workspace({ name: "data", broker });
    expect(await again.statFile("a")).toBeUndefined();
  });

  test("works for streams", async () => {
    const local = await directory.write("j", "x");
    const records: FileRecord[] = [];
    const items = Array.from({ length: 600 }, (_, index) => ({ file: `f${index}`, localPath: local }));
    const store = async (record: FileRecord): Promise<void> => {
      await sleep(0);
      if (record.file.path === "f300") refuse();
      records.push(record);
    };
    const { values, error } = await drain(workspaceOf(createMemoryBroker()).uploadFiles(streamOf(items), { store }));
    expect(values).toHaveLength(600);
    expect(records).toHaveLength(599);
    expect(error).toMatchObject({ code: "NOT_RECORDED" });
  });
});

describe("the id of a record", () => {
  const base: RecordIdentity = { operation: "upload", workspace: "data", file: { path: "a" as FilePath, size: 5 } };

  test("repeats for the same change, and differs for every other", () => {
    const digest = { algorithm: "crc32", value: "00000000" } as const;
    const variants: RecordIdentity[] = [
      base,
      { ...base, operation: "delete" },
      { ...base, workspace: "other" },
      { ...base, file: { path: "b" as FilePath, size: 5 } },
      { ...base, file: { ...base.file, size: 6 } },
      { ...base, file: { ...base.file, digest } },
      { ...base, previousPath: "z" },
      { ...base, localPath: "/z" },
      { ...base, batchId: "1" },
      { ...base, batchId: "2" },
    ];
    expect(new Set(variants.map(createRecordId)).size).toBe(variants.length);
    expect(createRecordId(base)).toBe(createRecordId({ ...base, file: { ...base.file } }));
  });

  test("does not confuse fields that run into each other", () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), fc.string(), fc.string(), (a, b, c, d) => {
        fc.pre(a !== c || b !== d);
        const id = (workspace: string, path: string): string => createRecordId({ ...base, workspace, file: { path: path as FilePath } });
        expect(id(a, b)).not.toBe(id(c, d));
      }),
    );
  });

  test("with a batch id does not depend on what is known of the content, which another run may see otherwise", () => {
    const batch = { ...base, batchId: "job-7" };
    expect(createRecordId(batch)).toBe(createRecordId({ ...batch, file: { path: base.file.path } }));
  });

  test("is the same when the same upload is run again", async () => {
    const local = await directory.write("k", "same");
    const ids: string[] = [];
    for (let run = 0; run < 2; run++) {
      await workspaceOf(createMemoryBroker()).uploadFiles([{ file: "a", localPath: local }], {
        store: ({ recordId }) => void ids.push(recordId),
      });
    }
    expect(ids[0]).toBe(ids[1]);
  });
});

describe("a batch that is run again after a crash, under the same id", () => {
  test("records what the first run had stored, moved or deleted already", async () => {
    const local = await directory.write("l", "x");
    const workspace = workspaceOf(batchBroker());
    await workspace.uploadFiles(["kept", "old", "gone"].map((file) => ({ file, localPath: local })));
    // The first run changes everything and dies before it records anything.
    const crash = (): never => {
      throw new Error("killed");
    };
    const first: string[] = [];
    const remember = ({ recordId }: FileRecord): void => {
      first.push(recordId);
      crash();
    };
    const options = { batchId: "job-7", store: remember, ifExists: "skip-same" } as const;
    await transferErrorOf(workspace.moveFiles([{ file: "old", newPath: "new" }], options));
    await transferErrorOf(workspace.deleteFiles(["gone"], options));

    const second: FileRecord[] = [];
    const again = { ...options, store: (record: FileRecord) => void second.push(record) };
    expect((await workspace.uploadFiles([{ file: "kept", localPath: local }], again)).map(statusOf)).toEqual(["skipped same"]);
    expect((await workspace.moveFiles([{ file: "old", newPath: "new" }], again)).map(statusOf)).toEqual(["done"]);
    expect((await workspace.deleteFiles(["gone"], again)).map(statusOf)).toEqual(["skipped missing"]);
    expect(second.map(({ operation, file }) => [operation, file.path])).toEqual([
      ["upload", "kept"],
      ["move", "new"],
      ["delete", "gone"],
    ]);
    expect(second.slice(1).map(({ recordId }) => recordId)).toEqual(first);
  });

  test("does not take a file for moved that never was", async () => {
    const local = await directory.write("n", "x");
    const workspace = workspaceOf(createMemoryBroker());
    const options = { batchId: "job-8", store: () => undefined };
    const nothing = await transferErrorOf(workspace.moveFiles([{ file: "a", newPath: "b" }], options));
    expect(nothing.outcomes.map(statusOf)).toEqual(["failed FILE_NOT_FOUND"]);
    await workspace.uploadFiles([{ file: "b", localPath: local }]);
    // Somebody else's file: not the one that the caller describes.
    const other = await transferErrorOf(workspace.moveFiles([{ file: { path: "a", size: 77 }, newPath: "b" }], options));
    expect(other.outcomes.map(statusOf)).toEqual(["failed FILE_NOT_FOUND"]);
  });

  test("does not take a source that is still there for moved", async () => {
    const local = await directory.write("q", "x");
    const broker = singleBroker({
      moveFile: async () => Promise.reject(new StowageError("the folder is gone", { code: "FILE_NOT_FOUND" })),
    });
    const workspace = workspaceOf(broker);
    await workspace.uploadFiles(["a", "b"].map((file) => ({ file, localPath: local })));
    const options = { batchId: "job-9", store: () => undefined };
    const error = await transferErrorOf(workspace.moveFiles([{ file: "a", newPath: "b" }], options));
    expect(error.outcomes.map(statusOf)).toEqual(["failed FILE_NOT_FOUND"]);
  });

  test("without a batch id a missing source stays an error", async () => {
    const local = await directory.write("o", "x");
    const workspace = workspaceOf(createMemoryBroker());
    await workspace.uploadFiles([{ file: "b", localPath: local }]);
    const error = await transferErrorOf(workspace.moveFiles([{ file: "a", newPath: "b" }], { store: () => undefined }));
    expect(error.outcomes.map(statusOf)).toEqual(["failed FILE_NOT_FOUND"]);
  });
});
