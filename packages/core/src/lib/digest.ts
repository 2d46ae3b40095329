import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import type { Digest, DigestAlgorithm } from "./files.ts";

/** Computes the digest of bytes that come in pieces. */
export interface Digester {
  readonly algorithm: DigestAlgorithm;
  update(chunk: Uint8Array): void;
  /** Ends it: call once. */
  digest(): Digest;
}

/** Every algorithm that a digest may name. */
export const DIGEST_ALGORITHMS: readonly DigestAlgorithm[] = ["crc32", "crc32c", "crc64nvme", "md5", "sha1", "sha256"];

export function createDigester(algorithm: DigestAlgorithm): Digester {
  switch (algorithm) {
    case "crc32": {
      let value = 0;
      return {
        algorithm,
        update: (chunk) => {
          value = crc32(chunk, value);
        },
        digest: () => ({ algorithm, value: hex32(value) }),
      };
    }
    case "crc32c": {
      let value = 0;
      return {
        algorithm,
        update: (chunk) => {
          value = crc32c(chunk, value);
        },
        digest: () => ({ algorithm, value: hex32(value) }),
      };
    }
    case "crc64nvme": {
      const state: Crc64State = { high: 0xffffffff, low: 0xffffffff };
      return {
        algorithm,
        update: (chunk) => updateCrc64Nvme(state, chunk),
        digest: () => ({ algorithm, value: hex32(~state.high) + hex32(~state.low) }),
      };
    }
    case "md5":
    case "sha1":
    case "sha256": {
      const hash = createHash(algorithm);
      return {
        algorithm,
        update: (chunk) => {
          hash.update(chunk);
        },
        digest: () => ({ algorithm, value: hash.digest("hex") }),
      };
    }
    default:
      throw new RangeError(`unknown digest algorithm "${algorithm satisfies never}"; known are ${DIGEST_ALGORITHMS.join(", ")}`);
  }
}

export function digestOf(bytes: Uint8Array, algorithm: DigestAlgorithm): Digest {
  const digester = createDigester(algorithm);
  digester.update(bytes);
  return digester.digest();
}

/**
 * Whether two digests are known to be of the same bytes: `true` or `false` where both use one algorithm, `undefined` where they
 * cannot be compared.
 */
export function sameDigest(a: Digest | undefined, b: Digest | undefined): boolean | undefined {
  if (a === undefined || b === undefined || a.algorithm !== b.algorithm) return undefined;
  return a.value.toLowerCase() === b.value.toLowerCase();
}

/** The CRC32 (as 8 hexadecimal digits) of A followed by B, from the CRC32 of each and the length of B in bytes. */
export function combineCrc32(crcA: string, crcB: string, lengthB: number): string {
  return hex32(multiplyModulo(powerOfX(lengthB), parseHex32(crcA)) ^ parseHex32(crcB));
}

function hex32(value: number): string {
  return (value >>> 0).toString(16).padStart(8, "0");
}

function parseHex32(value: string): number {
  if (!/^[0-9a-f]{8}$/iu.test(value)) throw new RangeError(`"${value}" is no CRC32: 8 hexadecimal digits were expected`);
  return Number.parseInt(value, 16);
}

// ---------- CRC32 arithmetic: polynomials over GF(2), reflected, modulo 0xedb88320 ----------

function multiplyModulo(a: number, b: number): number {
  let product = 0;
  let factor = b;
  for (let bit = 31; bit >= 0; bit--) {
    if ((a >>> bit) & 1) product ^= factor;
    factor = factor & 1 ? (factor >>> 1) ^ 0xedb88320 : factor >>> 1;
  }
  return product >>> 0;
}

/** x to the power of 8 * `bytes`. */
function powerOfX(bytes: number): number {
  let result = 0x80000000;
  let square = 0x00800000; // x ** 8
  // Not a shift: lengths pass 2 ** 32.
  for (let rest = bytes; rest > 0; rest = Math.floor(rest / 2)) {
    if (rest % 2 === 1) result = multiplyModulo(square, result);
    square = multiplyModulo(square, square);
  }
  return result;
}

// ---------- CRC32C and CRC64-NVMe: eight bytes a step from tables that are made at first use ----------

let crc32cTables: readonly Uint32Array[] | undefined;

function makeCrc32cTables(): readonly Uint32Array[] {
  const tables = Array.from({ length: 8 }, () => new Uint32Array(256));
  for (let byte = 0; byte < 256; byte++) {
    let value = byte;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
    tables[0]![byte] = value;
  }
  for (let step = 1; step < 8; step++) {
    for (let byte = 0; byte < 256; byte++) {
      const previous = tables[step - 1]![byte]!;
      tables[step]![byte] = (previous >>> 8) ^ tables[0]![previous & 0xff]!;
    }
  }
  return tables;
}

