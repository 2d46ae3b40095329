import fc from "fast-check";
import { expect, test } from "vitest";
import { didYouMean, nearestName } from "../src/lib/nearest-name.ts";

const keys = ["hostPath", "bucket", "region", "credentials", "requireMount", "type", "name"];

for (const [given, meant] of [
  ["hostpath", "hostPath"],
  ["host_path", "hostPath"],
  ["host-path", "hostPath"],
  ["hostPaht", "hostPath"],
  ["bucket_name", "bucket"],
  ["region_name", "region"],
  ["crednetials", "credentials"],
  ["tpye", "type"],
  ["path", "hostPath"],
] as const) {
  test(`"${given}" is near to "${meant}"`, () => expect(nearestName(given, keys)).toBe(meant));
}

test("what is near to nothing has no nearest name", () => {
  for (const name of ["zzz", "colour", "", "x", "a".repeat(500)]) expect(nearestName(name, keys)).toBeUndefined();
  expect(nearestName("host", [])).toBeUndefined();
});

test("a short name is found by one slip, not by two", () => {
  expect(nearestName("s4", ["s3", "nfs"])).toBe("s3");
  expect(nearestName("hots", ["host", "s3"])).toBe("host");
  expect(nearestName("xy", ["s3"])).toBeUndefined();
  expect(nearestName("a", ["b"])).toBeUndefined();
});

test("the hint is a question, or nothing", () => {
  expect(didYouMean("hostpath", keys)).toBe(' (did you mean "hostPath"?)');
  expect(didYouMean("zzz", keys)).toBe("");
});

test("every name is nearest to itself, whatever others there are", () => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.stringMatching(/^[a-z]{2,10}$/), { minLength: 1 }), (names) => {
      for (const name of names) expect(nearestName(name, names)).toBe(name);
    }),
  );
});
