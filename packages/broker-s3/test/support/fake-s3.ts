/**
 * An S3 server in this process, in memory, for what no real one at hand can be made to do: faults, lies, answers that get lost, and what
 * newer servers know (checksums that are kept, conditions on everything, versions). What it shares with real servers is tested against those
 * too, so that it cannot drift.
 */
import { createHash, randomBytes } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { setTimeout as wait } from "node:timers/promises";
import { crc32 } from "node:zlib";
import { checkSignature } from "./signature.ts";

/** What this server is like. Every switch can be thrown while it runs. */
export interface FakeS3Traits {
  /** Which writes heed If-Match and If-None-Match; what does not is stored all the same, or answered by 501. */
  conditions: "full" | "put" | "ignored" | "501";
  /** `x-amz-checksum-crc32`: compared, kept and given back, or passed over. */
  checksums: "kept" | "ignored";
  contentMd5: "compared" | "ignored" | "required-for-delete";
  versioned: boolean;
  etag: "md5" | "random";
  /** Bytes that every part but the last must have. */
  smallestPart: number;
  /** The answer to a listing that is cut names no place to go on. */
  losesTokens: boolean;
  ranges: "heeded" | "ignored";
}

export interface FakeRequest {
  readonly method: string;
  readonly key: string | undefined;
  readonly query: URLSearchParams;
  readonly headers: IncomingMessage["headers"];
  readonly kind: RequestKind;
  readonly bodyLength: number;
}

export type RequestKind =
  | "put"
  | "copy"
  | "get"
  | "head"
  | "delete"
  | "delete-many"
  | "list"
  | "head-bucket"
  | "create-upload"
  | "upload-part"
  | "copy-part"
  | "complete"
  | "abort"
  | "list-uploads"
  | "tags"
  | "other";

/** What happens to a request in place of, or around, its proper answer. */
export type FakeFault =
  | { readonly do: "answer"; readonly status: number; readonly code: string; readonly headers?: Readonly<Record<string, string>> }
  /** It is done, and the connection breaks before the answer. */
  | { readonly do: "lose-answer" }
  /** The connection breaks after so many bytes of the request's body. */
  | { readonly do: "cut-request" }
  /** The connection breaks after this share of the answer's body. */
  | { readonly do: "cut-answer"; readonly share: number }
  | { readonly do: "stall-answer"; readonly share: number }
  /** The object seems to end at this share of itself; lengths agree with what is sent. */
  | { readonly do: "end-early"; readonly share: number }
  | { readonly do: "corrupt-answer" }
  | { readonly do: "corrupt-request" }
  /** What is stored differs from what came, after every check. */
  | { readonly do: "store-corrupt" }
  | { readonly do: "delay"; readonly ms: number };

export interface FakeS3 {
  readonly url: string;
  readonly traits: FakeS3Traits;
  readonly requests: FakeRequest[];
  /** Asked for each request, in turn; the first that gives a fault has it. */
  fault: (request: FakeRequest) => FakeFault | undefined;
  /** The error of one key in a deletion of many. */
  keyFault: (key: string) => string | undefined;
  createBucket(name: string): void;
  dropBucket(name: string): void;
  /** Stores an object without a request. */
  seed(bucket: string, key: string, bytes: Uint8Array, options?: { readonly contentType?: string; readonly storageClass?: string }): void;
  keys(bucket: string): string[];
  uploads(bucket: string): string[];
  object(bucket: string, key: string): FakeObject | undefined;
  setUploadAge(bucket: string, ms: number): void;
  openConnections(): number;
  close(): Promise<void>;
}

export interface FakeObject {
  readonly bytes: Buffer;
  readonly etag: string;
  readonly crc32: string | undefined;
  readonly modified: Date;
  readonly headers: Readonly<Record<string, string>>;
  readonly versionId: string | undefined;
  readonly tags: string;
}

interface Upload {
  readonly key: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly tags: string;
  initiated: Date;
  readonly parts: Map<number, { readonly bytes: Buffer; readonly etag: string; readonly crc32: string }>;
}

