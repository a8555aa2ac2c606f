import { createBitReader, type BitReader } from './bit-reader.ts'
import { damaged, type Decoder, type PackedSource } from './decoder.ts'

// bzip2, after the reference implementation's decompress.c and huffman.c and the description by J. Tsai ("BZIP2: Format
// Specification"). Written here because the packages that decode it push each byte into an array, so that 700 bytes of a
// hostile file become 300 MB of memory; this one holds one block (900 kB as 3.6 MB) and unpacks it into the caller's buffer.
//
//   file   = stream { stream }
//   stream = "BZh" level("1".."9") { block } 0x177245385090 crc32(combined) pad-to-byte
//   block  = 0x314159265359 crc32 randomised(1) origin(24) symbols tables selectors huffman-coded MTF/RLE2 data
//   block contents, after undoing Burrows-Wheeler, are run-length coded: four equal bytes are followed by a count 0..255

const BLOCK_MAGIC = [0x314159, 0x265359] as const
const END_MAGIC = [0x177245, 0x385090] as const

/** Bytes of a block per level. */
const BLOCK_UNIT = 100_000

const MAX_CODE_BITS = 20
const MAX_SYMBOLS = 258
const MAX_TABLES = 6
/** Symbols coded with one table before the next selector. */
const GROUP_SYMBOLS = 50
/** Equal bytes after which a count follows. */
const RUN_BYTES = 4

const CRC_TABLE = Int32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 24
  for (let bit = 0; bit < 8; bit++) crc = crc < 0 ? (crc << 1) ^ 0x04c11db7 : crc << 1
  return crc
})

const invalid = (problem: string): never => damaged('bzip2', problem)

/** A Huffman code, looked up by the next 20 bits. */
interface CodeTable {
  readonly minBits: number
  readonly maxBits: number
  /** For each length the first 20-bit value that needs a longer code. */
  readonly limits: Int32Array
  /** What to take off a code of that length to get its place in `symbols`. */
  readonly bases: Int32Array
  readonly symbols: Uint16Array
}

function createCodeTable(lengths: Uint8Array, count: number): CodeTable {
  const limits = new Int32Array(MAX_CODE_BITS + 2)
  const bases = new Int32Array(MAX_CODE_BITS + 2)
  const symbols = new Uint16Array(count)
  let minBits = MAX_CODE_BITS
  let maxBits = 1
  for (let symbol = 0; symbol < count; symbol++) {
    const length = lengths[symbol] as number
    minBits = Math.min(minBits, length)
    maxBits = Math.max(maxBits, length)
  }
  let code = 0
  let place = 0
  for (let bits = minBits; bits <= maxBits; bits++) {
    bases[bits] = code - place
    for (let symbol = 0; symbol < count; symbol++) {
      if (lengths[symbol] !== bits) continue
      symbols[place++] = symbol
      code++
    }
    limits[bits] = code << (MAX_CODE_BITS - bits)
    code <<= 1
  }
  return { minBits, maxBits, limits, bases, symbols }
}

/** The bytes that occur in a block, from a two-level bitmap. */
function readSymbols(bits: BitReader): Uint8Array {
  const groups = bits.read(16)
  const symbols: number[] = []
  for (let group = 0; group < 16; group++) {
    if ((groups & (0x8000 >> group)) === 0) continue
    const members = bits.read(16)
    for (let member = 0; member < 16; member++) {
      if ((members & (0x8000 >> member)) !== 0) symbols.push(group * 16 + member)
    }
  }
  if (symbols.length === 0) invalid('a block has no symbols')
  return Uint8Array.from(symbols)
}

/** Which table each group of symbols uses, move-to-front coded in unary. */
function readSelectors(bits: BitReader, tables: number): Uint8Array {
  const count = bits.read(15)
  if (count === 0) invalid('a block has no selectors')
  const selectors = new Uint8Array(count)
  const order = Array.from({ length: tables }, (_, table) => table)
  for (let index = 0; index < count; index++) {
    let place = 0
    while (bits.read(1) === 1) {
      if (++place >= tables) invalid('a selector is out of range')
    }
    const [table = 0] = order.splice(place, 1)
    order.unshift(table)
    selectors[index] = table
  }
  return selectors
}

/** The code lengths of one table, each as steps from the one before. */
function readCodeTable(bits: BitReader, symbolCount: number): CodeTable {
  const lengths = new Uint8Array(MAX_SYMBOLS)
  let length = bits.read(5)
  for (let symbol = 0; symbol < symbolCount; symbol++) {
    for (;;) {
      if (length < 1 || length > MAX_CODE_BITS) invalid('a code length is out of range')
      if (bits.read(1) === 0) break
      length += bits.read(1) === 0 ? 1 : -1
    }
    lengths[symbol] = length
  }
  return createCodeTable(lengths, symbolCount)
}

