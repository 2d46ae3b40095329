import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";

/** The folder in which one workload happens, and what must be undone at its end. */
export interface Arena {
  readonly directory: string;
  readonly quick: boolean;
  /** Holds the programs, and below `node_modules` what they import. */
  readonly installed: { readonly folder: string };
  /** A new empty folder. */
  folder(name: string): string;
  /** Undoes everything. Says so on standard error when something could not be undone. */
  close(): void;
}

export interface ArenaOptions extends Pick<Arena, "quick" | "installed"> {
  /** Where the folder, or the image that holds it, is made. */
  readonly parent: string;
  /** Make a file system of this type for the workload alone, in a file. Needs root on Linux. Defaults to a plain folder. */
  readonly fileSystem?: "ext4" | "xfs" | undefined;
}

/** Sparse: takes what is written. */
const IMAGE_GIB = 32;

const MAKE = {
  ext4: { command: "mkfs.ext4", options: ["-q", "-F", "-E", "nodiscard"], mount: "noatime,noinit_itable" },
  xfs: { command: "mkfs.xfs", options: ["-q", "-K", "-m", "reflink=1"], mount: "noatime" },
} as const;

export function createArena(options: ArenaOptions): Arena {
  const { parent, fileSystem, quick, installed } = options;
  const directory = mkdtempSync(join(parent, "stowage-bench-"));
  const undo: (() => void)[] = [() => rmSync(directory, { recursive: true, force: true })];
  const close = (): void => {
    for (const action of undo.splice(0).reverse()) {
      try {
        action();
      } catch (error) {
        console.error(`clean-up failed: ${error instanceof Error ? error.message : error}`);
      }
    }
  };
  if (fileSystem !== undefined) {
    const image = `${directory}.img`;
    undo.push(() => rmSync(image, { force: true }));
    try {
      mountImage(fileSystem, image, directory, undo);
    } catch (error) {
      close();
      throw error;
    }
  }
  let folders = 0;
  return {
    directory,
    quick,
    installed,
    folder(name) {
      const folder = join(directory, `${name}-${++folders}`);
      mkdirSync(folder);
      return folder;
    },
    close,
  };
}

function mountImage(fileSystem: "ext4" | "xfs", image: string, mountPoint: string, undo: (() => void)[]): void {
  const { command, options, mount } = MAKE[fileSystem];
  run("truncate", "-s", `${IMAGE_GIB}G`, image);
  run(command, ...options, image);
  // Past the page cache of the file system below, which would hold everything twice; where that one cannot, through it.
  const direct = spawnSync("losetup", ["--find", "--show", "--direct-io=on", image], { encoding: "utf8" });
  const device = direct.status === 0 ? direct.stdout.trim() : run("losetup", "--find", "--show", image);
  undo.push(() => run("losetup", "--detach", device));
  run("mount", "-o", mount, device, mountPoint);
  undo.push(() => run("umount", mountPoint));
}

function run(command: string, ...parameters: string[]): string {
  return execFileSync(command, parameters, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] }).trim();
}
