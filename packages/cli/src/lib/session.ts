import { resolve } from "node:path";
import { openWorkspace, StowageError, type Workspace, type WorkspaceConfig } from "@stowage/core";
import { didYouMean } from "@stowage/core/broker";
import { type BrokerPlace, folderAsBrokerPlace, type KnownBroker, loadBrokers } from "./brokers.ts";
import { type Configuration, findConfiguration, findWorkspace, loadConfiguration, withoutConsequences } from "./configuration.ts";
import type { GlobalOptions } from "./context.ts";
import { type Output, printable } from "./output.ts";
import { resolveRelativePaths } from "./relative-paths.ts";

/** The configuration and the workspaces of one run of the command; each is loaded when it is first asked for. */
export interface Session {
  configuration(): Promise<Configuration>;
  /** `undefined` where there is none and nobody named one; one that is there must be right. */
  configurationIfAny(): Promise<Configuration | undefined>;
  /** Where brokers are looked up: the configuration, else `folder` (the working directory by default). */
  brokerPlace(folder?: string): Promise<BrokerPlace>;
  /** The definitions that these types need; see `loadBrokers`. */
  brokers(types: Iterable<string>, folder?: string): Promise<Map<string, KnownBroker>>;
  /** The same workspace for the same name. */
  open(name: string): Promise<Workspace>;
  /** Where the user says that a workspace is mounted. */
  volumePath(name: string): string | undefined;
  close(): Promise<void>;
}

export interface SessionInit {
  readonly options: GlobalOptions;
  readonly workingDirectory: string;
  readonly signal: AbortSignal;
  readonly output: Output;
}

export function createSession(init: SessionInit): Session {
  const { options, workingDirectory, signal, output } = init;
  const opened = new Map<string, Promise<Workspace>>();
  const explicitPath = options.config ?? (process.env.STOWAGE_CONFIG || undefined);
  let configuration: Promise<Configuration> | undefined;

  const session: Session = {
    configuration: () => (configuration ??= load()),
    configurationIfAny: async () => {
      if (explicitPath === undefined && (await findConfiguration(workingDirectory)) === undefined) return undefined;
      return session.configuration();
    },
    brokerPlace: async (folder = workingDirectory) => (await session.configurationIfAny()) ?? folderAsBrokerPlace(folder),
    brokers: async (types, folder) => loadBrokers(await session.brokerPlace(folder), types),
    open: (name) => {
      let workspace = opened.get(name);
      if (workspace === undefined) {
        workspace = open(name);
        opened.set(name, workspace);
      }
      return workspace;
    },
    volumePath: (name) => {
      const path = options.volume?.get(name);
      return path === undefined ? undefined : resolve(workingDirectory, path);
    },
    close: async () => {
      const closings = [...opened.values()].map(async (workspace) => {
        let ready: Workspace;
        try {
          ready = await workspace;
        } catch {
          // It was never open; whoever asked for it has been told why.
          return;
        }
        await ready.close({ signal });
      });
      opened.clear();
      const failed = (await Promise.allSettled(closings)).find((result) => result.status === "rejected");
      if (failed !== undefined) throw failed.reason;
    },
  };

  async function load(): Promise<Configuration> {
    const loaded = await loadConfiguration({ explicitPath, workingDirectory });
    for (const name of options.volume?.keys() ?? []) {
      if (loaded.workspaces.has(name)) continue;
      throw new StowageError(
        `--volume names the workspace "${name}", which ${loaded.path} does not define${didYouMean(name, loaded.workspaces.keys())}`,
        {
          code: "INVALID_ARGUMENT",
        },
      );
    }
    return loaded;
  }

  async function open(name: string): Promise<Workspace> {
    const loaded = await session.configuration();
    const workspace = findWorkspace(loaded, name);
    try {
      const type = brokerTypeOf(workspace);
      const brokers = type === undefined ? new Map<string, KnownBroker>() : await session.brokers([type]);
      return await openWorkspace(
        // Parsed by openWorkspace itself, which says what is wrong with it.
        { ...resolveRelativePaths(workspace, loaded.folder), name } as unknown as WorkspaceConfig,
        {
          brokers: [...brokers.values()].map((broker) => broker.definition),
          volumePath: session.volumePath(name),
          signal,
          log: (level, message) => {
            if (level === "warn") output.notice(printable(message));
          },
        },
      );
    } catch (error) {
      throw locateError(error, loaded, name);
    }
  }

  return session;
}

/** The broker type that a workspace asks for, where it is a text at all. */
export function brokerTypeOf(workspace: Readonly<Record<string, unknown>>): string | undefined {
  const broker = workspace.broker;
  const type = typeof broker === "object" && broker !== null ? (broker as { type?: unknown }).type : undefined;
  return typeof type === "string" ? type : undefined;
}

/** Puts the place in the configuration before an error that is about it; one line for each thing that is wrong. */
export function locateError(error: unknown, configuration: Pick<Configuration, "locate">, workspace: string): unknown {
  if (!StowageError.is(error) || !ABOUT_CONFIGURATION.has(error.code) || LOCATED.test(error.message)) return error;
  const { problems } = error as { readonly problems?: readonly { readonly path: readonly PropertyKey[] }[] };
  const locate = (keys: readonly PropertyKey[]): string => configuration.locate(["workspaces", workspace, ...keys]);
  const described = error.message.split("\n- ");
  let lines: string[];
  if (problems === undefined || described.length !== problems.length + 1) {
    lines = [`${locate(problems?.[0]?.path ?? (error.code === "UNKNOWN_BROKER_TYPE" ? ["broker", "type"] : []))}: ${error.message}`];
  } else {
    const all = problems.map(({ path }, index) => ({ path, text: described[index + 1]! }));
    lines = withoutConsequences(all, ({ text }) => text).map(({ path, text }) => `${locate(path)}: the workspace "${workspace}": ${text}`);
  }
  return new StowageError(lines.join("\n"), { code: error.code, workspace, cause: error });
}

const ABOUT_CONFIGURATION: ReadonlySet<string> = new Set([
  "INVALID_CONFIGURATION",
  "UNKNOWN_BROKER_TYPE",
  "CONTRACT_MISMATCH",
  "INVALID_PATH",
]);
const LOCATED = /^\S+:\d+:\d+: /;
