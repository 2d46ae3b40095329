import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { FAKE_ACCESS_KEY, FAKE_SECRET_KEY, startFakeS3 } from "./support/fake-s3.ts";

const root = new URL("../../..", import.meta.url).pathname;

test("examples/store-on-s3.ts runs and says what it did, and never its secret", async () => {
  const fake = await startFakeS3();
  fake.createBucket("data");
  try {
    const env = {
      ...process.env,
      S3_BUCKET: "data",
      S3_ENDPOINT: fake.url,
      S3_ACCESS_KEY: FAKE_ACCESS_KEY,
      S3_SECRET_KEY: FAKE_SECRET_KEY,
    };
    const { stdout, stderr } = await promisify(execFile)(process.execPath, ["examples/store-on-s3.ts"], { cwd: root, env });
    expect(stdout).toContain("stored by multipart, 20971520 bytes, verified by digest");
    expect(stdout).toContain("listed: done/large.bin, 20971520 bytes");
    expect(stdout).toContain("by its signed URL: stowage");
    expect(stdout).toMatch(/deleted\n$/);
    expect(stdout + stderr).not.toContain(FAKE_SECRET_KEY);
    expect(fake.keys("data")).toEqual([]);
  } finally {
    await fake.close();
  }
});
