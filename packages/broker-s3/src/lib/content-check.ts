import {
  createDigester,
  type Digest,
  type DigestAlgorithm,
  type Digester,
  escapePath,
  type OperationContext,
  type StoredFile,
  StowageError,
  sameDigest,
  type Verification,
} from "@stowage/core/broker";

/** The algorithms by which a file's bytes are to be known: what the caller promised and what it asked for. */
export function wantedAlgorithms(file: StoredFile, checksum: OperationContext["checksum"]): ReadonlySet<DigestAlgorithm> {
  const algorithms = new Set<DigestAlgorithm>();
  if (checksum !== "auto" && checksum !== "none") algorithms.add(checksum);
  if (file.digest !== undefined) algorithms.add(file.digest.algorithm);
  return algorithms;
}

/** Digesters for bytes that come in order. */
export function createDigesters(algorithms: Iterable<DigestAlgorithm>): { update(chunk: Uint8Array): void; end(): readonly Digest[] } {
  const digesters: Digester[] = [...algorithms].map((algorithm) => createDigester(algorithm));
  let digests: readonly Digest[] | undefined;
  return {
    update(chunk) {
      for (const digester of digesters) digester.update(chunk);
    },
    end() {
      digests ??= digesters.map((digester) => digester.digest());
      return digests;
    },
  };
}

/** Fails when a file has not the size that the caller promised. */
export function assertPromisedSize(file: StoredFile, bytes: number): void {
  if (file.size === undefined || file.size === bytes) return;
  throw new StowageError(`"${escapePath(file.path)}" has ${bytes} bytes where ${file.size} were promised`, {
    code: bytes < file.size ? "SHORT_SOURCE" : "SOURCE_CHANGED",
    file: file.path,
  });
}

/** Fails when one of the computed `digests` is not what `expected` says. Gives whether any could be compared. */
export function assertDigest(
  file: StoredFile,
  digests: readonly Digest[],
  expected: Digest | undefined,
  options: { readonly retryable?: boolean } = {},
): boolean {
  if (expected === undefined) return false;
  const found = digests.find((digest) => digest.algorithm === expected.algorithm);
  const same = sameDigest(found, expected);
  if (same === false) {
    throw new StowageError(
      `"${escapePath(file.path)}" has the ${expected.algorithm} ${found?.value} where ${expected.value} was expected`,
      { code: "CHECKSUM_MISMATCH", file: file.path, retryable: options.retryable },
    );
  }
  return same === true;
}

/** What is reported: the digest that was asked for, else the promised one, else any. */
export function proofOf(
  file: StoredFile,
  checksum: OperationContext["checksum"],
  digests: readonly Digest[],
  isProven: boolean,
): { readonly digest?: Digest | undefined; readonly verified: Verification } {
  const digest =
    digests.find(({ algorithm }) => algorithm === checksum) ??
    digests.find(({ algorithm }) => algorithm === file.digest?.algorithm) ??
    digests.find(({ algorithm }) => algorithm === "crc32") ??
    digests[0];
  return { digest, verified: isProven && digest !== undefined ? "digest" : "length" };
}

/** The MD5 that an ETag is, where it is one. */
export function etagDigest(
  info: { readonly etag?: string | undefined; readonly isEtagOpaque: boolean },
  etag: "md5" | "opaque",
): Digest | undefined {
  if (etag === "opaque" || info.isEtagOpaque || info.etag === undefined || !/^[0-9a-f]{32}$/i.test(info.etag)) return undefined;
  return { algorithm: "md5", value: info.etag.toLowerCase() };
}
