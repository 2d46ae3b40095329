import { describe, test } from "node:test";
import { conformanceSuite } from "@stowage/broker-testkit";
import { conformanceTarget } from "./conformance-target.ts";

conformanceSuite(conformanceTarget, { describe, test });
