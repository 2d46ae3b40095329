import { execFileSync } from "node:child_process";
import { expect, test } from "vitest";

const root = new URL("..", import.meta.url).pathname;

/** Each program and what its reader is to see, beside ending well. */
const EXAMPLES: readonly (readonly [program: string, ...seen: (string | RegExp)[]])[] = [
  ["demo/demo.ts", /verified/, /report\.txt/],
  ["embed-in-a-job.ts", /staged in/, /stored/],
  ["register-a-broker.ts", /known types: .*daily/, /dya/, "kept by a broker of our own"],
  [
    "copy-between-workspaces.ts",
    "first run: 25 copied (250300 bytes), 0 the same already",
    "second run: 0 copied (0 bytes), 25 the same already",
  ],
  ["explicit-volume-path.ts", "VOLUME_NOT_MOUNTED", process.getuid?.() === 0 ? /mounted: 8 bytes in scene.txt/ : "mounting needs root"],
  ["progress-and-cancel.ts", /ended with CANCELLED: \d done, \d cancelled, 0 failed/, "in the workspace: 0.bin"],
  ["list-a-million-files.ts", "20,000 files listed, 5,000 deleted"],
];

test.each(EXAMPLES)("examples/%s runs and says what it did", (program, ...seen) => {
  const output = execFileSync(process.execPath, [`examples/${program}`], {
    cwd: root,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
  });
  for (const expected of seen) {
    if (typeof expected === "string") expect(output).toContain(expected);
    else expect(output).toMatch(expected);
  }
});
