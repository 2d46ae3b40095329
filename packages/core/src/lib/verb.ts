import type { BatchResult, OperationContext, TransferDetails } from "./broker.ts";
import type { Digest, FilePath, StoredFile, TransferMethod } from "./files.ts";
import type { Change } from "./store-hook.ts";
import type { FileRecord } from "./transfer-options.ts";
import type { WorkspaceRuntime } from "./workspace-runtime.ts";

/** What is told of a file that a batch has dealt with. */
export interface DoneFacts {
  readonly file: StoredFile;
  readonly method: TransferMethod | "delete";
  readonly bytes: number;
  readonly digest?: Digest | undefined;
  readonly verified: TransferDetails["verified"];
}

/** How an item ended that neither failed nor was cancelled. */
export type Ending =
  | { readonly status: "done"; readonly facts: DoneFacts }
  /** `file`: what there is now, where it is as the caller wanted it. */
  | { readonly status: "skipped"; readonly reason: "missing" | "exists" | "same"; readonly file?: StoredFile | undefined }
  | { readonly status: "planned"; readonly bytes: number; readonly wouldReplace: boolean };

/** Calls a broker with retries, outside of the item's own attempts. Rejects with the last failure. */
export type Call = <T>(body: (context: OperationContext) => Promise<T>) => Promise<T>;

/** What `prepare` found out for later. */
export interface Notes {
  /** Whether the target was there before; `undefined` when nobody looked. */
  existed: boolean | undefined;
}

/** The names that an item's change reads and writes; items of one batch may not get into each other's way. */
export interface Footprint {
  readonly writes: readonly string[];
  readonly reads: readonly string[];
}

/** What the engine must know of one kind of batch. `Value` is what the broker answers. */
export interface Verb<Item, Parsed, Value> {
  readonly operation: FileRecord["operation"];
  /** Where failures belong and changes are recorded. */
  readonly runtime: WorkspaceRuntime;
  /** Every workspace that takes part; `close` of each waits. */
  readonly participants: readonly WorkspaceRuntime[];
  /** Whether two changes of the same file in one batch are an error; deletions may repeat. */
  readonly conflicts: boolean;
  /** Throws `INVALID_PATH` or `INVALID_ARGUMENT`. */
  parse(item: Item): Parsed;
  /** Path for messages, spans and records. */
  path(parsed: Parsed): FilePath;
  /** Bytes, where the caller told them. */
  size(parsed: Parsed): number | undefined;
  footprint(parsed: Parsed): Footprint;
  /** What must be done or known first; an ending means that there is nothing left to do. Absent when there is nothing to prepare. */
  readonly prepare?: ((parsed: Parsed, notes: Notes, call: Call) => Promise<Ending | undefined>) | undefined;
  /** What would happen. Changes nothing. */
  plan(parsed: Parsed, call: Call): Promise<Ending>;
  one(parsed: Parsed, context: OperationContext): Promise<Value>;
  readonly many?: ((parsed: readonly Parsed[], context: OperationContext) => AsyncIterable<BatchResult<Value>>) | undefined;
  conclude(parsed: Parsed, value: Value, attempts: number): Ending;
  /** Whether an item that failed with `FILE_NOT_FOUND` had been done by an earlier run of this batch. */
  readonly recover?: ((parsed: Parsed, call: Call) => Promise<Ending | undefined>) | undefined;
  change(parsed: Parsed, file: StoredFile): Change;
  /** Removes a file that was new; called when it could not be recorded. */
  readonly undo?: ((parsed: Parsed, context: OperationContext) => Promise<unknown>) | undefined;
}
