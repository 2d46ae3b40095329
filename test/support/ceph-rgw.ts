import { execFileSync, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { haveCommand } from "./debian-packages.ts";

/** A Ceph object gateway of one's own: one monitor, one store in memory, one gateway, on free ports of the loopback interface. */
export interface CephRgw {
  readonly url: string;
  /** The same by TLS, with a certificate of its own making. */
  readonly tlsUrl: string;
  /** PEM: what must be trusted for `tlsUrl`. */
  readonly certificate: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  stop(): Promise<void>;
}

/** Whether the gateway can be started here; with `STOWAGE_INSTALL=1` what is missing is installed from Debian's packages. */
export function haveCephRgw(): boolean {
  if (process.platform !== "linux" || process.getuid?.() !== 0) {
    console.warn("skipped: a Ceph gateway is started as root on Linux");
    return false;
  }
  const needed = {
    radosgw: "radosgw",
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
    ceph: "ceph-common",
    monmaptool: "ceph-common",
    openssl: "openssl",
  };
  return Object.entries(needed).every(([command, debianPackage]) => haveCommand(command, debianPackage));
}

const ACCESS_KEY = "stowage";
const SECRET_KEY = "stowage-secret-canary-5502";
const ATTEMPTS = 4;

/** Starts a gateway; about one start in seven fails, because the store asks the monitor too early, and begins again from nothing. */
export async function startCephRgw(): Promise<CephRgw> {
  let failure: unknown;
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    const directory = mkdtempSync(join(tmpdir(), "stowage-ceph-"));
    const processes: Daemon[] = [];
    try {
      return await start(directory, processes);
    } catch (error) {
      failure = error;
      await stopAll(processes);
      rmSync(directory, { recursive: true, force: true });
    }
  }
  throw failure;
}

interface Daemon {
  readonly name: string;
  readonly pid: number;
  readonly ended: Promise<void>;
  hasEnded(): boolean;
}

