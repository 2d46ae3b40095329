import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { JobError } from "../src/lib/job-error.ts";
import { DEFAULT_JOB_LIMITS, inputVariable, jobSpecJsonSchema, parseJobSpec } from "../src/lib/job-spec.ts";
import { resolveJobWorkspaces } from "../src/lib/job-workspaces.ts";

const MINIMAL = { name: "mosaic", command: ["true"] };
const FULL = {
  name: "mosaic",
  workspaces: { data: "shared-data", results: { broker: { type: "host", hostPath: "/results" }, readOnly: false } },
  inputs: [
    { name: "tiles", workspace: "data", glob: "tiles/**/*.tif", partial: true },
    { name: "style-sheet", workspace: "data", path: "styles/a.json", optional: true },
  ],
  command: ["node", "mosaic.js", ""],
  workingDirectory: "programs",
  environment: { MODE: "fast" },
  outputs: [{ name: "mosaic", glob: "*.tif", workspace: "results", path: "{date}/{name}", required: false, ifExists: "fail" }],
  limits: { timeoutSeconds: 0.5, outputFiles: 10 },
  checksum: "sha256",
  trustJob: true,
  storeOnFailure: true,
} as const;

function problemsOf(input: unknown): string[] {
  try {
    parseJobSpec(input);
  } catch (error) {
    if (!JobError.is(error)) throw error;
    expect(error.reason).toBe("invalid-job");
    for (const { message } of error.problems) expect(error.message).toContain(message);
    return error.problems.map(({ path, message }) => `${path} ${message}`);
  }
  return [];
}

