import { execFile } from "node:child_process";
import { closeSync, mkdirSync, mkdtempSync, openSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

const isSoak = process.env.STOWAGE_SOAK === "1";
const MIB = 1024 * 1024;
/** What nothing may rise above idle by, in MiB. */
const LIMIT = 150;

interface Report {
  readonly count: number;
  readonly parent: number;
  readonly child: number;
  readonly descriptors: number;
  readonly children: number;
}

describe.skipIf(process.platform !== "linux")("memory does not grow with the work", () => {
  let folder: string;
  let root: string;
  let local: string;

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "stowage-memory-"));
    root = join(folder, "root");
    local = join(folder, "local");
    mkdirSync(root);
    mkdirSync(local);
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  function measure(what: string, amount: number, executor: string): Promise<Report> {
    const script = fileURLToPath(new URL("./support/memory-worker.ts", import.meta.url));
    return new Promise((resolve, reject) => {
      execFile(process.execPath, ["--expose-gc", script, what, String(amount), root, local, executor], (error, stdout) => {
        if (error) return reject(error);
        const report = JSON.parse(stdout) as Report;
        console.log(
          `${what} ${amount} (${executor}): parent +${report.parent.toFixed(0)} MiB, child +${report.child.toFixed(0)} MiB above idle`,
        );
        resolve(report);
      });
    });
  }

  function expectModest({ parent, child, descriptors }: Report): void {
    expect(parent).toBeLessThan(LIMIT);
    expect(child).toBeLessThan(LIMIT);
    // Node itself may have opened one or two meanwhile.
    expect(descriptors).toBeLessThanOrEqual(2);
  }

  test.each(["inline", "process"])("with the size of one file (executor %s)", { timeout: 600_000 }, async (executor) => {
    const size = isSoak ? 4096 * MIB : 512 * MIB;
    writeFileSync(join(local, "big"), "");
    truncateSync(join(local, "big"), size);
    const report = await measure("file", size, executor);
    expect(report.count).toBe(size);
    expectModest(report);
    expect(readdirSync(root).sort()).toEqual(["big", "checked"]);
    expect(readdirSync(local).sort()).toEqual(["back", "big"]);
  });

  test.each(["inline", "process", "auto"])("with the number of files in a stream (executor %s)", { timeout: 900_000 }, async (executor) => {
    const files = isSoak ? 100_000 : 5000;
    writeFileSync(join(local, "small"), "small");
    const report = await measure("stream", files, executor);
    expect(report.count).toBe(files);
    expectModest(report);
    expect(readdirSync(root, { recursive: true, encoding: "utf8" }).filter((name) => name.includes(".stowage"))).toEqual([]);
  });

  test.each(["inline", "process", "auto"])(
    "with the number of names in one directory (executor %s)",
    { timeout: 900_000 },
    async (executor) => {
      const names = isSoak ? 1_000_000 : 60_000;
      mkdirSync(join(root, "many"));
      for (let index = 0; index < names; index++)
        closeSync(openSync(join(root, "many", `file-${String(index).padStart(7, "0")}.data`), "w"));
      const report = await measure("list", names, executor);
      expect(report.count).toBe(names);
      expectModest(report);
    },
  );
});
