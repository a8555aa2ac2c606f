import { createFrameEncoder } from '../compression/zstd-frame.ts'
import type { PullSource } from './pull-source.ts'
import { createTreeNar } from './tree-nar.ts'

/**
 * Bytes of NAR in one frame. 256 KiB pack 1 % worse than a MiB, in a quarter of the memory and of the time that other
 * streams wait. Fixed: an interrupted transfer is resumed at an offset into the packed bytes, which must come out the same; a change
 * here, or of the zstd library's output, breaks the transfers that are under way then.
 */
export const ZSTD_SLICE_BYTES = 256 * 1024

/** Slice buffers of finished streams, for the next ones. */
const idleSlices: Buffer[] = []
const IDLE_SLICES = 16

/** The NAR of a tree as zstd frames, from `offset` into the packed bytes on: what stands before is made and dropped. */
export function createZstdNar(root: string, offset = 0): PullSource {
  const nar = createTreeNar(root)
  const encode = createFrameEncoder()
  let slice = idleSlices.pop() ?? Buffer.allocUnsafeSlow(ZSTD_SLICE_BYTES)
  let filled = 0
  let skip = offset
  let frame: Buffer = Buffer.alloc(0)
  let closed = false

  const nextFrame = (): void => {
    frame = encode(slice.subarray(0, filled))
    filled = 0
    const over = Math.min(skip, frame.length)
    skip -= over
    frame = frame.subarray(over)
  }

  return {
    fill(out) {
      if (frame.length === 0) {
        filled += nar.fill(slice.subarray(filled)) as number
        if (filled === slice.length || (nar.finished && filled > 0)) nextFrame()
        if (frame.length === 0) return 0
      }
      const count = frame.copy(out)
      frame = frame.subarray(count)
      return count
    },
    get finished() {
      return nar.finished && filled === 0 && frame.length === 0
    },
    close() {
      nar.close()
      if (closed) return
      closed = true
      if (idleSlices.length < IDLE_SLICES) idleSlices.push(slice)
      slice = Buffer.alloc(0)
    },
  }
}
