import { escapePath, type FileDetails, type FilePath, type ListOptions, type OperationContext, StowageError } from "@stowage/core/broker";
import type { ListedObject } from "./object-store.ts";
import { repeat, type Session, versionOf } from "./session.ts";

/** Lists by pages, in the order of S3: by the bytes of the keys. */
export async function* listFiles(
  session: Session,
  directory: FilePath | "",
  options: ListOptions,
  context: OperationContext,
): AsyncGenerator<FileDetails> {
  const { store, keys, settings } = session;
  const prefix = directory === "" ? keys.prefix : `${keys.keyOf(directory)}/`;
  const startAfter = options.startAfter === undefined ? undefined : keys.keyOf(options.startAfter);
  let token: string | undefined;
  do {
    context.signal.throwIfAborted();
    const page = await repeat(context.signal, () =>
      store.list({
        signal: context.signal,
        prefix,
        flat: !options.recursive,
        startAfter: token === undefined ? startAfter : undefined,
        token,
        pageSize: settings.listPageSize,
      }),
    );
    context.progress(0);
    for (const object of page.objects) {
      const details = describe(session, object, prefix, startAfter, options);
      if (details !== undefined) yield details;
    }
    if (page.next !== undefined && page.next === token) {
      throw new StowageError("S3 gives the same page of its listing again and again", { code: "UNAVAILABLE", retryable: false });
    }
    token = page.next;
  } while (token !== undefined);
}

function describe(
  session: Session,
  object: ListedObject,
  prefix: string,
  startAfter: string | undefined,
  options: ListOptions,
): FileDetails | undefined {
  const { key, encodedKey, size, etag, modified } = object;
  const report = (reason: string): undefined => {
    options.onProblem({ path: escapePath(key ?? encodedKey), error: new StowageError(reason, { code: "INVALID_PATH" }) });
  };
  if (key === undefined) return report("this key is no UTF-8, so that no path can name it");
  // What was not asked for is not looked at: a hostile or broken server.
  if (!key.startsWith(prefix)) return report("S3 lists a key that lies elsewhere");
  if (startAfter !== undefined && Buffer.compare(Buffer.from(key), Buffer.from(startAfter)) <= 0) return undefined;
  const name = session.keys.nameOf(key);
  if (name.kind === "problem") return report(name.reason);
  if (name.kind === "hidden")
    return key.endsWith("/") && size > 0 ? report("the key of a directory holds bytes, which no path can name") : undefined;
  return { file: { path: name.path, size, version: versionOf({ etag }) }, size, modified };
}
