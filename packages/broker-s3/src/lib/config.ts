import { secret } from "@stowage/core/broker";
import * as z from "zod";

/** Where credentials come from. Without any, the SDK's default chain: environment, profiles, web identity, container and instance roles. */
export type S3Credentials =
  | { readonly accessKeyId: string; readonly secretAccessKey: string; readonly sessionToken?: string | undefined }
  /** A profile of the AWS configuration files. */
  | { readonly profile: string }
  /** A role to assume with what the default chain gives. */
  | { readonly role: S3Role }
  /** Requests are not signed: for public buckets. */
  | { readonly anonymous: true };

export interface S3Role {
  readonly arn: string;
  /** Defaults to `"stowage"`. */
  readonly sessionName?: string | undefined;
  readonly externalId?: string | undefined;
  /** How long one set of credentials lasts. Defaults to 3,600. */
  readonly durationSeconds?: number | undefined;
}

/** How the server encrypts what is stored. */
export type S3Encryption =
  /** With keys of S3's own. */
  | { readonly kind: "s3" }
  | { readonly kind: "kms"; readonly keyId?: string | undefined; readonly bucketKey?: boolean | undefined }
  /** With a key that comes with every request, reads included: 32 bytes in base64. */
  | { readonly kind: "customer"; readonly key: string };

/** What stands beside `type: s3` in a workspace's configuration. */
export interface S3BrokerConfig {
  readonly bucket: string;
  /** The part of the bucket that is the workspace: what its keys begin with. A final `/` is added. Defaults to all of it. */
  readonly prefix?: string | undefined;
  /** Defaults to the SDK's (`AWS_REGION`, the profile's), then `us-east-1`. */
  readonly region?: string | undefined;
  /** The server's URL, for what is not AWS: `https://s3.example.org`. */
  readonly endpoint?: string | undefined;
  /** `"path"`: the bucket stands in the path; `"virtual"`: in the host's name. Defaults to `"path"` with an endpoint, otherwise `"virtual"`. */
  readonly addressingStyle?: "path" | "virtual" | undefined;
  readonly credentials?: S3Credentials | undefined;
  readonly storageClass?: string | undefined;
  readonly serverSideEncryption?: S3Encryption | undefined;
  /** Whoever reads pays. Defaults to false. */
  readonly requesterPays?: boolean | undefined;
  /** The bucket as a FUSE mount that every machine has: absolute. Only read, and only for downloads marked `partial`. */
  readonly hostPath?: string | undefined;
  /**
   * What the server is sent to check the bytes by: `"crc32"` (`x-amz-checksum-crc32`, kept with the object), `"md5"` (`Content-MD5`), or `"none"`. What was stored is
   * compared afterwards either way. Defaults to `"md5"` with an endpoint, which every server knows, otherwise `"crc32"`.
   */
  readonly integrity?: "crc32" | "md5" | "none" | undefined;
  /** Whether the ETag of an object that was stored in one piece is its MD5. `"opaque"` for servers where it is not. Defaults to `"md5"`. */
  readonly etag?: "md5" | "opaque" | undefined;
  /**
   * Which writes the server makes conditional: `"full"` all of them, `"put"` those in one piece (larger ones look before they store), `"none"`.
   * Defaults to `"put"` with an endpoint, otherwise `"full"`.
   */
  readonly conditionalWrites?: "full" | "put" | "none" | undefined;
  /** Bytes of a part. Files up to this size are stored in one piece. 5 MiB to 512 MiB; grows for files of more than 10,000 parts. Defaults to 8 MiB. */
  readonly partSizeBytes?: number | undefined;
  /** Parts of one file that move at once. 1 to 64. Defaults to 4. */
  readonly partConcurrency?: number | undefined;
  /** Objects above this are copied in parts, which S3 demands above 5 GiB. 5 MiB to 5 GiB. Defaults to 5 GiB. */
  readonly multipartCopyThresholdBytes?: number | undefined;
  /** What is to be trusted in place of the usual authorities, for servers with a certificate of their own: PEM. */
  readonly certificateAuthority?: string | undefined;
  /** Connections at the most. Defaults to 64. */
  readonly maxConnections?: number | undefined;
  /** Fail when a connection takes longer than this. Milliseconds. Defaults to 10,000. */
  readonly connectTimeoutMs?: number | undefined;
  /** Fail when a server says nothing for so long. Milliseconds. Defaults to 60,000. */
  readonly idleTimeoutMs?: number | undefined;
  /** Entries of one page of a listing. 1 to 1,000. Defaults to 1,000. */
  readonly listPageSize?: number | undefined;
}

