import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll } from "vitest";

export interface TemporaryDirectory {
  readonly path: string;
  /** Writes a file there and gives its path. */
  write(name: string, content: string | Uint8Array): Promise<string>;
  join(...names: string[]): string;
}

/** A directory for the tests of one file. */
export function useTemporaryDirectory(): TemporaryDirectory {
  let path = "";
  beforeAll(async () => {
    path = await mkdtemp(join(tmpdir(), "stowage-test-"));
  });
  afterAll(async () => {
    await rm(path, { recursive: true, force: true });
  });
  return {
    get path() {
      return path;
    },
    async write(name, content) {
      await writeFile(join(path, name), content);
      return join(path, name);
    },
    join: (...names) => join(path, ...names),
  };
}
