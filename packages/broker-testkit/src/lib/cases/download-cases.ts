import assert from "node:assert/strict";
import { chmod, lstat, mkdir, readdir, readFile, realpath, stat, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { digestOf } from "@stowage/core/broker";
import { type CaseOfGroup, type ConformanceCase, casesOf } from "../conformance-case.ts";
import { expectBrokerRejects, expectBytes, expectDone, expectFailed, expectRejected, outcomesOf, witness } from "../expectations.ts";
import type { Harness } from "../harness.ts";
import { mountSmallDisk } from "../local-tree.ts";
import { fault, hook, method, trait, without, writable } from "../needs.ts";
import { BASE_BYTES, readWhileWriting, versionFile } from "../overwriting.ts";
import { readVersion, versionBytes } from "../whole-version.ts";

const QUICK_RETRY = { attempts: 4, baseDelayMs: 1, maxDelayMs: 5 } as const;

const cases: readonly CaseOfGroup[] = [
  {
    id: "C37",
    name: "a downloaded file has the bytes of the stored one, and the outcome says so",
    async run(harness) {
      const bytes = harness.random.bytes(123_457);
      await harness.put("dir/one.bin", bytes);
      const localPath = harness.localPath();
      const outcome = await expectDone(harness.workspace.downloadFiles([{ file: "dir/one.bin", localPath }]), "the download");
      assert.equal(outcome.bytes, bytes.length);
      assert.equal(outcome.file.path, "dir/one.bin");
      expectBytes(await readFile(localPath), bytes, "the local file");
      assert.deepEqual(await readdir(dirname(localPath)).then((names) => names.filter((name) => name.startsWith(".stowage"))), []);
    },
  },
  {
    id: "C37a",
    name: 'a download that says verified "digest" shows the right digest, and a digest that is asked for is right',
    async run(harness) {
      const bytes = harness.random.bytes(90_001);
      await harness.put("one.bin", bytes);
      for (const checksum of ["auto", "none", "crc32", "sha256", "md5"] as const) {
        const outcome = await expectDone(
          harness.workspace.downloadFiles([{ file: "one.bin", localPath: harness.localPath() }], { checksum }),
          checksum,
        );
        if (checksum !== "auto" && checksum !== "none") {
          assert.equal(outcome.verified, "digest", `${checksum}: verified`);
          assert.equal(outcome.digest?.algorithm, checksum);
        }
        if (outcome.verified !== "digest") continue;
        assert.ok(outcome.digest !== undefined, `${checksum}: the digest is there`);
        assert.deepEqual({ ...outcome.digest }, { ...digestOf(bytes, outcome.digest.algorithm) }, checksum);
      }
    },
  },
  {
    id: "C38",
    name: "a missing file is FILE_NOT_FOUND for its own item, and is not tried again",
    async run(harness) {
      await harness.put("there", "there");
      const outcomes = await outcomesOf(
        harness.workspace.downloadFiles(
          [
            { file: "there", localPath: harness.localPath() },
            { file: "not/there", localPath: harness.localPath() },
            { file: "there", localPath: harness.localPath() },
          ],
          { retry: QUICK_RETRY },
        ),
      );
      assert.deepEqual(
        outcomes.map(({ status }) => status),
        ["done", "failed", "done"],
      );
      const failed = outcomes[1];
      assert.ok(failed?.status === "failed");
      assert.equal((failed.error as { code?: unknown }).code, "FILE_NOT_FOUND");
      assert.equal((failed.error as { retryable?: unknown }).retryable, false);
      assert.equal(failed.attempts, 1);
      assert.deepEqual(await readdir(harness.scratch).then((names) => names.filter((name) => name.includes(".stowage"))), []);
    },
  },
  {
    id: "C38a",
    name: "a directory is no file: it is not found, or refused as NOT_A_FILE",
    async run(harness) {
      await harness.put("dir/inside", "inside");
      await expectFailed(
        harness.workspace.downloadFiles([{ file: "dir", localPath: harness.localPath() }]),
        "downloading a directory",
        "FILE_NOT_FOUND",
        "NOT_A_FILE",
      );
      assert.equal(await harness.workspace.statFile("dir"), undefined, "stat of a directory");
      await expectFailed(
        harness.workspace.downloadFiles([{ file: "dir/inside/below", localPath: harness.localPath() }]),
        "downloading what would lie below a file",
        "FILE_NOT_FOUND",
        "NOT_A_FILE",
      );
    },
  },
  {
    id: "C39",
    name: "missing local directories are made",
    async run(harness) {
      await harness.put("one", "one");
      const localPath = join(harness.localPath(), "a/b/c/one");
      await expectDone(harness.workspace.downloadFiles([{ file: "one", localPath }]), "the download");
      expectBytes(await readFile(localPath), Buffer.from("one"), "the local file");
    },
  },
  {
    id: "C40",
    name: "an existing local file is replaced atomically",
    async run(harness) {
      const versions = 6;
      for (let version = 0; version < versions; version++) await harness.put(`v/${version}`, versionBytes(version, BASE_BYTES));
      const localPath = harness.localPath();
      let newest = 0;
      await readWhileWriting(harness, {
        // Versions come round again: readers only ask whether what they see is whole.
        write: async (version) => {
          newest = version;
          await harness.workspace.downloadFiles([{ file: `v/${version % versions}`, localPath }]);
        },
        read: async () => {
          const version = readVersion(await readFile(localPath), BASE_BYTES);
          if (typeof version === "string") throw new assert.AssertionError({ message: `a local reader saw ${version}` });
          return versionBytes(newest, BASE_BYTES);
        },
      });
    },
  },
  {
    id: "C41",
    name: "a backend that ends early is a failure, and leaves nothing at the local path",
    needs: [fault("short-read", "download")],
    async run(harness) {
      await harness.put("one.bin", harness.random.bytes(300_000));
      await expectNoLocalFile(harness, {
        kind: "short-read",
        codes: ["SHORT_SOURCE", "UNAVAILABLE", "CHECKSUM_MISMATCH", "SOURCE_CHANGED"],
      });
    },
  },
  {
    id: "C41a",
    name: "a file that is shorter or longer than was asked for is a failure, and leaves nothing at the local path",
    async run(harness) {
      await harness.put("one.bin", harness.random.bytes(1_000));
      for (const size of [1_001, 999]) {
        const directory = harness.localPath();
        await mkdir(directory);
        await expectFailed(
          harness.workspace.downloadFiles([{ file: { path: "one.bin", size }, localPath: join(directory, "target") }]),
          `asking for ${size} of 1,000 bytes`,
          "SHORT_SOURCE",
          "SOURCE_CHANGED",
          "CHECKSUM_MISMATCH",
        );
        assert.deepEqual(await readdir(directory), []);
      }
    },
  },
  {
    id: "C42",
    name: "a connection that breaks in the middle is taken up again, and the bytes are whole",
    needs: [fault("reset", "download")],
    async run(harness) {
      const bytes = harness.random.bytes(400_000);
      await harness.put("one.bin", bytes);
      await harness.place.faults?.inject({ kind: "reset", operation: "download", times: 1 });
      const localPath = harness.localPath();
      await expectDone(harness.workspace.downloadFiles([{ file: "one.bin", localPath }], { retry: QUICK_RETRY }), "the download");
      witness("broken connections", harness.place.faults?.struck() ?? 0, 1);
      expectBytes(await readFile(localPath), bytes, "the local file");
    },
  },
  {
    id: "C43",
    name: "a file that is replaced while it is downloaded gives the old, the new or an error, never a mixture",
    needs: [writable],
    async run(harness) {
      const replacement = await versionFile(harness, 2);
      let replacedInTheMiddle = 0;
      for (let round = 0; round < harness.rounds(8, 60); round++) {
        await harness.put("one.bin", versionBytes(1, BASE_BYTES));
        let replaced = false;
        const replace = async (): Promise<void> => {
          if (replaced) return;
          replaced = true;
          await harness.broker.uploadFile({ file: harness.stored("one.bin"), localPath: replacement }, harness.context());
          replacedInTheMiddle++;
        };
        const localPath = harness.localPath();
        const replacing: Promise<void>[] = [];
        const context = harness.context({ checksum: "sha256", onThrottle: replace, onProgress: () => void replacing.push(replace()) });
        const details = await harness.broker.downloadFile({ file: harness.stored("one.bin"), localPath }, context).catch(() => undefined);
        await Promise.all(replacing);
        const bytes = await readFile(localPath).catch(() => undefined);
        assert.equal(bytes === undefined, details === undefined, "a file is there exactly when the download succeeded");
        if (bytes !== undefined) {
          const version = readVersion(bytes, BASE_BYTES);
          assert.equal(typeof version, "number", `the download gave ${version}`);
        }
      }
      witness("replacements during a download", replacedInTheMiddle, 8);
    },
  },
  {
    id: "C44",
    name: "a byte that changed on the way is found where a digest is known, and nothing is left",
    needs: [fault("corrupt-read", "download")],
    async run(harness) {
      const bytes = harness.random.bytes(300_000);
      await harness.put("one.bin", bytes);
      await expectNoLocalFile(harness, { kind: "corrupt-read", codes: ["CHECKSUM_MISMATCH"], digest: digestOf(bytes, "sha256") });
    },
  },
  {
    id: "C44a",
    name: "a digest that is given is held against the bytes, whichever algorithm it is of",
    async run(harness) {
      const bytes = harness.random.bytes(40_000);
      await harness.put("one.bin", bytes);
      for (const algorithm of ["crc32", "crc32c", "crc64nvme", "md5", "sha1", "sha256"] as const) {
        const right = digestOf(bytes, algorithm);
        const outcome = await expectDone(
          harness.workspace.downloadFiles([{ file: { path: "one.bin", digest: right }, localPath: harness.localPath() }]),
          algorithm,
        );
        assert.equal(outcome.verified, "digest", `${algorithm}: verified`);
        const wrong = { algorithm, value: right.value.replace(/^./, (first) => (first === "0" ? "1" : "0")) };
        const localPath = harness.localPath();
        await expectBrokerRejects(
          harness.broker,
          harness.broker.downloadFile({ file: { ...harness.stored("one.bin"), digest: wrong }, localPath }, harness.context()),
          `a wrong ${algorithm}`,
          "CHECKSUM_MISMATCH",
        );
        await assert.rejects(lstat(localPath), { code: "ENOENT" }, "nothing is left at the local path");
      }
    },
  },
  {
    id: "C44b",
    name: "a byte that changed where it is stored is found where the caller knows the digest",
    needs: [hook("directory")],
    async run(harness) {
      const bytes = harness.random.bytes(50_000);
      await harness.put("one.bin", bytes);
      const rotten = Buffer.from(bytes);
      rotten[33_333] = (rotten[33_333] ?? 0) ^ 1;
      await writeFile(join(harness.place.directory ?? "", "one.bin"), rotten);
      const localPath = harness.localPath();
      await expectFailed(
        harness.workspace.downloadFiles([{ file: { path: "one.bin", digest: digestOf(bytes, "crc32") }, localPath }]),
        "the download",
        "CHECKSUM_MISMATCH",
      );
      await assert.rejects(lstat(localPath), { code: "ENOENT" });
    },
  },
  {
    id: "C45",
    name: "ranges: start, middle, end, beyond the end, nothing",
    needs: [method("openRead")],
    async run(harness) {
      const bytes = harness.random.bytes(200_000);
      await harness.put("one.bin", bytes);
      const ranges = [
        { start: 0 },
        { start: 0, end: 1 },
        { start: 0, end: 200_000 },
        { start: 1, end: 2 },
        { start: 65_535, end: 65_537 },
        { start: 100_000, end: 150_001 },
        { start: 199_999 },
        { start: 199_990, end: 1_000_000 },
        { start: 200_000 },
        { start: 5_000_000, end: 5_000_010 },
        { start: 777, end: 777 },
      ];
      for (let count = 0; count < 25; count++) {
        const start = harness.random.integer(0, 200_500);
        ranges.push({ start, end: start + harness.random.integer(0, 70_000) });
      }
      for (const range of ranges) {
        const expected = bytes.subarray(range.start, range.end);
        const reader = await harness.workspace.openRead("one.bin", { range });
        try {
          assert.equal(reader.size, expected.length, `${JSON.stringify(range)}: the reader's size`);
          expectBytes(await collect(reader), expected, JSON.stringify(range));
        } finally {
          await reader.close();
        }
      }
    },
  },
  {
    id: "C45a",
    name: "without openRead a workspace refuses to open a reader as UNSUPPORTED",
    needs: [without(method("openRead"))],
    async run(harness) {
      await harness.put("one", "one");
      await expectRejected(harness.workspace.openRead("one"), "openRead", "UNSUPPORTED");
    },
  },
  {
    id: "C46",
    name: "a partial download where the consumer mounts the workspace is a link to the right file",
    needs: [method("getFileSystemPath"), trait("linksPartial")],
    async run(harness) {
      await harness.put("dir/part.bin", "only a part of this is read");
      const localPath = harness.localPath();
      const outcome = await expectDone(
        harness.workspace.downloadFiles([{ file: "dir/part.bin", localPath, partial: true }], { linkPartial: true }),
        "the download",
      );
      assert.equal(outcome.method, "link");
      expectBytes(await readFile(localPath), Buffer.from("only a part of this is read"), "what is behind the link");
      const [path] = harness.workspace.getFileSystemPaths(["dir/part.bin"]) ?? [];
      assert.ok(path !== undefined, "the file has a path");
      const [ours, theirs] = await Promise.all([stat(localPath), stat(path)]);
      assert.equal(ours.ino, theirs.ino, "it is the stored file itself");
    },
  },
  {
    id: "C46a",
    name: "a partial download is a file of its own where nobody said that the consumer mounts the workspace",
    async run(harness) {
      await harness.put("part.bin", "independent");
      const localPath = harness.localPath();
      const outcome = await expectDone(harness.workspace.downloadFiles([{ file: "part.bin", localPath, partial: true }]), "the download");
      assert.notEqual(outcome.method, "link");
      await expectIndependent(harness, "part.bin", localPath);
    },
  },
  {
    id: "C46b",
    name: "a partial download gives the right bytes, whether it is a link or not",
    async run(harness) {
      await harness.put("dir/part.bin", "the bytes");
      const localPath = harness.localPath();
      await expectDone(
        harness.workspace.downloadFiles([{ file: "dir/part.bin", localPath, partial: true }], { linkPartial: true }),
        "the download",
      );
      expectBytes(await readFile(localPath), Buffer.from("the bytes"), "the local file");
      // Once more: the link that is there now is replaced, not written through.
      await expectDone(harness.workspace.downloadFiles([{ file: "dir/part.bin", localPath }]), "the second download");
      assert.ok((await lstat(localPath)).isFile(), "a download without partial is a file");
      expectBytes(await harness.get("dir/part.bin"), Buffer.from("the bytes"), "the stored file");
    },
  },
  {
    id: "C47",
    name: "the target of a link is inside the volume",
    needs: [method("getFileSystemPath"), trait("linksPartial")],
    async run(harness) {
      const root = harness.place.volumePath ?? harness.place.directory;
      if (root === undefined) return harness.skip("the place has neither volumePath nor directory");
      await harness.put("in/side.bin", "inside");
      const localPath = harness.localPath();
      await harness.workspace.downloadFiles([{ file: "in/side.bin", localPath, partial: true }], { linkPartial: true });
      const behind = await realpath(localPath);
      if ((await lstat(localPath)).isSymbolicLink()) {
        assert.ok(behind.startsWith(`${await realpath(root)}/`), "the link leads into the volume");
      }
    },
  },
  {
    id: "C48",
    name: "a full local disk is NO_SPACE, and what was written is removed",
    async run(harness) {
      const mountPath = harness.localPath();
      const disk = await mountSmallDisk(mountPath, 256 * 1024);
      if (disk === undefined) return harness.skip("a small disk can only be mounted by root on Linux");
      try {
        await harness.put("large.bin", harness.random.bytes(1024 * 1024));
        await expectFailed(
          harness.workspace.downloadFiles([{ file: "large.bin", localPath: join(mountPath, "large.bin") }]),
          "a download to a full disk",
          "NO_SPACE",
        );
        assert.deepEqual(await readdir(mountPath), []);
      } finally {
        await disk.unmount();
      }
    },
  },
  {
    id: "C49",
    name: "a local directory that may not be written to is PERMISSION_DENIED",
    async run(harness) {
      await harness.put("one", "one");
      let directory = harness.localPath();
      // To root almost every directory is open; not this one.
      if (process.geteuid?.() === 0) directory = process.platform === "linux" ? "/sys" : harness.skip("runs as root");
      else {
        await mkdir(directory);
        await chmod(directory, 0o555);
      }
      await expectFailed(
        harness.workspace.downloadFiles([{ file: "one", localPath: join(directory, `stowage-conformance-${process.pid}`) }]),
        "the download",
        "PERMISSION_DENIED",
        "READ_ONLY",
      );
    },
  },
  {
    id: "C153",
    name: "downloading again gives the same file again",
    async run(harness) {
      const bytes = harness.random.bytes(10_000);
      await harness.put("one", bytes);
      const localPath = harness.localPath();
      for (let count = 0; count < 3; count++) {
        await expectDone(harness.workspace.downloadFiles([{ file: "one", localPath }]), "the download");
        expectBytes(await readFile(localPath), bytes, "the local file");
      }
    },
  },
  {
    id: "C154",
    name: "ifExists is obeyed at the local path",
    async run(harness) {
      await harness.put("one", "stored");
      const localPath = await harness.localFile("mine");
      await expectFailed(harness.workspace.downloadFiles([{ file: "one", localPath }], { ifExists: "fail" }), "fail", "FILE_EXISTS");
      const [skipped] = await harness.workspace.downloadFiles([{ file: "one", localPath }], { ifExists: "skip" });
      assert.equal(skipped?.status, "skipped");
      expectBytes(await readFile(localPath), Buffer.from("mine"), "the local file");
      const fresh = harness.localPath();
      await expectDone(harness.workspace.downloadFiles([{ file: "one", localPath: fresh }], { ifExists: "fail" }), "a new one");
    },
  },
  {
    id: "C155",
    name: "a local directory in the way is refused and stays; a local symbolic link is replaced, not followed",
    async run(harness) {
      await harness.put("one", "stored");
      const directory = harness.localPath();
      await mkdir(directory);
      await writeFile(join(directory, "inside"), "inside");
      await expectFailed(
        harness.workspace.downloadFiles([{ file: "one", localPath: directory }]),
        "downloading over a directory",
        "NOT_A_FILE",
        "FILE_EXISTS",
        "CONFLICT",
      );
      assert.deepEqual(await readdir(directory), ["inside"]);
      const behind = await harness.localFile("behind the link");
      const link = harness.localPath();
      await symlink(behind, link);
      await expectDone(harness.workspace.downloadFiles([{ file: "one", localPath: link }]), "downloading over a link");
      expectBytes(await readFile(behind), Buffer.from("behind the link"), "what the link pointed to");
      expectBytes(await readFile(link), Buffer.from("stored"), "the downloaded file");
    },
  },
  {
    id: "C156",
    name: "a downloaded file is independent: changing it does not change the stored one",
    async run(harness) {
      await harness.put("one", "the stored bytes");
      const localPath = harness.localPath();
      await expectDone(harness.workspace.downloadFiles([{ file: "one", localPath }]), "the download");
      await expectIndependent(harness, "one", localPath);
    },
  },
  {
    id: "C157",
    name: "the stored file's time of modification is kept",
    needs: [trait("keepsModified")],
    async run(harness) {
      await harness.put("one", "one");
      const details = await harness.workspace.statFile("one");
      const localPath = harness.localPath();
      await new Promise((resolve) => setTimeout(resolve, 20));
      await expectDone(harness.workspace.downloadFiles([{ file: "one", localPath }]), "the download");
      assert.equal((await stat(localPath)).mtime.getTime(), details?.modified?.getTime());
    },
  },
  {
    id: "C158",
    name: "progress adds up to the size of the file",
    async run(harness) {
      const bytes = harness.random.bytes(2_500_000);
      await harness.put("one", bytes);
      const context = harness.context();
      await harness.broker.downloadFile({ file: harness.stored("one"), localPath: harness.localPath() }, context);
      assert.equal(context.record.progressed, bytes.length, "the sum of what was reported");
    },
  },
  {
    id: "C159",
    name: "one file may be downloaded to several places in one batch",
    async run(harness) {
      const bytes = harness.random.bytes(30_000);
      await harness.put("one", bytes);
      const downloads = Array.from({ length: 5 }, () => ({ file: "one", localPath: harness.localPath() }));
      await harness.workspace.downloadFiles(downloads);
      for (const { localPath } of downloads) expectBytes(await readFile(localPath), bytes, "each local file");
    },
  },
  {
    id: "C160",
    exclusive: true,
    name: "memory does not grow with the size of the file",
    needs: [writable],
    skip: ({ traits }) => (traits.holdsFilesInMemory ? "its files are this process's memory" : undefined),
    async run(harness) {
      const length = harness.traits.largeFileBytes;
      await harness.put("large", Buffer.alloc(length, 7));
      const before = process.memoryUsage().arrayBuffers;
      let most = before;
      const timer = setInterval(() => {
        most = Math.max(most, process.memoryUsage().arrayBuffers);
      }, 5);
      const localPath = harness.localPath();
      try {
        await expectDone(harness.workspace.downloadFiles([{ file: "large", localPath }]), "the download");
      } finally {
        clearInterval(timer);
      }
      assert.equal((await stat(localPath)).size, length);
      assert.ok(most - before < Math.max(length / 2, 24 * 1024 * 1024), `${most - before} bytes of buffers for a file of ${length}`);
    },
  },
  {
    id: "C161",
    name: "a reader gives the whole file, may be left early, and is closed safely at any time",
    needs: [method("openRead")],
    async run(harness) {
      const bytes = harness.random.bytes(3_000_000);
      await harness.put("one", bytes);
      const whole = await harness.workspace.openRead("one");
      assert.equal(whole.size, bytes.length);
      expectBytes(await collect(whole), bytes, "the whole file");
      await whole.close();
      await whole.close();
      const left = await harness.workspace.openRead("one");
      for await (const chunk of left) {
        assert.ok(chunk.length > 0, "a reader gives no empty chunks");
        break;
      }
      await left.close();
      const unread = await harness.workspace.openRead("one");
      await unread.close();
      await expectRejected(harness.workspace.openRead("no/such"), "a missing file", "FILE_NOT_FOUND");
    },
  },
  {
    id: "C162",
    name: "a reader of a file that is replaced gives the old one whole, the new one whole, or an error",
    needs: [method("openRead"), writable],
    async run(harness) {
      await harness.put("one", versionBytes(1, BASE_BYTES));
      const replacement = await versionFile(harness, 2);
      const reader = await harness.workspace.openRead("one");
      await harness.workspace.uploadFiles([{ file: "one", localPath: replacement }]);
      try {
        const bytes = await collect(reader).catch(() => undefined);
        if (bytes === undefined) return;
        const version = readVersion(bytes, BASE_BYTES);
        assert.equal(typeof version, "number", `the reader gave ${version}`);
        assert.equal(bytes.length, reader.size, "the reader's size");
      } finally {
        await reader.close();
      }
    },
  },
  {
    id: "C163",
    name: "a chunk that a consumer writes over does not change the stored file",
    needs: [method("openRead")],
    async run(harness) {
      const bytes = harness.random.bytes(100_000);
      await harness.put("one", bytes);
      const reader = await harness.workspace.openRead("one");
      for await (const chunk of reader) chunk.fill(0);
      await reader.close();
      expectBytes(await harness.get("one"), bytes, "the stored file");
    },
  },
  {
    id: "C32",
    name: "a file asked for by a version that is no longer the current one gives that version or an error",
    needs: [trait("versions"), writable],
    async run(harness) {
      const first = await harness.put("one", "first");
      await harness.put("one", "second!");
      const version = first.version ?? (await harness.workspace.statFile("one"))?.file.version;
      assert.ok(version !== undefined, "a stored file has a version");
      assert.ok(first.version !== undefined, "an upload reports the version that it made");
      const localPath = harness.localPath();
      const [outcome] = await outcomesOf(harness.workspace.downloadFiles([{ file: { path: "one", version: first.version }, localPath }]));
      if (outcome?.status === "done") expectBytes(await readFile(localPath), Buffer.from("first"), "the old version");
      else assert.equal(outcome?.status, "failed");
    },
  },
  {
    id: "C164",
    name: "a signed URL gives the file without further credentials",
    needs: [method("createSignedUrl")],
    async run(harness) {
      const bytes = harness.random.bytes(5_000);
      await harness.put("signed ü.bin", bytes);
      const url = await harness.workspace.fileUrl("signed ü.bin", { method: "GET", expiresInSeconds: 60 });
      assert.ok(url !== undefined, "there is a URL");
      const response = await fetch(url);
      assert.equal(response.status, 200);
      expectBytes(new Uint8Array(await response.arrayBuffer()), bytes, "what the URL gives");
    },
  },
  {
    id: "C165",
    name: "without signed URLs and a base URL a file has no URL, with a base URL it has an encoded one",
    needs: [without(method("createSignedUrl"))],
    async run(harness) {
      assert.equal(await harness.workspace.fileUrl("one"), undefined);
      const { workspace } = await harness.open({ baseUrl: "https://files.example/base" });
      assert.equal(await workspace.fileUrl("a b/ü#?.txt"), "https://files.example/base/a%20b/%C3%BC%23%3F.txt");
    },
  },
  {
    id: "C166",
    name: "a download that fails leaves nothing beside the local path",
    async run(harness) {
      await harness.put("one", harness.random.bytes(2_000_000));
      const directory = harness.localPath();
      await mkdir(directory);
      const localPath = join(directory, "target");
      await writeFile(localPath, "mine");
      const stop = new AbortController();
      const context = harness.context({ signal: stop.signal, onThrottle: () => stop.abort(), onProgress: () => stop.abort() });
      // What moves in one step may be there by then; it is no failed download.
      await harness.broker.downloadFile({ file: harness.stored("one"), localPath }, context).then(
        () => writeFile(localPath, "mine"),
        () => undefined,
      );
      const wrongSize = { ...harness.stored("one"), size: 5 };
      await harness.broker.downloadFile({ file: wrongSize, localPath }, harness.context()).catch(() => undefined);
      assert.deepEqual(await readdir(directory), ["target"]);
      expectBytes(await readFile(localPath), Buffer.from("mine"), "the local file as it was");
    },
  },
];

async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const chunk of chunks) parts.push(Buffer.from(chunk));
  return Buffer.concat(parts);
}

