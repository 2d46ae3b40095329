import { opendir, stat, unlink } from "node:fs/promises";
import { join } from "node:path";
import {
  assertUnchanged,
  type Broker,
  type BrokerDefinition,
  defineBroker,
  isReservedName,
  isSystemError,
  openLocalSource,
  publishLocalFile,
  type StoredFile,
  StowageError,
  systemErrorCode,
} from "@stowage/core/broker";
import * as z from "zod";
import { type Entry, entryName, type OpenEntry, openEntry, toDetails, toStoredFile } from "./entry.ts";
import { publishEntry } from "./publish.ts";
import { openFlatReader } from "./reader.ts";
import { createCheck, readBytes, wantedAlgorithm } from "./transfer.ts";

/** What stands beside `type: flat` in a workspace's configuration. */
export interface FlatBrokerConfig {
  /** An absolute path; the directory must be there. */
  readonly directory: string;
}

const config: z.ZodType<FlatBrokerConfig, FlatBrokerConfig> = z.strictObject({
  directory: z.string().startsWith("/", "write an absolute path"),
});

/** The broker type `flat`: every file is one entry of one directory. */
export const flatBroker: BrokerDefinition<"flat", FlatBrokerConfig> = defineBroker({
  type: "flat",
  config,
  async validate({ directory }) {
    if (await isDirectory(directory)) return [];
    return [{ name: "directory_missing", description: `there is no directory "${directory}"; make it, or name another` }];
  },
  async open({ directory }, { signal }) {
    signal.throwIfAborted();
    if (!(await isDirectory(directory))) {
      throw new StowageError(`there is no directory "${directory}"; make it, or name another`, { code: "INVALID_CONFIGURATION" });
    }
    return createFlatBroker(directory);
  },
});

function createFlatBroker(directory: string): Broker {
  const find = async (file: StoredFile): Promise<OpenEntry> => {
    try {
      return await openEntry(directory, entryName(file.path));
    } catch (error) {
      throw isSystemError(error, "ENOENT") ? new StowageError("no such file", { code: "FILE_NOT_FOUND", file: file.path }) : error;
    }
  };

  return {
    capabilities: { atomicReplace: true, ifAbsent: "exact" },

    async uploadFile({ file, localPath }, context) {
      const source = await openLocalSource(localPath);
      try {
        const entry = await publishEntry(directory, file.path, context, async (handle) => {
          const check = createCheck(file, [wantedAlgorithm(context)]);
          let size = 0;
          await readBytes(source.handle, source.size, context, async (chunk) => {
            check.update(chunk);
            await handle.writeFile(chunk);
            size += chunk.length;
          });
          await assertUnchanged(source.handle, source.stats);
          const { path, mediaType, metadata } = file;
          return { path, size, digest: check.end(), modified: source.modified.getTime(), mediaType, metadata };
        });
        return { file: toStoredFile(entry), method: "stream", bytes: entry.size, digest: entry.digest, verified: "digest" };
      } finally {
        await source.handle.close();
      }
    },

    async downloadFile({ file, localPath }, context) {
      const { handle, entry } = await find(file);
      try {
        let digest = entry.digest;
        await publishLocalFile(localPath, context, async (target) => {
          const check = createCheck(file, [wantedAlgorithm(context), entry.digest.algorithm]);
          await readBytes(handle, entry.size, context, async (chunk) => {
            check.update(chunk);
            await target.writeFile(chunk);
          });
          // Before the local file gets its name: what is wrong must not be seen.
          digest = check.end(entry.digest);
          return { modified: new Date(entry.modified) };
        });
        return { file: toStoredFile(entry), method: "stream", bytes: entry.size, digest, verified: "digest" };
      } finally {
        await handle.close();
      }
    },

    async moveFile({ file, newPath }, context) {
      const { handle, entry: old } = await find(file);
      let entry: Entry;
      try {
        // The path is part of the entry, so a move is a copy, checked against the digest, and then a deletion.
        entry = await publishEntry(directory, newPath, context, async (target) => {
          const check = createCheck(file, [old.digest.algorithm]);
          await readBytes(handle, old.size, context, async (chunk) => {
            check.update(chunk);
            await target.writeFile(chunk);
          });
          check.end(old.digest);
          return { ...old, path: newPath };
        });
      } finally {
        await handle.close();
      }
      await unlink(join(directory, entryName(file.path)));
      return { file: toStoredFile(entry), method: "copy", bytes: entry.size, digest: entry.digest, verified: "digest" };
    },

    async deleteFile(file, context) {
      context.signal.throwIfAborted();
      try {
        await unlink(join(directory, entryName(file.path)));
        return "deleted";
      } catch (error) {
        if (isSystemError(error, "ENOENT")) return "missing";
        throw error;
      }
    },

    async statFile(file) {
      try {
        const { handle, entry } = await openEntry(directory, entryName(file.path));
        await handle.close();
        return toDetails(entry);
      } catch (error) {
        if (isSystemError(error, "ENOENT")) return undefined;
        throw error;
      }
    },

    async *listFiles(listed, { recursive, startAfter, onProblem }, context) {
      // Names are digests: there is no order in which a listing could be taken up again.
      if (startAfter !== undefined) throw new StowageError("this broker's listings have no order", { code: "UNSUPPORTED" });
      const prefix = listed === "" ? "" : `${listed}/`;
      for await (const { name } of await opendir(directory, { bufferSize: 1024 })) {
        context.signal.throwIfAborted();
        if (isReservedName(name)) continue;
        let entry: Entry;
        try {
          const opened = await openEntry(directory, name);
          await opened.handle.close();
          entry = opened.entry;
        } catch (error) {
          if (!isSystemError(error, "ENOENT")) onProblem({ path: name, error });
          continue;
        }
        if (!entry.path.startsWith(prefix)) continue;
        if (!recursive && entry.path.includes("/", prefix.length)) continue;
        yield toDetails(entry);
      }
    },

    async openRead(file, { range }, context) {
      return openFlatReader(await find(file), file, range, context);
    },

    async *sweep({ olderThanMs }, context) {
      for await (const { name } of await opendir(directory, { bufferSize: 1024 })) {
        context.signal.throwIfAborted();
        if (!isReservedName(name)) continue;
        const path = join(directory, name);
        const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Number.POSITIVE_INFINITY }));
        if (Date.now() - mtimeMs < olderThanMs) continue;
        try {
          await unlink(path);
          yield name;
        } catch (error) {
          // Gone already: its writer has ended, or another sweep was quicker.
          if (!isSystemError(error, "ENOENT")) throw error;
        }
      }
    },

    errorCode(error) {
      if (StowageError.is(error)) return { code: error.code, retryable: error.retryable };
      return systemErrorCode(error) ?? "UNKNOWN";
    },

    async close() {},
  };
}

async function isDirectory(path: string): Promise<boolean> {
  return stat(path).then(
    (stats) => stats.isDirectory(),
    () => false,
  );
}
