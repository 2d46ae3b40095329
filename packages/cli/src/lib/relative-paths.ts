import { resolve } from "node:path";

/** Options of our own broker types that are paths of this machine. Brokers want them absolute; a file has a folder that they can begin at. */
const PATH_OPTIONS: Readonly<Record<string, readonly string[]>> = { host: ["hostPath"] };

/** A workspace's configuration with relative paths (of directories, of files that hold secrets) made absolute from `folder`; what was given stays as it is. */
export function resolveRelativePaths(workspace: Readonly<Record<string, unknown>>, folder: string): Record<string, unknown> {
  const { broker } = workspace;
  if (!isRecord(broker)) return { ...workspace };
  const names = typeof broker.type === "string" && Object.hasOwn(PATH_OPTIONS, broker.type) ? PATH_OPTIONS[broker.type]! : [];
  const options = Object.entries(broker).map(([key, value]) => [
    key,
    names.includes(key) && isRelative(value) ? resolve(folder, value) : resolveSecretFiles(value, folder),
  ]);
  return { ...workspace, broker: Object.fromEntries(options) };
}

function resolveSecretFiles(value: unknown, folder: string): unknown {
  if (Array.isArray(value)) return value.map((item: unknown) => resolveSecretFiles(item, folder));
  if (!isRecord(value)) return value;
  const { fromFile } = value;
  if (Object.keys(value).length === 1 && isRelative(fromFile)) return { fromFile: resolve(folder, fromFile) };
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, resolveSecretFiles(inner, folder)]));
}

function isRelative(value: unknown): value is string {
  return typeof value === "string" && value !== "" && !value.startsWith("/");
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
