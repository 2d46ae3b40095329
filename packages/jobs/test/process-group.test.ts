import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { openLogFile } from "../src/lib/log-file.ts";
import { describeOwner } from "../src/lib/owner.ts";
import {
  createRunMark,
  findOrphans,
  findRecordedProcesses,
  killRecordedProcesses,
  killUntilGone,
  parseProcessRecord,
  RUN_MARK,
  recordProcess,
} from "../src/lib/process-group.ts";

const self = describeOwner()!;
const run = { runId: "r1", directory: `/scratch-${process.pid}/demo` };
const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
});

async function start(mark: string): Promise<ChildProcess & { readonly pid: number }> {
  const child = spawn("sleep", ["300"], { detached: true, env: { ...process.env, [RUN_MARK]: mark } });
  await once(child, "spawn");
  children.push(child);
  return child as ChildProcess & { readonly pid: number };
}

describe("recorded processes", () => {
  test("are found and killed by their group, or by their mark when the group has lost its leader", async () => {
    const mark = createRunMark({ ...run, runner: self });
    const leader = await start(mark);
    const record = recordProcess(leader.pid, mark)!;
    const other = await start(mark);
    expect(findRecordedProcesses([{ ...record, mark: "" }])).toEqual([leader.pid]);
    expect(findRecordedProcesses([record]).sort()).toEqual([leader.pid, other.pid].sort());
    leader.kill("SIGKILL");
    await once(leader, "exit");
    expect(findRecordedProcesses([record])).toEqual([other.pid]);
    expect(await killRecordedProcesses([parseProcessRecord(JSON.parse(JSON.stringify(record)))!])).toEqual([]);
    expect(findRecordedProcesses([record])).toEqual([]);
    expect(recordProcess(leader.pid, mark)).toBeUndefined();
  });

  test("that have another process's number by now are left alone", async () => {
    const bystander = await start("");
    const record = recordProcess(bystander.pid, "mark-of-a-run")!;
    expect(findRecordedProcesses([{ ...record, leader: { ...record.leader, startTime: "1" } }])).toEqual([]);
    expect(findRecordedProcesses([{ ...record, leader: { ...record.leader, bootId: "other" } }])).toEqual([]);
    // The same number and mark in another container are not ours to judge.
    const marked = await start("mark-of-a-run");
    expect(findRecordedProcesses([{ ...record, leader: { ...record.leader, pidNamespace: "pid:[1]" } }])).toEqual([]);
    expect(marked.exitCode).toBeNull();
  });

  test("anything else is no record", () => {
    const record = { group: self.pid, leader: self, mark: "" };
    expect(parseProcessRecord(record)).toEqual(record);
    for (const value of [
      undefined,
      1,
      {},
      { ...record, group: 1 },
      { ...record, group: "1" },
      { ...record, leader: {} },
      { ...record, mark: 1 },
    ]) {
      expect(parseProcessRecord(value)).toBeUndefined();
    }
  });

  test("are orphans when their runner is dead, not while it lives or cannot be seen", async () => {
    await start(createRunMark({ ...run, runner: self }));
    await start(createRunMark({ ...run, runner: { ...self, pidNamespace: "pid:[1]", pid: 1 } }));
    await start("not a mark of ours");
    const orphan = await start(createRunMark({ ...run, runner: { ...self, startTime: "1" } }));
    expect(findOrphans(({ directory }) => directory === run.directory)).toEqual([orphan.pid]);
    expect(findOrphans(({ directory, runId }) => directory === run.directory && runId === "r2")).toEqual([]);
  });

  test("that are about to appear are waited for", async () => {
    const marks = new Set<number>();
    setTimeout(() => void start("").then(({ pid }) => marks.add(pid)), 150);
    const find = (): number[] => [...marks].filter((pid) => recordProcess(pid, "") !== undefined);
    expect(await killUntilGone(find)).toEqual([]);
    expect(marks.size).toBe(0);
    expect(await killUntilGone(find, { lookMs: 500 })).toEqual([]);
    expect(marks.size).toBe(1);
  });
});

describe("log files", () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "stowage-log-"));
  });
  afterEach(() => rm(directory, { recursive: true }));

  test("keep the first bytes and count all", async () => {
    const path = join(directory, "log");
    const log = await openLogFile(path, 5);
    for (const text of ["ab", "", "cdef", "gh"]) await log.write(Buffer.from(text));
    expect(await log.close()).toEqual({ path, bytes: 8, truncated: true });
    expect(await readFile(path, "utf8")).toBe("abcde");
    const exact = await openLogFile(path, 5);
    await exact.write(Buffer.from("12345"));
    expect(await exact.close()).toEqual({ path, bytes: 5, truncated: false });
  });

  test("on a full disk lose what does not fit and say so", async () => {
    const log = await openLogFile("/dev/full", 100);
    await log.write(Buffer.from("abc"));
    await log.write(Buffer.from("abc"));
    expect(await log.close()).toEqual({ path: "/dev/full", bytes: 6, truncated: true });
  });
});
