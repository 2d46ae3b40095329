import { mkdir, open } from "node:fs/promises";
import { dirname, join } from "node:path";
import { hostBroker } from "@stowage/broker-host";
import { defineBroker, sleep, wrapBroker } from "@stowage/core/broker";
import type { ConformanceTarget } from "../src/index.ts";
import { conformanceTarget as hostTarget } from "./host-target.ts";

/** Writes each file where it belongs, piece by piece: good until somebody looks, or the process dies, in the middle. */
const hastyBroker = defineBroker({
  type: "host",
  config: hostBroker.config,
  open: async (config, context) => {
    const { uploadFiles: _uploads, ...broker } = wrapBroker(await hostBroker.open(config, context), {
      methods: {
        async uploadFile(_next, upload, { throttle }) {
          const target = join(config.hostPath, upload.file.path);
          await mkdir(dirname(target), { recursive: true });
          const [from, to] = [await open(upload.localPath), await open(target, "w")];
          try {
            const bytes = await from.readFile();
            for (let offset = 0; offset < bytes.length; offset += 20_000) {
              await throttle(20_000);
              await to.write(bytes, offset, Math.min(20_000, bytes.length - offset), offset);
              await sleep(1);
            }
            return { file: { path: upload.file.path, size: bytes.length }, method: "copy", bytes: bytes.length, verified: "length" };
          } finally {
            await from.close();
            await to.close();
          }
        },
      },
    });
    return broker;
  },
});

export const conformanceTarget: ConformanceTarget = { ...hostTarget, name: "hasty", definition: hastyBroker, module: import.meta.url };
