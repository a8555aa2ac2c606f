import t, { type Test } from 'tap'
import { createCatalog, type Catalog } from '../../../daemon/catalog/catalog.ts'
import type { Holding, HolderKind } from '../../../daemon/holders/holder.ts'
import { matchGlob } from '../../../daemon/trust/glob.ts'
import { createTrust, type TrustOptions } from '../../../daemon/trust/trust-room.ts'
import type { Decision } from '../../../daemon/trust/trust.ts'
import { formatContentAddress } from '../../../protocol/content-address.ts'
import type { ContentAddress } from '../../../protocol/content-address.ts'
import { formatHash, hashOf, type HashAlgorithm } from '../../../protocol/hash.ts'
import type { PathInfo } from '../../../protocol/path-info.ts'
import { formatPublicKey, generateKeyPair, publicKeyOf, sign } from '../../../protocol/signature.ts'
import {
  baseNameOf,
  computeFixedOutputPath,
  computeTextPath,
  hashPartOf,
  type BaseName,
  type StorePath,
} from '../../../protocol/store-path.ts'
import { join } from 'node:path'
import { fakeHolder, fakePath, type FakeHolder } from '../../helpers/fake-holder.ts'
import { tempDir } from '../../helpers/scope.ts'

const trusted = generateKeyPair('cache.example.org-1')
const stranger = generateKeyPair('stranger-1')
const publicKeys = [formatPublicKey(publicKeyOf(trusted))]

const narString = (text: string | Buffer): Buffer => {
  const bytes = Buffer.from(text)
  const out = Buffer.alloc(8 + Math.ceil(bytes.length / 8) * 8)
  out.writeUInt32LE(bytes.length)
  bytes.copy(out, 8)
  return out
}
const narOf = (...strings: (string | Buffer)[]) => Buffer.concat(strings.map(narString))
const fileNar = (content: string | Buffer) =>
  narOf('nix-archive-1', '(', 'type', 'regular', 'contents', content, ')')
const programNar = (content: string) =>
  narOf('nix-archive-1', '(', 'type', 'regular', 'executable', '', 'contents', content, ')')
const emptyDirNar = narOf('nix-archive-1', '(', 'type', 'directory', ')')

const infoOf = (storePath: StorePath, nar: Buffer, more: Partial<PathInfo> = {}): PathInfo => ({
  storePath,
  narHash: hashOf('sha256', nar),
  narSize: nar.length,
  references: [],
  signatures: [],
  ...more,
})

/** A fixed output of that content and how its address reads. */
function fixed(name: string, method: 'flat' | 'recursive', algorithm: HashAlgorithm, data: Buffer) {
  const hash = hashOf(algorithm, data)
  const path = computeFixedOutputPath({ name, method, hash })
  const ca: ContentAddress = { kind: 'fixed', method, hash }
  return { path, hash, ca: formatContentAddress(ca) }
}

interface Parts {
  readonly stateDir?: string
  readonly catalog?: Catalog
  readonly options?: Partial<TrustOptions>
  readonly kind?: HolderKind
}

/** A holder that can say "built here" and read single files, and trust over a real catalog. */
async function rig(t: Test, { stateDir = tempDir(t, 'trust'), options, kind }: Parts = {}) {
  const catalog = createCatalog({ file: join(stateDir, 'catalog.sqlite'), writerThread: false })
  await catalog.open()
  const trust = createTrust({
    secretKeyFile: join(stateDir, 'signing-key.secret'),
    hostName: 'lab-3',
    publicKeys,
    deny: ['*-secrets-*'],
    store: 'ultimate',
    storeDir: '/nix/store',
    catalog,
    ...options,
  })
  await trust.open()
  const holder = fakeHolder(`${kind ?? 'cache-dir'}:/x`, kind)
  holder.readFile = async ({ info }: Holding, inside, limit) => {
    const nar = holder.content.get(hashPartOf(info.storePath))?.nar ?? Buffer.alloc(0)
    const size = Number(nar.readBigUInt64LE(88))
    return inside !== '' || size > limit ? undefined : nar.subarray(96, 96 + size)
  }
  const close = async () => {
    await trust.close()
    await catalog.close()
  }
  t.teardown(close)
  const decide = (info: PathInfo, builtHere = false) => {
    const holding = holder.find(hashPartOf(info.storePath)) as Holding
    return trust.decide(holder, { ...holding, builtHere })
  }
  return { stateDir, catalog, trust, holder, close, decide }
}

