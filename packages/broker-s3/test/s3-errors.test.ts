import { s3Broker } from "@stowage/broker-s3";
import { createTestContext } from "@stowage/broker-testkit";
import { parseFilePath } from "@stowage/core";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { failureOf, type Opened, openFake } from "./support/opened.ts";

let opened: Opened;
beforeEach(async () => {
  opened = await openFake();
});
afterEach(() => opened.close());

const once = { retry: { attempts: 1 } } as const;
const download = (localPath = `${opened.scratch}/target`): Promise<unknown> =>
  opened.workspace.downloadFiles([{ file: "a", localPath }], once);

describe("an answer of S3", () => {
  test.each([
    [403, "AccessDenied", "PERMISSION_DENIED", false],
    [403, "InvalidAccessKeyId", "UNAUTHENTICATED", false],
    [403, "SignatureDoesNotMatch", "UNAUTHENTICATED", false],
    [400, "ExpiredToken", "UNAUTHENTICATED", false],
    [403, "RequestTimeTooSkewed", "UNAUTHENTICATED", false],
    [403, "InvalidObjectState", "ARCHIVED", false],
    [404, "NoSuchKey", "FILE_NOT_FOUND", false],
    [404, "NoSuchBucket", "INVALID_CONFIGURATION", false],
    [412, "PreconditionFailed", "SOURCE_CHANGED", false],
    [429, "TooManyRequests", "RATE_LIMITED", true],
    [503, "SlowDown", "RATE_LIMITED", true],
    [503, "ServiceUnavailable", "UNAVAILABLE", true],
    [500, "InternalError", "UNAVAILABLE", true],
    [502, "BadGateway", "UNAVAILABLE", true],
    [400, "RequestTimeout", "TIMEOUT", true],
    [409, "OperationAborted", "UNAVAILABLE", true],
    [501, "NotImplemented", "UNSUPPORTED", false],
    [507, "XMinioStorageFull", "NO_SPACE", false],
    [403, "QuotaExceeded", "QUOTA_EXCEEDED", false],
  ])("%i %s is %s", async (status, code, expected, retryable) => {
    opened.fake.seed("data", "a", Buffer.from("x"));
    opened.fake.fault = () => ({ do: "answer", status, code });
    expect(await failureOf(download())).toMatchObject({ code: expected });
    const error: unknown = await opened.broker
      .downloadFile({ file: { path: parseFilePath("a") }, localPath: `${opened.scratch}/b` }, createTestContext())
      .catch((reason: unknown) => reason);
    const facts = opened.broker.errorCode(error);
    expect(typeof facts === "string" ? undefined : (facts.retryable ?? retryable)).toBe(retryable);
  });

  test("Retry-After is read as seconds and as a date", async () => {
    opened.fake.seed("data", "a", Buffer.from("x"));
    const waits: number[] = [];
    for (const header of ["7", new Date(Date.now() + 60_000).toUTCString()]) {
      opened.fake.fault = () => ({ do: "answer", status: 503, code: "SlowDown", headers: { "retry-after": header } });
      const error: unknown = await opened.broker
        .statFile({ path: parseFilePath("a") }, createTestContext())
        .catch((reason: unknown) => reason);
      const facts = opened.broker.errorCode(error);
      waits.push((typeof facts === "string" ? undefined : facts.retryAfterMs) ?? 0);
    }
    expect(waits[0]).toBe(7_000);
    expect(waits[1]).toBeGreaterThan(55_000);
    expect(waits[1]).toBeLessThan(61_000);
  });

  test("a bucket in another region is named with the region that it is in", async () => {
    opened.fake.fault = () => ({
      do: "answer",
      status: 301,
      code: "PermanentRedirect",
      headers: { "x-amz-bucket-region": "eu-central-1" },
    });
    const error = await failureOf(download());
    expect(error.code).toBe("INVALID_CONFIGURATION");
    expect(error.message).toMatch(/not in the region "us-east-1".*"eu-central-1"/);
  });

  test("a clock that is wrong is told as such", async () => {
    opened.fake.fault = () => ({ do: "answer", status: 403, code: "RequestTimeTooSkewed" });
    expect((await failureOf(download())).message).toMatch(/clock of this machine/);
  });
});

test("a missing bucket is told from a missing file, also where S3 says nothing but 404", async () => {
  expect(await opened.workspace.statFile("a")).toBeUndefined();
  const other = await openFake({ bucket: "no-such-bucket" });
  try {
    const error = await failureOf(other.workspace.statFile("a"));
    expect(error.code).toBe("INVALID_CONFIGURATION");
    expect(error.message).toContain('there is no bucket "no-such-bucket"');
    expect((await failureOf(other.workspace.downloadFiles([{ file: "a", localPath: `${other.scratch}/x` }], once))).code).toBe(
      "INVALID_CONFIGURATION",
    );
  } finally {
    await other.close();
  }
});

test.each([
  ["nobody listens", "http://127.0.0.1:9"],
  ["the name is not known", "http://s3.stowage.invalid"],
])("where %s the backend is UNAVAILABLE", async (_, endpoint) => {
  const broker = await s3Broker.open(s3Broker.config.parse({ ...opened.config, endpoint }), { signal: new AbortController().signal });
  const error: unknown = await broker.statFile({ path: parseFilePath("a") }, createTestContext()).catch((reason: unknown) => reason);
  expect(broker.errorCode(error)).toMatchObject({ code: "UNAVAILABLE" });
  await broker.close();
});

test("a wrong secret is UNAUTHENTICATED, and is not repeated in the error", async () => {
  const other = await openFake({ credentials: { accessKeyId: "FAKEACCESSKEY", secretAccessKey: "not-the-secret" } });
  try {
    const error = await failureOf(other.workspace.downloadFiles([{ file: "a", localPath: `${other.scratch}/x` }], once));
    expect(error.code).toBe("UNAUTHENTICATED");
    expect(JSON.stringify(error) + error.message + error.stack).not.toContain("not-the-secret");
  } finally {
    await other.close();
  }
});
