import type { TransferDetails } from "../broker.ts";
import { assertPromisedSize } from "./content-check.ts";
import { openLocalFile, openStoredFile, type SourceFile } from "./open-file.ts";
import type { CopyCommand, UploadCommand } from "./posix-commands.ts";
import { openVolumePlace } from "./publish-file.ts";
import type { Steps } from "./steps.ts";
import { describeTransfer, type OperationEnvironment, type OperationHooks, storeFile } from "./store-file.ts";

/** Stores a local file on the volume. */
export function uploadFile(environment: OperationEnvironment, command: UploadCommand, hooks: OperationHooks): Steps<TransferDetails> {
  return storeAs(environment, () => openLocalFile(command.localPath), command, command.file.path, hooks);
}

/** Stores a second, independent copy of a file of the volume. */
export function copyStoredFile(environment: OperationEnvironment, command: CopyCommand, hooks: OperationHooks): Steps<TransferDetails> {
  return storeAs(environment, () => openStoredFile(environment.directories, command.file.path), command, command.newPath, hooks);
}

function* storeAs(
  environment: OperationEnvironment,
  open: () => SourceFile,
  command: UploadCommand | CopyCommand,
  path: UploadCommand["file"]["path"],
  hooks: OperationHooks,
): Steps<TransferDetails> {
  const source = open();
  try {
    assertPromisedSize(command.file, source.stats.size);
    const place = openVolumePlace(environment, path, command);
    try {
      const { checksum, durability, ifExists } = command;
      const { method, proof } = yield* storeFile(
        environment,
        source,
        place,
        { expected: command.file, checksum, durability, ifExists },
        hooks,
      );
      return describeTransfer(path, source.stats.size, method, proof);
    } finally {
      place.release();
    }
  } finally {
    source.discard();
  }
}
