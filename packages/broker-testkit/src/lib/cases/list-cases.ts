import assert from "node:assert/strict";
import { mkdir, readFile, symlink, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Workspace } from "@stowage/core";
import { digestOf, type FileDetails, type ListProblem, StowageError, sameDigest } from "@stowage/core/broker";
import { type CaseOfGroup, type ConformanceCase, casesOf } from "../conformance-case.ts";
import { expectBytes, settleMs, witness } from "../expectations.ts";
import type { Harness } from "../harness.ts";
import { plantHostileTree } from "../hostile-tree.ts";
import { countOpenHandles, tryWithFifo } from "../local-tree.ts";
import { hook, linux, method, seeding, trait, without, writable } from "../needs.ts";

const cases: readonly CaseOfGroup[] = [
  {
    id: "F71",
    name: "an empty workspace lists nothing",
    async run(harness) {
      assert.deepEqual(await harness.list(), []);
      assert.deepEqual(await Array.fromAsync(harness.workspace.listFiles()), []);
    },
  },
  {
    id: "F72",
    name: "a flat listing holds the files of its directory and nothing deeper",
    async run(harness) {
      await putAll(harness, ["top-1", "top-2", "dir/a", "dir/b", "dir/sub/c", "dir/sub/deep/d", "directory/e"]);
      assert.deepEqual(await flat(harness.workspace, ""), ["top-1", "top-2"]);
      assert.deepEqual(await flat(harness.workspace, "dir"), ["dir/a", "dir/b"]);
      assert.deepEqual(await flat(harness.workspace, "dir/"), ["dir/a", "dir/b"]);
      assert.deepEqual(await flat(harness.workspace, "dir/sub"), ["dir/sub/c"]);
    },
  },
  {
    id: "F73",
    name: "a recursive listing holds every file below its directory",
    async run(harness) {
      const paths = ["top", "dir/a", "dir/b/c", "dir/b/d/e", "other/f"];
      await putAll(harness, paths);
      assert.deepEqual(await harness.list(), [...paths].sort());
      assert.deepEqual(await harness.list("dir"), ["dir/a", "dir/b/c", "dir/b/d/e"]);
      assert.deepEqual(await harness.list("dir/b"), ["dir/b/c", "dir/b/d/e"]);
    },
  },
  {
    id: "F74",
    name: "files without bytes are listed",
    async run(harness) {
      await harness.put("empty-1", "");
      await harness.put("full", "x");
      await harness.put("dir/empty-2", "");
      assert.deepEqual(await harness.list(), ["dir/empty-2", "empty-1", "full"]);
      assert.deepEqual(await flat(harness.workspace, ""), ["empty-1", "full"]);
    },
  },
  ...[33, 1_000, 1_001].map(
    (count): CaseOfGroup => ({
      id: `F75-${count}`,
      name: `a directory of ${count.toLocaleString("en")} files is listed completely, each once`,
      run: (harness) => listCompletely(harness, count),
    }),
  ),
  {
    id: "F75-largest",
    name: "a long listing over several directories is complete, each file once",
    needs: [seeding],
    timeoutMs: 120_000,
    async run(harness) {
      const { largestListing } = harness.traits;
      const paths = Array.from({ length: largestListing }, (_, index) => `tree/${index % 7}/${index % 3}/file-${index}`);
      await harness.putMany(paths.map((path) => ({ path, bytes: Buffer.from("x") })));
      const seen = new Set<string>();
      let count = 0;
      for await (const { file } of harness.workspace.listFiles("tree", { recursive: true })) {
        seen.add(file.path);
        count++;
      }
      assert.equal(count, paths.length, "the number of entries");
      assert.equal(seen.size, paths.length, "the number of different entries");
      for (const path of paths) assert.ok(seen.has(path), `${path} is missing`);
    },
  },
  {
    id: "F76",
    name: "pages of one, two and three entries lose nothing and repeat nothing",
    needs: [hook("configWithPageSize")],
    async run(harness) {
      const paths = ["a", "a/b", "b", "c/1", "c/2", "c/3", "c/d/4", "d", "e"].filter(
        (path) => path !== "a/b" || harness.traits.filesBelowFiles,
      );
      await putAll(harness, paths);
      for (const size of [1, 2, 3]) {
        const config = harness.place.configWithPageSize?.(size) ?? harness.place.config;
        const { workspace } = await harness.open({ mount: { config, volumePath: harness.place.volumePath } });
        assert.deepEqual(await harness.list("", workspace), [...paths].sort(), `pages of ${size}`);
        assert.deepEqual(await flat(workspace, "c"), ["c/1", "c/2", "c/3"], `pages of ${size}, flat`);
      }
    },
  },
  {
    id: "F77",
    name: "the directory `a` has nothing of `ab/`, `a.b` or `a-1/`",
    async run(harness) {
      await putAll(harness, ["a/inside", "ab/other", "a.b", "a-1/other", "aa"]);
      assert.deepEqual(await harness.list("a"), ["a/inside"]);
      assert.deepEqual(await flat(harness.workspace, "a"), ["a/inside"]);
    },
  },
  {
    id: "F78",
    name: "names that sort before `/` do not confuse a listing",
    async run(harness) {
      const paths = ["dir/a", "dir!/b", "dir-x/c", "dir.y/d", "dir/z", "dir0/e", "dir +/f"];
      await putAll(harness, paths);
      assert.deepEqual(await harness.list(), [...paths].sort());
      for (const directory of ["dir", "dir!", "dir-x", "dir.y", "dir0", "dir +"]) {
        assert.deepEqual(await harness.list(directory), paths.filter((path) => path.startsWith(`${directory}/`)).sort(), directory);
      }
    },
  },
  {
    id: "F79",
    name: "files that come and go during a listing neither break it nor appear twice",
    needs: [writable],
    async run(harness) {
      const staying = Array.from({ length: 60 }, (_, index) => `busy/stays-${index}`);
      const leaving = Array.from({ length: 30 }, (_, index) => `busy/goes-${index}`);
      await harness.putMany([...staying, ...leaving].map((path) => ({ path, bytes: Buffer.from("x") })));
      const fresh = await harness.localFile("new");
      const seen: string[] = [];
      let changes = 0;
      for await (const { file } of harness.workspace.listFiles("busy", { recursive: true })) {
        seen.push(file.path);
        if (seen.length % 10 !== 0) continue;
        const gone = leaving.pop();
        if (gone !== undefined) await harness.workspace.deleteFiles([gone]);
        await harness.workspace.uploadFiles([{ file: `busy/comes-${changes}`, localPath: fresh }]);
        changes++;
      }
      witness("changes during the listing", changes, 5);
      assert.equal(new Set(seen).size, seen.length, "no file appears twice");
      for (const path of staying) assert.ok(seen.includes(path), `${path}, which was there all the time, is missing`);
    },
  },
  {
    id: "F80",
    exclusive: true,
    name: "a listing that is left early closes what it opened",
    needs: [linux],
    async run(harness) {
      await harness.putMany(Array.from({ length: 300 }, (_, index) => ({ path: `d${index % 20}/${index}`, bytes: Buffer.from("x") })));
      const leaveEarly = async (): Promise<void> => {
        for await (const _entry of harness.workspace.listFiles("", { recursive: true })) break;
      };
      await leaveEarly();
      const before = await countOpenHandles();
      if (before === undefined) return harness.skip("open handles cannot be counted here");
      for (let count = 0; count < 30; count++) await leaveEarly();
      const after = (await countOpenHandles()) ?? 0;
      assert.ok(after <= before + 3, `${after - before} more handles after 30 listings that were left early`);
    },
  },
  {
    id: "F81",
    name: "a missing directory is empty",
    async run(harness) {
      await harness.put("there/file", "x");
      assert.deepEqual(await harness.list("not/there"), []);
      assert.deepEqual(await flat(harness.workspace, "not"), []);
      assert.deepEqual(await flat(harness.workspace, "there/file"), [], "a file is no directory");
    },
  },
  {
    id: "F82",
    name: "what is being written is not listed",
    needs: [writable],
    async run(harness) {
      await harness.put("dir/there", "there");
      const bytes = harness.random.bytes(8_000_000);
      const localPath = await harness.localFile(bytes);
      let listings = 0;
      const look = async (): Promise<void> => {
        if (listings++ >= 3) return;
        for await (const entry of harness.workspace.listFiles("", { recursive: true })) {
          // Where a file moves in one step it may be there already, but whole.
          if (entry.file.path === "dir/coming") assert.equal(entry.size, bytes.length, "a file that is being written is listed");
          else assert.equal(entry.file.path, "dir/there", "a listing during an upload");
        }
      };
      const looks: Promise<void>[] = [];
      const context = harness.context({ checksum: "sha256", onThrottle: look, onProgress: () => void looks.push(look()) });
      await harness.broker.uploadFile({ file: harness.stored("dir/coming"), localPath }, context);
      await Promise.all(looks);
      if (harness.broker.openWrite !== undefined) {
        const writer = await harness.workspace.openWrite("dir/streaming");
        await writer.write(Buffer.alloc(100_000));
        listings = 0;
        await look();
        await writer.abort(new Error("enough"));
      }
      witness("listings during a write", listings, 1);
      assert.deepEqual(await harness.list(), ["dir/coming", "dir/there"]);
    },
  },
  {
    id: "F82a",
    name: "temporary files and records that a crash left are not listed, and cannot be named",
    needs: [hook("directory")],
    async run(harness) {
      const directory = harness.place.directory ?? "";
      await harness.put("dir/there", "there");
      await writeFile(join(directory, "dir/.stowage-abandoned"), "half");
      await writeFile(join(directory, ".stowage-abandoned"), "half");
      await mkdir(join(directory, ".stowage/inflight"), { recursive: true });
      await writeFile(join(directory, ".stowage/inflight/crashed"), "dir\n");
      assert.deepEqual(await harness.list(), ["dir/there"]);
      assert.deepEqual(await flat(harness.workspace, "dir"), ["dir/there"]);
      await assert.rejects(harness.workspace.statFile("dir/.stowage-abandoned"), { code: "INVALID_PATH" });
    },
  },
  {
    id: "F83",
    name: "broken links, links in circles and links to directories do not trouble a listing",
    needs: [hook("directory")],
    async run(harness) {
      const directory = harness.place.directory ?? "";
      await harness.put("dir/there", "there");
      const outside = harness.localPath();
      await mkdir(outside);
      await writeFile(join(outside, "secret"), "outside");
      await symlink("nowhere", join(directory, "broken"));
      await symlink("circle-b", join(directory, "circle-a"));
      await symlink("circle-a", join(directory, "circle-b"));
      await symlink("..", join(directory, "dir/up"));
      await symlink(outside, join(directory, "out"));
      const problems: ListProblem[] = [];
      const seen: string[] = [];
      for await (const { file } of harness.workspace.listFiles("", { recursive: true, onProblem: (problem) => problems.push(problem) })) {
        seen.push(file.path);
        assert.ok(seen.length < 50, "the listing goes in circles");
      }
      assert.deepEqual(seen.filter((path) => path.endsWith("/there")).sort(), ["dir/there"]);
      assert.ok(!seen.some((path) => path.startsWith("out/") || path.startsWith("dir/up/")), "no link to a directory is followed");
    },
  },
  {
    id: "F83a",
    name: "a hostile tree is listed as far as it can be, each trouble reported once, and nothing of it opened by mistake",
    needs: [hook("directory")],
    skip: () => (process.platform === "linux" ? undefined : "file names are not plain bytes here"),
    async run(harness) {
      const outside = harness.localPath();
      await mkdir(outside);
      await writeFile(join(outside, "secret"), "the secret outside");
      const tree = await plantHostileTree(harness.place.directory ?? "", outside);
      const problems: ListProblem[] = [];
      const listed: string[] = [];
      const listing = harness.workspace.listFiles("", { recursive: true, onProblem: (problem) => problems.push(problem) });
      const seen = await tryWithFifo(join(harness.place.directory ?? "", "fifo"), async () => {
        for await (const { file } of listing) listed.push(file.path);
      });
      assert.notEqual(seen, "waited", "nothing waits for a FIFO");
      // A link to a file of the workspace may be listed as that file; nothing else may.
      assert.deepEqual(listed.sort(), tree.files);
      for (const name of tree.unnameable) {
        assert.equal(problems.filter(({ path }) => path.includes(name)).length, 1, `"${name}" is reported once`);
      }
      for (const { path } of problems) assert.match(path, /^[\x20-\x7e]*$/, "names are escaped for printing");
      for (const path of tree.traps.filter((name) => !name.includes(".stowage"))) {
        // What leads out may be refused as well.
        const details = await harness.workspace.statFile(path).catch(() => undefined);
        assert.equal(details, undefined, `stat of ${path}`);
      }
      for (const closed of tree.closedDirectories) {
        const behind = await Array.fromAsync(harness.workspace.listFiles(closed, { onProblem: () => undefined })).catch(() => []);
        assert.deepEqual(behind, [], `what lies behind ${closed}`);
      }
    },
  },
  {
    id: "F84",
    name: "a directory that may not be read is reported, and the rest is listed",
    needs: [hook("makeUnreadable")],
    async run(harness) {
      await putAll(harness, ["open/a", "shut/b", "open/c"]);
      await harness.place.makeUnreadable?.("shut");
      await expectProblem(harness, ["open/a", "open/c"], "shut");
    },
  },
  {
    id: "F84a",
    name: "a name that no path can express is reported with its escaped raw name, and the rest is listed",
    needs: [hook("directory")],
    skip: () => (process.platform === "linux" ? undefined : "file names are not plain bytes here"),
    async run(harness) {
      await harness.put("dir/there", "there");
      const directory = Buffer.from(join(harness.place.directory ?? "", "dir/"));
      await writeFile(Buffer.concat([directory, Buffer.from([0x62, 0x61, 0x64, 0xff, 0xfe])]), "bytes");
      await expectProblem(harness, ["dir/there"], "bad");
    },
  },
  {
    id: "F85",
    name: "a listing tells of each file what stat tells",
    async run(harness) {
      await putAll(harness, ["a", "dir/b", "dir/c"]);
      await harness.put("dir/large", harness.random.bytes(100_000));
      await harness.put("dir/empty", "");
      let compared = 0;
      for await (const listed of harness.workspace.listFiles("", { recursive: true })) {
        const found = await harness.workspace.statFile(listed.file.path);
        assert.ok(found !== undefined, `stat finds ${listed.file.path}`);
        assert.equal(listed.size, found.size, `the size of ${listed.file.path}`);
        assert.equal(listed.file.size ?? listed.size, listed.size);
        assert.equal(listed.modified?.getTime(), found.modified?.getTime(), `the time of ${listed.file.path}`);
        assert.notEqual(sameDigest(listed.file.digest, found.file.digest), false, `the digest of ${listed.file.path}`);
        compared++;
      }
      witness("files compared", compared, 5);
      assert.equal((await harness.workspace.statFile("dir/large"))?.size, 100_000);
    },
  },
  {
    id: "F86",
    name: "two listings have the same order, and startAfter takes one up where it was left",
    needs: [trait("sortedListing")],
    async run(harness) {
      await harness.putMany(
        Array.from({ length: 120 }, (_, index) => ({ path: `s/${harness.random.word(3)}/${index}`, bytes: Buffer.from("x") })),
      );
      const whole = await ordered(harness.workspace, undefined);
      witness("files", whole.length, 100);
      assert.deepEqual(await ordered(harness.workspace, undefined), whole);
      for (const index of [0, 1, 59, 118, 119]) {
        assert.deepEqual(await ordered(harness.workspace, whole[index]), whole.slice(index + 1), `after entry ${index}`);
      }
      assert.deepEqual(await ordered(harness.workspace, `${whole[40]}.gone`), whole.slice(41), "after a file that is not there");
    },
  },
  {
    id: "F87",
    name: "file system paths come in the order of the files, and lead to them",
    needs: [method("getFileSystemPath")],
    async run(harness) {
      const paths = ["b", "dir/a ü", "dir/sub/c"];
      await putAll(harness, paths);
      const found = harness.workspace.getFileSystemPaths(paths);
      assert.equal(found?.length, 3);
      for (const [index, path] of paths.entries()) {
        expectBytes(await readFile(found?.[index] ?? ""), Buffer.from(path), path);
      }
      assert.equal(harness.workspace.getFileSystemPaths(["no/such"])?.length, 1, "it says nothing of existence");
      assert.deepEqual(harness.workspace.getFileSystemPaths([]), []);
    },
  },
  {
    id: "F87a",
    name: "without file system paths the answer is undefined",
    needs: [without(method("getFileSystemPath"))],
    async run(harness) {
      await harness.put("one", "one");
      assert.equal(harness.workspace.getFileSystemPaths(["one"]), undefined);
    },
  },
  {
    id: "F88",
    name: "file system paths lie inside the mounted volume",
    needs: [method("getFileSystemPath")],
    skip: ({ place }) => (place.volumePath === undefined ? "the place is not reached through a volume path" : undefined),
    async run(harness) {
      await harness.put("dir/one", "one");
      const [path] = harness.workspace.getFileSystemPaths(["dir/one"]) ?? [];
      assert.ok(path?.startsWith(`${harness.place.volumePath?.replace(/\/$/, "")}/`), `${path} is inside ${harness.place.volumePath}`);
    },
  },
  {
    id: "F178",
    name: "a listing is lazy: its first entry does not wait for the last",
    needs: [seeding],
    timeoutMs: 120_000,
    async run(harness) {
      const count = Math.min(harness.traits.largestListing, 5_000);
      await harness.putMany(Array.from({ length: count }, (_, index) => ({ path: `lazy/${index}`, bytes: Buffer.from("x") })));
      // A busy machine may stop in any one place, but hardly three times in the same.
      const shares: string[] = [];
      for (let attempt = 0; attempt < 3; attempt++) {
        const started = performance.now();
        let first = 0;
        let entries = 0;
        for await (const _entry of harness.workspace.listFiles("lazy")) {
          if (entries++ === 0) first = performance.now() - started;
        }
        const all = performance.now() - started;
        assert.equal(entries, count);
        if (first < Math.max(all * 0.8, 100)) return;
        shares.push(`after ${first.toFixed(0)} of ${all.toFixed(0)} ms`);
      }
      throw new assert.AssertionError({ message: `the first entry came ${shares.join(", ")}` });
    },
  },
  {
    id: "F179",
    name: "a listing that is aborted ends with CANCELLED within a second",
    async run(harness) {
      await harness.putMany(Array.from({ length: 200 }, (_, index) => ({ path: `l/${index}`, bytes: Buffer.from("x") })));
      const stop = new AbortController();
      let entries = 0;
      let abortedAt = 0;
      const error = await (async () => {
        for await (const _entry of harness.workspace.listFiles("l", { signal: stop.signal })) {
          entries++;
          if (entries === 3) {
            abortedAt = performance.now();
            stop.abort();
          }
        }
      })().then(
        () => undefined,
        (reason: unknown) => reason,
      );
      assert.ok(StowageError.is(error), "the listing ends with an error");
      assert.equal(error.code, "CANCELLED");
      assert.ok(performance.now() - abortedAt < settleMs(), "within a second");
      const already = harness.workspace.listFiles("l", { signal: AbortSignal.abort() });
      await assert.rejects(Array.fromAsync(already), { code: "CANCELLED" });
    },
  },
  {
    id: "F180",
    name: "files that vanish while their directory is read are left out, not an error",
    needs: [hook("directory")],
    async run(harness) {
      const directory = harness.place.directory ?? "";
      const paths = Array.from({ length: 200 }, (_, index) => `v/${index}`);
      await harness.putMany(paths.map((path) => ({ path, bytes: Buffer.from("x") })));
      let entries = 0;
      for await (const _entry of harness.workspace.listFiles("v")) {
        if (entries++ === 0) for (const path of paths.slice(50)) await unlink(join(directory, path)).catch(() => undefined);
      }
      assert.ok(entries <= 200);
      assert.equal((await flat(harness.workspace, "v")).length, 50);
    },
  },
  {
    id: "F181",
    name: "stat knows files that are there, and no others",
    async run(harness) {
      await harness.put("dir/one", "four");
      const details: FileDetails | undefined = await harness.workspace.statFile("dir/one");
      assert.equal(details?.size, 4);
      assert.equal(details?.file.path, "dir/one");
      for (const path of ["dir", "dir/on", "dir/one2", "one", "dir/one/x", "Dir/One-nowhere"]) {
        assert.equal(await harness.workspace.statFile(path), undefined, path);
      }
    },
  },
  {
    id: "F182",
    name: "a digest that stat or a listing reports is that of the bytes",
    needs: [trait("knowsDigests")],
    async run(harness) {
      const bytes = harness.random.bytes(30_000);
      await harness.put("one", bytes);
      const digest = (await harness.workspace.statFile("one"))?.file.digest;
      assert.ok(digest !== undefined, "there is a digest");
      assert.deepEqual({ ...digest }, { ...digestOf(bytes, digest.algorithm) });
    },
  },
  {
    id: "F183",
    name: "hidden files of the user's own are listed",
    async run(harness) {
      await putAll(harness, [".hidden", "dir/.config/file", ".git/HEAD"]);
      assert.deepEqual(await harness.list(), [".git/HEAD", ".hidden", "dir/.config/file"]);
    },
  },
];

