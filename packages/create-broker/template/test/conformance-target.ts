import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ConformanceTarget } from "@stowage/broker-testkit";
import { flatBroker } from "../src/index.ts";

export const conformanceTarget: ConformanceTarget = {
  name: "flat",
  definition: flatBroker,
  package: { name: "stowage-broker-flat", version: "0.1.0" },
  // Some cases open this target in processes of their own, and kill them.
  module: import.meta.url,
  samples: {
    valid: [{ directory: "/data/entries" }],
    invalid: [{ config: { directory: "relative" }, names: "directory" }],
    unreachable: [{ directory: "/no/such/directory" }],
  },
  traits: {
    filesBelowFiles: true,
    keepsModified: true,
    keepsMediaType: true,
    keepsMetadata: true,
    knowsDigests: true,
    atomicMove: true,
    maximumSegmentBytes: Number.POSITIVE_INFINITY,
  },
  async open() {
    const directory = await mkdtemp(join(tmpdir(), "flat-"));
    return {
      config: { directory },
      // Lets the kit look for what a failed or killed upload has left.
      rawNames: () => readdir(directory),
      cleanUp: () => rm(directory, { recursive: true, force: true }),
    };
  },
};
