const NUMBER_BYTES = 8;

/**
 * The bytes of state `version` of a file that is overwritten again and again: their number and every eight bytes of them name the
 * version, so that a reader can tell a whole state from a mixture or a part.
 */
export function versionBytes(version: number, baseLength: number): Buffer {
  const units = Math.ceil(baseLength / NUMBER_BYTES) + (version % 97);
  const unit = Buffer.alloc(NUMBER_BYTES);
  unit.writeUInt32LE(version, 0);
  unit.writeUInt32LE(~version >>> 0, 4);
  return Buffer.alloc(units * NUMBER_BYTES, unit);
}

/** Which version these bytes are, whole; or what is wrong with them. */
export function readVersion(bytes: Uint8Array, baseLength: number): number | string {
  if (bytes.length < NUMBER_BYTES) return `${bytes.length} bytes, a part of a version`;
  const version = Buffer.from(bytes.buffer, bytes.byteOffset, NUMBER_BYTES).readUInt32LE(0);
  const whole = versionBytes(version, baseLength);
  if (whole.length !== bytes.length) return `${bytes.length} bytes where version ${version} has ${whole.length}`;
  const difference = Buffer.compare(whole, bytes) === 0 ? -1 : whole.findIndex((byte, index) => byte !== bytes[index]);
  return difference === -1 ? version : `a mixture: version ${version} up to offset ${difference}, something else from there`;
}
