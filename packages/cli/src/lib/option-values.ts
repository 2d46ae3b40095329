import { InvalidArgumentError } from "commander";

const BYTES: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  k: 1e3,
  kb: 1e3,
  m: 1e6,
  mb: 1e6,
  g: 1e9,
  gb: 1e9,
  t: 1e12,
  tb: 1e12,
  kib: 1024,
  mib: 1024 ** 2,
  gib: 1024 ** 3,
  tib: 1024 ** 4,
};
const MILLISECONDS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
};

/** A whole number of at least `least`. */
export function parseCount(least: number, most: number = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < least || value > most) {
      throw new InvalidArgumentError(
        `Give a whole number ${most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`}.`,
      );
    }
    return value;
  };
}

/** `10MB`, `1.5GiB`, `4096`: bytes. */
export function parseBytes(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text);
  const unit = match === null ? undefined : BYTES[match[2]!.toLowerCase()];
  const bytes = unit === undefined ? 0 : Math.round(Number(match![1]) * unit);
  if (!(bytes > 0 && Number.isSafeInteger(bytes)))
    throw new InvalidArgumentError('Give a number of bytes with a unit, such as "10MB" or "1GiB".');
  return bytes;
}

/** `30s`, `10m`, `24h`, `7d`, `0s`: milliseconds. */
export function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]+)$/i.exec(text);
  const unit = match === null ? undefined : MILLISECONDS[match[2]!.toLowerCase()];
  const milliseconds = unit === undefined ? Number.NaN : Math.round(Number(match![1]) * unit);
  if (!Number.isSafeInteger(milliseconds)) throw new InvalidArgumentError('Give a time with a unit, such as "30s", "10m", "24h" or "7d".');
  return milliseconds;
}

/** For options that may be repeated: gathers `name=value` pairs. */
export function gatherPairs(text: string, previous: ReadonlyMap<string, string> | undefined): ReadonlyMap<string, string> {
  const equals = text.indexOf("=");
  if (equals < 1 || equals === text.length - 1) throw new InvalidArgumentError("Give it as name=value.");
  return new Map([...(previous ?? []), [text.slice(0, equals), text.slice(equals + 1)]]);
}
