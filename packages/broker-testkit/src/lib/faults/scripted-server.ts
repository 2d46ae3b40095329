import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";

/** What a scripted server does with one request. */
export interface ScriptedResponse {
  /** Defaults to 200. */
  readonly status?: number | undefined;
  readonly headers?: Readonly<Record<string, string>> | undefined;
  readonly body?: string | Uint8Array | undefined;
  /** Wait before the status line. Milliseconds. */
  readonly delayMs?: number | undefined;
  /** `content-length` says so many bytes more (or fewer, when negative) than the body has. */
  readonly lieAboutLengthBy?: number | undefined;
  /** Close the connection after so many bytes of the body: cleanly (`end`), or by a reset. */
  readonly cut?: { readonly afterBytes: number; readonly by: "end" | "reset" } | undefined;
  /** Send so many bytes of the body and then nothing, with the connection open, until the client gives up. */
  readonly stallAfterBytes?: number | undefined;
  /** Flip a bit of the body at this offset. */
  readonly corruptAt?: number | undefined;
  /** Send the body in pieces of so many bytes with so many milliseconds between them. */
  readonly drip?: { readonly bytes: number; readonly everyMs: number } | undefined;
  /** Read the request's body and break the connection without an answer. */
  readonly hangUp?: boolean | undefined;
}

/** A request as it came in. */
export interface ScriptedRequest {
  readonly method: string;
  /** Path and query. */
  readonly url: string;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Buffer;
}

/** Responses in turn (the last one again and again), or a function that makes one for each request. */
export type Script =
  | readonly ScriptedResponse[]
  | ((request: ScriptedRequest, index: number) => ScriptedResponse | Promise<ScriptedResponse>);

export interface ScriptedServer {
  /** `http://127.0.0.1:<port>`, without a trailing slash. */
  readonly url: string;
  readonly port: number;
  /** Every request so far. */
  readonly requests: readonly ScriptedRequest[];
  /** Connections that are open. */
  openConnections(): number;
  /** Goes on with another script, from its beginning. */
  setScript(script: Script): void;
  /** Breaks every connection and stops. */
  close(): Promise<void>;
}

/** Starts an HTTP server on a free port of the loopback interface that answers as it is told. */
export async function startScriptedServer(script: Script): Promise<ScriptedServer> {
  let current = script;
  let index = 0;
  const requests: ScriptedRequest[] = [];
  const sockets = new Set<Socket>();
  const stop = new AbortController();

  const answer = async (incoming: IncomingMessage, response: ServerResponse): Promise<void> => {
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(chunk as Buffer);
    const request: ScriptedRequest = {
      method: incoming.method ?? "GET",
      url: incoming.url ?? "/",
      headers: incoming.headers,
      body: Buffer.concat(chunks),
    };
    requests.push(request);
    const turn = index++;
    const scripted = typeof current === "function" ? await current(request, turn) : (current[Math.min(turn, current.length - 1)] ?? {});
    await play(scripted, request, response, stop.signal);
  };

  const server: Server = createServer((incoming, response) => {
    answer(incoming, response).catch(() => response.destroy());
  });
  // A stalled answer is part of the script.
  server.requestTimeout = 0;
  server.headersTimeout = 0;
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", resolve);
  });
  const { port } = server.address() as AddressInfo;

  return {
    url: `http://127.0.0.1:${port}`,
    port,
    requests,
    openConnections: () => sockets.size,
    setScript(next) {
      current = next;
      index = 0;
    },
    async close() {
      stop.abort();
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

async function play(scripted: ScriptedResponse, request: ScriptedRequest, response: ServerResponse, signal: AbortSignal): Promise<void> {
  if (scripted.delayMs !== undefined) await pause(scripted.delayMs, signal);
  const { socket } = response;
  if (socket === null || socket.destroyed) return;
  if (scripted.hangUp === true) {
    socket.destroy();
    return;
  }
  const body = Buffer.from(typeof scripted.body === "string" ? Buffer.from(scripted.body) : (scripted.body ?? Buffer.alloc(0)));
  const { corruptAt } = scripted;
  if (corruptAt !== undefined && corruptAt < body.length) body[corruptAt] = (body[corruptAt] ?? 0) ^ 0x01;
  const isBodyless = request.method === "HEAD" || scripted.status === 204 || scripted.status === 304;
  const send = async (write: (piece: Buffer) => void, bytes: Buffer): Promise<void> => {
    const step = scripted.drip?.bytes ?? Math.max(1, bytes.length);
    for (let offset = 0; offset < bytes.length && !socket.destroyed; offset += step) {
      if (offset > 0 && scripted.drip !== undefined) await pause(scripted.drip.everyMs, signal);
      write(bytes.subarray(offset, offset + step));
    }
  };

  const isHonest = (scripted.lieAboutLengthBy ?? 0) === 0 && scripted.cut === undefined && scripted.stallAfterBytes === undefined;
  if (isHonest) {
    response.writeHead(scripted.status ?? 200, { "content-length": String(body.length), ...scripted.headers });
    if (!isBodyless) await send((piece) => response.write(piece), body);
    response.end();
    return;
  }

  // Written by hand: node:http would not let a response lie.
  const headers: Record<string, string> = {
    "content-length": String(Math.max(0, body.length + (scripted.lieAboutLengthBy ?? 0))),
    ...scripted.headers,
    connection: "close",
  };
  const head = [`HTTP/1.1 ${scripted.status ?? 200} Scripted`, ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`)];
  socket.write(`${head.join("\r\n")}\r\n\r\n`);
  const sent = isBodyless ? Buffer.alloc(0) : body.subarray(0, scripted.cut?.afterBytes ?? scripted.stallAfterBytes ?? body.length);
  await send((piece) => socket.write(piece), sent);
  if (scripted.stallAfterBytes !== undefined) return;
  await flushed(socket);
  if (scripted.cut?.by === "reset") socket.resetAndDestroy();
  else socket.end();
}

async function flushed(socket: Socket): Promise<void> {
  if (socket.writableLength === 0 || socket.destroyed) return;
  await new Promise<void>((resolve) => {
    socket.once("drain", resolve);
    socket.once("close", resolve);
  });
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, milliseconds);
    function done(): void {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done);
  });
}
