import { randomBytes } from "node:crypto";
import { type S3BrokerConfig, s3Broker } from "@stowage/broker-s3";
import {
  type BackendFault,
  type BackendFaults,
  type ConformancePlace,
  type ConformanceTarget,
  type ConformanceTraits,
  createTestContext,
} from "@stowage/broker-testkit";
import { parseFilePath } from "@stowage/core";
import { FAKE_ACCESS_KEY, FAKE_SECRET_KEY, type FakeFault, type FakeRequest, type FakeS3, startFakeS3 } from "./fake-s3.ts";

const MiB = 1024 * 1024;

export const S3_TRAITS: ConformanceTraits = {
  sharedWith: "machine",
  filesBelowFiles: true,
  keepsMediaType: true,
  keepsMetadata: true,
  knowsDigests: true,
  sortedListing: true,
  // The copy is there before the source goes.
  atomicMove: true,
  versions: true,
  maximumSegmentBytes: Number.POSITIVE_INFINITY,
  // Room for the prefix.
  maximumPathBytes: 960,
  partSizes: [5 * MiB],
  largestListing: 2_500,
  // Garbage of so many bytes is collected now and then; what would grow with the file is told from it.
  largeFileBytes: 160 * MiB,
};

export const SAMPLES: ConformanceTarget["samples"] = {
  valid: [
    { bucket: "data" },
    {
      bucket: "data",
      prefix: "a/b/",
      region: "eu-central-1",
      credentials: { profile: "work" },
      serverSideEncryption: { kind: "kms", keyId: "alias/x" },
    },
    {
      bucket: "data",
      credentials: { accessKeyId: "a", secretAccessKey: "b", sessionToken: "c" },
      hostPath: "/mnt/data",
      storageClass: "STANDARD_IA",
    },
    { bucket: "data", credentials: { role: { arn: "arn:aws:iam::123456789012:role/reader" } }, requesterPays: true },
    { bucket: "public-data", credentials: { anonymous: true } },
  ],
  invalid: [
    { config: {}, names: "bucket" },
    { config: { bucket: "a/b" }, names: "bucket" },
    { config: { bucket: "data", prefix: "/a" }, names: "prefix" },
    { config: { bucket: "data", endpoint: "s3.example.org" }, names: "endpoint" },
    { config: { bucket: "data", endpoint: "https://me:secret@s3.example.org" }, names: "endpoint" },
    { config: { bucket: "data", hostPath: "mnt" }, names: "hostPath" },
    { config: { bucket: "data", credentials: { accessKeyId: "a" } }, names: "secretAccessKey" },
    { config: { bucket: "data", credentials: { accessKeyId: "a", secretAccessKey: "b", profile: "c" } }, names: "credentials" },
    { config: { bucket: "data", credentials: {} }, names: "credentials" },
    { config: { bucket: "data", serverSideEncryption: { kind: "kmss" } }, names: "kms" },
    { config: { bucket: "data", serverSideEncryption: { kind: "customer", key: "c2hvcnQ=" } }, names: "32 bytes" },
    { config: { bucket: "data", partSizeBytes: 1 }, names: "partSizeBytes" },
  ],
  unreachable: [{ bucket: "data", endpoint: "http://127.0.0.1:9", credentials: { accessKeyId: "a", secretAccessKey: "b" } }],
};

/** A place below a prefix of its own, in a bucket of a server that is there. */
export async function openPlace(config: S3BrokerConfig, more: Partial<ConformancePlace> = {}): Promise<ConformancePlace> {
  const prefix = `place-${randomBytes(6).toString("hex")}/`;
  const placed = { partSizeBytes: 5 * MiB, ...config, prefix };
  const { prefix: _prefix, ...atRoot } = placed;
  const root = await s3Broker.open(atRoot, { signal: new AbortController().signal });
  const listing = { recursive: true, onProblem: () => undefined } as const;
  const directory = parseFilePath(prefix.slice(0, -1));
  return {
    config: { ...placed },
    configWithPageSize: (entries) => ({ ...placed, listPageSize: entries }),
    rawNames: async () => {
      const names: string[] = [];
      for await (const { file } of root.listFiles(directory, listing, createTestContext())) names.push(file.path.slice(prefix.length));
      return names;
    },
    ...more,
    cleanUp: async () => {
      const files = [];
      for await (const { file } of root.listFiles(directory, listing, createTestContext())) files.push(file);
      for await (const result of root.deleteFiles?.(files, createTestContext()) ?? []) if (!result.ok) throw result.error;
      await root.close();
      await more.cleanUp?.();
    },
  };
}

