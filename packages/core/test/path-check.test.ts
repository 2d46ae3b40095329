import fc from "fast-check";
import { expect, test } from "vitest";
import { isFilePath } from "../src/lib/file-path.ts";

/** The rule, word for word. */
function isPath(input: string): boolean {
  if (input === "" || !input.isWellFormed() || input.includes("\0")) return false;
  return input.split("/").every((segment) => segment !== "" && segment !== "." && segment !== ".." && !segment.startsWith(".stowage"));
}

test("the quick check of a path agrees with the rule on any text", () => {
  const piece = fc.constantFrom("/", ".", "..", ".stowage", ".stowage-1", ".hidden", "a", "a.b", "\0", "\ud800", "é", " ", "\\");
  const text = fc.oneof(
    fc.array(piece, { maxLength: 8 }).map((pieces) => pieces.join("")),
    fc.string({ unit: "binary" }),
  );
  fc.assert(
    fc.property(text, (input) => {
      expect(isFilePath(input)).toBe(isPath(input));
    }),
    { numRuns: 3000 },
  );
});
