import assert from "node:assert/strict";
import { describeError, witness } from "./expectations.ts";
import type { Harness } from "./harness.ts";
import { readVersion, versionBytes } from "./whole-version.ts";

/** How many bytes a version has at the least. */
export const BASE_BYTES: number = 64 * 1024;

/** A new local file that holds a version. */
export async function versionFile(harness: Harness, version: number): Promise<string> {
  return harness.localFile(versionBytes(version, BASE_BYTES));
}

export interface Overwriting {
  /** Stores a version; settles when it is stored. */
  write(version: number): Promise<void>;
  /** Reads what is stored; `undefined` when nothing is. Defaults to a download of `shared.bin`. */
  read?: (() => Promise<Uint8Array | undefined>) | undefined;
  /** Whether an error of `read` is as good as an old or a new version. Defaults to never. */
  mayFail?: ((error: unknown) => boolean) | undefined;
}

/**
 * Overwrites one file again and again while two readers read it, until reads and writes have overlapped often enough. Every read
 * must be one whole version, no older than what was stored when it began.
 */
export async function readWhileWriting(harness: Harness, { write, read, mayFail }: Overwriting): Promise<void> {
  const wantedReads = harness.rounds(40, 400);
  const wantedWrites = harness.rounds(20, 200);
  const giveUpAt = performance.now() + 20_000;
  const seen = { writes: 0, overlapping: 0, after: 0 };
  let writing = false;
  let newest = 0;
  let finished = false;
  let broken = false;
  const readOnce = read ?? (() => harness.get("shared.bin"));
  await write(0);

  const writer = async (): Promise<void> => {
    try {
      for (let version = 1; !broken && performance.now() < giveUpAt; version++) {
        if (seen.overlapping >= wantedReads && seen.writes >= wantedWrites) break;
        writing = true;
        await write(version);
        writing = false;
        newest = version;
        seen.writes++;
      }
    } finally {
      finished = true;
    }
  };
  const reader = async (): Promise<void> => {
    try {
      while (!broken && (!finished || seen.after < 3)) {
        const began = { writing, newest, finished };
        const bytes = await readOnce().catch((error: unknown) => {
          if (mayFail?.(error)) return "failed" as const;
          throw new assert.AssertionError({ message: `a reader failed after ${seen.writes} replacements: ${describeError(error)}` });
        });
        if (bytes !== "failed") {
          assert.ok(bytes !== undefined, `the file was missing for a moment, after ${seen.writes} replacements`);
          const version = readVersion(bytes, BASE_BYTES);
          if (typeof version === "string")
            throw new assert.AssertionError({ message: `after ${seen.writes} replacements a reader saw ${version}` });
          assert.ok(version >= began.newest, `a reader saw version ${version} when version ${began.newest} had been stored`);
        }
        if (began.finished) seen.after++;
        else if (began.writing || writing) seen.overlapping++;
      }
    } catch (error) {
      broken = true;
      throw error;
    }
  };
  await Promise.all([writer(), reader(), reader()]);
  witness("reads during replacements", seen.overlapping, wantedReads);
  witness("replacements", seen.writes, wantedWrites);
  witness("reads after the last replacement", seen.after, 3);
}
