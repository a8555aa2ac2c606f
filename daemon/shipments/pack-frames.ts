import { createFrameEncoder } from '../compression/zstd-frame.ts'
import type { ByteStream } from '../workers/byte-stream.ts'
import { ZSTD_SLICE_BYTES } from '../workers/zstd-nar.ts'

/**
 * A NAR as zstd frames, one per slice: byte for byte what a live store makes of the same NAR, however the source cuts its
 * chunks. So a shipment is the same whether a path was in the store or came from a peer.
 */
export function frameNar(nar: ByteStream): ByteStream {
  async function* frames(): AsyncGenerator<Buffer, void, undefined> {
    const encode = createFrameEncoder()
    const slice = Buffer.allocUnsafeSlow(ZSTD_SLICE_BYTES)
    let filled = 0
    // The encoder's result is good until its next call.
    const frame = (): Buffer => Buffer.from(encode(slice.subarray(0, filled)))
    for await (const chunk of nar) {
      for (let at = 0; at < chunk.length;) {
        const count = chunk.copy(slice, filled, at)
        at += count
        filled += count
        if (filled < slice.length) continue
        yield frame()
        filled = 0
      }
      nar.recycle(chunk)
    }
    if (filled > 0) yield frame()
  }
  const iterator = frames()
  return {
    recycle() {},
    destroy() {
      nar.destroy()
      iterator.return().catch(() => undefined)
    },
    [Symbol.asyncIterator]: () => iterator,
  }
}
