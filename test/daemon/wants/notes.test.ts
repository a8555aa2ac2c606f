import { cpSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import pino from 'pino'
import t, { type Test } from 'tap'
import { createNotes, type Notes } from '../../../daemon/wants/note-shelf.ts'
import { createOwnNote, type OwnFacts, type OwnNote } from '../../../daemon/wants/own-note.ts'
import type { PeerKey } from '../../../daemon/site.ts'
import { keyPairFromSeed } from '../../../protocol/ed25519.ts'
import type { NotedWant } from '../../../protocol/host-note-fields.ts'
import { signHostNote } from '../../../protocol/host-notes.ts'
import { tempDir } from '../../helpers/scope.ts'
import { connect, createSite, startHost, type Host, type HostOptions } from '../gossip/rooms.ts'

const log = pino({ level: 'silent' })

const nothing: OwnFacts = {
  ...{ storeDir: '/nix/store', keeper: false, wants: [], drives: [], merges: [], merged: [] },
}

interface Noted extends Host {
  readonly notes: Notes
  readonly own: OwnNote
  /** Says something else from now on. */
  say(facts: Partial<OwnFacts>): void
}

/** A gossiping host that tells notes, as main puts it together. */
async function start(
  t: Test,
  site: ReturnType<typeof createSite>,
  name: string,
  options: HostOptions = {},
): Promise<Noted> {
  let facts = nothing
  let notes!: Notes
  let own!: OwnNote
  const host = await startHost(t, site, name, {
    ...options,
    withNotes({ members, events, stateDir }) {
      notes = createNotes({ dir: join(stateDir, 'notes'), members, events, log })
      notes.open()
      const timings = { gatherMs: 1, renewMs: 20, renewMaxMs: 100 }
      own = createOwnNote({ notes, members, facts: () => facts, log, timings })
      own.open()
      t.teardown(async () => {
        own.close()
        await notes.close()
      })
      return notes
    },
  })
  return {
    ...host,
    notes,
    own,
    say(more) {
      facts = { ...facts, ...more }
      own.touch()
    },
  }
}

/** Resolves when it is so; looked at whenever a note changes there. */
function until(host: Noted, holds: () => boolean): Promise<void> {
  return new Promise(resolve => {
    const look = () => {
      if (!holds()) return
      host.events.off('note:changed', look)
      resolve()
    }
    host.events.on('note:changed', look)
    look()
  })
}

const wish = (text: string, paths: readonly string[] = []): NotedWant =>
  ({
    ...{ id: text.replace('*', ''), kind: 'pattern', text, paths: paths as never, priority: 5 },
    ...{ by: 'anna', since: '2026-07-25T10:00:00.000Z' },
  }) as const

const wishes = (host: Noted, of: Noted): string[] =>
  host.notes.of(of.key)?.note.wants.map(({ text }) => text) ?? []

t.test('what one host says is known to all, within a second, and while it is off', async t => {
  const site = createSite()
  const a = await start(t, site, 'a')
  const b = await start(t, site, 'b')
  a.say({ wants: [wish('firefox-*')] })
  await connect(a, b)
  await until(b, () => wishes(b, a).includes('firefox-*'))

  const at = performance.now()
  a.say({ wants: [wish('firefox-*'), wish('gimp-*')], keeper: true })
  await until(b, () => wishes(b, a).length === 2)
  const tookMs = performance.now() - at
  t.comment(`from the wish to the peer ${tookMs.toFixed(0)} ms`)
  t.ok(tookMs < 1000, 'within a second')
  t.equal(b.notes.of(a.key)?.note.keeper, true)

  await a.gossip.close()
  const c = await start(t, site, 'c')
  await connect(c, b)
  await until(c, () => wishes(c, a).length === 2)
  t.pass('c, which never met a, knows its wishes by b')

  await b.gossip.close()
  await b.notes.close()
  const again = await start(t, site, 'b', { again: b })
  t.same(wishes(again, a), ['firefox-*', 'gimp-*'], 'kept over a restart')
})

t.test('a large note travels in parts', async t => {
  const site = createSite()
  const a = await start(t, site, 'a')
  const b = await start(t, site, 'b')
  const paths = Array.from(
    { length: 20_000 },
    (_, i) => `${String(i).padStart(32, '0')}-a-path-with-a-usual-name-1.2`,
  )
  a.say({ wants: [wish('everything', paths)] })
  await until(a, () => wishes(a, a).length === 1)
  await connect(a, b)
  await until(b, () => wishes(b, a).length === 1)
  t.equal(b.notes.of(a.key)?.note.wants[0]?.paths.length, 20_000)
  t.ok((b.notes.get(a.key)?.length ?? 0) > 1_200_000)
})

t.test('a state that went back in time goes on after what the others know', async t => {
  const site = createSite()
  const a = await start(t, site, 'a')
  const b = await start(t, site, 'b')
  const backup = tempDir(t, 'backup')
  cpSync(a.stateDir, backup, { recursive: true })
  a.say({ wants: [wish('one')] })
  await connect(a, b)
  await until(b, () => wishes(b, a).includes('one'))
  a.say({ wants: [wish('two')] })
  await until(b, () => wishes(b, a).includes('two'))
  const before = b.notes.of(a.key)?.mark.sequence ?? 0
  await a.gossip.close()
  a.own.close()

  const restored = await start(t, site, 'a', { again: a, stateDir: backup })
  restored.say({ wants: [wish('three')] })
  await connect(restored, b)
  await until(b, () => wishes(b, a).includes('three'))
  t.ok((b.notes.of(a.key)?.mark.sequence ?? 0) > before, 'its number never goes back')
  t.same(restored.own.problems(), [])
})

t.test(
  'two machines with one key: told, and they do not write against each other for ever',
  async t => {
    const site = createSite()
    const a = await start(t, site, 'a')
    for (let turn = 0; turn < 4; turn++) {
      const before = a.notes.of(a.key)?.mark.sequence ?? 0
      // What a copy of it would have said: one more than we.
      const rival = { ...nothing, at: '2026-07-25T10:00:00.000Z', instance: 'copy' }
      a.notes.offer(signHostNote(rival, before + 1, a.keyPair.secretKey))
      await until(a, () => (a.notes.of(a.key)?.mark.sequence ?? 0) === before + 2)
    }
    t.match(a.own.problems(), [{ what: /another machine speaks/ }])
  },
)

t.test('strangers and the revoked get nothing and leave nothing', async t => {
  const site = createSite()
  const a = await start(t, site, 'a')
  const b = await start(t, site, 'b')
  b.say({ wants: [wish('secret')] })
  await connect(a, b)
  await until(a, () => wishes(a, b).length === 1)
  const stranger = keyPairFromSeed(Buffer.alloc(32, 9))
  const note = { ...nothing, at: '2026-07-25T10:00:00.000Z', instance: 'x' }
  t.equal(a.notes.offer(signHostNote(note, 1, stranger.secretKey)), 'stranger')
  site.members.delete(b.key)
  a.membersChanged()
  t.equal(a.notes.of(b.key), undefined)
  t.equal(a.notes.get(b.key), undefined)
  t.notOk(a.notes.wants({ host: b.key, sequence: 99, size: 200, digest: '' }))
  await a.notes.close()
  t.same(readdirSync(join(a.stateDir, 'notes')), [`${a.key}.note`])
})

t.test('a damaged file is a note that is told again', async t => {
  const site = createSite()
  const a = await start(t, site, 'a')
  await a.gossip.close()
  a.own.close()
  const dir = join(a.stateDir, 'notes')
  writeFileSync(join(dir, `${a.key}.note`), 'NWN1 cut')
  writeFileSync(join(dir, `${'ab'.repeat(32)}.note.new`), 'left over')
  const again = await start(t, site, 'a', { again: a })
  t.equal(again.notes.of(a.key as PeerKey)?.mark.sequence, 0)
  t.same(readdirSync(dir), [`${a.key}.note`])
})
