import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { makeSite, siteSkip, type Site } from '../test/lab/site/site.ts'
import { until } from '../test/lab/site/until.ts'
import { knows, peersUp } from '../test/lab/site/views.ts'
import { createScope, type Scope } from '../test/helpers/scope.ts'
import { benchOptions, inRounds, report } from './lib/rounds.ts'

// One large NAR by `nix-store -r` from two hosts of a site, each behind a slow cable, against the same from one of them. Needs
// root and Nix; hosts are made as in test/lab/site. NARWHARF_BENCH_MBIT and NARWHARF_BENCH_MIB: other cables, other sizes.

const { rounds, quick } = benchOptions(3)
const MBIT = Number(process.env.NARWHARF_BENCH_MBIT ?? 100)
const SIZE = Number(process.env.NARWHARF_BENCH_MIB ?? (quick ? 128 : 512)) * 1024 ** 2
const LIMIT_MS = 600_000

/** The same path on both holders: of a file that lies beside their stores, so that neither has it from the other. */
const LARGE = (name: string, size: number) => `derivation {
  name = "${name}"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/bin";
  args = [ "-euc" "/bin/head -c ${size} /client/large > $out; echo ${name} >> $out" ]; }`

async function main(scope: Scope): Promise<void> {
  const site: Site = await makeSite(scope, { hosts: ['a', 'b', 'c'] })
  await site.start()
  await site.unite()
  const [a, b, c] = [site.host('a'), site.host('b'), site.host('c')]
  const content = randomBytes(SIZE)
  for (const { nix } of [a, b]) writeFileSync(join(nix.dir, 'large'), content)
  for (const { name } of [a, b]) await site.network.setRate(name, MBIT * 1e6)

  let number = 0
  const install = async (holders: readonly (typeof a)[]): Promise<number> => {
    const expression = LARGE(`large-${++number}`, SIZE)
    const paths = new Set<string>()
    for (const { nix } of holders) {
      paths.add((await nix.words('nix-build', '--no-out-link', '-E', expression))[0] ?? '')
    }
    const [path = ''] = paths
    for (const holder of holders) {
      await until(`c knows what ${holder.name} has`, LIMIT_MS, async () => {
        return (await peersUp(c)).includes(holder.name) && (await knows(c, path, holder))
      })
    }
    const start = performance.now()
    await c.realise([path])
    const seconds = (performance.now() - start) / 1000
    for (const { nix } of [...holders, c]) await nix.run('nix-store', ['--delete', path])
    return SIZE / 1e6 / seconds
  }
  report(
    `a NAR of ${SIZE / 1024 ** 2} MiB, cables of ${MBIT} Mbit/s`,
    'MB/s',
    await inRounds(
      { 'one holder': () => install([a]), 'two holders': () => install([a, b]) },
      rounds,
    ),
  )
}

if (siteSkip === false) {
  const scope = createScope()
  await main(scope).finally(() => scope.close())
  process.exit()
} else console.log(`two-holders: skipped, ${siteSkip}`)
