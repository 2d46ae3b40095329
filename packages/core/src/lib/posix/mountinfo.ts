import { readFileSync } from "node:fs";

/** One line of `/proc/self/mountinfo`: see proc_pid_mountinfo(5). */
export interface Mount {
  readonly mountId: number;
  readonly parentId: number;
  /** `major:minor`, which is not always what stat says of the files (btrfs). */
  readonly device: string;
  /** The directory of the file system that is mounted: `/` but for bind mounts and subvolumes. */
  readonly root: string;
  readonly mountPoint: string;
  /** Of this mount: `rw`, `ro`, `nosuid`, … */
  readonly options: readonly string[];
  /** Propagation: `shared:1`, `master:2`, … Often empty. */
  readonly optionalFields: readonly string[];
  /** `ext4`, `nfs4`, `fuse.rclone`, … */
  readonly type: string;
  /** What is mounted: a device, `server:/export`, or whatever a FUSE program calls itself. */
  readonly source: string;
  /** Of the file system, whoever mounts it: `rw`, `vers=4.2`, … */
  readonly superOptions: readonly string[];
}

/** Parses mountinfo. Lines that are not of its form are left out: a kernel may add what we do not know. */
export function parseMountInfo(text: string): Mount[] {
  const mounts: Mount[] = [];
  for (const line of text.split("\n")) {
    const mount = parseLine(line);
    if (mount !== undefined) mounts.push(mount);
  }
  return mounts;
}

function parseLine(line: string): Mount | undefined {
  const fields = line.split(" ");
  // The optional fields, any number of them, end with a field that is only a hyphen; none of the first six can be one.
  const separator = fields.indexOf("-", 6);
  if (separator < 0) return undefined;
  const [mountId, parentId, device, root, mountPoint, options] = fields;
  const [type, source, superOptions] = fields.slice(separator + 1);
  if (!/^\d+$/.test(mountId!) || !/^\d+$/.test(parentId!) || type === undefined) return undefined;
  return {
    mountId: Number(mountId),
    parentId: Number(parentId),
    device: device!,
    root: unescapeField(root!),
    mountPoint: unescapeField(mountPoint!),
    options: splitOptions(options!),
    optionalFields: fields.slice(6, separator),
    type: unescapeField(type),
    source: unescapeField(source ?? ""),
    superOptions: splitOptions(superOptions ?? ""),
  };
}

/** Space, tab, newline, backslash and `#` are written as `\` and three octal digits. */
function unescapeField(field: string): string {
  return field.replace(/\\([0-3][0-7]{2})/g, (_match, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

function splitOptions(options: string): string[] {
  return options === "" ? [] : options.split(",").map(unescapeField);
}

/** Every mount of this process's mount namespace. Throws where there is no /proc. */
export function readMounts(): Mount[] {
  return parseMountInfo(readFileSync("/proc/self/mountinfo", "utf8"));
}

/** The id of the mount that an open handle lies on, whatever has been mounted over its path since. Throws where there is no /proc. */
export function mountIdOfHandle(fd: number): number | undefined {
  const match = /^mnt_id:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"));
  return match === null ? undefined : Number(match[1]);
}

/** The mount that an open handle lies on; `undefined` when it has been unmounted meanwhile. */
export function findMountOfHandle(fd: number): Mount | undefined {
  const mountId = mountIdOfHandle(fd);
  return mountId === undefined ? undefined : readMounts().find((mount) => mount.mountId === mountId);
}