const MiB = 1024 * 1024;

const credentials = z
  .strictObject({
    accessKeyId: z.string().min(1).exactOptional(),
    secretAccessKey: secret(z.string().min(1).exactOptional()),
    sessionToken: secret(z.string().min(1).exactOptional()),
    profile: z.string().min(1).exactOptional(),
    role: z
      .strictObject({
        arn: z.string().regex(/^arn:[^:]+:iam::\d{12}:role\/.+$/, 'is no ARN of a role, like "arn:aws:iam::123456789012:role/name"'),
        sessionName: z
          .string()
          .regex(/^[\w+=,.@-]{2,64}$/)
          .exactOptional(),
        externalId: secret(z.string().min(2).exactOptional()),
        durationSeconds: z.number().int().min(900).max(43_200).exactOptional(),
      })
      .exactOptional(),
    anonymous: z.literal(true).exactOptional(),
  })
  .superRefine((value, context) => {
    const kinds = [value.accessKeyId ?? value.secretAccessKey ?? value.sessionToken, value.profile, value.role, value.anonymous];
    const given = kinds.filter((kind) => kind !== undefined).length;
    const refuse = (message: string, ...path: string[]): void => context.addIssue({ code: "custom", message, path });
    if (given === 0) refuse("names none: give accessKeyId and secretAccessKey, profile, role, or anonymous; or leave credentials out");
    if (given > 1) refuse("names more than one source: accessKeyId with secretAccessKey, profile, role or anonymous exclude each other");
    if (kinds[0] === undefined) return;
    if (value.accessKeyId === undefined) refuse("is required where secretAccessKey or sessionToken is given", "accessKeyId");
    if (value.secretAccessKey === undefined) refuse("is required where accessKeyId is given", "secretAccessKey");
  });

const encryption = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("s3") }),
  z.strictObject({ kind: z.literal("kms"), keyId: z.string().min(1).exactOptional(), bucketKey: z.boolean().exactOptional() }),
  z.strictObject({
    kind: z.literal("customer"),
    key: secret(z.base64().refine((key) => Buffer.from(key, "base64").length === 32, "must be 32 bytes in base64")),
  }),
]);

function text(describe: (value: string) => string | undefined): z.ZodType<string, string> {
  return z.string().superRefine((value, context) => {
    const problem = describe(value);
    if (problem !== undefined) context.addIssue({ code: "custom", message: problem });
  });
}

/** The configuration as a schema. */
export const s3Config: z.ZodType<S3BrokerConfig, S3BrokerConfig> = z.strictObject({
  bucket: text(describeBadBucket),
  prefix: text(describeBadPrefix).optional(),
  region: z
    .string()
    .regex(/^[A-Za-z0-9-]+$/, "is no name of a region")
    .optional(),
  endpoint: text(describeBadEndpoint).optional(),
  addressingStyle: z.enum(["path", "virtual"]).optional(),
  credentials: credentials.optional(),
  storageClass: z
    .string()
    .regex(/^[A-Z0-9_]+$/, "is no storage class; they look like STANDARD_IA")
    .optional(),
  serverSideEncryption: encryption.optional(),
  requesterPays: z.boolean().optional(),
  hostPath: text(describeBadHostPath).optional(),
  integrity: z.enum(["crc32", "md5", "none"]).optional(),
  etag: z.enum(["md5", "opaque"]).optional(),
  conditionalWrites: z.enum(["full", "put", "none"]).optional(),
  partSizeBytes: z
    .number()
    .int()
    .min(5 * MiB)
    .max(512 * MiB)
    .optional(),
  partConcurrency: z.number().int().min(1).max(64).optional(),
  multipartCopyThresholdBytes: z
    .number()
    .int()
    .min(5 * MiB)
    .max(5 * 1024 * MiB)
    .optional(),
  certificateAuthority: z.string().includes("-----BEGIN CERTIFICATE-----", "is no certificate in PEM").optional(),
  maxConnections: z.number().int().min(1).max(1024).optional(),
  connectTimeoutMs: z.number().int().min(1).max(600_000).optional(),
  idleTimeoutMs: z.number().int().min(1).max(3_600_000).optional(),
  listPageSize: z.number().int().min(1).max(1000).optional(),
}) as unknown as z.ZodType<S3BrokerConfig, S3BrokerConfig>;

