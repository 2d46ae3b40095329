import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { describe, expect, test } from "vitest";
import { describeOwner, type Owner, ownerLiveness, parseOwner } from "../src/lib/owner.ts";

const self = describeOwner()!;

async function untilDead(owner: Owner): Promise<string> {
  for (let attempt = 0; attempt < 100 && ownerLiveness(owner) !== "dead"; attempt++)
    await new Promise((resolve) => setTimeout(resolve, 20));
  return ownerLiveness(owner);
}

describe("owner liveness", () => {
  test("this process lives", () => {
    expect(self.pid).toBe(process.pid);
    expect(ownerLiveness(self)).toBe("live");
  });

  test("a process lives until it ends", async () => {
    const child = spawn("sleep", ["60"]);
    const owner = describeOwner(child.pid!)!;
    expect(ownerLiveness(owner)).toBe("live");
    child.kill("SIGKILL");
    await once(child, "exit");
    expect(ownerLiveness(owner)).toBe("dead");
    expect(describeOwner(child.pid!)).toBeUndefined();
  });

  test("a pid that somebody else has by now does not keep its first owner alive", () => {
    expect(ownerLiveness({ ...self, startTime: "1" })).toBe("dead");
  });

  test("a zombie is dead", async () => {
    // The shell becomes a sleep that never asks after its child.
    const parent = spawn("sh", ["-c", "sleep 0.2 & echo $!; exec sleep 30"], { stdio: ["ignore", "pipe", "ignore"] });
    try {
      const [output] = (await once(parent.stdout, "data")) as [Buffer];
      const owner = describeOwner(Number(output.toString()))!;
      expect(owner).toBeDefined();
      expect(await untilDead(owner)).toBe("dead");
      expect(spawnSync("ps", ["-o", "stat=", "-p", String(owner.pid)], { encoding: "utf8" }).stdout).toMatch(/^Z/);
    } finally {
      parent.kill("SIGKILL");
    }
  });

  test("what ran before this machine's last boot is dead", () => {
    expect(ownerLiveness({ ...self, bootId: "other" })).toBe("dead");
  });

  test("of another machine or container nobody here can know", () => {
    expect(ownerLiveness({ ...self, bootId: "other", host: "elsewhere" })).toBe("unknown");
    expect(ownerLiveness({ ...self, pidNamespace: "pid:[1]" })).toBe("unknown");
  });

  test("a command with spaces and parentheses in its name does not hide the start time", async () => {
    const child = spawn("sh", ["-c", "printf 'a) R (1 2' > /proc/self/comm; echo; exec 2>&-; read x"], {
      stdio: ["pipe", "pipe", "ignore"],
    });
    try {
      await once(child.stdout, "data");
      const owner = describeOwner(child.pid!)!;
      expect(Number(owner.startTime)).toBeGreaterThanOrEqual(Number(self.startTime));
      expect(ownerLiveness(owner)).toBe("live");
    } finally {
      child.kill("SIGKILL");
    }
  });

  test("survives JSON; anything else is no owner", () => {
    expect(parseOwner(JSON.parse(JSON.stringify(self)))).toEqual(self);
    for (const value of [
      undefined,
      null,
      1,
      "x",
      [],
      {},
      { ...self, pid: "1" },
      { ...self, pid: -1 },
      { ...self, pid: 1.5 },
      { ...self, bootId: 1 },
    ]) {
      expect(parseOwner(value)).toBeUndefined();
    }
  });
});
