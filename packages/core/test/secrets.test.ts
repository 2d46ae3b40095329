import fc from "fast-check";
import { describe, expect, test } from "vitest";
import * as z from "zod";
import { createRedactor, findSecrets, MASK, secret } from "../src/lib/secrets.ts";
import { deepFreeze } from "./support/broker-definitions.ts";

describe("the mark", () => {
  const find = (schema: z.ZodType, value: unknown) => findSecrets(schema, deepFreeze(value)).map(({ path }) => path.join("."));

  test("is seen through whatever wraps the schema", () => {
    const text = secret(z.string());
    for (const wrapped of [
      text,
      text.optional(),
      text.nullable(),
      text.default("x"),
      text.prefault("x"),
      text.readonly(),
      text.catch("x"),
      z.lazy(() => text),
      text.pipe(z.string()),
      z.preprocess((value) => value, text),
      z.union([z.number(), text]),
      z.intersection(text, z.string()),
      text.transform((value) => value.length),
    ]) {
      expect(find(z.object({ key: wrapped }), { key: "value" })).toEqual(["key"]);
    }
  });

  test("is found in objects, arrays, tuples, records and alternatives, and only there", () => {
    const schema = z.object({
      plain: z.string(),
      list: z.array(z.object({ name: z.string(), key: secret(z.string()) })),
      pair: z.tuple([z.string(), secret(z.string())], secret(z.number())),
      byName: z.record(z.string(), secret(z.string())),
      auth: z.discriminatedUnion("kind", [
        z.object({ kind: z.literal("a"), token: secret(z.string()) }),
        z.object({ kind: z.literal("b"), path: z.string() }),
      ]),
      rest: z.looseObject({ known: z.string() }),
      all: z.object({}).catchall(secret(z.string())),
      none: secret(z.string().optional()),
    });
    const value = {
      plain: "p",
      list: [{ name: "n", key: "k" }],
      pair: ["a", "b", 1],
      byName: { x: "y" },
      auth: { kind: "b", path: "p", token: "t" },
      rest: { known: "k", other: "o" },
      all: { a: "b" },
      none: undefined,
    };
    expect(find(schema, value)).toEqual(["list.0.key", "pair.1", "pair.2", "byName.x", "auth.token", "all.a"]);
  });

  test("is found below a schema that leads to itself", () => {
    const odd: z.ZodType = z.lazy(() => z.union([odd, z.object({ key: secret(z.string()), inner: odd })]));
    expect(find(odd, { key: "a", inner: { key: "b" } })).toEqual(["key", "inner.key"]);
  });

  test("keeps what else the schema says of itself", () => {
    expect(secret(z.string().describe("The key.")).meta()).toEqual({ description: "The key.", writeOnly: true });
  });
});

describe("a redactor", () => {
  const value = `p/s"w+rd & <ä> %`;
  const redact = createRedactor([value, "another-secret"]);

  for (const [form, text] of [
    ["as it is", value],
    ["as a part of a URL", encodeURIComponent(value)],
    ["as a part of a URL in lower case", encodeURIComponent(value).replace(/%../g, (escaped) => escaped.toLowerCase())],
    ["as a form field", new URLSearchParams({ a: value }).toString().slice(2)],
    ["as JSON", JSON.stringify(value).slice(1, -1)],
    ["as JSON with escaped slashes", JSON.stringify(value).slice(1, -1).replaceAll("/", "\\/")],
    ["as JSON inside JSON", JSON.stringify(JSON.stringify(value)).slice(3, -3)],
    ["as XML", value.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;")],
    ["as Base64", Buffer.from(value).toString("base64")],
    ["as URL-safe Base64", Buffer.from(value).toString("base64url")],
  ] as const) {
    test(`finds a secret ${form}`, () => expect(redact(`before ${text} after`)).toBe(`before ${MASK} after`));
  }

  test("finds a secret inside the Base64 of something longer, wherever it begins", () => {
    for (const user of ["", "a", "ab", "abc", "abcd"]) {
      for (const end of ["", "!", "!!", "!!!"]) {
        const encoded = Buffer.from(`${user}:another-secret${end}`).toString("base64");
        const redacted = redact(`Authorization: Basic ${encoded}`);
        expect(redacted).toContain(MASK);
        // At most the characters that it shares with its neighbours are left.
        expect(redacted.replace(MASK, "").length).toBeLessThan("Authorization: Basic ".length + user.length + end.length + 12);
      }
    }
  });

  test("finds a secret in URLs whichever characters were left as they are", () => {
    const odd = createRedactor(["it's/a(b)!"]);
    for (const text of ["it's%2Fa(b)!", "it's%2fa(b)!", "it%27s%2Fa%28b%29%21", "it%27s%2fa%28b%29%21"]) expect(odd(text)).toBe(MASK);
  });

  test("removes a secret that begins another one, whole", () => {
    expect(createRedactor(["abcd", "abcdefgh"])("abcdefgh abcd")).toBe(`${MASK} ${MASK}`);
  });

  test("removes the lines of a key, and a value without the spaces around it", () => {
    const key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\nshort\n-----END KEY-----";
    expect(createRedactor([key])("line MIIEvQIBADANBgkqhkiG of short")).toBe(`line ${MASK} of short`);
    expect(createRedactor(["  padded  "])("padded")).toBe(MASK);
  });

  test("leaves values of fewer than four characters, for they are in every other word", () => {
    expect(createRedactor(["abc", ""])("abc")).toBe("abc");
    expect(createRedactor([])("abc")).toBe("abc");
    expect(createRedactor(["abcd"])("abcd")).toBe(MASK);
  });

  test("takes no secret for a pattern, and leaves none in any text", () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ minLength: 4, unit: "binary" }), { minLength: 1, maxLength: 4 }),
        fc.string(),
        fc.string(),
        (secrets, before, after) => {
          const redacted = createRedactor(secrets)(`${before}${secrets.join(after)}${after}`);
          for (const one of secrets) expect(redacted.replaceAll(MASK, "\u{0}")).not.toContain(one);
        },
      ),
    );
  });
});
