import { describe, expect, test } from "vitest";
import { ConfigurationError, describeProblem } from "../src/lib/config-error.ts";
import { type ImportScaleOptions, importScaleWorkspace } from "../src/lib/import-scale-workspace.ts";
import { deepFreeze } from "./support/broker-definitions.ts";

const imported = (json: unknown, options?: ImportScaleOptions) =>
  importScaleWorkspace(typeof json === "string" ? json : deepFreeze(json), options);
const named = { name: "data" };
const bare = (broker: unknown, version?: unknown) => ({ ...(version !== undefined && { version }), broker });
const warningsOf = (json: unknown) => imported(json, named).warnings.map(({ name, description }) => `${name} ${description}`);

function problemsOf(json: unknown): string[] {
  try {
    importScaleWorkspace(json, named);
    return [];
  } catch (error) {
    if (!ConfigurationError.is(error)) throw error;
    return error.problems.map(describeProblem);
  }
}

describe("what is translated", () => {
  for (const version of ["1.0", "6", "7", 7, undefined]) {
    test(`a host workspace of version ${JSON.stringify(version)}`, () => {
      expect(imported(bare({ type: "host", host_path: "/data" }, version), named)).toEqual({
        config: { name: "data", broker: { type: "host", hostPath: "/data" } },
        warnings: [],
      });
    });
  }

  test("an NFS workspace", () => {
    expect(imported(bare({ type: "nfs", nfs_path: "server:/export/data" }), named)).toEqual({
      config: { name: "data", broker: { type: "nfs", nfsPath: "server:/export/data" } },
      warnings: [],
    });
  });

  test("an S3 workspace with everything", () => {
    const broker = {
      type: "s3",
      bucket_name: "bucket",
      region_name: "us-east-1",
      host_path: "/mnt/bucket",
      credentials: { access_key_id: " AKIA ", secret_access_key: "secret\n" },
    };
    expect(imported(bare(broker), named)).toEqual({
      config: {
        name: "data",
        broker: {
          type: "s3",
          bucket: "bucket",
          region: "us-east-1",
          credentials: { accessKeyId: "AKIA", secretAccessKey: "secret" },
          hostPath: "/mnt/bucket",
        },
      },
      warnings: [],
    });
  });

  test("blank and empty values of an S3 workspace, which mean that they are not set", () => {
    const broker = { type: "s3", bucket_name: "bucket", region_name: "", host_path: "  ", credentials: null };
    expect(imported(bare(broker), named)).toEqual({ config: { name: "data", broker: { type: "s3", bucket: "bucket" } }, warnings: [] });
    expect(imported(bare({ ...broker, credentials: {} }), named).warnings).toEqual([]);
  });

  for (const key of ["json_config", "configuration"]) {
    test(`a whole record, with its configuration in ${key}, as text`, () => {
      const record = {
        id: 3,
        name: "raw",
        title: "Raw data",
        description: "",
        base_url: "http://files.example.org/raw/",
        is_active: false,
        is_move_enabled: false,
        created: "2015-10-05T21:26:04.855Z",
        last_modified: "2015-10-05T21:26:04.855Z",
        archived: null,
        deprecated: null,
        [key]: { version: "1.0", broker: { type: "host", host_path: "/data" } },
      };
      expect(imported(JSON.stringify(record))).toEqual({
        config: {
          name: "raw",
          title: "Raw data",
          baseUrl: "http://files.example.org/raw/",
          archived: true,
          moveEnabled: false,
          broker: { type: "host", hostPath: "/data" },
        },
        warnings: [],
      });
    });
  }
});

