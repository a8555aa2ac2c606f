import { fail } from '../errors.ts'
import {
  ALIGNMENT,
  MAGIC,
  MAX_DEPTH,
  MAX_KEYWORD_BYTES,
  MAX_NAME_BYTES,
  MAX_TARGET_BYTES,
  nameProblem,
  paddingOf,
  sizeOfString,
  targetProblem,
} from './wire.ts'

/**
 * What a reader tells, in the NAR's order. `name` is undefined for the root. All buffers are views that are valid during the
 * call only. What a method throws goes out of `write` and ends the reading.
 */
export interface NarHandler {
  /** A directory opens; its entries follow, then `leave`. */
  directory?(name: Buffer | undefined): void
  /** A regular file of `size` bytes, whose contents start at byte `narOffset` of the NAR; `contents` follow. */
  regular?(name: Buffer | undefined, size: number, executable: boolean, narOffset: number): void
  /** The next bytes of the file announced last; never called for an empty file. */
  contents?(bytes: Buffer): void
  symlink?(name: Buffer | undefined, target: Buffer): void
  /** The directory opened last that is still open ends. */
  leave?(): void
}

/** Takes a NAR in pieces of any size. After an error every call throws that error again. */
export interface NarReader {
  /** Reads on. Throws NAR_INVALID at the first byte that no NAR could have there. */
  write(chunk: Uint8Array): void
  /**
   * Reads on as far as the NAR goes, where other things follow it: the bytes of the chunk that were the NAR's. Throws
   * NAR_INVALID like `write`.
   */
  writePart(chunk: Uint8Array): number
  /** Whether the NAR has come to its end. */
  isComplete(): boolean
  /** Says that no more comes. Throws NAR_INVALID unless the NAR is complete. */
  end(): void
}

/** What is read next. */
const STATE = {
  magic: 0,
  nodeOpen: 1,
  type: 2,
  typeValue: 3,
  regularItem: 4,
  executableValue: 5,
  contentsKey: 6,
  contentsLength: 7,
  contents: 8,
  contentsPadding: 9,
  targetKey: 10,
  target: 11,
  nodeClose: 12,
  directoryItem: 13,
  entryOpen: 14,
  nameKey: 15,
  name: 16,
  nodeKey: 17,
  entryClose: 18,
  done: 19,
} as const

type State = (typeof STATE)[keyof typeof STATE]

const KEYWORDS = {
  magic: Buffer.from(MAGIC),
  open: Buffer.from('('),
  close: Buffer.from(')'),
  type: Buffer.from('type'),
  regular: Buffer.from('regular'),
  directory: Buffer.from('directory'),
  symlink: Buffer.from('symlink'),
  executable: Buffer.from('executable'),
  contents: Buffer.from('contents'),
  target: Buffer.from('target'),
  entry: Buffer.from('entry'),
  name: Buffer.from('name'),
  node: Buffer.from('node'),
}

/** What one state reads at most as a string. */
const limitOf = (state: State): number =>
  state === STATE.name
    ? MAX_NAME_BYTES
    : state === STATE.target
      ? MAX_TARGET_BYTES
      : MAX_KEYWORD_BYTES

const UPPER_HALF = 0x1_0000_0000

const LENGTH_PROBLEM = 'a length is beyond 2^53'

/**
 * A strict reader: order, duplicates, padding, depth, lengths and the end are checked, so that exactly one sequence of
 * bytes is accepted for a tree. It keeps one string and the names on the way down, whatever the NAR's size, and passes
 * contents on without copying them.
 */
