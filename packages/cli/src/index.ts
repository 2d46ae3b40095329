import { fileURLToPath } from "node:url";

/** The JavaScript file of the command, for programs that start it: `spawn(process.execPath, [commandPath, "ls", "data:"])`. */
export const commandPath: string = fileURLToPath(new URL("../bin/stowage.js", import.meta.url));