describe("what is translated with a warning", () => {
  test("credentials of which one is blank, which Scale takes for none", () => {
    for (const credentials of [
      { access_key_id: "AKIA", secret_access_key: "  " },
      { access_key_id: "", secret_access_key: "secret" },
      { access_key_id: "", secret_access_key: "" },
    ]) {
      const { config, warnings } = imported(bare({ type: "s3", bucket_name: "b", credentials }), named);
      expect(config.broker).toEqual({ type: "s3", bucket: "b" });
      expect(warnings).toEqual([
        {
          name: "blank_credentials",
          description: "broker.credentials: are left out, since one of them is blank: as in Scale, the machine's own role is used",
        },
      ]);
    }
  });

  test("a configuration without a name, and a name that no workspace may have", () => {
    expect(importScaleWorkspace(bare({ type: "host", host_path: "/d" }))).toMatchObject({
      config: { name: "workspace" },
      warnings: [{ name: "missing_name" }],
    });
    expect(importScaleWorkspace({ name: " Größe / 2!", configuration: bare({ type: "host", host_path: "/d" }) })).toMatchObject({
      config: { name: "Gro-e-2" },
      warnings: [{ name: "changed_name" }],
    });
    expect(importScaleWorkspace({ name: "日本", configuration: bare({ type: "host", host_path: "/d" }) }).config.name).toBe("workspace");
  });

  test("paths and buckets with spaces around them, and paths that will be refused", () => {
    expect(warningsOf(bare({ type: "s3", bucket_name: " b " }))).toEqual([
      "trimmed broker.bucket_name: had spaces around it, which are dropped",
    ]);
    expect(warningsOf(bare({ type: "host", host_path: "data" }))).toEqual([
      "suspicious_path broker.host_path: is not absolute, which Scale accepted; it will be refused",
    ]);
    expect(warningsOf(bare({ type: "nfs", nfs_path: "/export" }))).toEqual([
      "suspicious_path broker.nfs_path: is not of the form server:/export, and will be refused",
    ]);
    expect(warningsOf(bare({ type: "nfs", nfs_path: "[fe80::1]:/export" }))).toEqual([]);
  });

  test("keys that Scale accepts and ignores: with the one that was probably meant", () => {
    expect(warningsOf({ ...bare({ type: "host", host_path: "/d", hostpath: "/e" }), zzz: 1 })).toEqual([
      "left_out zzz: is left out: Scale gives it no meaning",
      'left_out broker.hostpath: is left out: Scale gives it no meaning (did you mean "host_path"?)',
    ]);
    expect(
      warningsOf({
        name: "a",
        owner: "me",
        json_config: bare({ type: "s3", bucket_name: "b", credentials: { access_key_id: "a", secret_access_key: "b", token: "c" } }),
      }),
    ).toEqual([
      "left_out json_config.broker.credentials.token: is left out: Scale gives it no meaning",
      "left_out owner: is left out: Scale gives it no meaning",
    ]);
  });

  test("a deprecated workspace, and a base URL that cannot be one", () => {
    const configuration = bare({ type: "host", host_path: "/d" });
    expect(importScaleWorkspace({ name: "a", deprecated: "2020-01-01T00:00:00Z", configuration })).toMatchObject({
      config: { archived: true },
      warnings: [{ name: "deprecated" }],
    });
    const { config, warnings } = importScaleWorkspace({ name: "a", base_url: "https://me:hunter2@example.org", configuration });
    expect(config.baseUrl).toBeUndefined();
    expect(warnings).toMatchObject([{ name: "left_out" }]);
    expect(JSON.stringify(warnings)).not.toContain("hunter2");
  });
});

describe("what is refused", () => {
  const cases: readonly (readonly [string, unknown, string[]])[] = [
    ["text that is no JSON", "{secret", ["it is not valid JSON"]],
    ["something else", 3, ["it must be an object: a workspace record, or its configuration"]],
    ["a record without a configuration", { name: "a", json_config: null }, ["json_config: must be an object with the key broker"]],
    [
      "another version",
      bare({ type: "host", host_path: "/d" }, "5"),
      ["version: is not a version of Scale's workspaces that can be read; known are 1.0, 6 and 7"],
    ],
    ["no broker", {}, ["broker: is required"]],
    ["a broker that is text", { broker: "host" }, ["broker: must be an object"]],
    ["no type", bare({}), ["broker.type: is required: host, nfs or s3"]],
    ["an unknown type", bare({ type: "hst" }), ['broker.type: is not one of Scale\'s broker types: host, nfs, s3 (did you mean "host"?)']],
    ["no path", bare({ type: "host" }), ["broker.host_path: is required"]],
    ["a blank path", bare({ type: "nfs", nfs_path: " " }), ["broker.nfs_path: must not be blank"]],
    ["a path that is no text", bare({ type: "host", host_path: 3 }), ["broker.host_path: must be a string"]],
    ["no bucket", bare({ type: "s3" }), ["broker.bucket_name: is required"]],
    [
      "half of the credentials",
      bare({ type: "s3", bucket_name: "b", credentials: { access_key_id: "a" } }),
      ["broker.credentials.secret_access_key: is required where the other half is given"],
    ],
    [
      "credentials that are text",
      bare({ type: "s3", bucket_name: "b", credentials: "a:b" }),
      ["broker.credentials: must be an object with access_key_id and secret_access_key"],
    ],
    [
      "a flag that is no flag",
      { name: "a", is_active: "no", json_config: bare({ type: "host", host_path: "/d" }) },
      ["is_active: must be true or false"],
    ],
  ];
  for (const [what, json, problems] of cases) test(what, () => expect(problemsOf(json)).toEqual(problems));

  test("masked credentials, and everything else that is wrong with them", () => {
    const credentials = { access_key_id: "************", secret_access_key: "************" };
    expect(problemsOf(bare({ type: "s3", credentials, region_name: 3 }, "2"))).toEqual([
      "version: is not a version of Scale's workspaces that can be read; known are 1.0, 6 and 7",
      "broker.bucket_name: is required",
      "broker.region_name: must be a string",
      "broker.credentials.access_key_id: is masked: Scale hides credentials from this user; export as staff, or fill them in",
      "broker.credentials.secret_access_key: is masked: Scale hides credentials from this user; export as staff, or fill them in",
    ]);
  });

  test("without a word of the credentials in any message", () => {
    const text = '{"broker": {"type": "s3", "credentials": {"secret_access_key": "hunter2hunter2"}} broken';
    expect(() => importScaleWorkspace(text)).toThrow(expect.not.objectContaining({ cause: expect.anything() }));
    expect(problemsOf(text).join()).not.toContain("hunter2");
  });
});
