import { registerHooks } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { type AnyBrokerDefinition, escapePath, isBrokerDefinition, StowageError } from "@stowage/core/broker";

/**
 * The broker types that modules export, each module named as in an `import` of a file in `baseDirectory`: a package, a path that begins `./`, `../` or `/`,
 * or a `file:` URL. Throws `INVALID_CONFIGURATION` for a module that cannot be loaded or exports none.
 */
export async function loadBrokerModules(specifiers: readonly string[], baseDirectory: string): Promise<AnyBrokerDefinition[]> {
  const definitions = new Set<AnyBrokerDefinition>();
  for (const specifier of specifiers) {
    const found = Object.values(await importFrom(specifier, baseDirectory)).filter(isBrokerDefinition);
    if (found.length === 0) {
      throw new StowageError(
        `the module "${escapePath(specifier)}" exports no broker; export the value that defineBroker({ type, config, open }) gives`,
        { code: "INVALID_CONFIGURATION" },
      );
    }
    for (const definition of found) definitions.add(definition);
  }
  return [...definitions];
}

let imports = 0;

// `createRequire` would not see packages that only `import` may have: the name is resolved by Node's own loader, as from a file in that directory.
async function importFrom(specifier: string, baseDirectory: string): Promise<Readonly<Record<string, unknown>>> {
  const wanted = `stowage-jobs-import:${imports++}`;
  const parentURL = pathToFileURL(join(baseDirectory, "job.yaml")).href;
  const target = /^\.{0,2}\//u.test(specifier) ? pathToFileURL(resolve(baseDirectory, specifier)).href : specifier;
  const hooks = registerHooks({
    resolve: (request, context, nextResolve) =>
      request === wanted ? nextResolve(target, { ...context, parentURL }) : nextResolve(request, context),
  });
  try {
    return (await import(wanted)) as Record<string, unknown>;
  } catch (error) {
    const [reason = ""] = (error instanceof Error ? error.message : String(error)).split("\n", 1);
    throw new StowageError(`the broker module "${escapePath(specifier)}" cannot be loaded: ${escapePath(reason)}; install or correct it`, {
      code: "INVALID_CONFIGURATION",
      cause: error,
    });
  } finally {
    hooks.deregister();
  }
}
