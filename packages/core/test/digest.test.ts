import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { combineCrc32, createDigester, DIGEST_ALGORITHMS, digestOf, sameDigest } from "../src/lib/digest.ts";
import type { DigestAlgorithm } from "../src/lib/files.ts";

const check = Buffer.from("123456789");

/** One bit at a time, straight from the definition. */
function slowCrc64Nvme(bytes: Uint8Array): string {
  let crc = 0xffffffffffffffffn;
  for (const byte of bytes) {
    crc ^= BigInt(byte);
    for (let bit = 0; bit < 8; bit++) crc = crc & 1n ? (crc >> 1n) ^ 0x9a6c9329ac4bc9b5n : crc >> 1n;
  }
  return (crc ^ 0xffffffffffffffffn).toString(16).padStart(16, "0");
}

function slowCrc32c(bytes: Uint8Array): string {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return (~crc >>> 0).toString(16).padStart(8, "0");
}

describe("digests", () => {
  // The check values of the catalogue of CRC algorithms.
  test.each([
    ["crc32", "cbf43926"],
    ["crc32c", "e3069283"],
    ["crc64nvme", "ae8b14860a799888"],
  ] as const)("%s gives its published check value", (algorithm, value) => {
    expect(digestOf(check, algorithm)).toEqual({ algorithm, value });
  });

  test("md5, sha1 and sha256 are those of everybody", () => {
    for (const algorithm of ["md5", "sha1", "sha256"] as const) {
      expect(digestOf(check, algorithm).value).toBe(createHash(algorithm).update(check).digest("hex"));
    }
  });

  test("nothing has a digest too", () => {
    expect(digestOf(new Uint8Array(), "crc32").value).toBe("00000000");
    expect(digestOf(new Uint8Array(), "crc32c").value).toBe("00000000");
    expect(digestOf(new Uint8Array(), "crc64nvme").value).toBe("0000000000000000");
  });

  test("the fast CRCs agree with their definitions on any bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(digestOf(bytes, "crc64nvme").value).toBe(slowCrc64Nvme(bytes));
        expect(digestOf(bytes, "crc32c").value).toBe(slowCrc32c(bytes));
      }),
      { numRuns: 300 },
    );
  });

  test("a digest does not depend on how the bytes are cut", () => {
    const algorithm = fc.constantFrom<DigestAlgorithm>(...DIGEST_ALGORITHMS);
    fc.assert(
      fc.property(algorithm, fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 8 }), (name, pieces) => {
        const digester = createDigester(name);
        for (const piece of pieces) digester.update(piece);
        expect(digester.digest()).toEqual(digestOf(Buffer.concat(pieces), name));
      }),
    );
  });

  test("the CRC32 of two parts gives that of the whole", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.uint8Array({ maxLength: 300 }), (a, b) => {
        const combined = combineCrc32(digestOf(a, "crc32").value, digestOf(b, "crc32").value, b.length);
        expect(combined).toBe(digestOf(Buffer.concat([a, b]), "crc32").value);
      }),
    );
  });

  test("parts beyond four gigabytes combine as many small ones do", () => {
    const zeros = new Uint8Array(1 << 20);
    const one = digestOf(zeros, "crc32").value;
    // Doubling 13 times gives the CRC32 of 8 GiB of zeros.
    let doubled = one;
    let length = zeros.length;
    for (let round = 0; round < 13; round++) {
      doubled = combineCrc32(doubled, doubled, length);
      length *= 2;
    }
    expect(length).toBe(2 ** 33);
    const head = digestOf(check, "crc32").value;
    const stepwise = Array.from({ length: 8 }).reduce<string>((crc) => combineCrc32(crc, crcOf(2 ** 30), 2 ** 30), head);
    expect(combineCrc32(head, doubled, length)).toBe(stepwise);

    function crcOf(bytes: number): string {
      let crc = one;
      for (let size = zeros.length; size < bytes; size *= 2) crc = combineCrc32(crc, crc, size);
      return crc;
    }
  });

  test("what is no CRC32 is refused", () => {
    expect(() => combineCrc32("123", "00000000", 1)).toThrow(RangeError);
    expect(() => createDigester("crc16" as never)).toThrow(RangeError);
  });

  test("digests of different algorithms say nothing of each other", () => {
    expect(sameDigest({ algorithm: "crc32", value: "00000000" }, { algorithm: "md5", value: "00000000" })).toBeUndefined();
    expect(sameDigest(undefined, { algorithm: "md5", value: "00" })).toBeUndefined();
    expect(sameDigest({ algorithm: "md5", value: "AB" }, { algorithm: "md5", value: "ab" })).toBe(true);
    expect(sameDigest({ algorithm: "md5", value: "ab" }, { algorithm: "md5", value: "ac" })).toBe(false);
  });
});
