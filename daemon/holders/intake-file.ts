import { createHash, timingSafeEqual } from 'node:crypto'
import { closeSync, constants, fstatSync, lstatSync, openSync, readSync, writeSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fail, isNarwharfError, problemOf } from '../../protocol/errors.ts'
import { createNarReader } from '../../protocol/nar/reader.ts'
import type { Compression } from '../../protocol/path-info.ts'
import { createDecoder } from '../compression/create-decoder.ts'

// Copies one NAR file as it is and checks it on the way: each byte is read once, hashed, written, unpacked and hashed again.
// Runs in the threads of cache-dir-intake.ts, where a drive that hangs keeps nobody waiting but the merge.

/** A NAR file to be copied. */
export interface NarCopy {
  /** Directory of the cache that it comes from; no symbolic link below it is followed. */
  readonly root: string
  /** The file, or its parts in order, below `root`. */
  readonly files: readonly string[]
  /** Where it goes: a new file. Undefined: it is there already and only checked. */
  readonly target: string | undefined
  readonly compression: Compression
  /** SHA-256. */
  readonly narHash: Uint8Array
  readonly narSize: number
  /** SHA-256 of the file as it lies there, and its size, as far as told. */
  readonly fileHash?: Uint8Array | undefined
  readonly fileSize?: number | undefined
  /** Somebody trusted says that the file with that hash is the NAR: it is not unpacked. */
  readonly vouched: boolean
  readonly storePath: string
  readonly control: CopyControl
}

/** How a copy came out. `unreadable` is about the source, `unwritable` about the target. */
export type NarCopied =
  | { readonly state: 'copied'; readonly fileHash: Uint8Array; readonly fileSize: number }
  | { readonly state: 'damaged' | 'unreadable'; readonly problem: string }
  | { readonly state: 'unwritable'; readonly problem: string; readonly full: boolean }
  | { readonly state: 'stopped' }

/** What the threads share: 1 while one of them reads, as two readers make a spinning disk seek. */
export type Reading = Int32Array

/** What those who copy together share. */
export interface CopyControl {
  /** Set to 1 to stop. */
  readonly stop: Int32Array
  /** Bytes read so far. */
  readonly bytes: BigInt64Array
}

/** Bytes read at a time: one seek costs less than reading them. */
const CHUNK_BYTES = 2 * 1024 * 1024

/** What unpacked bytes are looked at in. */
const NAR_CHUNK_BYTES = 256 * 1024

/** A file may be this much larger than its NAR: packing what cannot be packed adds a little. */
const PACKED_OVERHEAD = 1.1
const PACKED_OVERHEAD_BYTES = 1024 * 1024

const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants

class TargetError extends Error {}
class Stopped extends Error {}

const equal = (a: Uint8Array, b: Uint8Array): boolean =>
  a.length === b.length && timingSafeEqual(a, b)

/** Opens a regular file below `root`, through directories only: a drive is made by anybody. */
function openBelow(root: string, file: string): number {
  for (let at = dirname(file); at !== '.'; at = dirname(at)) {
    if (!lstatSync(join(root, at)).isDirectory()) throw new Error(`${at} is no directory`)
  }
  const path = join(root, file)
  // Looked at first: opening a device may do something.
  if (!lstatSync(path).isFile()) throw new Error(`${file} is no regular file`)
  const handle = openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
  if (fstatSync(handle).isFile()) return handle
  closeSync(handle)
  throw new Error(`${file} is no regular file`)
}

/** Holds the other readers back for one read. */
function inTurn<T>(reading: Int32Array, read: () => T): T {
  while (Atomics.compareExchange(reading, 0, 0, 1) !== 0) Atomics.wait(reading, 0, 1)
  try {
    return read()
  } finally {
    Atomics.store(reading, 0, 0)
    Atomics.notify(reading, 0, 1)
  }
}

function writeAll(target: number, bytes: Buffer): void {
  try {
    for (let at = 0; at < bytes.length;) at += writeSync(target, bytes, at)
  } catch (error) {
    throw new TargetError(problemOf(error), { cause: error })
  }
}

