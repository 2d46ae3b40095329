/** Files with known content, and the proof that a copy of them is complete. */
import { randomFillSync } from "node:crypto";
import { closeSync, fstatSync, ftruncateSync, mkdirSync, openSync, readdirSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";

const MIB = 1024 ** 2;

export interface BigFile {
  readonly path: string;
  readonly bytes: number;
  readonly crc32: number;
}

/** A file without zeros or repetition that a copy could save on. */
export function makeBigFile(path: string, bytes: number): BigFile {
  const block = randomFillSync(Buffer.allocUnsafe(MIB));
  const file = openSync(path, "wx");
  let crc = 0;
  try {
    for (let position = 0; position < bytes; position += MIB) {
      block.writeBigUInt64LE(BigInt(position), (position / MIB) % 4096);
      const part = block.subarray(0, Math.min(MIB, bytes - position));
      crc = crc32(part, crc);
      writeSync(file, part);
    }
  } finally {
    closeSync(file);
  }
  return { path, bytes, crc32: crc };
}

/** Throws unless the file at `path` holds the same bytes. */
export function verifyBigFile(path: string, expected: BigFile): void {
  const file = openSync(path, "r");
  try {
    const { size } = fstatSync(file);
    if (size !== expected.bytes) throw new Error(`${path} has ${size} bytes instead of ${expected.bytes}`);
    const block = Buffer.allocUnsafe(4 * MIB);
    let crc = 0;
    for (let read = readSync(file, block); read > 0; read = readSync(file, block)) crc = crc32(block.subarray(0, read), crc);
    if (crc !== expected.crc32) throw new Error(`${path} holds other bytes than its source`);
  } finally {
    closeSync(file);
  }
}

/** The sum of a tree: equal sums mean equal trees. */
export interface TreeSum {
  readonly files: number;
  readonly bytes: number;
  /** Of the relative paths, in UTF-16 units: what a listing can be held against. */
  readonly pathCharacters: number;
  /** Of paths and contents, in any order. */
  readonly checksum: number;
}

export interface Tree extends TreeSum {
  readonly path: string;
}

export interface TreeShape {
  readonly directories: number;
  readonly filesPerDirectory: number;
  /** Bytes of each file; absent: 0 to 4,095, without content on disk. */
  readonly bytes?: number | undefined;
}

/** Makes `directories` folders of `filesPerDirectory` files each. */
export function makeTree(path: string, shape: TreeShape): Tree {
  mkdirSync(path);
  const content = randomFillSync(Buffer.allocUnsafe(shape.bytes ?? 0));
  let [bytes, pathCharacters, checksum] = [0, 0, 0];
  for (let directory = 0; directory < shape.directories; directory++) {
    const folder = `directory-${String(directory).padStart(5, "0")}`;
    mkdirSync(join(path, folder));
    for (let index = 0; index < shape.filesPerDirectory; index++) {
      const name = `${folder}/file-${String(index).padStart(7, "0")}.bin`;
      const number = directory * shape.filesPerDirectory + index;
      const size = shape.bytes ?? number % 4096;
      const file = openSync(join(path, name), "wx");
      if (shape.bytes === undefined) ftruncateSync(file, size);
      else {
        content.writeUInt32LE(number, 0);
        writeSync(file, content);
        checksum = (checksum + crc32(content, crc32(name))) >>> 0;
      }
      closeSync(file);
      bytes += size;
      pathCharacters += name.length;
    }
  }
  return { path, files: shape.directories * shape.filesPerDirectory, bytes, pathCharacters, checksum };
}

/** Reads a whole tree. */
export function sumTree(path: string): TreeSum {
  const buffer = Buffer.allocUnsafe(MIB);
  let [files, bytes, pathCharacters, checksum] = [0, 0, 0, 0];
  const walk = (folder: string): void => {
    for (const entry of readdirSync(join(path, folder), { withFileTypes: true })) {
      const name = folder === "" ? entry.name : `${folder}/${entry.name}`;
      // A workspace keeps records of its own in its root; they are no part of the tree.
      if (entry.name.startsWith(".stowage") && entry.isDirectory() && folder === "") continue;
      if (entry.isDirectory()) {
        walk(name);
        continue;
      }
      if (!entry.isFile()) throw new Error(`${name} is neither a file nor a directory`);
      const file = openSync(join(path, name), "r");
      let crc = crc32(name);
      for (let read = readSync(file, buffer); read > 0; read = readSync(file, buffer)) {
        crc = crc32(buffer.subarray(0, read), crc);
        bytes += read;
      }
      closeSync(file);
      files++;
      pathCharacters += name.length;
      checksum = (checksum + crc) >>> 0;
    }
  };
  walk("");
  return { files, bytes, pathCharacters, checksum };
}

/** Throws unless the tree at `path` holds the same files with the same bytes, and nothing else. */
export function verifyTree(path: string, expected: TreeSum): void {
  const found = sumTree(path);
  for (const key of ["files", "bytes", "pathCharacters", "checksum"] as const) {
    if (found[key] !== expected[key]) throw new Error(`${path}: ${key} is ${found[key]} instead of ${expected[key]}`);
  }
}
