import { spawnSync } from 'node:child_process'
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { makeBinaryCache } from '../helpers/binary-cache.ts'
import type { LabClosure } from '../helpers/closure.ts'
import { fetchText, startDaemon } from '../helpers/daemon.ts'
import { useSubstituters } from '../helpers/nix-client.ts'
import { makeNixHost } from '../helpers/nix-host.ts'
import { GOOD_STATUSES, startProxy } from '../helpers/proxy.ts'
import { removeTree } from '../helpers/scope.ts'
import { fieldsOf } from './surface.ts'

// A cache directory is somebody else's: its files are changed, cut, swapped and deleted behind the daemon's back.

/** The two files that a path of a cache directory consists of. */
interface Target {
  readonly narinfo: string
  readonly nar: string
  /** Another path's NAR file. */
  readonly otherNar: string
}

type Damage = (target: Target) => void

const edit = (file: string, change: (text: string) => string) =>
  writeFileSync(file, change(readFileSync(file, 'latin1')), 'latin1')

const flipInTheMiddle = (file: string) => {
  const bytes = readFileSync(file)
  const middle = bytes.length >> 1
  bytes[middle] = (bytes[middle] ?? 0) ^ 0x40
  writeFileSync(file, bytes)
}

const replaceBy = (file: string, make: (file: string) => void) => {
  rmSync(file)
  make(file)
}

const fifo = (file: string) => void spawnSync('mkfifo', [file])
const setField =
  (name: string, value: string): Damage =>
  ({ narinfo }) =>
    edit(narinfo, text => text.replace(new RegExp(`^${name}: .*$`, 'm'), `${name}: ${value}`))

/** What can be wrong with either file. A sound copy is put back after each. */
const DAMAGES: Readonly<Record<string, Damage>> = {
  'a flipped bit in the NAR': ({ nar }) => flipInTheMiddle(nar),
  'a NAR cut in half': ({ nar }) => edit(nar, text => text.slice(0, text.length >> 1)),
  'an empty NAR': ({ nar }) => writeFileSync(nar, ''),
  'bytes behind the NAR': ({ nar }) => edit(nar, text => `${text}more`),
  'a missing NAR': ({ nar }) => rmSync(nar),
  'the NAR of another path': ({ nar, otherNar }) => cpSync(otherNar, nar),
  'a folder for a NAR': ({ nar }) => replaceBy(nar, file => mkdirSync(file)),
  'a pipe for a NAR': ({ nar }) => replaceBy(nar, fifo),
  'a link to an endless device for a NAR': ({ nar }) =>
    replaceBy(nar, file => symlinkSync('/dev/zero', file)),
  'an empty narinfo': ({ narinfo }) => writeFileSync(narinfo, ''),
  'a narinfo cut in half': ({ narinfo }) => edit(narinfo, text => text.slice(0, text.length >> 1)),
  'a narinfo of noise': ({ narinfo }) =>
    writeFileSync(narinfo, Buffer.from(Array.from({ length: 999 }, (_, i) => (i * 31) & 0xff))),
  'a narinfo that is a web page': ({ narinfo }) =>
    writeFileSync(narinfo, '<html><body>please log in</body></html>\n'),
  'a huge narinfo': ({ narinfo }) => writeFileSync(narinfo, 'References: '.padEnd(30_000_000, 'x')),
  'a pipe for a narinfo': ({ narinfo }) => replaceBy(narinfo, fifo),
  'a folder for a narinfo': ({ narinfo }) => replaceBy(narinfo, file => mkdirSync(file)),
  'no signature': ({ narinfo }) => edit(narinfo, text => text.replace(/^Sig: .*\n/gm, '')),
  'a signature by an unknown key': setField('Sig', `stranger-1:${'A'.repeat(86)}==`),
  'a forged signature': ({ narinfo }) =>
    edit(narinfo, text => text.replace(/^(Sig: [^:]+:).*$/gm, `$1${'A'.repeat(86)}==`)),
  'a malformed signature': setField('Sig', 'no colon at all'),
  'a reference taken away': setField('References', ''),
  'another NAR hash': setField('NarHash', `sha256:${'0'.repeat(52)}`),
  'another NAR size': setField('NarSize', '1234'),
  'a NAR size beyond all bounds': setField('NarSize', '99999999999999999999'),
  'another store path': setField('StorePath', `/nix/store/${'0'.repeat(32)}-other`),
  'a store path elsewhere': ({ narinfo }) =>
    edit(narinfo, text => text.replace('/nix/store/', '/gnu/store/')),
  'a URL out of the directory': setField('URL', 'nar/../../../../../etc/passwd'),
  'a URL to a file': setField('URL', 'file:///etc/passwd'),
  'an unknown compression': setField('Compression', 'rot13'),
  'the wrong compression': ({ narinfo }) =>
    edit(narinfo, text =>
      text.replace(
        /^Compression: (.*)$/m,
        (_, name) => `Compression: ${name === 'xz' ? 'bzip2' : 'xz'}`,
      ),
    ),
}

