import { createHash } from "node:crypto";
import { extname } from "node:path/posix";
import { type StoredFile, StowageError } from "@stowage/core/broker";
import type { ObjectAttributes, ObjectInfo } from "./object-store.ts";

/** The upload that wrote an object, so that its next attempt knows it again. */
const ITEM_MARK = "stowage-item";
/** The move that made an object, so that it can be taken up after a crash. */
const MOVE_MARK = "stowage-move";
/** The source's time of modification in seconds, as rclone and s3fs write it. */
const TIME = "mtime";

const RESERVED: readonly string[] = [ITEM_MARK, MOVE_MARK, TIME];
const MAXIMUM_METADATA_BYTES = 2048;

/** What goes with a new object. Throws `INVALID_ARGUMENT` for metadata that S3 cannot keep. */
export function attributesOf(
  file: StoredFile,
  extra: { readonly modified?: Date | undefined; readonly itemId?: string | undefined },
): ObjectAttributes {
  const metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(file.metadata ?? {})) {
    if (!/^[a-z0-9_.-]+$/.test(name) || RESERVED.includes(name)) {
      throw refuse(
        file,
        `the name "${name}" is ${RESERVED.includes(name) ? "reserved" : "not one of lower-case letters, digits, dots and dashes"}`,
      );
    }
    metadata[name] = encodeValue(value);
  }
  const bytes = Object.entries(metadata).reduce((sum, [name, value]) => sum + name.length + value.length, 0);
  if (bytes > MAXIMUM_METADATA_BYTES) throw refuse(file, `it has ${bytes} bytes, S3 keeps ${MAXIMUM_METADATA_BYTES}`);
  if (extra.modified !== undefined) metadata[TIME] = (extra.modified.getTime() / 1000).toFixed(3);
  if (extra.itemId !== undefined) metadata[ITEM_MARK] = extra.itemId;
  return { contentType: file.mediaType ?? mediaTypeOf(file.path), metadata };
}

/** The same object's attributes at another key, marked as moved there. */
export function movedAttributes(info: ObjectInfo, mark: string | undefined): ObjectAttributes {
  const { [ITEM_MARK]: _item, [MOVE_MARK]: _move, ...metadata } = info.attributes.metadata;
  return { ...info.attributes, metadata: mark === undefined ? metadata : { ...metadata, [MOVE_MARK]: mark } };
}

/** Names one move of one state of one object. */
export function moveMark(key: string, info: ObjectInfo): string {
  return createHash("sha256")
    .update(`${key}\0${info.etag ?? ""}\0${info.versionId ?? ""}\0${info.size}`)
    .digest("hex")
    .slice(0, 32);
}

export function wasMovedBy(info: ObjectInfo | undefined, mark: string): boolean {
  return info?.attributes.metadata[MOVE_MARK] === mark;
}

export function wasWrittenBy(info: ObjectInfo | undefined, itemId: string | undefined): boolean {
  return itemId !== undefined && info?.attributes.metadata[ITEM_MARK] === itemId;
}

/** The time of modification that was stored with an object, else that of the object itself. */
export function modifiedOf(info: ObjectInfo): Date | undefined {
  const text = info.attributes.metadata[TIME];
  if (text === undefined || !/^\d{1,11}(\.\d+)?$/.test(text)) return info.modified;
  return new Date(Math.round(Number(text) * 1000));
}

/** The user's own metadata of an object. */
export function userMetadata(info: ObjectInfo): Readonly<Record<string, string>> | undefined {
  const own = Object.entries(info.attributes.metadata).filter(([name]) => !RESERVED.includes(name));
  return own.length === 0 ? undefined : Object.fromEntries(own.map(([name, value]) => [name, decodeValue(value)]));
}

// Headers carry ASCII: other values travel as the encoded words of RFC 2047, which S3 itself gives back for them.
function encodeValue(value: string): string {
  if (/^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$/.test(value) && !value.startsWith("=?")) return value;
  return value === "" ? "" : `=?UTF-8?B?${Buffer.from(value).toString("base64")}?=`;
}

function decodeValue(value: string): string {
  const match = /^=\?UTF-8\?([BQ])\?([^?]*)\?=$/i.exec(value);
  if (match === null) return value;
  if (match[1]?.toUpperCase() === "B") return Buffer.from(match[2] ?? "", "base64").toString("utf8");
  const bytes = (match[2] ?? "")
    .replaceAll("_", " ")
    .replace(/=([0-9A-F]{2})/gi, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
  return Buffer.from(bytes, "latin1").toString("utf8");
}

function refuse(file: StoredFile, reason: string): StowageError {
  return new StowageError(`this metadata cannot be stored: ${reason}`, { code: "INVALID_ARGUMENT", file: file.path });
}

const MEDIA_TYPES: Readonly<Record<string, string>> = {
  avif: "image/avif",
  avi: "video/x-msvideo",
  bin: "application/octet-stream",
  bmp: "image/bmp",
  bz2: "application/x-bzip2",
  css: "text/css",
  csv: "text/csv",
  gif: "image/gif",
  geojson: "application/geo+json",
  gz: "application/gzip",
  h5: "application/x-hdf5",
  htm: "text/html",
  html: "text/html",
  jp2: "image/jp2",
  jpeg: "image/jpeg",
  jpg: "image/jpeg",
  js: "text/javascript",
  json: "application/json",
  kml: "application/vnd.google-earth.kml+xml",
  log: "text/plain",
  md: "text/markdown",
  mjs: "text/javascript",
  mov: "video/quicktime",
  mp3: "audio/mpeg",
  mp4: "video/mp4",
  nc: "application/x-netcdf",
  ndjson: "application/x-ndjson",
  ntf: "application/vnd.nitf",
  nitf: "application/vnd.nitf",
  parquet: "application/vnd.apache.parquet",
  pdf: "application/pdf",
  png: "image/png",
  rtf: "application/rtf",
  svg: "image/svg+xml",
  tar: "application/x-tar",
  tgz: "application/gzip",
  tif: "image/tiff",
  tiff: "image/tiff",
  toml: "application/toml",
  tsv: "text/tab-separated-values",
  txt: "text/plain",
  wasm: "application/wasm",
  wav: "audio/wav",
  webm: "video/webm",
  webp: "image/webp",
  xml: "application/xml",
  xz: "application/x-xz",
  yaml: "application/yaml",
  yml: "application/yaml",
  zip: "application/zip",
  zst: "application/zstd",
};

/** By the end of the name; `undefined` for what is not known. */
export function mediaTypeOf(path: string): string | undefined {
  const extension = extname(path).slice(1).toLowerCase();
  return Object.hasOwn(MEDIA_TYPES, extension) ? MEDIA_TYPES[extension] : undefined;
}
