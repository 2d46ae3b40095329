import type { BatchResult, Broker } from "./broker.ts";

/**
 * `value`: no method. `pure`: answers at once, without a context. `close`: a promise, without a context. Every other takes an
 * `OperationContext` last: `promise`, `stream` (an async iterable), `batch` (a stream of results whose first argument is the array of items).
 */
export type BrokerMemberShape = "value" | "pure" | "close" | "promise" | "stream" | "batch";

export interface BrokerMember {
  readonly shape: BrokerMemberShape;
  /** Whether its absence says that the backend cannot do it. */
  readonly optional: boolean;
  /** Whether the workspace may be another one afterwards. */
  readonly changes: boolean;
  /** Whether it counts as a file on the move, for limits. */
  readonly moves: boolean;
}

type ShapeOf<Name extends keyof Broker> = Name extends "close"
  ? "close"
  : NonNullable<Broker[Name]> extends (...parameters: never[]) => infer Result
    ? Result extends Promise<unknown>
      ? "promise"
      : Result extends AsyncIterable<BatchResult<unknown>>
        ? "batch"
        : Result extends AsyncIterable<unknown>
          ? "stream"
          : "pure"
    : "value";

type BrokerMemberTable = {
  readonly [Name in keyof Broker]-?: BrokerMember & {
    readonly shape: ShapeOf<Name>;
    readonly optional: Pick<Broker, Name> extends Required<Pick<Broker, Name>> ? false : true;
  };
};

/** Every member of `Broker`. Whatever wraps, gates or counts methods goes by this table, so that a new method is forgotten nowhere. */
export const BROKER_METHODS: BrokerMemberTable = {
  capabilities: { shape: "value", optional: false, changes: false, moves: false },
  downloadFile: { shape: "promise", optional: false, changes: false, moves: true },
  uploadFile: { shape: "promise", optional: false, changes: true, moves: true },
  moveFile: { shape: "promise", optional: false, changes: true, moves: true },
  deleteFile: { shape: "promise", optional: false, changes: true, moves: true },
  statFile: { shape: "promise", optional: false, changes: false, moves: false },
  listFiles: { shape: "stream", optional: false, changes: false, moves: false },
  errorCode: { shape: "pure", optional: false, changes: false, moves: false },
  close: { shape: "close", optional: false, changes: false, moves: false },
  getFileSystemPath: { shape: "pure", optional: true, changes: false, moves: false },
  downloadFiles: { shape: "batch", optional: true, changes: false, moves: true },
  uploadFiles: { shape: "batch", optional: true, changes: true, moves: true },
  moveFiles: { shape: "batch", optional: true, changes: true, moves: true },
  deleteFiles: { shape: "batch", optional: true, changes: true, moves: true },
  copyFile: { shape: "promise", optional: true, changes: true, moves: true },
  openRead: { shape: "promise", optional: true, changes: false, moves: true },
  openWrite: { shape: "promise", optional: true, changes: true, moves: true },
  // A URL to write with is refused by its own rule: see `withReadOnly`.
  createSignedUrl: { shape: "promise", optional: true, changes: false, moves: false },
  sweep: { shape: "stream", optional: true, changes: true, moves: false },
};

type NamesOfShape<Shape extends BrokerMemberShape> = {
  [Name in keyof Broker]-?: ShapeOf<Name> extends Shape ? Name : never;
}[keyof Broker];

/** Names of all methods of a broker. */
export type BrokerMethodName = NamesOfShape<"pure" | "close" | "promise" | "stream" | "batch">;
export type PromiseMethodName = NamesOfShape<"promise">;
export type StreamMethodName = NamesOfShape<"stream">;
export type BatchMethodName = NamesOfShape<"batch">;

/** A method of a broker, present. */
export type BrokerMethod<Name extends BrokerMethodName> = NonNullable<Broker[Name]>;
