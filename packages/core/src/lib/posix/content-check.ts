import { createDigester, type Digester, sameDigest } from "../digest.ts";
import { escapePath } from "../file-path.ts";
import type { Digest, DigestAlgorithm, StoredFile, Verification } from "../files.ts";
import { StowageError } from "../stowage-error.ts";

/** How content was verified, as `TransferDetails` tells it. */
export interface ContentProof {
  readonly digest?: Digest | undefined;
  readonly verified: Verification;
}

/** Holds content against what its caller promised, and computes the digest that was asked for. */
export interface ContentCheck {
  /** Whether the bytes must be seen: without it, knowing their number is enough. */
  readonly readsBytes: boolean;
  update(chunk: Uint8Array): void;
  /** Call once, at the end. Throws `SHORT_SOURCE`, `SOURCE_CHANGED` or `CHECKSUM_MISMATCH` when the content is not what was promised. */
  end(bytes: number): ContentProof;
}

const LENGTH_ONLY: ContentProof = { verified: "length" };

/** Of nothing promised and nothing asked for: one for all. */
const NO_CHECK: ContentCheck = { readsBytes: false, update: () => {}, end: () => LENGTH_ONLY };

/** Checks against `file.size` and `file.digest` where they are given. `checksum`: a digest to compute besides; `"auto"` and `"none"` ask for none. */
export function checkContent(file: StoredFile, checksum: "auto" | "none" | DigestAlgorithm): ContentCheck {
  if (file.digest === undefined && file.size === undefined && (checksum === "auto" || checksum === "none")) return NO_CHECK;
  const digesters: Digester[] = [];
  if (checksum !== "auto" && checksum !== "none") digesters.push(createDigester(checksum));
  const promised = file.digest;
  if (promised !== undefined && promised.algorithm !== checksum) digesters.push(createDigester(promised.algorithm));
  return {
    readsBytes: digesters.length > 0,
    update(chunk) {
      for (const digester of digesters) digester.update(chunk);
    },
    end(bytes) {
      assertPromisedSize(file, bytes);
      if (digesters.length === 0) return LENGTH_ONLY;
      const digests = digesters.map((digester) => digester.digest());
      for (const digest of digests) assertPromisedDigest(file, digest);
      return { digest: digests[0]!, verified: "digest" };
    },
  };
}

/** Throws when a file has another size than was promised. */
export function assertPromisedSize(file: StoredFile, bytes: number): void {
  if (file.size === undefined || file.size === bytes) return;
  throw new StowageError(`"${escapePath(file.path)}" has ${bytes} bytes where ${file.size} were promised`, {
    code: bytes < file.size ? "SHORT_SOURCE" : "SOURCE_CHANGED",
    file: file.path,
  });
}

function assertPromisedDigest(file: StoredFile, digest: Digest): void {
  if (sameDigest(digest, file.digest) !== false) return;
  throw new StowageError(
    `"${escapePath(file.path)}" has the ${digest.algorithm} ${digest.value} where ${file.digest?.value} was promised; the content is not what it should be`,
    { code: "CHECKSUM_MISMATCH", file: file.path },
  );
}
