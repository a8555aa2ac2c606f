import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { differences } from '../helpers/nix-client.ts'
import { run } from '../helpers/run.ts'
import { LIES, type Claim } from './site/lies.ts'
import { makeSite, siteSkip, type Site } from './site/site.ts'
import { NETWORK_PORT, type SiteHost } from './site/site-host.ts'
import { until } from './site/until.ts'
import { knows, meshed, narinfoPath, peerKey, peersUp, record, whoHas } from './site/views.ts'

// Who is no member gets nothing, and who is one no more neither. `a` and `b` are the site, `m` a member until it is revoked,
// `s` a stranger on the same network who knows where the others are and what their keys are.

const NEWS_LIMIT_MS = 60_000
/** A client may wait for a liar that drips or is silent, but not for ever. */
const LIE_LIMIT_MS = 100_000
/** Of the daemon, at its highest: endless streams and false lengths are not collected in memory. */
const MEMORY_LIMIT_MIB = 400
/** A multiple of 8, as the liar's own files have it. */
const LIE_BYTES = 400_000

const REGISTER = fileURLToPath(new URL('site/register-ts.mjs', import.meta.url))
const LIAR = fileURLToPath(new URL('site/liar.ts', import.meta.url))
const LAB_LIMIT_MS = 480_000

t.setTimeout(LAB_LIMIT_MS)
t.test('strangers and former members', { skip: siteSkip }, async t => {
  const site = await makeSite(t, { hosts: ['a', 'b', 'm', 's'] })
  const [a, b, m, s] = [site.host('a'), site.host('b'), site.host('m'), site.host('s')]
  await site.start()
  await site.unite('a', 'b', 'm')
  const path = await a.build('ours', 'of the site alone\n')
  for (const host of [b, m]) {
    await until(`${host.name} knows`, NEWS_LIMIT_MS, () => knows(host, path, a))
  }

  await t.test('a stranger gets nothing', t => stranger(t, site, path))
  await t.test('bytes that are no handshake get no answer', t => noHandshake(t, site))
  await t.test('a member that lies harms nobody', t => liar(t, site))
  await t.test('who is revoked is cut off at once', t => revoked(t, a, b, m))
  await t.test('the stranger got nothing all the while', async t => {
    t.same(await peersUp(s), [])
    t.equal(await whoHas(s, path), undefined)
  })
})

/**
 * It has a site of its own, and the addresses and keys of all the others. An honest member that comes back meanwhile shows that
 * there was time enough to get in.
 */
async function stranger(t: Test, site: Site, path: string): Promise<void> {
  const [a, b, s] = [site.host('a'), site.host('b'), site.host('s')]
  const peers: string[] = []
  for (const host of [a, b]) {
    peers.push(`${host.address}:${NETWORK_PORT}#${await peerKey(host)}`)
  }
  await s.narwharf(['site', 'init', 'elsewhere'])
  await s.restart({ network: { peers } })
  await b.restart()
  await until('b is back', NEWS_LIMIT_MS, () => meshed([a, b]))
  t.same(await peersUp(s), [], 'nobody talks to it')
  t.equal(await whoHas(s, path), undefined, 'it learns of no path')
  t.equal((await s.get(narinfoPath(path))).status, 404, 'it is offered nothing')
  for (const host of [a, b]) {
    const names = (await peersUp(host)).join()
    t.notMatch(names, /\bs\b/, `${host.name} has no connection with it`)
    t.notMatch(
      (await host.narwharf(['members'])).stdout,
      /^s\b/m,
      'and does not take it for a member',
    )
  }
  const refused = await s.narwharf(['join', 'AAAA-BBBB-CCCC-DDDD'], { accept: 'any' })
  t.not(refused.status, 0, 'a made-up code opens nothing')
}

/** Bytes by hand at the port of bulk data: nothing comes back that was not asked for by a handshake. */
async function noHandshake(t: Test, site: Site): Promise<void> {
  const a = site.host('a')
  const talk = `
    const socket = require('node:net').connect(${NETWORK_PORT}, '${a.address}')
    let bytes = 0
    socket.on('data', chunk => (bytes += chunk.length))
    socket.on('error', () => {})
    socket.on('close', () => console.log(bytes))
    socket.write('GET /nix-cache-info HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n'.repeat(100))`
  const { stdout } = await run('ip', [
    ...['netns', 'exec', site.network.netns('s'), process.execPath, '-e', talk],
  ])
  t.equal(stdout.trim(), '0', 'not a byte, and the connection is closed')
}

async function revoked(t: Test, a: SiteHost, b: SiteHost, m: SiteHost): Promise<void> {
  await until('m is connected', NEWS_LIMIT_MS, () => meshed([a, b, m]))
  const start = performance.now()
  await a.narwharf(['revoke', 'm'])
  await until('m has no peer', NEWS_LIMIT_MS, async () => (await peersUp(m)).length === 0)
  record(t, 'revoked: cut off by all', performance.now() - start)
  const path = await a.build('later', 'after the revocation\n')
  await until('b knows', NEWS_LIMIT_MS, () => knows(b, path, a))
  t.notOk(await knows(m, path, a), 'it learns no news')
  t.equal((await m.get(narinfoPath(path))).status, 404)
  for (const host of [a, b]) {
    t.notMatch((await peersUp(host)).join(), /\bm\b/, `${host.name} has no connection with it`)
  }
  await m.restart()
  await b.restart()
  await until('b is back', NEWS_LIMIT_MS, () => meshed([a, b]))
  t.same(await peersUp(m), [], 'a restart brings it no connection')
}

