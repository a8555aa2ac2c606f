import { close, fstatSync, open, read } from 'node:fs'
import { promisify } from 'node:util'
import { fail } from '../../protocol/errors.ts'
import type { Loans } from './chunk-buffers.ts'
import { readFilePart } from './file-stream.ts'
import { failedOn, READ_FLAGS } from './fs-errors.ts'
import type { FileSegment } from './pull-source.ts'

const openFile = promisify(open)
const closeFile = promisify(close)
const readFile = promisify(read)

/**
 * The bytes of a segment, read by libuv's threads. The file is opened anew, so that no descriptor crosses threads, and must
 * be the one that the worker saw. Throws HOLDING_GONE, HOLDER_UNREADABLE, and NAR_MISMATCH when its size changes.
 */
export async function* readSegment(
  segment: FileSegment,
  loans: Loans,
): AsyncGenerator<Buffer, void, undefined> {
  const path = Buffer.from(segment.path)
  let fd = -1
  let sent = 0
  const changed = (actual: number | string): never =>
    fail('NAR_MISMATCH', {
      path: path.toString(),
      field: 'size',
      actual,
      expected: segment.fileSize,
    })
  try {
    fd = await openFile(path, READ_FLAGS)
    const stats = fstatSync(fd)
    if (stats.dev !== segment.device || stats.ino !== segment.inode) {
      fail('HOLDING_GONE', { path: path.toString(), holder: 'this host' })
    }
    if (stats.size !== segment.fileSize) changed(stats.size)
    for await (const chunk of readFilePart(fd, segment, loans)) {
      sent += chunk.length
      yield chunk
    }
    if (sent < segment.end - segment.offset) changed(segment.offset + sent)
    if (segment.end === segment.fileSize) {
      const { bytesRead } = await readFile(fd, Buffer.alloc(1), 0, 1, segment.fileSize)
      if (bytesRead > 0) changed(`over ${segment.fileSize}`)
    }
  } catch (error) {
    failedOn(path.toString(), error)
  } finally {
    if (fd !== -1) await closeFile(fd).catch(() => undefined)
  }
}