/** The chunks of a file or its parts, each hashed and written as it is read. */
function createPassing(copy: NarCopy, target: number | undefined, reading: Reading) {
  const { root, files, storePath, control } = copy
  const sizeMax = copy.fileSize ?? Math.ceil(copy.narSize * PACKED_OVERHEAD) + PACKED_OVERHEAD_BYTES
  const hash = createHash('sha256')
  const buffer = chunkBuffer()
  let next = 0
  let handle: number | undefined
  let size = 0
  const read = (): number => {
    for (;;) {
      if (handle === undefined) {
        const file = files[next++]
        if (file === undefined) return 0
        handle = openBelow(root, file)
      }
      const count = readSync(handle, buffer, 0, buffer.length, null)
      if (count > 0) return count
      closeSync(handle)
      handle = undefined
    }
  }
  return {
    digest: () => ({ fileHash: hash.digest(), fileSize: size }),
    next(): Buffer | undefined {
      if (Atomics.load(control.stop, 0) !== 0) throw new Stopped()
      const count = inTurn(reading, read)
      if (count === 0) return undefined
      size += count
      if (size > sizeMax) {
        const facts = { path: storePath, field: 'file size', actual: `over ${sizeMax}` }
        fail('NAR_MISMATCH', { ...facts, expected: sizeMax })
      }
      Atomics.add(control.bytes, 0, BigInt(count))
      const bytes = buffer.subarray(0, count)
      hash.update(bytes)
      if (target !== undefined) writeAll(target, bytes)
      return bytes
    },
    close() {
      if (handle !== undefined) closeSync(handle)
      handle = undefined
    },
  }
}

// One copy at a time runs in a thread, so its buffers serve all.
let chunk: Buffer | undefined
const chunkBuffer = (): Buffer => (chunk ??= Buffer.allocUnsafeSlow(CHUNK_BYTES))
let unpacked: Buffer | undefined
const unpackedBuffer = (): Buffer => (unpacked ??= Buffer.allocUnsafeSlow(NAR_CHUNK_BYTES))

/** Reads the NAR strictly to its end and compares it with what it must be. */
async function checkNar(copy: NarCopy, source: () => Buffer | undefined): Promise<void> {
  const { compression, narHash, narSize, storePath } = copy
  const reader = createNarReader({})
  const hash = createHash('sha256')
  let size = 0
  const take = (bytes: Buffer): void => {
    size += bytes.length
    if (size > narSize) {
      fail('NAR_MISMATCH', {
        ...{ path: storePath, field: 'size', actual: `over ${narSize}`, expected: narSize },
      })
    }
    reader.write(bytes)
    hash.update(bytes)
  }
  if (compression === 'none') {
    for (let bytes = source(); bytes !== undefined; bytes = source()) take(bytes)
  } else {
    const decoder = createDecoder(compression, source)
    try {
      const out = unpackedBuffer()
      for (;;) {
        const filled = decoder.fill(out)
        const count = typeof filled === 'number' ? filled : await filled
        if (count === 0) break
        take(out.subarray(0, count))
      }
    } finally {
      decoder.close()
    }
  }
  reader.end()
  if (size !== narSize) {
    fail('NAR_MISMATCH', { path: storePath, field: 'size', actual: size, expected: narSize })
  }
  const digest = hash.digest()
  if (!equal(digest, narHash)) {
    const expected = Buffer.from(narHash).toString('hex')
    fail('NAR_MISMATCH', {
      ...{ path: storePath, field: 'hash', actual: digest.toString('hex'), expected },
    })
  }
}

const FULL: ReadonlySet<unknown> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG'])

function outcomeOf(error: unknown): Exclude<NarCopied, { state: 'copied' }> {
  if (error instanceof Stopped) return { state: 'stopped' }
  if (error instanceof TargetError) {
    const { code } = error.cause as NodeJS.ErrnoException
    return { state: 'unwritable', problem: error.message, full: FULL.has(code) }
  }
  const state = isNarwharfError(error) ? 'damaged' : 'unreadable'
  return { state, problem: problemOf(error) }
}

function openTarget(target: string): number {
  try {
    return openSync(target, 'wx', 0o644)
  } catch (error) {
    throw new TargetError(problemOf(error), { cause: error })
  }
}

/** Copies and checks one file; never rejects. What is left at `target` of one that did not come out is for the caller to remove. */
export async function copyNarFile(copy: NarCopy, reading: Reading): Promise<NarCopied> {
  let target: number | undefined
  let passing: ReturnType<typeof createPassing> | undefined
  try {
    target = copy.target === undefined ? undefined : openTarget(copy.target)
    passing = createPassing(copy, target, reading)
    const { next } = passing
    if (!copy.vouched) await checkNar(copy, next)
    while (next() !== undefined);
    const { fileHash, fileSize } = passing.digest()
    const { storePath: path } = copy
    if (copy.fileSize !== undefined && fileSize !== copy.fileSize) {
      const { fileSize: expected } = copy
      fail('NAR_MISMATCH', { path, field: 'file size', actual: fileSize, expected })
    }
    // A file whose hash was told wrong has the right NAR all the same, where that was looked at: as Nix, which ignores it.
    if (copy.vouched && copy.fileHash !== undefined && !equal(fileHash, copy.fileHash)) {
      fail('NAR_MISMATCH', {
        ...{ path, field: 'file hash', actual: fileHash.toString('hex') },
        expected: Buffer.from(copy.fileHash).toString('hex'),
      })
    }
    return { state: 'copied', fileHash, fileSize }
  } catch (error) {
    return outcomeOf(error)
  } finally {
    passing?.close()
    if (target !== undefined) closeSync(target)
  }
}
