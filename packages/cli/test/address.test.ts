import { isFilePath, StowageError } from "@stowage/core";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { formatAddress, joinPath, parseAddress, parseWorkspaceAddress, parseWorkspaceName } from "../src/lib/address.ts";

/** The message of the INVALID_ARGUMENT that `body` throws. */
function refusal(body: () => unknown): string {
  try {
    body();
  } catch (error) {
    if (StowageError.is(error) && error.code === "INVALID_ARGUMENT") return error.message;
    throw error;
  }
  throw new Error("nothing was refused");
}

describe("an address", () => {
  test.each([
    ["data:raw/a.csv", { kind: "workspace", workspace: "data", path: "raw/a.csv", isDirectory: false }],
    ["data:raw/", { kind: "workspace", workspace: "data", path: "raw", isDirectory: true }],
    ["data:", { kind: "workspace", workspace: "data", path: "", isDirectory: true }],
    ["data:/", { kind: "workspace", workspace: "data", path: "", isDirectory: true }],
    ["data:a:b", { kind: "workspace", workspace: "data", path: "a:b", isDirectory: false }],
    ["data:raw/*.csv", { kind: "workspace", workspace: "data", path: "raw/*.csv", isDirectory: false }],
    ["raw-2026.v1_a:x", { kind: "workspace", workspace: "raw-2026.v1_a", path: "x", isDirectory: false }],
    ["a.csv", { kind: "local", path: "a.csv", isDirectory: false }],
    ["./a:b", { kind: "local", path: "./a:b", isDirectory: false }],
    ["out/a:b", { kind: "local", path: "out/a:b", isDirectory: false }],
    ["/tmp/a:b", { kind: "local", path: "/tmp/a:b", isDirectory: false }],
    ["out/", { kind: "local", path: "out/", isDirectory: true }],
    [".", { kind: "local", path: ".", isDirectory: true }],
    ["..", { kind: "local", path: "..", isDirectory: true }],
    ["a/..", { kind: "local", path: "a/..", isDirectory: true }],
    ["...", { kind: "local", path: "...", isDirectory: false }],
    ["-", { kind: "stream" }],
    ["--", { kind: "local", path: "--", isDirectory: false }],
  ])("%s is read as it is meant", (text, address) => {
    expect(parseAddress(text)).toEqual(address);
  });

  test.each([
    ["", "empty"],
    ["my file:x", '"./my file:x"'],
    [":x", '"./:x"'],
    ["data:../x", '".."'],
    ["data:a//b", "empty segment"],
    ["data:/etc/passwd", "absolute"],
    ["data:.stowage/x", "reserved"],
    ["data:a\0b", "NUL"],
    ["data:\ud800", "well-formed"],
  ])("%j is refused with a remedy", (text, named) => {
    expect(refusal(() => parseAddress(text))).toContain(named);
  });

  test("the name of a workspace without its colon is recognised as such", () => {
    expect(refusal(() => parseWorkspaceAddress("data"))).toContain('write "data:"');
    expect(refusal(() => parseWorkspaceAddress("./data"))).toContain("names no workspace");
    expect(parseWorkspaceName("data:")).toBe("data");
    expect(parseWorkspaceName("data")).toBe("data");
    expect(refusal(() => parseWorkspaceName("data:raw"))).toContain('write "data"');
    expect(refusal(() => parseWorkspaceName("a b"))).toContain("no workspace's name");
  });

  test("every path that a workspace can hold can be addressed", () => {
    const name = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._-]{0,20}$/);
    const path = fc.string({ unit: "grapheme" }).filter(isFilePath);
    fc.assert(
      fc.property(name, path, (workspace, file) => {
        expect(parseAddress(`${workspace}:${file}`)).toEqual({ kind: "workspace", workspace, path: file, isDirectory: false });
      }),
    );
  });

  test("whatever follows ./ is a path of this machine", () => {
    fc.assert(
      fc.property(
        fc.string().filter((text) => !text.includes("\0")),
        (text) => {
          expect(parseAddress(`./${text}`)).toMatchObject({ kind: "local", path: `./${text}` });
        },
      ),
    );
  });

  test("nothing but an address or a refusal comes of any text", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        try {
          expect(["workspace", "local", "stream"]).toContain(parseAddress(text).kind);
        } catch (error) {
          expect(error).toMatchObject({ code: "INVALID_ARGUMENT" });
          expect((error as Error).message).not.toMatch(/[\u0000-\u001f\u007f]/);
        }
      }),
    );
  });

  test("is printed so that a name cannot move the cursor", () => {
    expect(formatAddress("data", "a\u001b[2Jb\n")).toBe("data:a\\u{1b}[2Jb\\u{a}");
  });

  test("paths are joined below directories, the root included", () => {
    expect([joinPath("", "a"), joinPath("a", ""), joinPath("a", "b/c")]).toEqual(["a", "a", "a/b/c"]);
  });
});
