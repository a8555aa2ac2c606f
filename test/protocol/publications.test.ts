import t from 'tap'
import {
  CHANNEL_NAME_MAX_LENGTH,
  isChannelFile,
  isNixpkgsChannel,
  parseChannelName,
  parseGitRevision,
} from '../../protocol/channel.ts'
import {
  FLAKE_NOTE_MAX_BYTES,
  formatFlakeNote,
  formatImmutableLink,
  formatRegistry,
  isFlakeId,
  parseFlakeNote,
  tarballName,
  type PublishedFlake,
} from '../../protocol/flake.ts'

const rev = '5f0b1e5f0b1e5f0b1e5f0b1e5f0b1e5f0b1e5f0b'
const narHash = 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
const whole: PublishedFlake = {
  id: 'nixpkgs',
  rev,
  narHash,
  lastModified: 1_700_000_000,
  file: `nixpkgs/${rev}.tar.xz`,
}

t.test('names of channels', async t => {
  for (const name of ['nixos-25.11', 'home-manager', 'nixpkgs-unstable', 'a+b_c']) {
    t.equal(parseChannelName(name), name)
  }
  const long = 'a'.repeat(CHANNEL_NAME_MAX_LENGTH)
  t.equal(parseChannelName(long), long)
  for (const name of ['', '.', '..', '.versions', 'a/b', 'a b', '-x', 'é', `${long}a`, 'a\n']) {
    t.throws(() => parseChannelName(name), { code: 'CHANNEL_INVALID' }, JSON.stringify(name))
    t.notOk(isChannelFile(name))
  }
  t.ok(isChannelFile('nixexprs.tar.xz'))
  const isNixpkgs = ['nixos-25.11', 'nixpkgs-unstable', 'home-manager', 'nixos'].filter(name =>
    isNixpkgsChannel(parseChannelName(name)),
  )
  t.same(isNixpkgs, ['nixos-25.11', 'nixpkgs-unstable'])
})

t.test('a git revision', async t => {
  t.equal(parseGitRevision(Buffer.from(`${rev}\n`)), rev)
  for (const text of ['', 'cd63096d6d8', `${rev}0`, rev.toUpperCase(), 'x'.repeat(40)]) {
    t.equal(parseGitRevision(Buffer.from(text)), undefined, text)
  }
})

t.test('the note of a flake, there and back', async t => {
  t.same(parseFlakeNote(formatFlakeNote(whole)), whole)
  const least = { id: 'hm', file: 'hm/x.tar.gz' }
  t.same(parseFlakeNote(formatFlakeNote(least)), least)
  const hex = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
  t.equal(
    parseFlakeNote(Buffer.from(JSON.stringify({ ...whole, narHash: `sha256:${hex}` }))).narHash,
    narHash,
    'a hash is kept in one spelling',
  )
  t.equal(tarballName(whole), rev)
  t.throws(() => tarballName({ id: 'x', file: '../x' }), { code: 'FLAKE_INVALID' })
  t.ok(isFlakeId('home-manager'))
  t.notOk(isFlakeId('nixos-25.11'), 'registries know no dots')
})

t.test('notes that are refused', async t => {
  const bad: Readonly<Record<string, unknown>> = {
    'no JSON': '{',
    'no object': '[]x',
    null: 'null',
    'a number': '7',
    'an id with a dot': { ...whole, id: 'nixos-25.11' },
    'an id that is no text': { ...whole, id: 1 },
    'no file': { ...whole, file: undefined },
    'a file of another flake': { ...whole, file: `other/${rev}.tar.xz` },
    'a way up': { ...whole, file: '../nixpkgs/x.tar.xz' },
    'a way up inside': { ...whole, file: 'nixpkgs/../../x.tar.xz' },
    'another kind of file': { ...whole, file: 'nixpkgs/x.zip' },
    'an endless file name': { ...whole, file: `nixpkgs/${'x'.repeat(300)}.tar.xz` },
    'a short revision': { ...whole, rev: '5f0b1e5' },
    'a revision that is no text': { ...whole, rev: 5 },
    'a hash that is none': { ...whole, narHash: 'sha256-x' },
    'a hash that is no text': { ...whole, narHash: 5 },
    'a hash of another kind': { ...whole, narHash: 'md5:d41d8cd98f00b204e9800998ecf8427e' },
    'a time before time': { ...whole, lastModified: -1 },
    'a time that is no number': { ...whole, lastModified: 'now' },
    'too long': ' '.repeat(FLAKE_NOTE_MAX_BYTES + 1),
  }
  for (const [name, value] of Object.entries(bad)) {
    const text = typeof value === 'string' ? value : JSON.stringify(value)
    t.throws(() => parseFlakeNote(Buffer.from(text)), { code: 'FLAKE_INVALID' }, name)
  }
})

t.test('what clients are told', async t => {
  const base = 'http://127.0.0.1:6279'
  t.same(JSON.parse(formatRegistry(['nixpkgs'], base)), {
    version: 2,
    flakes: [
      {
        from: { type: 'indirect', id: 'nixpkgs' },
        to: { type: 'tarball', url: `${base}/flakes/nixpkgs.tar.gz` },
      },
    ],
  })
  t.equal(
    formatImmutableLink(whole, base),
    `<${base}/flakes/nixpkgs/${rev}.tar.gz?rev=${rev}&narHash=sha256-47DEQpj8HBSa%2B%2FTImW%2B5JCeuQeRkm5NMpJWZG3hSuFU%3D>; rel="immutable"`,
  )
  t.match(formatImmutableLink({ ...whole, narHash: undefined }, base), /\?rev=[0-9a-f]+>/)
  t.equal(formatImmutableLink({ id: 'hm', file: 'hm/x.tar.gz' }, base), undefined)
})