interface Case {
  readonly info: PathInfo
  readonly nar: Buffer
  readonly kind?: HolderKind
  readonly builtHere?: boolean
  readonly options?: Partial<TrustOptions>
  readonly others?: readonly { readonly info: PathInfo; readonly nar: Buffer }[]
  /** Answered without waiting. */
  readonly atOnce?: boolean
  readonly expect: Partial<Decision> & { readonly key?: string; readonly untrustedKeys?: string[] }
}

const input = (name: string, nar = emptyDirNar, more: Partial<PathInfo> = {}): PathInfo => ({
  ...fakePath(name, nar),
  ...more,
})
const signed = (info: PathInfo, ...keys: (typeof trusted)[]): PathInfo => ({
  ...info,
  signatures: [...info.signatures, ...keys.map(key => sign(info, key))],
})
const refused = (reason: 'no-trusted-signature' | 'denied' | 'ca-mismatch', ...keys: string[]) =>
  ({ offered: false, reason, untrustedKeys: keys }) as const

const text = Buffer.from('a text\n')
const textNar = fileNar(text)
const other = fileNar('another content\n')
const reference = 'a'.repeat(32) + '-lib'
const references = [reference as BaseName]

const flat256 = fixed('source.tar.gz', 'flat', 'sha256', text)
const flat512 = fixed('source.tar.xz', 'flat', 'sha512', text)
const flat1 = fixed('old.tar.gz', 'flat', 'sha1', text)
const tree1 = fixed('texlive-pkg', 'recursive', 'sha1', emptyDirNar)
const source = fixed('source', 'recursive', 'sha256', emptyDirNar)
const md5Path = fixed('ancient.tar.gz', 'flat', 'md5', text)
const toFile = computeTextPath({ name: 'builder.sh', hash: hashOf('sha256', text), references })

const fodText = (name: string, { path, hash }: ReturnType<typeof fixed>, method: string) =>
  Buffer.from(
    `Derive([("out","${path}","${method}${hash.algorithm}","${formatHash(hash, 'base16', false)}")],[],[],` +
      `"x86_64-linux","/bin/sh",[],[("name","${name}"),("out","${path}")])`,
  )
function derivation(name: string, content: Buffer) {
  const hash = hashOf('sha256', content)
  const storePath = computeTextPath({ name: `${name}.drv`, hash, references: [] })
  const nar = fileNar(content)
  return { info: infoOf(storePath, nar), nar }
}
const treeDrv = derivation('texlive-pkg', fodText('texlive-pkg', tree1, 'r:'))
const inputDrv = derivation(
  'app',
  Buffer.from(
    `Derive([("out","${input('app').storePath}","","")],[],[],"x86_64-linux","/bin/sh",[],[("out","${input('app').storePath}")])`,
  ),
)

