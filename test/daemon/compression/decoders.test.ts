import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import t from 'tap'
import { createDecoder } from '../../../daemon/compression/create-decoder.ts'
import { createFrameEncoder } from '../../../daemon/compression/zstd-frame.ts'
import { isNarwharfError } from '../../../protocol/errors.ts'
import type { Compression } from '../../../protocol/path-info.ts'
import { seededRandom } from '../../helpers/mutate.ts'

type Packed = Exclude<Compression, 'none'>

const MIB = 1024 * 1024

/** How the real tool packs; the first is the usual setting. */
const PACKERS: Record<Packed, readonly (readonly [command: string, ...args: string[]])[]> = {
  xz: [
    ['xz', '-c'],
    ['xz', '-c', '-0', '--check=sha256'],
    ['xz', '-c', '-1', '--block-size=65536'],
  ],
  zstd: [
    ['zstd', '-c'],
    ['zstd', '-c', '-19'],
    ['zstd', '-c', '--no-check', '--long=27'],
  ],
  bzip2: [
    ['bzip2', '-c'],
    ['bzip2', '-c', '-1'],
  ],
  gzip: [
    ['gzip', '-c'],
    ['gzip', '-c', '-1'],
  ],
  br: [
    ['brotli', '-c', '-q', '5'],
    ['brotli', '-c', '-q', '1', '-w', '24'],
  ],
}

const isThere = (command: string) => spawnSync(command, ['--version']).status === 0

const pack = (command: readonly [string, ...string[]], input: Buffer): Buffer => {
  const [program, ...args] = command
  return execFileSync(program, args, { input, maxBuffer: 1024 * MIB })
}

/** Gives `bytes` in pieces of `size`, each overwritten once the next is asked for: as a reused read buffer is. */
function piecesOf(bytes: Buffer, size: number) {
  let at = 0
  let last: Buffer | undefined
  return () => {
    last?.fill(0xaa)
    if (at >= bytes.length) return undefined
    last = Buffer.from(bytes.subarray(at, at + size))
    at += size
    return last
  }
}

async function unpack(compression: Packed, packed: Buffer, piece = 65_536, room = 65_536) {
  const decoder = createDecoder(compression, piecesOf(packed, piece))
  const out = Buffer.alloc(room)
  const parts: Buffer[] = []
  try {
    for (;;) {
      const count = await decoder.fill(out)
      if (count === 0) return Buffer.concat(parts)
      parts.push(Buffer.from(out.subarray(0, count)))
    }
  } finally {
    decoder.close()
    decoder.close()
  }
}

/** What becomes of damaged bytes: their content all the same, another one, or the right error. */
async function fate(compression: Packed, packed: Buffer, content: Buffer): Promise<string> {
  try {
    return (await unpack(compression, packed)).equals(content) ? 'same' : 'other'
  } catch (error) {
    return isNarwharfError(error, 'COMPRESSED_DATA_INVALID') ? 'damaged' : String(error)
  }
}

const random = seededRandom(4)
const noise = (length: number) =>
  Buffer.from(Array.from({ length }, () => Math.floor(random() * 256)))
const words = (length: number) => {
  const letters = noise(4000)
  return Buffer.from(
    Array.from({ length }, (_, at) => letters[(at * at + (at >> 7)) % 4000] as number),
  )
}

const CONTENTS: Record<string, Buffer> = {
  nothing: Buffer.alloc(0),
  'one byte': Buffer.from('x'),
  'runs of every length': Buffer.concat(
    Array.from({ length: 600 }, (_, length) => Buffer.alloc(length, length % 3)),
  ),
  noise: noise(300_000),
  'text of several blocks': words(2_500_000),
  zeros: Buffer.alloc(2_500_000),
}

