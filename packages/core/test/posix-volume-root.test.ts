import { execFileSync } from "node:child_process";
import { mkdirSync, rmdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { PosixVolume } from "../src/lib/posix/posix-commands.ts";
import { fileSystemOfType, openVolumeRoot, type VolumeRoot } from "../src/lib/posix/volume-root.ts";
import { isLinux, isRoot, openDescriptors, PosixFixture } from "./support/posix-volume.ts";

let fixture: PosixFixture;
beforeEach(() => {
  fixture = new PosixFixture();
});
afterEach(() => fixture.remove());

function withRoot<T>(volume: PosixVolume, look: (root: VolumeRoot) => T): T {
  const root = openVolumeRoot(volume);
  try {
    return look(root);
  } finally {
    root.close();
  }
}

function failure(volume: Partial<PosixVolume>): { code: string; message: string } {
  try {
    openVolumeRoot(fixture.volume(volume)).close();
  } catch (error) {
    return error as { code: string; message: string };
  }
  throw new Error("it opened");
}

describe("the root of a volume", () => {
  test("that does not exist is not mounted, and the message says what to do", () => {
    const { code, message } = failure({ rootPath: join(fixture.folder, "nowhere") });
    expect(code).toBe("VOLUME_NOT_MOUNTED");
    expect(message).toContain("mount the volume there");
    expect(message).toContain("nowhere");
  });

  test("that is a file, or relative, is a mistake in the configuration", () => {
    writeFileSync(join(fixture.folder, "file"), "");
    expect(failure({ rootPath: join(fixture.folder, "file") }).code).toBe("INVALID_CONFIGURATION");
    expect(failure({ rootPath: join(fixture.folder, "file", "below") }).code).toBe("INVALID_CONFIGURATION");
    expect(failure({ rootPath: "relative/root" }).code).toBe("INVALID_CONFIGURATION");
    expect(failure({ rootPath: "" }).code).toBe("INVALID_CONFIGURATION");
  });

  test("may be reached through a link, since whoever configures it decides", () => {
    symlinkSync(fixture.root, join(fixture.folder, "link"));
    withRoot(fixture.volume({ rootPath: join(fixture.folder, "link") }), (root) => {
      expect(root.rootPath).toBe(join(fixture.folder, "link"));
      expect(root.realPath).toBe(fixture.root);
    });
  });

  test("says when its directory has been removed", () => {
    const root = openVolumeRoot(fixture.volume());
    try {
      expect(root.isRemoved()).toBe(false);
      rmdirSync(fixture.root);
      expect(root.isRemoved()).toBe(true);
    } finally {
      root.close();
    }
  });

  test.skipIf(!isLinux)("holds one descriptor, and lets it go once", () => {
    const before = openDescriptors();
    const root = openVolumeRoot(fixture.volume());
    expect(openDescriptors()).toBe(before + 1);
    root.close();
    root.close();
    expect(openDescriptors()).toBe(before);
    expect(() => failure({ rootPath: join(fixture.folder, "nowhere") })).not.toThrow();
    expect(() => failure({ requireMount: { types: ["nonsense"] } })).not.toThrow();
    expect(openDescriptors()).toBe(before);
  });

  test("without /proc is only checked, and cannot be shown to be mounted", () => {
    const root = openVolumeRoot(fixture.volume(), "checked");
    expect(root.containment).toBe("checked");
    expect(root.address).toBe(fixture.root);
    root.close();
    expect(() => openVolumeRoot(fixture.volume({ requireMount: { types: [] } }), "checked")).toThrow(
      expect.objectContaining({ code: "UNSUPPORTED" }),
    );
  });
});

describe.skipIf(!isLinux || !isRoot)("a root that must be mounted (needs root and Linux)", () => {
  test("is refused when it lies on the file system of /", () => {
    const volume = { rootPath: "/usr", requireMount: { types: [] } };
    const { code, message } = failure(volume);
    expect(code).toBe("VOLUME_NOT_MOUNTED");
    expect(message).toContain("nothing is mounted");
    expect(failure({ rootPath: "/", requireMount: { types: [] } }).code).toBe("VOLUME_NOT_MOUNTED");
  });

  test("may be the mount itself or lie below it", () => {
    const mountPoint = join(fixture.folder, "mnt with space");
    fixture.mountTmpfs(mountPoint, "size=1m");
    mkdirSync(join(mountPoint, "below", "this"), { recursive: true });
    for (const rootPath of [mountPoint, join(mountPoint, "below", "this")]) {
      withRoot(fixture.volume({ rootPath, requireMount: { types: ["tmpfs"] } }), (root) => {
        expect(root.mount).toMatchObject({ mountPoint, type: "tmpfs" });
        expect(root.fileSystem).toEqual({ type: "tmpfs", kind: "local" });
      });
    }
    withRoot(fixture.volume({ rootPath: mountPoint, requireMount: { types: [] } }), (root) => expect(root.mount?.type).toBe("tmpfs"));
  });

  test("is refused when another type is mounted, and the message names both", () => {
    const mountPoint = join(fixture.folder, "mnt");
    fixture.mountTmpfs(mountPoint, "size=1m");
    const { code, message } = failure({ rootPath: mountPoint, requireMount: { types: ["nfs", "nfs4"] } });
    expect(code).toBe("VOLUME_NOT_MOUNTED");
    expect(message).toContain("tmpfs");
    expect(message).toContain("nfs or nfs4");
  });

  test("is judged by its handle: a later mount or unmount at its path diverts nothing", () => {
    const mountPoint = join(fixture.folder, "mnt");
    fixture.mountTmpfs(mountPoint, "size=1m");
    const root = openVolumeRoot(fixture.volume({ rootPath: mountPoint, requireMount: { types: ["tmpfs"] } }));
    try {
      execFileSync("umount", ["-l", mountPoint]);
      writeFileSync(`${root.address}/written-after`, "x");
      expect(fixture.names(mountPoint)).toEqual([]);
    } finally {
      root.close();
      // For the clean-up, which expects a mount there.
      execFileSync("mount", ["-t", "tmpfs", "tmpfs", mountPoint]);
    }
  });

  test("is refused on a bind mount of another part of the same file system only by type", () => {
    const mountPoint = join(fixture.folder, "bound");
    mkdirSync(mountPoint);
    fixture.mount(mountPoint, ["--bind", fixture.local, mountPoint]);
    withRoot(fixture.volume({ rootPath: mountPoint, requireMount: { types: [] } }), (root) =>
      expect(root.mount?.mountPoint).toBe(mountPoint),
    );
    expect(failure({ rootPath: mountPoint, requireMount: { types: ["nfs4"] } }).code).toBe("VOLUME_NOT_MOUNTED");
  });
});

test("types of file systems are told apart by what can be relied on", () => {
  expect(fileSystemOfType("fuse.rclone").kind).toBe("fuse");
  expect(fileSystemOfType("fuse").kind).toBe("fuse");
  expect(fileSystemOfType("fuseblk").kind).toBe("fuse");
  expect(fileSystemOfType("fusectl").kind).toBe("network");
  for (const type of ["nfs", "nfs4", "gpfs", "cifs", "lustre", "unknown"]) expect(fileSystemOfType(type).kind).toBe("network");
  for (const type of ["ext4", "xfs", "btrfs", "tmpfs", "overlay"]) expect(fileSystemOfType(type).kind).toBe("local");
});
