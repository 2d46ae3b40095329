/**
 * A FUSE file system in memory: node fuse-daemon.mjs <mount point> [no-links] [ignore-case]. Says "ready" on standard output once it is mounted.
 * What rclone's mounts are like: no hard links (EIO), no symbolic links, modes that are ignored. Needs root, and mount(8).
 */
import { spawn } from "node:child_process";
import { openSync, read, writeSync } from "node:fs";

const [, , mountPoint, ...features] = process.argv;
const ignoreCase = features.includes("ignore-case");
const hasLinks = !features.includes("no-links");
const fuse = openSync("/dev/fuse", "r+");

const EIO = 5;
const ENOENT = 2;
const EEXIST = 17;
const ENOTDIR = 20;
const EISDIR = 21;
const ENOSYS = 38;
const ENOTEMPTY = 39;

let nextNode = 2;
const directory = (mode) => ({ id: nextNode++, mode: 0o40000 | mode, entries: new Map(), links: 2, mtime: [0, 0] });
const root = { id: 1, mode: 0o40755, entries: new Map(), links: 2, mtime: [0, 0] };
const nodes = new Map([[1, root]]);
const key = (name) => (ignoreCase ? name.toLowerCase() : name);

class Failure extends Error {
  constructor(errno) {
    super(String(errno));
    this.errno = errno;
  }
}

function find(parent, name) {
  if (parent.entries === undefined) throw new Failure(ENOTDIR);
  const entry = parent.entries.get(key(name));
  if (entry === undefined) throw new Failure(ENOENT);
  return entry.node;
}

function attributes(node) {
  const out = Buffer.alloc(88);
  out.writeBigUInt64LE(BigInt(node.id), 0);
  out.writeBigUInt64LE(BigInt(node.content?.length ?? 0), 8);
  for (const at of [24, 32, 40]) out.writeBigInt64LE(BigInt(node.mtime[0]), at);
  for (const at of [48, 52, 56]) out.writeUInt32LE(node.mtime[1], at);
  out.writeUInt32LE(node.mode, 60);
  out.writeUInt32LE(node.links, 64);
  out.writeUInt32LE(4096, 80);
  return out;
}

function entryReply(node) {
  const out = Buffer.alloc(40);
  out.writeBigUInt64LE(BigInt(node.id), 0);
  return Buffer.concat([out, attributes(node)]);
}

const attributeReply = (node) => Buffer.concat([Buffer.alloc(16), attributes(node)]);
const text = (body, at = 0) => body.toString("utf8", at, body.indexOf(0, at));
const openReply = () => Buffer.alloc(16);

function add(parent, name, node) {
  if (parent.entries.has(key(name))) throw new Failure(EEXIST);
  parent.entries.set(key(name), { name, node });
  nodes.set(node.id, node);
  return node;
}

function rename(parent, newParent, oldName, newName) {
  const node = find(parent, oldName);
  const existing = newParent.entries.get(key(newName))?.node;
  // Two names of one file: nothing is done, as POSIX has it; with one name it changes its spelling.
  if (existing === node && !(parent === newParent && key(oldName) === key(newName))) return;
  if (existing?.entries !== undefined && node.entries === undefined) throw new Failure(EISDIR);
  parent.entries.delete(key(oldName));
  if (existing !== undefined && existing !== node) existing.links--;
  newParent.entries.set(key(newName), { name: newName, node });
}

function makeFile(parent, name, mode) {
  return add(parent, name, { id: nextNode++, mode: 0o100000 | (mode & 0o777), content: Buffer.alloc(0), links: 1, mtime: [0, 0] });
}

