import t from 'tap'
import { createExport } from '../../../daemon/shipments/export.ts'
import { findCandidates } from '../../../daemon/substitution/candidates.ts'
import type { ExportEvent, ExportWish } from '../../../protocol/api-archives.ts'
import { createExportReader, type ExportedPath } from '../../../protocol/export-archive.ts'
import { hashPartOf, type StorePath } from '../../../protocol/store-path.ts'
import { fakeHolder, fakeTrust } from '../../helpers/fake-holder.ts'
import { bookOf } from '../../helpers/import-rig.ts'
import { narOf } from '../../helpers/nix-store.ts'
import { infoOf } from '../../helpers/ship-rig.ts'

/** A host that has paths, each with the names it refers to. */
function makeHost(graph: Readonly<Record<string, readonly string[]>>) {
  const holder = fakeHolder('cache-dir:/x')
  const trust = fakeTrust()
  const path = (name: string): StorePath => infoOf(name, narOf(name)).storePath
  for (const [name, references] of Object.entries(graph)) {
    holder.put(infoOf(name, narOf(name), references), narOf(name))
  }
  const gone = new Set<string>()
  const start = createExport({
    storeDir: '/nix/store',
    substitution: {
      candidates: async part => findCandidates([holder], trust, '/nix/store', part),
      async nar({ hashPart }) {
        const holding = await holder.find(hashPart)
        if (holding === undefined || gone.has(holding.info.storePath)) return undefined
        return {
          ...{ totalBytes: holding.info.narSize, resumable: true, narSize: holding.info.narSize },
          open: ({ start: offset, end }) => holder.openNar(holding, { offset, end }),
          cancel() {},
        }
      },
    },
  })
  /** Exports; what was said, the archive so far, and the error it ended with. */
  const run = async (names: readonly string[], wish: Partial<ExportWish> = {}) => {
    const bytes: Buffer[] = []
    const events: ExportEvent[] = []
    let error: unknown
    try {
      const full = { paths: names.map(path), closure: false, signatures: false, ...wish }
      for await (const part of start(full)) {
        if ('bytes' in part) bytes.push(Buffer.from(part.bytes))
        else events.push(part.event)
      }
    } catch (caught) {
      error = caught
    }
    return { events, archive: Buffer.concat(bytes), error }
  }
  return { holder, path, gone, run, start }
}

/** What an archive has. Throws where it is no whole one. */
function read(archive: Buffer): ExportedPath[] {
  const paths: ExportedPath[] = []
  const reader = createExportReader({ nar() {}, path: one => paths.push(one) })
  reader.write(archive)
  reader.end()
  return paths
}

const names = (paths: readonly { storePath: StorePath | string }[]) =>
  paths.map(({ storePath }) => storePath.slice(44))

const DIAMOND = { top: ['left', 'right', 'top'], left: ['base'], right: ['base'], base: [] }

t.test('a closure, references first, each once', async t => {
  const { run } = makeHost(DIAMOND)
  const { archive, events } = await run(['top', 'left'], { closure: true, signatures: true })
  const paths = read(archive)
  const order = names(paths)
  t.strictSame([...order].sort(), ['base', 'left', 'right', 'top'])
  t.ok(order.indexOf('base') === 0 && order.indexOf('top') === 3)
  t.equal(paths.at(-1)?.references.length, 3, 'the self reference too')
  t.match(events[0], { event: 'start', paths: 4 })
  t.match(events.at(-1), { event: 'end', exported: 4, outside: [], outsideCount: 0 })
  const lines = events.flatMap(event => (event.event === 'exported' ? [event.line ?? ''] : []))
  t.equal(bookOf(lines.join('')).size, 4)
})

t.test('the given paths alone, and what they need besides', async t => {
  const { run, path } = makeHost(DIAMOND)
  const { archive, events } = await run(['top', 'left'])
  t.strictSame(names(read(archive)), ['left', 'top'], 'in the order of their references')
  t.match(events.at(-1), { event: 'end', exported: 2, outsideCount: 2 })
  const { outside } = events.at(-1) as Extract<ExportEvent, { event: 'end' }>
  t.strictSame([...outside].sort(), [path('base'), path('right')].sort())
  t.notOk(events.some(event => 'line' in event))
})

t.test('what is missing is listed, with what needs it', async t => {
  const { run, holder, path } = makeHost({ ...DIAMOND, alone: [] })
  holder.content.delete(hashPartOf(path('right')))
  const { archive, events } = await run(['top', 'alone', 'nowhere'], { closure: true })
  t.strictSame(names(read(archive)).sort(), ['alone', 'base', 'left'])
  const missing = events.flatMap(event => (event.event === 'missing' ? [event] : []))
  t.strictSame(names(missing).sort(), ['nowhere', 'right', 'top'])
  t.match(
    missing.find(({ storePath }) => storePath === path('top')),
    { problem: /right, which is missing/ },
  )
})

t.test('a wrong NAR ends it before the archive does', async t => {
  type Host = ReturnType<typeof makeHost>
  const breaks: Readonly<Record<string, (host: Host) => void>> = {
    'other bytes': ({ holder, path }) => {
      const held = holder.content.get(hashPartOf(path('left')))
      if (held !== undefined) held.nar = narOf('lefT')
    },
    'broken off': ({ holder }) => {
      holder.breakAt = 50
    },
    'gone meanwhile': ({ gone, path }) => void gone.add(path('left')),
  }
  for (const [what, break_] of Object.entries(breaks)) {
    const host = makeHost(DIAMOND)
    break_(host)
    const { archive, error } = await host.run(['top'], { closure: true })
    t.match(error, { code: 'EXPORT_BROKE_OFF' }, what)
    t.throws(() => read(archive), { code: 'EXPORT_INVALID' }, what)
  }
})

t.test('no store paths, and somebody who goes away', async t => {
  const { start, path } = makeHost(DIAMOND)
  const wish = { closure: true, signatures: false }
  t.throws(() => start({ ...wish, paths: ['/etc/passwd'] }), { code: 'STORE_PATH_INVALID' })
  const abort = new AbortController()
  await t.rejects(
    async () => {
      for await (const part of start({ ...wish, paths: [path('top')] }, abort.signal)) {
        if ('event' in part && part.event.event === 'exported') abort.abort()
      }
    },
    { name: 'AbortError' },
  )
})
