import t from 'tap'
import type { Link } from '../../../daemon/gossip/link.ts'
import { createNoteExchange } from '../../../daemon/gossip/note-exchange.ts'
import {
  decodeAsk,
  decodeMarks,
  decodePart,
  encodeAsk,
  encodeMarks,
  encodePart,
  NOTE_PART_BYTES,
  type NoteAsk,
} from '../../../daemon/gossip/note-messages.ts'
import type { NoteShelf, PeerKey } from '../../../daemon/site.ts'
import { keyPairFromSeed } from '../../../protocol/ed25519.ts'
import { markOf, signHostNote, type NoteMark } from '../../../protocol/host-notes.ts'

const keys = keyPairFromSeed(Buffer.alloc(32, 1))
const host = keys.publicKey.toString('hex') as PeerKey
const empty = {
  ...{ at: '2026-07-25T10:00:00Z', instance: 'x', storeDir: '/nix/store', keeper: false },
  ...{ wants: [], drives: [], merges: [], merged: [] },
}
const note = signHostNote(empty, 3, keys.secretKey)
const mark = markOf(note)

/** A link that writes down what is said to it. */
function linkOf(key: string) {
  const told: (readonly NoteMark[])[] = []
  const asked: NoteAsk[] = []
  const parts: { offset: number; bytes: number }[] = []
  const link = {
    key,
    channel: {
      noteMarks: (marks: readonly NoteMark[]) => void told.push(marks),
      askNote: (ask: NoteAsk) => void asked.push(ask),
      notePart: (part: { offset: number; bytes: Uint8Array }) =>
        void parts.push({ offset: part.offset, bytes: part.bytes.length }),
    },
  } as unknown as Link
  return { link, told, asked, parts }
}

function exchangeOf(t: { teardown(undo: () => void): void }, noteMs = 10_000) {
  const offered: Uint8Array[] = []
  const here = new Map<string, Buffer>()
  const shelf: NoteShelf = {
    marks: () => [...here.values()].map(bytes => markOf(bytes)),
    get: key => here.get(key),
    wants: ({ host: of, sequence }) =>
      of === host && (offered.length === 0 || sequence > 3) && !here.has(of),
    offer(bytes) {
      offered.push(bytes)
      return 'newer'
    },
  }
  const timings = { headsMs: 1, relayMs: 1, noteMs }
  const exchange = createNoteExchange(shelf, timings, () => performance.now())
  t.teardown(() => exchange.close())
  return { exchange, offered, here }
}

t.test('a note is asked for part by part, of one host only', async t => {
  const { exchange, offered } = exchangeOf(t)
  const [a, b] = [linkOf('a'), linkOf('b')]
  exchange.greet(a.link)
  exchange.greet(b.link)
  exchange.marks(a.link, [mark])
  exchange.marks(b.link, [mark, { ...mark, host: 'ff'.repeat(32) }])
  t.same(a.asked, [{ host, sequence: 3, offset: 0 }])
  t.same(b.asked, [], 'it is on its way')
  const half = note.subarray(0, 100)
  exchange.part(b.link, { host, sequence: 3, offset: 0, bytes: half })
  exchange.part(a.link, { host, sequence: 2, offset: 0, bytes: half })
  exchange.part(a.link, { host, sequence: 3, offset: 7, bytes: half })
  t.equal(a.asked.length, 1, 'nobody was asked for that')
  exchange.part(a.link, { host, sequence: 3, offset: 0, bytes: half })
  t.same(a.asked[1], { host, sequence: 3, offset: 100 })
  exchange.part(a.link, { host, sequence: 3, offset: 100, bytes: note.subarray(100) })
  t.same(Buffer.concat(offered), note)
})

t.test('who has it no more, goes or says nothing is followed by the next', async t => {
  const { exchange, offered } = exchangeOf(t, 20)
  const [a, b, c] = [linkOf('a'), linkOf('b'), linkOf('c')]
  for (const { link } of [a, b, c]) exchange.greet(link)
  for (const { link } of [a, b, c]) exchange.marks(link, [mark])
  exchange.part(a.link, { host, sequence: 3, offset: 0, bytes: Buffer.alloc(0) })
  t.equal(b.asked.length, 1, 'the one that has it')
  exchange.gone(b.link)
  t.equal(c.asked.length, 1, 'the one that is there')
  const again = linkOf('d')
  const asked = new Promise<void>(resolve => {
    const { channel } = again.link as { channel: { askNote: (ask: NoteAsk) => void } }
    const before = channel.askNote
    channel.askNote = ask => {
      before(ask)
      resolve()
    }
  })
  exchange.greet(again.link)
  exchange.marks(again.link, [mark])
  await asked
  exchange.part(again.link, { host, sequence: 3, offset: 0, bytes: note })
  t.equal(offered.length, 1)
})

t.test('another note than the one announced is a lie', async t => {
  const { exchange, offered } = exchangeOf(t)
  const a = linkOf('a')
  exchange.greet(a.link)
  exchange.marks(a.link, [{ ...mark, sequence: 9 }])
  t.throws(() => exchange.part(a.link, { host, sequence: 9, offset: 0, bytes: note }), {
    code: 'NOTE_INVALID',
  })
  t.same(offered, [])
})

t.test('each is told what it does not know, and given what stands', async t => {
  const { exchange, here } = exchangeOf(t)
  const a = linkOf('a')
  exchange.greet(a.link)
  here.set(host, note)
  const told = new Promise<void>(resolve => {
    const { channel } = a.link as { channel: { noteMarks: (marks: readonly NoteMark[]) => void } }
    const before = channel.noteMarks
    channel.noteMarks = marks => {
      before(marks)
      resolve()
    }
  })
  exchange.changed(false)
  exchange.changed(true)
  await told
  t.same(a.told, [[], [mark]])
  exchange.asked(a.link, { host, sequence: 3, offset: 10 })
  exchange.asked(a.link, { host, sequence: 4, offset: 0 })
  exchange.asked(a.link, { host: 'ff'.repeat(32) as PeerKey, sequence: 3, offset: 0 })
  exchange.asked(a.link, { host, sequence: 3, offset: 4_000_000_000 })
  t.same(a.parts, [
    { offset: 10, bytes: note.length - 10 },
    { offset: 0, bytes: 0 },
    { offset: 0, bytes: 0 },
    { offset: 4_000_000_000, bytes: 0 },
  ])
})

t.test('messages', async t => {
  const many = Array.from({ length: 2500 }, () => mark)
  t.equal(encodeMarks(many).length, 3)
  t.strictSame(encodeMarks(many).flatMap(decodeMarks), many)
  const ask = { host, sequence: 3, offset: 70_000 }
  t.strictSame(decodeAsk(encodeAsk(ask)), ask)
  const part = { ...ask, bytes: Buffer.from('part') }
  t.strictSame(decodePart(encodePart(part)), part)
  const bad: [string, () => unknown][] = [
    ['too many marks', () => decodeMarks(Buffer.alloc(1 << 20))],
    ['a part too short', () => decodePart(Buffer.alloc(43))],
    ['a part too long', () => decodePart(Buffer.alloc(44 + NOTE_PART_BYTES + 1))],
    ['a number too large', () => decodePart(Buffer.alloc(44, 255))],
    ['a question with something behind it', () => decodeAsk(encodePart(part))],
  ]
  for (const [name, work] of bad) t.throws(work, { code: 'PEER_MESSAGE_INVALID' }, name)
})
