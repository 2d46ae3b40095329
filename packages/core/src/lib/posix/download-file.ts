import type { TransferDetails } from "../broker.ts";
import { assertPromisedSize, type ContentProof, checkContent } from "./content-check.ts";
import { readContent } from "./copy-file.ts";
import { openStoredFile, type SourceFile } from "./open-file.ts";
import type { DownloadCommand } from "./posix-commands.ts";
import { describePosixError } from "./posix-errors.ts";
import { assertReplaceable, discardTemporary, lacksLinks, openLocalPlace, type Place, publishSymbolicLink } from "./publish-file.ts";
import { type Steps, wait } from "./steps.ts";
import { copyOptions, describeTransfer, type OperationEnvironment, type OperationHooks, storeFile } from "./store-file.ts";

/** Fetches a file of the volume to a local path, or, where only parts of it will be read, puts a link to it there. */
export function* downloadFile(environment: OperationEnvironment, command: DownloadCommand, hooks: OperationHooks): Steps<TransferDetails> {
  const { file, checksum, durability, ifExists } = command;
  const place = openLocalPlace(command.localPath, command.temporaryName);
  const source = openStoredFile(environment.directories, file.path);
  try {
    const { size } = source.stats;
    assertPromisedSize(file, size);
    if (command.partial) {
      const proof = yield* linkTo(environment, source, place, command, hooks);
      if (proof !== undefined) return describeTransfer(file.path, size, "link", proof);
    }
    const { method, proof } = yield* storeFile(environment, source, place, { expected: file, checksum, durability, ifExists }, hooks);
    return describeTransfer(file.path, size, method, proof);
  } finally {
    source.discard();
    place.release();
  }
}

/** `undefined` when the local file system has no symbolic links. */
function* linkTo(
  environment: OperationEnvironment,
  source: SourceFile,
  place: Place,
  command: DownloadCommand,
  hooks: OperationHooks,
): Steps<ContentProof | undefined> {
  assertReplaceable(place, command.ifExists);
  const { size } = source.stats;
  let proof: ContentProof = { verified: "length" };
  // Only when it was asked for by name: to read all of a file of which parts are wanted is what the link is to spare.
  if (command.checksum !== "auto" && command.checksum !== "none") {
    const check = checkContent(command.file, command.checksum);
    yield* wait(readWhole(environment, source, check, hooks));
    proof = check.end(size);
    source.assertUnchanged();
  }
  // Without the links inside the volume: what was looked at just now is what the job will read.
  const target = `${environment.volume.rootPath.replace(/\/+$/, "")}/${source.realPath}`;
  try {
    publishSymbolicLink(place, target, command.ifExists);
  } catch (error) {
    discardTemporary(place, error);
    const cause = (error as { cause?: unknown }).cause ?? error;
    if (lacksLinks(cause, place)) return undefined;
    throw error;
  }
  if (command.durability === "power") yield* wait(place.sync());
  return proof;
}

async function readWhole(
  environment: OperationEnvironment,
  source: SourceFile,
  check: ReturnType<typeof checkContent>,
  hooks: OperationHooks,
): Promise<void> {
  try {
    await readContent(source, source.stats.size, check, copyOptions(environment, hooks, false));
  } catch (error) {
    throw describePosixError(error, { action: "read", path: source.path, side: source.side });
  }
}
