/**
 * The values that cross a package boundary: plain, JSON-like objects, so that two copies of this package understand each other.
 */

/** A parsed path inside a workspace; made by `parseFilePath`. Relative, `/`-separated, byte-exact. */
// The brand is a string key, not a unique symbol: brands of two installed copies must assign to each other.
export type FilePath = string & { readonly "~stowage.FilePath": 1 };

/** The algorithms that a broker may report or be asked for. */
export type DigestAlgorithm = "crc32" | "crc32c" | "crc64nvme" | "md5" | "sha1" | "sha256";

/** A digest of a whole file. */
export interface Digest {
  readonly algorithm: DigestAlgorithm;
  /** Lower-case hexadecimal, most significant byte first, with leading zeros. */
  readonly value: string;
}

/** A file as it is stored in a workspace. */
export interface StoredFile {
  readonly path: FilePath;
  /** Bytes. */
  readonly size?: number | undefined;
  readonly digest?: Digest | undefined;
  /** The backend's own name for this state of the file: a version id, an ETag. Opaque. */
  readonly version?: string | undefined;
  readonly mediaType?: string | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

/**
 * How a caller names a file: its path, or an object with what is known of it.
 * A `size` or `digest` that is given is a promise to be checked: a transfer that finds otherwise fails.
 */
export type FileInput =
  | string
  | {
      readonly path: string;
      readonly size?: number | undefined;
      readonly digest?: Digest | undefined;
      readonly version?: string | undefined;
      readonly mediaType?: string | undefined;
      readonly metadata?: Readonly<Record<string, string>> | undefined;
    };

/** What a listing or a stat tells of a file. */
export interface FileDetails {
  readonly file: StoredFile;
  /** Bytes. */
  readonly size: number;
  readonly modified?: Date | undefined;
}

/** Fetch `file` to `localPath`. */
export interface FileDownload {
  readonly file: FileInput;
  /** An absolute path, or one relative to the working directory. Missing parent directories are made. */
  readonly localPath: string;
  /** The job reads only parts of the file: a link into the mounted volume will do, where the consumer mounts it too. Defaults to false. */
  readonly partial?: boolean | undefined;
}

/** Store the regular file at `localPath` (a symbolic link is followed) as `file`. */
export interface FileUpload {
  readonly file: FileInput;
  readonly localPath: string;
}

/** Give `file` the path `newPath` in the same workspace. */
export interface FileMove {
  readonly file: FileInput;
  readonly newPath: string;
}

/** Bytes `start` (inclusive) to `end` (exclusive; the file's end when absent). */
export interface ByteRange {
  readonly start: number;
  readonly end?: number | undefined;
}

/** Names a secret of the container platform, never its value. */
export interface SecretReference {
  readonly secret: string;
}

/** What must be mounted into a container so that a broker works there. */
export type BrokerVolume =
  | { readonly kind: "bind"; readonly source: string }
  | {
      readonly kind: "nfs";
      readonly server: string;
      readonly exportPath: string;
      readonly subPath?: string | undefined;
      readonly version?: "3" | "4" | "4.1" | "4.2" | undefined;
      readonly mountOptions?: readonly string[] | undefined;
    }
  | {
      readonly kind: "driver";
      readonly driver: string;
      readonly remotePath: string;
      readonly options: Readonly<Record<string, string>>;
      readonly credentials?: SecretReference | undefined;
    };

/** How the bytes got there. `link` shares the stored file; every other method leaves an independent one. */
export type TransferMethod = "link" | "reflink" | "copy" | "rename" | "stream" | "multipart" | "server-copy";

/** What a transfer was checked by: a digest of the bytes, their number, or nothing. */
export type Verification = "digest" | "length" | "none";
