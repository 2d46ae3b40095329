import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

/** A process of its own that swaps a directory for a symbolic link and back, as fast as it can. */
export interface Swapper {
  /** How often it has swapped, at the least. */
  swaps(): number;
  /** Ends it with the directory in its place, and gives the number of swaps. */
  stop(): Promise<number>;
}

// A process, since a broker that works synchronously would never be interrupted by anything in its own.
const SOURCE = `
import { renameSync, rmSync, symlinkSync } from "node:fs";
const [inside, away, outside] = process.argv.slice(-3);
let swaps = 0;
let stopping = false;
process.stdin.resume();
process.stdin.on("end", () => { stopping = true; });
// Whoever works there may make the missing directory anew: then that one makes room.
const put = (place) => {
  for (let tries = 0; ; tries++) {
    try {
      rmSync(inside, { recursive: true, force: true });
      return place();
    } catch (error) {
      if (tries > 10000 || !["EEXIST", "ENOTEMPTY", "EISDIR", "ENOTDIR"].includes(error.code)) throw error;
    }
  }
};
// Now at once, now after a while: a process that sleeps is woken while others are in the middle of something.
const still = new Int32Array(new SharedArrayBuffer(4));
const pauses = [0, 0, 0.05, 0.2, 0.5, 1];
const pause = () => { const time = pauses[Math.floor(Math.random() * pauses.length)]; if (time > 0) Atomics.wait(still, 0, 0, time); };
const turn = () => {
  for (let count = 0; count < 5; count++) {
    renameSync(inside, away);
    put(() => symlinkSync(outside, inside));
    swaps++;
    pause();
    put(() => renameSync(away, inside));
    pause();
  }
  process.stdout.write(swaps + "\\n");
  if (stopping) process.exit(0);
  setImmediate(turn);
};
process.stdout.write("ready\\n");
turn();
`;

/** Starts to swap `inside` for a link to `outside`; `away` is where the directory waits meanwhile. Settles when the first swaps have begun. */
export async function startSwapper(inside: string, away: string, outside: string): Promise<Swapper> {
  const child = spawn(process.execPath, ["--no-warnings", "--input-type=module", "--eval", SOURCE, "--", inside, away, outside], {
    stdio: ["pipe", "pipe", "pipe"],
  });
  let isReady = false;
  let swaps = 0;
  let complaint = "";
  const ended = new Promise<number>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => {
      if (code === 0) resolve(swaps);
      else reject(new Error(`the process that swaps directories failed (exit ${code ?? signal}): ${complaint.slice(-2_000)}`));
    });
  });
  ended.catch(() => undefined);
  child.stderr.on("data", (text: Buffer) => {
    complaint += text.toString();
  });
  await new Promise<void>((resolve, reject) => {
    createInterface({ input: child.stdout }).on("line", (line) => {
      if (isReady) swaps = Number(line);
      isReady = true;
      resolve();
    });
    ended.then(() => resolve(), reject);
  });
  return {
    swaps: () => swaps,
    stop() {
      child.stdin.end();
      return ended;
    },
  };
}