function crc32c(chunk: Uint8Array, initial: number): number {
  crc32cTables ??= makeCrc32cTables();
  const [t0, t1, t2, t3, t4, t5, t6, t7] = crc32cTables as readonly [
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
  ];
  let crc = ~initial;
  let index = 0;
  for (const end = chunk.length - 7; index < end; index += 8) {
    crc ^= chunk[index]! | (chunk[index + 1]! << 8) | (chunk[index + 2]! << 16) | (chunk[index + 3]! << 24);
    crc =
      t7[crc & 0xff]! ^
      t6[(crc >>> 8) & 0xff]! ^
      t5[(crc >>> 16) & 0xff]! ^
      t4[crc >>> 24]! ^
      t3[chunk[index + 4]!]! ^
      t2[chunk[index + 5]!]! ^
      t1[chunk[index + 6]!]! ^
      t0[chunk[index + 7]!]!;
  }
  for (; index < chunk.length; index++) crc = (crc >>> 8) ^ t0[(crc ^ chunk[index]!) & 0xff]!;
  return ~crc >>> 0;
}

interface Crc64State {
  high: number;
  low: number;
}

// 64 bits as two halves: BigInt is thirty times slower.
let crc64Tables: { readonly high: readonly Uint32Array[]; readonly low: readonly Uint32Array[] } | undefined;

function makeCrc64Tables(): { readonly high: readonly Uint32Array[]; readonly low: readonly Uint32Array[] } {
  const high = Array.from({ length: 8 }, () => new Uint32Array(256));
  const low = Array.from({ length: 8 }, () => new Uint32Array(256));
  for (let byte = 0; byte < 256; byte++) {
    let valueHigh = 0;
    let valueLow = byte;
    for (let bit = 0; bit < 8; bit++) {
      const carry = valueLow & 1;
      valueLow = ((valueLow >>> 1) | (valueHigh << 31)) >>> 0;
      valueHigh >>>= 1;
      if (carry) {
        valueHigh ^= 0x9a6c9329; // reflected 0xad93d23594c93659
        valueLow ^= 0xac4bc9b5;
      }
    }
    high[0]![byte] = valueHigh;
    low[0]![byte] = valueLow;
  }
  for (let step = 1; step < 8; step++) {
    for (let byte = 0; byte < 256; byte++) {
      const previousHigh = high[step - 1]![byte]!;
      const previousLow = low[step - 1]![byte]!;
      const index = previousLow & 0xff;
      high[step]![byte] = (previousHigh >>> 8) ^ high[0]![index]!;
      low[step]![byte] = ((previousLow >>> 8) | (previousHigh << 24)) ^ low[0]![index]!;
    }
  }
  return { high, low };
}

function updateCrc64Nvme(state: Crc64State, chunk: Uint8Array): void {
  crc64Tables ??= makeCrc64Tables();
  const { high: h, low: l } = crc64Tables;
  let { high, low } = state;
  let index = 0;
  const [h0, h1, h2, h3, h4, h5, h6, h7] = h as [
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
  ];
  const [l0, l1, l2, l3, l4, l5, l6, l7] = l as [
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
  ];
  for (const end = chunk.length - 7; index < end; index += 8) {
    const a = low ^ (chunk[index]! | (chunk[index + 1]! << 8) | (chunk[index + 2]! << 16) | (chunk[index + 3]! << 24));
    const b = high ^ (chunk[index + 4]! | (chunk[index + 5]! << 8) | (chunk[index + 6]! << 16) | (chunk[index + 7]! << 24));
    const a0 = a & 0xff;
    const a1 = (a >>> 8) & 0xff;
    const a2 = (a >>> 16) & 0xff;
    const a3 = a >>> 24;
    const b0 = b & 0xff;
    const b1 = (b >>> 8) & 0xff;
    const b2 = (b >>> 16) & 0xff;
    const b3 = b >>> 24;
    high = h7[a0]! ^ h6[a1]! ^ h5[a2]! ^ h4[a3]! ^ h3[b0]! ^ h2[b1]! ^ h1[b2]! ^ h0[b3]!;
    low = l7[a0]! ^ l6[a1]! ^ l5[a2]! ^ l4[a3]! ^ l3[b0]! ^ l2[b1]! ^ l1[b2]! ^ l0[b3]!;
  }
  for (; index < chunk.length; index++) {
    const byte = (low ^ chunk[index]!) & 0xff;
    low = ((low >>> 8) | (high << 24)) ^ l0[byte]!;
    high = (high >>> 8) ^ h0[byte]!;
  }
  state.high = high >>> 0;
  state.low = low >>> 0;
}
