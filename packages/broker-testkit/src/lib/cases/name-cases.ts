import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { lstat, mkdir, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { type FilePath, type ListProblem, StowageError, wrapBroker } from "@stowage/core/broker";
import { type CaseOfGroup, type ConformanceCase, casesOf } from "../conformance-case.ts";
import { expectBytes, expectFailed, expectRejected, outcomesOf, witness } from "../expectations.ts";
import { startSwapper } from "../faults/swapper.ts";
import type { Harness } from "../harness.ts";
import {
  CONTROL_NAMES,
  HOSTILE_LISTING,
  INVALID_PATHS,
  invalidPath,
  ODD_NAMES,
  oddPath,
  SHELL_NAMES,
  UNICODE_NAMES,
} from "../hostile-names.ts";
import { makeFifo, tryWithFifo } from "../local-tree.ts";
import { hook, method, pinnedContainment, refusedNames, trait, without, writable } from "../needs.ts";

const cases: readonly CaseOfGroup[] = [
  {
    id: "G89",
    name: "what is no path inside the workspace is refused by every verb, before the backend hears of it",
    async run(harness) {
      let calls = 0;
      const { workspace } = await harness.open({
        wrap: (broker) =>
          wrapBroker(broker, {
            promise(call, next) {
              calls++;
              return next(call.context);
            },
          }),
      });
      const localPath = await harness.localFile("x");
      const paths = [...Object.entries(INVALID_PATHS)];
      for (let count = 0; count < harness.rounds(200, 2_000); count++) paths.push(["made up", invalidPath(harness.random)]);
      for (const [why, path] of paths) {
        const what = `${why}: ${JSON.stringify(path)}`;
        await expectRejected(workspace.statFile(path), `stat, ${what}`, "INVALID_PATH");
        await expectInvalid(() => workspace.downloadFiles([{ file: path, localPath: harness.localPath() }]), `download, ${what}`);
        await expectInvalid(() => workspace.uploadFiles([{ file: path, localPath }]), `upload, ${what}`);
        await expectInvalid(() => workspace.deleteFiles([path]), `delete, ${what}`);
        await expectInvalid(() => workspace.moveFiles([{ file: path, newPath: "valid" }]), `move from, ${what}`);
        await expectInvalid(() => workspace.moveFiles([{ file: "valid", newPath: path }]), `move to, ${what}`);
      }
      assert.equal(calls, 0, "calls that reached the broker");
      assert.deepEqual(await harness.list(), []);
    },
  },
  {
    id: "G90",
    name: "control characters are refused in the name of a file that is to be stored",
    needs: [writable],
    async run(harness) {
      const localPath = await harness.localFile("x");
      await harness.put("there", "there");
      for (const name of CONTROL_NAMES) {
        await expectInvalid(() => harness.workspace.uploadFiles([{ file: name, localPath }]), `upload ${JSON.stringify(name)}`);
        await expectInvalid(() => harness.workspace.moveFiles([{ file: "there", newPath: name }]), `move to ${JSON.stringify(name)}`);
      }
      assert.deepEqual(await harness.list(), ["there"]);
    },
  },
  {
    id: "G90a",
    name: "files with control characters that exist are listed, read, moved away and deleted",
    needs: [hook("directory"), writable],
    async run(harness) {
      const directory = harness.place.directory ?? "";
      for (const name of CONTROL_NAMES) await writeFile(join(directory, name), name);
      assert.deepEqual(await harness.list(), [...CONTROL_NAMES].sort());
      for (const [index, name] of CONTROL_NAMES.entries()) {
        expectBytes(await harness.get(name), Buffer.from(name), JSON.stringify(name));
        if (index % 2 === 0) await harness.workspace.moveFiles([{ file: name, newPath: `moved-${index}` }]);
        else await harness.workspace.deleteFiles([name]);
      }
      assert.ok((await harness.list()).every((path) => path.startsWith("moved-")));
    },
  },
  {
    id: "G91",
    name: "odd names come through byte for byte: spaces, dots, reserved words, percent signs, quotes",
    run: (harness) => roundTripNames(harness, ODD_NAMES),
  },
  {
    id: "G91a",
    name: "odd names come through as directories too",
    run: (harness) =>
      roundTripNames(
        harness,
        ODD_NAMES.slice(0, 40).map((name) => `${name}/inside/${name}`),
      ),
  },
  {
    id: "G92",
    name: "names that differ in Unicode normalisation are two files",
    needs: [trait("exactUnicode")],
    async run(harness) {
      await roundTripNames(harness, ["caf\u00e9", "cafe\u0301", "\u212b", "\u00c5", "A\u030a", "ﬁn", "fin"]);
    },
  },
  {
    id: "G93",
    name: "names beyond ASCII come through byte for byte",
    run: (harness) =>
      roundTripNames(
        harness,
        UNICODE_NAMES.filter((name) => harness.traits.exactUnicode || name.normalize("NFC") === name),
      ),
  },
  {
    id: "G93a",
    name: "a segment as long as the backend takes comes through, one byte more is INVALID_PATH",
    needs: [writable],
    skip: ({ traits }) => (Number.isFinite(traits.maximumSegmentBytes) ? undefined : "segments have no limit"),
    async run(harness) {
      const limit = harness.traits.maximumSegmentBytes;
      const ascii = "n".repeat(limit);
      const ships = "🚢".repeat(Math.floor(limit / 4)).padEnd(Math.floor(limit / 4) * 2 + (limit % 4), "x");
      await roundTripNames(harness, [ascii, ships, `dir/${ascii}`, `${ascii}-dir`.slice(-limit).concat("/inside")]);
      const localPath = await harness.localFile("x");
      for (const name of [`${ascii}n`, `dir/${ascii}n`, `${ascii}n/inside`]) {
        await expectFailed(harness.workspace.uploadFiles([{ file: name, localPath }]), `${limit + 1} bytes`, "INVALID_PATH");
      }
    },
  },
  {
    id: "G93b",
    name: "a path of 1,024 bytes comes through",
    async run(harness) {
      const segmentBytes = Math.min(60, harness.traits.maximumSegmentBytes);
      let path = "";
      while (path.length + segmentBytes + 1 <= harness.traits.maximumPathBytes) {
        path += `${path === "" ? "" : "/"}${harness.random.word(segmentBytes)}`;
      }
      await roundTripNames(harness, [path]);
    },
  },
  {
    id: "G94",
    name: "names made of any valid characters come through byte for byte",
    async run(harness) {
      const paths = new Set<string>();
      const wanted = harness.rounds(60, 600);
      for (let tries = 0; paths.size < wanted && tries < wanted * 20; tries++) {
        const path = oddPath(harness.random, 3, 16);
        const clashes = [...paths].some((other) => other.startsWith(`${path}/`) || path.startsWith(`${other}/`) || sameName(other, path));
        if (!clashes && (harness.traits.exactUnicode || path.normalize("NFC") === path)) paths.add(path);
      }
      witness("names", paths.size, wanted / 2);
      await roundTripNames(harness, [...paths]);
    },
  },
  {
    id: "G95",
    name: "names that differ in case only are two files",
    needs: [trait("caseSensitive")],
    run: (harness) => roundTripNames(harness, ["readme", "README", "Readme", "dir/x", "DIR/x"]),
  },
  {
    id: "G96",
    name: "a file and files below its name are there together",
    needs: [trait("filesBelowFiles"), writable],
    async run(harness) {
      await roundTripNames(harness, ["foo", "foo/bar", "foo/bar/baz"]);
      await harness.workspace.deleteFiles(["foo"]);
      assert.deepEqual(await harness.list(), ["foo/bar", "foo/bar/baz"]);
    },
  },
  {
    id: "G96a",
    name: "a file below a file is refused, and the file stays as it is",
    needs: [writable, without(trait("filesBelowFiles"))],
    async run(harness) {
      await harness.put("foo", "a file");
      const localPath = await harness.localFile("x");
      await expectFailed(
        harness.workspace.uploadFiles([{ file: "foo/bar", localPath }]),
        "storing below a file",
        "NOT_A_FILE",
        "CONFLICT",
        "FILE_EXISTS",
      );
      expectBytes(await harness.get("foo"), Buffer.from("a file"), "the file");
      assert.deepEqual(await harness.list(), ["foo"]);
    },
  },
  {
    id: "G96b",
    name: "names that the target says it refuses are refused with INVALID_PATH",
    needs: [refusedNames, writable],
    async run(harness) {
      const localPath = await harness.localFile("x");
      for (const name of harness.traits.refusedNames) {
        await expectFailed(harness.workspace.uploadFiles([{ file: name, localPath }]), JSON.stringify(name), "INVALID_PATH");
      }
      assert.deepEqual(await harness.list(), []);
    },
  },
  {
    id: "G97",
    name: "a parent that is a symbolic link out of the workspace is refused for reading, writing, moving and deleting",
    needs: [hook("directory")],
    async run(harness) {
      const outside = await outsideOf(harness);
      const directory = harness.place.directory ?? "";
      const localPath = await harness.localFile("from inside");
      await symlink(outside, join(directory, "way-out"));
      await symlink(join(outside, "secret"), join(directory, "leaf"));
      await symlink(join(outside, "not-there-yet"), join(directory, "dangling"));
      await mkdir(join(directory, "dir"));
      await symlink(relative(join(directory, "dir"), outside), join(directory, "dir/relative"));
      if (harness.traits.writable) {
        await harness.put("mine", "mine");
        await outcomesOf(harness.workspace.uploadFiles([{ file: "way-out/new", localPath }]));
        await outcomesOf(harness.workspace.uploadFiles([{ file: "way-out/secret", localPath }]));
        await outcomesOf(harness.workspace.uploadFiles([{ file: "way-out/sub/new", localPath }]));
        await outcomesOf(harness.workspace.uploadFiles([{ file: "dir/relative/new", localPath }]));
        await outcomesOf(harness.workspace.uploadFiles([{ file: "dangling", localPath }]));
        await outcomesOf(harness.workspace.moveFiles([{ file: "mine", newPath: "way-out/moved" }], { ifExists: "replace" }));
        await outcomesOf(harness.workspace.moveFiles([{ file: "way-out/secret", newPath: "stolen" }], { ifExists: "replace" }));
        await outcomesOf(harness.workspace.deleteFiles(["way-out/secret", "leaf"]));
        if (harness.broker.openWrite !== undefined) {
          await (async () => {
            const writer = await harness.workspace.openWrite("way-out/streamed");
            try {
              await writer.write(Buffer.from("x"));
              await writer.commit();
            } catch (error) {
              await writer.abort(error);
            }
          })().catch(() => undefined);
        }
        if (harness.broker.copyFile !== undefined) {
          await outcomesOf(harness.workspace.copyFiles([{ file: "mine", newPath: "way-out/copied" }])).catch(() => undefined);
        }
      }
      await expectUntouched(outside);
      // Reading: the bytes of what lies outside must not come out either.
      for (const file of ["way-out/secret", "leaf", "dir/relative/secret"]) {
        const target = harness.localPath();
        const [outcome] = await outcomesOf(harness.workspace.downloadFiles([{ file, localPath: target }]));
        assert.notEqual(outcome?.status, "done", `reading ${file}`);
        assert.ok(!existsSync(target), `nothing of ${file} is in the local file`);
        if (harness.broker.openRead !== undefined) await expectRejected(harness.workspace.openRead(file), `opening ${file}`);
        const [linked] = await outcomesOf(
          harness.workspace.downloadFiles([{ file, localPath: harness.localPath(), partial: true }], { linkPartial: true }),
        );
        assert.notEqual(linked?.status, "done", `linking to ${file}`);
      }
      const listed = await Array.fromAsync(harness.workspace.listFiles("", { recursive: true, onProblem: () => undefined }));
      assert.ok(!listed.some(({ file }) => file.path.includes("secret")), "what lies outside is not listed");
      const behind = await Array.fromAsync(harness.workspace.listFiles("way-out", { onProblem: () => undefined })).catch(() => []);
      assert.deepEqual(behind, [], "nor is it when the link is named");
    },
  },
  {
    id: "G98",
    name: "a parent that is swapped for a symbolic link during the call never lets anything out",
    needs: [hook("directory"), pinnedContainment, writable],
    timeoutMs: 60_000,
    async run(harness) {
      const outside = await outsideOf(harness);
      const directory = harness.place.directory ?? "";
      const inside = join(directory, "swapped");
      await mkdir(inside);
      await writeFile(join(inside, "secret"), "inside");
      const localPath = await harness.localFile("from inside");
      const giveUpAt = performance.now() + 40_000;
      const wanted = harness.rounds(400, 10_000);
      const once = { retry: { attempts: 1 } } as const;
      let calls = 0;
      const swapper = await startSwapper(inside, join(directory, "kept-aside"), outside);
      const isEnough = (): boolean => (calls >= wanted && swapper.swaps() >= wanted) || performance.now() > giveUpAt;
      const worker = async (number: number): Promise<void> => {
        const target = harness.localPath();
        while (!isEnough()) {
          await outcomesOf(harness.workspace.uploadFiles([{ file: `swapped/new-${number}-${calls}`, localPath }], once));
          await outcomesOf(harness.workspace.downloadFiles([{ file: "swapped/secret", localPath: target }], once));
          if (existsSync(target)) assert.notEqual(await readFile(target, "utf8"), "the secret outside", "a read that went outside");
          await outcomesOf(harness.workspace.deleteFiles(["swapped/victim"], once));
          calls += 3;
          // What has got out will not come back: no need to go on.
          if (calls % 10 < 3) await expectUntouched(outside);
        }
      };
      try {
        await Promise.all([worker(1), worker(2)]);
      } finally {
        await swapper.stop();
      }
      witness("swaps", swapper.swaps(), wanted);
      witness("calls during swaps", calls, wanted);
      await expectUntouched(outside);
    },
  },
  {
    id: "G99",
    name: "a hostile listing cannot name anything outside the workspace",
    async run(harness) {
      await harness.put("good", "good");
      const { workspace } = await harness.open({
        wrap: (broker) =>
          wrapBroker(broker, {
            methods: {
              async *listFiles(next, directory, options, context) {
                for (const path of HOSTILE_LISTING) yield { file: { path: path as FilePath, size: 1 }, size: 1 };
                yield* next(directory, options, context);
              },
            },
          }),
      });
      const problems: ListProblem[] = [];
      const seen: string[] = [];
      for await (const { file } of workspace.listFiles("", { recursive: true, onProblem: (problem) => problems.push(problem) })) {
        seen.push(file.path);
      }
      assert.deepEqual(seen, ["good"]);
      assert.equal(problems.length, HOSTILE_LISTING.length, "each hostile entry is reported");
      for (const { path } of problems) {
        assert.ok(path.isWellFormed() && !/[\u0000-\u001f]/.test(path), "reported names are escaped");
      }
    },
  },
  {
    id: "G100",
    name: "names that a shell would act upon are only names",
    needs: [writable],
    async run(harness) {
      const canary = `stowage-canary-${harness.random.word(12)}`;
      const names = SHELL_NAMES.map((name) => name.replaceAll("CANARY", canary));
      await roundTripNames(harness, names);
      for (const [index, name] of names.entries()) {
        await harness.workspace.moveFiles([{ file: name, newPath: `moved ${index} ${name}` }]);
      }
      await harness.workspace.deleteFiles(await harness.list());
      assert.deepEqual(await harness.list(), []);
      for (const place of [process.cwd(), harness.scratch, harness.place.directory]) {
        assert.ok(place === undefined || !existsSync(join(place, canary)), "nothing was run");
      }
    },
  },
  {
    id: "G184",
    name: "a FIFO or socket in the workspace is no file, and nothing waits for it",
    needs: [hook("directory")],
    async run(harness) {
      const directory = harness.place.directory ?? "";
      await harness.put("there", "there");
      if (!(await makeFifo(join(directory, "fifo")))) return harness.skip("no FIFO can be made here");
      const tried = await tryWithFifo(join(directory, "fifo"), async () => {
        await expectFailed(
          harness.workspace.downloadFiles([{ file: "fifo", localPath: harness.localPath() }]),
          "downloading a FIFO",
          "NOT_A_FILE",
          "FILE_NOT_FOUND",
        );
        assert.equal(await harness.workspace.statFile("fifo"), undefined);
        const listed = await Array.fromAsync(harness.workspace.listFiles("", { onProblem: () => undefined }));
        assert.deepEqual(
          listed.map(({ file }) => file.path),
          ["there"],
        );
      });
      assert.notEqual(tried, "waited", "nothing waits for a FIFO");
    },
  },
  {
    id: "G185",
    name: "a file system path of a hostile name stays inside the workspace",
    needs: [method("getFileSystemPath")],
    async run(harness) {
      const root = harness.workspace.getFileSystemPaths(["x"])?.[0]?.replace(/x$/, "");
      assert.ok(root !== undefined);
      for (const name of [...ODD_NAMES, "%2e%2e/%2e%2e/x", "..\\..\\x"]) {
        const [path] = harness.workspace.getFileSystemPaths([name]) ?? [];
        assert.equal(path, `${root}${name}`);
      }
      for (const path of Object.values(INVALID_PATHS)) {
        assert.throws(
          () => harness.workspace.getFileSystemPaths([path]),
          (error) => StowageError.is(error) && error.code === "INVALID_PATH",
        );
      }
    },
  },
  {
    id: "G186",
    name: "a symbolic link inside the workspace is never written through, and replacing it leaves its target",
    needs: [hook("directory"), writable],
    async run(harness) {
      const directory = harness.place.directory ?? "";
      await harness.put("target", "the target's bytes");
      await symlink("target", join(directory, "link"));
      const [outcome] = await outcomesOf(harness.workspace.uploadFiles([{ file: "link", localPath: await harness.localFile("new") }]));
      assert.equal(await readFile(join(directory, "target"), "utf8"), "the target's bytes");
      if (outcome?.status === "done") {
        assert.ok((await lstat(join(directory, "link"))).isFile(), "the link became a file");
        expectBytes(await harness.get("link"), Buffer.from("new"), "the file");
      }
    },
  },
  {
    id: "G187",
    name: "a workspace that is read-only refuses every change as READ_ONLY, and still reads",
    async run(harness) {
      await harness.put("there", "there");
      const { workspace } = await harness.open({ readOnly: true });
      const localPath = await harness.localFile("x");
      const attempts: readonly [string, () => Promise<unknown>][] = [
        ["upload", () => workspace.uploadFiles([{ file: "new", localPath }])],
        ["move", () => workspace.moveFiles([{ file: "there", newPath: "new" }])],
        ["copy", () => workspace.copyFiles([{ file: "there", newPath: "new" }])],
        ["delete", () => workspace.deleteFiles(["there"])],
        ["openWrite", () => workspace.openWrite("new")],
      ];
      for (const [what, attempt] of attempts) await expectRejected(attempt(), what, "READ_ONLY");
      expectBytes(await harness.get("there", workspace), Buffer.from("there"), "reading");
      assert.deepEqual(await harness.list("", workspace), ["there"]);
    },
  },
  {
    id: "G188",
    name: "a broker that cannot write refuses every change as READ_ONLY, and changes nothing",
    needs: [without(writable)],
    async run(harness) {
      await harness.putMany([{ path: "there", bytes: Buffer.from("there") }]);
      const localPath = await harness.localFile("x");
      const before = await harness.rawNames();
      const attempts: readonly [string, () => Promise<unknown>][] = [
        ["upload", () => harness.workspace.uploadFiles([{ file: "new", localPath }])],
        ["replace", () => harness.workspace.uploadFiles([{ file: "there", localPath }])],
        ["move", () => harness.workspace.moveFiles([{ file: "there", newPath: "new" }])],
        ["delete", () => harness.workspace.deleteFiles(["there"])],
      ];
      for (const [what, attempt] of attempts) await expectRejected(attempt(), what, "READ_ONLY");
      expectBytes(await harness.get("there"), Buffer.from("there"), "the file");
      assert.deepEqual(await harness.list(), ["there"]);
      assert.deepEqual(await harness.rawNames(), before);
    },
  },
  {
    id: "G189",
    name: "a workspace that is archived refuses to read and to write as ARCHIVED, and still lists",
    async run(harness) {
      await harness.put("there", "there");
      const { workspace } = await harness.open({ archived: true });
      await expectRejected(workspace.downloadFiles([{ file: "there", localPath: harness.localPath() }]), "download", "ARCHIVED");
      await expectRejected(workspace.deleteFiles(["there"]), "delete", "ARCHIVED");
      assert.deepEqual(await harness.list("", workspace), ["there"]);
      assert.equal((await workspace.statFile("there"))?.size, 5);
    },
  },
];

/** A refusal by path, whether the whole batch is refused or the one item fails. */
async function expectInvalid(
  call: () => Promise<readonly { readonly status: string; readonly error?: unknown }[]>,
  what: string,
): Promise<void> {
  const error = await (async () => {
    const [outcome] = await outcomesOf(call() as Parameters<typeof outcomesOf>[0]);
    return outcome?.status === "failed" ? outcome.error : undefined;
  })().catch((reason: unknown) => reason);
  assert.ok(StowageError.is(error), `${what}: should be refused`);
  assert.equal(error.code, "INVALID_PATH", what);
}

/** Stores a file under each name, and finds each again: by stat, in the listing, by its bytes. */
async function roundTripNames(harness: Harness, names: readonly string[]): Promise<void> {
  const usable = names.filter((name) => !harness.traits.refusedNames.includes(name));
  for (const name of usable) await harness.put(name, `content of ${name}`);
  const expected = [...usable].sort();
  assert.deepEqual(await harness.list(), expected, "the listing");
  for (const name of usable) {
    assert.equal((await harness.workspace.statFile(name))?.file.path, name, `stat of ${JSON.stringify(name)}`);
    expectBytes(await harness.get(name), Buffer.from(`content of ${name}`), JSON.stringify(name));
  }
}

function sameName(left: string, right: string): boolean {
  const fold = (path: string): string => path.normalize("NFKC").toLowerCase();
  return fold(left) === fold(right);
}

const OUTSIDE: Readonly<Record<string, string>> = { secret: "the secret outside", victim: "a victim outside" };

/** A directory outside the workspace, on the same disk, with files that nobody may touch. */
async function outsideOf(harness: Harness): Promise<string> {
  const outside = join(harness.scratch, "outside");
  await mkdir(join(outside, "sub"), { recursive: true });
  for (const [name, content] of Object.entries(OUTSIDE)) await writeFile(join(outside, name), content);
  return outside;
}

async function expectUntouched(outside: string): Promise<void> {
  assert.deepEqual((await readdir(outside)).sort(), [...Object.keys(OUTSIDE), "sub"].sort(), "names outside the workspace");
  assert.deepEqual(await readdir(join(outside, "sub")), [], "names below a directory outside the workspace");
  for (const [name, content] of Object.entries(OUTSIDE)) {
    assert.equal(await readFile(join(outside, name), "utf8"), content, `${name}, outside the workspace`);
  }
}

/** Group G: names, and what must never be left. */
export const nameCases: readonly ConformanceCase[] = casesOf("G", cases);
