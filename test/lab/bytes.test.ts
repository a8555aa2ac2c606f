import { createHash } from 'node:crypto'
import { get } from 'node:http'
import { mkdirSync, openSync, ftruncateSync, readFileSync, writeSync, closeSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { makeClosure } from '../helpers/closure.ts'
import { encodeNix32 } from '../../protocol/nix32.ts'
import { daemonSkip, fetchText, startDaemon } from '../helpers/daemon.ts'
import { labSkip, makeNixHost, type NixHost } from '../helpers/nix-host.ts'
import { fieldsOf } from './surface.ts'

// NAR bytes over HTTP are those of `nix-store --dump`, for every kind of tree, and for a file beyond 32 bits of size.

const LAB_LIMIT_MS = 300_000

/** Just beyond 4 GiB: sizes and offsets need more than 32 bits, and the padding is not zero. */
const HUGE_BYTES = 2 ** 32 + 4099
/** Where a range begins that only 64 bits can say. */
const RANGE_START = 2 ** 32 + 2000

const hashPartOf = (path: string) => path.slice('/nix/store/'.length, '/nix/store/'.length + 32)

t.setTimeout(LAB_LIMIT_MS)

t.test('every path of a real store', { skip: labSkip || daemonSkip }, async t => {
  const { host, paths, upstreamKey } = await makeClosure(t)
  const daemon = await startDaemon(t, {
    store: { enable: true, root: host.root },
    trust: { publicKeys: [upstreamKey] },
  })
  // Nix hashed every NAR when it registered the path; the special ones are dumped once more, bytes beside bytes.
  const hashes = await host.words('nix-store', '-q', '--hash', ...paths)
  t.equal(hashes.length, paths.length)
  const different: string[] = []
  const nars = new Map<string, Buffer>()
  for (const [index, path] of paths.entries()) {
    const narinfo = fieldsOf((await fetchText(`${daemon.url}/${hashPartOf(path)}.narinfo`)).body)
    const nar = await fetchText(`${daemon.url}/${narinfo.URL}`)
    const sum = `sha256:${encodeNix32(createHash('sha256').update(nar.bytes).digest())}`
    if (sum !== hashes[index]) different.push(path)
    nars.set(path, nar.bytes)
  }
  t.same(different, [], 'every NAR has the hash that Nix registered')
  const special = paths.filter(path =>
    /-(shapes|sorting|flat|recursive|top|text-7|source-3)$/.test(path),
  )
  t.equal(special.length, 7)
  for (const path of special) {
    await host.run('sh', ['-euc', 'nix-store --dump "$1" > /client/dump', 'sh', path])
    const dumped = readFileSync(join(host.dir, 'dump'))
    t.ok(nars.get(path)?.equals(dumped), `${path}: byte for byte what nix-store --dump writes`)
  }
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

  const last = await fetchText(url, { headers: { Range: `bytes=${RANGE_START}-` } })
  t.equal(last.status, 206)
  t.equal(last.bytes.length, narSize - RANGE_START)
  t.match(last.bytes.toString('latin1'), /the very end/, 'a range beyond 4 GiB is the right one')
  t.same(readFileSync(join(host.dir, 'tail')), last.bytes)
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
  const script = `
    chmod 444 $1; touch -d @1 $1; mkfifo /client/fifo
    tail -c $2 < /client/fifo > /client/tail &
    nix-store --dump $1 | tee /client/fifo | sha256sum | cut -c 1-64; wait`
  // "nix-archive-1", "(", "type", "regular", "contents", the contents, ")": each with its length and padding.
  const narSize = 24 + 16 + 16 + 16 + 16 + 8 + Math.ceil(HUGE_BYTES / 8) * 8 + 16
  const tail = String(narSize - RANGE_START)
  const [sum = ''] = await host.words('sh', '-euc', script, 'sh', path, tail)
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