/** Decodes bzip2 streams. */
export function createBzip2Decoder(source: PackedSource): Decoder {
  const bits = createBitReader(source, 'bzip2')
  /** The block: the byte in the low 8 bits, above it where the next one stands. */
  let block = new Uint32Array(0)
  let level = 0
  /** Bytes of the block that are still to be taken, and where the next one stands. */
  let left = 0
  let position = 0
  /** Undoing the last run-length code: the byte, how often it came in a row, how often it is still to be written. */
  let previous = -1
  let run = 0
  let repeats = 0
  let inBlock = false
  let blockCrc = 0
  let expectedCrc = 0
  let streamCrc = 0
  let finished = false

  const readSymbolTables = () => {
    const symbols = readSymbols(bits)
    const tableCount = bits.read(3)
    if (tableCount < 2 || tableCount > MAX_TABLES) invalid('a block has a wrong number of tables')
    const selectors = readSelectors(bits, tableCount)
    const symbolCount = symbols.length + 2
    const tables = Array.from({ length: tableCount }, () => readCodeTable(bits, symbolCount))
    return { symbols, selectors, tables }
  }

  /** Undoes Huffman, move-to-front and the first run-length code; returns the bytes of the block. */
  const readBlockData = (counts: Int32Array): number => {
    const { symbols, selectors, tables } = readSymbolTables()
    const limit = level * BLOCK_UNIT
    const endSymbol = symbols.length + 1
    let size = 0
    let group = 0
    let inGroup = 0
    let table = tables[0] as CodeTable
    let runLength = 0
    let runWeight = 1

    const flushRun = (): void => {
      const byte = symbols[0] as number
      if (size + runLength > limit) invalid('a block is too long')
      counts[byte] = (counts[byte] as number) + runLength
      block.fill(byte, size, size + runLength)
      size += runLength
      runLength = 0
      runWeight = 1
    }

    for (;;) {
      if (inGroup === 0) {
        if (group === selectors.length) invalid('a block goes on behind its selectors')
        table = tables[selectors[group++] as number] as CodeTable
        inGroup = GROUP_SYMBOLS
        bits.check()
      }
      inGroup--
      const window = bits.peek20()
      let length = table.minBits
      while (length <= table.maxBits && window >= (table.limits[length] as number)) length++
      if (length > table.maxBits) invalid('a code does not exist')
      bits.skip(length)
      const place = (window >> (MAX_CODE_BITS - length)) - (table.bases[length] as number)
      const symbol = table.symbols[place] ?? invalid('a code does not exist')
      if (symbol <= 1) {
        runLength += runWeight << symbol
        runWeight <<= 1
        if (runLength > limit) invalid('a run is too long')
        continue
      }
      if (runLength > 0) flushRun()
      if (symbol === endSymbol) break
      if (size >= limit) invalid('a block is too long')
      const front = symbols[symbol - 1] as number
      symbols.copyWithin(1, 0, symbol - 1)
      symbols[0] = front
      counts[front] = (counts[front] as number) + 1
      block[size++] = front
    }
    bits.check()
    return size
  }

  const readBlock = (): void => {
    expectedCrc = bits.read32()
    if (bits.read(1) === 1) invalid('randomised blocks (before bzip2 0.9.5) are not supported')
    const origin = bits.read(24)
    const counts = new Int32Array(256)
    const size = readBlockData(counts)
    if (origin >= size) invalid('the start of a block lies outside of it')
    let sum = 0
    for (let byte = 0; byte < 256; byte++) {
      const count = counts[byte] as number
      counts[byte] = sum
      sum += count
    }
    for (let index = 0; index < size; index++) {
      const byte = (block[index] as number) & 0xff
      const place = counts[byte] as number
      counts[byte] = place + 1
      block[place] = (block[place] as number) | (index << 8)
    }
    position = (block[origin] as number) >>> 8
    left = size
    previous = -1
    run = 0
    repeats = 0
    blockCrc = -1
    inBlock = true
  }

  const endBlock = (): void => {
    inBlock = false
    const crc = ~blockCrc
    if (crc !== expectedCrc) invalid('a block has a wrong checksum')
    streamCrc = ((streamCrc << 1) | (streamCrc >>> 31)) ^ crc
  }

  const readStreamHeader = (): void => {
    if (bits.read(24) !== 0x425a68) invalid('a stream does not start with BZh')
    const digit = bits.read(8) - 0x30
    if (digit < 1 || digit > 9) invalid('a stream has a wrong block size')
    level = digit
    if (block.length < level * BLOCK_UNIT) block = new Uint32Array(level * BLOCK_UNIT)
    streamCrc = 0
  }

  /** Reads up to the next block; false at the end of the file. */
  const nextBlock = (): boolean => {
    if (level === 0) readStreamHeader()
    for (;;) {
      const upper = bits.read(24)
      const lower = bits.read(24)
      if (upper === BLOCK_MAGIC[0] && lower === BLOCK_MAGIC[1]) {
        readBlock()
        return true
      }
      if (upper !== END_MAGIC[0] || lower !== END_MAGIC[1]) invalid('a block has a wrong start')
      if (bits.read32() !== streamCrc) invalid('a stream has a wrong checksum')
      if (bits.alignAtEnd()) return false
      readStreamHeader()
    }
  }

  /** Undoes Burrows-Wheeler and the last run-length code into `out`. */
  const unpack = (out: Buffer): number => {
    let at = 0
    let crc = blockCrc
    while (at < out.length) {
      if (repeats > 0) {
        repeats--
        out[at++] = previous
        crc = (crc << 8) ^ (CRC_TABLE[((crc >>> 24) ^ previous) & 0xff] as number)
        continue
      }
      if (left === 0) break
      left--
      const entry = block[position] as number
      const byte = entry & 0xff
      position = entry >>> 8
      if (run === RUN_BYTES) {
        // The byte after a count starts a run of its own even if it is the same.
        repeats = byte
        run = 0
        continue
      }
      run = byte === previous ? run + 1 : 1
      previous = byte
      out[at++] = byte
      crc = (crc << 8) ^ (CRC_TABLE[((crc >>> 24) ^ byte) & 0xff] as number)
    }
    blockCrc = crc
    if (left === 0 && repeats === 0) endBlock()
    return at
  }

  return {
    fill(out) {
      for (;;) {
        if (finished) return 0
        if (inBlock) {
          const count = unpack(out)
          if (count > 0) return count
        } else if (!nextBlock()) {
          finished = true
        }
      }
    },
    close() {
      finished = true
      block = new Uint32Array(0)
    },
  }
}
