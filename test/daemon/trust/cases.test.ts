import t from 'tap'
import type { HolderKind } from '../../../daemon/holders/holder.ts'
import { type TrustOptions } from '../../../daemon/trust/trust-room.ts'
import type { Decision } from '../../../daemon/trust/trust.ts'
import { formatHash, hashOf } from '../../../protocol/hash.ts'
import type { PathInfo } from '../../../protocol/path-info.ts'
import { generateKeyPair, sign } from '../../../protocol/signature.ts'
import { baseNameOf } from '../../../protocol/store-path.ts'
import {
  trusted,
  stranger,
  programNar,
  emptyDirNar,
  infoOf,
  rig,
  input,
  signed,
  refused,
  text,
  textNar,
  other,
  references,
  flat256,
  flat512,
  flat1,
  tree1,
  source,
  md5Path,
  toFile,
  derivation,
  treeDrv,
  inputDrv,
} from '../../helpers/trust-rig.ts'

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