async function expectIndependent(harness: Harness, path: string, localPath: string): Promise<void> {
  const before = await harness.get(path);
  assert.ok((await lstat(localPath)).isFile(), "the local file is a regular file");
  await writeFile(localPath, "written over by the one who downloaded it");
  const after = await harness.get(path);
  assert.ok(before !== undefined);
  expectBytes(after, before, "the stored file");
}

async function expectNoLocalFile(
  harness: Harness,
  options: {
    readonly kind: "short-read" | "corrupt-read";
    readonly codes: readonly Parameters<typeof expectFailed>[2][];
    readonly digest?: ReturnType<typeof digestOf>;
  },
): Promise<void> {
  const directory = harness.localPath();
  await mkdir(directory);
  await harness.place.faults?.inject({ kind: options.kind, operation: "download", times: Number.POSITIVE_INFINITY });
  const file = options.digest === undefined ? "one.bin" : { path: "one.bin", digest: options.digest };
  try {
    await expectFailed(
      harness.workspace.downloadFiles([{ file, localPath: join(directory, "target") }], { retry: QUICK_RETRY }),
      "the download",
      ...options.codes.filter((code) => code !== undefined),
    );
    witness("faults that struck", harness.place.faults?.struck() ?? 0, 1);
  } finally {
    await harness.place.faults?.clear();
  }
  assert.deepEqual(await readdir(directory), []);
}

/** Group C: fetching files. */
export const downloadCases: readonly ConformanceCase[] = casesOf("C", cases);
