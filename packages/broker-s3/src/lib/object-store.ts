/**
 * What this broker needs of an S3 server, and nothing else: the seam between what is done (uploads, moves, listings) and how requests
 * travel. `sdk-object-store.ts` implements it with the AWS SDK. Errors are thrown as they come; `s3-errors.ts` knows what they mean.
 */

/** What goes with an object beside its bytes. */
export interface ObjectAttributes {
  readonly contentType?: string | undefined;
  readonly cacheControl?: string | undefined;
  readonly contentDisposition?: string | undefined;
  readonly contentEncoding?: string | undefined;
  readonly contentLanguage?: string | undefined;
  readonly websiteRedirectLocation?: string | undefined;
  /** As it travels: keys in lower case, values in ASCII. */
  readonly metadata: Readonly<Record<string, string>>;
}

export interface ObjectInfo {
  readonly size: number;
  /** Without quotes. */
  readonly etag?: string | undefined;
  readonly versionId?: string | undefined;
  readonly modified?: Date | undefined;
  readonly attributes: ObjectAttributes;
  /** Full-object CRC32 that the server keeps, in hexadecimal. */
  readonly crc32?: string | undefined;
  /** The server encrypts it in a way that makes the ETag something else than an MD5. */
  readonly isEtagOpaque: boolean;
  readonly tagCount?: number | undefined;
}

export interface ObjectBody {
  readonly info: ObjectInfo;
  /** First byte of the body in the object; 0 where the server took no notice of the range. */
  readonly start: number;
  /** Bytes of the body as announced. */
  readonly length: number;
  readonly bytes: AsyncIterable<Uint8Array>;
  /** Ends the transfer. Safe to call at any time. */
  destroy(): void;
}

/** What the server is to hold against the bytes that it receives. */
export interface BodyChecks {
  /** Hexadecimal. */
  readonly crc32: string;
  /** Hexadecimal; sent as Content-MD5. */
  readonly md5?: string | undefined;
}

export interface Stored {
  readonly etag?: string | undefined;
  readonly versionId?: string | undefined;
  readonly isEtagOpaque: boolean;
}

export interface Call {
  readonly signal: AbortSignal;
}

export interface SendOptions extends Call {
  readonly checks: BodyChecks;
  /** Bytes as they leave, where that can be seen; a client that hides it reports all of them at the end. */
  onSent(bytes: number): void;
}

export interface ListedObject {
  /** As the server escaped it; `decodeKey` reads it. */
  readonly encodedKey: string;
  readonly key: string | undefined;
  readonly size: number;
  readonly etag?: string | undefined;
  readonly modified?: Date | undefined;
}

export interface ListPage {
  readonly objects: readonly ListedObject[];
  /** Where the next page begins; `undefined` after the last. */
  readonly next?: string | undefined;
  /** The server's clock. */
  readonly now: Date;
}

export interface ListedUpload {
  readonly key: string;
  readonly uploadId: string;
  readonly initiated?: Date | undefined;
}

export interface CompletedPart {
  readonly number: number;
  readonly etag: string;
  readonly crc32?: string | undefined;
}

export interface ObjectStore {
  readonly bucket: string;
  /** `undefined` when there is no such object. */
  head(key: string, call: Call & { readonly versionId?: string | undefined }): Promise<ObjectInfo | undefined>;
  /** Bytes `start` (inclusive) to `end` (exclusive), or all. */
  get(
    key: string,
    options: Call & {
      readonly range?: { readonly start: number; readonly end: number } | undefined;
      readonly ifMatch?: string | undefined;
      readonly versionId?: string | undefined;
    },
  ): Promise<ObjectBody>;
  put(key: string, body: Uint8Array, attributes: ObjectAttributes, options: SendOptions & { readonly ifAbsent: boolean }): Promise<Stored>;
  copy(
    from: { readonly key: string; readonly etag?: string | undefined; readonly versionId?: string | undefined },
    key: string,
    attributes: ObjectAttributes,
    options: Call & { readonly ifAbsent: boolean },
  ): Promise<Stored>;
  delete(key: string, options: Call & { readonly ifMatch?: string | undefined; readonly versionId?: string | undefined }): Promise<void>;
  /** At most 1,000. Gives the errors of those that were not deleted. */
  deleteMany(keys: readonly string[], call: Call): Promise<ReadonlyMap<string, unknown>>;
  list(
    options: Call & {
      readonly prefix: string;
      readonly flat: boolean;
      readonly startAfter?: string | undefined;
      readonly token?: string | undefined;
      readonly pageSize?: number | undefined;
    },
  ): Promise<ListPage>;

  createUpload(key: string, attributes: ObjectAttributes, options: Call & { readonly tags?: string | undefined }): Promise<string>;
  uploadPart(
    key: string,
    uploadId: string,
    number: number,
    body: Uint8Array,
    options: SendOptions,
  ): Promise<CompletedPart & { readonly isEtagOpaque: boolean }>;
  copyPart(
    from: { readonly key: string; readonly etag?: string | undefined; readonly versionId?: string | undefined },
    range: { readonly start: number; readonly end: number },
    target: { readonly key: string; readonly uploadId: string; readonly number: number },
    call: Call,
  ): Promise<CompletedPart>;
  completeUpload(
    key: string,
    uploadId: string,
    parts: readonly CompletedPart[],
    options: Call & { readonly ifAbsent: boolean; readonly crc32?: string | undefined },
  ): Promise<Stored>;
  abortUpload(key: string, uploadId: string, call: Call): Promise<void>;
  listUploads(prefix: string, call: Call): AsyncIterable<ListedUpload>;

  /** The tags of an object, as one header's worth. */
  tags(key: string, options: Call & { readonly versionId?: string | undefined }): Promise<string | undefined>;
  setTags(key: string, tags: string, options: Call & { readonly versionId?: string | undefined }): Promise<void>;
  headBucket(call: Call): Promise<void>;
  signUrl(
    key: string,
    options: { readonly method: "GET" | "PUT"; readonly expiresInSeconds: number; readonly contentType?: string | undefined },
  ): Promise<string>;
  close(): void;
}