/**
 * Told by the narinfo, which is given before the NAR was ever read: the first client is refused the NAR, and only then does
 * the daemon know which holder is right.
 */
const KNOWN_ONLY_AFTERWARDS: ReadonlySet<string> = new Set(['the wrong compression'])

const hashPartOf = (path: string) => path.slice('/nix/store/'.length, '/nix/store/'.length + 32)

/** What a client gets for a path: the unpacked NAR, or nothing. */
interface Answer {
  readonly statuses: readonly number[]
  readonly nar?: Buffer
}

async function ask(url: string, path: string): Promise<Answer> {
  const narinfo = await fetchText(`${url}/${hashPartOf(path)}.narinfo`)
  if (narinfo.status !== 200) return { statuses: [narinfo.status] }
  const { URL: narUrl, Compression: compression = 'bzip2' } = fieldsOf(narinfo.body)
  const reply = await fetchText(`${url}/${narUrl}`)
  const statuses = [narinfo.status, reply.status]
  return reply.status === 200 ? { statuses, nar: unpack(reply.bytes, compression) } : { statuses }
}

/** Unpacks as the client does who believes the narinfo; what does not unpack is no NAR. */
function unpack(bytes: Buffer, compression: string): Buffer {
  if (compression === 'none') return bytes
  const command = compression === 'gzip' ? 'gzip' : compression
  return spawnSync(command, ['-dc'], { input: bytes, maxBuffer: 1 << 26 }).stdout
}

/** Every kind of damage, in directories of three compressions: refused where alone, served from a sound holder where there is one. */
export async function checkDamage(t: Test, closure: LabClosure): Promise<void> {
  const { host, shapes, sorted } = closureParts(closure)
  for (const compression of ['none', 'xz', 'zstd'] as const) {
    await t.test(compression, async t => {
      const cache = await makeBinaryCache(host, [shapes, sorted], { compression })
      const damaged = join(host.dir, `damaged-${compression}`)
      cpSync(cache.dir, damaged, { recursive: true })
      t.teardown(() => removeTree(damaged))
      const trust = { publicKeys: [cache.publicKey] }
      const alone = await startDaemon(t, { cache: { dir: damaged }, trust })
      const backed = await startDaemon(t, {
        cache: { dir: damaged, extraDirs: [cache.dir] },
        trust,
      })
      const { stdout: sum } = await host.run('sh', [
        '-euc',
        'nix-store --dump "$1" > /client/nar',
        'sh',
        shapes,
      ])
      t.equal(sum, '')
      const right = readFileSync(join(host.dir, 'nar'))
      const target = findTarget(damaged, shapes, sorted)
      const isRight = ({ nar }: Answer) => nar?.equals(right) === true
      const isNothing = ({ nar }: Answer) => nar === undefined

      t.ok(isRight(await ask(alone.url, shapes)), 'sound, it is served')
      for (const [name, damage] of Object.entries(DAMAGES)) {
        damage(target)
        const refused = await ask(alone.url, shapes)
        t.ok(isNothing(refused) || isRight(refused), `${name}: nothing wrong is sent`)
        t.ok(
          refused.statuses.every(status => GOOD_STATUSES.includes(status)),
          `${name}: ${refused.statuses.join(', ')}`,
        )
        const first = await ask(backed.url, shapes)
        const late = KNOWN_ONLY_AFTERWARDS.has(name) && isNothing(first)
        const other = late ? await ask(backed.url, shapes) : first
        t.ok(isRight(other), `${name}: the sound holder serves`)
        restore(cache.dir, damaged)
        t.ok(isRight(await ask(alone.url, shapes)), `${name}: mended, it is served again`)
      }

      flipInTheMiddle(target.nar)
      const proxy = await startProxy(t, alone.url)
      const client = makeNixHost(t, { extra: cache.dir })
      useSubstituters(
        client,
        [proxy.url, 'file:///extra?priority=90'],
        [alone.publicKey, cache.publicKey],
      )
      await client.run('nix-store', ['-r', shapes])
      t.equal(
        (await client.run('nix-store', ['--verify-path', shapes], { accept: 'any' })).status,
        0,
        'Nix got it elsewhere',
      )
      t.equal(alone.log().includes('unhandled'), false)
    })
  }
}

function closureParts({ host, shapes, paths }: LabClosure) {
  const sorted = paths.find(path => path.endsWith('-sorting')) ?? ''
  return { host, shapes, sorted }
}

function findTarget(dir: string, path: string, other: string): Target {
  const narinfo = join(dir, `${hashPartOf(path)}.narinfo`)
  const urlOf = (file: string) => fieldsOf(readFileSync(file, 'utf8')).URL ?? ''
  return {
    narinfo,
    nar: join(dir, urlOf(narinfo)),
    otherNar: join(dir, urlOf(join(dir, `${hashPartOf(other)}.narinfo`))),
  }
}

/** Puts sound files back, as somebody would who copies them again. */
function restore(from: string, to: string): void {
  for (const name of readdirSync(to)) rmSync(join(to, name), { recursive: true })
  cpSync(from, to, { recursive: true })
}