describe("parseJobSpec", () => {
  test("fills in what was left out", () => {
    expect(parseJobSpec(MINIMAL)).toEqual({
      name: "mosaic",
      workspaces: {},
      inputs: [],
      command: ["true"],
      environment: {},
      outputs: [],
      limits: DEFAULT_JOB_LIMITS,
      checksum: "auto",
      trustJob: false,
      storeOnFailure: false,
    });
    const { inputs, outputs } = parseJobSpec({
      ...MINIMAL,
      inputs: [{ name: "a", workspace: "w", path: "x" }],
      outputs: [{ name: "b", workspace: "w", glob: "**" }],
    });
    expect(inputs[0]).toMatchObject({ partial: false, optional: false });
    expect(outputs[0]).toMatchObject({ path: "{job}/{run}/{path}", required: true, ifExists: "replace" });
  });

  test("takes everything that can be said, and what it made of it parses to the same again", () => {
    const job = parseJobSpec(FULL);
    expect(job).toMatchObject({ ...FULL, limits: { ...DEFAULT_JOB_LIMITS, ...FULL.limits } });
    expect(parseJobSpec(JSON.parse(JSON.stringify(job)))).toEqual(job);
  });

  test("does not change what it is given", () => {
    const input = structuredClone(FULL);
    parseJobSpec(input);
    expect(input).toEqual(FULL);
  });

  test.each<[string, unknown, RegExp]>([
    ["nothing", undefined, /is missing/],
    ["null, an empty file", null, /is empty/],
    ["a list", [], /is a list, not a mapping/],
    ["text", "job", /is text, not a mapping/],
    ["no name", { command: ["x"] }, /^name is missing; give the job a name/],
    ["a number for a name", { ...MINIMAL, name: 1 }, /^name is a number, not text/],
    ["a name with a slash", { ...MINIMAL, name: "a/b" }, /^name is no name for a job/],
    ["a name that is a parent", { ...MINIMAL, name: ".." }, /^name is no name for a job/],
    ["a name that is too long", { ...MINIMAL, name: "x".repeat(101) }, /^name is no name for a job/],
    ["a misspelt key", { ...MINIMAL, comand: [] }, /^comand is unknown \(did you mean "command"\?\)/],
    ["a short form", { ...MINIMAL, env: {} }, /^env is unknown \(did you mean "environment"\?\)/],
    ["a key like no other", { ...MINIMAL, zzzzzz: 1 }, /^zzzzzz is unknown; known keys are name, workspaces/],
    ["a command as one text", { ...MINIMAL, command: "ls -l" }, /^command is text, not a list; give the program and each argument/],
    ["a number as an argument", { ...MINIMAL, command: ["seq", 3] }, /^command\[1\] is a number, not text; quote it/],
    ["an empty program", { ...MINIMAL, command: [""] }, /^command\[0\] is empty/],
    ["NUL in an argument", { ...MINIMAL, command: ["a", "b\0"] }, /^command\[1\] contains NUL/],
    ["an empty working directory", { ...MINIMAL, workingDirectory: "" }, /^workingDirectory is empty/],
    ["a number in the environment", { ...MINIMAL, environment: { A: 1 } }, /^environment.A is a number, not text; quote it/],
    ["a variable of ours", { ...MINIMAL, environment: { STOWAGE_OUTPUT: "/" } }, /^environment.STOWAGE_OUTPUT is ours/],
    ["a variable that is none", { ...MINIMAL, environment: { "A=B": "" } }, /^environment.A=B is no name of a variable/],
    ["NUL in the environment", { ...MINIMAL, environment: { A: "\0" } }, /^environment.A contains NUL/],
    ["a mapping of inputs", { ...MINIMAL, inputs: {} }, /^inputs is a mapping, not a list/],
    ["an input that is text", { ...MINIMAL, inputs: ["x"] }, /^inputs\[0\] is text, not a mapping/],
    ["an input without a workspace", { ...MINIMAL, inputs: [{ name: "a", path: "x" }] }, /^inputs\[0\].workspace is missing/],
    [
      "an input with a misspelt key",
      { ...MINIMAL, inputs: [{ name: "a", workspace: "w", gob: "*" }] },
      /^inputs\[0\].gob is unknown \(did you mean "glob"\?\)/,
    ],
    [
      "an input with path and glob",
      { ...MINIMAL, inputs: [{ name: "a", workspace: "w", path: "x", glob: "*" }] },
      /^inputs\[0\] has both "path" and "glob"/,
    ],
    ["an input with neither", { ...MINIMAL, inputs: [{ name: "a", workspace: "w" }] }, /^inputs\[0\] has neither "path" nor "glob"/],
    [
      "an input path upwards",
      { ...MINIMAL, inputs: [{ name: "a", workspace: "w", path: "../x" }] },
      /^inputs\[0\].path is wrong: .*"\.\." segment/,
    ],
    [
      "an absolute input path",
      { ...MINIMAL, inputs: [{ name: "a", workspace: "w", path: "/etc/passwd" }] },
      /^inputs\[0\].path is wrong: .*absolute/,
    ],
    ["an input glob upwards", { ...MINIMAL, inputs: [{ name: "a", workspace: "w", glob: "../*" }] }, /^inputs\[0\].glob is wrong/],
    [
      "an input name with a digit first",
      { ...MINIMAL, inputs: [{ name: "1a", workspace: "w", path: "x" }] },
      /^inputs\[0\].name is no name/,
    ],
    ["an input name with a slash", { ...MINIMAL, inputs: [{ name: "a/b", workspace: "w", path: "x" }] }, /^inputs\[0\].name is no name/],
    [
      "partial as text",
      { ...MINIMAL, inputs: [{ name: "a", workspace: "w", path: "x", partial: "yes" }] },
      /^inputs\[0\].partial is text, not true or false/,
    ],
    ["an output without a glob", { ...MINIMAL, outputs: [{ name: "a", workspace: "w" }] }, /^outputs\[0\].glob is missing/],
    ["an output glob upwards", { ...MINIMAL, outputs: [{ name: "a", workspace: "w", glob: "../*" }] }, /^outputs\[0\].glob is wrong/],
    [
      "an unknown variable",
      { ...MINIMAL, outputs: [{ name: "a", workspace: "w", glob: "*", path: "{jbo}" }] },
      /^outputs\[0\].path is wrong: .*unknown variable \{jbo\} \(did you mean "job"\?\)/,
    ],
    [
      "an absolute template",
      { ...MINIMAL, outputs: [{ name: "a", workspace: "w", glob: "*", path: "/{name}" }] },
      /^outputs\[0\].path is wrong: .*absolute/,
    ],
    [
      "an unknown way with existing files",
      { ...MINIMAL, outputs: [{ name: "a", workspace: "w", glob: "*", ifExists: "skip" }] },
      /^outputs\[0\].ifExists is "skip" \(did you mean "skip-same"\?\)/,
    ],
    ["a misspelt limit", { ...MINIMAL, limits: { timeout: 3 } }, /^limits.timeout is unknown \(did you mean "timeoutSeconds"\?\)/],
    ["a negative time", { ...MINIMAL, limits: { timeoutSeconds: -1 } }, /^limits.timeoutSeconds is not positive/],
    ["a time that is text", { ...MINIMAL, limits: { timeoutSeconds: "5m" } }, /^limits.timeoutSeconds is text, not a number/],
    ["a fraction of a file", { ...MINIMAL, limits: { outputFiles: 1.5 } }, /^limits.outputFiles is no whole number/],
    ["a depth of none", { ...MINIMAL, limits: { outputDepth: 0 } }, /^limits.outputDepth is too small/],
    ["an unknown checksum", { ...MINIMAL, checksum: "sha-256" }, /^checksum is "sha-256" \(did you mean "sha256"\?\)/],
    ["trust as text", { ...MINIMAL, trustJob: "true" }, /^trustJob is text, not true or false/],
    [
      "a workspace that is a number",
      { ...MINIMAL, workspaces: { a: 1 } },
      /^workspaces.a is neither the name of a workspace nor a configuration/,
    ],
    ["a workspace without a type", { ...MINIMAL, workspaces: { a: { broker: {} } } }, /^workspaces.a is neither/],
    [
      "a workspace with a name inside",
      { ...MINIMAL, workspaces: { a: { name: "b", broker: { type: "host" } } } },
      /^workspaces.a.name is one name too many/,
    ],
    ["a workspace with a name like a path", { ...MINIMAL, workspaces: { "a/b": "c" } }, /^workspaces.a\/b is no name for a workspace/],
  ])("refuses %s", (_what, input, expected) => {
    expect(problemsOf(input)).toEqual([expect.stringMatching(expected)]);
  });

  test("refuses two inputs of one name, and two that would be one variable", () => {
    const input = { workspace: "w", path: "x" };
    expect(
      problemsOf({
        ...MINIMAL,
        inputs: [
          { name: "a", ...input },
          { name: "a", ...input },
        ],
      }),
    ).toEqual([expect.stringMatching(/^inputs\[1\].name repeats "a"/)]);
    expect(
      problemsOf({
        ...MINIMAL,
        inputs: [
          { name: "a-b", ...input },
          { name: "A_b", ...input },
        ],
      }),
    ).toEqual([expect.stringMatching(/^inputs\[1\].name "A_b" and "a-b" would both be STOWAGE_INPUT_A_B/)]);
  });

  test("refuses two outputs of one name", () => {
    const output = { name: "a", workspace: "w", glob: "*" };
    expect(problemsOf({ ...MINIMAL, outputs: [output, output] })).toEqual([expect.stringMatching(/^outputs\[1\].name repeats "a"/)]);
  });

  test("names everything that is wrong at once", () => {
    expect(problemsOf({ name: "a b", command: 1, inputs: [{}], extra: true })).toHaveLength(5);
  });

  test("does not let a message be torn by control characters in a key", () => {
    const [problem] = problemsOf({ ...MINIMAL, "a\u001b[2J\n": 1 });
    expect(problem).not.toMatch(/[\u0000-\u001f]/);
  });

  test("never fails otherwise, whatever it is given", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.anything(),
          fc.record({
            name: fc.constant("a"),
            inputs: fc.anything(),
            outputs: fc.anything(),
            limits: fc.anything(),
            workspaces: fc.anything(),
          }),
        ),
        (input) => {
          problemsOf(input);
        },
      ),
      { numRuns: 500 },
    );
  });

  test("its JSON Schema names every key", () => {
    const schema = jobSpecJsonSchema() as { properties: Record<string, unknown>; required: string[]; additionalProperties: unknown };
    expect(Object.keys(schema.properties)).toEqual(Object.keys(FULL));
    expect(schema.required).toEqual(["name"]);
    expect(schema.additionalProperties).toBe(false);
  });

  test("an input's variable is its name in capitals", () => {
    expect(inputVariable("style-sheet")).toBe("STOWAGE_INPUT_STYLE_SHEET");
  });
});

