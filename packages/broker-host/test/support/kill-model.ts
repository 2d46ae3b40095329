import { crc32 } from "node:zlib";

/** Files that a killed program works on. */
export const SLOTS = 40;

/** The two places between which a slot's file moves. */
export function places(slot: number): readonly string[] {
  return [`a/d${slot % 5}/f${slot}`, `b/f${slot}`];
}

const SIZES = [0, 100, 4096, 300_000, 3_000_000];

/** Content that says what it is, and shows when a part of it is missing or of another version. */
export function makeContent(slot: number, version: number, seed: number): Buffer {
  const body = Buffer.alloc(SIZES[(slot + version) % SIZES.length]!, `${slot} ${version} ${seed} `);
  const header = Buffer.from(`${JSON.stringify({ slot, version, size: body.length, crc: crc32(body) })}\n`);
  return Buffer.concat([header, body]);
}

/** Throws when it is not whole. */
export function readContent(content: Buffer): { readonly slot: number; readonly version: number } {
  const end = content.indexOf("\n");
  if (end < 0) throw new Error(`half a file: ${content.length} bytes without a header`);
  const { slot, version, size, crc } = JSON.parse(content.toString("utf8", 0, end)) as {
    slot: number;
    version: number;
    size: number;
    crc: number;
  };
  const body = content.subarray(end + 1);
  if (body.length !== size || crc32(body) !== crc)
    throw new Error(`half a file: slot ${slot}, version ${version}, ${body.length} of ${size} bytes`);
  return { slot, version };
}

/** Numbers between 0 and 1, the same for the same seed (mulberry32). */
export function createRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let value = state;
    value = Math.imul(value ^ (value >>> 15), value | 1);
    value ^= value + Math.imul(value ^ (value >>> 7), value | 61);
    return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32;
  };
}
