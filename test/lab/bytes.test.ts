import { createHash } from 'node:crypto'
import { get } from 'node:http'
import { mkdirSync, openSync, ftruncateSync, readFileSync, writeSync, closeSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { makeClosure } from '../helpers/closure.ts'
import { daemonSkip, fetchText, startDaemon } from '../helpers/daemon.ts'
import { labSkip, makeNixHost, type NixHost } from '../helpers/nix-host.ts'
import { fieldsOf } from './surface.ts'

// NAR bytes over HTTP are those of `nix-store --dump`, for every kind of tree, and for a file beyond 32 bits of size.

const LAB_LIMIT_MS = 300_000

/** Just beyond 4 GiB: sizes and offsets need more than 32 bits, and the padding is not zero. */
const HUGE_BYTES = 2 ** 32 + 4099

const hashPartOf = (path: string) => path.slice('/nix/store/'.length, '/nix/store/'.length + 32)

t.setTimeout(LAB_LIMIT_MS)

t.test('every path of a real store', { skip: labSkip || daemonSkip }, async t => {
  const { host, paths, upstreamKey } = await makeClosure(t)
  const daemon = await startDaemon(t, {
    store: { enable: true, root: host.root },
    trust: { publicKeys: [upstreamKey] },
  })
  const script = 'for path; do nix-store --dump $path | sha256sum | cut -c 1-64; done'
  const sums = await host.words('sh', '-euc', script, 'sh', ...paths)
  t.equal(sums.length, paths.length)
  const different: string[] = []
  for (const [index, path] of paths.entries()) {
    const narinfo = fieldsOf((await fetchText(`${daemon.url}/${hashPartOf(path)}.narinfo`)).body)
    const nar = await fetchText(`${daemon.url}/${narinfo.URL}`)
    const sum = createHash('sha256').update(nar.bytes).digest('hex')
    if (sum !== sums[index] || nar.bytes.length !== Number(narinfo.NarSize)) different.push(path)
  }
  t.same(different, [], 'byte for byte what nix-store --dump writes')
})

t.test('a file over 4 GiB', { skip: labSkip || daemonSkip }, async t => {
  const host = makeNixHost(t)
  const { path, sum, narSize } = await registerHugeFile(host)
  const daemon = await startDaemon(t, {
    store: { enable: true, root: host.root },
    trust: { store: 'all' },
  })
  const narinfo = fieldsOf((await fetchText(`${daemon.url}/${hashPartOf(path)}.narinfo`)).body)
  t.equal(Number(narinfo.NarSize), narSize)
  const url = `${daemon.url}/${narinfo.URL}`
  const whole = await digest(url)
  t.same(whole, { status: 200, bytes: narSize, sum }, 'the whole NAR is right')

  const last = await fetchText(url, { headers: { Range: `bytes=${2 ** 32 + 2000}-` } })
  t.equal(last.status, 206)
  t.equal(last.bytes.length, narSize - 2 ** 32 - 2000)
  t.match(last.bytes.toString('latin1'), /the very end/, 'a range beyond 4 GiB is the right one')
  t.same(await tail(host, path, last.bytes.length), last.bytes)
})

/**
 * Puts a sparse file at the place of a store path and registers it, so that 4 GiB cost neither disk nor minutes: nix-store --dump
 * says its hash.
 */
async function registerHugeFile(host: NixHost) {
  const path = `/nix/store/${'h'.repeat(32)}-huge`
  const file = host.physical(path)
  await host.run('nix-store', ['--init'])
  mkdirSync(dirname(file), { recursive: true })
  const descriptor = openSync(file, 'w')
  ftruncateSync(descriptor, HUGE_BYTES)
  for (const offset of [0, 2 ** 31, 2 ** 32 - 3]) writeSync(descriptor, `at ${offset}`, offset)
  writeSync(descriptor, 'the very end', HUGE_BYTES - 12)
  closeSync(descriptor)
  const script = 'chmod 444 $1; touch -d @1 $1; nix-store --dump $1 | sha256sum | cut -c 1-64'
  const [sum = ''] = await host.words('sh', '-euc', script, 'sh', path)
  // "nix-archive-1", "(", "type", "regular", "contents", the contents, ")": each with its length and padding.
  const narSize = 24 + 16 + 16 + 16 + 16 + 8 + Math.ceil(HUGE_BYTES / 8) * 8 + 16
  await host.run('nix-store', ['--register-validity', '--hash-given'], {
    input: `${path}\n${sum}\n${narSize}\n\n0\n`,
  })
  return { path, sum, narSize }
}

/** Reads a reply without keeping it. */
function digest(url: string): Promise<{ status: number; bytes: number; sum: string }> {
  return new Promise((resolve, reject) => {
    get(url, { agent: false }, response => {
      const hash = createHash('sha256')
      let bytes = 0
      response.on('data', (chunk: Buffer) => {
        hash.update(chunk)
        bytes += chunk.length
      })
      response.on('error', reject)
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, bytes, sum: hash.digest('hex') }),
      )
    }).on('error', reject)
  })
}

/** The last bytes of what `nix-store --dump` writes. */
async function tail(host: NixHost, path: string, bytes: number): Promise<Buffer> {
  await host.run('sh', [
    '-euc',
    'nix-store --dump "$1" | tail -c "$2" > /client/tail',
    'sh',
    path,
    String(bytes),
  ])
  return readFileSync(join(host.dir, 'tail'))
}
