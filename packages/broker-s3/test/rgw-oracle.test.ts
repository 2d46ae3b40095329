import { execFile } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import {
  CreateBucketCommand,
  GetObjectTaggingCommand,
  PutBucketVersioningCommand,
  PutObjectTaggingCommand,
  S3Client,
} from "@aws-sdk/client-s3";
import { type S3BrokerConfig, s3Broker } from "@stowage/broker-s3";
import { openWorkspace, type Workspace } from "@stowage/core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type CephRgw, haveCephRgw, startCephRgw } from "../../../test/support/ceph-rgw.ts";
import { haveCommand } from "../../../test/support/debian-packages.ts";

const MiB = 1024 * 1024;
const run = promisify(execFile);

describe.skipIf(!haveCephRgw())("on a Ceph gateway", () => {
  let rgw: CephRgw;
  let client: S3Client;
  let scratch: string;
  const workspaces: Workspace[] = [];

  beforeAll(async () => {
    rgw = await startCephRgw();
    scratch = mkdtempSync(join(tmpdir(), "stowage-oracle-"));
    const { accessKeyId, secretAccessKey } = rgw;
    client = new S3Client({ endpoint: rgw.url, region: "us-east-1", forcePathStyle: true, credentials: { accessKeyId, secretAccessKey } });
    for (const Bucket of ["oracle", "versioned"]) await client.send(new CreateBucketCommand({ Bucket }));
    await client.send(new PutBucketVersioningCommand({ Bucket: "versioned", VersioningConfiguration: { Status: "Enabled" } }));
  });
  afterAll(async () => {
    for (const workspace of workspaces) await workspace.close();
    client?.destroy();
    await rgw?.stop();
    if (scratch !== undefined) rmSync(scratch, { recursive: true, force: true });
  });

  const configOf = (config: Partial<S3BrokerConfig>): S3BrokerConfig => ({
    bucket: "oracle",
    endpoint: rgw.url,
    region: "us-east-1",
    credentials: { accessKeyId: rgw.accessKeyId, secretAccessKey: rgw.secretAccessKey },
    partSizeBytes: 5 * MiB,
    ...config,
  });
  const open = async (config: Partial<S3BrokerConfig> = {}): Promise<Workspace> => {
    const workspace = await openWorkspace({ name: "oracle", broker: { type: "s3", ...configOf(config) } }, { brokers: [s3Broker] });
    workspaces.push(workspace);
    return workspace;
  };
  const rclone = (...parameters: string[]): Promise<unknown> => {
    const env: NodeJS.ProcessEnv = {
      ...process.env,
      RCLONE_CONFIG: "/dev/null",
      RCLONE_CONFIG_CEPH_TYPE: "s3",
      RCLONE_CONFIG_CEPH_PROVIDER: "Ceph",
      RCLONE_CONFIG_CEPH_ENDPOINT: rgw.url,
      RCLONE_CONFIG_CEPH_ACCESS_KEY_ID: rgw.accessKeyId,
      RCLONE_CONFIG_CEPH_SECRET_ACCESS_KEY: rgw.secretAccessKey,
    };
    // rclone fails at once where this is set.
    delete env.AWS_CA_BUNDLE;
    return run("rclone", parameters, { env, timeout: 60_000 });
  };
  const NAMES = ["plain.txt", "dir/a+b 100%.bin", "dir/ü東🚢", "dir/deeper/'quoted' (1).csv", "empty"];

  describe.skipIf(!haveCommand("rclone", "rclone"))("and rclone", () => {
    test("what the broker stored rclone reads, byte for byte and with its time", async () => {
      const workspace = await open({ prefix: "ours" });
      const contents = new Map(NAMES.map((name, index) => [name, name === "empty" ? Buffer.alloc(0) : randomBytes(1_000 * index + 7)]));
      contents.set("large.bin", randomBytes(17 * MiB + 3));
      const modified = new Date("2001-02-03T04:05:06.789Z");
      const uploads = [...contents].map(([file, bytes], index) => {
        const localPath = join(scratch, `up-${index}`);
        writeFileSync(localPath, bytes);
        utimesSync(localPath, modified, modified);
        return { file, localPath };
      });
      await workspace.uploadFiles(uploads);
      const target = join(scratch, "by-rclone");
      await rclone("copy", "ceph:oracle/ours", target);
      const found = readdirSync(target, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
      expect(found).toHaveLength(contents.size);
      for (const [name, bytes] of contents) expect(readFileSync(join(target, name)).equals(bytes), name).toBe(true);
      await rclone("check", "--one-way", target, "ceph:oracle/ours");
      const { stdout } = (await rclone("lsl", "ceph:oracle/ours/plain.txt")) as { stdout: string };
      expect(stdout).toContain(modified.toISOString().slice(0, 10));
    });

    test("what rclone stored the broker lists and reads, byte for byte and with its time", async () => {
      const source = join(scratch, "for-rclone");
      mkdirSync(join(source, "dir/deeper"), { recursive: true });
      const contents = new Map(NAMES.map((name, index) => [name, name === "empty" ? Buffer.alloc(0) : randomBytes(2_000 * index + 1)]));
      contents.set("large.bin", randomBytes(13 * MiB + 11));
      for (const [name, bytes] of contents) writeFileSync(join(source, name), bytes);
      const modified = new Date("2011-12-13T14:15:16.123Z");
      utimesSync(join(source, "large.bin"), modified, modified);
      await rclone("copy", "--s3-upload-cutoff", "6M", "--s3-chunk-size", "5M", source, "ceph:oracle/theirs");
      const workspace = await open({ prefix: "theirs" });
      const listed = await Array.fromAsync(workspace.listFiles("", { recursive: true }));
      expect(listed.map(({ file, size }) => [file.path, size]).toSorted()).toEqual(
        [...contents].map(([name, bytes]) => [name, bytes.length]).toSorted(),
      );
      const downloads = [...contents.keys()].map((file, index) => ({ file, localPath: join(scratch, `down-${index}`) }));
      await workspace.downloadFiles(downloads);
      for (const { file, localPath } of downloads)
        expect(readFileSync(localPath).equals(contents.get(file) ?? Buffer.alloc(0)), file).toBe(true);
      const reader = await workspace.openRead("large.bin");
      expect(reader.modified?.getTime()).toBe(modified.getTime());
      await reader.close();
    });
  });

  test("a large file moves in parts with its tags, also between keys with odd characters", async () => {
    const workspace = await open({ prefix: "moves", multipartCopyThresholdBytes: 5 * MiB });
    const bytes = randomBytes(12 * MiB);
    const localPath = join(scratch, "large");
    writeFileSync(localPath, bytes);
    await workspace.uploadFiles([{ file: { path: "a+b c.bin", metadata: { sample: "17" } }, localPath }]);
    const tags = [{ Key: "kind", Value: "a b" }];
    await client.send(new PutObjectTaggingCommand({ Bucket: "oracle", Key: "moves/a+b c.bin", Tagging: { TagSet: tags } }));
    await workspace.moveFiles([{ file: "a+b c.bin", newPath: "ü/東.bin" }]);
    expect((await Array.fromAsync(workspace.listFiles("", { recursive: true }))).map(({ file }) => file.path)).toEqual(["ü/東.bin"]);
    expect((await workspace.statFile("ü/東.bin"))?.file.metadata).toEqual({ sample: "17" });
    expect((await client.send(new GetObjectTaggingCommand({ Bucket: "oracle", Key: "moves/ü/東.bin" }))).TagSet).toEqual(tags);
    const reader = await workspace.openRead("ü/東.bin");
    const hash = createHash("md5");
    for await (const chunk of reader) hash.update(chunk);
    expect(hash.digest("hex")).toBe(createHash("md5").update(bytes).digest("hex"));
  });

  test("a bucket with versions gives older ones by their id, and deletes by a mark", async () => {
    const workspace = await open({ bucket: "versioned" });
    const localPath = join(scratch, "v");
    writeFileSync(localPath, "first");
    const [first] = await workspace.uploadFiles([{ file: "a", localPath }]);
    writeFileSync(localPath, "second");
    await workspace.uploadFiles([{ file: "a", localPath }]);
    const version = first?.status === "done" ? String(first.file.version) : "";
    await workspace.deleteFiles(["a"]);
    expect(await workspace.statFile("a")).toBeUndefined();
    expect(await Array.fromAsync(workspace.listFiles())).toEqual([]);
    await workspace.downloadFiles([{ file: { path: "a", version }, localPath: join(scratch, "old") }]);
    expect(readFileSync(join(scratch, "old"), "utf8")).toBe("first");
  });

  test("validation finds that this server keeps no CRC32, and nothing wrong with the defaults", async () => {
    const validate = async (config: Partial<S3BrokerConfig>): Promise<string[]> =>
      ((await s3Broker.validate?.(s3Broker.config.parse(configOf(config)), { signal: new AbortController().signal })) ?? []).map(
        ({ name }) => name,
      );
    expect(await validate({})).toEqual([]);
    expect(await validate({ integrity: "crc32" })).toEqual(["checksum_ignored"]);
  });

  test("a certificate that is not trusted is told as such", async () => {
    const workspace = await open({ endpoint: rgw.tlsUrl });
    const error: unknown = await workspace.statFile("a").catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "INVALID_CONFIGURATION" });
    expect(String(error)).toContain("certificateAuthority");
  });

  test("of writers that race for a new file exactly one wins", async () => {
    const workspace = await open({ prefix: "race" });
    const localPath = join(scratch, "racer");
    writeFileSync(localPath, "x");
    for (let round = 0; round < 3; round++) {
      const results = await Promise.allSettled(
        Array.from({ length: 10 }, () => workspace.uploadFiles([{ file: `r${round}`, localPath }], { ifExists: "fail" })),
      );
      expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    }
  });
});
