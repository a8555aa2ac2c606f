import { randomBytes } from 'node:crypto'
import t from 'tap'
import { keyPairFromSeed, signBytes, verifyBytes } from '../../protocol/ed25519.ts'
import {
  formatMemberList,
  isMemberName,
  isNixKey,
  lastLineOf,
  MEMBER_LINES_MAX,
  MEMBER_LIST_MAX_BYTES,
  newMemberList,
  parseMemberList,
  signStatement,
  withLines,
  type Line,
  type MemberList,
  type Statement,
} from '../../protocol/member-list.ts'
import { credentialsOf, membershipOf, nextRevision } from '../../protocol/membership.ts'

const pairs = Array.from({ length: 256 }, (_, n) => keyPairFromSeed(Buffer.alloc(32, n)))
const pair = (n: number) => pairs[n] as (typeof pairs)[number]
const hex = (n: number) => pair(n).publicKey.toString('hex')
const SITE = 200
const siteKey = hex(SITE)
const NIX_KEY = `lab-1:${Buffer.alloc(32, 7).toString('base64')}`

/** `n` says it on top of that list; the site key is {@link SITE}. */
const say = (list: MemberList, n: number, ...statements: Statement[]): MemberList =>
  statements.reduce(
    (all, statement) =>
      withLines(all, [signStatement(siteKey, statement, pair(n), lastLineOf(all, hex(n)))]),
    list,
  )
const admit = (n: number, revision = 1, name = `host-${n}`, nixKey?: string): Statement => ({
  kind: 'admit',
  key: hex(n),
  revision,
  name,
  nixKey,
})
const promote = (n: number): Statement => ({ kind: 'admin', key: hex(n) })
const revoke = (list: MemberList, n: number): Statement => ({
  kind: 'revoke',
  key: hex(n),
  last: lastLineOf(list, hex(n)),
})
const names = (list: MemberList) =>
  [...membershipOf(list).members.values()].map(({ name }) => name).sort()
const admins = (list: MemberList) =>
  [...membershipOf(list).members.values()].filter(one => one.admin).map(one => one.name)

const empty = newMemberList(siteKey, [])
/** The site "lab" of host 1, an admin. */
const lab = say(
  empty,
  SITE,
  { kind: 'site', revision: 1, name: 'lab' },
  promote(1),
  admit(1, 1, 'host-1', NIX_KEY),
)
const merge = (a: MemberList, b: MemberList) => withLines(a, b.lines.values())
const same = (a: MemberList, b: MemberList) => formatMemberList(a).equals(formatMemberList(b))

t.test('Ed25519 as sodium lays it out', async t => {
  // RFC 8032, section 7.1, test 2.
  const seed = Buffer.from(
    '4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb',
    'hex',
  )
  const { publicKey, secretKey } = keyPairFromSeed(seed)
  t.equal(
    publicKey.toString('hex'),
    '3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c',
  )
  t.ok(secretKey.equals(Buffer.concat([seed, publicKey])))
  const signature = signBytes(Buffer.from([0x72]), secretKey)
  t.match(
    signature.toString('hex'),
    /^92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da/,
  )
  t.ok(verifyBytes(Buffer.from([0x72]), signature, publicKey))
  t.notOk(verifyBytes(Buffer.from([0x73]), signature, publicKey))
})

t.test('a list is read as it was written', async t => {
  const bytes = formatMemberList(lab)
  t.ok(same(parseMemberList(bytes), lab))
  t.ok(same(parseMemberList(bytes, lab), lab), 'with signatures known')
  t.ok(same(parseMemberList(bytes, newMemberList(hex(9), [])), lab), 'knowing another site')
  const view = membershipOf(lab)
  t.equal(view.siteName, 'lab')
  t.same(
    [...view.members.values()],
    [{ key: hex(1), name: 'host-1', revision: 1, nixKey: NIX_KEY, admin: true }],
  )
  t.equal(membershipOf(empty).siteName, undefined)
  t.ok(isMemberName('lab.3_a-b') && !isMemberName('-x') && !isMemberName('a'.repeat(64)))
  t.ok(isNixKey(NIX_KEY) && !isNixKey('x') && !isNixKey(`${'n'.repeat(100)}${NIX_KEY}`))
})

