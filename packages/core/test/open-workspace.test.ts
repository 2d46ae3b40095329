import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { inspect } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import * as z from "zod";
import type { Broker } from "../src/lib/broker.ts";
import { type BrokerDefinition, defineBroker, type OpenContext } from "../src/lib/broker-definition.ts";
import { ConfigurationError } from "../src/lib/config-error.ts";
import { createMemoryBroker, memoryBroker } from "../src/lib/memory-broker.ts";
import { openWorkspace } from "../src/lib/open-workspace.ts";
import { addBrokerType, createBrokerRegistry, processWide } from "../src/lib/registry.ts";
import { secret } from "../src/lib/secrets.ts";
import { StowageError } from "../src/lib/stowage-error.ts";
import { deepFreeze, disk } from "./support/broker-definitions.ts";

const TOKEN = "hunter2/hunter2";
type Opener = (config: { readonly token: string }, context: OpenContext) => Promise<Broker>;

function vault(open: Opener): BrokerDefinition<"vault", { readonly token: string }> {
  return defineBroker({
    type: "vault",
    config: z.strictObject({ token: secret(z.string()) }) as z.ZodType<{ token: string }, { token: string }>,
    open,
  });
}
const openVault = (open: Opener, signal?: AbortSignal) =>
  openWorkspace({ name: "safe", broker: { type: "vault", token: TOKEN } }, { brokers: [vault(open)], signal });

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "stowage-open-"));
});
afterEach(async () => {
  processWide().brokerTypes.clear();
  await rm(folder, { recursive: true });
});

describe("a workspace that was opened", () => {
  test("stores and fetches files, and closes its broker", async () => {
    let closed = 0;
    const memory = createMemoryBroker();
    const workspace = await openVault(async () => ({
      ...memory,
      close: async () => {
        closed++;
      },
    }));
    const localPath = join(folder, "in");
    await writeFile(localPath, "content");
    expect(await workspace.uploadFiles([{ file: "a/b", localPath }])).toMatchObject([{ status: "done", verified: "digest" }]);
    await workspace.downloadFiles([{ file: "a/b", localPath: join(folder, "out") }]);
    expect(await readFile(join(folder, "out"), "utf8")).toBe("content");
    await workspace.close();
    expect(closed).toBe(1);
  });

  test("has the name, type, volume and settings of its configuration", async () => {
    const config = deepFreeze({
      name: "data",
      baseUrl: "https://files.example.org/data",
      readOnly: true,
      broker: { type: "disk", hostPath: "/data" },
    } as const);
    const workspace = await openWorkspace(config, { brokers: createBrokerRegistry([disk]) });
    expect([workspace.name, workspace.brokerType, workspace.volume]).toEqual(["data", "disk", { kind: "bind", source: "/data" }]);
    expect(await workspace.fileUrl("a b")).toBe("https://files.example.org/data/a%20b");
    await expect(workspace.deleteFiles(["a"])).rejects.toMatchObject({ code: "READ_ONLY" });
    await workspace.close();
  });

  test("refuses moves and transfers where its configuration says so", async () => {
    const open = (settings: object) =>
      openWorkspace({ name: "data", ...settings, broker: { type: "memory" } }, { brokers: [memoryBroker] });
    await expect((await open({ moveEnabled: false })).moveFiles([{ file: "a", newPath: "b" }])).rejects.toMatchObject({
      code: "READ_ONLY",
    });
    await expect((await open({ archived: true })).deleteFiles(["a"])).rejects.toMatchObject({ code: "ARCHIVED" });
  });

  test("gave its broker the parsed configuration, and where its volume is mounted", async () => {
    const seen: unknown[] = [];
    const definition = vault(async (config, { volumePath, signal }) => {
      seen.push(config, volumePath, signal.aborted);
      return createMemoryBroker();
    });
    const config = { name: "a", broker: { type: "vault", token: TOKEN } } as const;
    await openWorkspace(config, { brokers: [definition], volumePath: "/mnt/a" });
    await openWorkspace(config, { brokers: [definition], volumePath: "mnt" });
    await openWorkspace(config, { brokers: [definition] });
    expect(seen).toEqual([{ token: TOKEN }, "/mnt/a", false, { token: TOKEN }, resolve("mnt"), false, { token: TOKEN }, undefined, false]);
  });

  test("comes from the default registry where no definitions are given", async () => {
    await expect(openWorkspace({ name: "a", broker: { type: "memory" } })).rejects.toMatchObject({
      code: "UNKNOWN_BROKER_TYPE",
      message: expect.stringContaining("addBrokerType"),
    });
    addBrokerType(memoryBroker);
    expect((await openWorkspace({ name: "a", broker: { type: "memory" } })).brokerType).toBe("memory");
  });

  test("removes the secrets of its configuration from every error", async () => {
    const workspace = await openVault(async ({ token }) => ({
      ...createMemoryBroker(),
      statFile: async () => Promise.reject(new Error(`denied for ${token} and ${encodeURIComponent(token)}`)),
    }));
    const error = await workspace.statFile("a").catch((thrown: unknown) => thrown);
    expect(StowageError.is(error)).toBe(true);
    expect(inspect(error, { depth: 10 })).not.toContain("hunter2");
    expect((error as Error).message).toContain("denied for ******** and ********");
  });
});

