import { join } from "node:path";

/** Where everything of a run lies. Absolute paths. */
export interface JobDirectory {
  readonly path: string;
  /** `input/<input name>/<path below the glob's base>`. */
  readonly input: string;
  /** What the command writes here is its output. */
  readonly output: string;
  /** `TMPDIR` of the command. */
  readonly temporary: string;
  /** What was staged in, for the command to read. */
  readonly manifest: string;
  readonly logs: string;
  /** Ours alone: journal and lock. */
  readonly state: string;
  readonly journal: string;
  readonly lock: string;
}

/** The parts of a run's directory. */
export function jobDirectory(path: string): JobDirectory {
  const state = join(path, ".stowage");
  return {
    path,
    input: join(path, "input"),
    output: join(path, "output"),
    temporary: join(path, "tmp"),
    manifest: join(path, "input.json"),
    logs: join(path, "logs"),
    state,
    journal: join(state, "journal.jsonl"),
    lock: join(state, "lock"),
  };
}
