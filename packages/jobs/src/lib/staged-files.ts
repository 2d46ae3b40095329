import { lstat } from "node:fs/promises";
import { join, posix } from "node:path";
import { isSystemError } from "@stowage/core/broker";
import type { StagedJob } from "./job-manifest.ts";
import { type PinnedDirectory, pinDirectory, pinSubdirectory, readEntries, statEntry } from "./pinned-directory.ts";
import { removeEntry } from "./remove-tree.ts";

/** Whether exactly what was staged is there, as it was. The command of an interrupted run may have changed it. */
export async function isStagedIntact(staged: StagedJob): Promise<boolean> {
  const files = staged.inputs.flatMap((input) => input.files);
  for (const { localPath, method, size, modified } of files) {
    try {
      const stats = await lstat(localPath);
      if (method === "link" ? !stats.isSymbolicLink() : !stats.isFile() || stats.size !== size || stats.mtime.toISOString() !== modified)
        return false;
    } catch (error) {
      if (isSystemError(error, "ENOENT", "ENOTDIR")) return false;
      throw error;
    }
  }
  let isExact = true;
  await findStrays(
    staged.directory,
    files.map(({ staged: path }) => path),
    staged.inputs.map(({ name }) => name),
    async () => {
      isExact = false;
    },
  );
  return isExact;
}

/**
 * Removes what an interrupted run left among the inputs and nobody asked for: temporary files of its downloads, what its command wrote there. `staged` are
 * the paths of files below the job's directory, `inputs` the names of all inputs. Gives what could not be removed.
 */
export async function removeStrayInputs(directory: string, staged: readonly string[], inputs: readonly string[]): Promise<string[]> {
  const leftovers: string[] = [];
  await findStrays(directory, staged, inputs, async (parent, name) => {
    leftovers.push(...(await removeEntry(parent, name)));
  });
  return leftovers;
}

type OnStray = (parent: PinnedDirectory, name: Buffer) => Promise<void>;

/** Tells of what is neither one of the files nor a directory on the way to one; of a directory without any only itself. */
async function findStrays(directory: string, staged: readonly string[], inputs: readonly string[], onStray: OnStray): Promise<void> {
  const files = new Set(staged);
  const directories = new Set(["input", ...inputs.map((name) => posix.join("input", name))]);
  for (const path of staged) {
    for (let parent = posix.dirname(path); !directories.has(parent); parent = posix.dirname(parent)) directories.add(parent);
  }
  const walk = async (pinned: PinnedDirectory, path: string): Promise<void> => {
    for await (const name of readEntries(pinned)) {
      const entry = posix.join(path, name.toString());
      const isDirectory = (await statEntry(pinned, name)).isDirectory();
      if (!isDirectory && files.has(entry)) continue;
      if (isDirectory && directories.has(entry)) await enter(() => pinSubdirectory(pinned, name), entry);
      else await onStray(pinned, name);
    }
  };
  const enter = async (pin: () => Promise<PinnedDirectory>, path: string): Promise<void> => {
    const pinned = await pin();
    try {
      await walk(pinned, path);
    } finally {
      await pinned.handle.close();
    }
  };
  try {
    await enter(() => pinDirectory(join(directory, "input")), "input");
  } catch (error) {
    if (!isSystemError(error, "ENOENT")) throw error;
  }
}
