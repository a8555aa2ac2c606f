import { createHash } from 'node:crypto'
import { mkdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { addPublications } from '../../../daemon/http/publications.ts'
import { createPublications } from '../../../daemon/publications/publications.ts'
import { formatFlakeNote } from '../../../protocol/flake.ts'
import { formatHash, hashOf, type HashAlgorithm } from '../../../protocol/hash.ts'
import { fetchText } from '../../helpers/daemon.ts'
import { tempDir } from '../../helpers/scope.ts'

const rev = '5f0b1e5f0b1e5f0b1e5f0b1e5f0b1e5f0b1e5f0b'
const nixexprs = Buffer.from('the tree of nixpkgs')

/** A cache with a channel, and a server that publishes it. */
async function serve(t: Test, { openToLan = true } = {}) {
  const dir = tempDir(t, 'publications')
  const channel = join(dir, 'channels/nixos-25.11')
  mkdirSync(channel, { recursive: true })
  writeFileSync(join(channel, 'nixexprs.tar.xz'), nixexprs)
  writeFileSync(join(channel, 'git-revision'), rev)
  writeFileSync(join(channel, 'binary-cache-url'), 'https://cache.example.org')
  const publications = createPublications({ dir })
  const server = Fastify()
  addPublications(server, { publications, openToLan, url: () => 'http://127.0.0.1:1' })
  const url = await server.listen({ host: '127.0.0.1', port: 0 })
  t.teardown(() => server.close())
  const ask = (path: string, options: Parameters<typeof fetchText>[1] = {}) =>
    fetchText(`${url}${path}`, options)
  return { dir, channel, ask, url }
}

t.test('a channel: its address, its files, ranges, conditions', async t => {
  const { ask, url } = await serve(t)
  for (const address of ['/channels/nixos-25.11', '/channels/nixos-25.11/']) {
    const list = await ask(address)
    t.equal(list.status, 200, 'nix-channel asks for the address first')
    t.match(list.body, /nixexprs\.tar\.xz/)
  }
  t.match((await ask('/channels')).body, /nixos-25\.11/)
  const file = '/channels/nixos-25.11/nixexprs.tar.xz'
  const whole = await ask(file)
  t.same([whole.status, whole.body], [200, nixexprs.toString()])
  t.equal(whole.headers['content-type'], 'application/x-xz')
  const head = await ask(file, { method: 'HEAD' })
  t.same([head.status, head.bytes.length], [200, 0])
  t.equal(head.headers['content-length'], String(nixexprs.length))
  const part = await ask(file, { headers: { range: 'bytes=4-7' } })
  t.same([part.status, part.body], [206, 'tree'])
  t.equal(part.headers['content-range'], `bytes 4-7/${nixexprs.length}`)
  t.equal((await ask(file, { headers: { range: 'bytes=99-' } })).status, 416)
  const { etag = '' } = whole.headers
  t.equal((await ask(file, { headers: { 'if-none-match': String(etag) } })).status, 304)
  const stale = await ask(file, { headers: { range: 'bytes=4-7', 'if-range': '"other"' } })
  t.equal(stale.status, 200, 'half of an old file is not completed with half of a new one')
  t.equal(
    (await ask('/channels/nixos-25.11/binary-cache-url')).body,
    url,
    'the cache of this mirror, at the address by which it was reached',
  )
  t.equal(
    (await ask('/channels/nixos-25.11/binary-cache-url', { headers: { host: 'x"><y' } })).body,
    'http://127.0.0.1:1',
    'what is no host name is not sent back',
  )
})

t.test('what is not there, or is not to be seen', async t => {
  const { ask, dir, channel } = await serve(t)
  writeFileSync(join(dir, 'secret'), 'secret')
  symlinkSync('/etc/passwd', join(channel, 'passwd'))
  symlinkSync(join(dir, 'secret'), join(channel, 'beside'))
  mkdirSync(join(channel, 'folder'))
  for (const path of [
    '/channels/none',
    '/channels/none/git-revision',
    '/channels/nixos-25.11/none',
    '/channels/nixos-25.11/passwd',
    '/channels/nixos-25.11/beside',
    '/channels/nixos-25.11/folder',
    '/channels/nixos-25.11/..%2f..%2fsecret',
    '/channels/..%2f/secret',
    '/channels/%00/x',
    '/flakes/none.tar.gz',
    '/flakes/nixos-25.11.tar.gz',
    '/flakes/nixpkgs/none.tar.gz',
    '/flakes/..%2f/x.tar.gz',
    '/tarballs/sha256/none',
    '/tarballs/sha3/none',
    '/tarballs/sha256/',
  ]) {
    t.equal((await ask(path)).status, 404, path)
  }
})

t.test('nixpkgs by the channel, until a flake of its own is there', async t => {
  const { ask, dir, url } = await serve(t)
  const registry = async () =>
    (JSON.parse((await ask('/flakes/registry.json')).body) as { flakes: object[] }).flakes
  t.match(await registry(), [
    { from: { id: 'nixpkgs' }, to: { type: 'tarball', url: `${url}/flakes/nixpkgs.tar.gz` } },
  ])
  const channel = await ask('/flakes/nixpkgs.tar.gz')
  t.equal(channel.body, nixexprs.toString())
  const immutable = /^<(.*)\?rev=([0-9a-f]{40})>; rel="immutable"$/.exec(
    String(channel.headers.link),
  )
  t.equal(immutable?.[2], rev)
  const locked = immutable?.[1]?.slice(url.length) ?? ''
  t.equal((await ask(locked)).body, nixexprs.toString(), 'what a lock file remembers')

  const newer = 'a'.repeat(40)
  mkdirSync(join(dir, 'flakes/nixpkgs'), { recursive: true })
  writeFileSync(join(dir, `flakes/nixpkgs/${newer}.tar.gz`), gzipSync('newer'))
  const note = formatFlakeNote({ id: 'nixpkgs', rev: newer, file: `nixpkgs/${newer}.tar.gz` })
  writeFileSync(join(dir, 'flakes/nixpkgs.json'), note)
  writeFileSync(join(dir, 'flakes/damaged.json'), '{')
  t.equal((await registry()).length, 1)
  t.same((await ask('/flakes/nixpkgs.tar.gz')).bytes, gzipSync('newer'))
  t.equal((await ask(locked)).body, nixexprs.toString(), 'the old one is still where it was')
})

t.test(
  'a hashed mirror: every spelling of every hash, and nothing but the right bytes',
  async t => {
    const { ask, dir } = await serve(t)
    const algorithms: readonly HashAlgorithm[] = ['sha1', 'sha256', 'sha512']
    let asked = 0
    for (const algorithm of algorithms) {
      mkdirSync(join(dir, 'tarballs', algorithm), { recursive: true })
      // Some content whose base64 has both characters that mean something in an address.
      let number = 0
      let bytes = Buffer.from('')
      do bytes = Buffer.from(`source ${number++}`)
      while (!/\+.*\/|\/.*\+/.test(createHash(algorithm).update(bytes).digest('base64')))
      const hash = hashOf(algorithm, bytes)
      const name = formatHash(hash, 'base16', false)
      writeFileSync(join(dir, 'tarballs', algorithm, name), bytes)
      const base64 = formatHash(hash, 'base64', false)
      const spellings = [
        name,
        name.toUpperCase(),
        formatHash(hash, 'nix32', false),
        base64,
        encodeURIComponent(base64),
        formatHash(hash, 'sri'),
        formatHash(hash, 'base16'),
      ]
      for (const spelling of spellings) {
        const { status, body } = await ask(`/tarballs/${algorithm}/${spelling}`)
        t.same([status, body], [200, bytes.toString()], spelling)
        t.equal((await ask(`/tarballs/${algorithm}/${spelling}`, { method: 'HEAD' })).status, 200)
        asked++
      }
      const damaged = join(dir, 'tarballs', algorithm, 'new')
      writeFileSync(damaged, 'something else')
      renameSync(damaged, join(dir, 'tarballs', algorithm, name))
      t.equal((await ask(`/tarballs/${algorithm}/${name}`)).status, 404, 'damaged: not offered')
    }
    t.equal(asked, 21)
  },
)

t.test('nothing leaves where nothing is shared', async t => {
  const { ask } = await serve(t, { openToLan: false })
  const elsewhere = { headers: { 'x-forwarded-for': '10.0.0.9' } }
  t.equal((await ask('/channels/nixos-25.11/git-revision')).status, 200)
  t.equal((await ask('/channels/nixos-25.11/git-revision', elsewhere)).status, 404)
})
