import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hostBroker } from "@stowage/broker-host";
import type { ConformanceTarget, ConformanceTraits } from "../src/index.ts";

export const HOST_TRAITS: ConformanceTraits = {
  sharedWith: "machine",
  keepsModified: true,
  sortedListing: true,
  atomicMove: true,
  linksPartial: true,
  fileMode: 0o644,
};

/** The host broker on a directory of this machine. Also opened by the kit's worker processes. */
export const conformanceTarget: ConformanceTarget = {
  name: "host",
  definition: hostBroker,
  module: import.meta.url,
  traits: HOST_TRAITS,
  samples: {
    valid: [{ hostPath: "/data", fileMode: "0640", directoryMode: "0750", symlinks: "refuse", executor: "inline" }],
    invalid: [
      { config: {}, names: "hostPath" },
      { config: { hostPath: "relative/path" }, names: "hostPath" },
      { config: { hostPath: "/a/../b" }, names: "hostPath" },
      { config: { hostPath: "/data", fileMode: "rw-r--r--" }, names: "fileMode" },
      { config: { hostPath: "/data", executor: "sometimes" }, names: "executor" },
    ],
    unreachable: [{ hostPath: "/no/such/directory/anywhere" }],
  },
  open: async () => {
    const directory = await mkdtemp(join(tmpdir(), "stowage-host-"));
    return {
      config: { hostPath: directory },
      directory,
      cleanUp: () => rm(directory, { recursive: true, force: true }),
    };
  },
};
