import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { chmod, mkdir, readdir, readFile, rm, stat, symlink, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { hostBroker } from "@stowage/broker-host";
import { createMemoryBroker, type FileRecord, openWorkspace, Workspace } from "@stowage/core";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type JobSpecInput, readJobManifest, stageIn, stageOut, type TransferEvent } from "../src/index.ts";
import { faultyBroker } from "./fixtures/faulty-broker.ts";
import { createJobWorld, type JobWorld } from "./fixtures/job-world.ts";

let world: JobWorld;
let directory: string;
const brokers = [hostBroker, faultyBroker] as const;

beforeEach(async () => {
  world = await createJobWorld();
  directory = world.path("job");
});
afterEach(() => world.remove());

const job = (parts: Partial<JobSpecInput>): JobSpecInput => ({ name: "demo", workspaces: world.workspaces, ...parts });
const openHandles = async (): Promise<number> => (await readdir("/proc/self/fd")).length;

describe("stageIn", () => {
  test("puts files where the job expects them and tells of them in the manifest", async () => {
    await world.put("data/tiles/a/1.tif", "one");
    await world.put("data/tiles/2.tif", "two!");
    await world.put("data/tiles/.hidden.tif", "");
    await world.put("data/tiles/other.txt", "no");
    await world.put("data/deep/style.json", "{}");
    const events: TransferEvent[] = [];
    const staged = await stageIn(
      job({
        inputs: [
          { name: "tiles", workspace: "data", glob: "tiles/**/*.tif" },
          { name: "style", workspace: "data", path: "deep/style.json" },
          { name: "extra", workspace: "data", glob: "none/*", optional: true },
          { name: "more", workspace: "data", path: "none", optional: true },
        ],
      }),
      { directory, brokers, runId: "r1", startedAt: new Date(0), onEvent: (event) => events.push(event) },
    );
    expect(await world.files("job/input")).toEqual({
      "tiles/a/1.tif": "one",
      "tiles/2.tif": "two!",
      "tiles/.hidden.tif": "",
      "style/style.json": "{}",
    });
    expect(await world.names("job")).toContain("output");
    expect(staged).toMatchObject({
      version: 1,
      job: "demo",
      run: "r1",
      startedAt: "1970-01-01T00:00:00.000Z",
      outputDirectory: join(directory, "output"),
      temporaryDirectory: join(directory, "tmp"),
    });
    expect(
      staged
        .input("tiles")
        .files.map(({ path }) => path)
        .sort(),
    ).toEqual(["tiles/.hidden.tif", "tiles/2.tif", "tiles/a/1.tif"]);
    const [style] = staged.input("style").files;
    expect(style).toMatchObject({
      path: "deep/style.json",
      staged: "input/style/style.json",
      size: 2,
      verified: "length",
      localPath: join(directory, "input/style/style.json"),
    });
    expect(staged.input("style").kind).toBe("file");
    expect(staged.input("extra").files).toEqual([]);
    expect(await readdir(staged.input("extra").directory)).toEqual([]);
    expect(staged.input("more").files).toEqual([]);
    expect(await readJobManifest(directory)).toMatchObject(JSON.parse(JSON.stringify(staged)));
    expect(() => staged.input("nope")).toThrow(/no input "nope"; it has tiles, style, extra, more/);
    expect(events.filter(({ type }) => type === "file")).toHaveLength(4);
    const last = events.filter(({ type }) => type === "progress").at(-1);
    expect(last).toEqual({ type: "progress", step: "pre", done: 4, total: 4, bytes: 9, totalBytes: 9 });
  });

  test("copies are independent of what is stored", async () => {
    await world.put("data/a", "kept");
    const staged = await stageIn(job({ inputs: [{ name: "a", workspace: "data", path: "a", partial: true }] }), { directory, brokers });
    await writeFile(staged.input("a").files[0]!.localPath, "changed");
    expect(await world.files("data")).toEqual({ a: "kept" });
  });

  test("links a partial input where whoever plans the job allows it, and no other", async () => {
    await world.put("data/a", "1");
    await world.put("data/b", "2");
    const staged = await stageIn(
      job({
        inputs: [
          { name: "a", workspace: "data", path: "a", partial: true },
          { name: "b", workspace: "data", path: "b" },
        ],
      }),
      { directory, brokers, linkPartial: true },
    );
    expect(staged.input("a").files[0]!.method).toBe("link");
    expect(await readFile(staged.input("a").files[0]!.localPath, "utf8")).toBe("1");
    expect(staged.input("b").files[0]!.method).not.toBe("link");
  });

  test("names every input that is missing, and fetches nothing before all are there", async () => {
    await world.put("data/a", "1");
    const inputs = [
      { name: "a", workspace: "data", path: "a" },
      { name: "b", workspace: "data", path: "gone" },
      { name: "c", workspace: "data", glob: "none/**" },
    ];
    await expect(stageIn(job({ inputs }), { directory, brokers })).rejects.toMatchObject({
      code: "FILE_NOT_FOUND",
      message: expect.stringMatching(
        /the input "b" is missing: there is no "gone" in the workspace "data"; nothing in the workspace "data" matches "none\/\*\*" of the input "c"/,
      ),
    });
    expect(await world.files("job")).toEqual({});
  });

  test("computes the digest that the job asks for", async () => {
    await world.put("data/a", "abc");
    const staged = await stageIn(job({ checksum: "sha256", inputs: [{ name: "a", workspace: "data", path: "a" }] }), {
      directory,
      brokers,
    });
    expect(staged.input("a").files[0]).toMatchObject({
      verified: "digest",
      digest: { algorithm: "sha256", value: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
    });
  });

  test("refuses more files than the job's limit", async () => {
    for (let index = 0; index < 5; index++) await world.put(`data/${index}`, "");
    const inputs = [
      { name: "a", workspace: "data", glob: "*" },
      { name: "b", workspace: "data", path: "0" },
    ];
    await expect(stageIn(job({ inputs, limits: { inputFiles: 5 } }), { directory, brokers })).rejects.toMatchObject({
      isJobError: true,
      message: expect.stringContaining("limits.inputFiles"),
    });
    await expect(stageIn(job({ inputs, limits: { inputFiles: 4 } }), { directory, brokers })).rejects.toMatchObject({ isJobError: true });
    await expect(stageIn(job({ inputs, limits: { inputFiles: 6 } }), { directory, brokers })).resolves.toBeDefined();
  });

  test("a name that an object store has as a file and as a directory is a conflict, said before anything is fetched", async () => {
    const memory = createMemoryBroker();
    const workspace = new Workspace({ name: "data", broker: memory });
    await world.put("x", "1");
    await workspace.uploadFiles(["in/a", "in/a/b"].map((file) => ({ file, localPath: world.path("x") })));
    const inputs = [{ name: "all", workspace: "data", glob: "in/**" }];
    await expect(stageIn(job({ inputs }), { directory, openWorkspaces: { data: workspace } })).rejects.toMatchObject({
      code: "CONFLICT",
      file: "in/a",
    });
    // Given open, it stays open.
    expect(await workspace.statFile("in/a")).toBeDefined();
    await workspace.close();
  });

  test("resuming fetches only what is not there yet, or not as it should be", async () => {
    for (const name of ["a", "b", "c"]) await world.put(`data/${name}`, name);
    const callLog = world.path("calls");
    const spec = job({ workspaces: { data: world.faulty("data", { callLog }) }, inputs: [{ name: "all", workspace: "data", glob: "*" }] });
    await stageIn(spec, { directory, brokers });
    await rm(join(directory, "input/all/a"));
    await writeFile(join(directory, "input/all/b"), "changed");
    // What a killed download or a command may have left there.
    await world.put("job/input/all/.stowage-x", "half");
    await world.put("job/input/all/deep/er", "junk");
    writeFileSync(Buffer.concat([Buffer.from(`${directory}/input/all/`), Buffer.from([0xff])]), "junk");
    await world.put("job/input/other/er", "junk");
    await symlink(world.path("data"), join(directory, "input/all/link"));
    await rm(callLog);
    await stageIn(spec, { directory, brokers, resume: true });
    const fetched = (await readFile(callLog, "utf8")).split("\n").filter((line) => line.startsWith("downloadFile"));
    expect(fetched.sort()).toEqual(["downloadFile a", "downloadFile b"]);
    expect(await world.names("job/input")).toEqual(["all", "all/a", "all/b", "all/c"]);
    expect(await world.files("job/input")).toEqual({ "all/a": "a", "all/b": "b", "all/c": "c" });
    expect(await world.files("data")).toEqual({ a: "a", b: "b", c: "c" });
  });

  test("a workspace that nobody has configured is an error that says so", async () => {
    const inputs = [{ name: "a", workspace: "data", path: "a" }];
    await expect(stageIn({ name: "demo", inputs }, { directory, brokers })).rejects.toMatchObject({
      reason: "invalid-job",
      message: expect.stringContaining("workspaces.data is not configured"),
    });
    await expect(stageIn({ name: "demo", workspaces: { data: "shared" }, inputs }, { directory, brokers })).rejects.toThrow(
      /stands for "shared"/,
    );
  });

  test("cancelling ends it within a second", async () => {
    await world.put("data/a", "1");
    const controller = new AbortController();
    const spec = job({
      workspaces: { data: world.faulty("data", { fault: { method: "downloadFile", mode: "hang" } }) },
      inputs: [{ name: "a", workspace: "data", path: "a" }],
    });
    const staging = stageIn(spec, { directory, brokers, signal: controller.signal });
    const startedAt = setTimeout(() => controller.abort(), 150);
    await expect(staging).rejects.toMatchObject({ code: "CANCELLED" });
    clearTimeout(startedAt);
    expect(await world.files("job")).toEqual({});
  });

  test("nothing can be written to a workspace that is only read", async () => {
    await world.put("data/a", "1");
    await chmod(world.path("data"), 0o555);
    await expect(stageIn(job({ inputs: [{ name: "a", workspace: "data", path: "a" }] }), { directory, brokers })).resolves.toBeDefined();
    await chmod(world.path("data"), 0o755);
  });
});

describe("readJobManifest", () => {
  test("finds its directory in the environment", async () => {
    await world.put("data/a", "1");
    await stageIn(job({ inputs: [{ name: "a", workspace: "data", path: "a" }] }), { directory, brokers });
    const script = `import { readJobManifest } from "@stowage/jobs"; const job = await readJobManifest(); console.log(job.input("a").files[0].localPath);`;
    const output = execFileSync(process.execPath, ["--input-type=module", "-e", script], {
      cwd: import.meta.dirname,
      env: { ...process.env, STOWAGE_JOB_DIRECTORY: directory },
      encoding: "utf8",
    });
    expect(output.trim()).toBe(join(directory, "input/a/a"));
  });

  test("says what is wrong when there is none, or something else", async () => {
    await expect(readJobManifest(undefined)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    await expect(readJobManifest(directory)).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await world.put("job/input.json", "{");
    await expect(readJobManifest(directory)).rejects.toMatchObject({ code: "INVALID_CONFIGURATION" });
    await world.put("job/input.json", '{"version":2,"job":"a","run":"b","inputs":[]}');
    await expect(readJobManifest(directory)).rejects.toMatchObject({ code: "INVALID_CONFIGURATION" });
  });
});

describe("stageOut", () => {
  const outputs = [{ name: "all", workspace: "results", glob: "**", path: "{path}" }];
  const options = { runId: "r1", startedAt: new Date("2026-05-06T07:08:09Z") };
  const store = (parts: Partial<JobSpecInput> = {}, more: Partial<Parameters<typeof stageOut>[1]> = {}) =>
    stageOut(job({ outputs, ...parts }), { directory, brokers, ...options, ...more });

  beforeEach(() => mkdir(join(directory, "output"), { recursive: true }));

  test("stores what matches under the paths of its template, verified, and names what nothing matches", async () => {
    await world.put("job/output/a.tif", "1234");
    await world.put("job/output/deep/b.tif", "12");
    await world.put("job/output/notes\u202e.txt", "x");
    const events: TransferEvent[] = [];
    const result = await store(
      { outputs: [{ name: "tiles", workspace: "results", glob: "**/*.tif", path: "{job}/{run}/{date}/{output}/{stem}-x.{extension}" }] },
      { onEvent: (event) => events.push(event) },
    );
    expect(await world.files("results")).toEqual({ "demo/r1/2026/05/06/tiles/a-x.tif": "1234", "demo/r1/2026/05/06/tiles/b-x.tif": "12" });
    expect(result).toEqual({
      outputs: [
        expect.objectContaining({
          output: "tiles",
          workspace: "results",
          path: "demo/r1/2026/05/06/tiles/a-x.tif",
          source: "a.tif",
          size: 4,
          verified: "length",
        }),
        expect.objectContaining({ source: "deep/b.tif", size: 2 }),
      ],
      unmatched: ["notes\\u{202e}.txt"],
      unmatchedCount: 1,
    });
    expect(events.filter(({ type }) => type === "file")).toHaveLength(2);
  });

  test("takes run and date from the manifest when it is not told", async () => {
    await stageIn(job({}), { directory, brokers, ...options });
    await world.put("job/output/a", "1");
    await stageOut(job({ outputs: [{ name: "all", workspace: "results", glob: "*", path: "{run}/{date}/{name}" }] }), {
      directory,
      brokers,
    });
    expect(Object.keys(await world.files("results"))).toEqual(["r1/2026/05/06/a"]);
  });

  test("stores nothing at all when anything is hostile", async () => {
    await world.put("job/output/fine", "1");
    await symlink("/etc/passwd", join(directory, "output/link"));
    const events: TransferEvent[] = [];
    await expect(store({}, { onEvent: (event) => events.push(event) })).rejects.toMatchObject({
      reason: "outputs-refused",
      refusals: [{ path: "link", reason: "symbolic-link" }],
      refusalCount: 1,
      message: expect.stringContaining('"link": it is a symbolic link'),
    });
    expect(await world.files("results")).toEqual({});
    expect(events).toEqual([{ type: "refused", step: "post", refusal: expect.objectContaining({ path: "link" }) }]);
  });

  test("a required output that is missing is refused, an optional one is not", async () => {
    await world.put("job/output/a", "1");
    const one = { workspace: "results", glob: "*.tif", path: "{path}" };
    await expect(store({ outputs: [...outputs, { name: "tiles", ...one }] })).rejects.toMatchObject({
      reason: "outputs-refused",
      refusals: [{ path: "", reason: "missing", message: expect.stringContaining('"tiles"') }],
    });
    expect(await world.files("results")).toEqual({});
    await store({ outputs: [...outputs, { name: "tiles", ...one, required: false }] });
    expect(await world.files("results")).toEqual({ a: "1" });
  });

  test("two files for one path are a conflict before anything is stored", async () => {
    await world.put("job/output/x/a", "1");
    await world.put("job/output/y/a", "2");
    await expect(store({ outputs: [{ name: "all", workspace: "results", glob: "**", path: "{name}" }] })).rejects.toMatchObject({
      code: "CONFLICT",
      file: "a",
      workspace: "results",
    });
    expect(await world.files("results")).toEqual({});
    const twice = [
      { name: "one", workspace: "results", glob: "x/*", path: "{name}" },
      { name: "two", workspace: "results", glob: "y/*", path: "{name}" },
    ];
    await expect(store({ outputs: twice })).rejects.toMatchObject({ code: "CONFLICT" });
  });

  test("one file may be stored by two outputs", async () => {
    await world.put("job/output/a", "1");
    await store({ outputs: [...outputs, { name: "copy", workspace: "results", glob: "a", path: "copy/{name}" }] });
    expect(await world.files("results")).toEqual({ a: "1", "copy/a": "1" });
  });

  test("a template that makes no path of a file refuses that file", async () => {
    await world.put("job/output/Makefile", "1");
    await expect(store({ outputs: [{ name: "all", workspace: "results", glob: "*", path: "{extension}/{name}" }] })).rejects.toMatchObject({
      refusals: [{ path: "Makefile", reason: "name" }],
    });
  });

  test("stores more files than are held open at once, and lets go of all of them", async () => {
    for (let index = 0; index < 150; index++) await world.put(`job/output/f${index}`, String(index));
    const before = await openHandles();
    let most = 0;
    const counting = setInterval(() => void openHandles().then((count) => (most = Math.max(most, count))), 1);
    const result = await store();
    clearInterval(counting);
    expect(result.outputs).toHaveLength(150);
    expect(Object.keys(await world.files("results"))).toHaveLength(150);
    expect(most - before).toBeLessThan(64 + 40);
    expect(await openHandles()).toBeLessThanOrEqual(before + 2);
  });

  test("ifExists says what happens to what is there", async () => {
    await world.put("results/a", "old");
    await world.put("job/output/a", "newer");
    await expect(store({ outputs: [{ ...outputs[0]!, ifExists: "fail" }] })).rejects.toMatchObject({ code: "FILE_EXISTS" });
    expect(await world.files("results")).toEqual({ a: "old" });
    await store({ outputs: [{ ...outputs[0]!, ifExists: "skip-same" }] });
    expect(await world.files("results")).toEqual({ a: "newer" });
    const { outputs: again } = await store({ outputs: [{ ...outputs[0]!, ifExists: "skip-same" }] });
    expect(again[0]).toMatchObject({ method: undefined, verified: "length", size: 5 });
  });

  test("keeps the time of the file", async () => {
    await world.put("job/output/a", "1");
    await utimes(join(directory, "output/a"), 1000, 1000);
    await store();
    expect((await stat(world.path("results/a"))).mtimeMs).toBeCloseTo(1_000_000, 2);
  });

  test("what was stored and is not there afterwards as it should be is an error", async () => {
    await world.put("job/output/a", "1234");
    const workspaces = { results: world.faulty("results", { fault: { method: "uploadFile", mode: "corrupt" } }) };
    await expect(store({ workspaces })).rejects.toMatchObject({ code: "CHECKSUM_MISMATCH", workspace: "results", file: "a" });
  });

  test("a file that is written to while it is stored is an error, though it keeps its length and time", async () => {
    await world.put("job/output/a", "1234");
    await utimes(join(directory, "output/a"), 1000, 1000);
    const workspaces = { results: world.faulty("results", { delayMs: 300 }) };
    const change = async (): Promise<void> => {
      await writeFile(join(directory, "output/a"), "4321");
      await utimes(join(directory, "output/a"), 1000, 1000);
    };
    await expect(store({ workspaces }, { onBegin: async () => void setTimeout(() => void change(), 100) })).rejects.toMatchObject({
      code: "SOURCE_CHANGED",
      file: "a",
    });
  });

  test("what the broker did not verify is verified here", async () => {
    await world.put("job/output/a", "1234");
    const workspaces = { results: world.faulty("results", { fault: { method: "uploadFile", mode: "unverified" } }) };
    expect((await store({ workspaces })).outputs[0]).toMatchObject({ verified: "length" });
  });

  test("asks for the digest that the job wants", async () => {
    await world.put("job/output/a", "abc");
    expect((await store({ checksum: "crc32" })).outputs[0]).toMatchObject({
      verified: "digest",
      digest: { algorithm: "crc32", value: "352441c2" },
    });
  });

  test("tells the store hook of each file once, with an id that repeats for the same run", async () => {
    await world.put("job/output/a", "1");
    await world.put("job/output/b", "2");
    const records: FileRecord[] = [];
    const hook = (record: FileRecord): void => void records.push(record);
    await store({}, { store: hook });
    expect(records.map(({ file, item, operation, workspace }) => ({ path: file.path, item, operation, workspace }))).toEqual(
      expect.arrayContaining([
        { path: "a", item: { output: "all", source: "a" }, operation: "upload", workspace: "results" },
        { path: "b", item: { output: "all", source: "b" }, operation: "upload", workspace: "results" },
      ]),
    );
    const first = records.splice(0).map(({ recordId }) => recordId);
    await store({}, { store: hook });
    expect(records.map(({ recordId }) => recordId).sort()).toEqual(first.sort());
  });

  test("a file that cannot be recorded is taken back and the error says so", async () => {
    await world.put("job/output/a", "1");
    await expect(
      store(
        {},
        {
          store: () => {
            throw new Error("the database is down");
          },
        },
      ),
    ).rejects.toMatchObject({ code: "NOT_RECORDED" });
    expect(await world.files("results")).toEqual({});
  });

  test("stores the file that was looked at, though a process in the background swaps it for a link all the time", async () => {
    await world.put("job/output/deep/a", "harmless");
    // Of the same length: nothing but the very file will do.
    await world.put("secret", "secret!!");
    await symlink(world.path("secret"), world.path("link"));
    const swapper = execSwapper(join(directory, "output/deep/a"), world.path("link"), world.path("kept"), world.path("stop"));
    try {
      for (let round = 0; round < 20; round++) await store().catch(() => undefined);
    } finally {
      await world.put("stop", "");
      await swapper;
    }
    for (const content of Object.values(await world.files("results"))) expect(content).toBe("harmless");
  });

  test("stores the file that was looked at, though it is swapped for a link just before it is read; and says that something is wrong", async () => {
    await world.put("job/output/a", "harmless");
    await world.put("secret", "secret!!");
    const swap = async (): Promise<void> => {
      await rm(join(directory, "output/a"));
      await symlink(world.path("secret"), join(directory, "output/a"));
    };
    // The broker waits before it reads; by then the file is held open.
    const workspaces = { results: world.faulty("results", { delayMs: 400 }) };
    const swapOnUpload = (event: TransferEvent): void => {
      if (event.type === "log" && event.message.startsWith("uploadFile")) void swap();
    };
    await expect(store({ workspaces }, { onEvent: swapOnUpload })).rejects.toMatchObject({ code: "SOURCE_CHANGED", file: "a" });
    expect(await world.files("results")).toEqual({ a: "harmless" });
  });

  test("an interrupted run's files are recognised, what is missing is stored", async () => {
    for (const name of ["a", "b", "c", "d"]) await world.put(`job/output/${name}`, name);
    const callLog = world.path("calls");
    const workspaces = { results: world.faulty("results", { callLog }) };
    const first = await store({ workspaces });
    const stored = first.outputs.filter(({ path }) => path !== "c" && path !== "d");
    await rm(world.path("results/b"));
    await rm(world.path("results/d"));
    await rm(callLog);
    const begun = ["c", "d"].map((path) => ({ workspace: "results", path }));
    const events: TransferEvent[] = [];
    const again = await store({ workspaces }, { earlier: { begun, stored }, onEvent: (event) => events.push(event) });
    const uploads = (await readFile(callLog, "utf8")).split("\n").filter((line) => line.startsWith("uploadFile"));
    // b was stored and is gone, d was begun and never came; a was stored and c was begun and is there.
    expect(uploads.sort()).toEqual(["uploadFile b", "uploadFile d"]);
    expect(again.outputs.map(({ path }) => path).sort()).toEqual(["a", "b", "c", "d"]);
    expect(await world.files("results")).toEqual({ a: "a", b: "b", c: "c", d: "d" });
    expect(events.filter(({ type }) => type === "progress").at(-1)).toMatchObject({ done: 4, total: 4, bytes: 4, totalBytes: 4 });
  });

  test("where nothing may be replaced, an interrupted run takes only its own file for its own", async () => {
    await world.put("job/output/a", "mine");
    await world.put("job/output/b", "mine");
    await utimes(join(directory, "output/a"), 1000, 1000);
    await world.put("results/a", "mine");
    await utimes(world.path("results/a"), 1000, 1000);
    const only = (glob: string) => [{ ...outputs[0]!, glob, ifExists: "fail" as const }];
    const begun = ["a", "b"].map((path) => ({ workspace: "results", path }));
    expect((await store({ outputs: only("a") }, { earlier: { begun, stored: [] } })).outputs[0]).toMatchObject({
      path: "a",
      method: undefined,
    });
    await world.put("results/b", "mine");
    await utimes(world.path("results/b"), 5, 5);
    // Another time, the same content: as an object store would have it.
    expect((await store({ outputs: only("b") }, { earlier: { begun, stored: [] } })).outputs[0]).toMatchObject({ path: "b" });
    await world.put("results/b", "else");
    await expect(store({ outputs: only("b") }, { earlier: { begun, stored: [] } })).rejects.toMatchObject({ code: "FILE_EXISTS" });
    expect(await world.files("results")).toEqual({ a: "mine", b: "else" });
  });

  test("what fails stops the rest; what was stored beside it is told of", async () => {
    for (let index = 0; index < 70; index++) await world.put(`job/output/${String(index).padStart(2, "0")}`, "x");
    const told: string[] = [];
    const workspaces = { results: world.faulty("results", { fault: { method: "uploadFile", mode: "error", after: 10, times: 1 } }) };
    await expect(
      store(
        { workspaces },
        {
          onStored: async (stored) => {
            told.push(...stored.map(({ path }) => path));
          },
        },
      ),
    ).rejects.toMatchObject({ code: "PERMISSION_DENIED" });
    expect(told).toHaveLength(63);
    expect(Object.keys(await world.files("results"))).toHaveLength(63);
  });

  test("writes into a workspace that is open already, and leaves it open", async () => {
    await world.put("job/output/a", "1");
    const workspace = await openWorkspace({ name: "results", ...world.workspaces.results } as never, { brokers: [hostBroker] });
    await store({}, { openWorkspaces: { results: workspace } });
    expect((await workspace.statFile("a"))?.size).toBe(1);
    await workspace.close();
  });
});

async function execSwapper(target: string, link: string, kept: string, stop: string): Promise<void> {
  const child = spawn(process.execPath, [
    "-e",
    `const { renameSync, existsSync } = require("node:fs"); const [, target, link, kept, stop] = process.argv;
     while (!existsSync(stop)) { renameSync(target, kept); renameSync(link, target); renameSync(target, link); renameSync(kept, target); }`,
    target,
    link,
    kept,
    stop,
  ]);
  await once(child, "exit");
}
