import { appendFile, mkdtemp, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { openJournal, readJournal } from "../src/lib/journal.ts";

let directory: string;
let path: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "stowage-journal-"));
  path = join(directory, "deep", "journal.jsonl");
});
afterEach(() => rm(directory, { recursive: true }));

interface Line {
  readonly type: string;
  readonly n: number;
}
const line = (n: number): Line => ({ type: "test", n });

describe("the journal", () => {
  test("gives back what was appended, in order, also from appends at the same time", async () => {
    const journal = await openJournal<Line>(path);
    expect(journal.lines).toEqual([]);
    await Promise.all([journal.append(line(1), line(2)), journal.append(line(3)), journal.append(), journal.append(line(4))]);
    await journal.close();
    expect(await readJournal(path)).toEqual([1, 2, 3, 4].map(line));
    const again = await openJournal<Line>(path);
    expect(again.lines).toEqual([1, 2, 3, 4].map(line));
    await again.append(line(5));
    await again.close();
    expect(await readJournal(path)).toEqual([1, 2, 3, 4, 5].map(line));
  });

  test("is readable by its owner only", async () => {
    await (await openJournal(path)).close();
    expect((await stat(path)).mode & 0o777).toBe(0o600);
  });

  test("a missing journal is empty", async () => {
    expect(await readJournal(path)).toEqual([]);
  });

  test("cut off at any byte, it keeps every whole line and goes on after it", async () => {
    const journal = await openJournal<Line>(path);
    await journal.append(line(1), { type: "test", n: 2, text: "é\n" } as Line, line(3));
    await journal.close();
    const content = await readFile(path);
    await fc.assert(
      fc.asyncProperty(fc.nat({ max: content.length }), async (length) => {
        await writeFile(path, content);
        await truncate(path, length);
        const whole = content.subarray(0, length).toString("latin1").split("\n").length - 1;
        expect(await readJournal(path)).toHaveLength(whole);
        const reopened = await openJournal<Line>(path);
        await reopened.append(line(9));
        await reopened.close();
        const lines = await readJournal<Line>(path);
        expect(lines).toHaveLength(whole + 1);
        expect(lines.at(-1)).toEqual(line(9));
      }),
      { numRuns: 60 },
    );
  });

  test("a last line whose middle a crash has lost counts as torn", async () => {
    const journal = await openJournal<Line>(path);
    await journal.append(line(1));
    await journal.close();
    await appendFile(path, `{"type":"te\0\0\0\0}\n`);
    expect(await readJournal(path)).toEqual([line(1)]);
    const again = await openJournal<Line>(path);
    await again.append(line(2));
    await again.close();
    expect(await readJournal(path)).toEqual([line(1), line(2)]);
  });

  test("damage before the last line is an error, not a shorter history", async () => {
    const journal = await openJournal<Line>(path);
    await journal.append(line(1));
    await journal.close();
    await appendFile(path, 'garbage\n{"type":"test","n":2}\n');
    await expect(readJournal(path)).rejects.toMatchObject({ code: "CONFLICT", message: expect.stringContaining("damaged in line 2") });
    await expect(openJournal(path)).rejects.toMatchObject({ code: "CONFLICT" });
    expect(await readFile(path, "utf8")).toContain("garbage");
  });

  test("an append that fails is an error, and half a line of it does not stay", async () => {
    const journal = await openJournal<Line>(path);
    await journal.append(line(1));
    await journal.close();
    await expect(journal.append(line(2))).rejects.toThrow();
    expect(await readJournal(path)).toEqual([line(1)]);
  });
});
