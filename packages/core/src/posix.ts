export { createPosixBroker, type PosixBroker, type PosixBrokerOptions } from "./lib/posix/posix-broker.ts";
export type { PosixVolume } from "./lib/posix/posix-commands.ts";
export { inspectVolume, type PosixExecutorOptions, type VolumeFacts } from "./lib/posix/posix-executor.ts";
export type { VolumeFileSystem } from "./lib/posix/volume-root.ts";