export function createNarReader(handler: NarHandler): NarReader {
  let state: State = STATE.magic
  /** Bytes of the NAR before the string being read. */
  let offset = 0
  /** Open directories. */
  let depth = 0
  let executable = false
  /** Bytes of contents, or of padding, that are still to come. */
  let remaining = 0
  let padding = 0
  let poison: { readonly error: unknown } | undefined

  /** A string that came in more than one piece. */
  const held = Buffer.alloc(sizeOfString(MAX_TARGET_BYTES))
  let heldLength = 0

  /** The name read last in each open directory, one slot each: for the order, and to name a node once its type is known. */
  const names = Buffer.alloc(MAX_DEPTH * MAX_NAME_BYTES)
  const nameLengths = new Uint8Array(MAX_DEPTH)

  const refuse = (problem: string, at = offset): never =>
    fail('NAR_INVALID', { problem, offset: at })

  const currentName = (): Buffer | undefined => {
    if (depth === 0) return undefined
    const start = (depth - 1) * MAX_NAME_BYTES
    return names.subarray(start, start + (nameLengths[depth - 1] as number))
  }

  const readLength = (data: Buffer, at: number): number => {
    const upper = data.readUInt32LE(at + 4)
    return upper * UPPER_HALF + data.readUInt32LE(at)
  }

  /** Bytes of what is read next, as far as `available` of them at `at` tell. */
  const wantedBytes = (data: Buffer, at: number, available: number): number => {
    if (state === STATE.contentsPadding) return padding
    if (state === STATE.contentsLength || available < ALIGNMENT) return ALIGNMENT
    const length = readLength(data, at)
    const limit = limitOf(state)
    if (length > limit) refuse(`a string of ${length} bytes where at most ${limit} may stand`)
    return sizeOfString(length)
  }

  const checkZeros = (data: Buffer, from: number, to: number): void => {
    for (let at = from; at < to; at++) {
      if (data[at] !== 0) refuse('padding is not zero')
    }
  }

  const isWord = (data: Buffer, at: number, length: number, word: Buffer): boolean => {
    if (length !== word.length) return false
    for (let index = 0; index < length; index++) {
      if (data[at + index] !== word[index]) return false
    }
    return true
  }

  const unexpected = (data: Buffer, at: number, length: number, wanted: string): never =>
    refuse(`found "${data.toString('latin1', at, at + length)}" where ${wanted} belongs`)

  const expect = (data: Buffer, at: number, length: number, word: Buffer, next: State): void => {
    if (!isWord(data, at, length, word)) unexpected(data, at, length, `"${word.toString()}"`)
    state = next
  }

  const takeType = (data: Buffer, at: number, length: number): void => {
    if (isWord(data, at, length, KEYWORDS.regular)) {
      executable = false
      state = STATE.regularItem
    } else if (isWord(data, at, length, KEYWORDS.directory)) {
      handler.directory?.(currentName())
      nameLengths[depth] = 0
      depth++
      state = STATE.directoryItem
    } else if (isWord(data, at, length, KEYWORDS.symlink)) {
      state = STATE.targetKey
    } else {
      unexpected(data, at, length, 'a type')
    }
  }

  const takeName = (data: Buffer, at: number, length: number): void => {
    const problem = nameProblem(data.subarray(at, at + length))
    if (problem !== undefined) refuse(problem)
    const slot = depth - 1
    const start = slot * MAX_NAME_BYTES
    const previousEnd = start + (nameLengths[slot] as number)
    // An empty previous name is the one before the first: no name is empty, so all are greater.
    const order = data.compare(names, start, previousEnd, at, at + length)
    if (order === 0) refuse('a name comes twice in one folder')
    if (order < 0) refuse('names are not in order')
    data.copy(names, start, at, at + length)
    nameLengths[slot] = length
    state = STATE.nodeKey
  }

  const afterNode = (): void => {
    state = depth === 0 ? STATE.done : STATE.entryClose
  }

  const takeDirectoryItem = (data: Buffer, at: number, length: number): void => {
    if (isWord(data, at, length, KEYWORDS.entry)) {
      state = STATE.entryOpen
    } else if (isWord(data, at, length, KEYWORDS.close)) {
      depth--
      handler.leave?.()
      afterNode()
    } else {
      unexpected(data, at, length, '"entry" or ")"')
    }
  }

  /** Takes one whole string of `size` bytes with its length and padding. */
  const takeString = (data: Buffer, start: number, size: number): void => {
    const length = readLength(data, start)
    const at = start + ALIGNMENT
    checkZeros(data, at + length, start + size)
    switch (state) {
      case STATE.magic:
        return expect(data, at, length, KEYWORDS.magic, STATE.nodeOpen)
      case STATE.nodeOpen:
        if (depth >= MAX_DEPTH) refuse(`folders are nested deeper than ${MAX_DEPTH}`)
        return expect(data, at, length, KEYWORDS.open, STATE.type)
      case STATE.type:
        return expect(data, at, length, KEYWORDS.type, STATE.typeValue)
      case STATE.typeValue:
        return takeType(data, at, length)
      case STATE.regularItem:
        if (isWord(data, at, length, KEYWORDS.executable)) {
          executable = true
          state = STATE.executableValue
          return
        }
        return expect(data, at, length, KEYWORDS.contents, STATE.contentsLength)
      case STATE.executableValue:
        if (length !== 0) refuse('the mark of an executable has a value')
        state = STATE.contentsKey
        return
      case STATE.contentsKey:
        return expect(data, at, length, KEYWORDS.contents, STATE.contentsLength)
      case STATE.targetKey:
        return expect(data, at, length, KEYWORDS.target, STATE.target)
      case STATE.target: {
        const target = data.subarray(at, at + length)
        const problem = targetProblem(target)
        if (problem !== undefined) refuse(problem)
        handler.symlink?.(currentName(), target)
        state = STATE.nodeClose
        return
      }
      case STATE.nodeClose:
        expect(data, at, length, KEYWORDS.close, STATE.done)
        return afterNode()
      case STATE.directoryItem:
        return takeDirectoryItem(data, at, length)
      case STATE.entryOpen:
        return expect(data, at, length, KEYWORDS.open, STATE.nameKey)
      case STATE.nameKey:
        return expect(data, at, length, KEYWORDS.name, STATE.name)
      case STATE.name:
        return takeName(data, at, length)
      case STATE.nodeKey:
        return expect(data, at, length, KEYWORDS.node, STATE.nodeOpen)
      default:
        return expect(data, at, length, KEYWORDS.close, STATE.directoryItem)
    }
  }

  const afterContents = (): void => {
    state = padding === 0 ? STATE.nodeClose : STATE.contentsPadding
  }

  /** Takes one whole item: a string, the length of contents, or the padding behind them. */
  const take = (data: Buffer, at: number, size: number): void => {
    if (state === STATE.contentsLength) {
      const length = readLength(data, at)
      if (!Number.isSafeInteger(length)) refuse(LENGTH_PROBLEM)
      handler.regular?.(currentName(), length, executable, offset + size)
      remaining = length
      padding = paddingOf(length)
      if (length > 0) state = STATE.contents
      else afterContents()
    } else if (state === STATE.contentsPadding) {
      checkZeros(data, at, at + size)
      state = STATE.nodeClose
    } else {
      takeString(data, at, size)
    }
    offset += size
  }

  /** Gives how much of it was the NAR's. */
  const read = (data: Buffer): number => {
    let at = 0
    while (at < data.length && state !== STATE.done) {
      const available = data.length - at
      if (state === STATE.contents) {
        const length = Math.min(remaining, available)
        handler.contents?.(data.subarray(at, at + length))
        at += length
        offset += length
        remaining -= length
        if (remaining === 0) afterContents()
        continue
      }
      if (heldLength === 0) {
        const size = wantedBytes(data, at, available)
        if (size <= available) {
          take(data, at, size)
          at += size
          continue
        }
      }
      const length = Math.min(wantedBytes(held, 0, heldLength) - heldLength, available)
      data.copy(held, heldLength, at, at + length)
      heldLength += length
      at += length
      if (heldLength === wantedBytes(held, 0, heldLength)) {
        take(held, 0, heldLength)
        heldLength = 0
      }
    }
    return at
  }

  const guarded = <T>(action: () => T): T => {
    if (poison !== undefined) throw poison.error
    try {
      return action()
    } catch (error) {
      poison = { error }
      throw error
    }
  }

  const readPart = (chunk: Uint8Array): number =>
    read(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength))

  return {
    write(chunk) {
      guarded(() => {
        if (readPart(chunk) < chunk.length) refuse('bytes follow the end')
      })
    },
    writePart: chunk => guarded(() => readPart(chunk)),
    isComplete: () => state === STATE.done,
    end() {
      guarded(() => {
        if (state !== STATE.done) refuse('it ends early', offset + heldLength)
      })
    },
  }
}
