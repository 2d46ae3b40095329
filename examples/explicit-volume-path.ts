/**
 * Inside a container the workspace's directory is mounted somewhere else. `workspace.volume` says what to mount; `volumePath` says
 * where it is. A path that is no mount is refused: bytes never end on the container's own disk by mistake.
 */
import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hostBroker } from "@stowage/broker-host";
import { openWorkspace, StowageError } from "@stowage/core";

const folder = await mkdtemp(join(tmpdir(), "stowage-example-"));
const hostPath = join(folder, "on-the-host");
const volumePath = join(folder, "in-the-container");
await mkdir(hostPath);
await mkdir(volumePath);
await writeFile(join(hostPath, "scene.txt"), "a scene\n");

const config = { name: "scenes", broker: { type: "host", hostPath } } as const;
const planned = await openWorkspace(config, { brokers: [hostBroker] });
console.log(`to be mounted: ${JSON.stringify(planned.volume)}`);
await planned.close();

try {
  await openWorkspace(config, { brokers: [hostBroker], volumePath });
} catch (error) {
  if (!StowageError.is(error)) throw error;
  console.log(`not mounted yet: ${error.code}`);
}

const canMount = process.getuid?.() === 0 && process.platform === "linux";
if (canMount) execFileSync("mount", ["--bind", hostPath, volumePath]);
else console.log("mounting needs root on Linux; the rest is left out");
try {
  if (canMount) {
    const workspace = await openWorkspace(config, { brokers: [hostBroker], volumePath });
    console.log(
      `mounted: ${(await workspace.statFile("scene.txt"))?.size} bytes in scene.txt, at ${workspace.getFileSystemPaths(["scene.txt"])?.[0]?.replace(folder, "…")}`,
    );
    await workspace.close();
  }
} finally {
  if (canMount) execFileSync("umount", [volumePath]);
  await rm(folder, { recursive: true });
}