/** m turns liar: it says it has what only a has. b is the client, first with the liar alone, then with a too. */
async function liar(t: Test, site: Site): Promise<void> {
  const [a, b, m] = [site.host('a'), site.host('b'), site.host('m')]
  const claims: Claim[] = []
  for (const lie of LIES) {
    const storePath = await a.build(`lie-${lie}`, LIE_BYTES)
    const [narHash = ''] = await a.nix.words('nix-store', '-q', '--hash', storePath)
    const [narSize] = await a.nix.words('nix-store', '-q', '--size', storePath)
    claims.push({ storePath, narHash, narSize: Number(narSize) })
  }
  for (const { storePath } of claims) {
    await until('b knows what is true', NEWS_LIMIT_MS, () => knows(b, storePath, a))
  }
  await m.stop()
  const state = join(m.nix.dir, 'state')
  cpSync(state, `${state}.honest`, { recursive: true, preserveTimestamps: true })
  const { end, signal } = await startLiar(t, site, m, claims)
  try {
    await besideLiar(t, site, claims)
    await hugeBlocks(t, b, signal)
  } finally {
    await end()
    // It repents: what it told is not in its own files.
    rmSync(state, { recursive: true })
    renameSync(`${state}.honest`, state)
    await site.start('a', 'm')
  }
}

/** The liar's log grows by blocks that no host may have: it is not taken in, and its host is named. */
async function hugeBlocks(t: Test, b: SiteHost, signal: (name: NodeJS.Signals) => void) {
  signal('SIGUSR2')
  await until('b names the liar', NEWS_LIMIT_MS, async () => {
    const { peers } = await b.api<{ peers: { name: string; problem?: string }[] }>('peers')
    return /a block of \d{8} bytes/.test(peers.find(({ name }) => name === 'm')?.problem ?? '')
  })
  const peak = memoryPeak(b)
  record(t, 'a log of huge blocks: memory of the other’s daemon at its highest', peak, 'MiB')
  t.ok(peak < MEMORY_LIMIT_MIB, 'huge blocks are not collected in memory')
  t.equal((await b.get('/nix-cache-info')).status, 200)
}

/** MiB that a daemon took at most. */
const memoryPeak = ({ pid }: SiteHost): number =>
  Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024

/** What b gets of paths that a liar says it has. */
async function besideLiar(t: Test, site: Site, claims: readonly Claim[]): Promise<void> {
  const [a, b, m] = [site.host('a'), site.host('b'), site.host('m')]
  for (const { storePath } of claims) {
    await until('b knows what m says', NEWS_LIMIT_MS, () => knows(b, storePath, m))
  }

  await a.stop()
  await until('b has the liar alone', NEWS_LIMIT_MS, async () => (await peersUp(b)).join() === 'm')
  await Promise.all(
    claims.map(async ({ storePath }, index) => {
      const start = performance.now()
      const lie = LIES[index] ?? ''
      const options = { accept: 'any', timeoutMs: LIE_LIMIT_MS } as const
      const { status } = await b.realise([storePath], options)
      record(t, `a liar alone (${lie}): given up`, performance.now() - start)
      t.not(status, 0, `${lie}: no wrong bytes`)
    }),
  )

  await a.start()
  await until('a is back', NEWS_LIMIT_MS, async () => (await peersUp(b)).includes('a'))
  const again = performance.now()
  for (const [index, { storePath }] of claims.entries()) {
    const contradicts = LIES[index] === 'hash'
    const options = { accept: 'any', timeoutMs: LIE_LIMIT_MS } as const
    const { status } = await b.realise([storePath], options)
    if (contradicts) {
      t.not(status, 0, 'one word against another: neither counts')
      const why = await b.narwharf(['why-not', storePath], { accept: 'any' })
      t.match(why.stdout, /disagree/, 'and why-not says so')
    } else {
      t.equal(status, 0, `${storePath} comes from a`)
      t.same(await differences(a.nix, b.nix, [storePath]), [], `${storePath} as a has it`)
    }
  }
  record(t, 'a liar and an honest holder: the other five installed', performance.now() - again)
  const { peers } = await b.api<{ peers: { name: string; problem?: string }[] }>('peers')
  t.match(peers.find(({ name }) => name === 'm')?.problem, /./, 'the liar is named')
  const peak = memoryPeak(b)
  record(t, 'memory of the client’s daemon at its highest', peak, 'MiB')
  t.ok(peak < MEMORY_LIMIT_MIB, 'memory stays bounded')
}

/** Starts the liar in the place of a host's daemon. */
async function startLiar(t: Test, site: Site, host: SiteHost, claims: readonly Claim[]) {
  const file = join(host.nix.dir, 'claims.json')
  writeFileSync(file, JSON.stringify(claims))
  const child = spawn(
    'ip',
    [
      ...['netns', 'exec', site.network.netns(host.name), process.execPath, '--import', REGISTER],
      ...[LIAR, join(host.nix.dir, 'state'), String(NETWORK_PORT), file],
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  )
  const ended = once(child, 'close')
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => (output += text))
  }
  t.teardown(() => child.kill('SIGKILL'))
  await until('the liar is ready', NEWS_LIMIT_MS, () => {
    if (child.exitCode !== null) throw new Error(output)
    return output.includes('lying')
  })
  return {
    signal: (name: NodeJS.Signals) => void child.kill(name),
    async end() {
      child.kill('SIGKILL')
      await ended
    },
  }
}
