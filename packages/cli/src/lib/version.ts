import { readFileSync } from "node:fs";

/** Put in by the bundler: the bundle may be copied to where no package.json is. */
declare const __STOWAGE_VERSION__: string | undefined;

/** The version of this command. */
export function commandVersion(): string {
  if (typeof __STOWAGE_VERSION__ === "string") return __STOWAGE_VERSION__;
  return (JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string }).version;
}