describe("resolveJobWorkspaces", () => {
  const host = { broker: { type: "host", hostPath: "/x" } };

  test("looks up aliases, and names that inputs and outputs use undeclared", () => {
    const job = parseJobSpec({
      ...MINIMAL,
      workspaces: { data: "shared-data" },
      inputs: [{ name: "a", workspace: "data", path: "x" }],
      outputs: [{ name: "o", workspace: "results", glob: "*" }],
    });
    const other = { broker: { type: "s3" } };
    expect(resolveJobWorkspaces(job, { "shared-data": host, results: other, unused: host }).workspaces).toEqual({
      data: host,
      results: other,
    });
  });

  test("a job's own configuration goes before a known one of that name", () => {
    const job = parseJobSpec({ ...MINIMAL, workspaces: { data: host }, inputs: [{ name: "a", workspace: "data", path: "x" }] });
    expect(resolveJobWorkspaces(job, { data: { broker: { type: "s3" } } }).workspaces).toEqual({ data: host });
  });

  test("names every workspace that is not there, and the nearest one", () => {
    const job = parseJobSpec({
      ...MINIMAL,
      workspaces: { alias: "reslts" },
      inputs: [{ name: "a", workspace: "dta", path: "x" }],
      outputs: [{ name: "o", workspace: "nowhere", glob: "*" }],
    });
    expect(() => resolveJobWorkspaces(job, { data: host, results: host })).toThrow(
      expect.objectContaining({
        reason: "invalid-job",
        problems: [
          { path: "workspaces.alias", message: expect.stringContaining('did you mean "results"') },
          { path: "inputs[0].workspace", message: expect.stringContaining('did you mean "data"') },
          { path: "outputs[0].workspace", message: expect.stringContaining("known are alias, data, results") },
        ],
      }),
    );
  });

  test("a known workspace that is no configuration is an error", () => {
    const job = parseJobSpec({ ...MINIMAL, inputs: [{ name: "a", workspace: "data", path: "x" }] });
    expect(() => resolveJobWorkspaces(job, { data: {} })).toThrow(/has no "broker"/);
    expect(() => resolveJobWorkspaces(parseJobSpec({ ...MINIMAL, inputs: [{ name: "a", workspace: "constructor", path: "x" }] }))).toThrow(
      /none is known/,
    );
  });
});
