import { randomBytes } from "node:crypto";
import { digestOf, type OpenContext, StowageError, type ValidationWarning } from "@stowage/core/broker";
import { checksOf } from "./body-checks.ts";
import type { S3BrokerConfig } from "./config.ts";
import { classifyS3Error, isPreconditionFailed, s3ErrorName, s3ErrorStatus } from "./s3-errors.ts";
import type { Session } from "./session.ts";

/** What all looks together may take. */
const PATIENCE_MS = 8_000;
const PROBE_BYTES = 4_096;

/**
 * Looks at the bucket and tries what uploads will rely on. Bytes are tried by a multipart upload that is never completed; conditions by an object
 * under a reserved name, which no workspace shows and which is removed at once. Both leave nothing.
 */
export async function validateS3(session: Session, config: S3BrokerConfig, context: OpenContext): Promise<readonly ValidationWarning[]> {
  const stop = new AbortController();
  const onAbort = (): void => stop.abort(context.signal.reason);
  const timer = setTimeout(() => stop.abort(new StowageError("no answer in time", { code: "TIMEOUT" })), PATIENCE_MS);
  if (context.signal.aborted) onAbort();
  else context.signal.addEventListener("abort", onAbort, { once: true });
  const warnings: ValidationWarning[] = staticWarnings(config);
  try {
    const unreachable = await lookAtBucket(session, stop.signal);
    if (unreachable !== undefined) return [...warnings, unreachable];
    warnings.push(...(await tryUpload(session, stop.signal)));
    return warnings;
  } catch (error) {
    context.signal.throwIfAborted();
    return [...warnings, warn("bucket_access", `the bucket could not be tried: ${describe(error)}; validate again when it can be reached`)];
  } finally {
    clearTimeout(timer);
    context.signal.removeEventListener("abort", onAbort);
  }
}

function staticWarnings({ endpoint, serverSideEncryption }: S3BrokerConfig): ValidationWarning[] {
  const warnings: ValidationWarning[] = [];
  const url = endpoint === undefined ? undefined : new URL(endpoint);
  const isLocal = url !== undefined && /^(localhost|127\.|\[::1\])/.test(url.hostname);
  if (url?.protocol === "http:" && !isLocal) {
    warnings.push(warn("endpoint_not_encrypted", "the endpoint is reached by http: whoever is on the way reads every file; use https"));
  }
  if (url?.protocol === "http:" && serverSideEncryption?.kind === "customer") {
    warnings.push(
      warn("customer_key_in_the_clear", "the customer's key travels unencrypted by http, and most servers refuse it; use https"),
    );
  }
  return warnings;
}

async function lookAtBucket({ store, settings, keys }: Session, signal: AbortSignal): Promise<ValidationWarning | undefined> {
  try {
    await store.headBucket({ signal });
  } catch (error) {
    const { code } = classifyS3Error(error);
    if (signal.aborted) throw error;
    if (s3ErrorStatus(error) === 404)
      return warn("bucket_missing", `there is no bucket "${settings.bucket}"; create it, or name another one`);
    // Those who may read and write objects may often not look at the bucket; a listing says whether they may that.
    if (code !== "PERMISSION_DENIED") return warn("bucket_access", `the bucket "${settings.bucket}" does not answer: ${describe(error)}`);
  }
  try {
    await store.list({ signal, prefix: keys.prefix, flat: true, pageSize: 1 });
    return undefined;
  } catch (error) {
    if (signal.aborted) throw error;
    return warn(
      "bucket_listing",
      `the bucket "${settings.bucket}" cannot be listed: ${describe(error)}; check the credentials and their policy`,
    );
  }
}

