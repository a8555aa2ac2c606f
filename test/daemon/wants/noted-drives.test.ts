import t from 'tap'
import { createEventBus } from '../../../daemon/events.ts'
import type { IndexedHolding, PeerKey } from '../../../daemon/site.ts'
import { createMergeSharing } from '../../../daemon/wants/merge-sharing.ts'
import type { KnownNote, Notes } from '../../../daemon/wants/note-shelf.ts'
import { createNotedDrives, whereaboutsOf } from '../../../daemon/wants/noted-drives.ts'
import { withNotedDrives } from '../../../daemon/wants/who-has-drives.ts'
import { encodeHaveDigest } from '../../../protocol/have-digest.ts'
import type { HostNote, NotedDrive } from '../../../protocol/host-note-fields.ts'
import { generateKeyPair } from '../../../protocol/signature.ts'
import { signerOf } from '../../../protocol/signed-json.ts'
import { hashPartOf, type HashPart } from '../../../protocol/store-path.ts'
import { fakePath } from '../../helpers/fake-holder.ts'

const OWN = 'aa'.repeat(32) as PeerKey
const B = 'bb'.repeat(32) as PeerKey
const C = 'cc'.repeat(32) as PeerKey
const names: Readonly<Record<string, string>> = { [OWN]: 'alpha', [B]: 'beta', [C]: 'gamma' }
const path = (name: string) => fakePath(name, Buffer.from(name)).storePath
const part = (name: string) => hashPartOf(path(name))
const shipment = { id: 'ab'.repeat(16), part: 1, parts: 2, depot: 'brest' }

const digest = (...parts: readonly HashPart[]) =>
  encodeHaveDigest(
    parts,
    { site: 'x', createdAt: '2026-07-25T10:00:00Z', shipments: [], salt: Buffer.alloc(16) },
    signerOf(generateKeyPair('x-1')),
  ).toString('base64')

const drive = (more: Partial<NotedDrive> = {}): NotedDrive => ({
  ...{ id: 'd1', name: 'KERGUELEN-2', plugged: false, lastSeen: '2026-07-25T10:00:00Z' },
  ...{ paths: 1, have: digest(part('hello')) },
  ...more,
})

function told(notes: Readonly<Record<string, Partial<HostNote>>>, up: readonly PeerKey[] = [B, C]) {
  const known = Object.entries(notes).map(([host, note]): KnownNote => ({
    host: host as PeerKey,
    mark: { host, sequence: 0, size: 0, digest: '' },
    note: {
      ...{ at: '', instance: '', storeDir: '/nix/store', keeper: false },
      ...{ wants: [], drives: [], merges: [], merged: [] },
      ...note,
    },
  }))
  const shelf = {
    all: () => known,
    of: (key: PeerKey) => known.find(({ host }) => host === key),
  } as unknown as Notes
  const presence = (key: PeerKey) => ({ name: names[key] ?? key, up: up.includes(key) })
  return { shelf, drives: createNotedDrives({ notes: shelf, own: OWN, presence }) }
}

t.test('a drive in a drawer elsewhere is found by what is on it', async t => {
  const { drives } = told({
    [OWN]: { drives: [drive({ id: 'mine' })] },
    [B]: { drives: [drive()] },
    [C]: {
      drives: [drive({ lastSeen: '2026-07-26T10:00:00Z' }), drive({ id: 'd2', have: 'AAAA' })],
    },
  })
  const found = drives.withPath(part('hello')).map(whereaboutsOf)
  t.same(
    found,
    [
      {
        ...{ host: 'gamma', up: false, drive: 'KERGUELEN-2', plugged: false },
        lastSeen: '2026-07-26T10:00:00Z',
      },
    ],
    'where it was seen last; a damaged digest says nothing',
  )
  t.same(drives.withPath(part('other')), [])
  t.equal(drives.named('KERGUELEN-2').length, 2, 'two drives of one name')
  const query = path('hello')
  const [result] = withNotedDrives([{ query, matches: [], more: 0 }], drives, '/nix/store')
  t.match(result?.matches, [
    {
      storePath: query,
      holders: [{ id: 'drive:d1', kind: 'drive', host: 'gamma', up: false, name: 'KERGUELEN-2' }],
    },
  ])
  const nothing = { query: 'firefox-*', matches: [], more: 0 }
  t.same(withNotedDrives([nothing], drives, '/nix/store'), [nothing])
})

