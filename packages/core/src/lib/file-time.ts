/**
 * The time of a file, for `utimes` and its like, from milliseconds since 1970 (with fractions), so that the milliseconds stay equal. Some versions of
 * libuv cut to microseconds what a double of seconds only comes near: this aims at the middle of the wanted one.
 */
export function toFileTime(milliseconds: number): number | Date {
  // Node takes negative numbers for "now".
  if (milliseconds < 0) return new Date(Math.round(milliseconds));
  const seconds = Math.floor(milliseconds / 1000);
  const microseconds = Math.floor((milliseconds - seconds * 1000) * 1000);
  return seconds + (microseconds + 0.5) / 1e6;
}