async function tryUpload(session: Session, signal: AbortSignal): Promise<ValidationWarning[]> {
  const { store, keys, settings } = session;
  const key = keys.reservedKey(`probe-${randomBytes(9).toString("base64url")}`);
  const warnings: ValidationWarning[] = [];
  let uploadId: string;
  try {
    uploadId = await store.createUpload(key, { metadata: {} }, { signal });
  } catch (error) {
    if (signal.aborted) throw error;
    return [warn("bucket_writing", `nothing can be stored: ${describe(error)}; a workspace that is only read needs no more`)];
  }
  try {
    warnings.push(...(await tryParts(session, key, uploadId, signal)));
  } finally {
    await store.abortUpload(key, uploadId, { signal: AbortSignal.timeout(2_000) }).catch(() => undefined);
  }
  if (settings.conditionalWrites !== "none") warnings.push(...(await tryCondition(session, key, signal)));
  return warnings;
}

async function tryParts(session: Session, key: string, uploadId: string, signal: AbortSignal): Promise<ValidationWarning[]> {
  const { store, settings } = session;
  // Bytes that text conversions and chunk framings would change.
  const body = Buffer.from(Array.from({ length: PROBE_BYTES }, (_, index) => (index * 7) & 0xff));
  const onSent = (): void => undefined;
  const checks = checksOf(body, { ...settings, integrity: settings.integrity === "none" ? "md5" : settings.integrity });
  try {
    const part = await store.uploadPart(key, uploadId, 1, body, { signal, checks, onSent });
    const isMd5 = part.etag.toLowerCase() === digestOf(body, "md5").value;
    if (!isMd5 && !part.isEtagOpaque && settings.etag === "md5" && /^[0-9a-f]{32}$/i.test(part.etag)) {
      return [
        warn(
          "etag_not_md5",
          'the server answered with an ETag that is not the MD5 of the bytes: either it changes them, or its ETags are something else; if the latter is documented, set etag to "opaque"',
        ),
      ];
    }
  } catch (error) {
    if (signal.aborted) throw error;
    return [
      warn("checksum_refused", `the server refuses bytes with integrity "${settings.integrity}": ${describe(error)}; try "md5" or "none"`),
    ];
  }
  if (settings.integrity === "none") return [];
  try {
    await store.uploadPart(key, uploadId, 2, body, { signal, checks: checksOf(Buffer.from("other bytes"), settings), onSent });
  } catch (error) {
    if (signal.aborted) throw error;
    return [];
  }
  const header = settings.integrity === "md5" ? "Content-MD5" : "x-amz-checksum-crc32";
  const remedy = settings.integrity === "crc32" ? 'set integrity to "md5"' : "what is stored is checked by its ETag and size only";
  return [warn("checksum_ignored", `the server does not look at ${header}: it took bytes with a wrong one; ${remedy}`)];
}

async function tryCondition({ store, settings }: Session, key: string, signal: AbortSignal): Promise<ValidationWarning[]> {
  const body = Buffer.from("stowage");
  const put = (): Promise<unknown> =>
    store.put(key, body, { metadata: {} }, { signal, ifAbsent: true, checks: checksOf(body, settings), onSent: () => undefined });
  try {
    await put();
    await put();
    return [
      warn(
        "conditions_ignored",
        'the server takes no notice of If-None-Match: ifExists "fail" and "skip" are only as good as a look beforehand; set conditionalWrites to "none"',
      ),
    ];
  } catch (error) {
    if (signal.aborted) throw error;
    if (isPreconditionFailed(error)) return [];
    if (s3ErrorStatus(error) === 501) {
      return [warn("conditions_unknown", 'the server knows no If-None-Match; set conditionalWrites to "none"')];
    }
    return [warn("conditions_failed", `a conditional write failed: ${describe(error)}`)];
  } finally {
    await store.delete(key, { signal: AbortSignal.timeout(2_000) }).catch(() => undefined);
  }
}

function warn(name: string, description: string): ValidationWarning {
  return { name, description };
}

function describe(error: unknown): string {
  const { code } = classifyS3Error(error);
  const name = s3ErrorName(error);
  const message = StowageError.is(error) ? error.message : (name ?? "unknown reason");
  return `${message} (${code})`;
}