t.test('where a drive is plugged counts before where it was', async t => {
  const plugged = drive({ plugged: true, mountPoint: '/media/k' })
  const { drives } = told({
    [B]: { drives: [plugged] },
    [C]: { drives: [drive({ lastSeen: '2027-01-01T10:00:00Z' })] },
  })
  const ours = {
    ...({ id: 'drive:d1', kind: 'drive', host: 'alpha', up: false, name: 'KERGUELEN-2' } as const),
    lastSeen: '2026-07-27T10:00:00Z',
  }
  const matches = [{ storePath: path('hello'), holders: [ours] }]
  const [result] = withNotedDrives(
    [{ query: path('hello'), matches, more: 0 }],
    drives,
    '/nix/store',
  )
  t.match(result?.matches[0]?.holders, [{ host: 'beta', up: true, mountPoint: '/media/k' }])
  const here = { ...ours, up: true }
  const [near] = withNotedDrives(
    [{ query: 'hello', matches: [{ storePath: path('hello'), holders: [here] }], more: 0 }],
    drives,
    '/nix/store',
  )
  t.same(near?.matches[0]?.holders, [here], 'here it is plugged: that is known best')
})

t.test('what may only lie on a drive', async t => {
  const plugged = { plugged: true, shipment }
  const { drives } = told({
    [B]: { drives: [drive(plugged)] },
    [C]: { drives: [drive({ id: 'd2', plugged: true, have: undefined })] },
  })
  t.match(drives.suspects(), [{ key: B, digests: [Buffer] }])
  const note = (drives: readonly NotedDrive[]) => ({ drives }) as unknown as HostNote
  t.ok(drives.mayBeOnDrive(note([drive(plugged)]), part('hello')))
  t.notOk(drives.mayBeOnDrive(note([drive(plugged)]), part('other')))
  t.ok(drives.mayBeOnDrive(note([drive({ plugged: true, have: undefined })]), part('other')))
  const merged = told({ [B]: { drives: [drive(plugged)], merged: [`${shipment.id}/1`] } })
  t.same(merged.drives.suspects(), [], 'what is merged stays')
})

t.test('keepers that merge the same', async t => {
  const events = createEventBus()
  const doing = { shipment: shipment.id, part: 1, shareDone: false }
  const state = { shareDone: false }
  const { shelf, drives } = told({
    [B]: { keeper: true, merges: [doing] },
    [C]: { keeper: true, drives: [drive({ plugged: true, shipment })] },
  })
  const notes = {
    ...shelf,
    all: () =>
      shelf.all().map(one => ({
        ...one,
        note: { ...one.note, merges: one.note.merges.map(merge => ({ ...merge, ...state })) },
      })),
  }
  const holding = (peer: PeerKey): IndexedHolding =>
    ({ peer, info: fakePath('hello', Buffer.from('hello')), builtHere: false }) as IndexedHolding
  let holders: readonly PeerKey[] = []
  let changes = 0
  const sharing = createMergeSharing({
    ...{ self: OWN, notes, drives, events },
    indexes: { find: () => holders.map(holding) },
    isUp: key => key === B || key === C,
    onChange: () => changes++,
  })
  const merge = sharing.begin({ shipment: shipment.id, part: 1, drive: 'K' })
  t.same(merge.sharers(), [OWN, B])
  t.same(sharing.running(), [{ shipment: shipment.id, part: 1, drive: 'K', shareDone: false }])
  holders = [C]
  t.notOk(merge.kept(part('hello')), 'that is on a drive there')
  holders = [B]
  t.ok(merge.kept(part('hello')))
  const other = sharing.begin({ shipment: shipment.id, part: 2 })
  t.same(other.sharers(), [OWN])
  await other.othersDone(new AbortController().signal)
  other.end(false)

  merge.shareDone()
  t.match(sharing.running(), [{ shareDone: true }])
  let done = false
  const waiting = merge.othersDone(new AbortController().signal).then(() => (done = true))
  events.emit('note:changed', B, 'told')
  t.notOk(done)
  state.shareDone = true
  events.emit('note:changed', B, 'told')
  await waiting
  const abort = new AbortController()
  state.shareDone = false
  const stopped = merge.othersDone(abort.signal)
  abort.abort()
  await stopped
  merge.end(true)
  t.same(sharing.running(), [])
  t.same(sharing.merged(), [`${shipment.id}/1`])
  t.ok(changes >= 4)
})
