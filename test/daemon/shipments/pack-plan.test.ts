import { isDeepStrictEqual } from 'node:util'
import t from 'tap'
import { planShipment, type PlanNode, type Room } from '../../../daemon/shipments/pack-plan.ts'
import type { StorePath } from '../../../protocol/store-path.ts'

/** Nodes by name: cost, and what they refer to. */
function graph(spec: Readonly<Record<string, readonly [number, ...string[]]>>) {
  const names = Object.keys(spec)
  const nodes = names.map((name): PlanNode => {
    const [cost, ...references] = spec[name] as readonly [number, ...string[]]
    return {
      storePath: `/nix/store/${name}` as StorePath,
      references: references.map(reference => names.indexOf(reference)),
      cost: Math.max(0, cost),
      problem: cost < 0 ? 'nobody has it' : undefined,
    }
  })
  return (roots: Readonly<Record<string, number>>, room: Room) => {
    const plan = planShipment(
      nodes,
      Object.entries(roots).map(([name, priority]) => ({ at: names.indexOf(name), priority })),
      room,
    )
    const named = (ats: readonly number[]) => ats.map(at => names[at])
    return {
      parts: plan.parts.map(named),
      left: named(plan.left),
      blocked: named(plan.blocked),
      roots: plan.roots.map(({ at, outcome }) => `${names[at]} ${outcome}`),
      costs: plan.costs,
    }
  }
}

const LARGE: Room = { each: [1e9] }

t.test('everything fits: references first, each path once, the most wanted first', async t => {
  const plan = graph({
    glibc: [10],
    bash: [5, 'glibc'],
    firefox: [50, 'glibc', 'gtk'],
    gtk: [20, 'glibc'],
    unasked: [99],
  })
  t.same(plan({ bash: 2, firefox: 1 }, LARGE), {
    parts: [['glibc', 'gtk', 'firefox', 'bash']],
    left: [],
    blocked: [],
    roots: ['firefox whole', 'bash whole'],
    costs: [85],
  })
})

t.test('what is wanted alike goes by size, then by name', async t => {
  const plan = graph({ big: [50], c: [10], b: [10], tiny: [1] })
  t.same(plan({ big: 1, c: 1, b: 1, tiny: 1 }, LARGE).parts, [['tiny', 'b', 'c', 'big']])
})

t.test('a drive that is too small', async t => {
  const plan = graph({
    glibc: [10],
    gtk: [20, 'glibc'],
    firefox: [50, 'gtk'],
    bash: [5, 'glibc'],
    huge: [500, 'glibc'],
  })
  await t.test(
    'a less wanted closure goes whole rather than a part of a more wanted one',
    async t =>
      t.same(plan({ firefox: 1, bash: 2 }, { each: [40] }), {
        parts: [['glibc', 'bash', 'gtk']],
        left: ['firefox'],
        blocked: [],
        roots: ['firefox partly', 'bash whole'],
        costs: [35],
      }),
  )
  await t.test('never a path without what it refers to', async t =>
    t.same(plan({ huge: 1, firefox: 2 }, { each: [55] }).parts, [['glibc', 'gtk']]),
  )
  await t.test('nothing fits', async t =>
    t.same(plan({ huge: 1 }, { each: [5] }), {
      parts: [[]],
      left: ['glibc', 'huge'],
      blocked: [],
      roots: ['huge left'],
      costs: [0],
    }),
  )
  await t.test('to the byte', async t => {
    t.same(plan({ bash: 1 }, { each: [15] }).roots, ['bash whole'])
    t.same(plan({ bash: 1 }, { each: [14] }).roots, ['bash partly'])
  })
})

t.test('what nobody gives, and what needs it, stays behind', async t => {
  const plan = graph({ lost: [-1], lib: [3], app: [5, 'lost', 'lib'], top: [1, 'app'], other: [2] })
  t.same(plan({ top: 1, other: 2 }, LARGE), {
    parts: [['other', 'lib']],
    left: [],
    blocked: ['lost', 'app', 'top'],
    roots: ['top partly', 'other whole'],
    costs: [5],
  })
})