const CASES: Readonly<Record<string, Case>> = {
  'a trusted signature': {
    info: signed(input('a'), trusted),
    nar: emptyDirNar,
    atOnce: true,
    expect: { offered: true, reason: 'signed', key: trusted.name, public: true },
  },
  'a trusted signature among strange and broken ones: only what verified goes out': {
    info: signed(input('a', emptyDirNar, { signatures: ['broken', 'x:AAAA'] }), stranger, trusted),
    nar: emptyDirNar,
    atOnce: true,
    expect: { offered: true, reason: 'signed', key: trusted.name },
  },
  'no signature': {
    info: input('a'),
    nar: emptyDirNar,
    expect: refused('no-trusted-signature'),
  },
  'only a stranger': {
    info: signed(input('a'), stranger),
    nar: emptyDirNar,
    expect: refused('no-trusted-signature', stranger.name),
  },
  'a trusted signature of another path': {
    info: { ...input('a'), signatures: [sign(input('b'), trusted)] },
    nar: emptyDirNar,
    expect: refused('no-trusted-signature', trusted.name),
  },
  'a trusted name with another key': {
    info: signed(input('a'), generateKeyPair(trusted.name)),
    nar: emptyDirNar,
    expect: refused('no-trusted-signature', trusted.name),
  },
  'a hundred forged signatures before the true one: it is not searched for without end': {
    info: signed(
      {
        ...input('a'),
        signatures: Array.from({ length: 99 }, (_, n) => sign(input(`b${n}`), trusted)),
      },
      trusted,
    ),
    nar: emptyDirNar,
    expect: refused('no-trusted-signature', trusted.name),
  },
  'denied by name, whatever it is signed with': {
    info: signed(input('lab-secrets-1'), trusted),
    nar: emptyDirNar,
    atOnce: true,
    expect: refused('denied'),
  },
  'denied by a pattern over the bare name': {
    info: signed(input('secret'), trusted),
    nar: emptyDirNar,
    options: { deny: ['secret'] },
    atOnce: true,
    expect: refused('denied'),
  },
  'built here': {
    info: input('a'),
    nar: emptyDirNar,
    builtHere: true,
    atOnce: true,
    expect: { offered: true, reason: 'built-here', public: false },
  },
  'the whole store vouched for': {
    info: input('a'),
    nar: emptyDirNar,
    kind: 'nix-store',
    options: { store: 'all' },
    expect: { offered: true, reason: 'vouched', public: false },
  },
  'vouching for the store does not vouch for a cache directory': {
    info: input('a'),
    nar: emptyDirNar,
    options: { store: 'all' },
    expect: refused('no-trusted-signature'),
  },
  'a NAR hash that is not sha256': {
    info: { ...input('a'), narHash: hashOf('sha512', emptyDirNar) },
    nar: emptyDirNar,
    builtHere: true,
    atOnce: true,
    expect: refused('no-trusted-signature'),
  },
  'a source, address missing': {
    info: infoOf(source.path, emptyDirNar),
    nar: emptyDirNar,
    atOnce: true,
    expect: { offered: true, reason: 'content-addressed', public: true, ca: source.ca },
  },
  'a peer says it built it, and members are trusted': {
    info: signed(input('a'), stranger),
    nar: emptyDirNar,
    kind: 'peer',
    builtHere: true,
    options: { members: true },
    atOnce: true,
    expect: { offered: true, reason: 'member', public: false },
  },
  'a peer says it built it, and members are not trusted': {
    info: signed(input('a'), stranger),
    nar: emptyDirNar,
    kind: 'peer',
    builtHere: true,
    atOnce: true,
    expect: refused('no-trusted-signature', stranger.name),
  },
  'a peer that vouches for nothing': {
    info: input('a'),
    nar: emptyDirNar,
    kind: 'peer',
    options: { members: true, store: 'all' },
    atOnce: true,
    expect: refused('no-trusted-signature'),
  },
  'what a peer has is proven as anywhere, without a question over the network': {
    info: signed(input('a'), trusted),
    nar: emptyDirNar,
    kind: 'peer',
    builtHere: true,
    options: { members: true },
    atOnce: true,
    expect: { offered: true, reason: 'signed', key: trusted.name, public: true },
  },
  'a member’s word does not stand against share.deny': {
    info: input('the-secrets-file'),
    nar: emptyDirNar,
    kind: 'peer',
    builtHere: true,
    options: { members: true },
    expect: refused('denied'),
  },
  'a source built here is public all the same': {
    info: infoOf(source.path, emptyDirNar),
    nar: emptyDirNar,
    builtHere: true,
    atOnce: true,
    expect: { offered: true, reason: 'content-addressed', public: true, ca: source.ca },
  },
  'a source with a signature carries its address too': {
    info: signed(infoOf(source.path, emptyDirNar), trusted),
    nar: emptyDirNar,
    atOnce: true,
    expect: { offered: true, reason: 'signed', ca: source.ca },
  },
  'a source path with another content': {
    info: infoOf(source.path, textNar),
    nar: textNar,
    expect: refused('no-trusted-signature'),
  },
  'a false address': {
    info: infoOf(source.path, textNar, { ca: source.ca }),
    nar: textNar,
    expect: refused('ca-mismatch'),
  },
  'an address that is none': {
    info: input('a', emptyDirNar, { ca: 'fixed:nonsense' }),
    nar: emptyDirNar,
    expect: refused('ca-mismatch'),
  },
  'a false address beside a trusted signature is dropped': {
    info: signed(input('a', emptyDirNar, { ca: source.ca }), trusted),
    nar: emptyDirNar,
    atOnce: true,
    expect: { offered: true, reason: 'signed', ca: undefined as unknown as string },
  },
  'a false address beside the true content': {
    info: infoOf(source.path, emptyDirNar, { ca: flat256.ca }),
    nar: emptyDirNar,
    expect: { offered: true, reason: 'content-addressed', ca: source.ca },
  },
  'md5 proves nothing': {
    info: infoOf(md5Path.path, textNar, { ca: md5Path.ca }),
    nar: textNar,
    expect: refused('no-trusted-signature'),
  },
  'flat sha256, address given': {
    info: infoOf(flat256.path, textNar, { ca: flat256.ca }),
    nar: textNar,
    expect: { offered: true, reason: 'content-addressed', public: true, ca: flat256.ca },
  },
  'flat sha256, true address, forged content': {
    info: infoOf(flat256.path, other, { ca: flat256.ca }),
    nar: other,
    expect: refused('ca-mismatch'),
  },
  'flat sha256, true content, but executable: the address does not cover that': {
    info: infoOf(flat256.path, programNar(String(text)), { ca: flat256.ca }),
    nar: programNar(String(text)),
    expect: refused('ca-mismatch'),
  },
  'flat sha256, address given by a live store, which has checked the content': {
    info: infoOf(flat256.path, textNar, { ca: flat256.ca }),
    nar: textNar,
    kind: 'nix-store',
    atOnce: true,
    expect: { offered: true, reason: 'content-addressed', public: true, ca: flat256.ca },
  },
  'flat sha256, address missing': {
    info: infoOf(flat256.path, textNar),
    nar: textNar,
    expect: { offered: true, reason: 'content-addressed', ca: flat256.ca },
  },
  'flat sha512, address missing': {
    info: infoOf(flat512.path, textNar),
    nar: textNar,
    expect: { offered: true, reason: 'content-addressed', ca: flat512.ca },
  },
  'flat sha1, address missing': {
    info: infoOf(flat1.path, textNar),
    nar: textNar,
    expect: { offered: true, reason: 'content-addressed', ca: flat1.ca },
  },
  'a flat fixed output that claims references': {
    info: infoOf(flat256.path, textNar, { references }),
    nar: textNar,
    expect: refused('no-trusted-signature'),
  },
  'a text with references, address missing': {
    info: infoOf(toFile, textNar, { references }),
    nar: textNar,
    expect: {
      offered: true,
      reason: 'content-addressed',
      ca: `text:${formatHash(hashOf('sha256', text), 'nix32')}`,
    },
  },
  'a text with a reference taken away': {
    info: infoOf(toFile, textNar),
    nar: textNar,
    expect: refused('no-trusted-signature'),
  },
  'a derivation': {
    info: treeDrv.info,
    nar: treeDrv.nar,
    expect: { offered: true, reason: 'content-addressed', public: true },
  },
  'recursive sha1, by its deriver': {
    info: infoOf(tree1.path, emptyDirNar, { deriver: baseNameOf(treeDrv.info.storePath) }),
    nar: emptyDirNar,
    others: [treeDrv],
    expect: { offered: true, reason: 'content-addressed', public: true, ca: tree1.ca },
  },
  'recursive sha1, by its deriver, forged content': {
    info: infoOf(tree1.path, textNar, { deriver: baseNameOf(treeDrv.info.storePath) }),
    nar: textNar,
    others: [treeDrv],
    expect: refused('no-trusted-signature'),
  },
  'recursive sha1, address given': {
    info: infoOf(tree1.path, emptyDirNar, { ca: tree1.ca }),
    nar: emptyDirNar,
    expect: { offered: true, reason: 'content-addressed', ca: tree1.ca },
  },
  'a deriver that made something else': {
    info: input('a', textNar, { deriver: baseNameOf(treeDrv.info.storePath) }),
    nar: textNar,
    others: [treeDrv],
    expect: refused('no-trusted-signature'),
  },
  'a deriver that made it without fixing its content: nothing is read': {
    info: input('app', textNar, { deriver: baseNameOf(inputDrv.info.storePath) }),
    nar: textNar,
    others: [inputDrv],
    expect: refused('no-trusted-signature'),
  },
  'a deriver that is garbage': {
    info: infoOf(flat256.path, textNar, {
      deriver: baseNameOf(derivation('x', other).info.storePath),
    }),
    nar: textNar,
    others: [derivation('x', other)],
    expect: { offered: true, reason: 'content-addressed', ca: flat256.ca },
  },
}

