import { posix } from "node:path";
import { didYouMean, type FilePath, parseTargetPath, StowageError } from "@stowage/core/broker";

/** What a template may use, and what it means. */
export const PATH_TEMPLATE_VARIABLES = {
  job: "the job's name",
  run: "the run's id",
  output: "the output's name",
  path: "the file's path inside the output directory",
  name: "the file's name: the last segment of its path",
  stem: "the file's name without its extension",
  extension: "what follows the last dot of the file's name, without the dot; may be empty",
  date: "the day on which the run began, in UTC: yyyy/mm/dd",
} as const;

export type PathTemplateVariable = keyof typeof PATH_TEMPLATE_VARIABLES;

const NAMES = Object.keys(PATH_TEMPLATE_VARIABLES) as PathTemplateVariable[];

type Part = { readonly text: string } | { readonly variable: PathTemplateVariable };

/** A template that has been parsed: every variable is known. */
export interface PathTemplate {
  readonly source: string;
  readonly parts: readonly Part[];
}

export interface PathTemplateValues {
  readonly job: string;
  readonly run: string;
  readonly output: string;
  /** The file's path inside the output directory. */
  readonly path: string;
  readonly date: Date;
}

/**
 * Parses `reports/{date}/{name}`. `{{` and `}}` stand for one brace. Throws `INVALID_ARGUMENT` for an unknown variable or a
 * brace without its partner, and `INVALID_PATH` when no file at all could have the resulting path (`/x`, `a/../b`).
 */
export function parsePathTemplate(source: string): PathTemplate {
  const parts: Part[] = [];
  let text = "";
  for (let index = 0; index < source.length; index++) {
    const character = source[index]!;
    if (character !== "{" && character !== "}") {
      text += character;
    } else if (source[index + 1] === character) {
      text += character;
      index++;
    } else if (character === "}") {
      throw invalid(source, `the "}" at character ${index + 1} closes nothing; write "}}" for a brace`);
    } else {
      const end = source.indexOf("}", index);
      if (end === -1) throw invalid(source, `the "{" at character ${index + 1} is not closed; write "{{" for a brace`);
      const variable = source.slice(index + 1, end);
      if (!isVariable(variable)) {
        throw invalid(
          source,
          `unknown variable {${variable}}${didYouMean(variable, NAMES)}; known are ${NAMES.map((name) => `{${name}}`).join(" ")}`,
        );
      }
      if (text !== "") parts.push({ text });
      text = "";
      parts.push({ variable });
      index = end;
    }
  }
  if (text !== "") parts.push({ text });
  const template: PathTemplate = { source, parts };
  // Values of the plainest kind: what they do not make a path of, nothing will.
  expandPathTemplate(template, { job: "job", run: "run", output: "output", path: "directory/name.extension", date: new Date(0) });
  return template;
}

/** The path in the workspace for one output file. Throws `INVALID_PATH` when the values do not make one. */
export function expandPathTemplate(template: PathTemplate, values: PathTemplateValues): FilePath {
  const path = template.parts.map((part) => ("text" in part ? part.text : variableValue(part.variable, values))).join("");
  return parseTargetPath(path);
}

function variableValue(variable: PathTemplateVariable, values: PathTemplateValues): string {
  switch (variable) {
    case "name":
      return posix.basename(values.path);
    case "stem":
      return posix.parse(values.path).name;
    case "extension":
      return posix.extname(values.path).slice(1);
    case "date":
      return values.date.toISOString().slice(0, 10).replaceAll("-", "/");
    default:
      return values[variable];
  }
}

function isVariable(name: string): name is PathTemplateVariable {
  return Object.hasOwn(PATH_TEMPLATE_VARIABLES, name);
}

function invalid(source: string, problem: string): StowageError {
  return new StowageError(`invalid path template "${source}": ${problem}`, { code: "INVALID_ARGUMENT" });
}
