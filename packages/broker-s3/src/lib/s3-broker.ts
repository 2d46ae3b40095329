import type { S3Client } from "@aws-sdk/client-s3";
import { StowageError } from "@stowage/core";
import {
  type Broker,
  type BrokerDefinition,
  type BrokerVolume,
  defineBroker,
  escapePath,
  type OpenContext,
  type OperationContext,
} from "@stowage/core/broker";
import { resolveS3Settings, type S3BrokerConfig, type S3Settings, s3Config } from "./config.ts";
import { copyFile, moveFile } from "./copy.ts";
import { deleteFile, deleteFiles } from "./deletion.ts";
import { assertBucket, downloadFile } from "./download.ts";
import { createKeySpace, normalizePrefix } from "./keys.ts";
import { listFiles } from "./listing.ts";
import type { ObjectStore } from "./object-store.ts";
import { type BucketMount, createBucketMount } from "./partial-link.ts";
import { createS3Client } from "./s3-client.ts";
import { classifyS3Error } from "./s3-errors.ts";
import { createSdkObjectStore } from "./sdk-object-store.ts";
import { type Session, storedFile } from "./session.ts";
import { openReader, openWriter } from "./streams.ts";
import { sweep } from "./sweep.ts";
import { uploadFile } from "./upload.ts";
import { validateS3 } from "./validate.ts";

declare module "@stowage/core" {
  interface BrokerTypes {
    s3: typeof s3Broker;
  }
}

/** A broker over S3: it can all that the contract knows, but for paths in a file system. */
export type S3Broker = Broker & Required<Pick<Broker, "copyFile" | "deleteFiles" | "openRead" | "openWrite" | "createSignedUrl" | "sweep">>;

/** The broker type `s3`: files in a bucket of Amazon's S3, or of whatever speaks its language. */
export const s3Broker: BrokerDefinition<"s3", S3BrokerConfig> = defineBroker({
  type: "s3",
  config: s3Config,
  volume: ({ hostPath }): BrokerVolume | undefined => (hostPath === undefined ? undefined : { kind: "bind", source: trimPath(hostPath) }),
  validate: async (config, context) => {
    const session = await openSession(config);
    try {
      return await validateS3(session, config, context);
    } finally {
      session.store.close();
    }
  },
  open: async (config: S3BrokerConfig, { signal, volumePath }: OpenContext): Promise<S3Broker> => {
    signal.throwIfAborted();
    const session = await openSession(config);
    const mount = config.hostPath === undefined ? undefined : createBucketMount(trimPath(config.hostPath), volumePath);
    return createBroker(session, mount);
  },
});

/** What any client of the AWS SDK's version 3 for S3 is. */
export interface S3ClientLike {
  // Loose on purpose: clients of another version of the SDK must fit.
  send(command: never, options?: { readonly abortSignal?: AbortSignal }): Promise<unknown>;
  readonly config: object;
}

export interface S3BrokerOptions
  extends Omit<
    S3BrokerConfig,
    | "endpoint"
    | "region"
    | "credentials"
    | "addressingStyle"
    | "maxConnections"
    | "certificateAuthority"
    | "connectTimeoutMs"
    | "idleTimeoutMs"
    | "hostPath"
  > {
  /** Carries every request; stays the caller's, who closes it. What it repeats by itself comes on top of what the workspace repeats. */
  readonly client: S3ClientLike;
}

/**
 * A broker with a client that exists already, for `new Workspace({ name, broker })`. Assumes of the server what holds everywhere (`integrity: "md5"`,
 * `conditionalWrites: "put"`) unless told more. Throws `INVALID_CONFIGURATION`.
 */
