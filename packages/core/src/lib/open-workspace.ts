import { resolve } from "node:path";
import type { Broker, OperationContext } from "./broker.ts";
import type { AnyBrokerDefinition } from "./broker-definition.ts";
import { BROKER_METHODS, type BrokerMember } from "./broker-methods.ts";
import { createLimits, type Limits } from "./limits.ts";
import type { AnyBrokerRegistry, BrokerRegistry } from "./registry.ts";
import { StowageError } from "./stowage-error.ts";
import { Workspace } from "./workspace.ts";
import { parseWorkspaceConfig, type ReadConfigOptions, type WorkspaceConfig } from "./workspace-config.ts";
import { classifyError, wrapError } from "./wrap-error.ts";

export interface OpenWorkspaceOptions extends ReadConfigOptions {
  /** Where this workspace's volume is mounted. Relative ones begin at the working directory. */
  readonly volumePath?: string | undefined;
  /** Gives up on opening. Has no effect on the workspace once it is open. */
  readonly signal?: AbortSignal | undefined;
  /** Where brokers note what a crash would leave behind. Defaults to nowhere. */
  readonly journal?: OperationContext["journal"] | undefined;
  readonly log?: OperationContext["log"] | undefined;
  /** To be shared with other workspaces. Defaults to those of the configuration. */
  readonly limits?: Limits | undefined;
}

/**
 * Opens the workspace that a configuration describes. With `brokers` as values of known types, `broker` is checked when the program
 * is compiled: its type, and the options of that type.
 *
 * Throws a `ConfigurationError` that names everything that is wrong with the configuration; and what the broker threw, classified,
 * with the secrets of the configuration removed. The caller closes the workspace.
 */
export function openWorkspace<const D extends AnyBrokerDefinition>(
  config: WorkspaceConfig<D>,
  options: OpenWorkspaceOptions & { readonly brokers: readonly D[] | BrokerRegistry<D> | AnyBrokerRegistry },
): Promise<Workspace>;
export function openWorkspace(
  config: WorkspaceConfig,
  options?: OpenWorkspaceOptions & { readonly brokers?: undefined },
): Promise<Workspace>;
export async function openWorkspace(config: unknown, options: OpenWorkspaceOptions = {}): Promise<Workspace> {
  const { settings, definition, brokerConfig, redact } = await parseWorkspaceConfig(config, options);
  const { name } = settings;
  try {
    const volume = definition.volume?.(brokerConfig);
    const volumePath = options.volumePath === undefined ? undefined : resolve(options.volumePath);
    const broker = await openBroker((signal) => definition.open(brokerConfig, { signal, volumePath }), options.signal);
    try {
      assertComplete(broker, definition.type);
      return new Workspace({
        name,
        broker,
        brokerType: definition.type,
        volume,
        baseUrl: settings.baseUrl,
        readOnly: settings.readOnly,
        moveEnabled: settings.moveEnabled,
        archived: settings.archived,
        limits: options.limits ?? (settings.limits && createLimits(settings.limits)),
        redact,
        journal: options.journal,
        log: options.log,
      });
    } catch (error) {
      await closeQuietly(broker);
      throw error;
    }
  } catch (error) {
    const aborted = options.signal?.aborted === true;
    const facts = aborted ? ({ code: "CANCELLED", retryable: false } as const) : classifyError(error, { errorCode: classifyUnopened });
    throw wrapError(error, facts, { workspace: name, operation: "open" }, redact);
  }
}

/** How long after an abort a broker has time to clean up by itself. Milliseconds. */
const ABORT_GRACE_MS = 900;

/** Calls `open`; when `signal` aborts and `open` does not settle, leaves it to itself, and closes what it opens after all. */
async function openBroker(open: (signal: AbortSignal) => Promise<Broker>, signal: AbortSignal | undefined): Promise<Broker> {
  if (signal === undefined) return open(new AbortController().signal);
  signal.throwIfAborted();
  const opening = (async () => open(signal))();
  let onAbort: (() => void) | undefined;
  let timer: NodeJS.Timeout | undefined;
  let abandoned = false;
  const abort = new Promise<never>((_resolve, reject) => {
    onAbort = () => {
      timer = setTimeout(() => {
        abandoned = true;
        reject(signal.reason);
      }, ABORT_GRACE_MS);
    };
    signal.addEventListener("abort", onAbort, { once: true });
  });
  opening.then(
    async (broker) => {
      if (abandoned) await closeQuietly(broker);
    },
    () => undefined,
  );
  try {
    const broker = await Promise.race([opening, abort]);
    if (!signal.aborted) return broker;
    await closeQuietly(broker);
    throw signal.reason;
  } finally {
    clearTimeout(timer);
    if (onAbort !== undefined) signal.removeEventListener("abort", onAbort);
  }
}

/** Brokers come from code that no compiler may have checked. */
function assertComplete(broker: Broker, type: string): void {
  const members = broker as unknown as Readonly<Record<string, unknown>> | undefined;
  const missing = (Object.entries(BROKER_METHODS) as [string, BrokerMember][])
    .filter(([name, { shape, optional }]) => !optional && typeof members?.[name] !== (shape === "value" ? "object" : "function"))
    .map(([name]) => name);
  if (missing.length === 0) return;
  throw new StowageError(
    `the broker type "${type}" opened something that is no broker: it lacks ${missing.join(", ")}; update its package`,
    {
      code: "CONTRACT_MISMATCH",
    },
  );
}

async function closeQuietly(broker: Broker): Promise<void> {
  try {
    await broker?.close?.();
  } catch {
    // Something else has failed already, and that is what the caller hears of.
  }
}

/** There is no broker to ask yet: only what any error says of itself. */
function classifyUnopened(error: unknown): "CANCELLED" | "UNKNOWN" {
  return error instanceof Error && error.name === "AbortError" ? "CANCELLED" : "UNKNOWN";
}
