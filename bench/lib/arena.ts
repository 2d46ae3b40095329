import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";

/** The folder in which everything happens, and what must be undone at the end. */
export interface Arena {
  readonly directory: string;
  readonly quick: boolean;
  /** Holds the programs, and below `node_modules` what they import. */
  readonly installed: { readonly folder: string };
  /** A new empty folder. */
  folder(name: string): string;
  /** Runs in reverse order at the end, also after an error. */
  onClose(action: () => void): void;
  close(): void;
}

export function createArena(options: Pick<Arena, "quick" | "installed"> & { readonly parent: string }): Arena {
  const directory = mkdtempSync(join(options.parent, "stowage-bench-"));
  const actions: (() => void)[] = [() => rmSync(directory, { recursive: true, force: true })];
  let folders = 0;
  return {
    ...options,
    directory,
    folder(name) {
      const folder = join(directory, `${name}-${++folders}`);
      mkdirSync(folder);
      return folder;
    },
    onClose: (action) => actions.push(action),
    close() {
      for (const action of actions.splice(0).reverse()) {
        try {
          action();
        } catch (error) {
          console.error(`clean-up failed: ${error instanceof Error ? error.message : error}`);
        }
      }
    },
  };
}

/** Makes an XFS with reflinks in a file and mounts it; unmounted with the arena. Needs root and xfsprogs. */
export function mountXfs(arena: Arena, bytes: number): string {
  const mountPoint = arena.folder("xfs");
  const image = `${mountPoint}.img`;
  execFileSync("truncate", ["-s", String(bytes), image]);
  execFileSync("mkfs.xfs", ["-q", "-m", "reflink=1", image], { stdio: "pipe" });
  execFileSync("mount", ["-o", "loop", image, mountPoint], { stdio: "pipe" });
  arena.onClose(() => execFileSync("umount", [mountPoint], { stdio: "pipe" }));
  return mountPoint;
}
