import binding from 'zstd-napi/binding.js'
import { damaged, ENDS_EARLY, type Decoder, type PackedSource } from './decoder.ts'

/** Largest window as a power of two: 128 MiB is what `zstd -d` and libarchive (so Nix) take without being told to. */
export const ZSTD_WINDOW_LOG_MAX = 27

/** Contexts kept for later files: making one costs 0.1 ms, and their memory is only freed by the garbage collector. */
const IDLE_CONTEXTS = 4

const idle: InstanceType<typeof binding.DCtx>[] = []

const takeContext = (): InstanceType<typeof binding.DCtx> => {
  const context = idle.pop() ?? new binding.DCtx()
  context.setParameter(binding.DParameter.windowLogMax, ZSTD_WINDOW_LOG_MAX)
  return context
}

/** Decodes zstd frames; skippable frames are skipped. */
export function createZstdDecoder(source: PackedSource): Decoder {
  let context: InstanceType<typeof binding.DCtx> | undefined = takeContext()
  let input: Buffer = Buffer.alloc(0)
  let at = 0
  /** What zstd still expects of the frame; 0 between frames. */
  let expected = 0
  let frames = 0
  /** The last call filled its buffer, so there may be more without more input. */
  let full = false

  /** More input if it is needed; false at the end of the file. */
  const refill = (): boolean => {
    if (at < input.length || (full && expected !== 0)) return true
    const next = source()
    if (next === undefined) return false
    input = next
    at = 0
    return true
  }

  return {
    fill(out) {
      if (context === undefined) return 0
      for (;;) {
        if (!refill()) {
          if (expected !== 0 || frames === 0) damaged('zstd', ENDS_EARLY)
          return 0
        }
        let step: readonly [number, number, number]
        try {
          step = context.decompressStream(out, input.subarray(at))
        } catch (error) {
          return damaged('zstd', (error as Error).message, error)
        }
        const [rest, produced, consumed] = step
        at += consumed
        expected = rest
        full = produced === out.length
        if (rest === 0) frames++
        if (produced > 0) return produced
      }
    },
    close() {
      if (context === undefined) return
      context.reset(binding.ResetDirective.sessionAndParameters)
      if (idle.length < IDLE_CONTEXTS) idle.push(context)
      context = undefined
    },
  }
}