async function start(directory: string, processes: Daemon[]): Promise<CephRgw> {
  for (const name of ["mon", "osd", "run"]) mkdirSync(join(directory, name));
  const [monPort = 0, port = 0, tlsPort = 0] = await freePorts(3);
  const certificateFile = join(directory, "certificate.pem");
  const keyFile = join(directory, "key.pem");
  run("openssl", [
    "req",
    "-x509",
    "-newkey",
    "rsa:2048",
    "-nodes",
    "-days",
    "2",
    "-subj",
    "/CN=localhost",
    "-addext",
    "subjectAltName=IP:127.0.0.1,DNS:localhost",
    "-keyout",
    keyFile,
    "-out",
    certificateFile,
  ]);
  const certificate = readFileSync(certificateFile, "utf8");
  writeFileSync(join(directory, "both.pem"), readFileSync(keyFile, "utf8") + certificate, { mode: 0o600 });
  const fsid = randomUUID();
  const osd = randomUUID();
  const conf = join(directory, "ceph.conf");
  writeFileSync(conf, configuration(directory, { fsid, monPort, port, tlsPort }));
  const ceph = ["-c", conf];

  run("monmaptool", ["--create", "--fsid", fsid, "--addv", "a", `v1:127.0.0.1:${monPort}`, join(directory, "monmap")]);
  run("ceph-mon", [...ceph, "--mkfs", "-i", "a", "--monmap", join(directory, "monmap")]);
  processes.push(daemon(directory, "ceph-mon", [...ceph, "-i", "a", "-f"]));
  await until("the monitor", 15_000, processes, () => tryRun("ceph", [...ceph, "quorum_status"], 2_000) !== undefined);
  await until("a place for the store", 20_000, processes, () => tryRun("ceph", [...ceph, "osd", "new", osd], 4_000) !== undefined);
  run("ceph-osd", [...ceph, "-i", "0", "--mkfs", "--osd-uuid", osd]);
  processes.push(daemon(directory, "ceph-osd", [...ceph, "-i", "0", "-f"]));
  await until("the store", 6_000, processes, () => tryRun("ceph", [...ceph, "osd", "stat"], 2_000)?.includes("1 up") === true);
  processes.push(daemon(directory, "radosgw", [...ceph, "-n", "client.rgw", "-f"]));
  const url = `http://127.0.0.1:${port}`;
  await until("the gateway", 10_000, processes, () => answers(url));
  run("radosgw-admin", [
    ...ceph,
    "-n",
    "client.rgw",
    "user",
    "create",
    "--uid=stowage",
    "--display-name=stowage",
    `--access-key=${ACCESS_KEY}`,
    `--secret=${SECRET_KEY}`,
  ]);
  return {
    url,
    tlsUrl: `https://127.0.0.1:${tlsPort}`,
    certificate,
    accessKeyId: ACCESS_KEY,
    secretAccessKey: SECRET_KEY,
    async stop() {
      await stopAll(processes);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** What makes it small and quick; each line was found by trial. */
function configuration(
  directory: string,
  { fsid, monPort, port, tlsPort }: { readonly fsid: string; readonly monPort: number; readonly port: number; readonly tlsPort: number },
): string {
  return `[global]
fsid = ${fsid}
mon host = v1:127.0.0.1:${monPort}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr2 = false
ms bind ipv4 = true
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
auth allow insecure global id reclaim = true
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
mon max pg per osd = 2000
osd crush chooseleaf type = 0
osd crush update on start = true
osd class update on start = false
run dir = ${directory}/run
admin socket = ${directory}/run/$name.asok
log file = ${directory}/run/$name.log
ms crc data = false
ms tcp nodelay = true
debug ms = 0/0
debug rgw = 0/0
debug osd = 0/0
debug mon = 0/0
debug paxos = 0/0
mon data = ${directory}/mon
osd data = ${directory}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
# Every new pool is a round of paxos, of a second each otherwise.
paxos propose interval = 0.02
paxos min wait = 0.01
mon osd full ratio = .97
mon osd nearfull ratio = .90
mon osd backfillfull ratio = .95
mon data avail warn = 1
mon data avail crit = 1
[client.rgw]
# Without tcp_nodelay every small request takes 45 ms.
rgw frontends = beast endpoint=127.0.0.1:${port} ssl_endpoint=127.0.0.1:${tlsPort} ssl_certificate=${directory}/both.pem tcp_nodelay=1
# What is deleted would fill the memory for two hours.
rgw gc obj min wait = 1
rgw gc processor period = 5
rgw gc processor max time = 5
rgw thread pool size = 32
rgw enable usage log = false
rgw enable ops log = false
rgw override bucket index max shards = 1
rgw dynamic resharding = false
rgw run sync thread = false
admin socket =
rgw dns name = localhost
`;
}

function daemon(directory: string, command: string, parameters: readonly string[]): Daemon {
  const log = openSync(join(directory, "run", `${command}.out`), "a");
  const child = spawn(command, [...parameters], { stdio: ["ignore", log, log] });
  closeSync(log);
  let hasEnded = false;
  const ended = new Promise<void>((resolve) => {
    const end = (): void => {
      hasEnded = true;
      resolve();
    };
    child.once("exit", end);
    child.once("error", end);
  });
  // Nothing of it may outlive the test run, not even one that is interrupted.
  const onExit = (): void => void child.kill("SIGKILL");
  process.once("exit", onExit);
  void ended.then(() => process.removeListener("exit", onExit));
  return { name: command, pid: child.pid ?? 0, ended, hasEnded: () => hasEnded };
}

async function stopAll(processes: readonly Daemon[]): Promise<void> {
  for (const { pid, ended, hasEnded } of [...processes].reverse()) {
    if (hasEnded() || pid === 0) continue;
    process.kill(pid, "SIGTERM");
    await Promise.race([ended, wait(2_000)]);
    if (!hasEnded()) process.kill(pid, "SIGKILL");
    await ended;
  }
}

async function until(
  what: string,
  milliseconds: number,
  processes: readonly Daemon[],
  isReady: () => boolean | Promise<boolean>,
): Promise<void> {
  const deadline = Date.now() + milliseconds;
  while (!(await isReady())) {
    const ended = processes.find(({ hasEnded }) => hasEnded());
    if (ended !== undefined) throw new Error(`${ended.name} has ended while ${what} was waited for`);
    if (Date.now() > deadline) throw new Error(`${what} did not come up in ${milliseconds} ms`);
    await wait(50);
  }
}

async function answers(url: string): Promise<boolean> {
  return fetch(url, { signal: AbortSignal.timeout(1_000) }).then(
    () => true,
    () => false,
  );
}

function run(command: string, parameters: readonly string[]): void {
  execFileSync(command, parameters, { stdio: ["ignore", "ignore", "pipe"], timeout: 20_000 });
}

function tryRun(command: string, parameters: readonly string[], timeout: number): string | undefined {
  try {
    return execFileSync(command, parameters, { stdio: ["ignore", "pipe", "ignore"], timeout, encoding: "utf8" });
  } catch {
    return undefined;
  }
}

async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer();
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
      return server;
    }),
  );
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}
