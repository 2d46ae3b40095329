/** First in, first out, without the cost of `Array.shift` on long ones. */
export interface Queue<T> {
  push(value: T): void;
  peek(): T | undefined;
  shift(): T | undefined;
  clear(): void;
}

export function createQueue<T>(): Queue<T> {
  let values: (T | undefined)[] = [];
  let head = 0;
  return {
    push(value) {
      values.push(value);
    },
    peek: () => values[head],
    shift() {
      if (head === values.length) return undefined;
      const value = values[head];
      values[head++] = undefined;
      if (head === values.length) {
        values = [];
        head = 0;
      } else if (head > 1024 && head * 2 > values.length) {
        values = values.slice(head);
        head = 0;
      }
      return value;
    },
    clear() {
      values = [];
      head = 0;
    },
  };
}
