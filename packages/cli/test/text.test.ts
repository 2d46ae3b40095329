import { readFileSync } from "node:fs";
import { EXIT_CODES } from "@stowage/jobs";
import { InvalidArgumentError } from "commander";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { COMMANDS } from "../src/lib/command-table.ts";
import { formatListedDigest, parseListedDigest } from "../src/lib/contents.ts";
import { formatBytes, formatCount, formatDuration, formatTable, formatTime } from "../src/lib/format.ts";
import { gatherPairs, parseBytes, parseCount, parseDuration } from "../src/lib/option-values.ts";
import { createOutput, type Output, shorten, type TextStream } from "../src/lib/output.ts";
import { createProgressBar, drawProgress } from "../src/lib/progress.ts";

describe("numbers for people", () => {
  test.each([
    [0, "0 B"],
    [1023, "1023 B"],
    [1024, "1 KiB"],
    [1536, "1.5 KiB"],
    [1024 * 1023.6, "1 MiB"],
    [123 * 1024, "123 KiB"],
    [99.96 * 1024, "100 KiB"],
    [4 * 1024 ** 3, "4 GiB"],
    [5000 * 1024 ** 5, "5000 PiB"],
  ])("%d bytes are %s", (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });

  test.each([
    [0, "0.0 s"],
    [432, "0.4 s"],
    [9_949, "9.9 s"],
    [9_960, "10 s"],
    [59_400, "59 s"],
    [59_600, "1 min 00 s"],
    [185_000, "3 min 05 s"],
    [3_599_600, "1 h 00 min"],
    [86_400_000, "24 h 00 min"],
  ])("%d ms are %s", (milliseconds, text) => {
    expect(formatDuration(milliseconds)).toBe(text);
  });

  test("one file, many files", () => {
    expect([formatCount(1, "file"), formatCount(0, "file"), formatCount(12_345, "file")]).toEqual(["1 file", "0 files", "12,345 files"]);
  });

  test("times sort as text", () => {
    expect(formatTime(new Date(2026, 0, 2, 3, 4, 5))).toBe("2026-01-02 03:04:05");
  });

  test("columns stand under one another", () => {
    expect(
      formatTable(
        [
          ["a", "1", "x"],
          ["long", "100", ""],
        ],
        [false, true],
      ),
    ).toEqual(["a       1  x", "long  100"]);
  });
});

describe("the documentation", () => {
  const page = readFileSync(new URL("../../../docs/cli.md", import.meta.url), "utf8");

  test("has every command", () => {
    expect([...page.matchAll(/^\| `([a-z]+)` \|/gm)].map(([, name]) => name).sort()).toEqual(COMMANDS.map(({ name }) => name).sort());
  });

  test("has every exit code", () => {
    const codes = [...page.matchAll(/^\| (\d+) \|/gm)].map(([, code]) => Number(code));
    expect(codes).toEqual(Object.values(EXIT_CODES));
  });
});

describe("values of options", () => {
  test("bytes, times and counts are read with their units", () => {
    expect([parseBytes("4096"), parseBytes("10MB"), parseBytes("1.5GiB"), parseBytes("50 k")]).toEqual([
      4096,
      10_000_000,
      1.5 * 1024 ** 3,
      50_000,
    ]);
    expect([parseDuration("0s"), parseDuration("90s"), parseDuration("1.5h"), parseDuration("7d"), parseDuration("250ms")]).toEqual([
      0, 90_000, 5_400_000, 604_800_000, 250,
    ]);
    expect(parseCount(1)("8")).toBe(8);
    expect(gatherPairs("b=2=3", new Map([["a", "1"]]))).toEqual(
      new Map([
        ["a", "1"],
        ["b", "2=3"],
      ]),
    );
  });

  test.each([
    ["bytes", parseBytes, ["", "0", "-1", "10 apples", "1e400", "NaN"]],
    ["times", parseDuration, ["", "10", "s", "-1s", "1 fortnight"]],
    ["counts", parseCount(1, 10), ["", "0", "11", "-1", "1.5", "0x2", "Infinity"]],
    ["pairs", (text: string) => gatherPairs(text, undefined), ["", "a", "=b", "a="]],
  ])("%s that make no sense are refused", (_, parse, texts) => {
    for (const text of texts) expect(() => parse(text), text).toThrow(InvalidArgumentError);
  });
});

describe("a list of digests", () => {
  const sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

  test("lines of sha256sum, md5sum, sha1sum and of CRC32 are known by their length", () => {
    expect(parseListedDigest(`${sha256}  ./a b.txt`, 1, "list")).toEqual({
      path: "a b.txt",
      digest: { algorithm: "sha256", value: sha256 },
      line: 1,
    });
    expect(parseListedDigest(`${"AB".repeat(16)} *x`, 2, "list")?.digest).toEqual({ algorithm: "md5", value: "ab".repeat(16) });
    expect(parseListedDigest(`${"ab".repeat(20)}  x`, 3, "list")?.digest.algorithm).toBe("sha1");
    expect(parseListedDigest("00c0ffee  x", 4, "list")?.digest.algorithm).toBe("crc32");
    expect([parseListedDigest("", 1, "list"), parseListedDigest("# made by hand", 1, "list")]).toEqual([undefined, undefined]);
  });

  test.each(["hello", "abc  x", `${sha256}`, `${sha256} x`, `${"g".repeat(64)}  x`])("%j is refused with its line", (line) => {
    expect(() => parseListedDigest(line, 17, "sums.txt")).toThrow("sums.txt:17");
  });

  test("every path comes back from its line", () => {
    const path = fc.string({ unit: "binary", minLength: 1 }).filter((text) => !text.startsWith("./") && text.isWellFormed());
    fc.assert(
      fc.property(path, (text) => {
        const digest = { algorithm: "sha256", value: sha256 } as const;
        expect(parseListedDigest(formatListedDigest(text, digest), 1, "list")).toEqual({ path: text, digest, line: 1 });
      }),
    );
  });
});

