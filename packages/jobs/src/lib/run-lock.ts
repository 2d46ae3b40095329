import { randomBytes, randomUUID } from "node:crypto";
import { lstat, lutimes, mkdir, readdir, readlink, rmdir, symlink, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isSystemError, StowageError } from "@stowage/core/broker";
import { JobError } from "./job-error.ts";
import { describeOwner, type Owner, ownerLiveness, parseOwner } from "./owner.ts";

// The lock is a chain of symbolic links whose targets are text: `next-root` names the first holder, `next-<token>` whoever took over from the dead holder
// with that token; the last one has the lock. Making a symbolic link is atomic, exclusive and carries its content, and tokens never repeat: two takers of
// a dead holder's lock want to make the same name, and one of them can. A holder that lets go removes its own link.

export interface RunLockOptions {
  /** How often a holder shows that it lives, for those who cannot see its process. Defaults to 30 s. */
  readonly heartbeatMs?: number | undefined;
  /** A holder that cannot be seen is dead when it has shown no life for so long. Defaults to 10 minutes. */
  readonly staleAfterMs?: number | undefined;
}

/** A lock that this process holds. */
export interface RunLock {
  readonly owner: Owner;
  /** Lets go. Does nothing when it is let go already. */
  release(): Promise<void>;
  /** Lets go and removes every trace of the lock; `directory` too when nothing else is in it. */
  remove(): Promise<void>;
}

interface LockNode {
  readonly token: string;
  readonly owner: Owner;
  readonly path: string;
}

const DEFAULT_HEARTBEAT_MS = 30_000;
const DEFAULT_STALE_AFTER_MS = 600_000;
const ATTEMPTS = 50;

/** A file that only takes up room: given up where a full disk has none for a link, since it takes the lock to clear the disk. */
const RESERVE = "reserve";
const RESERVE_BYTES = 16 * 1024;

/** Takes the lock in `directory`, which is made when it is missing. Throws a `JobError` `already-running` while another live owner has it. */
export async function acquireRunLock(directory: string, options: RunLockOptions = {}): Promise<RunLock> {
  const owner = describeOwner();
  if (owner === undefined) throw new StowageError("cannot look up this process in /proc; mount it", { code: "UNSUPPORTED" });
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    try {
      // What lies around the lock is its holder's business only.
      await mkdir(directory, { recursive: true, mode: 0o700 });
    } catch (error) {
      // A holder that ends removes the directories around the lock, perhaps while they are being made.
      if (isSystemError(error, "ENOENT")) continue;
      throw error;
    }
    const last = (await readChain(directory)).at(-1);
    if (last !== undefined && (await isHeld(directory, last, options))) throw alreadyRunning(last.owner);
    const token = randomUUID();
    const path = nextPath(directory, last?.token ?? "root");
    if (!(await makeNode(path, { token, owner }, directory))) continue;
    // The directory may have been removed and made anew since the chain was read; then this node hangs on nothing.
    if ((await readChain(directory)).at(-1)?.token === token) {
      await writeFile(join(directory, RESERVE), randomBytes(RESERVE_BYTES)).catch(() => undefined);
      return holdLock(directory, { token, owner, path }, options);
    }
    await removeIfThere(path);
  }
  throw new StowageError(`the lock in "${directory}" changes hands all the time; try again`, { code: "CONFLICT" });
}

/** The live owner of the lock in `directory`, or `undefined` when nobody has it. */
export async function runLockOwner(directory: string, options: RunLockOptions = {}): Promise<Owner | undefined> {
  const last = (await readChain(directory)).at(-1);
  return last !== undefined && (await isHeld(directory, last, options)) ? last.owner : undefined;
}

