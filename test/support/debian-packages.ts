import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/**
 * Makes sure that `command` can be run. With `STOWAGE_INSTALL=1` a missing one is installed from Debian's packages; otherwise the
 * reason for skipping is printed. Returns whether it is there.
 */
export function haveCommand(command: string, debianPackage: string): boolean {
  if (onPath(command)) return true;
  if (process.env.STOWAGE_INSTALL !== "1") {
    console.warn(`skipped: ${command} is not installed; install ${debianPackage}, or set STOWAGE_INSTALL=1 to let the tests do it`);
    return false;
  }
  withLock(() => {
    if (onPath(command)) return;
    const environment = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
    const install = (): number | null =>
      spawnSync("apt-get", ["install", "-y", "-qq", "--no-install-recommends", debianPackage], { env: environment, stdio: "ignore" })
        .status;
    if (install() !== 0) {
      execFileSync("apt-get", ["update", "-qq"], { env: environment, stdio: "ignore" });
      if (install() !== 0) throw new Error(`apt-get could not install ${debianPackage}, which brings ${command}`);
    }
  });
  return onPath(command);
}

/** Whether this process may mount: the tests that need another file system skip otherwise. */
export function haveMounts(): boolean {
  if (process.platform === "linux" && process.getuid?.() === 0) return true;
  console.warn("skipped: mounting needs root on Linux");
  return false;
}

function onPath(command: string): boolean {
  const folders = [...(process.env.PATH ?? "").split(":"), "/usr/sbin", "/sbin"];
  return folders.some((folder) => folder !== "" && existsSync(join(folder, command)));
}

/** One apt-get at a time over all test processes: a directory is made by exactly one of them. */
function withLock(action: () => void): void {
  const lock = join(tmpdir(), "stowage-test-apt.lock");
  const until = Date.now() + 300_000;
  for (;;) {
    try {
      mkdirSync(lock);
      break;
    } catch {
      if (Date.now() > until) throw new Error(`waited five minutes for ${lock}; remove it if no test run is using it`);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 250);
    }
  }
  try {
    action();
  } finally {
    rmdirSync(lock);
  }
}