t.test('what is no list is refused', async t => {
  const text = formatMemberList(lab).toString()
  const [head = '', ...lines] = text.split('\n')
  const stranger = signStatement(siteKey, admit(66), pair(66))
  const foreign = signStatement(hex(9), admit(66), pair(SITE))
  const forged = (lines[0] ?? '').replace(/.{88}$/, stranger.text.slice(-88))
  const list = (...some: readonly string[]) =>
    `${head}\n${some
      .toSorted()
      .map(line => `${line}\n`)
      .join('')}`
  const rows: readonly (readonly [string, string, RegExp])[] = [
    ['nothing', '', /first line/],
    ['another format', text.replace('members 1', 'members 2'), /first line/],
    ['cut short', text.slice(0, -1), /does not end/],
    ['a line twice', `${head}\n${lines[0]}\n${lines[0]}\n`, /line 3 is out of order/],
    ['out of order', `${head}\n${lines[1]}\n${lines[0]}\n`, /line 3 is out of order/],
    ['a strange line', `${head}\nhello\n`, /line 2 is not one/],
    ['a nix key that is none', text.replace(NIX_KEY, 'lab-1:abc'), /is not one/],
    ['a forged signature', list(forged), /not its author/],
    ['a changed line', text.replace('host-1', 'host-2'), /not its author/],
    ['a stranger’s line', list(...lines.slice(0, 3), stranger.text), /no admin/],
    ['signed for another site', list(foreign.text.replace(hex(SITE), 'site')), /not its author/],
    [
      'too many lines',
      list(...Array.from({ length: MEMBER_LINES_MAX + 1 }, (_, n) => `${n}`)),
      /lines/,
    ],
    ['too many bytes', ' '.repeat(MEMBER_LIST_MAX_BYTES + 1), /at most/],
  ]
  for (const [name, bytes, said] of rows) {
    t.throws(
      () => parseMemberList(Buffer.from(bytes)),
      { code: 'MEMBER_LIST_INVALID', message: said },
      name,
    )
  }
  const notSite = { kind: 'site', revision: 1, name: 'mine' } as const
  t.throws(() => signStatement(siteKey, notSite, pair(1)), { code: 'MEMBER_LIST_INVALID' })
  t.throws(() => signStatement(siteKey, admit(2, 1, 'two words'), pair(1)), /no list can hold/)
})

t.test('islands that change the list come to one list, in whatever order they meet', async t => {
  const both = say(lab, 1, admit(2), promote(2), admit(3), admit(4))
  const one = say(both, 1, admit(5), revoke(both, 3))
  const two = say(both, 2, admit(6), revoke(both, 4))
  const merged = merge(one, two)
  t.ok(same(merged, merge(two, one)))
  t.ok(same(merge(merged, one), merged), 'and nothing changes it any more')
  t.same(names(merged), ['host-1', 'host-2', 'host-5', 'host-6'])
  t.same([...membershipOf(merged).revoked.values()].map(({ name }) => name).sort(), [
    'host-3',
    'host-4',
  ])
  t.ok(same(parseMemberList(formatMemberList(merged)), merged))

  const again = merge(say(both, 1, admit(7, 1, 'b')), say(both, 2, admit(7, 1, 'a')))
  t.equal(
    membershipOf(again).members.get(hex(7))?.name,
    membershipOf(merge(again, both)).members.get(hex(7))?.name,
  )
  const renamed = say(again, 2, admit(7, nextRevision(membershipOf(again), hex(7)), 'c'))
  t.equal(membershipOf(renamed).members.get(hex(7))?.name, 'c', 'a higher revision counts')
  const title = say(lab, SITE, { kind: 'site', revision: 2, name: 'new' })
  t.equal(membershipOf(title).siteName, 'new')
})

t.test('a revoked admin', async t => {
  const both = say(lab, 1, admit(2), promote(2))
  const grown = say(both, 2, admit(3), admit(4), promote(4))
  const revoked = say(grown, 1, revoke(grown, 2))

  t.same(names(revoked), ['host-1', 'host-3', 'host-4'], 'whom it admitted before stays')
  t.same(admins(revoked).sort(), ['host-1', 'host-4'])

  const back = say(revoked, 2, admit(2, 2), promote(2), admit(9))
  t.same(names(back), names(revoked), 'it neither comes back nor lets anybody in')
  t.same(
    [...membershipOf(back).orphaned.values()].map(one => one.name),
    ['host-9'],
    'but it is seen',
  )
  t.equal(nextRevision(membershipOf(back), hex(9)), 2)
  t.same(names(say(back, 1, admit(9, 2))).includes('host-9'), true, 'and an admin can take it in')

  // The thief writes its past anew: a line beside one that was known.
  const fork = withLines(revoked, [
    signStatement(siteKey, admit(9), pair(2), lastLineOf(both, hex(2))),
  ])
  t.same(names(fork), names(revoked), 'a second past is not believed')

  const promoted = say(revoked, 2, promote(9))
  const sybil = say(promoted, 9, admit(10))
  t.same(names(sybil), names(revoked), 'nor whom it promotes')

  const strike = say(revoked, 2, revoke(revoked, 3))
  t.notOk(names(strike).includes('host-3'), 'its revocations count: they might be honest')
  const voided = say(strike, SITE, { kind: 'revoke', key: hex(2) })
  t.same(names(voided), ['host-1'], 'until the site key makes all void that it signed')
  t.ok(voided.lines.size < strike.lines.size, 'and the list shorter')
  t.ok(same(merge(strike, voided), voided), 'for everybody who hears of it')
})

