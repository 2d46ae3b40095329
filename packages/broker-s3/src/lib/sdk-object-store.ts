import { createHash } from "node:crypto";
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CopyObjectCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  type GetObjectCommandOutput,
  GetObjectTaggingCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  type HeadObjectCommandOutput,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  PutObjectTaggingCommand,
  type S3Client,
  UploadPartCommand,
  UploadPartCopyCommand,
} from "@aws-sdk/client-s3";
import { StowageError } from "@stowage/core/broker";
import type { S3Settings } from "./config.ts";
import { copySource, decodeKey } from "./keys.ts";
import type { Call, ListedObject, ObjectAttributes, ObjectBody, ObjectInfo, ObjectStore, SendOptions, Stored } from "./object-store.ts";
import { watchBody } from "./s3-client.ts";
import { explainS3Error, isMissing } from "./s3-errors.ts";

/** The SDK's commands, as far as they are sent here. */
type Send = <Output>(command: unknown, call: Call) => Promise<Output>;

/** An object store through the AWS SDK. Everything that moves goes through `client.send`. */
export function createSdkObjectStore(client: S3Client, settings: S3Settings, ownsClient: boolean): ObjectStore {
  const { bucket, serverSideEncryption: encryption } = settings;
  const payer = settings.requesterPays ? { RequestPayer: "requester" as const } : {};
  const place = { Bucket: bucket, ...payer };
  const customerKey = encryption?.kind === "customer" ? customerKeyFields(encryption.key) : undefined;
  const customer = customerKey === undefined ? {} : { SSECustomerAlgorithm: "AES256", ...customerKey };
  const copyCustomer =
    customerKey === undefined
      ? {}
      : {
          CopySourceSSECustomerAlgorithm: "AES256",
          CopySourceSSECustomerKey: customerKey.SSECustomerKey,
          CopySourceSSECustomerKeyMD5: customerKey.SSECustomerKeyMD5,
        };
  const newObject = {
    ...(settings.storageClass !== undefined && { StorageClass: settings.storageClass as never }),
    ...(encryption?.kind === "s3" && { ServerSideEncryption: "AES256" as const }),
    ...(encryption?.kind === "kms" && {
      ServerSideEncryption: "aws:kms" as const,
      SSEKMSKeyId: encryption.keyId,
      BucketKeyEnabled: encryption.bucketKey,
    }),
    ...customer,
  };
  const checkFields = ({ checks }: SendOptions): { ChecksumCRC32?: string; ContentMD5?: string } => {
    if (settings.integrity === "crc32") return { ChecksumCRC32: Buffer.from(checks.crc32, "hex").toString("base64") };
    return settings.integrity === "md5" && checks.md5 !== undefined
      ? { ContentMD5: Buffer.from(checks.md5, "hex").toString("base64") }
      : {};
  };

  const send: Send = async <Output>(command: unknown, { signal }: Call): Promise<Output> => {
    signal.throwIfAborted();
    try {
      return (await client.send(command as never, { abortSignal: signal })) as Output;
    } catch (error) {
      signal.throwIfAborted();
      throw explainS3Error(error, settings);
    }
  };

  /** Sends `command`, whose body is `body`, and reports what leaves; in the end exactly all of it, whatever the client shows. */
  const sendBody = async <Output>(command: unknown, body: Uint8Array, options: SendOptions): Promise<Output> => {
    const watched = watchBody(body, options.onSent);
    try {
      const output = await send<Output>(command, options);
      options.onSent(body.length - watched.sent());
      return output;
    } catch (error) {
      options.onSent(-watched.sent());
      throw error;
    }
  };

  const infoOf = (output: HeadObjectCommandOutput | GetObjectCommandOutput, size: number): ObjectInfo => ({
    size,
    etag: unquote(output.ETag),
    versionId: output.VersionId === "null" ? undefined : output.VersionId,
    modified: wholeSeconds(output.LastModified),
    attributes: {
      contentType: output.ContentType,
      cacheControl: output.CacheControl,
      contentDisposition: output.ContentDisposition,
      contentEncoding: output.ContentEncoding,
      contentLanguage: output.ContentLanguage,
      websiteRedirectLocation: output.WebsiteRedirectLocation,
      metadata: output.Metadata ?? {},
    },
    crc32:
      output.ChecksumCRC32 !== undefined && output.ChecksumType !== "COMPOSITE" && !output.ChecksumCRC32.includes("-")
        ? Buffer.from(output.ChecksumCRC32, "base64").toString("hex")
        : undefined,
    isEtagOpaque: isOpaque(output),
    tagCount: output.TagCount,
  });
  const checksumMode = settings.integrity === "crc32" ? { ChecksumMode: "ENABLED" as const } : {};

  const store: ObjectStore = {
    bucket,

    async head(key, { signal, versionId }) {
      try {
        const output = await send<HeadObjectCommandOutput>(
          new HeadObjectCommand({ ...place, Key: key, VersionId: versionId, ...customer, ...checksumMode }),
          { signal },
        );
        return infoOf(output, output.ContentLength ?? 0);
      } catch (error) {
        if (isMissing(error)) return undefined;
        throw error;
      }
    },

    async get(key, { signal, range, ifMatch, versionId }) {
      const output = await send<GetObjectCommandOutput>(
        new GetObjectCommand({
          ...place,
          Key: key,
          VersionId: versionId,
          ...(range !== undefined && { Range: `bytes=${range.start}-${range.end - 1}` }),
          ...(ifMatch !== undefined && { IfMatch: `"${ifMatch}"` }),
          ...customer,
        }),
        { signal },
      );
      return bodyOf(output, infoOf, signal);
    },

    async put(key, body, attributes, options) {
      const output = await sendBody<StoredOutput>(
        new PutObjectCommand({
          ...place,
          Key: key,
          Body: body,
          ContentLength: body.length,
          ...fieldsOf(attributes),
          ...newObject,
          ...checkFields(options),
          ...(options.ifAbsent && { IfNoneMatch: "*" }),
        }),
        body,
        options,
      );
      return storedOf(output);
    },

    async copy(from, key, attributes, { signal, ifAbsent }) {
      const output = await send<StoredOutput & { readonly CopyObjectResult?: { readonly ETag?: string } }>(
        new CopyObjectCommand({
          ...place,
          Key: key,
          CopySource: copySource(bucket, from.key, from.versionId),
          ...(from.etag !== undefined && { CopySourceIfMatch: `"${from.etag}"` }),
          // Written out again, so that a mark of ours can go with them; tags are copied by the server.
          MetadataDirective: "REPLACE",
          ...fieldsOf(attributes),
          ...newObject,
          ...copyCustomer,
          ...(ifAbsent && { IfNoneMatch: "*" }),
        }),
        { signal },
      );
      return storedOf({ ...output, ETag: output.CopyObjectResult?.ETag });
    },

    async delete(key, { signal, ifMatch, versionId }) {
      const condition = ifMatch === undefined ? {} : { IfMatch: `"${ifMatch}"` };
      await send(new DeleteObjectCommand({ ...place, Key: key, VersionId: versionId, ...condition }), { signal });
    },

    async deleteMany(keys, call) {
      const command = new DeleteObjectsCommand({ ...place, Delete: { Quiet: true, Objects: keys.map((Key) => ({ Key })) } });
      // Content-MD5 in place of a CRC32: servers from before 2025 demand it, and newer ones take it.
      command.middlewareStack.add(
        (next) => (args) => {
          const request = args.request as { body: string | Uint8Array; headers: Record<string, string> };
          for (const name of Object.keys(request.headers)) {
            if (/^x-amz-(sdk-checksum-algorithm|checksum-)/i.test(name)) delete request.headers[name];
          }
          request.headers["content-md5"] = createHash("md5").update(request.body).digest("base64");
          return next(args);
        },
        { step: "build", priority: "low", name: "stowageContentMd5" },
      );
      const output = await send<{ readonly Errors?: readonly { Key?: string; Code?: string; Message?: string }[] }>(command, call);
      const failures = new Map<string, unknown>();
      for (const { Key = "", Code = "UnknownError", Message } of output.Errors ?? []) {
        failures.set(Key, Object.assign(new Error(Message || `S3 did not delete it: ${Code}`), { name: Code, Code }));
      }
      return failures;
    },

    async list({ signal, prefix, flat, startAfter, token, pageSize }) {
      const command = new ListObjectsV2Command({
        ...place,
        Prefix: prefix,
        EncodingType: "url",
        ...(flat && { Delimiter: "/" }),
        ...(startAfter !== undefined && { StartAfter: startAfter }),
        ...(token !== undefined && { ContinuationToken: token }),
        ...(pageSize !== undefined && { MaxKeys: pageSize }),
      });
      // The header tells whole seconds; what happened in this one is not younger than now.
      let now = new Date();
      command.middlewareStack.add(
        (next) => async (args) => {
          const result = await next(args);
          const header = (result.response as { headers?: Record<string, string> } | undefined)?.headers?.date;
          if (header !== undefined && !Number.isNaN(Date.parse(header))) now = new Date(Date.parse(header) + 999);
          return result;
        },
        { step: "deserialize", name: "stowageServerClock" },
      );
      const output = await send<ListOutput>(command, { signal });
      const isEncoded = output.EncodingType === "url";
      if (output.IsTruncated === true && !output.NextContinuationToken) {
        throw new StowageError("S3 cut its listing and does not say where it goes on; this server's listings cannot be relied on", {
          code: "UNAVAILABLE",
        });
      }
      return {
        objects: (output.Contents ?? []).map((entry): ListedObject => {
          const encodedKey = entry.Key ?? "";
          return {
            encodedKey,
            key: isEncoded ? decodeKey(encodedKey) : encodedKey,
            size: entry.Size ?? 0,
            etag: unquote(entry.ETag),
            modified: wholeSeconds(entry.LastModified),
          };
        }),
        next: output.IsTruncated === true ? output.NextContinuationToken : undefined,
        now,
      };
    },

    async createUpload(key, attributes, { signal, tags }) {
      const checksum = settings.integrity === "crc32" ? ({ ChecksumAlgorithm: "CRC32", ChecksumType: "FULL_OBJECT" } as const) : {};
      const output = await send<{ readonly UploadId?: string }>(
        new CreateMultipartUploadCommand({ ...place, Key: key, ...fieldsOf(attributes), ...newObject, ...checksum, Tagging: tags }),
        { signal },
      );
      if (output.UploadId === undefined || output.UploadId === "") {
        throw new StowageError("S3 began an upload in parts without a name for it", { code: "UNAVAILABLE" });
      }
      return output.UploadId;
    },

    async uploadPart(key, uploadId, number, body, options) {
      const output = await sendBody<StoredOutput>(
        new UploadPartCommand({
          ...place,
          Key: key,
          UploadId: uploadId,
          PartNumber: number,
          Body: body,
          ContentLength: body.length,
          ...checkFields(options),
          ...customer,
        }),
        body,
        options,
      );
      const crc32 = settings.integrity === "crc32" ? options.checks.crc32 : undefined;
      return { number, etag: requireEtag(output.ETag), crc32, isEtagOpaque: isOpaque(output) };
    },

    async copyPart(from, { start, end }, { key, uploadId, number }, call) {
      const output = await send<{ readonly CopyPartResult?: { readonly ETag?: string; readonly ChecksumCRC32?: string } }>(
        new UploadPartCopyCommand({
          ...place,
          Key: key,
          UploadId: uploadId,
          PartNumber: number,
          CopySource: copySource(bucket, from.key, from.versionId),
          CopySourceRange: `bytes=${start}-${end - 1}`,
          ...(from.etag !== undefined && { CopySourceIfMatch: `"${from.etag}"` }),
          ...customer,
          ...copyCustomer,
        }),
        call,
      );
      const crc32 = output.CopyPartResult?.ChecksumCRC32;
      return {
        number,
        etag: requireEtag(output.CopyPartResult?.ETag),
        crc32: crc32 === undefined ? undefined : Buffer.from(crc32, "base64").toString("hex"),
      };
    },

    async completeUpload(key, uploadId, parts, { signal, ifAbsent, crc32 }) {
      const hasChecksum = settings.integrity === "crc32" && crc32 !== undefined;
      const output = await send<StoredOutput>(
        new CompleteMultipartUploadCommand({
          ...place,
          Key: key,
          UploadId: uploadId,
          MultipartUpload: {
            Parts: parts.map((part) => ({
              PartNumber: part.number,
              ETag: part.etag,
              ...(part.crc32 !== undefined && { ChecksumCRC32: Buffer.from(part.crc32, "hex").toString("base64") }),
            })),
          },
          ...(hasChecksum && { ChecksumCRC32: Buffer.from(crc32, "hex").toString("base64"), ChecksumType: "FULL_OBJECT" as const }),
          ...(ifAbsent && { IfNoneMatch: "*" }),
          ...customer,
        }),
        { signal },
      );
      return storedOf(output);
    },

    async abortUpload(key, uploadId, call) {
      await send(new AbortMultipartUploadCommand({ ...place, Key: key, UploadId: uploadId }), call);
    },

    async *listUploads(prefix, call) {
      let keyMarker: string | undefined;
      let uploadIdMarker: string | undefined;
      for (;;) {
        const output = await send<UploadsOutput>(
          new ListMultipartUploadsCommand({
            ...place,
            Prefix: prefix,
            EncodingType: "url",
            ...(keyMarker !== undefined && { KeyMarker: keyMarker, UploadIdMarker: uploadIdMarker }),
          }),
          call,
        );
        const decode = (key: string): string | undefined => (output.EncodingType === "url" ? decodeKey(key) : key);
        for (const { Key, UploadId, Initiated } of output.Uploads ?? []) {
          const key = decode(Key ?? "");
          // Servers are known to take no notice of the prefix.
          if (key?.startsWith(prefix) && UploadId !== undefined) yield { key, uploadId: UploadId, initiated: Initiated };
        }
        const next = output.NextKeyMarker === undefined ? undefined : decode(output.NextKeyMarker);
        if (output.IsTruncated !== true || next === undefined || (next === keyMarker && output.NextUploadIdMarker === uploadIdMarker))
          return;
        keyMarker = next;
        uploadIdMarker = output.NextUploadIdMarker;
      }
    },

    async tags(key, { signal, versionId }) {
      const output = await send<{ readonly TagSet?: readonly { Key?: string; Value?: string }[] }>(
        new GetObjectTaggingCommand({ ...place, Key: key, VersionId: versionId }),
        { signal },
      );
      const tags = output.TagSet ?? [];
      if (tags.length === 0) return undefined;
      return tags.map(({ Key = "", Value = "" }) => `${encodeURIComponent(Key)}=${encodeURIComponent(Value)}`).join("&");
    },

    async setTags(key, tags, { signal, versionId }) {
      const TagSet = [...new URLSearchParams(tags)].map(([Key, Value]) => ({ Key, Value }));
      await send(new PutObjectTaggingCommand({ ...place, Key: key, VersionId: versionId, Tagging: { TagSet } }), { signal });
    },

    async headBucket(call) {
      await send(new HeadBucketCommand({ Bucket: bucket }), call);
    },

    async signUrl(key, { method, expiresInSeconds, contentType }) {
      const { getSignedUrl } = await import("@aws-sdk/s3-request-presigner");
      const command =
        method === "GET"
          ? new GetObjectCommand({ ...place, Key: key })
          : new PutObjectCommand({ ...place, Key: key, ...(contentType !== undefined && { ContentType: contentType }) });
      return getSignedUrl(client as never, command as never, { expiresIn: expiresInSeconds });
    },

    close() {
      if (ownsClient) client.destroy();
    },
  };
  return store;
}