interface Recorded extends TextStream {
  text: string;
}

function stream(isTTY: boolean, columns = 80): Recorded {
  const recorded: Recorded = {
    text: "",
    isTTY,
    columns,
    write: (text) => {
      recorded.text += text;
      return true;
    },
  };
  return recorded;
}

function output(options: { json?: boolean; quiet?: boolean; tty?: boolean; environment?: Record<string, string> }): {
  out: Output;
  stdout: Recorded;
  stderr: Recorded;
} {
  const [stdout, stderr] = [stream(options.tty === true), stream(options.tty === true)];
  const out = createOutput({
    isJson: options.json === true,
    isQuiet: options.quiet === true,
    isVerbose: false,
    standardOutput: stdout,
    standardError: stderr,
    environment: options.environment ?? {},
    onBrokenPipe: () => {},
  });
  return { out, stdout, stderr };
}

/** Says one thing of each kind. */
function sayAll({ out }: { out: Output }): void {
  out.result("result");
  out.line("line");
  out.record({ event: "record" });
  out.notice("notice");
  out.failure("failure");
  out.flush();
}

describe("output", () => {
  test("for people goes to standard output, what fails to standard error", () => {
    const made = output({});
    sayAll(made);
    expect([made.stdout.text, made.stderr.text]).toEqual(["result\nline\n", "stowage: notice\nstowage: failure\n"]);
  });

  test("for programs is records and nothing else on standard output", () => {
    const made = output({ json: true });
    sayAll(made);
    expect(made.stdout.text).toBe('{"event":"record"}\n');
  });

  test("that is quiet still holds results and failures", () => {
    const made = output({ quiet: true });
    sayAll(made);
    expect([made.stdout.text, made.stderr.text]).toEqual(["result\n", "stowage: failure\n"]);
  });

  test("has colours on a terminal, and none with NO_COLOR, in a dumb terminal, or in a file", () => {
    const colour = (options: Parameters<typeof output>[0]): string => output(options).out.style("red", "x");
    expect(colour({ tty: true })).toBe("\u001b[31mx\u001b[0m");
    expect(colour({ tty: true, environment: { NO_COLOR: "" } })).toBe("\u001b[31mx\u001b[0m");
    expect([
      colour({}),
      colour({ tty: true, environment: { NO_COLOR: "1" } }),
      colour({ tty: true, environment: { TERM: "dumb" } }),
    ]).toEqual(["x", "x", "x"]);
  });

  test("takes the status line away before it writes another, and puts it back", () => {
    const { out, stdout, stderr } = output({ tty: true });
    out.status("50 %");
    out.line("a file");
    out.status(undefined);
    expect(stdout.text).toBe("a file\n");
    expect(stderr.text).toBe("50 %\r\u001b[2K50 %\r\u001b[2K");
  });

  test("shows progress only to who watches: not in a file, as JSON, or with --quiet", () => {
    expect(output({ tty: true }).out.isWatched).toBe(true);
    expect([output({}), output({ tty: true, json: true }), output({ tty: true, quiet: true })].map(({ out }) => out.isWatched)).toEqual([
      false,
      false,
      false,
    ]);
    const { out, stderr } = output({});
    const bar = createProgressBar(
      out,
      () => ({}),
      () => undefined,
    );
    bar.update({ itemBytes: 1, bytes: 1, done: 0 });
    bar.end();
    expect(stderr.text).toBe("");
  });
});

describe("a progress line", () => {
  const progress = { item: undefined, itemBytes: 0, bytes: 256 * 1024 ** 2, done: 3 };

  test("says share, speed and time left where the total is known", () => {
    const line = drawProgress(progress, { files: 12, bytes: 1024 ** 3 }, 1000, 120, "raw/a.csv");
    expect(line).toBe("██████░░░░░░░░░░░░░░░░░░  25 %  256 MiB of 1 GiB  3 of 12 files  256 MiB/s  3.0 s left  raw/a.csv");
  });

  test("says what is known where the total is not", () => {
    expect(drawProgress(progress, {}, 1000, 120, undefined)).toBe("256 MiB  3 files  256 MiB/s");
  });

  test("never is wider than the terminal, and cannot be broken by a name", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 200 }), fc.string({ unit: "binary" }), fc.nat(), (columns, name, bytes) => {
        const line = drawProgress({ ...progress, bytes }, { bytes: 1000, files: 2 }, 5000, columns, name);
        expect(line.length).toBeLessThan(Math.max(2, columns));
        expect(line).not.toMatch(/[\u0000-\u001f\u007f-\u009f]/);
      }),
    );
  });

  test("a long name loses its middle", () => {
    expect(shorten("abcdefghijklmnop", 10)).toBe("abc…klmnop");
    expect([shorten("abc", 3), shorten("abcd", 2), shorten("abcd", 0)]).toEqual(["abc", "ab", ""]);
  });
});
