import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type S3Broker, type S3BrokerConfig, s3Broker } from "@stowage/broker-s3";
import { StowageError, Workspace } from "@stowage/core";
import {
  FAKE_ACCESS_KEY,
  FAKE_SECRET_KEY,
  type FakeRequest,
  type FakeS3,
  type FakeS3Traits,
  type RequestKind,
  startFakeS3,
} from "./fake-s3.ts";

export const MiB = 1024 * 1024;
export const BUCKET = "data";

/** A fake server, a broker on it, and a local folder; all gone after `close`. */
export interface Opened {
  readonly fake: FakeS3;
  readonly broker: S3Broker;
  readonly workspace: Workspace;
  readonly scratch: string;
  readonly config: S3BrokerConfig;
  localFile(bytes: Uint8Array | string): string;
  /** Requests of these kinds that came since the last call. */
  requests(...kinds: RequestKind[]): FakeRequest[];
  close(): Promise<void>;
}

export async function openFake(config: Partial<S3BrokerConfig> = {}, traits: Partial<FakeS3Traits> = {}): Promise<Opened> {
  const fake = await startFakeS3(traits);
  fake.createBucket(BUCKET);
  const full: S3BrokerConfig = {
    bucket: BUCKET,
    endpoint: fake.url,
    region: "us-east-1",
    credentials: { accessKeyId: FAKE_ACCESS_KEY, secretAccessKey: FAKE_SECRET_KEY },
    partSizeBytes: 5 * MiB,
    ...config,
  };
  const broker = (await s3Broker.open(s3Broker.config.parse(full), { signal: new AbortController().signal })) as S3Broker;
  const workspace = new Workspace({ name: "test", broker, brokerType: "s3" });
  const scratch = mkdtempSync(join(tmpdir(), "stowage-s3-"));
  let files = 0;
  return {
    fake,
    broker,
    workspace,
    scratch,
    config: full,
    localFile(bytes) {
      const path = join(scratch, `source-${++files}`);
      writeFileSync(path, bytes);
      return path;
    },
    requests(...kinds) {
      return fake.requests.splice(0).filter(({ kind }) => kinds.length === 0 || kinds.includes(kind));
    },
    async close() {
      await workspace.close();
      await fake.close();
      rmSync(scratch, { recursive: true, force: true });
    },
  };
}

/** The code that a promise rejects with, and its message. */
export async function failureOf(work: Promise<unknown>): Promise<StowageError> {
  const error: unknown = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!StowageError.is(error)) throw new Error(`expected a StowageError, got ${String(error)}`);
  return error;
}