function describeBadBucket(bucket: string): string | undefined {
  if (bucket.trim() === "") return "is empty; name a bucket";
  if (bucket.includes("/")) return 'holds a "/"; name the bucket alone, and what follows as prefix';
  // Old buckets of us-east-1 and other servers have capitals and underscores; access points come as ARN.
  return /^[A-Za-z0-9][A-Za-z0-9._:-]{1,254}$/.test(bucket)
    ? undefined
    : "is no name of a bucket: letters, digits, dots and dashes, 3 or more";
}

function describeBadPrefix(prefix: string): string | undefined {
  if (prefix === "" || prefix === "/") return undefined;
  if (prefix.startsWith("/")) return `"${prefix}" begins with "/", which would be part of every key; leave it out`;
  if (!prefix.isWellFormed() || /[\u0000-\u001f\u007f]/.test(prefix)) return "holds control characters or is no well-formed Unicode";
  const segments = (prefix.endsWith("/") ? prefix.slice(0, -1) : prefix).split("/");
  if (segments.some((segment) => segment === "" || segment === "." || segment === ".."))
    return `"${prefix}" has an empty, "." or ".." segment`;
  return Buffer.byteLength(prefix) > 512 ? "has more than 512 bytes, which leaves too little for names" : undefined;
}

function describeBadEndpoint(endpoint: string): string | undefined {
  const url = URL.canParse(endpoint) ? new URL(endpoint) : undefined;
  if (url === undefined || (url.protocol !== "http:" && url.protocol !== "https:"))
    return 'is no URL; write it like "https://s3.example.org"';
  if (url.username !== "" || url.password !== "") return "holds a user or password; give credentials instead";
  return url.search !== "" || url.hash !== "" ? "has a query or fragment" : undefined;
}

function describeBadHostPath(path: string): string | undefined {
  if (!path.startsWith("/")) return `"${path}" is relative; write it from "/" on`;
  if (path.includes("\0") || path.split("/").some((segment) => segment === "." || segment === ".."))
    return 'has a "." or ".." segment, or NUL';
  return path.replaceAll("/", "") === "" ? "is the root of the file system; name the mount" : undefined;
}

/** What the broker goes by: a configuration with its defaults. */
export interface S3Settings {
  readonly bucket: string;
  readonly prefix: string;
  readonly storageClass: string | undefined;
  readonly serverSideEncryption: S3Encryption | undefined;
  readonly requesterPays: boolean;
  readonly integrity: "crc32" | "md5" | "none";
  readonly etag: "md5" | "opaque";
  readonly conditionalWrites: "full" | "put" | "none";
  readonly partSizeBytes: number;
  readonly partConcurrency: number;
  readonly multipartCopyThresholdBytes: number;
  readonly listPageSize: number | undefined;
  /** For messages. */
  readonly region: string;
  readonly endpoint: string | undefined;
}

export function resolveS3Settings(config: S3BrokerConfig, prefix: string): S3Settings {
  const isAws = config.endpoint === undefined || /\.amazonaws\.com(\.cn)?$/.test(new URL(config.endpoint).hostname);
  return {
    bucket: config.bucket,
    prefix,
    storageClass: config.storageClass,
    serverSideEncryption: config.serverSideEncryption,
    requesterPays: config.requesterPays ?? false,
    integrity: config.integrity ?? (isAws ? "crc32" : "md5"),
    etag: config.etag ?? "md5",
    conditionalWrites: config.conditionalWrites ?? (isAws ? "full" : "put"),
    partSizeBytes: config.partSizeBytes ?? 8 * MiB,
    partConcurrency: config.partConcurrency ?? 4,
    multipartCopyThresholdBytes: config.multipartCopyThresholdBytes ?? 5 * 1024 * MiB,
    listPageSize: config.listPageSize,
    region: config.region ?? "us-east-1",
    endpoint: config.endpoint,
  };
}
