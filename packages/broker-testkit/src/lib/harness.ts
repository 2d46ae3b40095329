import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type FileInput, openWorkspace, type Workspace, type WorkspaceInit } from "@stowage/core";
import { type Broker, type BrokerDefinition, type FilePath, parseFilePath, type StoredFile } from "@stowage/core/broker";
import type { Subject } from "./conformance-case.ts";
import type { ConformancePlace, ConformanceTarget, ResolvedTraits, SeedFile } from "./conformance-target.ts";
import { CaseSkipped, expectDone } from "./expectations.ts";
import { listDirectoryNames, writeSeedFiles } from "./local-tree.ts";
import type { Random } from "./random.ts";
import { createTestContext, type TestContext, type TestContextOptions } from "./test-context.ts";

export interface OpenOptions extends Partial<Omit<WorkspaceInit, "broker">> {
  /** Defaults to the case's own place. */
  readonly place?: ConformancePlace | undefined;
  /** Configuration and mount to use instead of the place's. */
  readonly mount?: { readonly config: Readonly<Record<string, unknown>>; readonly volumePath?: string | undefined } | undefined;
  /** Put between the workspace and the broker. */
  wrap?(broker: Broker): Broker;
}

export interface Opened {
  readonly workspace: Workspace;
  /** The broker below the workspace, without what `wrap` put over it. */
  readonly broker: Broker;
}

/** What a case works with. Everything opened through it is closed, and every place cleaned up, when the case ends. */
export interface Harness extends Subject, Opened {
  /** An empty local directory. */
  readonly scratch: string;
  readonly random: Random;
  /** The bigger of these numbers on a soak run, the smaller otherwise. */
  rounds(usual: number, soak: number): number;
  open(options?: OpenOptions): Promise<Opened>;
  /** As an application opens it: from a configuration. */
  openConfigured(changes?: Readonly<Record<string, unknown>>): Promise<Workspace>;
  openPlace(): Promise<ConformancePlace>;
  context(options?: TestContextOptions): TestContext;
  /** A new local file with these bytes. */
  localFile(bytes: Uint8Array | string): Promise<string>;
  /** A path in `scratch` that no file has. */
  localPath(): string;
  /** Stores a file as a precondition. */
  put(path: string, bytes: Uint8Array | string): Promise<StoredFile>;
  /** Stores many files by the fastest way that the place offers. */
  putMany(files: readonly SeedFile[]): Promise<void>;
  /** The bytes of a stored file, `undefined` when there is none. */
  get(file: FileInput, workspace?: Workspace): Promise<Buffer | undefined>;
  /** Paths of everything stored, sorted. */
  list(directory?: string, workspace?: Workspace): Promise<string[]>;
  /** Everything that the backend holds, when that can be seen. Without the records of sessions that are alive. */
  rawNames(): Promise<string[] | undefined>;
  /** What the backend holds beyond the files that are listed; empty when that cannot be seen. Empty directories are no remains. */
  remains(): Promise<string[]>;
  stored(path: string): StoredFile & { readonly path: FilePath };
  skip(reason: string): never;
}

export interface HarnessResources {
  readonly target: ConformanceTarget;
  readonly definition: BrokerDefinition<string, unknown>;
  readonly place: ConformancePlace;
  readonly traits: ResolvedTraits;
  readonly scratch: string;
  readonly random: Random;
  readonly soak: boolean;
  readonly first: Opened;
  /** What the backend held of its own accord before anything was stored. */
  readonly emptyRawNames: readonly string[] | undefined;
  openWith(options: OpenOptions): Promise<Opened>;
  openPlace(): Promise<ConformancePlace>;
  /** Called at the case's end, latest first. */
  atEnd(task: () => Promise<void>): void;
}

