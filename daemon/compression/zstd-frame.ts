import binding from 'zstd-napi/binding.js'

/** The quickest level that still halves most NARs; measured against 3 in docs/performance.md. */
const LEVEL = 1

/** Packs slices into one zstd frame each; the result is valid until the next call. Same bytes for the same slice. */
export function createFrameEncoder(): (slice: Buffer) => Buffer {
  const context = new binding.CCtx()
  let out = Buffer.alloc(0)
  return slice => {
    const bound = binding.compressBound(slice.length)
    if (out.length < bound) out = Buffer.allocUnsafeSlow(bound)
    return out.subarray(0, context.compress(out, slice, LEVEL))
  }
}
