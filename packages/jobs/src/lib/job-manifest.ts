import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Digest, TransferMethod, Verification } from "@stowage/core/broker";
import { isSystemError, StowageError } from "@stowage/core/broker";
import { jobDirectory } from "./job-directory.ts";

/** One staged file. */
export interface ManifestFile {
  /** Path in the workspace. */
  readonly path: string;
  /** Relative to the job's directory; joined with wherever that is mounted. */
  readonly staged: string;
  /** Bytes. */
  readonly size: number;
  /** ISO 8601. */
  readonly modified?: string | undefined;
  readonly digest?: Digest | undefined;
  readonly version?: string | undefined;
  /** How it got here; `link` shares the stored file, absent: it was here already and the same. */
  readonly method?: TransferMethod | undefined;
  readonly verified: Verification;
}

export interface ManifestInput {
  readonly name: string;
  readonly workspace: string;
  /** Whether the job asked for one file or for all that match. */
  readonly kind: "file" | "files";
  /** Empty when an optional input is not there. */
  readonly files: readonly ManifestFile[];
}

/** `input.json` in the job's directory: what was staged in. */
export interface JobManifest {
  readonly version: 1;
  readonly job: string;
  readonly run: string;
  /** When the run began; ISO 8601. */
  readonly startedAt: string;
  readonly inputs: readonly ManifestInput[];
}

/** A staged file, and where it is for whoever read the manifest. */
export interface StagedFile extends ManifestFile {
  /** Absolute. */
  readonly localPath: string;
}

export interface StagedInput extends ManifestInput {
  /** The directory of this input's files. */
  readonly directory: string;
  readonly files: readonly StagedFile[];
}

/** The manifest as a job's program reads it. */
export interface StagedJob extends JobManifest {
  readonly directory: string;
  /** Write what is to be stored here. */
  readonly outputDirectory: string;
  readonly temporaryDirectory: string;
  readonly inputs: readonly StagedInput[];
  /** The input of that name; throws `INVALID_ARGUMENT` when the job has none. */
  input(name: string): StagedInput;
}

/**
 * For code inside a job: what was staged in, and where. `directory` defaults to `STOWAGE_JOB_DIRECTORY`. Throws `FILE_NOT_FOUND` when nothing was
 * staged there, `INVALID_CONFIGURATION` for a file that is no manifest.
 */
export async function readJobManifest(directory: string | undefined = process.env.STOWAGE_JOB_DIRECTORY): Promise<StagedJob> {
  if (directory === undefined || directory === "") {
    throw new StowageError(
      "no job directory: this does not run as the command of a job; give the directory, or set STOWAGE_JOB_DIRECTORY",
      { code: "INVALID_ARGUMENT" },
    );
  }
  const layout = jobDirectory(directory);
  const manifest = await loadManifest(layout.manifest);
  const inputs = manifest.inputs.map((input) => ({
    ...input,
    directory: join(layout.input, input.name),
    files: input.files.map((file) => ({ ...file, localPath: join(directory, file.staged) })),
  }));
  return {
    ...manifest,
    directory,
    outputDirectory: layout.output,
    temporaryDirectory: layout.temporary,
    inputs,
    input: (name) => {
      const found = inputs.find((input) => input.name === name);
      if (found !== undefined) return found;
      const names = inputs.map((input) => input.name).join(", ");
      throw new StowageError(`the job has no input "${name}"; it has ${names === "" ? "none" : names}`, { code: "INVALID_ARGUMENT" });
    },
  };
}

async function loadManifest(path: string): Promise<JobManifest> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (!isSystemError(error, "ENOENT", "ENOTDIR")) throw error;
    throw new StowageError(`there is no job manifest "${path}"; stage the job's inputs first`, { code: "FILE_NOT_FOUND", cause: error });
  }
  try {
    const value = JSON.parse(text) as Partial<JobManifest>;
    if (value.version === 1 && typeof value.job === "string" && typeof value.run === "string" && Array.isArray(value.inputs))
      return value as JobManifest;
  } catch {
    // Falls through: no JSON at all.
  }
  throw new StowageError(`"${path}" is no job manifest of version 1; stage the job's inputs again`, { code: "INVALID_CONFIGURATION" });
}
