import { type Broker, wrapBroker } from "@stowage/core/broker";

/** The same broker without the methods for many files, so that every file is a call that a wrapper sees. */
export function withoutBatches(broker: Broker): Broker {
  const {
    downloadFiles: _downloads,
    uploadFiles: _uploads,
    moveFiles: _moves,
    deleteFiles: _deletions,
    ...single
  } = wrapBroker(broker, {});
  return single;
}