describe("a workspace that cannot be opened", () => {
  test("because of its configuration says everything that is wrong", async () => {
    const error = await openWorkspace({ name: "data", zzz: 1, broker: { type: "disk" } } as never, { brokers: [disk] }).catch(
      (thrown: unknown) => thrown,
    );
    expect(ConfigurationError.is(error)).toBe(true);
    expect(error).toMatchObject({ code: "INVALID_CONFIGURATION", workspace: "data" });
    expect((error as ConfigurationError).problems).toHaveLength(2);
  });

  test("because its broker throws says why, classified, without its secrets in message, cause or stack", async () => {
    for (const [thrown, code] of [
      [Object.assign(new Error(`EACCES: ${TOKEN}`), { code: "EACCES" }), "PERMISSION_DENIED"],
      [new StowageError(`refused ${TOKEN}`, { code: "UNAUTHENTICATED", cause: new Error(`inner ${btoa(TOKEN)}`) }), "UNAUTHENTICATED"],
      [new Error(`odd ${TOKEN}`, { cause: { request: { headers: { authorization: TOKEN } } } }), "UNKNOWN"],
    ] as const) {
      const error = await openVault(() => Promise.reject(thrown)).catch((caught: unknown) => caught);
      expect(error).toMatchObject({
        isStowageError: true,
        code,
        workspace: "safe",
        message: expect.stringMatching(/^cannot open \(workspace "safe"\): .*\*{8}/),
      });
      expect(inspect(error, { depth: 10, showHidden: true })).not.toContain("hunter2");
      expect(inspect(error, { depth: 10, showHidden: true })).not.toContain(btoa(TOKEN));
    }
  });

  test("because its broker cannot name its volume, was not opened", async () => {
    let opened = false;
    const definition = {
      ...vault(async () => {
        opened = true;
        return createMemoryBroker();
      }),
      volume: () => {
        throw new StowageError("no such export", { code: "INVALID_CONFIGURATION" });
      },
    };
    await expect(openWorkspace({ name: "a", broker: { type: "vault", token: TOKEN } }, { brokers: [definition] })).rejects.toMatchObject({
      code: "INVALID_CONFIGURATION",
    });
    expect(opened).toBe(false);
  });

  test("because what its definition opens is no broker, closes it again", async () => {
    let closed = false;
    const { listFiles: _none, statFile: _nor, ...incomplete } = createMemoryBroker();
    const broker = {
      ...incomplete,
      close: async () => {
        closed = true;
        throw new Error("and cannot be closed");
      },
    };
    await expect(openVault(async () => broker as unknown as Broker)).rejects.toMatchObject({
      code: "CONTRACT_MISMATCH",
      message: expect.stringContaining("it lacks statFile, listFiles"),
    });
    expect(closed).toBe(true);
    await expect(openVault(async () => undefined as unknown as Broker)).rejects.toMatchObject({ code: "CONTRACT_MISMATCH" });
  });
});

describe("giving up", () => {
  test("before it begins opens nothing", async () => {
    let opened = false;
    const promise = openVault(async () => {
      opened = true;
      return createMemoryBroker();
    }, AbortSignal.abort());
    await expect(promise).rejects.toMatchObject({ code: "CANCELLED", retryable: false, workspace: "safe" });
    expect(opened).toBe(false);
  });

  test("ends at once when the broker heeds it", async () => {
    const controller = new AbortController();
    const started = performance.now();
    const promise = openVault(
      (_config, { signal }) => new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason))),
      controller.signal,
    );
    setTimeout(() => controller.abort(), 20);
    await expect(promise).rejects.toMatchObject({ code: "CANCELLED" });
    expect(performance.now() - started).toBeLessThan(500);
  });

  test("ends within a second when it does not, and what is opened after all is closed", async () => {
    const controller = new AbortController();
    const { promise: closed, resolve: close } = Promise.withResolvers<void>();
    const { promise: late, resolve: openNow } = Promise.withResolvers<Broker>();
    const started = performance.now();
    const promise = openVault(() => late, controller.signal);
    setTimeout(() => controller.abort(), 20);
    await expect(promise).rejects.toMatchObject({ code: "CANCELLED" });
    expect(performance.now() - started).toBeLessThan(1020);
    openNow({ ...createMemoryBroker(), close: async () => close() });
    await closed;
  });

  test("closes what was opened in the moment of the abort", async () => {
    const controller = new AbortController();
    let closed = false;
    const promise = openVault(async () => {
      controller.abort();
      return {
        ...createMemoryBroker(),
        close: async () => {
          closed = true;
        },
      };
    }, controller.signal);
    await expect(promise).rejects.toMatchObject({ code: "CANCELLED" });
    expect(closed).toBe(true);
  });

  test("after it is open has no effect", async () => {
    const controller = new AbortController();
    const workspace = await openVault(async () => createMemoryBroker(), controller.signal);
    controller.abort();
    expect(await workspace.statFile("a")).toBeUndefined();
  });
});
