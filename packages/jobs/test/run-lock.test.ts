import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { lutimes, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { describeOwner } from "../src/lib/owner.ts";
import { acquireRunLock, runLockOwner } from "../src/lib/run-lock.ts";

let base: string;
let directory: string;

beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), "stowage-lock-"));
  directory = join(base, "job", "lock");
});
afterEach(() => rm(base, { recursive: true, force: true }));

const HOLDER = `
  import { acquireRunLock } from ${JSON.stringify(new URL("../src/lib/run-lock.ts", import.meta.url).href)};
  const [, directory, mode] = process.argv;
  if (mode === "hold") {
    await acquireRunLock(directory);
    process.stdout.write("held\\n");
    setInterval(() => {}, 1000);
  } else {
    // Take it as often as possible; whoever has it is alone.
    const { open, rm } = await import("node:fs/promises");
    let taken = 0;
    for (const until = Date.now() + 1500; Date.now() < until; ) {
      try {
        const lock = await acquireRunLock(directory);
        const alone = await open(directory + ".alone", "wx").catch(() => undefined);
        if (alone === undefined) { process.stdout.write("TWO AT ONCE\\n"); break; }
        await alone.close();
        taken++;
        await rm(directory + ".alone");
        await (taken % 2 === 0 ? lock.remove() : lock.release());
      } catch (error) {
        if (error.reason !== "already-running") { process.stdout.write(String(error.stack) + "\\n"); break; }
      }
    }
    process.stdout.write("taken " + taken + "\\n");
  }
`;

function start(mode: string): ChildProcess {
  return spawn(process.execPath, ["--input-type=module", "-e", HOLDER, "--", directory, mode], { stdio: ["ignore", "pipe", "inherit"] });
}

describe("the run lock", () => {
  test("is held by one at a time, and free once it is let go", async () => {
    const lock = await acquireRunLock(directory);
    expect(await runLockOwner(directory)).toEqual(describeOwner());
    await expect(acquireRunLock(directory)).rejects.toMatchObject({
      reason: "already-running",
      message: expect.stringContaining(`process ${process.pid}`),
    });
    await lock.release();
    expect(await runLockOwner(directory)).toBeUndefined();
    const next = await acquireRunLock(directory);
    await next.remove();
    expect(await readdir(join(base, "job"))).toEqual([]);
  });

  test("of a killed process goes to the next one", async () => {
    const holder = start("hold");
    await once(holder.stdout!, "data");
    await expect(acquireRunLock(directory)).rejects.toMatchObject({ reason: "already-running" });
    holder.kill("SIGKILL");
    await once(holder, "exit");
    const lock = await acquireRunLock(directory);
    expect(lock.owner.pid).toBe(process.pid);
    await lock.release();
  });

  test("is never held by two, however many processes fight for it", async () => {
    const fighters = [start("fight"), start("fight"), start("fight")];
    const outputs = await Promise.all(
      fighters.map(async (fighter) => {
        let output = "";
        for await (const chunk of fighter.stdout!) output += String(chunk);
        return output;
      }),
    );
    for (const output of outputs) expect(output).toMatch(/^taken [1-9]\d*\n$/);
  });

  test("of a holder that cannot be seen is kept while it shows life", async () => {
    await mkdir(directory, { recursive: true });
    const owner = { ...describeOwner()!, pidNamespace: "pid:[1]" };
    const path = join(directory, "next-root");
    await symlink(JSON.stringify({ token: "00", owner }), path);
    await expect(acquireRunLock(directory)).rejects.toMatchObject({ reason: "already-running" });
    const past = new Date(Date.now() - 700_000);
    await lutimes(path, past, past);
    await (await acquireRunLock(directory)).release();
    expect(await readdir(directory)).toEqual(["next-root", "reserve"]);
  });

  test("shows that it lives, for those who cannot see its process", async () => {
    const lock = await acquireRunLock(directory, { heartbeatMs: 20 });
    const past = new Date(0);
    await lutimes(join(directory, "next-root"), past, past);
    await new Promise((resolve) => setTimeout(resolve, 150));
    const { lstat } = await import("node:fs/promises");
    expect((await lstat(join(directory, "next-root"))).mtimeMs).toBeGreaterThan(Date.now() - 10_000);
    await lock.release();
  });

  test("does not touch what is not its own", async () => {
    await mkdir(directory, { recursive: true });
    await symlink("/etc/passwd", join(directory, "next-root"));
    await expect(acquireRunLock(directory)).rejects.toMatchObject({
      code: "CONFLICT",
      message: expect.stringContaining("no lock of ours"),
    });
    await rm(join(directory, "next-root"));
    await writeFile(join(directory, "next-root"), "x");
    await expect(acquireRunLock(directory)).rejects.toMatchObject({ code: "CONFLICT" });
  });

  test("removing a lock removes what killed askers left there, too", async () => {
    const lock = await acquireRunLock(directory);
    await symlink("probe", join(directory, "probe-1"));
    await symlink(JSON.stringify({ token: "00" }), join(directory, "next-11"));
    await lock.remove();
    expect(await readdir(join(base, "job"))).toEqual([]);
    await lock.release();
    await lock.remove();
    expect(await readdir(join(base, "job"))).toEqual([]);
  });

  test("a holder that lets go does not touch whoever came after it", async () => {
    const lock = await acquireRunLock(directory);
    await lock.remove();
    const next = await acquireRunLock(directory);
    await lock.release();
    expect(await readdir(directory)).toEqual(["next-root", "reserve"]);
    await next.remove();
  });
});
