import type { PullSource } from './pull-source.ts'
import type { Send, SliceResult, Work } from './work.ts'

/** Sends a source's bytes, `length` of them at most, in the buffers that the main thread gives. */
export function createStreamWork(
  id: number,
  source: PullSource,
  length: number,
  given: readonly ArrayBuffer[],
  send: Send,
): Work {
  const buffers = [...given]
  /** The buffer being filled, up to `filled`. */
  let current: ArrayBuffer | undefined
  let filled = 0
  let left = length
  /** While a source makes bytes in its own time, the current buffer is its own. */
  let lent = false

  const close = (): ArrayBuffer[] => {
    source.close()
    if (current !== undefined && !lent) buffers.push(current)
    current = undefined
    return buffers.splice(0)
  }

  const sendChunk = (buffer: ArrayBuffer): void => {
    current = undefined
    send({ op: 'chunk', id, buffer, length: filled }, [buffer])
    filled = 0
  }

  const end = (): SliceResult => {
    const last = filled > 0 ? current : undefined
    const length = filled
    if (last !== undefined) current = undefined
    const unused = close()
    if (last === undefined) send({ op: 'end', id, unused }, unused)
    else send({ op: 'end', id, buffer: last, length, unused }, [last, ...unused])
    return 'done'
  }

  const took = (count: number): SliceResult => {
    const buffer = current as ArrayBuffer
    filled += count
    left -= count
    const segment = left > 0 ? source.takeSegment?.() : undefined
    if (segment !== undefined) {
      const end = Math.min(segment.end, segment.offset + left)
      left -= end - segment.offset
      if (filled > 0) sendChunk(buffer)
      send({ op: 'segment', id, segment: { ...segment, end } })
    }
    if (left === 0 || source.finished) return end()
    if (filled === buffer.byteLength) sendChunk(buffer)
    return 'more'
  }

  return {
    slice() {
      if (left === 0) return end()
      current ??= buffers.pop()
      if (current === undefined) return 'waiting'
      const room = Math.min(current.byteLength - filled, left)
      const count = source.fill(Buffer.from(current, filled, room))
      if (typeof count === 'number') return took(count)
      lent = true
      return count
        .finally(() => {
          lent = false
        })
        .then(took)
    },
    give(more) {
      buffers.push(...more)
    },
    close,
  }
}
