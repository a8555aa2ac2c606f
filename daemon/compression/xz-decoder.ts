import { createRequire } from 'node:module'
import { damaged, ENDS_EARLY, type Decoder, type PackedSource } from './decoder.ts'

/** Memory that an xz file may ask for: `xz -9` needs 65 MiB to unpack, and nothing writes caches with more. */
export const XZ_MEMORY_LIMIT_BYTES = 80 * 1024 * 1024

/** Packed bytes of one call; an ordinary NAR becomes 20 KiB of them. */
const SLICE_BYTES = 4 * 1024

/**
 * The same after a call that made much: xz packs zeros 7,000-fold and the library collects all output of a call, so that
 * this bounds what a hostile file makes of it (28 MiB once, then 2 MiB).
 */
const DENSE_SLICE_BYTES = 256

/** What is much: bytes of output of one call. */
const DENSE_OUTPUT_BYTES = 1024 * 1024

/** Bytes of one output buffer of the library. */
const OUTPUT_BYTES = 64 * 1024

/** liblzma's LZMA_CONCATENATED: streams one after the other are one file, with padding checked. */
const CONCATENATED = 0x08

/** The part of lzma-native's binding that its own JavaScript streams are built on; called directly it is synchronous. */
interface NativeStream {
  bufferHandler: (
    output: Buffer | null | undefined,
    processedChunks: number | undefined,
    error: Error | null | undefined,
  ) => void
  streamDecoder_(memlimit: number, flags: number): void
  setBufsize(bytes: number): void
  /** `null` says that no more input comes. */
  code(input: Buffer | null, async: boolean): void
  resetUnderlying(): void
}

interface LzmaNative {
  readonly Stream: new () => NativeStream
}

const require = createRequire(import.meta.url)

/** Decodes xz streams. */
export function createXzDecoder(source: PackedSource): Decoder {
  // Loaded where it is needed: most daemons never meet an xz file, and its native part costs 2 MB.
  const lzma = require('lzma-native') as LzmaNative
  let stream: NativeStream | undefined = new lzma.Stream()
  stream.streamDecoder_(XZ_MEMORY_LIMIT_BYTES, CONCATENATED)
  stream.setBufsize(OUTPUT_BYTES)
  const outputs: Buffer[] = []
  let outputAt = 0
  let input: Buffer = Buffer.alloc(0)
  let at = 0
  let sliceBytes = DENSE_SLICE_BYTES
  let problem: Error | undefined
  let inputEnded = false
  let finished = false

  stream.bufferHandler = (output, _processed, error) => {
    if (error) problem = error
    else if (output === null) finished = true
    else if (output !== undefined) outputs.push(output)
  }

  /** Feeds the next slice. */
  const feed = (native: NativeStream): void => {
    if (at === input.length && !inputEnded) {
      const next = source()
      inputEnded = next === undefined
      input = next ?? Buffer.alloc(0)
      at = 0
    }
    const slice = inputEnded ? null : input.subarray(at, at + sliceBytes)
    at += slice?.length ?? 0
    native.code(slice, false)
    const dense = outputs.length * OUTPUT_BYTES > DENSE_OUTPUT_BYTES
    sliceBytes = dense ? DENSE_SLICE_BYTES : SLICE_BYTES
  }

  const explain = (error: Error): never => {
    const { name } = error
    if (name === 'LZMA_BUF_ERROR') return damaged('xz', ENDS_EARLY, error)
    if (name === 'LZMA_MEMLIMIT_ERROR') {
      return damaged('xz', `it asks for over ${XZ_MEMORY_LIMIT_BYTES} bytes of memory`, error)
    }
    return damaged('xz', error.message, error)
  }

  return {
    fill(out) {
      if (stream === undefined) return 0
      while (outputs.length === 0) {
        if (problem !== undefined) explain(problem)
        if (finished) return 0
        feed(stream)
      }
      const output = outputs[0] as Buffer
      const count = output.copy(out, 0, outputAt)
      outputAt += count
      if (outputAt === output.length) {
        outputs.shift()
        outputAt = 0
      }
      return count
    },
    close() {
      stream?.resetUnderlying()
      stream = undefined
      outputs.length = 0
    },
  }
}
