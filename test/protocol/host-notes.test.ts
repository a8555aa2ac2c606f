import t from 'tap'
import { keyPairFromSeed, signBytes } from '../../protocol/ed25519.ts'
import { isNarwharfError } from '../../protocol/errors.ts'
import {
  NOTED_WANT_PATHS_MAX,
  readHostNote,
  writeHostNote,
  type HostNote,
  type NotedWant,
} from '../../protocol/host-note-fields.ts'
import {
  decodeNoteMarks,
  encodeNoteMarks,
  markOf,
  NOTE_MAX_BYTES,
  openHostNote,
  signHostNote,
} from '../../protocol/host-notes.ts'
import type { BaseName } from '../../protocol/store-path.ts'
import { mutations } from '../helpers/mutate.ts'

const keys = keyPairFromSeed(Buffer.alloc(32, 1))
const others = keyPairFromSeed(Buffer.alloc(32, 2))
const host = keys.publicKey.toString('hex')

const path = (name: string) => `${'0'.repeat(32)}-${name}` as BaseName
const at = '2026-07-25T10:00:00.000Z'
const empty: HostNote = {
  ...{ at, instance: 'a1b2', storeDir: '/nix/store', keeper: false },
  ...{ wants: [], drives: [], merges: [], merged: [] },
}
const want: NotedWant = {
  ...{ id: '7f', kind: 'drv', text: 'hello.drv', paths: [path('hello')], priority: 3 },
  ...{ by: 'anna@lab-3', since: at },
}
const drive = {
  ...{ id: '1234-ABCD', name: 'KERGUELEN-2', label: 'KERGUELEN-2', plugged: true, lastSeen: at },
  ...{ mountPoint: '/media/KERGUELEN-2', paths: 100_000, have: 'TldI' },
  shipment: { id: 'ab'.repeat(16), part: 2, parts: 3, depot: 'brest' },
}
const full: HostNote = {
  ...empty,
  keeper: true,
  wants: [want, { ...want, id: '80', kind: 'pattern', text: 'firefox-*', paths: [] }],
  drives: [
    drive,
    { id: '1234-ABCD/backup', name: 'stick', plugged: false, lastSeen: at, paths: 0 },
  ],
  merges: [
    { shipment: drive.shipment.id, part: 2, drive: 'KERGUELEN-2', shareDone: true },
    { shipment: 'cd'.repeat(16), part: 1, shareDone: false },
  ],
  merged: [`${'ab'.repeat(16)}/1`],
}

const problem = (work: () => unknown): string => {
  try {
    work()
  } catch (error) {
    if (isNarwharfError(error, 'NOTE_INVALID')) return error.message
    throw error
  }
  return 'nothing wrong'
}

t.test('what is signed is opened', t => {
  for (const note of [empty, full]) {
    const signed = signHostNote(note, 7, keys.secretKey)
    t.strictSame(openHostNote(signed), { host, sequence: 7, note })
    t.strictSame(openHostNote(new Uint8Array(signed), host).note, note)
    t.ok(signHostNote(note, 7, keys.secretKey).equals(signed), 'the same note is the same bytes')
  }
  t.end()
})

t.test('what a later version adds is passed over', t => {
  const body = JSON.parse(writeHostNote(full).toString()) as Record<string, unknown>
  const later = Buffer.from(`${JSON.stringify({ ...body, zone: 'new' })}\n`)
  t.strictSame(readHostNote(later), full)
  t.end()
})

