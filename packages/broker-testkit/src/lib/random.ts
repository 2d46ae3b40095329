import { createCipheriv, createHash } from "node:crypto";

/** A source of repeatable randomness: the same seed gives the same values on every machine. */
export interface Random {
  /** At least 0, below 1. */
  next(): number;
  /** A whole number, both ends included. */
  integer(minimum: number, maximum: number): number;
  pick<T>(values: readonly T[]): T;
  /** The same values in another order; the array given stays as it is. */
  shuffle<T>(values: readonly T[]): T[];
  bytes(length: number): Buffer;
  /** Lower-case letters and digits. */
  word(length: number): string;
}

const LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789";

/** Makes a generator (xoshiro128**) from any text or number. */
export function createRandom(seed: string | number): Random {
  const state = new Uint32Array(4);
  const start = createHash("sha256").update(String(seed)).digest();
  for (let index = 0; index < 4; index++) state[index] = start.readUInt32LE(index * 4);

  const word32 = (): number => {
    const [a, b, c, d] = state as unknown as [number, number, number, number];
    const result = Math.imul(rotateLeft(Math.imul(b, 5), 7), 9) >>> 0;
    const shifted = b << 9;
    const c1 = c ^ a;
    const d1 = d ^ b;
    state[1] = b ^ c1;
    state[0] = a ^ d1;
    state[2] = c1 ^ shifted;
    state[3] = rotateLeft(d1, 11);
    return result;
  };
  const next = (): number => word32() / 0x1_0000_0000;
  const integer = (minimum: number, maximum: number): number => minimum + Math.floor(next() * (maximum - minimum + 1));
  return {
    next,
    integer,
    pick: (values) => {
      if (values.length === 0) throw new RangeError("nothing to pick from");
      return values[integer(0, values.length - 1)] as (typeof values)[number];
    },
    shuffle: (values) => {
      const shuffled = [...values];
      for (let index = shuffled.length - 1; index > 0; index--) {
        const other = integer(0, index);
        [shuffled[index], shuffled[other]] = [shuffled[other] as (typeof values)[number], shuffled[index] as (typeof values)[number]];
      }
      return shuffled;
    },
    bytes: (length) => {
      // A key stream: as repeatable as the rest, and quick enough for large files.
      const key = Buffer.from(Uint32Array.from({ length: 8 }, word32).buffer);
      return createCipheriv("aes-128-ctr", key.subarray(0, 16), key.subarray(16)).update(Buffer.alloc(length));
    },
    word: (length) => Array.from({ length }, () => LETTERS[integer(0, LETTERS.length - 1)]).join(""),
  };
}

function rotateLeft(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits));
}
