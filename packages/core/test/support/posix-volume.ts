import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { FilePath, StoredFile } from "../../src/lib/files.ts";
import type {
  CopyCommand,
  DeleteCommand,
  DownloadCommand,
  MoveCommand,
  PosixCommand,
  PosixHooks,
  PosixResult,
  PosixVolume,
  StatCommand,
  UploadCommand,
  WriteCommand,
} from "../../src/lib/posix/posix-commands.ts";
import { openPosixOperations, type PosixOperations, type PosixOperationsOptions } from "../../src/lib/posix/posix-operations.ts";

export const isRoot = process.getuid?.() === 0;
export const isLinux = process.platform === "linux";

/** A volume on a real directory, a folder of local files beside it, and whatever was opened or mounted, which `remove` undoes. */
export class PosixFixture {
  readonly folder: string = realpathSync(mkdtempSync(join(tmpdir(), "stowage-posix-")));
  readonly root: string = join(this.folder, "root");
  readonly local: string = join(this.folder, "local");
  /** Directories of the volume that were told of before a temporary name was made there. */
  readonly announced: string[] = [];
  readonly #opened: PosixOperations[] = [];
  readonly #mounts: string[] = [];

  constructor() {
    mkdirSync(this.root);
    mkdirSync(this.local);
  }

  volume(overrides: Partial<PosixVolume> = {}): PosixVolume {
    return { rootPath: this.root, symlinks: "inside", fileMode: 0o644, directoryMode: 0o755, fuseWrites: "refuse", ...overrides };
  }

  open(volume: Partial<PosixVolume> = {}, options: Partial<PosixOperationsOptions> = {}): PosixOperations {
    const operations = openPosixOperations(this.volume(volume), {
      changeDirectory: false,
      beforeTemporary: (directory) => this.announced.push(directory),
      ...options,
    });
    this.#opened.push(operations);
    return operations;
  }

  localFile(name: string, content: string | Uint8Array = name): string {
    const path = join(this.local, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, content);
    return path;
  }

  storedFile(path: string, content: string | Uint8Array = path): string {
    const full = join(this.root, path);
    mkdirSync(dirname(full), { recursive: true });
    writeFileSync(full, content);
    return full;
  }

  read(path: string): string {
    return readFileSync(join(this.root, path), "utf8");
  }

  /** Mounts a tmpfs; needs root. */
  mountTmpfs(directory: string, options: string): void {
    mkdirSync(directory, { recursive: true });
    this.mount(directory, ["-t", "tmpfs", "-o", options, "tmpfs", directory]);
  }

  mount(directory: string, mountArguments: readonly string[]): void {
    execFileSync("mount", mountArguments, { stdio: "pipe" });
    this.#mounts.push(directory);
  }

  /** Every name below a directory, temporary ones too, not through links. */
  names(directory: string = this.root): string[] {
    const names: string[] = [];
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      names.push(entry.name);
      if (entry.isDirectory()) for (const name of this.names(join(directory, entry.name))) names.push(`${entry.name}/${name}`);
    }
    return names.sort();
  }

  /** Names that no failure may leave anywhere. */
  temporaryNames(): string[] {
    return [...this.names(this.root), ...this.names(this.local)].filter((name) => name.includes(".stowage-"));
  }

  async remove(): Promise<void> {
    // The last opened first: in a child's way of working each gives back the umask that it found.
    for (const operations of this.#opened.reverse()) await operations.close();
    for (const directory of this.#mounts.reverse()) execFileSync("umount", ["-l", directory], { stdio: "pipe" });
    if (lstatSync(this.folder, { throwIfNoEntry: false }) !== undefined) rmSync(this.folder, { recursive: true, force: true });
  }
}

export function hooks(overrides: Partial<PosixHooks> = {}): PosixHooks {
  return { signal: new AbortController().signal, progress: () => {}, ...overrides };
}

export function run<C extends PosixCommand>(
  operations: PosixOperations,
  command: C,
  overrides: Partial<PosixHooks> = {},
): Promise<PosixResult<C>> {
  return operations.run(command, hooks(overrides));
}

export function file(path: string, facts: Partial<Omit<StoredFile, "path">> = {}): StoredFile {
  return { path: path as FilePath, ...facts };
}

type Policy = Partial<Pick<UploadCommand, "ifExists" | "durability" | "checksum" | "temporaryName">>;

function policy(overrides: Policy): Required<Policy> {
  return {
    ifExists: "replace",
    durability: "process",
    checksum: "auto",
    temporaryName: `.stowage-${randomBytes(6).toString("hex")}`,
    ...overrides,
  };
}

export function upload(localPath: string, target: string | StoredFile, overrides: Policy = {}): UploadCommand {
  return { verb: "upload", localPath, file: typeof target === "string" ? file(target) : target, ...policy(overrides) };
}

export function download(source: string | StoredFile, localPath: string, overrides: Policy & { partial?: boolean } = {}): DownloadCommand {
  return {
    verb: "download",
    file: typeof source === "string" ? file(source) : source,
    localPath,
    partial: false,
    ...policy(overrides),
  };
}

export function move(source: string | StoredFile, newPath: string, overrides: Policy = {}): MoveCommand {
  return {
    verb: "move",
    file: typeof source === "string" ? file(source) : source,
    newPath: newPath as FilePath,
    ...policy({ ifExists: "fail", ...overrides }),
  };
}

export function copy(source: string | StoredFile, newPath: string, overrides: Policy = {}): CopyCommand {
  return { ...move(source, newPath, { ifExists: "replace", ...overrides }), verb: "copy" };
}

export function remove(path: string, durability: DeleteCommand["durability"] = "process"): DeleteCommand {
  return { verb: "delete", file: file(path), durability };
}

export function stat(path: string): StatCommand {
  return { verb: "stat", file: file(path) };
}

export function write(
  target: string | StoredFile,
  overrides: Policy & Partial<Pick<WriteCommand, "size" | "modified">> = {},
): WriteCommand {
  return { file: typeof target === "string" ? file(target) : target, ...policy(overrides), ...overrides };
}

/** Bytes that repeat nowhere near: the same for the same seed. */
export function bytes(size: number, seed = 1): Buffer {
  const buffer = Buffer.allocUnsafe(size);
  let state = seed * 2654435761 || 1;
  for (let index = 0; index < size; index++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    buffer[index] = state;
  }
  return buffer;
}

/** The descriptors that this process has open. */
export function openDescriptors(): number {
  return readdirSync("/proc/self/fd").length;
}