function holdLock(directory: string, node: LockNode, options: RunLockOptions): RunLock {
  const heartbeat = setInterval(() => {
    const now = new Date();
    // A beat that is missed (the directory is gone, the disk is full) is no reason to stop the work.
    lutimes(node.path, now, now).catch(() => undefined);
  }, options.heartbeatMs ?? DEFAULT_HEARTBEAT_MS);
  heartbeat.unref();
  let isHeldHere = true;
  return {
    owner: node.owner,
    release: async () => {
      clearInterval(heartbeat);
      if (!isHeldHere) return;
      isHeldHere = false;
      await removeIfThere(node.path);
    },
    remove: async () => {
      clearInterval(heartbeat);
      if (!isHeldHere) return;
      isHeldHere = false;
      const [root, ...others] = await readChain(directory);
      // What killed holders and askers left hangs on nothing; as long as the lock is held nobody else needs what is here.
      const known = new Set([root, ...others].map((known) => known?.path));
      for (const name of await readdir(directory)) {
        if (!known.has(join(directory, name))) await removeIfThere(join(directory, name));
      }
      // The root first: from then on somebody else may begin a chain of their own, which is not touched.
      for (const { path } of root === undefined ? others : [root, ...others]) await removeIfThere(path);
      await rmdir(directory).catch((error: unknown) => {
        if (!isSystemError(error, "ENOENT", "ENOTEMPTY", "EEXIST")) throw error;
      });
    },
  };
}

async function readChain(directory: string): Promise<LockNode[]> {
  const chain: LockNode[] = [];
  const seen = new Set<string>();
  for (let token = "root"; !seen.has(token); ) {
    seen.add(token);
    const path = nextPath(directory, token);
    let content: string;
    try {
      content = await readlink(path);
    } catch (error) {
      if (isSystemError(error, "ENOENT")) return chain;
      if (isSystemError(error, "EINVAL")) throw notOurs(path);
      throw error;
    }
    const node = parseNode(content, path);
    chain.push(node);
    token = node.token;
  }
  return chain;
}

async function isHeld(directory: string, node: LockNode, options: RunLockOptions): Promise<boolean> {
  const liveness = ownerLiveness(node.owner);
  if (liveness !== "unknown") return liveness === "live";
  return (await silenceMs(directory, node.path)) < (options.staleAfterMs ?? DEFAULT_STALE_AFTER_MS);
}

/** How long ago the holder last showed life, by the clock of the file system that the lock is on. */
async function silenceMs(directory: string, path: string): Promise<number> {
  const probe = join(directory, `probe-${randomUUID()}`);
  try {
    await symlink("probe", probe);
    const [now, then] = await Promise.all([lstat(probe), lstat(path)]);
    return now.mtimeMs - then.mtimeMs;
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return 0;
    throw error;
  } finally {
    await removeIfThere(probe);
  }
}

async function makeNode(path: string, node: Pick<LockNode, "token" | "owner">, directory: string): Promise<boolean> {
  const content = JSON.stringify({ token: node.token, owner: node.owner });
  try {
    await symlink(content, path).catch(async (error: unknown) => {
      if (!isSystemError(error, "ENOSPC", "EDQUOT")) throw error;
      await removeIfThere(join(directory, RESERVE));
      await symlink(content, path);
    });
    return true;
  } catch (error) {
    if (isSystemError(error, "EEXIST", "ENOENT")) return false;
    throw error;
  }
}

function parseNode(content: string, path: string): LockNode {
  try {
    const value = JSON.parse(content) as { token?: unknown; owner?: unknown };
    const [token, owner] = [value.token, parseOwner(value.owner)];
    if (typeof token === "string" && /^[0-9a-f-]+$/u.test(token) && owner !== undefined) return { token, owner, path };
  } catch {
    // Falls through: not ours, or damaged.
  }
  throw notOurs(path);
}

function notOurs(path: string): StowageError {
  return new StowageError(`"${path}" is no lock of ours; remove it when no job runs in that directory`, { code: "CONFLICT" });
}

function nextPath(directory: string, token: string): string {
  return join(directory, `next-${token}`);
}

async function removeIfThere(path: string): Promise<void> {
  await unlink(path).catch((error: unknown) => {
    if (!isSystemError(error, "ENOENT")) throw error;
  });
}

function alreadyRunning(owner: Owner | undefined): JobError {
  const who = owner === undefined ? "" : ` (process ${owner.pid} on ${owner.host})`;
  return new JobError(
    `another run of this job is active in the same scratch directory${who}; wait for it, or give this one another scratch directory`,
    {
      reason: "already-running",
    },
  );
}
