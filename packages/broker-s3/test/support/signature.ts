import { createHash, createHmac, timingSafeEqual } from "node:crypto";

/** What a signed request says, as it came in. */
export interface SignedRequest {
  readonly method: string;
  readonly url: URL;
  /** The path as it stood in the request line. */
  readonly rawPath: string;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Buffer;
}

/** Checks a request by AWS Signature Version 4, in the header or in the query. Gives the name of the S3 error, or nothing. */
export function checkSignature(request: SignedRequest, secrets: Readonly<Record<string, string>>, now: Date): string | undefined {
  const { url, headers } = request;
  const authorization = single(headers.authorization);
  const inQuery = url.searchParams.get("X-Amz-Algorithm") !== null;
  if (authorization === "" && !inQuery) return "AccessDenied";
  const fields = inQuery
    ? {
        credential: url.searchParams.get("X-Amz-Credential") ?? "",
        signedHeaders: url.searchParams.get("X-Amz-SignedHeaders") ?? "",
        signature: url.searchParams.get("X-Amz-Signature") ?? "",
        date: url.searchParams.get("X-Amz-Date") ?? "",
      }
    : {
        credential: /Credential=([^,]+)/.exec(authorization)?.[1] ?? "",
        signedHeaders: /SignedHeaders=([^,]+)/.exec(authorization)?.[1] ?? "",
        signature: /Signature=([0-9a-f]+)/.exec(authorization)?.[1] ?? "",
        date: single(headers["x-amz-date"]),
      };
  const [accessKeyId = "", day = "", region = "", service = ""] = fields.credential.split("/");
  const secret = secrets[accessKeyId];
  if (secret === undefined) return "InvalidAccessKeyId";
  const at = Date.parse(fields.date.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, "$1-$2-$3T$4:$5:$6Z"));
  if (Number.isNaN(at)) return "AccessDenied";
  if (inQuery) {
    if (now.getTime() > at + Number(url.searchParams.get("X-Amz-Expires")) * 1000) return "AccessDenied";
  } else if (Math.abs(now.getTime() - at) > 900_000) {
    return "RequestTimeTooSkewed";
  }
  const bodyHash = inQuery ? "UNSIGNED-PAYLOAD" : single(headers["x-amz-content-sha256"]);
  if (/^[0-9a-f]{64}$/.test(bodyHash) && bodyHash !== createHash("sha256").update(request.body).digest("hex"))
    return "XAmzContentSHA256Mismatch";
  const query = [...url.searchParams]
    .filter(([name]) => name !== "X-Amz-Signature")
    .map(([name, value]) => [encode(name), encode(value)] as const)
    .sort(([a, x], [b, y]) => (a < b ? -1 : a > b ? 1 : x < y ? -1 : 1))
    .map((pair) => pair.join("="))
    .join("&");
  const canonicalHeaders = fields.signedHeaders
    .split(";")
    .map((name) => `${name}:${single(headers[name]).trim().replace(/ +/g, " ")}\n`)
    .join("");
  const canonical = [request.method, request.rawPath, query, canonicalHeaders, fields.signedHeaders, bodyHash].join("\n");
  const scope = [day, region, service, "aws4_request"].join("/");
  const text = ["AWS4-HMAC-SHA256", fields.date, scope, createHash("sha256").update(canonical).digest("hex")].join("\n");
  const key = [day, region, service, "aws4_request"].reduce<Buffer | string>(
    (secretKey, part) => createHmac("sha256", secretKey).update(part).digest(),
    `AWS4${secret}`,
  );
  const expected = createHmac("sha256", key).update(text).digest("hex");
  const given = Buffer.from(fields.signature.padEnd(64, "0").slice(0, 64));
  return timingSafeEqual(given, Buffer.from(expected)) ? undefined : "SignatureDoesNotMatch";
}

function single(value: string | string[] | undefined): string {
  return Array.isArray(value) ? value.join(",") : (value ?? "");
}

function encode(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`);
}
