import type { OperationContext, ParsedDownload, TransferDetails } from "@stowage/core/broker";
import { isFilePath } from "@stowage/core/broker";
import { createPosixBroker, type PosixBroker } from "@stowage/core/posix";
import type { Session } from "./session.ts";

/** The bucket as a file system, where somebody mounted it. Only ever read. */
export interface BucketMount {
  /** Links to the file in the mount, if it is there and as large as S3 says; `undefined` where it must be fetched. */
  link(session: Session, download: ParsedDownload, context: OperationContext): Promise<TransferDetails | undefined>;
  close(): Promise<void>;
}

/** `volumePath` is where the mount is to be found in this container, `hostPath` where it is on the machine. Nothing is opened before it is needed. */
export function createBucketMount(hostPath: string, volumePath: string | undefined): BucketMount {
  let opened: Promise<PosixBroker> | undefined;
  const open = (): Promise<PosixBroker> => {
    if (opened !== undefined) return opened;
    const opening = createPosixBroker({
      volume: {
        rootPath: volumePath ?? hostPath,
        // Whoever gives a volume path says that something is mounted there.
        requireMount: volumePath === undefined ? undefined : { types: [] },
        symlinks: "refuse",
        fileMode: 0o644,
        directoryMode: 0o755,
        fuseWrites: "refuse",
      },
    });
    opened = opening;
    // A mount that comes later is found then.
    opening.catch(() => {
      opened = undefined;
    });
    return opening;
  };

  return {
    async link(session, { file, localPath }, context) {
      const key = session.keys.keyOf(file.path);
      const info = await session.store.head(key, { signal: context.signal });
      if (info === undefined || !isFilePath(key) || (file.size !== undefined && file.size !== info.size)) return undefined;
      try {
        const mount = await open();
        const inMount = await mount.statFile({ path: key }, context);
        // A FUSE mount may show a file of another time; one of another size is one.
        if (inMount?.size !== info.size) return undefined;
        const details = await mount.downloadFile({ file: { path: key, size: info.size }, localPath, partial: true }, context);
        return { ...details, file: { ...details.file, path: file.path } };
      } catch (error) {
        context.signal.throwIfAborted();
        if ((error as { code?: unknown }).code === "FILE_EXISTS") throw error;
        context.log("info", "the bucket's mount cannot be used; the file is fetched instead", { error: String(error) });
        return undefined;
      }
    },
    async close() {
      await (await opened?.catch(() => undefined))?.close();
    },
  };
}
