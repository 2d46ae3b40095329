import * as z from "zod";

/** What stands beside `type: host` in a workspace's configuration. */
export interface HostBrokerConfig {
  /** The directory that holds the workspace's files: absolute, on the machine where jobs run. */
  readonly hostPath: string;
  /** Demand that something is mounted at `hostPath` or above it, other than the root file system. Defaults to false; where a volume path is given, always. */
  readonly requireMount?: boolean | undefined;
  /** Whether links that stay inside the directory are followed for reading. Never for writing or deleting. Defaults to `"inside"`. */
  readonly symlinks?: "inside" | "refuse" | undefined;
  /** Permission bits of stored files, whatever the umask: `"0644"`, or a number as it is (`0o644`, not `644`). Defaults to `"0644"`. */
  readonly fileMode?: string | number | undefined;
  /** Permission bits of directories that are made. Defaults to `"0755"`. */
  readonly directoryMode?: string | number | undefined;
  /**
   * Where file work runs: `"process"` in child processes that can be killed when the file system hangs, `"inline"` in this process. `"auto"` chooses children
   * for network and FUSE file systems, and otherwise for what is large. Defaults to `"auto"`.
   */
  readonly executor?: "auto" | "inline" | "process" | undefined;
  /** A FUSE mount is read-only to us, since few of them keep what they are given before they say so; `"best-effort"` writes nevertheless. Defaults to `"refuse"`. */
  readonly fuseWrites?: "refuse" | "best-effort" | undefined;
}

/** The configuration as a schema. With `hostRoots`, `hostPath` must be one of these directories or lie below one. */
export function createHostConfig(hostRoots: readonly string[] | undefined): z.ZodType<HostBrokerConfig, HostBrokerConfig> {
  return z.strictObject({
    hostPath: hostPath(hostRoots),
    requireMount: z.boolean().optional(),
    symlinks: z.enum(["inside", "refuse"]).optional(),
    fileMode: mode(0o600, "fileMode").optional(),
    directoryMode: mode(0o700, "directoryMode").optional(),
    executor: z.enum(["auto", "inline", "process"]).optional(),
    fuseWrites: z.enum(["refuse", "best-effort"]).optional(),
  });
}

function hostPath(hostRoots: readonly string[] | undefined): z.ZodType<string, string> {
  return z.string().superRefine((path, context) => {
    const problem = describeBadPath(path, hostRoots);
    if (problem !== undefined) context.addIssue({ code: "custom", message: problem });
  });
}

function describeBadPath(path: string, hostRoots: readonly string[] | undefined): string | undefined {
  if (path.trim() === "") return 'is empty; name a directory, like "/data/workspace"';
  if (!path.startsWith("/")) return `"${path}" is relative; write it from "/" on`;
  if (path.includes("\0") || !path.isWellFormed()) return "holds NUL or is no well-formed Unicode";
  if (path.split("/").some((segment) => segment === "." || segment === ".."))
    return 'has a "." or ".." segment; name the directory directly';
  const normalized = normalizeHostPath(path);
  if (hostRoots !== undefined) {
    if (hostRoots.some((root) => isInside(normalized, normalizeHostPath(root)))) return undefined;
    return `"${path}" lies outside of what is allowed here: ${hostRoots.length === 0 ? "nothing is" : hostRoots.join(", ")}`;
  }
  return normalized === "/" ? "is the root of the whole file system; name a directory below it" : undefined;
}

function isInside(path: string, root: string): boolean {
  return root === "/" || path === root || path.startsWith(`${root}/`);
}

/** Without doubled slashes and one at the end. */
export function normalizeHostPath(path: string): string {
  const segments = path.split("/").filter((segment) => segment !== "");
  return `/${segments.join("/")}`;
}

function mode(least: number, name: string): z.ZodType<string | number, string | number> {
  return z.union([z.string(), z.number()]).superRefine((value, context) => {
    const problem = describeBadMode(value, least, name);
    if (problem !== undefined) context.addIssue({ code: "custom", message: problem });
  });
}

function describeBadMode(value: string | number, least: number, name: string): string | undefined {
  if (typeof value === "string" && !/^(0o?)?[0-7]{3}$/.test(value)) return `"${value}" is no mode; write three octal digits, like "0640"`;
  const bits = parseMode(value);
  if (!Number.isInteger(bits) || bits < 0 || bits > 0o777) return `${value} is no mode; write it as a string of octal digits, like "0640"`;
  if ((bits & least) === least) return undefined;
  return `${name} "0${bits.toString(8)}" would keep the owner itself out; it needs at least "0${least.toString(8)}"`;
}

/** The number that a mode stands for. */
export function parseMode(mode: string | number): number {
  return typeof mode === "number" ? mode : Number.parseInt(mode.replace(/^0o/, ""), 8);
}
