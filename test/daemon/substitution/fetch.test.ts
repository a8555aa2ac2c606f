import t from 'tap'
import type { Candidate } from '../../../daemon/substitution/candidates.ts'
import { createFetch, type FetchTarget } from '../../../daemon/substitution/fetch.ts'
import type { NarReply } from '../../../daemon/substitution/nar-reply.ts'
import type { FetchEvent } from '../../../protocol/api.ts'
import { NarwharfError } from '../../../protocol/errors.ts'
import type { PathInfo } from '../../../protocol/path-info.ts'
import { hashPartOf, parseStorePath, type StorePath } from '../../../protocol/store-path.ts'
import { fakeHolder, fakePath, offerAll } from '../../helpers/fake-holder.ts'

/** A world of paths by name, each with the names it refers to. */
function makeWorld(graph: Readonly<Record<string, readonly string[]>>) {
  const holder = fakeHolder('a')
  const bytes = (name: string) => Buffer.from(`the NAR of ${name}`)
  const base = (name: string) => fakePath(name, bytes(name)).storePath.slice(11)
  const pathOf = (name: string): StorePath => parseStorePath(`/nix/store/${base(name)}`)
  for (const [name, references] of Object.entries(graph)) {
    const nar = bytes(name)
    holder.put(fakePath(name, nar, references.map(base).sort()), nar)
  }
  const added: string[] = []
  const parts = new Set<string>()
  const target: FetchTarget = {
    has: part => parts.has(part),
    async add(info: PathInfo, nar) {
      const chunks: Buffer[] = []
      for await (const chunk of nar) chunks.push(Buffer.from(chunk))
      const name = Buffer.concat(chunks).toString().replace('the NAR of ', '')
      t.equal(info.signatures.length, 1, 'with the signature that trust made')
      added.push(name)
      parts.add(hashPartOf(info.storePath))
    },
  }
  const damaged = new Set<string>()
  const fetch = createFetch({
    storeDir: '/nix/store',
    target,
    substitution: {
      async candidates(part): Promise<Candidate[]> {
        const holding = await holder.find(part)
        return holding === undefined
          ? []
          : [{ holder, holding, decision: offerAll() as Candidate['decision'] }]
      },
      async nar({ hashPart }): Promise<NarReply | undefined> {
        const holding = await holder.find(hashPart)
        if (holding === undefined || damaged.has(holding.info.storePath)) return undefined
        return {
          totalBytes: holding.info.narSize,
          resumable: true,
          narSize: holding.info.narSize,
          open: ({ start, end }) => holder.openNar(holding, { offset: start, end }),
          cancel() {},
        }
      },
    },
  })
  const run = async (...names: string[]): Promise<FetchEvent[]> => {
    const events: FetchEvent[] = []
    for await (const event of fetch(names.map(pathOf))) events.push(event)
    return events
  }
  return { forget: () => parts.clear(), holder, pathOf, added, target, damaged, fetch, run }
}

const DIAMOND = { top: ['left', 'right', 'top'], left: ['base'], right: ['base'], base: [] }

t.test('a closure comes references first, once', async t => {
  const { run, added } = makeWorld(DIAMOND)
  const events = await run('top', 'left')
  const at = (name: string) => added.indexOf(name)
  t.same([...added].sort(), ['base', 'left', 'right', 'top'])
  t.ok(at('base') < at('left') && at('base') < at('right') && at('right') < at('top'))
  t.match(events[0], { event: 'start', paths: 4 })
  t.match(events.at(-1), { event: 'end', fetched: 4, here: 0, missing: [] })
  t.match((await run('top')).at(-1), { event: 'end', fetched: 0, here: 4 }, 'and not again')
})

t.test('what is missing is listed, with what needs it; the rest comes', async t => {
  const { run, added, holder, pathOf, damaged, forget } = makeWorld({ ...DIAMOND, alone: [] })
  holder.content.delete(hashPartOf(pathOf('right')))
  const events = await run('top', 'alone')
  t.same(
    [...added].sort(),
    ['alone', 'base', 'left'].filter(name => added.includes(name)),
  )
  t.ok(added.includes('left') && added.includes('alone'))
  const end = events.at(-1)
  t.match(end, {
    event: 'end',
    missing: [
      { storePath: pathOf('right'), problem: /nobody/ },
      { storePath: pathOf('top'), problem: /right/ },
    ],
  })
  damaged.add(pathOf('alone'))
  added.splice(0)
  forget()
  t.match((await run('alone')).at(-1), { missing: [{ problem: /damaged/ }] })
})

t.test('a cache that cannot be written ends it', async t => {
  const { fetch, target, pathOf } = makeWorld(DIAMOND)
  let tried = 0
  target.add = async () => {
    tried++
    throw new NarwharfError('CACHE_UNWRITABLE', { dir: '/x', problem: 'full' })
  }
  await t.rejects(
    async () => {
      for await (const _ of fetch([pathOf('top')]));
    },
    { code: 'CACHE_UNWRITABLE' },
  )
  t.equal(tried, 1)
})

t.test('who asked goes away', async t => {
  const { fetch, pathOf, added } = makeWorld(DIAMOND)
  const abort = new AbortController()
  await t.rejects(
    async () => {
      for await (const event of fetch([pathOf('top')], abort.signal)) {
        if (event.event === 'fetched') abort.abort()
      }
    },
    { name: 'AbortError' },
  )
  t.equal(added.length, 1)
})

t.test('long chains', async t => {
  const names = Array.from({ length: 3000 }, (_, i) => `p-${i}`)
  const { run, added } = makeWorld(
    Object.fromEntries(names.map((name, i) => [name, i === 0 ? [] : [`p-${i - 1}`]])),
  )
  await run('p-2999')
  t.same(added, names)
})
