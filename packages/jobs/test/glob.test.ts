import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { escapeGlob, parseGlob } from "../src/lib/glob.ts";

describe("globs", () => {
  test.each([
    ["*.csv", "a.csv", true],
    ["*.csv", "x/a.csv", false],
    ["*.csv", ".hidden.csv", true],
    ["*", "a\nb", true],
    ["**", "a/.b/c", true],
    ["**/*.tif", "a.tif", true],
    ["**/*.tif", "x/y/a.tif", true],
    ["data/**", "data/x/y", true],
    ["data/**", "data", false],
    ["data/**", "database/x", false],
    ["./data/*", "data/x", true],
    ["{a,b}/*.t", "b/x.t", true],
    ["{a,b}/*.t", "c/x.t", false],
    ["t{1..3}", "t2", true],
    ["[ab]c", "bc", true],
    ["?", "ab", false],
    ["+(a|b)", "abba", true],
    ["weird\\[1\\].txt", "weird[1].txt", true],
    ["plain (copy).txt", "plain (copy).txt", true],
    ["A.csv", "a.csv", false],
    ['"a"*', '"a"b', true],
    ["a\\*b", "a*b", true],
    ["a\\*b", "axb", false],
    ["a\\\\b*", "a\\bc", true],
    ["a\\\\\\\\b*", "a\\\\bc", true],
    ["a\\\\\\\\b*", "a\\bc", false],
    ["*\\\\\\\\", "x\\\\", true],
    ["\\[b*\\\\\\\\\\\\", "[b\\\\\\", true],
  ])("%j on %j: %s", (glob, path, expected) => {
    expect(parseGlob(glob).matches(path)).toBe(expected);
  });

  test.each([
    ["data/2026/*.csv", "data/2026", false],
    ["data/**/*.csv", "data", true],
    ["*.csv", "", false],
    ["**", "", true],
    ["{a,b}/*", "", true],
    ["a/b/c.txt", "a/b", false],
    ["c.txt", "", false],
    ["dir\\[1\\]/*.x", "dir[1]", false],
  ])("%j looks below %j, recursively: %s", (glob, base, recursive) => {
    expect(parseGlob(glob)).toMatchObject({ base, recursive });
  });

  test.each(["", "/abs", "a/../b", "./../x", "a//b", "dir/", "!a", "a\0b", "a\\", "a(b", "[ab", "{a,b", "\ud800"])(
    "%j is refused with a reason",
    (glob) => {
      expect(() => parseGlob(glob)).toThrow(
        expect.objectContaining({ code: "INVALID_ARGUMENT", message: expect.stringMatching(/^invalid glob ".*": ./su) }),
      );
    },
  );

  test("a glob of more than 1,024 characters is refused", () => {
    expect(() => parseGlob("x".repeat(1025))).toThrow(/1025 characters/);
    expect(() => parseGlob("x".repeat(1024))).not.toThrow();
  });

  const segment = fc
    .string({ minLength: 1, maxLength: 8, unit: fc.constantFrom(..."ab*?[]{}()!+@|\\\"'$^.,-é ") })
    .filter((text) => text !== "." && text !== "..");
  const path = fc.array(segment, { minLength: 1, maxLength: 3 }).map((segments) => segments.join("/"));

  test("an escaped path matches itself and no other", () => {
    fc.assert(
      fc.property(path, path, (one, other) => {
        const glob = parseGlob(escapeGlob(one));
        expect(glob.matches(one)).toBe(true);
        expect(glob.matches(other)).toBe(one === other);
      }),
    );
  });

  test("whatever matches lies below the base", () => {
    fc.assert(
      fc.property(path, path, (source, candidate) => {
        let glob: ReturnType<typeof parseGlob>;
        try {
          glob = parseGlob(source);
        } catch {
          return;
        }
        if (glob.matches(candidate) && glob.base !== "") expect(candidate.startsWith(`${glob.base}/`)).toBe(true);
        if (glob.matches(candidate) && !glob.recursive)
          expect(candidate.slice(glob.base === "" ? 0 : glob.base.length + 1)).not.toContain("/");
      }),
      { numRuns: 2000 },
    );
  });
});
