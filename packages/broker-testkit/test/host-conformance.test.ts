import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, statfs, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { type ConformanceOptions, type ConformanceTarget, formatReport, runConformance } from "../src/index.ts";
import { conformanceTarget as hostTarget } from "./host-target.ts";
import { prefixTarget, readOnlyTarget } from "./targets.ts";

const run = promisify(execFile);
const canMount = process.platform === "linux" && process.geteuid?.() === 0;

async function expectPass(target: ConformanceTarget, options: ConformanceOptions = {}): Promise<ReturnType<typeof runConformance>> {
  const report = await runConformance(target, { concurrency: 4, ...options });
  expect(report.passed, formatReport(report)).toBe(true);
  expect(report.counts.undeclared, formatReport(report)).toBe(0);
  return report;
}

/** The host broker on a disk of its own, which can be filled; below it a second one. */
function diskTarget(options: { readonly mounted: boolean }): ConformanceTarget {
  return {
    ...hostTarget,
    name: options.mounted ? "host through a volume path" : "host on a small disk",
    module: undefined,
    open: async () => {
      const directory = await mkdtemp(join(tmpdir(), "stowage-disk-"));
      await run("mount", ["-t", "tmpfs", "-o", "size=64m", "stowage-test", directory]);
      const other = join(directory, "other-device");
      await mkdir(other);
      await run("mount", ["-t", "tmpfs", "-o", "size=16m", "stowage-test", other]);
      const filler = join(directory, ".filler");
      let struck = 0;
      return {
        config: options.mounted ? { hostPath: "/on/the/host" } : { hostPath: directory, requireMount: true },
        volumePath: options.mounted ? directory : undefined,
        directory,
        otherDeviceDirectory: "other-device",
        rawNames: undefined,
        faults: {
          supports: ({ kind, operation }) => kind === "no-space" && operation === "upload",
          async inject() {
            await writeFile(filler, "");
            await fill(filler);
            struck = 1;
          },
          struck: () => struck,
          clear: () => rm(filler, { force: true }),
        },
        async cleanUp() {
          await run("umount", ["-l", other]);
          await run("umount", ["-l", directory]);
          await rm(directory, { recursive: true, force: true });
        },
      };
    },
  };
}

async function fill(path: string): Promise<void> {
  const { bavail, bsize } = await statfs(path);
  await writeFile(path, Buffer.alloc(Math.max(0, bavail * bsize - 64 * 1024), 1));
}

describe("the host broker passes", () => {
  test("on a directory", { timeout: 300_000 }, async () => {
    const report = await expectPass(hostTarget);
    expect(report.complete).toBe(true);
  });

  test("with its work in other processes", { timeout: 300_000 }, async () => {
    const target: ConformanceTarget = {
      ...hostTarget,
      name: "host in processes",
      open: async () => {
        const place = await hostTarget.open();
        return { ...place, config: { ...place.config, executor: "process" } };
      },
    };
    // What differs there: bytes, races, faults, and what a kill leaves.
    const bytes = ["B15", "B20", "B139", "B151", "C37", "C43", "C45", "G97"];
    const ends = ["H102", "H102a", "H102c", "H102d", "H104", "H113", "I195", "I198", "I199", "J114"];
    await expectPass(target, { only: [...bytes, ...ends] });
  });

  test("below a prefix, and read-only", { timeout: 300_000 }, async () => {
    await expectPass(prefixTarget(hostTarget, "inner/part"), { only: ["B", "D", "F"] });
    await expectPass(readOnlyTarget(hostTarget), { only: ["C", "G"] });
  });

  test.skipIf(!canMount)("on a small disk with another below it", { timeout: 300_000 }, async () => {
    const report = await expectPass(diskTarget({ mounted: false }), { only: ["B15", "B26", "D55", "D55a", "D56", "H190"] });
    expect(report.cases.filter(({ status }) => status === "passed").map(({ id }) => id)).toEqual(["B15", "B26", "D55", "D55a", "H190"]);
  });

  test.skipIf(!canMount)("through a volume path, as in a container", { timeout: 300_000 }, async () => {
    const report = await expectPass(diskTarget({ mounted: true }), { only: ["A12", "A13", "B15", "C46", "C47", "F87", "F88", "G97"] });
    expect(report.counts.passed).toBe(8);
  });
});
