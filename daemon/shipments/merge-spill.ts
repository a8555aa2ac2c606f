import { closeSync, openSync, readSync, rmSync, writeSync } from 'node:fs'

// What a plan knows of 100,000 paths is 150 MB as objects and 60 MB as text. It lies in a file without a name: memory stays
// small, and nothing is left of it however the daemon ends.

/** Bytes written at a time. */
const BUFFER_BYTES = 1024 * 1024

/** Texts by number, in a file. */
export interface Spill {
  /** Gives the number of the text, counted from 0. */
  add(text: string): number
  get(number: number): string
  close(): void
}

/** A spill; `file` must not exist, and has no name any more when this returns. */
export function createSpill(file: string): Spill {
  const handle = openSync(file, 'wx+', 0o600)
  rmSync(file)
  let ends = new Float64Array(1024)
  let count = 0
  let buffer = Buffer.allocUnsafe(BUFFER_BYTES)
  let buffered = 0
  let written = 0

  const flush = (): void => {
    for (let at = 0; at < buffered;) {
      const step = writeSync(handle, buffer, at, buffered - at, written)
      at += step
      written += step
    }
    buffered = 0
  }
  return {
    add(text) {
      if (text.length > buffer.length - buffered) flush()
      if (text.length > buffer.length) buffer = Buffer.allocUnsafe(text.length)
      buffered += buffer.write(text, buffered, 'latin1')
      if (count === ends.length) {
        const larger = new Float64Array(count * 2)
        larger.set(ends)
        ends = larger
      }
      ends[count] = written + buffered
      return count++
    },
    get(number) {
      if (buffered > 0) flush()
      const start = number === 0 ? 0 : (ends[number - 1] as number)
      const bytes = Buffer.allocUnsafe((ends[number] as number) - start)
      for (let at = 0; at < bytes.length;) {
        const step = readSync(handle, bytes, at, bytes.length - at, start + at)
        if (step === 0) throw new Error('the plan of the merge was cut off')
        at += step
      }
      return bytes.toString('latin1')
    },
    close: () => closeSync(handle),
  }
}