interface StoredOutput {
  readonly ETag?: string | undefined;
  readonly VersionId?: string | undefined;
  readonly ServerSideEncryption?: string | undefined;
  readonly SSECustomerAlgorithm?: string | undefined;
}

interface ListOutput {
  readonly Contents?: readonly { Key?: string; Size?: number; ETag?: string; LastModified?: Date }[];
  readonly EncodingType?: string;
  readonly IsTruncated?: boolean;
  readonly NextContinuationToken?: string;
}

interface UploadsOutput {
  readonly Uploads?: readonly { Key?: string; UploadId?: string; Initiated?: Date }[];
  readonly EncodingType?: string;
  readonly IsTruncated?: boolean;
  readonly NextKeyMarker?: string;
  readonly NextUploadIdMarker?: string;
}

function fieldsOf(attributes: ObjectAttributes): Record<string, unknown> {
  const { contentType, cacheControl, contentDisposition, contentEncoding, contentLanguage, websiteRedirectLocation, metadata } = attributes;
  return {
    ContentType: contentType,
    CacheControl: cacheControl,
    ContentDisposition: contentDisposition,
    ContentEncoding: contentEncoding,
    ContentLanguage: contentLanguage,
    WebsiteRedirectLocation: websiteRedirectLocation,
    Metadata: { ...metadata },
  };
}

