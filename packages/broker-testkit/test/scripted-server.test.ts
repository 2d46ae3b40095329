import { Agent, request } from "node:http";
import { afterEach, describe, expect, test } from "vitest";
import { type Script, type ScriptedServer, startScriptedServer } from "../src/index.ts";

const servers: ScriptedServer[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) await server.close();
});

async function start(script: Script): Promise<ScriptedServer> {
  const server = await startScriptedServer(script);
  servers.push(server);
  return server;
}

describe("a scripted server", () => {
  test("answers in turn, the last one again and again, and keeps the requests", async () => {
    const server = await start([
      { status: 503, headers: { "retry-after": "1" } },
      { status: 200, body: "at last" },
    ]);
    const first = await fetch(`${server.url}/a?b=c`, { method: "PUT", body: "sent", headers: { "x-one": "1" } });
    expect([first.status, first.headers.get("retry-after")]).toEqual([503, "1"]);
    for (let count = 0; count < 2; count++) expect(await (await fetch(server.url)).text()).toBe("at last");
    expect(server.requests).toHaveLength(3);
    expect(server.requests[0]).toMatchObject({ method: "PUT", url: "/a?b=c" });
    expect(server.requests[0]?.headers["x-one"]).toBe("1");
    expect(server.requests[0]?.body.toString()).toBe("sent");
  });

  test("asks a function for each answer, and takes another script", async () => {
    const server = await start((incoming, index) => ({ body: `${index} ${incoming.url}` }));
    expect(await (await fetch(`${server.url}/x`)).text()).toBe("0 /x");
    expect(await (await fetch(`${server.url}/y`)).text()).toBe("1 /y");
    server.setScript([{ body: "new" }]);
    expect(await (await fetch(server.url)).text()).toBe("new");
  });

  test("keeps honest connections open", async () => {
    const server = await start([{ body: "kept" }]);
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const ports = new Set<number | undefined>();
    for (let count = 0; count < 3; count++) {
      await new Promise<void>((resolve, reject) => {
        const outgoing = request(server.url, { agent }, (response) => {
          ports.add(response.socket.localPort);
          response.resume().on("end", resolve);
        });
        outgoing.on("error", reject).end();
      });
    }
    expect(ports.size).toBe(1);
    agent.destroy();
  });

  test("waits before it answers, and drips", async () => {
    const server = await start([{ delayMs: 60, body: "abcdef", drip: { bytes: 2, everyMs: 20 } }]);
    const started = performance.now();
    const response = await fetch(server.url);
    expect(performance.now() - started).toBeGreaterThan(55);
    expect(await response.text()).toBe("abcdef");
    expect(performance.now() - started).toBeGreaterThan(95);
  });

  test("says that more is coming than does", async () => {
    const server = await start([{ body: "short", lieAboutLengthBy: 10 }]);
    const response = await fetch(server.url);
    expect(response.headers.get("content-length")).toBe("15");
    await expect(response.text()).rejects.toThrow();
  });

  test("cuts the body off by an end or by a reset", async () => {
    const body = "x".repeat(100_000);
    for (const by of ["end", "reset"] as const) {
      const server = await start([{ body, cut: { afterBytes: 70_000, by } }]);
      const response = await fetch(server.url);
      await expect(response.text(), by).rejects.toThrow();
    }
  });

  test("goes silent with the connection open, until it is closed", async () => {
    const server = await start([{ body: "0123456789", stallAfterBytes: 4 }]);
    const response = await fetch(server.url);
    const reader = response.body!.getReader();
    expect(Buffer.from((await reader.read()).value ?? []).toString()).toBe("0123");
    const next = reader.read().then(
      () => "more",
      () => "broken",
    );
    const silence = new Promise((resolve) => setTimeout(() => resolve("silence"), 60));
    expect(await Promise.race([next, silence])).toBe("silence");
    expect(server.openConnections()).toBe(1);
    await server.close();
    expect(await next).toBe("broken");
  });

  test("flips a bit", async () => {
    const server = await start([{ body: "abc", corruptAt: 1 }]);
    expect(await (await fetch(server.url)).text()).toBe("acc");
  });

  test("hangs up without an answer", async () => {
    const server = await start([{ hangUp: true }]);
    await expect(fetch(server.url, { method: "PUT", body: "lost" })).rejects.toThrow();
    expect(server.requests[0]?.body.toString()).toBe("lost");
  });

  test("sends no body where there is none", async () => {
    const server = await start([{ status: 200, body: "12345" }, { status: 204 }]);
    const head = await fetch(server.url, { method: "HEAD" });
    expect(head.headers.get("content-length")).toBe("5");
    expect((await fetch(server.url)).status).toBe(204);
  });
});
