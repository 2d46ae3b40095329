import type { FileInput } from "./files.ts";
import type { Outcome } from "./outcome.ts";
import type { TransferOptions } from "./transfer-options.ts";
import type { Workspace } from "./workspace.ts";

/** Store `file` of the source workspace in the target workspace. */
export interface FileTransfer {
  readonly file: FileInput;
  /** Its path there. Defaults to that of `file`. */
  readonly newPath?: string | undefined;
}

export function transferFiles<const I extends FileTransfer>(
  source: Workspace,
  target: Workspace,
  transfers: readonly I[],
  options?: TransferOptions,
): Promise<Outcome<I>[]>;
export function transferFiles<I extends FileTransfer>(
  source: Workspace,
  target: Workspace,
  transfers: AsyncIterable<I>,
  options?: TransferOptions,
): AsyncIterable<Outcome<I>>;
export function transferFiles<I extends FileTransfer>(
  _source: Workspace,
  _target: Workspace,
  _transfers: readonly I[] | AsyncIterable<I>,
  _options?: TransferOptions,
): Promise<Outcome<I>[]> | AsyncIterable<Outcome<I>> {
  throw new Error("not built yet");
}
