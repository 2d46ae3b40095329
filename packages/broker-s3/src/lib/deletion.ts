import type { BatchResult, Deletion, OperationContext, StoredFile } from "@stowage/core/broker";
import { isPlainInXml } from "./keys.ts";
import { isMissing, s3ErrorStatus } from "./s3-errors.ts";
import { repeat, type Session } from "./session.ts";

/** What one request deletes at the most. */
const MAXIMUM_KEYS = 1_000;

/** S3 says the same whether there was something or not. */
export async function deleteFile(session: Session, file: StoredFile, { signal }: OperationContext): Promise<Deletion> {
  try {
    await session.store.delete(session.keys.keyOf(file.path), { signal });
  } catch (error) {
    if (!isMissing(error)) throw error;
    return "unknown";
  }
  return "unknown";
}

/** Deletes by the thousand; each key has its own end. Keys that XML cannot carry, and servers without the request, go one by one. */
export async function* deleteFiles(
  session: Session,
  files: readonly StoredFile[],
  context: OperationContext,
): AsyncGenerator<BatchResult<Deletion>> {
  const { store, keys } = session;
  const { signal } = context;
  const together: { readonly index: number; readonly key: string }[] = [];
  const alone: number[] = [];
  for (const [index, file] of files.entries()) {
    let key: string;
    try {
      key = keys.keyOf(file.path);
    } catch (error) {
      yield { index, ok: false, error };
      continue;
    }
    if (isPlainInXml(key)) together.push({ index, key });
    else alone.push(index);
  }
  for (let start = 0; start < together.length; start += MAXIMUM_KEYS) {
    signal.throwIfAborted();
    const chunk = together.slice(start, start + MAXIMUM_KEYS);
    let failures: ReadonlyMap<string, unknown>;
    try {
      failures = await repeat(signal, () => store.deleteMany([...new Set(chunk.map(({ key }) => key))], { signal }));
    } catch (error) {
      signal.throwIfAborted();
      if ([400, 405, 501].includes(s3ErrorStatus(error) ?? 0)) {
        alone.push(...chunk.map(({ index }) => index));
        continue;
      }
      for (const { index } of chunk) yield { index, ok: false, error };
      continue;
    }
    context.progress(0);
    for (const { index, key } of chunk) {
      const error = failures.get(key);
      if (error === undefined || isMissing(error)) yield { index, ok: true, value: "unknown" };
      else yield { index, ok: false, error };
    }
  }
  for (const index of alone) {
    signal.throwIfAborted();
    let result: BatchResult<Deletion>;
    try {
      result = { index, ok: true, value: await deleteFile(session, files[index] as StoredFile, context) };
    } catch (error) {
      signal.throwIfAborted();
      result = { index, ok: false, error };
    }
    context.progress(0);
    yield result;
  }
}
