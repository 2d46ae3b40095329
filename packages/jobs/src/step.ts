// The process of a pre or post step, started by a runtime. Runs when it is imported.
import { serveStep } from "./lib/serve-step.ts";

process.exitCode = await serveStep(process.stdin, process.stdout);
// A file operation that hangs would keep this process for ever, and `process.exit` waits for it too. When nothing does, this timer does not count.
setTimeout(() => process.kill(process.pid, "SIGKILL"), 5000).unref();
