import { hostBroker } from "@stowage/broker-host";
import { openWorkspace } from "@stowage/core";

if (typeof openWorkspace !== "function" || hostBroker.type !== "host") throw new Error("not Stowage");
