/** Results that come one by one and are taken one by one, in the order in which they came. One consumer. */
export interface ResultQueue<T> extends AsyncIterable<T> {
  readonly push: (value: T) => void;
  readonly end: () => void;
  /** Thrown after the results that came before. */
  readonly fail: (error: unknown) => void;
  /** Results that have not been taken. */
  readonly waiting: number;
}

export function createResultQueue<T>(onTaken?: () => void): ResultQueue<T> {
  let values: T[] = [];
  let head = 0;
  let end: { readonly error?: unknown; readonly isFailure: boolean } | undefined;
  let wake: (() => void) | undefined;
  const notify = (): void => {
    wake?.();
    wake = undefined;
  };
  return {
    push(value) {
      values.push(value);
      notify();
    },
    end() {
      end ??= { isFailure: false };
      notify();
    },
    fail(error) {
      end ??= { error, isFailure: true };
      notify();
    },
    get waiting() {
      return values.length - head;
    },
    async *[Symbol.asyncIterator]() {
      for (;;) {
        while (head < values.length) {
          const value = values[head++]!;
          if (head === values.length) {
            values = [];
            head = 0;
          }
          onTaken?.();
          yield value;
        }
        if (end !== undefined) {
          if (end.isFailure) throw end.error;
          return;
        }
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
  };
}
