export type { HostBrokerConfig } from "./lib/config.ts";
export { createHostBroker, type HostBrokerSettings, hostBroker } from "./lib/host-broker.ts";