function storedOf(output: StoredOutput): Stored {
  const { VersionId } = output;
  return { etag: unquote(output.ETag), versionId: VersionId === "null" ? undefined : VersionId, isEtagOpaque: isOpaque(output) };
}

function isOpaque({ ServerSideEncryption, SSECustomerAlgorithm }: StoredOutput): boolean {
  return SSECustomerAlgorithm !== undefined || (ServerSideEncryption !== undefined && ServerSideEncryption !== "AES256");
}

function bodyOf(
  output: GetObjectCommandOutput,
  infoOf: (output: GetObjectCommandOutput, size: number) => ObjectInfo,
  signal: AbortSignal,
): ObjectBody {
  const body = output.Body as
    | (AsyncIterable<Uint8Array> & { destroy(error?: Error): void; on(event: "error", listener: () => void): void })
    | undefined;
  if (body === undefined) throw new StowageError("S3 sent no body", { code: "UNAVAILABLE" });
  // A body that nobody reads any more must not bring the process down.
  body.on("error", () => undefined);
  const range = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(output.ContentRange ?? "");
  const start = range === null ? 0 : Number(range[1]);
  const length = output.ContentLength ?? (range === null ? 0 : Number(range[2]) - start + 1);
  const total = range === null || range[3] === "*" ? start + length : Number(range[3]);
  const onAbort = (): void => {
    body.destroy();
  };
  // The SDK lets go of the signal when the headers have come.
  if (signal.aborted) onAbort();
  else signal.addEventListener("abort", onAbort, { once: true });
  const release = (): void => signal.removeEventListener("abort", onAbort);
  return {
    info: infoOf(output, total),
    start,
    length,
    bytes: readAll(body, signal, release),
    destroy() {
      release();
      body.destroy();
    },
  };
}

async function* readAll(body: AsyncIterable<Uint8Array>, signal: AbortSignal, release: () => void): AsyncGenerator<Uint8Array> {
  try {
    yield* body;
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    release();
  }
  signal.throwIfAborted();
}

function customerKeyFields(key: string): { readonly SSECustomerKey: string; readonly SSECustomerKeyMD5: string } {
  return { SSECustomerKey: key, SSECustomerKeyMD5: createHash("md5").update(Buffer.from(key, "base64")).digest("base64") };
}

/** Some servers name no ETag for what was made of parts, by an empty one. */
function unquote(etag: string | undefined): string | undefined {
  return etag?.replace(/^(W\/)?"?/, "").replace(/"$/, "") || undefined;
}

function requireEtag(etag: string | undefined): string {
  const value = unquote(etag);
  if (value === undefined) throw new StowageError("S3 took a part and named no ETag for it", { code: "UNAVAILABLE" });
  return value;
}

/** Listings of some servers tell milliseconds, the headers of objects never do: one time for one object. */
function wholeSeconds(date: Date | undefined): Date | undefined {
  return date === undefined ? undefined : new Date(Math.floor(date.getTime() / 1000) * 1000);
}
