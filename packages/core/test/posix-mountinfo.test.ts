import { closeSync, openSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { findMountOfHandle, mountIdOfHandle, parseMountInfo, readMounts } from "../src/lib/posix/mountinfo.ts";
import { isLinux } from "./support/posix-volume.ts";

describe("parsing mountinfo", () => {
  test("a line without optional fields", () => {
    expect(parseMountInfo("36 35 98:0 /mnt1 /mnt/parent rw,noatime - ext3 /dev/root rw,errors=continue\n")).toEqual([
      {
        mountId: 36,
        parentId: 35,
        device: "98:0",
        root: "/mnt1",
        mountPoint: "/mnt/parent",
        options: ["rw", "noatime"],
        optionalFields: [],
        type: "ext3",
        source: "/dev/root",
        superOptions: ["rw", "errors=continue"],
      },
    ]);
  });

  test("a line with several optional fields, and one whose mount point is a hyphen", () => {
    const [shared, hyphen] = parseMountInfo(
      "1 0 8:1 / / rw shared:1 master:2 propagate_from:3 - ext4 /dev/sda1 rw\n2 1 0:5 / /- ro unbindable - tmpfs - rw\n",
    );
    expect(shared).toMatchObject({ optionalFields: ["shared:1", "master:2", "propagate_from:3"], type: "ext4" });
    expect(hyphen).toMatchObject({ mountPoint: "/-", optionalFields: ["unbindable"], type: "tmpfs", source: "-" });
  });

  test("spaces, tabs, newlines, backslashes and hashes in paths", () => {
    const [mount] = parseMountInfo("7 1 0:9 /a\\040b /x\\011y\\012z\\134\\043 rw - fuse.rclone box\\072a:dir rw\n");
    expect(mount).toMatchObject({ root: "/a b", mountPoint: "/x\ty\nz\\#", type: "fuse.rclone", source: "box:a:dir" });
  });

  test("an empty source", () => {
    expect(parseMountInfo("7 1 0:9 / /t rw - tmpfs  rw,size=1m")[0]).toMatchObject({ source: "", superOptions: ["rw", "size=1m"] });
  });

  test("lines of another form are left out", () => {
    expect(
      parseMountInfo("\nnonsense\n1 2 3\nx 1 0:9 / /t rw - tmpfs t rw\n7 1 0:9 / /t rw - tmpfs t rw\n7 1 0:9 / /t rw -\n"),
    ).toHaveLength(1);
  });

  test("whatever is escaped comes back", () => {
    const escapeField = (text: string): string =>
      text.replace(/[\\ \t\n#]/g, (character) => `\\${character.charCodeAt(0).toString(8).padStart(3, "0")}`);
    fc.assert(
      fc.property(
        fc.string({ unit: "binary" }).filter((text) => text !== ""),
        fc.array(fc.stringMatching(/^[a-z]+:[0-9]+$/)),
        (mountPoint, optional) => {
          const line = ["7", "1", "0:9", "/", escapeField(`/${mountPoint}`), "rw", ...optional, "-", "ext4", "/dev/x", "rw"].join(" ");
          const [mount] = parseMountInfo(`${line}\n`);
          expect(mount).toMatchObject({ mountPoint: `/${mountPoint}`, optionalFields: optional, type: "ext4" });
        },
      ),
    );
  });
});

describe.skipIf(!isLinux)("the mounts of this system", () => {
  test("include the one of an open handle", () => {
    const fd = openSync("/proc/self/mountinfo", "r");
    try {
      expect(mountIdOfHandle(fd)).toBeTypeOf("number");
      expect(findMountOfHandle(fd)).toMatchObject({ type: "proc", mountPoint: "/proc" });
    } finally {
      closeSync(fd);
    }
  });

  test("have one at /", () => {
    expect(readMounts().some((mount) => mount.mountPoint === "/")).toBe(true);
  });
});
