import type { DigestAlgorithm } from "@stowage/core/broker";
import { DIGEST_ALGORITHMS, didYouMean, escapePath, parseFilePath, StowageError } from "@stowage/core/broker";
import * as z from "zod";
import { parseGlob } from "./glob.ts";
import { JobError, type JobProblem } from "./job-error.ts";
import { parsePathTemplate } from "./path-template.ts";

/**
 * Where files live: the name of a workspace that whoever runs the job knows (`stowage.yaml`), or a workspace's configuration, without
 * its name, right here.
 */
export type JobWorkspace =
  | string
  | { readonly broker: { readonly type: string; readonly [option: string]: unknown }; readonly [key: string]: unknown };

/** What the command gets to read. Exactly one of `path` and `glob` is given. */
export interface JobInput {
  /** Begins with a letter; letters, digits, `-` and `_`. The command finds it in `STOWAGE_INPUT_<NAME>`. */
  readonly name: string;
  readonly workspace: string;
  /** One file. */
  readonly path?: string | undefined;
  /** All files that match. */
  readonly glob?: string | undefined;
  /** The command reads only parts of it: with `trustJob` a link into the mounted workspace will do. */
  readonly partial: boolean;
  /** The job may run without it. */
  readonly optional: boolean;
}

/** What is stored of what the command wrote. */
export interface JobOutput {
  readonly name: string;
  /** Over paths inside the output directory. */
  readonly glob: string;
  readonly workspace: string;
  /** Template of the path in the workspace: see `PATH_TEMPLATE_VARIABLES`. */
  readonly path: string;
  /** Whether it is an error when nothing matches. */
  readonly required: boolean;
  /** What to do when the path is taken. */
  readonly ifExists: "replace" | "fail" | "skip-same";
}

export interface JobLimits {
  /** How long the command may run; `undefined`: as long as it likes. */
  readonly timeoutSeconds?: number | undefined;
  /** How long it has between being asked to end (SIGTERM) and being killed. */
  readonly graceSeconds: number;
  /** Files that inputs may match together. */
  readonly inputFiles: number;
  /** Files, and as many directories, that the output directory may hold. */
  readonly outputFiles: number;
  /** Bytes that they may have together. */
  readonly outputBytes: number;
  /** Directories that an output file may lie below, itself included. */
  readonly outputDepth: number;
  /** How much larger than its space on disk an output file may pretend to be. */
  readonly sparseRatio: number;
  /** Bytes kept of each of standard output and standard error. */
  readonly logBytes: number;
}

/** A job: what to stage in, what to run, what to store. Plain JSON. */
export interface JobSpec {
  readonly name: string;
  readonly workspaces: Readonly<Record<string, JobWorkspace>>;
  readonly inputs: readonly JobInput[];
  /** The program and its arguments. Empty: only for `stageIn` and `stageOut`. */
  readonly command: readonly string[];
  /** Absolute, or relative to the job file's folder, which is also its default. */
  readonly workingDirectory?: string | undefined;
  readonly environment: Readonly<Record<string, string>>;
  readonly outputs: readonly JobOutput[];
  readonly limits: JobLimits;
  /** How transfers are checked; `auto`: by what costs no extra pass over the bytes, at least by length. */
  readonly checksum: "auto" | DigestAlgorithm;
  /** The command may be handed links into mounted workspaces, through which it could change what is stored. */
  readonly trustJob: boolean;
  /** Store what there is also when the command fails. */
  readonly storeOnFailure: boolean;
}

type Defaulted<T, K extends keyof T> = Omit<T, K> & { readonly [Key in K]?: T[Key] | undefined };
export type JobInputOptions = Defaulted<JobInput, "partial" | "optional">;
export type JobOutputOptions = Defaulted<JobOutput, "path" | "required" | "ifExists">;

/** A job as one writes it: what has a default may be left out. */
export interface JobSpecInput {
  readonly name: string;
  readonly workspaces?: Readonly<Record<string, JobWorkspace>> | undefined;
  readonly inputs?: readonly JobInputOptions[] | undefined;
  readonly command?: readonly string[] | undefined;
  readonly workingDirectory?: string | undefined;
  readonly environment?: Readonly<Record<string, string>> | undefined;
  readonly outputs?: readonly JobOutputOptions[] | undefined;
  readonly limits?: Partial<JobLimits> | undefined;
  readonly checksum?: JobSpec["checksum"] | undefined;
  readonly trustJob?: boolean | undefined;
  readonly storeOnFailure?: boolean | undefined;
}

