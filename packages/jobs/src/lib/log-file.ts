import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import type { LogResult } from "./job-result.ts";

/** Keeps the first bytes of a stream in a file, and counts the rest. */
export interface LogFile {
  write(chunk: Uint8Array): Promise<void>;
  close(): Promise<LogResult>;
}

/** Makes or empties the file. What cannot be written (a full disk) is lost and counted; it does not stop the job. */
export async function openLogFile(path: string, maximumBytes: number): Promise<LogFile> {
  const handle: FileHandle = await open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW, 0o644);
  let bytes = 0;
  let kept = 0;
  let isFull = false;
  return {
    write: async (chunk) => {
      bytes += chunk.length;
      const room = isFull ? 0 : maximumBytes - kept;
      if (room <= 0 || chunk.length === 0) return;
      const part = chunk.subarray(0, room);
      try {
        for (let written = 0; written < part.length; ) {
          const { bytesWritten } = await handle.write(part, written);
          written += bytesWritten;
          kept += bytesWritten;
        }
      } catch {
        isFull = true;
      }
    },
    close: async () => {
      await handle.close();
      return { path, bytes, truncated: kept < bytes };
    },
  };
}