t.test('refused', t => {
  const signed = signHostNote(full, 7, keys.secretKey)
  const withByte = (at: number, value: number) => {
    const bytes = Buffer.from(signed)
    bytes[at] = value
    return bytes
  }
  const ofBody = (change: Record<string, unknown>) => () =>
    signHostNote({ ...full, ...change } as HostNote, 1, keys.secretKey)
  const cases: [name: string, work: () => unknown, problem: RegExp][] = [
    ['too short', () => openHostNote(signed.subarray(0, 100)), /does not begin like/],
    ['another magic', () => openHostNote(withByte(0, 9)), /does not begin like/],
    ['too long', () => openHostNote(Buffer.alloc(NOTE_MAX_BYTES + 1)), /2097153 bytes/],
    ['of another host', () => openHostNote(signed, 'ab'.repeat(32)), /of another host/],
    ['too large a number', () => openHostNote(withByte(36, 255)), /too large/],
    ['another number', () => openHostNote(withByte(43, 8)), /not signed by the host/],
    ['another byte', () => openHostNote(withByte(60, 0x20)), /not signed by the host/],
    ['a key that is none', () => signHostNote(full, 1, Buffer.alloc(3)), /key that signs/],
    ['half a number', () => signHostNote(full, 0.5, keys.secretKey), /0.5 is no sequence/],
    ['less than nothing', () => signHostNote(full, -1, keys.secretKey), /-1 is no sequence/],
    ['a kind', ofBody({ wants: [{ ...want, kind: 'wish' }] }), /it.wants\[0\].kind: none of/],
    ['a priority', ofBody({ wants: [{ ...want, priority: 10 }] }), /from 1 to 9/],
    ['a path', ofBody({ wants: [{ ...want, paths: ['../x'] }] }), /paths\[0\]/],
    [
      'a terminal’s codes',
      ofBody({ wants: [{ ...want, by: '\u001b[2J' }] }),
      /by: a character that/,
    ],
    [
      'a long text',
      ofBody({ wants: [{ ...want, text: 'x'.repeat(1025) }] }),
      /text: empty or longer/,
    ],
    ['a time', ofBody({ at: 'yesterday' }), /it.at: no time/],
    ['a digest', ofBody({ drives: [{ ...drive, have: '!' }] }), /have: no base64/],
    ['a fraction', ofBody({ drives: [{ ...drive, paths: 0.5 }] }), /0.5 is no whole number/],
    ['a merged part', ofBody({ merged: ['x/1'] }), /merged\[0\]: not as/],
    ['a store', ofBody({ storeDir: 'nix' }), /it.storeDir/],
    [
      'too many paths',
      ofBody({
        wants: [0, 1].map(id => ({
          ...want,
          id: String(id),
          paths: Array.from({ length: NOTED_WANT_PATHS_MAX / 2 + 1 }, () => path('x')),
        })),
      }),
      /name 40002 paths/,
    ],
    [
      'too large',
      ofBody({ drives: [{ ...drive, have: 'A'.repeat(NOTE_MAX_BYTES) }] }),
      /it has \d+ bytes/,
    ],
  ]
  for (const [name, work, expected] of cases) t.match(problem(work), expected, name)
  t.end()
})

t.test('no JSON under a good signature', t => {
  const good = signHostNote(empty, 1, keys.secretKey)
  const head = Buffer.concat([good.subarray(0, 44), Buffer.from('{"at":1 }\n')])
  const message = Buffer.concat([Buffer.from('narwharf host note 1\n'), head])
  const signed = Buffer.concat([head, signBytes(message, keys.secretKey)])
  t.match(
    problem(() => openHostNote(signed)),
    /canonical form/,
  )
  t.match(
    problem(() => openHostNote(signHostNote(empty, 1, others.secretKey), host)),
    /of another host/,
  )
  t.end()
})

t.test('marks', t => {
  const marks = [
    signHostNote(full, 7, keys.secretKey),
    signHostNote(empty, 2, others.secretKey),
  ].map(note => markOf(note))
  t.strictSame(decodeNoteMarks(encodeNoteMarks(marks)), marks)
  t.strictSame(decodeNoteMarks(Buffer.alloc(0)), [])
  const [mark] = marks
  t.match(mark, { host, sequence: 7 })
  const wrong: [name: string, bytes: Buffer, problem: RegExp][] = [
    ['a piece', encodeNoteMarks(marks).subarray(1), /marks of 103 bytes/],
    ['no bytes', encodeNoteMarks([{ ...mark!, size: 0 }]), /note of 0 bytes/],
    ['too many', encodeNoteMarks([{ ...mark!, size: NOTE_MAX_BYTES + 1 }]), /note of 2097153/],
    ['too far', Buffer.alloc(52, 255), /too large/],
  ]
  for (const [name, bytes, expected] of wrong) {
    t.match(
      problem(() => decodeNoteMarks(bytes)),
      expected,
      name,
    )
  }
  t.end()
})

t.test('damaged notes are refused or as they were', t => {
  const signed = signHostNote(full, 7, keys.secretKey)
  for (const damaged of mutations(signed, 2000, 11)) {
    const found = problem(() => openHostNote(damaged))
    if (found === 'nothing wrong') t.ok(damaged.equals(signed))
  }
  t.end()
})