export const DEFAULT_OUTPUT_PATH = "{job}/{run}/{path}";

export const DEFAULT_JOB_LIMITS: JobLimits = {
  graceSeconds: 10,
  inputFiles: 100_000,
  outputFiles: 100_000,
  outputBytes: 1024 ** 4,
  outputDepth: 32,
  sparseRatio: 64,
  logBytes: 64 * 1024 ** 2,
};

const NAME = /^[A-Za-z][A-Za-z0-9_-]{0,63}$/u;
const WORKSPACE_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/u;
const JOB_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/u;

const IF_EXISTS = ["replace", "fail", "skip-same"] as const;
const CHECKSUMS = ["auto", ...DIGEST_ALGORITHMS] as const;

const text = (remedy: string) => z.string({ error: (issue) => wrongType(issue.input, "text", remedy) });
const flag = z.boolean({ error: (issue) => wrongType(issue.input, "true or false") });
const list = <T extends z.ZodType>(item: T, remedy: string) =>
  z.array(item, { error: (issue) => wrongType(issue.input, "a list", remedy) });
const named = (remedy: string) =>
  text(remedy).regex(NAME, 'is no name: begin with a letter, then letters, digits, "-" and "_", at most 64 characters');
const workspaceReference = text("name a workspace").regex(WORKSPACE_NAME, "is no name of a workspace");
const count = (minimum: number, maximum: number = Number.MAX_SAFE_INTEGER) =>
  z
    .number({ error: (issue) => wrongType(issue.input, "a number") })
    .int("is no whole number")
    .min(minimum, `is too small; at least ${minimum}`)
    .max(maximum, `is too large; at most ${maximum}`);

const inputSchema = z.strictObject(
  {
    name: named("give the input a name"),
    workspace: workspaceReference,
    path: text("give the path of a file in the workspace").optional(),
    glob: text("give a glob over paths in the workspace").optional(),
    partial: flag.default(false),
    optional: flag.default(false),
  },
  { error: notAnObject('give each input a "name", a "workspace", and a "path" or "glob"') },
);

const outputSchema = z.strictObject(
  {
    name: named("give the output a name"),
    glob: text('give a glob over the output directory; "**" matches everything'),
    workspace: workspaceReference,
    path: text("give a template of the path in the workspace").default(DEFAULT_OUTPUT_PATH),
    required: flag.default(true),
    ifExists: z.enum(IF_EXISTS, { error: (issue) => noneOf(issue.input, IF_EXISTS) }).default("replace"),
  },
  { error: notAnObject('give each output a "name", a "glob" and a "workspace"') },
);

const limitsSchema = z.strictObject(
  {
    timeoutSeconds: z
      .number({ error: (issue) => wrongType(issue.input, "a number") })
      .positive("is not positive; leave it out for no limit")
      .max(31_536_000, "is more than a year; leave it out for no limit")
      .optional(),
    graceSeconds: z
      .number({ error: (issue) => wrongType(issue.input, "a number") })
      .min(0, "is negative")
      .max(3600, "is more than an hour")
      .default(DEFAULT_JOB_LIMITS.graceSeconds),
    inputFiles: count(1, 10_000_000).default(DEFAULT_JOB_LIMITS.inputFiles),
    outputFiles: count(0, 10_000_000).default(DEFAULT_JOB_LIMITS.outputFiles),
    outputBytes: count(0).default(DEFAULT_JOB_LIMITS.outputBytes),
    outputDepth: count(1, 256).default(DEFAULT_JOB_LIMITS.outputDepth),
    sparseRatio: count(1).default(DEFAULT_JOB_LIMITS.sparseRatio),
    logBytes: count(0).default(DEFAULT_JOB_LIMITS.logBytes),
  },
  { error: notAnObject("write the limits as keys and numbers") },
);

const workspaceSchema = z.union([z.string(), z.looseObject({ broker: z.looseObject({ type: z.string() }) })], {
  error: 'is neither the name of a workspace nor a configuration; write "broker:" below it, with its "type"',
});