interface Bucket {
  readonly objects: Map<string, FakeObject[]>;
  readonly uploads: Map<string, Upload>;
}

export const FAKE_ACCESS_KEY = "FAKEACCESSKEY";
export const FAKE_SECRET_KEY = "fake-secret-key-canary-7731";

const KEPT_HEADERS =
  /^(content-type|cache-control|content-disposition|content-encoding|content-language|x-amz-meta-.*|x-amz-storage-class|x-amz-server-side-encryption|x-amz-server-side-encryption-.*|x-amz-website-redirect-location)$/;

class S3Failure extends Error {
  readonly status: number;
  readonly code: string;
  constructor(status: number, code: string) {
    super(code);
    this.status = status;
    this.code = code;
  }
}

interface Answer {
  readonly status?: number;
  readonly headers?: Record<string, string>;
  readonly body?: string | Buffer;
}

export async function startFakeS3(traits: Partial<FakeS3Traits> = {}): Promise<FakeS3> {
  const buckets = new Map<string, Bucket>();
  const sockets = new Set<Socket>();
  const stop = new AbortController();
  const state: FakeS3Traits = {
    conditions: "full",
    checksums: "kept",
    contentMd5: "compared",
    versioned: false,
    etag: "md5",
    smallestPart: 5 * 1024 * 1024,
    losesTokens: false,
    ranges: "heeded",
    ...traits,
  };

  const server = createServer((request, response) => {
    handle(request, response).catch(() => request.socket.destroy());
  });
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  server.keepAliveTimeout = 60_000;
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));

  const fake: FakeS3 = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    traits: state,
    requests: [],
    fault: () => undefined,
    keyFault: () => undefined,
    createBucket: (name) => void buckets.set(name, { objects: new Map(), uploads: new Map() }),
    dropBucket: (name) => void buckets.delete(name),
    seed(bucket, key, bytes, options = {}) {
      const headers: Record<string, string> = {};
      if (options.contentType !== undefined) headers["content-type"] = options.contentType;
      if (options.storageClass !== undefined) headers["x-amz-storage-class"] = options.storageClass;
      store(need(bucket), key, Buffer.from(bytes), headers, "", undefined);
    },
    keys: (bucket) => liveKeys(need(bucket)),
    uploads: (bucket) => [...need(bucket).uploads.values()].map(({ key }) => key),
    object: (bucket, key) => need(bucket).objects.get(key)?.at(-1),
    setUploadAge(bucket, ms) {
      for (const upload of need(bucket).uploads.values()) upload.initiated = new Date(Date.now() - ms);
    },
    openConnections: () => sockets.size,
    async close() {
      stop.abort();
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };

  function need(name: string): Bucket {
    const bucket = buckets.get(name);
    if (bucket === undefined) throw new S3Failure(404, "NoSuchBucket");
    return bucket;
  }

  function liveKeys(bucket: Bucket): string[] {
    return [...bucket.objects]
      .filter(([, versions]) => versions.length > 0)
      .map(([key]) => key)
      .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  }

  function store(
    bucket: Bucket,
    key: string,
    bytes: Buffer,
    headers: Record<string, string>,
    tags: string,
    multipart: { etag: string; crc32: string } | undefined,
  ): FakeObject {
    const md5 = createHash("md5").update(bytes).digest("hex");
    const object: FakeObject = {
      bytes,
      etag: state.etag === "random" ? randomBytes(16).toString("hex") : (multipart?.etag ?? md5),
      crc32: state.checksums === "kept" ? (multipart?.crc32 ?? crcOf(bytes)) : undefined,
      modified: new Date(),
      headers,
      versionId: state.versioned ? randomBytes(12).toString("hex") : undefined,
      tags,
    };
    const versions = bucket.objects.get(key) ?? [];
    bucket.objects.set(key, state.versioned ? [...versions, object] : [object]);
    return object;
  }

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const rawUrl = request.url ?? "/";
    const url = new URL(rawUrl, fake.url);
    const rawPath = rawUrl.split("?")[0] ?? "/";
    const [, bucketName = "", ...rest] = rawPath.split("/");
    const key = rest.length === 0 || (rest.length === 1 && rest[0] === "") ? undefined : decodeURIComponent(rest.join("/"));
    const kind = kindOf(request, url.searchParams, key);
    const length = Number(request.headers["content-length"] ?? 0);
    const seen: FakeRequest = {
      method: request.method ?? "",
      key,
      query: url.searchParams,
      headers: request.headers,
      kind,
      bodyLength: length,
    };
    fake.requests.push(seen);
    const fault = fake.fault(seen);
    if (fault?.do === "cut-request") {
      request.once("data", () => request.socket.destroy());
      if (length === 0) request.socket.destroy();
      return;
    }
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    let body: Buffer = Buffer.concat(chunks);
    let answer: Answer;
    try {
      if (fault?.do === "delay") await wait(fault.ms, undefined, { signal: stop.signal });
      if (fault?.do === "answer") throw Object.assign(new S3Failure(fault.status, fault.code), { headers: fault.headers });
      const refusal = checkSignature(
        { method: seen.method, url, rawPath, headers: request.headers, body },
        { [FAKE_ACCESS_KEY]: FAKE_SECRET_KEY },
        new Date(),
      );
      if (refusal !== undefined) throw new S3Failure(refusal === "XAmzContentSHA256Mismatch" ? 400 : 403, refusal);
      if (/aws-chunked/.test(String(request.headers["content-encoding"]))) throw new S3Failure(501, "NotImplemented");
      if (fault?.do === "corrupt-request" && body.length > 0) body = flip(body);
      checkBody(body, request.headers, kind);
      if (fault?.do === "store-corrupt" && body.length > 0) body = flip(body);
      answer = perform(kind, bucketName, key, url.searchParams, request.headers, body, fault);
    } catch (error) {
      const { status, code, headers } =
        error instanceof S3Failure
          ? (error as S3Failure & { headers?: Record<string, string> })
          : { status: 500, code: "InternalError", headers: undefined };
      if (!(error instanceof S3Failure) && !stop.signal.aborted) console.error("fake S3:", error);
      const text = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message></Message><RequestId>fake</RequestId></Error>`;
      answer = { status, headers: { "content-type": "application/xml", ...headers }, body: status === 304 ? "" : text };
    }
    if (fault?.do === "lose-answer") {
      request.socket.destroy();
      return;
    }
    await reply(request, response, answer, fault);
  }

  async function reply(request: IncomingMessage, response: ServerResponse, answer: Answer, fault: FakeFault | undefined): Promise<void> {
    let body = typeof answer.body === "string" ? Buffer.from(answer.body) : (answer.body ?? Buffer.alloc(0));
    const headers: Record<string, string> = { "x-amz-request-id": "fake", ...answer.headers };
    if (fault?.do === "corrupt-answer" && body.length > 0) body = flip(body);
    const length = request.method === "HEAD" ? Number(headers["content-length"] ?? 0) : body.length;
    response.writeHead(answer.status ?? 200, { ...headers, "content-length": String(length) });
    if (request.method === "HEAD") {
      response.end();
      return;
    }
    if (fault?.do === "cut-answer" || fault?.do === "stall-answer") {
      response.write(body.subarray(0, Math.floor(body.length * fault.share)));
      await wait(20);
      if (fault.do === "cut-answer") request.socket.destroy();
      else await new Promise((resolve) => request.socket.once("close", resolve));
      return;
    }
    response.end(body);
  }

  function checkBody(body: Buffer, headers: IncomingMessage["headers"], kind: RequestKind): void {
    const md5 = headers["content-md5"];
    if (state.contentMd5 !== "ignored" && md5 !== undefined && md5 !== createHash("md5").update(body).digest("base64"))
      throw new S3Failure(400, "BadDigest");
    if (state.contentMd5 === "required-for-delete" && kind === "delete-many" && md5 === undefined)
      throw new S3Failure(400, "InvalidRequest");
    const crc = headers["x-amz-checksum-crc32"];
    if (
      state.checksums === "kept" &&
      typeof crc === "string" &&
      (kind === "put" || kind === "upload-part") &&
      crc !== base64(crcOf(body))
    ) {
      throw new S3Failure(400, "BadDigest");
    }
  }

  function perform(
    kind: RequestKind,
    bucketName: string,
    key: string | undefined,
    query: URLSearchParams,
    headers: IncomingMessage["headers"],
    body: Buffer,
    fault: FakeFault | undefined,
  ): Answer {
    const bucket = need(bucketName);
    const current = key === undefined ? undefined : bucket.objects.get(key)?.at(-1);
    switch (kind) {
      case "head-bucket":
        return {};
      case "list":
        return list(bucket, query);
      case "list-uploads":
        return listUploads(bucket, query);
      case "get":
      case "head":
        return read(bucket, key ?? "", query, headers, kind, fault);
      case "put": {
        checkConditions(headers, current, "put");
        return stored(store(bucket, key ?? "", body, keptHeaders(headers), text(headers["x-amz-tagging"]), undefined));
      }
      case "copy": {
        const source = findSource(headers);
        checkConditions(headers, current, "copy");
        const replace = headers["x-amz-metadata-directive"] === "REPLACE";
        const kept = replace ? keptHeaders(headers) : { ...source.headers };
        const object = store(bucket, key ?? "", source.bytes, kept, source.tags, undefined);
        return {
          ...stored(object),
          ...xml(
            "CopyObjectResult",
            `<ETag>&quot;${object.etag}&quot;</ETag><LastModified>${object.modified.toISOString()}</LastModified>`,
          ),
        };
      }
      case "delete": {
        if (state.conditions === "full" && headers["if-match"] !== undefined && unquote(headers["if-match"]) !== current?.etag)
          throw new S3Failure(412, "PreconditionFailed");
        remove(bucket, key ?? "", query.get("versionId"));
        return { status: 204 };
      }
      case "delete-many": {
        const errors: string[] = [];
        for (const match of body.toString().matchAll(/<Key>([\s\S]*?)<\/Key>/g)) {
          const name = unescapeXml(match[1] ?? "");
          const code = fake.keyFault(name);
          if (code !== undefined) errors.push(`<Error><Key>${escapeXml(name)}</Key><Code>${code}</Code><Message></Message></Error>`);
          else remove(bucket, name, null);
        }
        return xml("DeleteResult", errors.join(""));
      }
      case "tags": {
        const pairs = [...new URLSearchParams(current?.tags ?? "")];
        return xml(
          "Tagging",
          `<TagSet>${pairs.map(([name, value]) => `<Tag><Key>${escapeXml(name)}</Key><Value>${escapeXml(value)}</Value></Tag>`).join("")}</TagSet>`,
        );
      }
      case "create-upload": {
        const id = randomBytes(9).toString("base64url");
        bucket.uploads.set(id, {
          key: key ?? "",
          headers: keptHeaders(headers),
          tags: text(headers["x-amz-tagging"]),
          initiated: new Date(),
          parts: new Map(),
        });
        return xml("InitiateMultipartUploadResult", `<UploadId>${id}</UploadId>`);
      }
      case "upload-part": {
        const etag = addPart(findUpload(bucket, key, query), Number(query.get("partNumber")), body);
        return { headers: { etag: `"${etag}"` } };
      }
      case "copy-part": {
        const source = findSource(headers);
        const [, start = "0", end = "0"] = /^bytes=(\d+)-(\d+)$/.exec(text(headers["x-amz-copy-source-range"])) ?? [];
        const etag = addPart(
          findUpload(bucket, key, query),
          Number(query.get("partNumber")),
          source.bytes.subarray(Number(start), Number(end) + 1),
        );
        return xml("CopyPartResult", `<ETag>&quot;${etag}&quot;</ETag>`);
      }
      case "complete":
        return complete(bucket, key ?? "", query, headers, body, current);
      case "abort":
        findUpload(bucket, key, query);
        bucket.uploads.delete(query.get("uploadId") ?? "");
        return { status: 204 };
      default:
        throw new S3Failure(501, "NotImplemented");
    }
  }

  function complete(
    bucket: Bucket,
    key: string,
    query: URLSearchParams,
    headers: IncomingMessage["headers"],
    body: Buffer,
    current: FakeObject | undefined,
  ): Answer {
    const upload = findUpload(bucket, key, query);
    const numbers = [...body.toString().matchAll(/<Part>([\s\S]*?)<\/Part>/g)].map(([, part = ""]) => ({
      number: Number(/<PartNumber>(\d+)</.exec(part)?.[1]),
      etag: unquote(unescapeXml(/<ETag>([^<]*)</.exec(part)?.[1] ?? "")),
    }));
    const parts = numbers.map(({ number, etag }, index) => {
      const part = upload.parts.get(number);
      if (part === undefined || part.etag !== etag) throw new S3Failure(400, "InvalidPart");
      if (index < numbers.length - 1 && part.bytes.length < state.smallestPart) throw new S3Failure(400, "EntityTooSmall");
      return part;
    });
    checkConditions(headers, current, "complete");
    const bytes = Buffer.concat(parts.map((part) => part.bytes));
    const whole = headers["x-amz-checksum-crc32"];
    if (state.checksums === "kept" && typeof whole === "string" && whole !== base64(crcOf(bytes))) throw new S3Failure(400, "BadDigest");
    const hash = createHash("md5");
    for (const { etag } of parts) hash.update(etag, "hex");
    const object = store(bucket, key, bytes, { ...upload.headers }, upload.tags, {
      etag: `${hash.digest("hex")}-${parts.length}`,
      crc32: crcOf(bytes),
    });
    bucket.uploads.delete(query.get("uploadId") ?? "");
    return { ...stored(object), ...xml("CompleteMultipartUploadResult", `<ETag>&quot;${object.etag}&quot;</ETag>`) };
  }

  function addPart(upload: Upload, number: number, bytes: Buffer): string {
    const etag = state.etag === "random" ? randomBytes(16).toString("hex") : createHash("md5").update(bytes).digest("hex");
    upload.parts.set(number, { bytes: Buffer.from(bytes), etag, crc32: crcOf(bytes) });
    return etag;
  }

  function findUpload(bucket: Bucket, key: string | undefined, query: URLSearchParams): Upload {
    const upload = bucket.uploads.get(query.get("uploadId") ?? "");
    if (upload === undefined || upload.key !== key) throw new S3Failure(404, "NoSuchUpload");
    return upload;
  }

  function findSource(headers: IncomingMessage["headers"]): FakeObject {
    const [path = "", versionId] = text(headers["x-amz-copy-source"]).replace(/^\//, "").split("?versionId=");
    const [bucket = "", ...rest] = decodeURIComponent(path).split("/");
    const versions = need(bucket).objects.get(rest.join("/")) ?? [];
    const source = versionId === undefined ? versions.at(-1) : versions.find((version) => version.versionId === versionId);
    if (source === undefined) throw new S3Failure(404, "NoSuchKey");
    const condition = headers["x-amz-copy-source-if-match"];
    if (condition !== undefined && unquote(text(condition)) !== source.etag) throw new S3Failure(412, "PreconditionFailed");
    return source;
  }

  function checkConditions(headers: IncomingMessage["headers"], current: FakeObject | undefined, verb: "put" | "copy" | "complete"): void {
    if (headers["if-none-match"] === undefined) return;
    if (state.conditions === "501") throw new S3Failure(501, "NotImplemented");
    if (state.conditions === "ignored" || (state.conditions === "put" && verb !== "put")) return;
    if (current !== undefined) throw new S3Failure(412, "PreconditionFailed");
  }

  function remove(bucket: Bucket, key: string, versionId: string | null): void {
    const versions = bucket.objects.get(key);
    if (versions === undefined) return;
    const rest = versionId === null ? [] : versions.filter((version) => version.versionId !== versionId);
    if (rest.length === 0) bucket.objects.delete(key);
    else bucket.objects.set(key, rest);
  }

  function read(
    bucket: Bucket,
    key: string,
    query: URLSearchParams,
    headers: IncomingMessage["headers"],
    kind: "get" | "head",
    fault: FakeFault | undefined,
  ): Answer {
    const versions = bucket.objects.get(key) ?? [];
    const versionId = query.get("versionId");
    const object = versionId === null ? versions.at(-1) : versions.find((version) => version.versionId === versionId);
    if (object === undefined) throw new S3Failure(404, versionId === null ? "NoSuchKey" : "NoSuchVersion");
    if (headers["if-match"] !== undefined && unquote(headers["if-match"]) !== object.etag) throw new S3Failure(412, "PreconditionFailed");
    if (kind === "get" && object.headers["x-amz-storage-class"] === "GLACIER") throw new S3Failure(403, "InvalidObjectState");
    const answer: Record<string, string> = {
      "content-type": "binary/octet-stream",
      ...object.headers,
      etag: `"${object.etag}"`,
      "last-modified": object.modified.toUTCString(),
      "accept-ranges": "bytes",
    };
    if (object.versionId !== undefined) answer["x-amz-version-id"] = object.versionId;
    const size = object.bytes.length;
    const range = /^bytes=(\d+)-(\d*)$/.exec(text(headers.range));
    if (kind === "head") {
      if (object.crc32 !== undefined && headers["x-amz-checksum-mode"] !== undefined) {
        answer["x-amz-checksum-crc32"] = base64(object.crc32);
        answer["x-amz-checksum-type"] = "FULL_OBJECT";
      }
      return { headers: { ...answer, "content-length": String(size) } };
    }
    if (range === null || state.ranges === "ignored") return { headers: answer, body: object.bytes };
    const start = Number(range[1]);
    const end = Math.min(range[2] === "" ? size : Number(range[2]) + 1, size);
    if (start >= size) throw new S3Failure(416, "InvalidRange");
    answer["content-range"] = `bytes ${start}-${end - 1}/${size}`;
    const last = fault?.do === "end-early" ? Math.max(start, Math.min(end, Math.floor(size * fault.share))) : end;
    return { status: 206, headers: answer, body: object.bytes.subarray(start, last) };
  }
  function list(bucket: Bucket, query: URLSearchParams): Answer {
    const prefix = query.get("prefix") ?? "";
    const delimiter = query.get("delimiter") ?? "";
    const limit = Number(query.get("max-keys") ?? 1000);
    const token = query.get("continuation-token");
    const after = Buffer.from(token === null ? (query.get("start-after") ?? "") : Buffer.from(token, "base64url").toString());
    const contents: string[] = [];
    const prefixes = new Set<string>();
    let last = "";
    let truncated = false;
    for (const key of liveKeys(bucket)) {
      if (!key.startsWith(prefix)) continue;
      const cut = delimiter === "" ? -1 : key.indexOf(delimiter, prefix.length);
      const common = cut === -1 ? undefined : key.slice(0, cut + delimiter.length);
      if (Buffer.compare(Buffer.from(key), after) <= 0 || (common !== undefined && token !== null && Buffer.from(common).equals(after)))
        continue;
      if (common !== undefined && (prefixes.has(common) || (token !== null && after.toString().startsWith(common)))) continue;
      if (contents.length + prefixes.size >= limit) {
        truncated = true;
        break;
      }
      last = common === undefined ? key : `${common}\u{10ffff}`;
      if (common !== undefined) prefixes.add(common);
      else {
        const object = bucket.objects.get(key)?.at(-1) as FakeObject;
        contents.push(
          `<Contents><Key>${encodeKey(key)}</Key><LastModified>${object.modified.toISOString()}</LastModified><ETag>&quot;${object.etag}&quot;</ETag><Size>${object.bytes.length}</Size><StorageClass>STANDARD</StorageClass></Contents>`,
        );
      }
    }
    const next =
      truncated && !state.losesTokens ? `<NextContinuationToken>${Buffer.from(last).toString("base64url")}</NextContinuationToken>` : "";
    const common = [...prefixes].map((name) => `<CommonPrefixes><Prefix>${encodeKey(name)}</Prefix></CommonPrefixes>`).join("");
    return xml(
      "ListBucketResult",
      `<EncodingType>url</EncodingType><IsTruncated>${truncated}</IsTruncated>${next}${contents.join("")}${common}`,
    );
  }

  function listUploads(bucket: Bucket, query: URLSearchParams): Answer {
    const uploads = [...bucket.uploads]
      .filter(([, { key }]) => key.startsWith(query.get("prefix") ?? ""))
      .map(
        ([id, { key, initiated }]) =>
          `<Upload><Key>${encodeKey(key)}</Key><UploadId>${id}</UploadId><Initiated>${initiated.toISOString()}</Initiated></Upload>`,
      );
    return xml("ListMultipartUploadsResult", `<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>${uploads.join("")}`);
  }

  return fake;
}

function kindOf(request: IncomingMessage, query: URLSearchParams, key: string | undefined): RequestKind {
  const { method } = request;
  const copies = request.headers["x-amz-copy-source"] !== undefined;
  if (key === undefined) {
    if (method === "HEAD") return "head-bucket";
    if (method === "GET") return query.has("uploads") ? "list-uploads" : "list";
    return method === "POST" && query.has("delete") ? "delete-many" : "other";
  }
  if (query.has("tagging")) return "tags";
  if (query.has("uploads")) return "create-upload";
  if (query.has("uploadId")) {
    if (method === "PUT") return copies ? "copy-part" : "upload-part";
    return method === "POST" ? "complete" : method === "DELETE" ? "abort" : "other";
  }
  switch (method) {
    case "PUT":
      return copies ? "copy" : "put";
    case "GET":
      return "get";
    case "HEAD":
      return "head";
    case "DELETE":
      return "delete";
    default:
      return "other";
  }
}

function stored(object: FakeObject): { headers: Record<string, string> } {
  return { headers: { etag: `"${object.etag}"`, ...(object.versionId !== undefined && { "x-amz-version-id": object.versionId }) } };
}

function keptHeaders(headers: IncomingMessage["headers"]): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).flatMap(([name, value]) => (KEPT_HEADERS.test(name) && typeof value === "string" ? [[name, value]] : [])),
  );
}

function xml(root: string, body: string): { body: string } {
  return { body: `<?xml version="1.0" encoding="UTF-8"?><${root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${body}</${root}>` };
}

function encodeKey(key: string): string {
  return encodeURIComponent(key).replaceAll("%2F", "/").replaceAll("%20", "+");
}

function escapeXml(value: string): string {
  return value.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

function unescapeXml(value: string): string {
  return value.replace(/&(?:#(\d+)|#x([0-9a-f]+)|(amp|lt|gt|quot|apos));/gi, (_, decimal?: string, hex?: string, name?: string) => {
    if (decimal !== undefined) return String.fromCodePoint(Number(decimal));
    if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16));
    return { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" }[String(name)] ?? "";
  });
}

function unquote(value: string): string {
  return value.replace(/^"|"$/g, "");
}

function text(value: string | string[] | undefined): string {
  return Array.isArray(value) ? value.join(",") : (value ?? "");
}

function crcOf(bytes: Uint8Array): string {
  return (crc32(bytes) >>> 0).toString(16).padStart(8, "0");
}

function base64(hex: string): string {
  return Buffer.from(hex, "hex").toString("base64");
}

function flip(bytes: Buffer): Buffer {
  const changed = Buffer.from(bytes);
  const middle = changed.length >> 1;
  changed[middle] = (changed[middle] ?? 0) ^ 0x10;
  return changed;
}
