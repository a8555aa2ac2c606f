import { createHash } from 'node:crypto'
import { fail } from '../../protocol/errors.ts'
import type { Hash, HashAlgorithm } from '../../protocol/hash.ts'
import type { Holder, Holding } from '../holders/holder.ts'
import type { ByteStream } from '../workers/byte-stream.ts'

/** Contents read at one time: a closure of imported sources must not start a hundred reads at once. */
const READS_AT_ONCE = 2

const narString = (text: string): Buffer => {
  const padded = Buffer.alloc(8 + Math.ceil(text.length / 8) * 8)
  padded.writeUInt32LE(text.length)
  padded.write(text, 8)
  return padded
}

/**
 * How the NAR of one regular, not executable file begins; the length of its content follows. An executable file is left
 * out: a flat hash does not cover that bit, so it would be unproven.
 */
const REGULAR_FILE = Buffer.concat(
  ['nix-archive-1', '(', 'type', 'regular', 'contents'].map(narString),
)
const HEADER_BYTES = REGULAR_FILE.length + 8

/** Reads and hashes what a content address speaks of, a few at a time, in constant memory. */
export interface ContentReader {
  /** Hashes of the content of a path that is one regular file; undefined for anything else. */
  ofFile(
    holder: Holder,
    holding: Holding,
    algorithms: readonly HashAlgorithm[],
  ): Promise<readonly Hash[] | undefined>
  /** Hash of the whole NAR. */
  ofNar(holder: Holder, holding: Holding, algorithm: HashAlgorithm): Promise<Hash>
  /** Stops what is being read; waiting readers reject. */
  close(): void
}

/** A reader of contents. Its verbs reject as {@link Holder.openNar}'s streams do, and when closed. */
export function createContentReader(): ContentReader {
  const streams = new Set<ByteStream>()
  const queue: (() => void)[] = []
  let active = 0
  let closed = false

  const withStream = async <T>(
    holder: Holder,
    holding: Holding,
    use: (stream: ByteStream) => Promise<T>,
  ): Promise<T> => {
    if (active >= READS_AT_ONCE) await new Promise<void>(resolve => queue.push(resolve))
    active++
    try {
      if (closed) throw new Error('trust is closed')
      const stream = holder.openNar(holding)
      streams.add(stream)
      try {
        const result = await use(stream)
        // A stream that was destroyed may just end: what was read of it is nothing.
        if (closed) throw new Error('trust is closed')
        return result
      } finally {
        streams.delete(stream)
        stream.destroy()
      }
    } finally {
      active--
      queue.shift()?.()
    }
  }

  return {
    ofFile: (holder, holding, algorithms) =>
      withStream(holder, holding, stream => hashFile(stream, holding, algorithms)),
    ofNar: (holder, holding, algorithm) =>
      withStream(holder, holding, async stream => {
        const hash = createHash(algorithm)
        for await (const chunk of stream) {
          hash.update(chunk)
          stream.recycle(chunk)
        }
        return { algorithm, bytes: hash.digest() }
      }),
    close() {
      closed = true
      for (const stream of streams) stream.destroy()
      for (const wake of queue.splice(0)) wake()
    },
  }
}

async function hashFile(
  stream: ByteStream,
  { info }: Holding,
  algorithms: readonly HashAlgorithm[],
): Promise<readonly Hash[] | undefined> {
  const hashes = algorithms.map(algorithm => ({ algorithm, hash: createHash(algorithm) }))
  let header = Buffer.alloc(0)
  let left: number | undefined
  for await (const chunk of stream) {
    let content = chunk
    if (left === undefined) {
      const taken = chunk.subarray(0, HEADER_BYTES - header.length)
      header = Buffer.concat([header, taken])
      content = chunk.subarray(taken.length)
      const known = Math.min(header.length, REGULAR_FILE.length)
      if (!header.subarray(0, known).equals(REGULAR_FILE.subarray(0, known))) return undefined
      if (header.length === HEADER_BYTES) {
        left = Number(header.readBigUInt64LE(REGULAR_FILE.length))
        if (left > info.narSize) return undefined
      }
    }
    if (left !== undefined) {
      const part = content.subarray(0, left)
      for (const { hash } of hashes) hash.update(part)
      left -= part.length
    }
    stream.recycle(chunk)
    if (left === 0) {
      return hashes.map(({ algorithm, hash }) => ({ algorithm, bytes: hash.digest() }))
    }
  }
  return fail('NAR_MISMATCH', {
    path: info.storePath,
    field: 'content',
    actual: 'cut short',
    expected: 'whole',
  })
}