const compressions = Object.keys(PACKERS) as Packed[]
for (const compression of compressions) {
  const commands = PACKERS[compression]
  const skip = !isThere(commands[0]?.[0] as string) && `${compression}'s command is not here`
  t.test(`${compression}, as the real tool packs it`, { skip }, async t => {
    for (const command of commands) {
      for (const [name, content] of Object.entries(CONTENTS)) {
        const packed = pack(command, content)
        t.ok((await unpack(compression, packed)).equals(content), `${command.join(' ')}: ${name}`)
      }
    }
    const small = CONTENTS['runs of every length'] as Buffer
    const packed = pack(commands[0] as [string], small)
    for (const [piece, room] of [
      [1, 65_536],
      [65_536, 1],
      [7, 13],
    ] as const) {
      t.ok(
        (await unpack(compression, packed, piece, room)).equals(small),
        `in ${piece}, out ${room}`,
      )
    }
  })

  t.test(`${compression}: damaged data is said to be so`, { skip }, async t => {
    const content = words(50_000)
    const packed = pack(commands[0] as [string], content)
    for (const length of [
      0,
      1,
      3,
      5,
      11,
      100,
      packed.length >> 1,
      packed.length - 5,
      packed.length - 1,
    ]) {
      t.equal(
        await fate(compression, packed.subarray(0, length), content),
        'damaged',
        `cut at ${length}`,
      )
    }
    for (const [name, tail] of [
      ['a letter', Buffer.from('x')],
      ['HTML', Buffer.from('<html><body>502 Bad Gateway</body></html>')],
      ['noise', noise(100_000)],
    ] as const) {
      t.equal(
        await fate(compression, Buffer.concat([packed, tail]), content),
        'damaged',
        `${name} behind`,
      )
    }
    t.equal(await fate(compression, content, content), 'damaged', 'not packed at all')
    const fates = new Set<string>()
    for (let count = 0; count < 200; count++) {
      const copy = Buffer.from(packed)
      const at = Math.floor(random() * copy.length)
      copy[at] = (copy[at] as number) ^ (1 << Math.floor(random() * 8))
      fates.add(await fate(compression, copy, content))
    }
    // zstd and gzip have header bytes that change nothing (names, flags of no effect), brotli has no checksum.
    fates.delete('same')
    if (compression === 'br') fates.delete('other')
    t.strictSame([...fates], ['damaged'], 'flipped bits')
  })

  t.test(
    `${compression}: several members are one content`,
    { skip: skip || (compression === 'br' && 'brotli has none') },
    async t => {
      const [first, second, third] = [words(70_000), Buffer.alloc(0), noise(1000)]
      const members = [first, second, third].map(content => pack(commands[0] as [string], content))
      const packed = Buffer.concat(members)
      const whole = Buffer.concat([first, second, third])
      t.ok((await unpack(compression, packed)).equals(whole))
      t.ok((await unpack(compression, packed, 31)).equals(whole), 'in small pieces')
      const edge = members[0]?.length as number
      t.ok(
        (await unpack(compression, packed, edge)).equals(whole),
        'a piece ends where a member does',
      )
      t.equal(await fate(compression, packed.subarray(0, -3), whole), 'damaged', 'the last one cut')
    },
  )

  t.test(`${compression}: a bomb is unpacked in constant memory`, { skip }, async t => {
    const size = 128 * MIB
    const zeros = Buffer.alloc(size)
    const packed = pack(commands[0] as [string], zeros)
    const expected = createHash('sha256').update(zeros).digest('hex')
    const decoder = createDecoder(compression, piecesOf(packed, 65_536))
    const out = Buffer.alloc(65_536)
    const hash = createHash('sha256')
    let peak = 0
    for (;;) {
      const count = await decoder.fill(out)
      if (count === 0) break
      hash.update(out.subarray(0, count))
      peak = Math.max(peak, process.memoryUsage().external)
    }
    decoder.close()
    t.equal(hash.digest('hex'), expected)
    // The zeros themselves, and what the decoders hold: windows and one slice.
    t.ok(peak < size + 64 * MIB, `${Math.round(peak / MIB)} MiB at most`)
  })
}

const DEMANDING: readonly (readonly [Packed, readonly [string, ...string[]]])[] = [
  ['xz', ['xz', '-c', '--lzma2=dict=256MiB']],
  ['zstd', ['zstd', '-c', '--ultra', '--long=28']],
]
for (const [compression, command] of DEMANDING) {
  const skip = !isThere(command[0]) && `${command[0]} is not here`
  t.test(`${compression} that asks for too much memory is refused`, { skip }, async t => {
    const content = words(1000)
    t.equal(await fate(compression, pack(command, content), content), 'damaged')
  })
}

t.test('zstd skips what frames say is to be skipped', async t => {
  const content = words(1000)
  const frame = Buffer.from(createFrameEncoder()(content))
  const skippable = Buffer.concat([
    Buffer.from([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0]),
    Buffer.from('abc'),
  ])
  t.ok((await unpack('zstd', Buffer.concat([skippable, frame, skippable]))).equals(content))
})

t.test('a frame of our own is the same every time, and the real tool reads it', async t => {
  const content = words(1_000_000)
  const encode = createFrameEncoder()
  const frames = [content, content, content.subarray(0, 10)].map(slice =>
    Buffer.from(encode(slice)),
  )
  t.ok(frames[0]?.equals(frames[1] as Buffer))
  t.ok(frames[0]?.equals(createFrameEncoder()(content)))
  const packed = Buffer.concat(frames)
  const whole = Buffer.concat([content, content, content.subarray(0, 10)])
  t.ok((await unpack('zstd', packed)).equals(whole))
  if (isThere('zstd')) t.ok(pack(['zstd', '-dc'], packed).equals(whole))
})
