import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { CreateBucketCommand, S3Client } from "@aws-sdk/client-s3";
import { formatReport, runConformance } from "@stowage/broker-testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type CephRgw, haveCephRgw, startCephRgw } from "../../../test/support/ceph-rgw.ts";
import { serverTarget } from "./support/s3-target.ts";

describe.skipIf(!haveCephRgw())("on a Ceph gateway", () => {
  let rgw: CephRgw;
  beforeAll(async () => {
    rgw = await startCephRgw();
    const { accessKeyId, secretAccessKey } = rgw;
    const client = new S3Client({
      endpoint: rgw.url,
      region: "us-east-1",
      forcePathStyle: true,
      credentials: { accessKeyId, secretAccessKey },
    });
    await client.send(new CreateBucketCommand({ Bucket: "conformance" }));
    client.destroy();
    // For signed URLs, which are fetched without the broker.
    setDefaultCACertificates([...getCACertificates("default"), rgw.certificate]);
  });
  afterAll(() => rgw?.stop());

  test.each(["http", "https"] as const)("the broker passes by %s", { timeout: 240_000 }, async (protocol) => {
    const { accessKeyId, secretAccessKey, certificate } = rgw;
    const target = serverTarget(
      `s3 on Ceph by ${protocol}`,
      {
        bucket: "conformance",
        region: "us-east-1",
        endpoint: protocol === "http" ? rgw.url : rgw.tlsUrl,
        credentials: { accessKeyId, secretAccessKey },
        ...(protocol === "https" && { certificateAuthority: certificate }),
      },
      [secretAccessKey],
    );
    const report = await runConformance(target, { concurrency: 6 });
    expect(report.passed, formatReport(report)).toBe(true);
    expect(report.complete).toBe(true);
  });
});
