import type { FileHandle } from "node:fs/promises";
import {
  createDigester,
  type Digest,
  type DigestAlgorithm,
  escapePath,
  type OperationContext,
  type StoredFile,
  StowageError,
  sameDigest,
} from "@stowage/core/broker";

const CHUNK_BYTES = 1024 * 1024;

/** Reads the first `length` bytes of a file and gives them to `consume`. The chunk is only good until `consume` settles. */
export async function readBytes(
  from: FileHandle,
  length: number,
  context: OperationContext,
  consume: (chunk: Uint8Array) => Promise<void>,
): Promise<void> {
  const room = await context.reserve(CHUNK_BYTES);
  try {
    const buffer = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, Math.max(1, length)));
    for (let position = 0; position < length; ) {
      context.signal.throwIfAborted();
      const wanted = Math.min(buffer.length, length - position);
      await context.throttle(wanted);
      const { bytesRead } = await from.read(buffer, 0, wanted, position);
      if (bytesRead === 0) throw new StowageError(`the source ended after ${position} of ${length} bytes`, { code: "SHORT_SOURCE" });
      await consume(buffer.subarray(0, bytesRead));
      position += bytesRead;
      context.progress(bytesRead);
    }
    context.signal.throwIfAborted();
  } finally {
    room[Symbol.dispose]();
  }
}

/** Holds bytes against what was promised of them. */
export interface Check {
  update(chunk: Uint8Array): void;
  /** Throws when a promise is broken; gives the digest of the algorithm that was asked for first. */
  end(stored?: Digest | undefined): Digest;
}

/** `file.size` and `file.digest`, where a caller gives them, are promises to be checked. */
export function createCheck(file: StoredFile, algorithms: readonly DigestAlgorithm[]): Check {
  const all = new Set([...algorithms, ...(file.digest === undefined ? [] : [file.digest.algorithm])]);
  const digesters = [...all].map((algorithm) => createDigester(algorithm));
  let size = 0;
  return {
    update(chunk) {
      size += chunk.length;
      for (const digester of digesters) digester.update(chunk);
    },
    end(stored) {
      const name = escapePath(file.path);
      if (file.size !== undefined && file.size !== size) {
        const code = size < file.size ? "SHORT_SOURCE" : "SOURCE_CHANGED";
        throw new StowageError(`"${name}" has ${size} bytes where ${file.size} were promised`, { code, file: file.path });
      }
      const found = digesters.map((digester) => digester.digest());
      for (const promised of [file.digest, stored]) {
        if (found.some((digest) => sameDigest(digest, promised) === false)) {
          throw new StowageError(`"${name}" is not what its ${promised?.algorithm} says`, { code: "CHECKSUM_MISMATCH", file: file.path });
        }
      }
      return found[0] as Digest;
    },
  };
}

/** The algorithm that a caller asks for; CRC32 costs next to nothing and is this broker's own choice. */
export function wantedAlgorithm(context: OperationContext): DigestAlgorithm {
  return context.checksum === "auto" || context.checksum === "none" ? "crc32" : context.checksum;
}
