import * as z from "zod";

if (typeof z.strictObject !== "function") throw new Error("not zod");
