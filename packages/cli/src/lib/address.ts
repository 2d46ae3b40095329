import { escapePath, parseDirectoryPath, StowageError } from "@stowage/core";

/** A place that a person names on the command line. */
export type Address = WorkspaceAddress | LocalAddress | { readonly kind: "stream" };

/** `name:path`. */
export interface WorkspaceAddress {
  readonly kind: "workspace";
  readonly workspace: string;
  /** Valid inside a workspace, without a trailing `/`; `""` is its root. May be a pattern. */
  readonly path: string;
  /** Written with a trailing `/`, or the root: a directory and nothing else. */
  readonly isDirectory: boolean;
}

/** A path of this machine, as it was written. */
export interface LocalAddress {
  readonly kind: "local";
  readonly path: string;
  readonly isDirectory: boolean;
}

const WORKSPACE_NAME = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;

/**
 * `name:path` is a file in a workspace, `-` the standard stream, everything else a local path. A colon after the first `/` does not
 * count, so `./a:b` is the local file `a:b`. Throws `INVALID_ARGUMENT`.
 */
export function parseAddress(text: string): Address {
  if (text === "") throw invalid("an empty address; name a local path, or a file in a workspace as name:path");
  if (text.includes("\0")) throw invalid(`the address "${escapePath(text)}" holds NUL; remove it`);
  if (text === "-") return { kind: "stream" };
  const colon = text.indexOf(":");
  const slash = text.indexOf("/");
  if (colon === -1 || (slash !== -1 && slash < colon)) return { kind: "local", path: text, isDirectory: /(?:^|\/)\.{1,2}$|\/$/.test(text) };
  const workspace = text.slice(0, colon);
  if (!WORKSPACE_NAME.test(workspace)) {
    throw invalid(
      `"${escapePath(workspace)}" in "${escapePath(text)}" cannot be a workspace's name (letters, digits, ".", "_", "-"); for a local file whose name has a colon write "./${escapePath(text)}"`,
    );
  }
  const written = text.slice(colon + 1);
  try {
    const path = parseDirectoryPath(written);
    return { kind: "workspace", workspace, path, isDirectory: path === "" || written.endsWith("/") };
  } catch (error) {
    throw invalid(`${StowageError.is(error) ? error.message : String(error)} (in "${escapePath(text)}")`);
  }
}

/** As `parseAddress`, for a command that takes only workspaces. */
export function parseWorkspaceAddress(text: string): WorkspaceAddress {
  const address = parseAddress(text);
  if (address.kind === "workspace") return address;
  const hint = WORKSPACE_NAME.test(text) ? `; write "${text}:" for the root of the workspace "${text}"` : '; write "name:path"';
  throw invalid(`"${escapePath(text)}" names no workspace${hint}`);
}

/** A workspace by itself: `name` or `name:`. */
export function parseWorkspaceName(text: string): string {
  const name = text.endsWith(":") ? text.slice(0, -1) : text;
  if (WORKSPACE_NAME.test(name)) return name;
  const [first] = text.split(":", 1);
  const hint =
    first !== undefined && WORKSPACE_NAME.test(first)
      ? `; write "${first}" for the whole workspace`
      : "; write the name that the configuration gives it";
  throw invalid(`"${escapePath(text)}" is no workspace's name${hint}`);
}

/** As an address is written, safe to print. */
export function formatAddress(workspace: string, path: string): string {
  return `${workspace}:${escapePath(path)}`;
}

/** The last segment of a path; `""` of a root. */
export function baseName(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** A path below a directory of a workspace, either of which may be `""`. */
export function joinPath(directory: string, path: string): string {
  if (directory === "") return path;
  return path === "" ? directory : `${directory}/${path}`;
}

function invalid(message: string): StowageError {
  return new StowageError(message, { code: "INVALID_ARGUMENT" });
}