t.test('cases', async t => {
  for (const [name, wanted] of Object.entries(CASES)) {
    await t.test(name, async t => {
      const { trust, holder, decide } = await rig(t, {
        ...(wanted.kind === undefined ? {} : { kind: wanted.kind }),
        ...(wanted.options === undefined ? {} : { options: wanted.options }),
      })
      for (const { info, nar } of [wanted, ...(wanted.others ?? [])]) holder.put(info, nar)
      const first = decide(wanted.info, wanted.builtHere)
      if (wanted.atOnce) t.notOk(first instanceof Promise, 'answered at once')
      const decision = await first
      t.match(decision, wanted.expect)
      if (decision.offered) {
        if ('ca' in wanted.expect) t.equal(decision.ca, wanted.expect.ca)
        const own = decision.signatures.at(-1) ?? ''
        t.ok(own.startsWith('lab-3-1:'), 'the host has signed')
        const fromOthers = decision.signatures.slice(0, -1)
        t.same(
          fromOthers,
          wanted.info.signatures.filter(text => text.startsWith(`${trusted.name}:`)),
        )
      } else {
        t.same(decision.untrustedKeys, wanted.expect.untrustedKeys)
      }
      if (name.endsWith('nothing is read')) t.same(holder.opened, [])
      const again = decide(wanted.info, wanted.builtHere)
      t.notOk(again instanceof Promise, 'known the second time')
      t.same(again, decision)
      t.type(trust.publicKey, 'string')
    })
  }
})

