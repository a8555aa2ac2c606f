import { createHash } from 'node:crypto'
import { setImmediate as turn } from 'node:timers/promises'
import type { ByteRange, ByteStream } from './byte-stream.ts'
import type { PullSource } from './pull-source.ts'
import { createTreeNar } from './tree-nar.ts'

// A small NAR is made in less time than a worker thread takes to wake up, above all on a machine with other work, where
// workers stand back. So it is read on the main thread, in the slices that a worker makes of it: 64 nodes, then others
// have their turn.

/** NARs up to this size: half of all paths of a usual store, 0.1 ms where they are one file. */
export const SMALL_NAR_BYTES = 128 * 1024

/** The smallest buffer, for a NAR that turns out longer than it was said to be. */
const ROOM_MIN_BYTES = 4096

/** The next bytes into `out`, until it is full or the source is over; others have their turn after each slice. */
async function fillUp(source: PullSource, out: Buffer): Promise<number> {
  let filled = 0
  for (;;) {
    filled += source.fill(out.subarray(filled)) as number
    if (filled === out.length || source.finished) return filled
    await turn()
  }
}

/** The NAR of the tree at `root`, said to have `narSize` bytes, read on this thread. Throws what a worker's dump throws. */
export function readSmallTree(root: string, narSize: number, range: ByteRange = {}): ByteStream {
  const { offset = 0, end = Infinity } = range
  let source: PullSource | undefined
  let destroyed = false

  async function* chunks(): AsyncGenerator<Buffer, void, undefined> {
    if (destroyed) return
    source = createTreeNar(root, { offset })
    try {
      for (let left = end - offset; left > 0 && !source.finished;) {
        // With room for one byte more the source comes to its end, and what is wrong there is seen before any of it goes out.
        const room = Math.max(ROOM_MIN_BYTES, narSize - offset + 1)
        const out = Buffer.allocUnsafe(Math.min(left, room))
        const count = await fillUp(source, out)
        if (destroyed) return
        left -= count
        if (count > 0) yield out.subarray(0, count)
      }
    } finally {
      source.close()
    }
  }

  const iterator = chunks()
  return {
    [Symbol.asyncIterator]: () => iterator,
    recycle() {},
    destroy() {
      destroyed = true
      iterator.return().catch(() => undefined)
    },
  }
}

/** Hash and size of the NAR of the tree at `root`, read on this thread; undefined when it is no small one. */
export async function digestSmallTree(
  root: string,
  signal?: AbortSignal,
): Promise<{ readonly narHash: Buffer; readonly narSize: number } | undefined> {
  const source = createTreeNar(root)
  try {
    const out = Buffer.allocUnsafe(SMALL_NAR_BYTES + 1)
    const narSize = await fillUp(source, out)
    signal?.throwIfAborted()
    if (narSize > SMALL_NAR_BYTES) return undefined
    return { narHash: createHash('sha256').update(out.subarray(0, narSize)).digest(), narSize }
  } finally {
    source.close()
  }
}