const operations = {
  1: (node, body) => entryReply(find(node, text(body))),
  3: (node) => attributeReply(node),
  4: (node, body) => {
    const valid = body.readUInt32LE(0);
    if (valid & 8) {
      const content = Buffer.alloc(Number(body.readBigUInt64LE(16)));
      node.content.copy(content);
      node.content = content;
    }
    if (valid & 32) node.mtime = [Number(body.readBigInt64LE(40)), body.readUInt32LE(60)];
    return attributeReply(node);
  },
  9: (node, body) => entryReply(add(node, text(body, 8), directory(body.readUInt32LE(0) & 0o777))),
  10: (node, body) => {
    find(node, text(body)).links--;
    node.entries.delete(key(text(body)));
    return Buffer.alloc(0);
  },
  11: (node, body) => {
    if (find(node, text(body)).entries?.size) throw new Failure(ENOTEMPTY);
    node.entries.delete(key(text(body)));
    return Buffer.alloc(0);
  },
  12: (node, body) => {
    const oldName = text(body, 8);
    rename(node, nodes.get(Number(body.readBigUInt64LE(0))), oldName, text(body, 8 + Buffer.byteLength(oldName) + 1));
    return Buffer.alloc(0);
  },
  45: (node, body) => {
    const oldName = text(body, 16);
    rename(node, nodes.get(Number(body.readBigUInt64LE(0))), oldName, text(body, 16 + Buffer.byteLength(oldName) + 1));
    return Buffer.alloc(0);
  },
  13: (node, body) => {
    if (!hasLinks) throw new Failure(EIO);
    const linked = nodes.get(Number(body.readBigUInt64LE(0)));
    add(node, text(body, 8), linked);
    linked.links++;
    return entryReply(linked);
  },
  6: () => {
    throw new Failure(EIO);
  },
  14: () => openReply(),
  15: (node, body) => {
    const offset = Number(body.readBigUInt64LE(8));
    return node.content.subarray(offset, offset + body.readUInt32LE(16));
  },
  16: (node, body) => {
    const offset = Number(body.readBigUInt64LE(8));
    const size = body.readUInt32LE(16);
    const data = body.subarray(40, 40 + size);
    const content = Buffer.alloc(Math.max(node.content.length, offset + size));
    node.content.copy(content);
    data.copy(content, offset);
    node.content = content;
    const out = Buffer.alloc(8);
    out.writeUInt32LE(size, 0);
    return out;
  },
  17: () => Buffer.alloc(80),
  18: () => Buffer.alloc(0),
  20: () => Buffer.alloc(0),
  25: () => Buffer.alloc(0),
  26: (_node, body) => {
    const out = Buffer.alloc(64);
    out.writeUInt32LE(7, 0);
    out.writeUInt32LE(Math.min(31, body.readUInt32LE(4)), 4);
    out.writeUInt32LE(body.readUInt32LE(8), 8);
    out.writeUInt16LE(12, 16);
    out.writeUInt16LE(9, 18);
    out.writeUInt32LE(128 * 1024, 20);
    out.writeUInt32LE(1, 24);
    return out;
  },
  27: () => openReply(),
  28: (node, body) => {
    const offset = Number(body.readBigUInt64LE(8));
    const room = body.readUInt32LE(16);
    const parts = [];
    let bytes = 0;
    for (const [index, { name, node: child }] of [...node.entries.values()].entries()) {
      if (index < offset) continue;
      const encoded = Buffer.from(name);
      const size = Math.ceil((24 + encoded.length) / 8) * 8;
      if (bytes + size > room) break;
      const out = Buffer.alloc(size);
      out.writeBigUInt64LE(BigInt(child.id), 0);
      out.writeBigUInt64LE(BigInt(index + 1), 8);
      out.writeUInt32LE(encoded.length, 16);
      out.writeUInt32LE(child.mode >> 12, 20);
      encoded.copy(out, 24);
      parts.push(out);
      bytes += size;
    }
    return Buffer.concat(parts);
  },
  29: () => Buffer.alloc(0),
  30: () => Buffer.alloc(0),
  35: (node, body) => Buffer.concat([entryReply(makeFile(node, text(body, 16), body.readUInt32LE(4))), openReply()]),
};

const FORGET = 2;
const BATCH_FORGET = 42;
const INTERRUPT = 36;

function answer(request) {
  const opcode = request.readUInt32LE(4);
  if (opcode === FORGET || opcode === BATCH_FORGET || opcode === INTERRUPT) return;
  const node = nodes.get(Number(request.readBigUInt64LE(16)));
  let errno = 0;
  let payload = Buffer.alloc(0);
  try {
    const operation = operations[opcode];
    if (operation === undefined) throw new Failure(ENOSYS);
    payload = operation(node, request.subarray(40));
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    errno = error.errno;
  }
  const header = Buffer.alloc(16);
  header.writeUInt32LE(16 + payload.length, 0);
  header.writeInt32LE(-errno, 4);
  request.copy(header, 8, 8, 16);
  try {
    writeSync(fuse, Buffer.concat([header, payload]));
  } catch (error) {
    // The asker was interrupted.
    if (error.code !== "ENOENT") throw error;
  }
}

const buffer = Buffer.allocUnsafeSlow(1024 * 1024);
function serve() {
  read(fuse, buffer, 0, buffer.length, null, (error, bytes) => {
    // Not mounted yet.
    if (error?.code === "EPERM") return setTimeout(serve, 2);
    // ENODEV: unmounted.
    if (error) process.exit(error.code === "ENODEV" ? 0 : 1);
    answer(buffer.subarray(0, bytes));
    serve();
  });
}
serve();

const options = `fd=3,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions`;
spawn("mount", ["-i", "-t", "fuse", "-o", options, "stowage-test", mountPoint], { stdio: ["ignore", "inherit", "inherit", fuse] }).on(
  "exit",
  (code) => {
    if (code !== 0) process.exit(2);
    process.stdout.write("ready\n");
  },
);