t.test('signed by this host alone', async t => {
  const { trust, holder, decide, stateDir, close } = await rig(t)
  const info = input('a')
  holder.put(info, emptyDirNar)
  const built = await decide(info, true)
  t.ok(built.offered)
  const own = built.offered ? [...built.signatures] : []
  const name = trust.publicKey.split(':')[0]
  const copied = { ...info, signatures: own }
  holder.put(copied, emptyDirNar)
  const decision = decide(copied)
  t.match(decision, { offered: true, reason: 'signed', key: name, public: false })
  t.same((decision as Extract<Decision, { offered: true }>).signatures, own, 'and not twice')
  const isSource = infoOf(source.path, emptyDirNar, {})
  holder.put(isSource, emptyDirNar)
  const proven = await decide(isSource)
  t.ok(proven.offered)
  const both = { ...isSource, signatures: proven.offered ? proven.signatures : [] }
  holder.put(both, emptyDirNar)
  t.match(decide(both), { reason: 'signed', public: true, ca: source.ca })
  await close()
  const elsewhere = await rig(t, { stateDir: tempDir(t, 'other-host') })
  elsewhere.holder.put(copied, emptyDirNar)
  t.match(await elsewhere.decide(copied), refused('no-trusted-signature', 'lab-3-1'))
  t.ok(stateDir)
})

const opens = (holder: FakeHolder) => holder.opened.length