export function createS3Broker({ client, ...options }: S3BrokerOptions): S3Broker {
  const parsed = s3Config.safeParse(options);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw new StowageError(`createS3Broker: ${issue?.path.join(".") ?? ""}: ${issue?.message ?? "not valid"}`, {
      code: "INVALID_CONFIGURATION",
    });
  }
  const settings: S3Settings = {
    ...resolveS3Settings(parsed.data, normalizePrefix(options.prefix)),
    integrity: options.integrity ?? "md5",
    conditionalWrites: options.conditionalWrites ?? "put",
  };
  return createBroker(createSession(createSdkObjectStore(client as unknown as S3Client, settings, false), settings), undefined);
}

async function openSession(config: S3BrokerConfig): Promise<Session> {
  const client = await createS3Client(config);
  const region = await client.config.region().catch(() => "us-east-1");
  const settings: S3Settings = { ...resolveS3Settings(config, normalizePrefix(config.prefix)), region };
  return createSession(createSdkObjectStore(client, settings, true), settings);
}

function createSession(store: ObjectStore, settings: S3Settings): Session {
  return { store, settings, keys: createKeySpace(settings.prefix), canConditionPuts: true, bucketSeen: false };
}

function createBroker(session: Session, mount: BucketMount | undefined): S3Broker {
  const { store, keys, settings } = session;
  let closed = false;
  const begin = ({ signal }: Pick<OperationContext, "signal">): void => {
    if (closed) throw new StowageError("this S3 broker is closed", { code: "CLOSED" });
    signal.throwIfAborted();
  };

  return {
    capabilities: { atomicReplace: true, ifAbsent: settings.conditionalWrites === "full" ? "exact" : "best-effort" },

    async downloadFile(download, context) {
      begin(context);
      if (download.partial === true && mount !== undefined) {
        const linked = await mount.link(session, download, context);
        if (linked !== undefined) return linked;
      }
      return downloadFile(session, download, context);
    },

    async uploadFile(upload, context) {
      begin(context);
      return uploadFile(session, upload, context);
    },

    async moveFile(move, context) {
      begin(context);
      return moveFile(session, move, context);
    },

    async copyFile(copy, context) {
      begin(context);
      return copyFile(session, copy, context);
    },

    async deleteFile(file, context) {
      begin(context);
      return deleteFile(session, file, context);
    },

    async *deleteFiles(files, context) {
      begin(context);
      yield* deleteFiles(session, files, context);
    },

    async statFile(file, context) {
      begin(context);
      const info = await store.head(keys.keyOf(file.path), { signal: context.signal });
      if (info === undefined) {
        await assertBucket(session, context);
        return undefined;
      }
      const stored = storedFile(file, info, session);
      return { file: stored, size: info.size, modified: info.modified };
    },

    async *listFiles(directory, options, context) {
      begin(context);
      yield* listFiles(session, directory, options, context);
    },

    async openRead(file, { range }, context) {
      begin(context);
      return openReader(session, file, range, context);
    },

    async openWrite(file, options, context) {
      begin(context);
      return openWriter(session, file, options, context);
    },

    async createSignedUrl(file, { method, expiresInSeconds }, context) {
      begin(context);
      if (!(expiresInSeconds >= 1 && expiresInSeconds <= 604_800)) {
        throw new StowageError(`S3 signs for 1 second to 7 days, not for ${expiresInSeconds} seconds`, {
          code: "INVALID_ARGUMENT",
          file: file.path,
        });
      }
      if (settings.serverSideEncryption?.kind === "customer") {
        throw new StowageError("a signed URL cannot carry the customer's key", { code: "UNSUPPORTED", file: escapePath(file.path) });
      }
      return store.signUrl(keys.keyOf(file.path), { method, expiresInSeconds, contentType: method === "PUT" ? file.mediaType : undefined });
    },

    async *sweep(options, context) {
      begin(context);
      yield* sweep(session, options, context);
    },

    errorCode: classifyS3Error,

    async close() {
      if (closed) return;
      closed = true;
      store.close();
      await mount?.close();
    },
  };
}

function trimPath(path: string): string {
  return `/${path
    .split("/")
    .filter((segment) => segment !== "")
    .join("/")}`;
}