async function putAll(harness: Harness, paths: readonly string[]): Promise<void> {
  for (const path of paths) await harness.put(path, path);
}

async function flat(workspace: Workspace, directory: string): Promise<string[]> {
  const paths: string[] = [];
  for await (const { file } of workspace.listFiles(directory)) paths.push(file.path);
  return paths.sort();
}

async function ordered(workspace: Workspace, startAfter: string | undefined): Promise<string[]> {
  const paths: string[] = [];
  for await (const { file } of workspace.listFiles("", { recursive: true, startAfter })) paths.push(file.path);
  return paths;
}

async function listCompletely(harness: Harness, count: number): Promise<void> {
  const paths = Array.from({ length: count }, (_, index) => `many/file ${index}`);
  await harness.putMany(paths.map((path) => ({ path, bytes: Buffer.from("x") })));
  await harness.put("many/deeper/one", "x");
  const seen: string[] = [];
  for await (const { file } of harness.workspace.listFiles("many")) seen.push(file.path);
  assert.equal(seen.length, count, "the number of entries");
  assert.deepEqual(seen.sort(), paths.sort());
}

/** What cannot be read or named is told to `onProblem`; without one the listing gives everything else first and then fails. */
async function expectProblem(harness: Harness, expected: readonly string[], name: string): Promise<void> {
  const problems: ListProblem[] = [];
  const seen: string[] = [];
  for await (const { file } of harness.workspace.listFiles("", { recursive: true, onProblem: (problem) => problems.push(problem) })) {
    seen.push(file.path);
  }
  assert.deepEqual(seen.sort(), expected);
  assert.equal(problems.length, 1, "one problem is reported");
  assert.ok(problems[0]?.path.includes(name), `the problem names it: ${problems[0]?.path}`);
  assert.ok(/^[\x20-\x7e]*$/.test(problems[0]?.path ?? ""), "the name is escaped for printing");
  const before: string[] = [];
  await assert.rejects(
    (async () => {
      for await (const { file } of harness.workspace.listFiles("", { recursive: true })) before.push(file.path);
    })(),
    (error: unknown) => StowageError.is(error),
    "without onProblem the listing ends with an error",
  );
  assert.deepEqual(before.sort(), expected, "and gives everything readable first");
}

/** Group F: what is there. */
export const listCases: readonly ConformanceCase[] = casesOf("F", cases);
