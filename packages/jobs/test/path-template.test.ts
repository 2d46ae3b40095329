import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { expandPathTemplate, PATH_TEMPLATE_VARIABLES, parsePathTemplate } from "../src/lib/path-template.ts";

const VALUES = { job: "mosaic", run: "r-1", output: "tiles", path: "north/a.tar.gz", date: new Date("2026-03-04T23:59:59.999Z") };

function expand(source: string, values: Partial<typeof VALUES> = {}): string {
  return expandPathTemplate(parsePathTemplate(source), { ...VALUES, ...values });
}

describe("path templates", () => {
  test.each([
    ["{job}/{run}/{path}", "mosaic/r-1/north/a.tar.gz"],
    ["{output}/{name}", "tiles/a.tar.gz"],
    ["{stem}.{extension}", "a.tar.gz"],
    ["{stem}", "a.tar"],
    ["{date}/{name}", "2026/03/04/a.tar.gz"],
    ["{{{job}}}", "{mosaic}"],
    ["fixed.txt", "fixed.txt"],
  ])("%s becomes %s", (source, path) => {
    expect(expand(source)).toBe(path);
  });

  test("the date is UTC's, not the machine's", () => {
    expect(expand("{date}", { date: new Date("2026-01-01T00:30:00+14:00") })).toBe("2025/12/31");
  });

  test("a file without an extension has an empty one, and a dot in front is none", () => {
    expect(expand("{stem}-{extension}", { path: "Makefile" })).toBe("Makefile-");
    expect(expand("{stem}-{extension}", { path: ".profile" })).toBe(".profile-");
  });

  test("an unknown variable is an error that names the nearest one", () => {
    expect(() => parsePathTemplate("{paht}")).toThrow(/unknown variable \{paht\} \(did you mean "path"\?\)/);
    expect(() => parsePathTemplate("{toString}")).toThrow(/unknown variable/);
  });

  test.each(["{job", "job}", "{", "}", "{job}}", "{{job}"])("%s has a brace too many", (source) => {
    expect(() => parsePathTemplate(source)).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
  });

  test.each(["", "/{path}", "../{path}", "{job}//{path}", "{path}/", "a/./{name}", ".stowage/{path}", "a\nb"])(
    "%j makes no path and is refused at once",
    (source) => {
      expect(() => parsePathTemplate(source)).toThrow(expect.objectContaining({ code: "INVALID_PATH" }));
    },
  );

  test("values that make no path are refused when they come", () => {
    const template = parsePathTemplate("{extension}/{name}");
    expect(() => expandPathTemplate(template, { ...VALUES, path: "Makefile" })).toThrow(expect.objectContaining({ code: "INVALID_PATH" }));
  });

  test("values are taken literally, braces and all", () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[{}a-z]{1,20}$/u), (path) => {
        expect(expand("x/{path}", { path })).toBe(`x/${path}`);
      }),
    );
  });

  test("text without braces stays as it is, text with braces can always be escaped", () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[a-z{}]{1,20}$/u), (text) => {
        expect(expand(text.replace(/[{}]/gu, "$&$&"))).toBe(text);
      }),
    );
  });

  test("every variable that is documented is known", () => {
    for (const name of Object.keys(PATH_TEMPLATE_VARIABLES)) expect(() => parsePathTemplate(`x{${name}}`)).not.toThrow();
  });
});
