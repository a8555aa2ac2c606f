import { openStamped, resolveBelow, stampOf, type FileStamp } from '../holders/file-stamp.ts'
import type { ByteRange, ByteStream } from '../workers/byte-stream.ts'
import { createFileStream } from '../workers/file-stream.ts'

/** A file to be sent as it lies there. */
export interface PublishedFile {
  readonly size: number
  /** Another one for other bytes. */
  readonly etag: string
  /** Ms since 1970. */
  readonly changedAt: number
  /** Its bytes; throws ENOENT where it is another file by now. */
  open(range?: ByteRange): ByteStream
}

/** A file that was found, and where. */
export interface FoundFile extends PublishedFile {
  readonly path: string
  readonly stamp: FileStamp
}

/** The regular file at that place below a directory, or undefined; one that leads out of it is none. */
export function findFile(dir: string, relative: string): FoundFile | undefined {
  const resolved = resolveBelow(dir, relative)
  if (resolved === undefined || !resolved.inside) return undefined
  const path = resolved.file
  const stamp = stampOf(path)
  if (stamp === undefined || !stamp.isFile) return undefined
  return {
    path,
    stamp,
    size: stamp.size,
    etag: `"${stamp.text}"`,
    changedAt: stamp.changedAt,
    open: ({ offset = 0, end = stamp.size } = {}) =>
      createFileStream(() => openStamped(path, stamp), { offset, end }),
  }
}