t.test('admins that revoke one another', async t => {
  const both = say(lab, 1, admit(2), promote(2), admit(3))
  const one = say(both, 1, revoke(both, 2))
  const two = say(both, 2, revoke(both, 1))
  const merged = merge(one, two)
  t.same(names(merged), ['host-3'], 'both are out')
  const saved = say(merged, SITE, promote(5), admit(5))
  t.same(admins(saved), ['host-5'], 'and the site key brings an admin back')

  const known = say(both, 2, admit(4))
  const third = say(known, 1, promote(3))
  const late = merge(say(third, 3, revoke(third, 2)), one)
  t.notOk(names(late).includes('host-4'), 'a line counts that all who revoked its author knew')
  t.same(names(late), ['host-1', 'host-3'])
})

t.test('a host whose disk was rolled back', async t => {
  const first = say(lab, 1, admit(2), admit(3))
  const forked = withLines(first, [
    signStatement(siteKey, admit(4), pair(1), lastLineOf(say(lab, 1, admit(2)), hex(1))),
  ])
  t.same(names(forked), ['host-1', 'host-2', 'host-3', 'host-4'], 'both pasts count')
  t.ok(lastLineOf(forked, hex(1)) !== undefined)
  t.equal(lastLineOf(forked, hex(9)), undefined)
  // A line that continues somebody else's chain has no past of its own.
  const strange = signStatement(siteKey, admit(5), pair(1), lastLineOf(empty, hex(1)))
  const twoAdmins = say(first, 1, promote(2))
  const mixed = withLines(twoAdmins, [
    signStatement(siteKey, admit(5), pair(2), lastLineOf(twoAdmins, hex(1))),
  ])
  t.ok(names(withLines(mixed, [strange])).includes('host-5'))
  const out = say(mixed, 1, revoke(mixed, 2))
  t.ok(names(out).includes('host-5'))
})

t.test('limits', async t => {
  const big = Array.from({ length: 20 }, (_, n) => admit(100 + (n % 10), n + 1))
  const many = say(lab, 1, ...big)
  t.equal(many.lines.size, lab.lines.size + 20)
  const lines: Line[] = []
  for (let n = 0; n <= MEMBER_LINES_MAX; n++) {
    const text = `${n}`
    lines.push({ author: 'site', previous: undefined, statement: admit(1), id: text, text })
  }
  t.throws(() => withLines(lab, lines), { code: 'MEMBER_LIST_INVALID' })
  const last = say(lab, 1, admit(2, 999_999))
  t.throws(() => nextRevision(membershipOf(last), hex(2)), /too many names/)
  t.equal(nextRevision(membershipOf(last), hex(3)), 1)
  t.equal(membershipOf(say(lab, 1, revoke(lab, 77))).revoked.get(hex(77))?.name, undefined)
  t.throws(() => parseMemberList(randomBytes(1000)), { code: 'MEMBER_LIST_INVALID' })
})

t.test('what makes a host a member, in a few lines', async t => {
  const crowd = say(lab, 1, ...[30, 31, 32, 33].map(n => admit(n)))
  const deep = say(say(crowd, 1, promote(2), admit(2)), 2, promote(3), promote(1), admit(4))
  const deeper = say(deep, 3, promote(2), admit(5))
  const shown = credentialsOf(deeper, hex(5)) ?? empty
  t.equal(shown.lines.size, 4, 'three grants and its admission')
  t.ok(same(parseMemberList(formatMemberList(shown)), shown))
  t.same(names(shown), ['host-5'])
  t.same(names(merge(crowd, shown)), [
    'host-1',
    'host-30',
    'host-31',
    'host-32',
    'host-33',
    'host-5',
  ])
  t.equal(credentialsOf(deeper, hex(1))?.lines.size, 1, 'the site key’s word alone')
  t.equal(credentialsOf(deeper, hex(99)), undefined)
  const without = say(deeper, 1, revoke(deeper, 3))
  t.same(names(merge(without, credentialsOf(without, hex(5)) ?? empty)), names(without))
  t.equal(credentialsOf(without, hex(5))?.lines.size, 4)
  const late = say(say(without, 3, promote(8)), 8, promote(3))
  t.same(
    credentialsOf(late, hex(5))?.lines,
    credentialsOf(without, hex(5))?.lines,
    'no grant of a sham admin',
  )
})
