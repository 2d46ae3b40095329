import { digestOf } from "@stowage/core/broker";
import type { S3Settings } from "./config.ts";
import type { BodyChecks } from "./object-store.ts";

/** What one body is checked by: always its CRC32; its MD5 where the server is sent it, or where its ETag will be compared. */
export function checksOf(body: Uint8Array, settings: Pick<S3Settings, "integrity" | "etag">): BodyChecks {
  const needsMd5 = settings.integrity === "md5" || (settings.integrity === "none" && settings.etag === "md5");
  return { crc32: digestOf(body, "crc32").value, md5: needsMd5 ? digestOf(body, "md5").value : undefined };
}
