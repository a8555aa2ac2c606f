import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { run } from '../helpers/run.ts'
import { guard, nextPrefix, sweep } from './site/leftovers.ts'
import { makeNetwork, type Network } from './site/network.ts'
import { siteSkipWithoutNix } from './site/site.ts'
import { slowLinkSkip } from './site/slow-link.ts'
import { until } from './site/until.ts'

// The lab itself: its cables do what they are told, and nothing of it stays on the machine. Without daemons and Nix.

const ECHO = fileURLToPath(new URL('site/echo.mjs', import.meta.url))
const REGISTER = fileURLToPath(new URL('site/register-ts.mjs', import.meta.url))
const LEFTOVERS = fileURLToPath(new URL('site/leftovers.ts', import.meta.url))

/** The group and port family of mDNS; any group of 224.0.0.0/24 is treated alike. */
const GROUP = '224.0.0.251'
const CLEAN_LIMIT_MS = 20_000

interface Heard {
  readonly received: number
  readonly medianMs: number | null
}

t.test('networks of the lab', { skip: siteSkipWithoutNix }, async t => {
  const prefix = nextPrefix()
  const clean = guard(prefix)
  t.teardown(clean)
  const network = await makeNetwork(prefix, [
    { name: 'a', networks: ['lan'] },
    { name: 'b', networks: ['lan'] },
    { name: 'c', networks: ['lan', 'lan2'] },
    { name: 'd', networks: ['lan2'] },
  ])
  const node = (host: string, ...words: string[]) =>
    run('ip', ['netns', 'exec', network.netns(host), process.execPath, ECHO, ...words])
  const ask = async (from: string, to: string, count = 5, on?: string): Promise<Heard> =>
    JSON.parse((await node(from, 'ask', network.address(to, on), String(count))).stdout) as Heard
  for (const host of ['b', 'c']) await serve(t, network, host)

  await t.test('no way out, no name server needed', async t => {
    const { stdout } = await run('ip', ['-n', network.netns('a'), 'route'])
    t.match(stdout, /^10\.79\.0\.0\/24 dev lan [^\n]*\n$/)
  })
  await t.test('hosts of one network reach each other, those of another do not', async t => {
    t.match(await ask('a', 'b'), { received: 5 })
    t.match(await ask('d', 'c', 5, 'lan2'), { received: 5 })
    t.match(await ask('d', 'b'), { received: 0 })
  })
  await t.test('a cable is cut and mended', async t => {
    await network.cut('b')
    t.match(await ask('a', 'b'), { received: 0 })
    await network.mend('b')
    t.match(await ask('a', 'b'), { received: 5 })
  })
  await t.test('a network falls into islands, which merge', async t => {
    await network.split([['a'], ['b', 'c']])
    t.match([await ask('a', 'b'), await ask('a', 'c')], [{ received: 0 }, { received: 0 }])
    await network.merge()
    t.match(await ask('a', 'b'), { received: 5 })
  })
  await t.test('a host moves to another address', async t => {
    const old = network.address('b')
    t.not(await network.setAddress('b'), old)
    t.match(await ask('a', 'b'), { received: 5 })
  })
  await t.test('a switch keeps multicast back, and lets it through', async t => {
    const multicast = async () =>
      JSON.parse((await node('a', 'multicast', GROUP, '5', network.address('a'))).stdout) as Heard
    t.ok((await multicast()).received >= 5, 'through')
    await network.setMulticast(false)
    t.match(await multicast(), { received: 0 })
    t.match(await ask('a', 'b'), { received: 5 }, 'all else passes')
    await network.setMulticast(true)
    t.ok((await multicast()).received >= 5, 'through again')
  })
  await t.test('a slow rate', async t => {
    const before = await network.traffic('b')
    await network.setRate('b', 80_000)
    t.match(await ask('a', 'b'), { received: 5 })
    const { stdout } = await run('tc', ['-n', network.netns('b'), 'qdisc', 'show', 'dev', 'lan'])
    t.match(stdout, /tbf .* rate 80Kbit/)
    await network.setRate('b', undefined)
    t.ok((await network.traffic('b')).received > before.received, 'bytes are counted')
  })
  await t.test('delay and loss', { skip: slowLinkSkip }, async t => {
    await network.setCable('b', { delayMs: 40, jitterMs: 5 })
    const slow = await ask('a', 'b', 20)
    t.equal(slow.received, 20)
    t.ok((slow.medianMs ?? 0) >= 70, `${slow.medianMs} ms there and back, of 80 ± 10`)
    await network.setCable('b', { delayMs: 0, jitterMs: 0, lossPercent: 50 })
    const lossy = await ask('a', 'b', 100)
    // A quarter arrives; 100 tries stay within these bounds but once in 10^9 runs.
    t.ok(lossy.received > 2 && lossy.received < 56, `${lossy.received} of 100 arrived, of 25`)
    await network.setCable('b', undefined)
    t.match(await ask('a', 'b', 20), { received: 20 })
  })
  await t.test('nothing stays', async t => {
    await clean()
    t.same(remains(prefix), [])
  })
})

t.test('a run that is killed leaves nothing', { skip: siteSkipWithoutNix }, async t => {
  const program = `
    const { guard, nextPrefix } = await import(${JSON.stringify(LEFTOVERS)})
    const { execFileSync, spawn } = await import('node:child_process')
    const prefix = nextPrefix()
    guard(prefix)
    execFileSync('ip', ['netns', 'add', prefix + 'a'])
    spawn('ip', ['netns', 'exec', prefix + 'a', 'sleep', '1000'], { stdio: 'ignore' })
    console.log(prefix)
    setInterval(() => {}, 1000)`
  const child = spawn(
    process.execPath,
    ['--import', REGISTER, '--input-type=module', '-e', program],
    { stdio: ['ignore', 'pipe', 'inherit'], env: plainEnv() },
  )
  t.teardown(() => child.kill('SIGKILL'))
  const [line] = (await once(child.stdout, 'data')) as [Buffer]
  const prefix = String(line).trim()
  t.same(remains(prefix), [prefix + 'a'], 'it has a namespace')
  child.kill('SIGKILL')
  await until('its guard has cleaned up', CLEAN_LIMIT_MS, () => remains(prefix).length === 0)

  // The guard gone too: the next run sweeps.
  const dead = `nwh-${child.pid}-7-`
  spawnSync('ip', ['netns', 'add', `${dead}a`])
  mkdtempSync(join(tmpdir(), dead))
  const living = nextPrefix()
  t.teardown(guard(living))
  spawnSync('ip', ['netns', 'add', `${living}a`])
  await sweep()
  t.same(remains(dead), [], 'a dead run’s')
  t.same(remains(living), [`${living}a`], 'a living run’s stays')
})

/** Node without tap's loader and hooks, for processes that are not under test. */
function plainEnv(): NodeJS.ProcessEnv {
  const { NODE_OPTIONS: _ignored, ...env } = process.env
  return env
}

/** What a prefix still has on this machine. */
function remains(prefix: string): string[] {
  return ['/run/netns', tmpdir()].flatMap(directory =>
    existsSync(directory) ? readdirSync(directory).filter(name => name.startsWith(prefix)) : [],
  )
}

/** An echo in a host, for packets to it and to the group. */
async function serve(t: Test, network: Network, host: string): Promise<void> {
  const child = spawn(
    'ip',
    [
      ...['netns', 'exec', network.netns(host), process.execPath, ECHO],
      ...['serve', GROUP, network.address(host)],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'], env: plainEnv() },
  )
  t.teardown(() => child.kill('SIGKILL'))
  await once(child.stdout, 'data')
}
