import { openWorkspace } from "@stowage/core";

if (typeof openWorkspace !== "function") throw new Error("not Stowage");
