// What a file system says of itself in its first bytes, for hosts where udev does not tell (a container, a system without it).
// Sources: Linux's fs/ext4/ext4.h, fs/btrfs/ctree.h, fs/exfat/exfat_raw.h, fs/ntfs3/ntfs.h and the FAT specification.

/** Bytes that are needed: btrfs has its superblock at 64 KiB. */
export const SUPERBLOCK_BYTES = 64 * 1024 + 4096

/** Identity and label of a file system, as blkid(8) writes them. */
export interface FileSystemFacts {
  readonly uuid?: string | undefined
  readonly label?: string | undefined
}

const isEmpty = (bytes: Buffer): boolean => bytes.every(byte => byte === 0)

function uuidOf(bytes: Buffer): string | undefined {
  if (isEmpty(bytes)) return undefined
  const hex = bytes.toString('hex')
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    hex.slice(12, 16),
    hex.slice(16, 20),
    hex.slice(20),
  ].join('-')
}

/** Text up to the first NUL, without blanks at its end. */
function textOf(bytes: Buffer): string | undefined {
  const end = bytes.indexOf(0)
  const text = bytes
    .subarray(0, end < 0 ? bytes.length : end)
    .toString('utf8')
    .trimEnd()
  return text === '' ? undefined : text
}

/** A volume serial of four bytes, little-endian: `1A2B-3C4D`. */
function serialOf(bytes: Buffer): string | undefined {
  if (isEmpty(bytes)) return undefined
  const hex = Buffer.from(bytes).reverse().toString('hex').toUpperCase()
  return `${hex.slice(0, 4)}-${hex.slice(4)}`
}

const asText = (bytes: Buffer, at: number, length: number): string =>
  bytes.toString('latin1', at, at + length)

function ext(bytes: Buffer): FileSystemFacts | undefined {
  if (bytes.readUInt16LE(0x438) !== 0xef53) return undefined
  return { uuid: uuidOf(bytes.subarray(0x468, 0x478)), label: textOf(bytes.subarray(0x478, 0x488)) }
}

function btrfs(bytes: Buffer): FileSystemFacts | undefined {
  if (asText(bytes, 0x10040, 8) !== '_BHRfS_M') return undefined
  return {
    uuid: uuidOf(bytes.subarray(0x10020, 0x10030)),
    label: textOf(bytes.subarray(0x1012b, 0x1022b)),
  }
}

/** Its label lies in the root folder, which takes a walk to find: udev or the mount point's name has to tell. */
function exfat(bytes: Buffer): FileSystemFacts | undefined {
  if (asText(bytes, 3, 8) !== 'EXFAT   ') return undefined
  return { uuid: serialOf(bytes.subarray(0x64, 0x68)) }
}

function ntfs(bytes: Buffer): FileSystemFacts | undefined {
  if (asText(bytes, 3, 8) !== 'NTFS    ') return undefined
  const serial = Buffer.from(bytes.subarray(0x48, 0x50)).reverse()
  return { uuid: isEmpty(serial) ? undefined : serial.toString('hex').toUpperCase() }
}

function fat(bytes: Buffer): FileSystemFacts | undefined {
  const at = asText(bytes, 0x52, 5) === 'FAT32' ? 0x43 : asText(bytes, 0x36, 3) === 'FAT' ? 0x27 : 0
  if (at === 0) return undefined
  const label = textOf(bytes.subarray(at + 4, at + 15))
  return {
    uuid: serialOf(bytes.subarray(at, at + 4)),
    label: label === 'NO NAME' ? undefined : label,
  }
}

/** What the first {@link SUPERBLOCK_BYTES} of a device tell; undefined for a file system that is not known here. */
export function readSuperblock(bytes: Buffer): FileSystemFacts | undefined {
  if (bytes.length < SUPERBLOCK_BYTES) return undefined
  return btrfs(bytes) ?? ext(bytes) ?? exfat(bytes) ?? ntfs(bytes) ?? fat(bytes)
}