t.test('what is known is not proven twice', async t => {
  const stateDir = tempDir(t, 'trust-again')
  const info = infoOf(flat512.path, textNar)
  const start = async (options: Partial<TrustOptions> = {}) => {
    const parts = await rig(t, { stateDir, options })
    parts.holder.put(info, textNar)
    return parts
  }
  const first = await start()
  const [one, two] = await Promise.all([first.decide(info), first.decide(info)])
  t.equal(opens(first.holder), 1, 'two that ask at once wait for one read')
  t.equal(one, two)
  await first.close()

  const second = await start()
  const again = second.decide(info)
  t.notOk(again instanceof Promise, 'the catalog knows')
  t.same(again, one)
  t.equal(opens(second.holder), 0)
  await second.close()

  const third = await start({ publicKeys: [] })
  t.ok(third.decide(info) instanceof Promise, 'other keys decide anew')
  await third.close()

  const fourth = await start({ deny: ['source.tar.*'] })
  t.match(fourth.decide(info), refused('denied'), 'a new deny rule holds at once')
  const signedLater = signed(input('a'), trusted)
  fourth.holder.put(input('a'), emptyDirNar)
  t.match(await fourth.decide(input('a')), refused('no-trusted-signature'))
  fourth.holder.put(signedLater, emptyDirNar)
  t.match(fourth.decide(signedLater), { reason: 'signed' }, 'a signature added later is seen')
})

t.test('a refusal that may pass is asked again', async t => {
  let now = 0
  const { holder, decide } = await rig(t, { options: { clock: () => now } })
  const info = infoOf(tree1.path, emptyDirNar, { deriver: baseNameOf(treeDrv.info.storePath) })
  holder.put(info, emptyDirNar)
  t.match(await decide(info), refused('no-trusted-signature'))
  holder.put(treeDrv.info, treeDrv.nar)
  t.match(decide(info), refused('no-trusted-signature'), 'not at every question')
  now += 60_000
  t.match(await decide(info), { reason: 'content-addressed' }, 'its deriver has come since')

  const broken = infoOf(flat256.path, textNar)
  holder.put(broken, textNar)
  holder.breakAt = 50
  t.match(await decide(broken), refused('no-trusted-signature'), 'the read broke off')
  holder.breakAt = undefined
  now += 60_000
  t.match(await decide(broken), { reason: 'content-addressed' })
})

t.test('a content cut at any byte, read in chunks of any size', async t => {
  const { holder, decide } = await rig(t)
  const long = Buffer.alloc(5000, 'content ')
  const out = fixed('long.bin', 'flat', 'sha256', long)
  holder.put(infoOf(out.path, fileNar(long)), fileNar(long))
  t.match(await decide(infoOf(out.path, fileNar(long))), { ca: out.ca })
  const empty = fixed('empty', 'flat', 'sha256', Buffer.alloc(0))
  holder.put(infoOf(empty.path, fileNar('')), fileNar(''))
  t.match(await decide(infoOf(empty.path, fileNar(''))), { ca: empty.ca })
  const lying = Buffer.from(fileNar(text))
  lying.writeBigUInt64LE(2n ** 60n, 88)
  holder.put(infoOf(flat1.path, lying), lying)
  t.match(await decide(infoOf(flat1.path, lying)), { offered: false }, 'a length beyond the NAR')
})

t.test('closing while content is read', async t => {
  const { trust, holder, decide } = await rig(t)
  const info = infoOf(flat256.path, textNar)
  holder.put(info, textNar)
  const waiting = decide(info)
  await trust.close()
  await trust.close()
  t.match(await waiting, { offered: false })
  t.throws(() => trust.decide(holder, holder.find(hashPartOf(info.storePath)) as Holding))
  await trust.open()
  t.match(await decide(info), { offered: true }, 'what was broken off is not remembered')
})

t.test('patterns', t => {
  const yes = [
    ['*', ''],
    ['*', 'anything'],
    ['*-secrets-*', 'aaa-secrets-1'],
    ['a?c', 'abc'],
    ['*a*a*', 'xxaya'],
    ['abc', 'abc'],
    ['a*', 'a'],
    ['*.drv', 'x.drv.drv'],
  ]
  const no = [
    ['', 'a'],
    ['abc', 'abcd'],
    ['a?c', 'ac'],
    ['*a*a*', 'xax'],
    ['[a]', 'a'],
    ['a.c', 'abc'],
  ]
  for (const [pattern = '', text = ''] of yes) t.ok(matchGlob(pattern, text), `${pattern} ${text}`)
  for (const [pattern = '', text = ''] of no)
    t.notOk(matchGlob(pattern, text), `${pattern} ${text}`)
  t.notOk(matchGlob('*a'.repeat(50) + 'b', 'a'.repeat(211)), 'a hostile one ends')
  t.end()
})
