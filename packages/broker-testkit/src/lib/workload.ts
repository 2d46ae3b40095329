import { createHash } from "node:crypto";
import { mkdir, open } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Digest } from "@stowage/core/broker";
import { oddPath } from "./hostile-names.ts";
import { createRandom } from "./random.ts";

export interface WorkloadOptions {
  /** The same seed gives the same files. */
  readonly seed: string | number;
  readonly files: number;
  /** Bytes, both ends included. Defaults to 0 to 64 KiB. */
  readonly sizes?: { readonly minimum: number; readonly maximum: number } | undefined;
  /** Segments of a path, at the most. Defaults to 4. */
  readonly depth?: number | undefined;
  /** `plain`: letters, digits, dashes. `odd`: any valid character. Defaults to `plain`. */
  readonly names?: "plain" | "odd" | undefined;
}

export interface WorkloadFile {
  readonly path: string;
  readonly size: number;
  readonly digest: Digest;
  /** The bytes, made anew at each call. */
  bytes(): Buffer;
}

/** Files with known paths, bytes and SHA-256: no path is another's directory, so that every backend can hold them. */
export function createWorkload(options: WorkloadOptions): WorkloadFile[] {
  const { minimum, maximum } = options.sizes ?? { minimum: 0, maximum: 64 * 1024 };
  const random = createRandom(`workload ${options.seed}`);
  const files: WorkloadFile[] = [];
  const taken = new Set<string>();
  for (let index = 0; index < options.files; index++) {
    // The number makes names differ, and ends each so that no file's name is a directory's.
    const directories = Array.from({ length: random.integer(0, (options.depth ?? 4) - 1) }, () => `d${random.integer(0, 5)}`);
    const name = options.names === "odd" ? `${oddPath(random, 1, 16)} ${index}.f` : `file-${random.word(4)}-${index}.f`;
    const path = [...directories, name].join("/");
    if (taken.has(path)) throw new Error(`a workload made "${path}" twice`);
    taken.add(path);
    const size = random.integer(minimum, maximum);
    const seed = `${options.seed} ${index}`;
    const bytes = (): Buffer => createRandom(seed).bytes(size);
    files.push({ path, size, digest: { algorithm: "sha256", value: createHash("sha256").update(bytes()).digest("hex") }, bytes });
  }
  return files;
}

/** Writes a workload below a local directory. */
export async function writeWorkload(directory: string, files: readonly WorkloadFile[]): Promise<void> {
  const made = new Set<string>();
  for (const file of files) {
    const path = join(directory, file.path);
    const parent = dirname(path);
    if (!made.has(parent)) {
      await mkdir(parent, { recursive: true });
      made.add(parent);
    }
    const handle = await open(path, "w");
    try {
      await handle.writeFile(file.bytes());
    } finally {
      await handle.close();
    }
  }
}