t.test('several drives', async t => {
  const plan = graph({
    glibc: [10],
    gtk: [20, 'glibc'],
    firefox: [50, 'gtk'],
    bash: [5, 'glibc'],
    texlive: [60, 'bash'],
  })
  await t.test('a closure stays on one drive where it fits', async t =>
    t.same(plan({ firefox: 1, texlive: 2 }, { each: [80, 80] }), {
      parts: [
        ['glibc', 'gtk', 'firefox'],
        ['bash', 'texlive'],
      ],
      left: [],
      blocked: [],
      roots: ['firefox whole', 'texlive whole'],
      costs: [80, 65],
    }),
  )
  await t.test('and spreads over several where it does not', async t =>
    t.same(plan({ firefox: 1 }, { each: [30, 50] }).parts, [['glibc', 'gtk'], ['firefox']]),
  )
  await t.test('never before what it refers to', async t =>
    // There is room for bash on the first one, but glibc is on the second.
    t.same(
      graph({ large: [9], glibc: [10], bash: [1, 'glibc'] })(
        { large: 1, bash: 2 },
        { each: [10, 11] },
      ).parts,
      [['large'], ['glibc', 'bash']],
    ),
  )
  await t.test('a plan taken back leaves no trace', async t =>
    t.same(
      graph({ a: [10], b: [10, 'a'], c: [100, 'b'], d: [15] })({ c: 1, d: 2 }, { each: [15, 15] }),
      {
        parts: [['d'], ['a']],
        left: ['b', 'c'],
        blocked: [],
        roots: ['c partly', 'd whole'],
        costs: [15, 10],
      },
    ),
  )
  await t.test('even ones', async t => {
    const many = graph(
      Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`p${i}`, [10 + (i % 3)]])),
    )
    const roots = Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`p${i}`, i]))
    const { costs, left } = many(roots, { even: 3 })
    t.same(left, [])
    t.equal(
      costs.reduce((sum, cost) => sum + cost, 0),
      330,
    )
    t.ok(Math.max(...costs) - Math.min(...costs) <= 24, `about the same: ${costs.join(', ')}`)
    t.same(graph({ one: [100] })({ one: 1 }, { even: 3 }).left, [], 'one path, three drives')
  })
})

t.test('whatever the closure', async t => {
  // Pseudo-random graphs: what holds of every plan.
  let state = 7
  const random = (below: number) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return (state >>> 8) % below
  }
  for (let round = 0; round < 300; round++) {
    const count = 1 + random(40)
    const nodes = Array.from({ length: count }, (_, at): PlanNode => ({
      storePath: `/nix/store/${at}` as StorePath,
      references: [...new Set(Array.from({ length: at && random(4) }, () => random(at)))],
      cost: random(20) === 0 ? 0 : random(50),
      problem: random(25) === 0 ? 'nobody has it' : undefined,
    }))
    const roots = Array.from({ length: 1 + random(5) }, (_, priority) => ({
      at: random(count),
      priority,
    }))
    const room: Room =
      random(2) === 0
        ? { even: 1 + random(4) }
        : { each: Array.from({ length: 1 + random(3) }, () => random(400)) }
    const plan = planShipment(nodes, roots, room)
    if (!isDeepStrictEqual(planShipment(nodes, roots, room), plan)) t.fail('another plan')
    const places = new Map<number, number>()
    for (const [part, ats] of plan.parts.entries()) {
      for (const at of ats) {
        if (places.has(at)) t.fail('a path twice')
        places.set(at, part)
        for (const reference of nodes[at]?.references ?? []) {
          if (!places.has(reference)) t.fail('a path before what it refers to')
        }
      }
    }
    for (const [part, cost] of plan.costs.entries()) {
      if ('each' in room && cost > (room.each[part] ?? 0)) t.fail('a drive too full')
    }
    if ('even' in room && plan.left.length > 0) t.fail('even parts leave nothing')
  }
})