export function createHarness(resources: HarnessResources): Harness {
  const { target, definition, place, traits, scratch, random, first } = resources;
  let names = 0;
  const localPath = (): string => join(scratch, `local-${++names}`);
  const localFile = async (bytes: Uint8Array | string): Promise<string> => {
    const path = localPath();
    await writeFile(path, bytes);
    return path;
  };
  const upload = async (path: string, bytes: Uint8Array | string): Promise<StoredFile> => {
    const outcome = await expectDone(
      first.workspace.uploadFiles([{ file: path, localPath: await localFile(bytes) }]),
      `storing "${path}", which the experiment needs,`,
    );
    return outcome.file;
  };
  const seed = async (files: readonly SeedFile[]): Promise<void> => {
    if (place.seed !== undefined) await place.seed(files);
    else if (place.directory !== undefined) await writeSeedFiles(place.directory, files);
    else throw new Error(`the target "${target.name}" is not writable and its places have neither seed nor directory`);
  };

  const harness: Harness = {
    target,
    definition,
    place,
    traits,
    scratch,
    random,
    workspace: first.workspace,
    broker: first.broker,
    rounds: (usual, soak) => (resources.soak ? soak : usual),
    open: (options = {}) => resources.openWith(options),
    openPlace: () => resources.openPlace(),
    async openConfigured(changes = {}) {
      const workspace = await openWorkspace(
        { name: "conformance", ...changes, broker: { type: definition.type, ...place.config } },
        { brokers: [definition], volumePath: place.volumePath },
      );
      resources.atEnd(() => workspace.close());
      return workspace;
    },
    context: (options) => createTestContext(options),
    localFile,
    localPath,
    async put(path, bytes) {
      if (traits.writable) return upload(path, bytes);
      await seed([{ path, bytes: Buffer.from(bytes) }]);
      return { path: parseFilePath(path), size: Buffer.byteLength(bytes) };
    },
    async putMany(files) {
      if (place.seed !== undefined || place.directory !== undefined || !traits.writable) return seed(files);
      const directory = localPath();
      await mkdir(directory);
      const uploads = [];
      for (const [index, { path, bytes }] of files.entries()) {
        const source = join(directory, String(index));
        await writeFile(source, bytes);
        uploads.push({ file: path, localPath: source });
      }
      await first.workspace.uploadFiles(uploads);
    },
    async get(file, workspace = first.workspace) {
      if ((await workspace.statFile(file)) === undefined) return undefined;
      const target = localPath();
      await expectDone(
        workspace.downloadFiles([{ file, localPath: target }]),
        `reading "${typeof file === "string" ? file : file.path}" back`,
      );
      return readFile(target);
    },
    async list(directory = "", workspace = first.workspace) {
      const paths: string[] = [];
      for await (const { file } of workspace.listFiles(directory, { recursive: true })) paths.push(file.path);
      return paths.sort();
    },
    rawNames: () => readRawNames(place),
    async remains() {
      const stored = await harness.list();
      if (place.rawNames === undefined) {
        return ((await readRawNames(place, { filesOnly: true })) ?? []).filter((name) => !stored.includes(name));
      }
      // Names of a backend's own making: they can only be counted.
      const raw = ((await readRawNames(place)) ?? []).filter((name) => resources.emptyRawNames?.includes(name) !== true);
      return raw.length > stored.length ? [`${raw.length} names for ${stored.length} files`, ...raw] : [];
    },
    stored: (path) => ({ path: parseFilePath(path) }),
    skip(reason) {
      throw new CaseSkipped(reason);
    },
  };
  return harness;
}

/** What a place's backend holds, when that can be seen. */
export async function readRawNames(place: ConformancePlace, options: { readonly filesOnly?: boolean } = {}): Promise<string[] | undefined> {
  const found = place.rawNames !== undefined ? await place.rawNames() : await listDirectoryNames(place.directory, options);
  // In-flight records of open sessions are no remains: they are what points at remains.
  return found?.filter((name) => name !== ".stowage" && !name.startsWith(".stowage/")).sort();
}
