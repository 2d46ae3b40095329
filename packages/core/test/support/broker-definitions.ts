import * as z from "zod";
import { type BrokerDefinition, defineBroker } from "../../src/lib/broker-definition.ts";
import { createMemoryBroker } from "../../src/lib/memory-broker.ts";
import { type SecretSource, secret } from "../../src/lib/secrets.ts";

export interface DiskOptions {
  readonly hostPath: string;
  readonly fileMode?: string | undefined;
}

/** A broker without secrets. */
export const disk: BrokerDefinition<"disk", DiskOptions> = defineBroker({
  type: "disk",
  config: z.strictObject({ hostPath: z.string().min(1), fileMode: z.string().optional() }) as z.ZodType<DiskOptions, DiskOptions>,
  volume: ({ hostPath }) => ({ kind: "bind", source: hostPath }),
  open: async () => createMemoryBroker(),
});

export interface CloudConfig {
  readonly bucket: string;
  readonly credentials?: { readonly keyId: string; readonly secretKey: string } | undefined;
  readonly accounts: readonly { readonly user: string; readonly token: string }[];
  readonly tokens: Readonly<Record<string, string>>;
  readonly pins: readonly string[];
  readonly retries: number;
}

export interface CloudOptions {
  readonly bucket: string;
  readonly credentials?: { readonly keyId: string; readonly secretKey: string | SecretSource } | undefined;
  readonly accounts?: readonly { readonly user: string; readonly token: string | SecretSource }[] | undefined;
  readonly tokens?: Readonly<Record<string, string | SecretSource>> | undefined;
  readonly pins?: readonly (string | SecretSource)[] | undefined;
  readonly retries?: number | undefined;
}

export const cloudSchema: z.ZodType<CloudConfig, CloudOptions> = z.strictObject({
  bucket: z.string().min(3),
  credentials: z.strictObject({ keyId: z.string(), secretKey: secret(z.string().min(4)) }).optional(),
  accounts: z.array(z.strictObject({ user: z.string(), token: secret(z.string()) })).default([]),
  tokens: z.record(z.string(), secret(z.string())).default({}),
  pins: z.array(secret(z.string())).default([]),
  retries: z.int().min(0).default(3),
});

/** A broker with secrets in objects, arrays and records, and with defaults. */
export const cloud: BrokerDefinition<"cloud", CloudConfig, CloudOptions> = defineBroker({
  type: "cloud",
  config: cloudSchema,
  open: async () => createMemoryBroker(),
});

/** Makes every part of a JSON value read-only, so that whoever writes to it throws. */
export function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null) {
    for (const inner of Object.values(value)) deepFreeze(inner);
    Object.freeze(value);
  }
  return value;
}