const jobSchema = z.strictObject(
  {
    name: text("give the job a name").regex(
      JOB_NAME,
      'is no name for a job: begin with a letter or digit, then letters, digits, ".", "-" and "_", at most 100 characters',
    ),
    workspaces: z
      .record(z.string(), workspaceSchema, { error: notAnObject("write a name, and below it what the workspace is") })
      .default({}),
    inputs: list(inputSchema, 'begin each input with "-"').default([]),
    command: list(text("quote it if it looks like a number"), "give the program and each argument: [node, main.js]").default([]),
    workingDirectory: text("give a directory").min(1, "is empty; leave it out for the job file's folder").optional(),
    environment: z
      .record(z.string(), text("quote it if it looks like a number"), { error: notAnObject("write names and values") })
      .default({}),
    outputs: list(outputSchema, 'begin each output with "-"').default([]),
    limits: limitsSchema.default(DEFAULT_JOB_LIMITS),
    checksum: z.enum(CHECKSUMS, { error: (issue) => noneOf(issue.input, CHECKSUMS) }).default("auto"),
    trustJob: flag.default(false),
    storeOnFailure: flag.default(false),
  },
  { error: notAnObject("write keys and values; name, command, inputs and outputs are the first") },
);

/** The JSON Schema of a job as one writes it; for editors. */
export function jobSpecJsonSchema(): Record<string, unknown> {
  return z.toJSONSchema(jobSchema, { io: "input" });
}

/**
 * Parses a job. Throws a `JobError` `invalid-job` whose message and `problems` name everything that is wrong with it. What has
 * been parsed parses again to the same.
 */
export function parseJobSpec(input: unknown): JobSpec {
  const result = jobSchema.safeParse(input);
  const problems = result.success ? findProblems(result.data) : result.error.issues.flatMap(describeIssue);
  if (!result.success || problems.length > 0) throw invalidJob(problems, nameOf(input));
  return result.data;
}

/** A `JobError` `invalid-job` for these problems. */
export function invalidJob(problems: readonly JobProblem[], name?: string | undefined): JobError {
  const described = problems.map(({ path, message }) => (path === "" ? `the job ${message}` : `${path} ${message}`));
  return new JobError(`invalid job${name === undefined ? "" : ` "${escapePath(name)}"`}: ${described.join("\n  ")}`, {
    reason: "invalid-job",
    problems,
  });
}

/** The environment variable in which the command finds the input `name`. */
export function inputVariable(name: string): string {
  return `STOWAGE_INPUT_${name.toUpperCase().replaceAll("-", "_")}`;
}

