import { Agent as HttpAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";
import { Readable } from "node:stream";
import { S3Client, type S3ClientConfig } from "@aws-sdk/client-s3";
import { NodeHttpHandler } from "@smithy/node-http-handler";
import type { S3BrokerConfig, S3Credentials } from "./config.ts";

/** Bytes that are handed to a socket at once, so that what has left can be counted. */
const SLICE_BYTES = 256 * 1024;

const listeners = new WeakMap<Uint8Array, (bytes: number) => void>();

/** Tells `onSent` of the bytes of `body` as clients made by `createS3Client` send them. Gives whether anything was told. */
export function watchBody(body: Uint8Array, onSent: (bytes: number) => void): { readonly sent: () => number } {
  let sent = 0;
  listeners.set(body, (bytes) => {
    sent += bytes;
    onSent(bytes);
  });
  return { sent: () => sent };
}

type Handle = NodeHttpHandler["handle"];

/** Sends bodies in slices, after they were signed as a whole, so that progress is seen on the socket and a stalled one is told from a slow one. */
class CountingHandler extends NodeHttpHandler {
  override handle(request: Parameters<Handle>[0], options?: Parameters<Handle>[1]): ReturnType<Handle> {
    const body: unknown = request.body;
    const listener = body instanceof Uint8Array ? listeners.get(body) : undefined;
    if (!(body instanceof Uint8Array) || listener === undefined) return super.handle(request, options);
    const counted = request.clone?.() ?? request;
    counted.body = Readable.from(slices(body, listener), { objectMode: false, highWaterMark: SLICE_BYTES });
    return super.handle(counted, options);
  }
}

function* slices(body: Uint8Array, onSent: (bytes: number) => void): Generator<Uint8Array> {
  for (let position = 0; position < body.length; position += SLICE_BYTES) {
    const slice = body.subarray(position, position + SLICE_BYTES);
    yield slice;
    onSent(slice.length);
  }
}

/** A client as this broker wants it: no retries of its own (parts and files are repeated above), no trailers, checksums only where we send them. */
export async function createS3Client(config: S3BrokerConfig): Promise<S3Client> {
  const maxSockets = config.maxConnections ?? 64;
  const agent = { keepAlive: true, maxSockets, noDelay: true };
  const region = config.region ?? process.env.AWS_REGION ?? process.env.AWS_DEFAULT_REGION;
  const credentials = config.credentials === undefined ? undefined : await createCredentials(config.credentials, region);
  const options: S3ClientConfig = {
    ...(region !== undefined && { region }),
    ...(config.endpoint !== undefined && { endpoint: config.endpoint }),
    forcePathStyle: config.addressingStyle === undefined ? config.endpoint !== undefined : config.addressingStyle === "path",
    ...(credentials !== undefined && { credentials }),
    ...(config.credentials !== undefined && "profile" in config.credentials && { profile: config.credentials.profile }),
    ...(config.credentials !== undefined && "anonymous" in config.credentials && { signer: { sign: async (request) => request } }),
    maxAttempts: 1,
    requestChecksumCalculation: "WHEN_REQUIRED",
    responseChecksumValidation: "WHEN_REQUIRED",
    requestHandler: new CountingHandler({
      httpAgent: new HttpAgent(agent),
      httpsAgent: new HttpsAgent({ ...agent, ...(config.certificateAuthority !== undefined && { ca: config.certificateAuthority }) }),
      connectionTimeout: config.connectTimeoutMs ?? 10_000,
      socketTimeout: config.idleTimeoutMs ?? 60_000,
      // Waiting for a free connection is no fault: core bounds how many files move at once.
      socketAcquisitionWarningTimeout: 60_000,
    }),
  };
  if (region !== undefined) return new S3Client(options);
  // Profiles may name a region; where nothing does, most servers take this one.
  const client = new S3Client(options);
  try {
    await client.config.region();
    return client;
  } catch {
    client.destroy();
    return new S3Client({ ...options, region: "us-east-1" });
  }
}

async function createCredentials(
  credentials: S3Credentials,
  region: string | undefined,
): Promise<NonNullable<S3ClientConfig["credentials"]>> {
  if ("accessKeyId" in credentials) {
    const { accessKeyId, secretAccessKey, sessionToken } = credentials;
    return { accessKeyId, secretAccessKey, ...(sessionToken !== undefined && { sessionToken }) };
  }
  if ("anonymous" in credentials) return { accessKeyId: "", secretAccessKey: "" };
  // Loaded only where they are needed: they bring the clients of STS and SSO.
  const providers = await import("@aws-sdk/credential-providers");
  const clientConfig = region === undefined ? {} : { clientConfig: { region } };
  if ("profile" in credentials) return providers.fromIni({ profile: credentials.profile, ...clientConfig });
  const { arn, sessionName, externalId, durationSeconds } = credentials.role;
  return providers.fromTemporaryCredentials({
    params: {
      RoleArn: arn,
      RoleSessionName: sessionName ?? "stowage",
      ...(externalId !== undefined && { ExternalId: externalId }),
      ...(durationSeconds !== undefined && { DurationSeconds: durationSeconds }),
    },
    ...clientConfig,
  });
}