/** What the kit breaks, as requests to break. */
export function faultsOf(fake: FakeS3): BackendFaults {
  let current: BackendFault | undefined;
  let left = 0;
  let struck = 0;
  fake.fault = (request) => {
    if (current === undefined || left <= 0 || !strikes(request, current)) return undefined;
    left--;
    struck++;
    return toFakeFault(current);
  };
  // S3 answers for each key of a deletion of many.
  fake.keyFault = () => {
    if (current?.operation !== "delete" || current.kind !== "denied" || left <= 0) return undefined;
    left--;
    struck++;
    return "AccessDenied";
  };
  return {
    supports: ({ kind, operation, step }) => {
      if (kind === "short-read" || kind === "corrupt-read" || kind === "stall") return operation === "download";
      if (kind === "corrupt-write" || kind === "no-space" || kind === "clock-skew" || kind === "expired-credentials")
        return operation === "upload";
      return step === undefined || operation === "move";
    },
    inject(fault) {
      current = fault;
      left = fault.times;
      struck = 0;
    },
    struck: () => struck,
    clear() {
      current = undefined;
    },
  };
}

function strikes({ kind, key }: FakeRequest, { operation, step, kind: faultKind }: BackendFault): boolean {
  if (kind === "delete-many" && faultKind === "denied") return false;
  if (key?.includes("/.stowage/") === true) return false;
  switch (operation) {
    case "upload":
      return kind === "put" || kind === "create-upload" || kind === "upload-part" || kind === "complete";
    case "download":
      return kind === "get";
    case "move":
      return step === "delete" ? kind === "delete" : kind === "copy" || kind === "copy-part";
    case "delete":
      return kind === "delete" || kind === "delete-many";
    case "stat":
      return kind === "head";
    case "list":
      return kind === "list";
  }
}

function toFakeFault({ kind, operation, retryAfterMs }: BackendFault): FakeFault {
  switch (kind) {
    case "unavailable":
      return { do: "answer", status: 500, code: "InternalError" };
    case "rate-limited":
      return {
        do: "answer",
        status: 503,
        code: "SlowDown",
        ...(retryAfterMs !== undefined && { headers: { "retry-after": String(retryAfterMs / 1000) } }),
      };
    case "reset":
      return operation === "upload" ? { do: "cut-request" } : { do: "cut-answer", share: 0.5 };
    case "denied":
      return { do: "answer", status: 403, code: "AccessDenied" };
    case "no-space":
      return { do: "answer", status: 507, code: "InsufficientStorage" };
    case "short-read":
      return { do: "end-early", share: 0.5 };
    case "corrupt-read":
      return { do: "corrupt-answer" };
    case "corrupt-write":
      return { do: "corrupt-request" };
    case "lost-response":
      return { do: "lose-answer" };
    case "stall":
      return { do: "stall-answer", share: 0.5 };
    case "expired-credentials":
      return { do: "answer", status: 400, code: "ExpiredToken" };
    case "clock-skew":
      return { do: "answer", status: 403, code: "RequestTimeTooSkewed" };
  }
}

const BUCKET = "conformance";

/** The broker on a server that is there. Also opened by the kit's worker processes, which are given a configuration. */
export function serverTarget(name: string, config: S3BrokerConfig, secrets: readonly string[]): ConformanceTarget {
  return { ...conformanceTarget, name, secrets, open: () => openPlace(config) };
}

export const conformanceTarget: ConformanceTarget = {
  name: "s3",
  definition: s3Broker,
  module: import.meta.url,
  samples: SAMPLES,
  traits: S3_TRAITS,
  open: () => Promise.reject(new Error("no server is known here")),
};

/** The broker on the fake, as it is on Amazon's S3: conditions on everything, checksums kept. */
export function fakeTarget(
  config: Partial<S3BrokerConfig> = {},
  traits: Partial<FakeS3["traits"]> = {},
  name = "s3 on the fake",
): ConformanceTarget {
  return {
    name,
    definition: s3Broker,
    secrets: [FAKE_SECRET_KEY],
    samples: SAMPLES,
    traits: { ...S3_TRAITS, sharedWith: "process", holdsFilesInMemory: true, largeFileBytes: 16 * MiB },
    open: async () => {
      const fake = await startFakeS3(traits);
      fake.createBucket(BUCKET);
      const place: S3BrokerConfig = {
        bucket: BUCKET,
        endpoint: fake.url,
        region: "us-east-1",
        credentials: { accessKeyId: FAKE_ACCESS_KEY, secretAccessKey: FAKE_SECRET_KEY },
        integrity: "crc32",
        conditionalWrites: "full",
        ...config,
      };
      const opened = await openPlace(place, { faults: faultsOf(fake), cleanUp: () => fake.close() });
      const prefix = String(opened.config.prefix);
      return {
        ...opened,
        seed: async (files) => {
          for (const { path, bytes } of files) fake.seed(BUCKET, `${prefix}${path}`, bytes);
        },
        rawNames: async () => [
          ...fake.keys(BUCKET).flatMap((key) => (key.startsWith(prefix) ? [key.slice(prefix.length)] : [])),
          ...fake.uploads(BUCKET).map((key) => `unfinished upload of ${key.slice(prefix.length)}`),
        ],
      };
    },
  };
}
