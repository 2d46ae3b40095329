import { type FilePath, isFilePath, isReservedName, StowageError } from "@stowage/core/broker";

/** The longest key that S3 takes, in bytes of UTF-8. */
export const MAXIMUM_KEY_BYTES = 1024;

/** Paths of the workspace as keys of the bucket, and back. `prefix` is empty or ends in `/`. */
export interface KeySpace {
  readonly prefix: string;
  /** Throws `INVALID_PATH` where the key would be too long. */
  keyOf(path: FilePath): string;
  /** The key of something that no path can name: our own records. */
  reservedKey(name: string): string;
  /** What a key of this workspace stands for. */
  nameOf(key: string): KeyName;
}

export type KeyName =
  | { readonly kind: "file"; readonly path: FilePath }
  /** Ours, or one that stands for a directory. */
  | { readonly kind: "hidden" }
  | { readonly kind: "problem"; readonly reason: string };

export function createKeySpace(prefix: string): KeySpace {
  return {
    prefix,
    keyOf(path) {
      const key = `${prefix}${path}`;
      // A string of n UTF-16 units has at most 3n bytes of UTF-8.
      if (key.length * 3 > MAXIMUM_KEY_BYTES && Buffer.byteLength(key) > MAXIMUM_KEY_BYTES) {
        throw new StowageError(
          `invalid path: its key has ${Buffer.byteLength(key)} bytes, S3 allows ${MAXIMUM_KEY_BYTES}; shorten the names`,
          { code: "INVALID_PATH", file: path },
        );
      }
      return key;
    },
    reservedKey: (name) => `${prefix}.stowage/${name}`,
    nameOf(key) {
      const name = key.slice(prefix.length);
      if (name === "") return { kind: "hidden" };
      if (isFilePath(name)) return { kind: "file", path: name };
      // "a/" stands for the directory a, where consoles and FUSE mounts made one.
      const withoutSlash = name.endsWith("/") ? name.slice(0, -1) : name;
      if (withoutSlash !== name && isFilePath(withoutSlash)) return { kind: "hidden" };
      if (name.split("/").some(isReservedName)) return { kind: "hidden" };
      return { kind: "problem", reason: "no path can name this key: it has an empty, . or .. segment, NUL, or begins with /" };
    },
  };
}

/** The bucket's prefix as a configuration has it, in its one form: empty, or ending in `/`. */
export function normalizePrefix(prefix: string | undefined): string {
  if (prefix === undefined || prefix === "" || prefix === "/") return "";
  return prefix.endsWith("/") ? prefix : `${prefix}/`;
}

/** A key out of an answer with `encoding-type=url`; `undefined` where its bytes are no UTF-8. */
export function decodeKey(encoded: string): string | undefined {
  try {
    return decodeURIComponent(encoded.replaceAll("+", "%20"));
  } catch {
    return undefined;
  }
}

/** For `x-amz-copy-source`: a header, so everything but `/` and unreserved characters is escaped. */
export function copySource(bucket: string, key: string, versionId?: string | undefined): string {
  const path = `${bucket}/${key}`.split("/").map(encodeStrictly).join("/");
  return versionId === undefined ? path : `${path}?versionId=${encodeStrictly(versionId)}`;
}

function encodeStrictly(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`);
}

/** What XML 1.0 cannot hold, or what parsers change: such keys are deleted one by one. */
export function isPlainInXml(key: string): boolean {
  return !/[\u0000-\u001f\u007f-\u009f\u2028\ufffe\uffff]/.test(key);
}