/** What the schema cannot say. */
function findProblems(job: z.output<typeof jobSchema>): JobProblem[] {
  const problems: JobProblem[] = [];
  const attempt = (path: string, check: () => void): void => {
    try {
      check();
    } catch (error) {
      if (!StowageError.is(error)) throw error;
      problems.push({ path, message: `is wrong: ${error.message}` });
    }
  };

  for (const name of Object.keys(job.workspaces)) {
    const path = `workspaces.${escapePath(name)}`;
    const workspace = job.workspaces[name]!;
    if (!JOB_NAME.test(name))
      problems.push({ path, message: 'is no name for a workspace: begin with a letter or digit, then letters, digits, ".", "-" and "_"' });
    if (workspace === "") problems.push({ path, message: "is empty; name a workspace" });
    if (typeof workspace === "object" && Object.hasOwn(workspace, "name")) {
      problems.push({ path: `${path}.name`, message: "is one name too many; remove it, the key above names the workspace" });
    }
  }

  const variables = new Map<string, string>();
  for (const [index, input] of job.inputs.entries()) {
    const at = `inputs[${index}]`;
    const variable = inputVariable(input.name);
    const other = variables.get(variable);
    if (other === input.name) problems.push({ path: `${at}.name`, message: `repeats "${input.name}"; give each input its own name` });
    else if (other !== undefined) {
      problems.push({ path: `${at}.name`, message: `"${input.name}" and "${other}" would both be ${variable}; rename one of them` });
    }
    variables.set(variable, input.name);
    if (input.path !== undefined && input.glob !== undefined) {
      problems.push({ path: at, message: 'has both "path" and "glob"; keep one of them' });
    } else if (input.path !== undefined) {
      attempt(`${at}.path`, () => parseFilePath(input.path!));
    } else if (input.glob !== undefined) {
      attempt(`${at}.glob`, () => parseGlob(input.glob!));
    } else {
      problems.push({ path: at, message: 'has neither "path" nor "glob"; say which file or files it is' });
    }
  }

  const outputs = new Set<string>();
  for (const [index, output] of job.outputs.entries()) {
    const at = `outputs[${index}]`;
    if (outputs.has(output.name)) problems.push({ path: `${at}.name`, message: `repeats "${output.name}"; give each output its own name` });
    outputs.add(output.name);
    attempt(`${at}.glob`, () => parseGlob(output.glob));
    attempt(`${at}.path`, () => parsePathTemplate(output.path));
  }

  for (const [index, word] of job.command.entries()) {
    if (word.includes("\0")) problems.push({ path: `command[${index}]`, message: "contains NUL; no program can be given that" });
  }
  if (job.command[0] === "") problems.push({ path: "command[0]", message: "is empty; name the program" });

  for (const [name, value] of Object.entries(job.environment)) {
    const at = `environment.${escapePath(name)}`;
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/u.test(name))
      problems.push({ path: at, message: "is no name of a variable: letters, digits and _, not a digit first" });
    else if (name.startsWith("STOWAGE_"))
      problems.push({ path: at, message: "is ours: names that begin STOWAGE_ are set by the run; rename it" });
    if (value.includes("\0")) problems.push({ path: at, message: "contains NUL; no program can be given that" });
  }
  return problems;
}

const KNOWN_KEYS: readonly [pattern: RegExp, keys: readonly string[]][] = [
  [/^$/u, Object.keys(jobSchema.shape)],
  [/^inputs\[\d+\]$/u, Object.keys(inputSchema.shape)],
  [/^outputs\[\d+\]$/u, Object.keys(outputSchema.shape)],
  [/^limits$/u, Object.keys(limitsSchema.shape)],
];

function describeIssue(issue: z.core.$ZodIssue): JobProblem[] {
  const path = formatPath(issue.path);
  if (issue.code !== "unrecognized_keys") return [{ path, message: issue.message }];
  const known = KNOWN_KEYS.find(([pattern]) => pattern.test(path))?.[1] ?? [];
  return issue.keys.map((key) => {
    const hint = didYouMean(key, known);
    return {
      path: path === "" ? escapePath(key) : `${path}.${escapePath(key)}`,
      message: `is unknown${hint === "" ? `; known keys are ${known.join(", ")}` : hint}`,
    };
  });
}

function formatPath(keys: readonly PropertyKey[]): string {
  return keys.reduce<string>((path, key) => {
    if (typeof key === "number") return `${path}[${key}]`;
    return path === "" ? escapePath(String(key)) : `${path}.${escapePath(String(key))}`;
  }, "");
}

function notAnObject(remedy: string): (issue: { readonly code?: string | undefined; readonly input?: unknown }) => string | undefined {
  return (issue) => (issue.code === "unrecognized_keys" ? undefined : wrongType(issue.input, "a mapping", remedy));
}

function wrongType(input: unknown, expected: string, remedy?: string): string {
  const instead = remedy === undefined ? "" : `; ${remedy}`;
  if (input === undefined) return `is missing${instead}`;
  return input === null ? `is empty${instead}, or leave it out` : `is ${kindOf(input)}, not ${expected}${instead}`;
}

function noneOf(input: unknown, known: readonly string[]): string {
  if (typeof input !== "string") return wrongType(input, `one of ${known.join(", ")}`);
  return `is "${escapePath(input)}"${didYouMean(input, known)}; known are ${known.join(", ")}`;
}

function kindOf(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  if (typeof value === "string") return "text";
  if (typeof value === "object") return "a mapping";
  return typeof value === "boolean" ? "true or false" : `a ${typeof value}`;
}

function nameOf(input: unknown): string | undefined {
  const name = typeof input === "object" && input !== null ? (input as { name?: unknown }).name : undefined;
  return typeof name === "string" && JOB_NAME.test(name) ? name : undefined;
}
