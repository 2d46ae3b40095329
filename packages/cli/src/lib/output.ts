export type Style = "bold" | "dim" | "red" | "green" | "yellow" | "cyan";

const STYLES: Readonly<Record<Style, number>> = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33, cyan: 36 };

/** One of the two streams of a process; the part of `process.stdout` that is needed. */
export interface TextStream {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  write(text: string): boolean;
  on?(event: "error", listener: (error: Error) => void): unknown;
}

export interface OutputOptions {
  /** One JSON object a line on standard output, and no other word there. */
  readonly isJson: boolean;
  /** Only results and failures. */
  readonly isQuiet: boolean;
  /** A line for every file, also where there is a progress bar. */
  readonly isVerbose: boolean;
  readonly standardOutput: TextStream;
  readonly standardError: TextStream;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Whoever reads standard output is gone. */
  onBrokenPipe(): void;
}

/** Everything that the command says. Names and messages that it is given are escaped already. */
export interface Output {
  readonly isJson: boolean;
  readonly isVerbose: boolean;
  /** A person watches standard error, and wants to see how things go. */
  readonly isWatched: boolean;
  /** What was asked for; people only. */
  result(text: string): void;
  /** What was done; people only, and not with --quiet. */
  line(text: string): void;
  /** One JSON object; only with --json. */
  record(value: object): void;
  /** Something to know, on standard error; not with --quiet. */
  notice(text: string): void;
  /** Something that failed, on standard error. Always shown. */
  failure(text: string): void;
  /** The one line at the bottom of a terminal that changes; `undefined` takes it away. */
  status(text: string | undefined): void;
  /** Columns of the terminal that shows the status. */
  readonly columns: number;
  /** For standard output: with colour where there is a terminal and nobody said NO_COLOR. */
  style(style: Style, text: string): string;
  /** As `style`, for what goes to standard error. */
  styleError(style: Style, text: string): string;
  flush(): void;
}

/** How much text is gathered before it is written: a listing of a million names must not be a million writes. */
const BUFFER_CHARACTERS = 32 * 1024;
const FLUSH_MS = 50;

export function createOutput(options: OutputOptions): Output {
  const { isJson, isQuiet, isVerbose, standardOutput, standardError, environment } = options;
  const wantsColour = environment.NO_COLOR === undefined || environment.NO_COLOR === "";
  const isDumb = environment.TERM === "dumb";
  let buffered = "";
  let timer: NodeJS.Timeout | undefined;
  let statusText: string | undefined;
  let isBroken = false;

  standardOutput.on?.("error", (error) => {
    if (isBroken || (error as NodeJS.ErrnoException).code !== "EPIPE") return;
    isBroken = true;
    options.onBrokenPipe();
  });

  const eraseStatus = (): void => {
    if (statusText !== undefined) standardError.write("\r\u001b[2K");
  };
  const drawStatus = (): void => {
    if (statusText !== undefined) standardError.write(statusText);
  };
  const flush = (): void => {
    clearTimeout(timer);
    timer = undefined;
    if (buffered === "") return;
    const text = buffered;
    buffered = "";
    if (!isBroken) standardOutput.write(text);
  };
  const writeOutput = (text: string): void => {
    buffered += `${text}\n`;
    if (standardOutput.isTTY || buffered.length > BUFFER_CHARACTERS) {
      eraseStatus();
      flush();
      drawStatus();
    } else {
      timer ??= setTimeout(flush, FLUSH_MS);
    }
  };
  const writeError = (text: string): void => {
    flush();
    eraseStatus();
    standardError.write(`${text}\n`);
    drawStatus();
  };
  const styled = (stream: TextStream, style: Style, text: string): string =>
    stream.isTTY && wantsColour && !isDumb ? `\u001b[${STYLES[style]}m${text}\u001b[0m` : text;

  return {
    isJson,
    isVerbose,
    isWatched: standardError.isTTY === true && !isJson && !isQuiet && !isDumb,
    // A terminal may not know its size, and may change it.
    get columns() {
      return standardError.columns || 80;
    },
    result: (text) => {
      if (!isJson) writeOutput(text);
    },
    line: (text) => {
      if (!isJson && !isQuiet) writeOutput(text);
    },
    record: (value) => {
      if (isJson) writeOutput(JSON.stringify(value));
    },
    notice: (text) => {
      if (!isQuiet) writeError(`stowage: ${text}`);
    },
    failure: (text) => writeError(`${styled(standardError, "red", "stowage:")} ${text}`),
    status: (text) => {
      if (text === statusText) return;
      eraseStatus();
      statusText = text;
      drawStatus();
    },
    style: (style, text) => styled(standardOutput, style, text),
    styleError: (style, text) => styled(standardError, style, text),
    flush,
  };
}

/** `text` cut to so many columns, its middle left out. */
export function shorten(text: string, columns: number): string {
  if (text.length <= columns) return text;
  if (columns < 3) return text.slice(0, Math.max(0, columns));
  const head = Math.floor((columns - 1) / 3);
  return `${text.slice(0, head)}…${text.slice(text.length - (columns - 1 - head))}`;
}

/** Somebody else's words (a backend's, a program's), with everything escaped that moves the cursor or turns the text round. Tabs stay. */
export function printable(text: string): string {
  return text.replace(
    /[\u0000-\u0008\u000a-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu,
    (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`,
  );
}
