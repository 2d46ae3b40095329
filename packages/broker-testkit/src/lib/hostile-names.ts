import type { Random } from "./random.ts";

/** What is no path inside a workspace, by why it is none. */
export const INVALID_PATHS: Readonly<Record<string, string>> = {
  empty: "",
  parent: "..",
  "parent first": "../outside",
  "parent inside": "a/../b",
  "parent last": "a/..",
  "parents up and out": "a/../../../../../../tmp/outside",
  current: ".",
  "current inside": "a/./b",
  absolute: "/etc/passwd",
  "absolute twice": "//server/share",
  "doubled slash": "a//b",
  "trailing slash": "a/",
  NUL: "a\0b",
  "lone surrogate": "a\ud800b",
  "another lone surrogate": "\udfff",
  "reserved name": ".stowage",
  "reserved directory": ".stowage/inflight/x",
  "reserved temporary name": "dir/.stowage-abc",
};

/** Names with control characters: refused for what is stored, accepted for what exists. */
export const CONTROL_NAMES: readonly string[] = ["new\nline", "tab\there", "bell\u0007", "escape\u001b[31m", "delete\u007f", "c1\u0085"];

/** Names that are odd, and perfectly valid. Every one must come through byte for byte. */
export const ODD_NAMES: readonly string[] = [
  " leading space",
  "trailing space ",
  " ",
  "two  spaces",
  ".leading-dot",
  "trailing-dot.",
  "...",
  ".. .",
  "~",
  "~root",
  "-",
  "--force",
  "-rf",
  "a+b",
  "100%",
  "%2e%2e%2f",
  "%2F",
  "%00",
  "#hash",
  "question?",
  "a&b=c",
  "semi;colon",
  "colon:colon",
  "back\\slash",
  "..\\..\\windows",
  'double"quote',
  "single'quote",
  "back`tick`",
  "star*",
  "{a,b}",
  "[a-z]",
  "<tag>",
  "pipe|pipe",
  "comma,comma",
  "equal=sign",
  "at@sign",
  "dollar$HOME",
  "exclamation!",
  "caret^",
  "(parentheses)",
  "CON",
  "aux.txt",
  "COM1",
  "LPT1.log",
  "con.",
  "thumbs.db",
  "desktop.ini",
  ".DS_Store",
  ".nfs0001",
  "index.html",
  "null",
  "undefined",
  "__proto__",
  "constructor",
  "toString",
  "hasOwnProperty",
  "0",
  "-1",
  "1e3",
  "true",
  "prefix.meta.json",
  "prefix.partial",
  "prefix.tmp",
];

/** Names beyond ASCII. */
export const UNICODE_NAMES: readonly string[] = [
  "Zürich",
  "東京都.txt",
  "Ελληνικά",
  "Кириллица",
  "العربية",
  "עברית.txt",
  "हिन्दी",
  "🚢📦.bin",
  "👩‍👩‍👧‍👦 family",
  "e\u0301 decomposed",
  "\u00e9 composed",
  "ﬁ ligature",
  "Å ångström \u212b",
  "ſ long s",
  "İstanbul ı",
  "\u200bzero width",
  "right\u202eto-left override",
  "\ufeffbyte order mark",
  "no-break\u00a0space",
  "line\u2028separator",
  "\u{1F1E8}\u{1F1ED}",
  "𝕞𝕒𝕥𝕙",
  "\u{10FFFD}",
  "\uE000private",
];

/** Names that a shell would act upon. Each has `CANARY` where a file name is to go that must never come into being. */
export const SHELL_NAMES: readonly string[] = [
  "$(touch CANARY)",
  "`touch CANARY`",
  "; touch CANARY",
  "&& touch CANARY",
  "| touch CANARY",
  "> CANARY",
  "' ; touch CANARY ; '",
  '" ; touch CANARY ; "',
  "$IFS touch CANARY",
  "--checkpoint-action=exec=touch CANARY",
];

/** Entries with which a hostile backend might answer a listing: each must be refused or reported, never used as it is. */
export const HOSTILE_LISTING: readonly string[] = [
  "../outside",
  "a/../../outside",
  "/etc/cron.d/outside",
  "a//outside",
  "",
  ".",
  "..",
  "a/",
  "nul\0byte",
  ".stowage-temporary",
  "dir/.stowage/inflight/x",
  "lone\ud800surrogate",
];

const ALPHABET: readonly string[] = [..."abcXYZ019 ._-+%#?&:\\\"'`$(){}[]<>|;,=@!^~*", "ü", "é", "e\u0301", "東", "🚢", "\u202e", "\u00a0"];

/** A valid path made of odd characters. */
export function oddPath(random: Random, maximumSegments = 4, maximumCharacters = 24): string {
  for (;;) {
    const segments = Array.from({ length: random.integer(1, maximumSegments) }, () =>
      Array.from({ length: random.integer(1, maximumCharacters) }, () => random.pick(ALPHABET)).join(""),
    );
    if (segments.every((segment) => segment !== "." && segment !== ".." && !segment.startsWith(".stowage"))) return segments.join("/");
  }
}

/** A path that must be refused: an odd one with one of the reasons put somewhere into it. */
export function invalidPath(random: Random): string {
  const segments = oddPath(random).split("/");
  const place = random.integer(0, segments.length);
  const poison = random.pick(["..", ".", "", "\0", "\ud800", ".stowage", ".stowage-x"]);
  if (poison === "\0" || poison === "\ud800") {
    const index = Math.min(place, segments.length - 1);
    return segments.with(index, `${segments[index]}${poison}x`).join("/");
  }
  return segments.toSpliced(place, 0, poison).join("/");
}
