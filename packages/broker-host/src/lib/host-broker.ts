import { type BrokerDefinition, defineBroker, type OpenContext, StowageError, type ValidationWarning } from "@stowage/core";
import { createPosixBroker, inspectVolume, type PosixVolume, type VolumeFacts } from "@stowage/core/posix";
import { createHostConfig, type HostBrokerConfig, normalizeHostPath, parseMode } from "./config.ts";

declare module "@stowage/core" {
  interface BrokerTypes {
    host: typeof hostBroker;
  }
}

export interface HostBrokerSettings {
  /**
   * The directories of this machine that configurations may name, or lie below: for services that take configurations from users. Absolute. What a link
   * leads to counts, not where it lies. Defaults to every directory but `/`.
   */
  readonly hostRoots?: readonly string[] | undefined;
}

/** The broker type `host`: files in a directory of the machine, reached directly or, in a container, where it is mounted. */
export const hostBroker: BrokerDefinition<"host", HostBrokerConfig> = createHostBroker();

/** `hostBroker` with bounds. Register one of the two. Throws `INVALID_ARGUMENT` for a root that is relative. */
export function createHostBroker(settings: HostBrokerSettings = {}): BrokerDefinition<"host", HostBrokerConfig> {
  const { hostRoots } = settings;
  for (const root of hostRoots ?? []) {
    if (!root.startsWith("/"))
      throw new StowageError(`hostRoots: "${root}" is relative; write it from "/" on`, { code: "INVALID_ARGUMENT" });
  }
  return defineBroker({
    type: "host",
    config: createHostConfig(hostRoots),
    volume: (config) => ({ kind: "bind", source: normalizeHostPath(config.hostPath) }),
    validate: (config, context) => validate(config, hostRoots, context),
    open: (config, { signal, volumePath }) =>
      createPosixBroker({
        volume: toVolume(config, hostRoots, volumePath),
        executor: { mode: config.executor ?? "auto" },
        signal,
      }),
  });
}

function toVolume(config: HostBrokerConfig, hostRoots: readonly string[] | undefined, volumePath: string | undefined): PosixVolume {
  return {
    rootPath: volumePath ?? normalizeHostPath(config.hostPath),
    // Whoever gives a volume path says that something is mounted there; a directory of the container itself would swallow the files.
    requireMount: volumePath !== undefined || config.requireMount === true ? { types: [] } : undefined,
    // In a container the path is the planner's, and where the host path leads is decided outside.
    insideOneOf: volumePath === undefined ? hostRoots : undefined,
    symlinks: config.symlinks ?? "inside",
    fileMode: parseMode(config.fileMode ?? 0o644),
    directoryMode: parseMode(config.directoryMode ?? 0o755),
    fuseWrites: config.fuseWrites ?? "refuse",
  };
}

async function validate(
  config: HostBrokerConfig,
  hostRoots: readonly string[] | undefined,
  { signal, volumePath }: OpenContext,
): Promise<readonly ValidationWarning[]> {
  const volume = toVolume(config, hostRoots, volumePath);
  let facts: VolumeFacts;
  try {
    facts = await inspectVolume(volume, signal);
  } catch (error) {
    if (!StowageError.is(error) || error.code === "INVALID_CONFIGURATION") throw error;
    return [{ name: "host_path_access", description: error.message }];
  }
  const warnings: ValidationWarning[] = [];
  if (facts.fileSystem.kind === "fuse" && config.fuseWrites !== "best-effort") {
    warnings.push({
      name: "host_path_fuse",
      description: `"${volume.rootPath}" lies on a FUSE mount (${facts.fileSystem.type}), which is only read from; set fuseWrites to "best-effort" to write there`,
    });
  } else if (!facts.isWritable) {
    warnings.push({
      name: "host_path_read_only",
      description: `nothing can be stored directly in "${volume.rootPath}" by this user; check its permissions, or whether it is mounted read-only`,
    });
  }
  return warnings;
}
