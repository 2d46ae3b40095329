import fsExtra from "fs-extra";

if (typeof fsExtra.copy !== "function") throw new Error("not fs-extra");
