import { createHash, randomBytes } from 'node:crypto'
import t from 'tap'
import {
  crockfordLength,
  decodeCrockford,
  encodeCrockford,
  inGroups,
} from '../../protocol/crockford.ts'
import { isNarwharfError } from '../../protocol/errors.ts'
import {
  checkProof,
  formatInvite,
  makeProof,
  parseInvite,
  siteFingerprint,
  type Invite,
} from '../../protocol/invite.ts'
import {
  decodeJoinFacts,
  decodePairingReply,
  decodePairingRequest,
  encodeJoinFacts,
  encodePairingReply,
  encodePairingRequest,
  PAIRING_REPLY_MAX_BYTES,
  PAIRING_REQUEST_MAX_BYTES,
} from '../../protocol/pairing.ts'
import { formatRecovery, parseRecovery } from '../../protocol/recovery.ts'

const invite: Invite = {
  secret: Buffer.from('000102030405060708090a0b0c0d0e0f', 'hex'),
  inviter: 'ab'.repeat(32),
  site: siteFingerprint('cd'.repeat(32)),
  addresses: [{ host: '192.168.1.20', port: 6280 }],
}

t.test('base 32 for people', async t => {
  t.equal(encodeCrockford(Buffer.from('hello')), 'd1jprv3f')
  t.equal(encodeCrockford(Buffer.alloc(0)), '')
  for (let length = 0; length < 40; length++) {
    const bytes = randomBytes(length)
    const text = encodeCrockford(bytes)
    t.equal(text.length, crockfordLength(length))
    t.ok(decodeCrockford(text.toUpperCase())?.equals(bytes), `${length} bytes`)
  }
  t.ok(decodeCrockford('OIL0')?.equals(Buffer.from(decodeCrockford('0110') ?? '')))
  for (const bad of ['u0', '0', 'zz', '00!', 'zzz']) t.equal(decodeCrockford(bad), undefined, bad)
  t.equal(inGroups('abcdefgh', 3), 'abc-def-gh')
  t.equal(inGroups('abcdef', 3), 'abc-def')
})

t.test('a code is read as people type it', async t => {
  const code = formatInvite(invite)
  t.match(code, /^nw(-[0-9a-hjkmnp-tv-z]{1,5})+$/)
  t.same(parseInvite(code), invite)
  t.same(parseInvite(` ${code.toUpperCase().replaceAll('-', ' ')}\n`), invite)
  t.same(parseInvite(code.replaceAll('0', 'O').replaceAll('1', 'l').replaceAll('-', '')), invite)
  const many = [
    { host: 'fd00::1', port: 1 },
    { host: '::', port: 65535 },
    { host: '1:2:3:4:5:6:7:8', port: 6280 },
    { host: '10.0.0.1', port: 6280 },
    { host: '10.0.0.2', port: 6280 },
  ]
  t.same(parseInvite(formatInvite({ ...invite, addresses: many })).addresses, [
    { host: 'fd00:0:0:0:0:0:0:1', port: 1 },
    { host: '0:0:0:0:0:0:0:0', port: 65535 },
    { host: '1:2:3:4:5:6:7:8', port: 6280 },
    { host: '10.0.0.1', port: 6280 },
  ])
  t.same(parseInvite(formatInvite({ ...invite, addresses: [] })).addresses, [])
  for (const host of [
    'lab.local',
    '1.2.3.256',
    '1:2:3',
    '1:2:3:4:5:6:7:8:9',
    '::1::',
    'g::',
    '1:2:3:4:5:6:7::8',
  ]) {
    const made = () => formatInvite({ ...invite, addresses: [{ host, port: 1 }] })
    t.throws(made, { code: 'INVITE_INVALID' }, host)
  }
})

/** A code whose checksum is right over those bytes. */
const codeOf = (bytes: Buffer) => {
  const sum = createHash('sha256').update('narwharf invite 1\n').update(bytes).digest()
  return `nw-${encodeCrockford(Buffer.concat([bytes, sum.subarray(0, 4)]))}`
}

t.test('a code that is none', async t => {
  const code = formatInvite(invite)
  const digits = code.slice(3)
  const swapped = digits.replace(/^(.)(.)/, '$2$1')
  const base = Buffer.concat([Buffer.from([1]), Buffer.alloc(56)])
  const rows: readonly (readonly [string, string, RegExp])[] = [
    ['nothing', '', /begins with nw/],
    ['another word', 'hello', /begins with nw/],
    ['one digit wrong', code.replace(/.$/, last => (last === '2' ? '3' : '2')), /mistyped/],
    ['two digits swapped', `nw-${swapped}`, /checksum/],
    ['half of it', code.slice(0, 60), /mistyped or incomplete/],
    ['no digit', `${code.slice(0, -1)}!`, /mistyped/],
    ['a page', `nw-${'0'.repeat(700)}`, /too long/],
    ['another version', codeOf(Buffer.concat([Buffer.from([2]), Buffer.alloc(57)])), /version/],
    ['an odd family', codeOf(Buffer.concat([base, Buffer.from([1, 5, 1, 2, 3, 4, 0, 1])])), /kind/],
    ['a cut address', codeOf(Buffer.concat([base, Buffer.from([1, 4, 1, 2, 3])])), /within/],
    ['port 0', codeOf(Buffer.concat([base, Buffer.from([1, 4, 1, 2, 3, 4, 0, 0])])), /port 0/],
    [
      'fewer addresses',
      codeOf(Buffer.concat([base, Buffer.from([2, 4, 1, 2, 3, 4, 0, 1])])),
      /as many/,
    ],
    [
      'more addresses than any has',
      codeOf(
        Buffer.concat([
          base,
          Buffer.from([5]),
          ...Array.from({ length: 5 }, () => Buffer.from([4, 1, 2, 3, 4, 0, 1])),
        ]),
      ),
      /as many/,
    ],
  ]
  for (const [name, text, said] of rows) {
    try {
      parseInvite(text)
      t.fail(name)
    } catch (error) {
      t.ok(isNarwharfError(error, 'INVITE_INVALID'), name)
      t.match(String(error), said, name)
      t.notMatch(String(error), digits.slice(0, 20), 'the secret is not shown')
    }
  }
})

t.test('a proof is good in its connection, role and mouth alone', async t => {
  const of = {
    handshakeHash: randomBytes(64),
    role: 'joiner',
    key: 'ab'.repeat(32),
    rest: Buffer.from('x'),
  } as const
  const proof = makeProof(invite.secret, of)
  t.ok(checkProof(invite.secret, of, proof))
  t.notOk(checkProof(invite.secret, { ...of, handshakeHash: randomBytes(64) }, proof), 'relayed')
  t.notOk(checkProof(invite.secret, { ...of, role: 'greeter' }, proof))
  t.notOk(checkProof(invite.secret, { ...of, key: 'ac'.repeat(32) }, proof))
  t.notOk(checkProof(invite.secret, { ...of, rest: undefined }, proof))
  t.notOk(checkProof(randomBytes(16), of, proof))
})

t.test('what hosts say when they pair', async t => {
  const proof = randomBytes(32)
  for (const kind of ['join', 'greet', 'introduce'] as const) {
    const request = { kind, proof, rest: kind === 'greet' ? Buffer.alloc(0) : Buffer.from('rest') }
    t.same(decodePairingRequest(encodePairingRequest(request)), request)
  }
  for (const kind of ['refused', 'welcome', 'greeted', 'revoked', 'full'] as const) {
    const rest = kind === 'greeted' ? proof : Buffer.from(kind === 'welcome' ? 'list' : '')
    t.same(decodePairingReply(encodePairingReply({ kind, rest })), { kind, rest })
  }
  const facts = { name: 'lab-3', nixKey: `lab-3-1:${Buffer.alloc(32).toString('base64')}` }
  t.same(decodeJoinFacts(encodeJoinFacts(facts)), facts)
  t.same(decodeJoinFacts(encodeJoinFacts({ name: 'lab-3' })), { name: 'lab-3' })

  const invalid = { code: 'PAIRING_INVALID' }
  const head = (...bytes: number[]) => Buffer.concat([Buffer.from(bytes), proof])
  const requests = [
    Buffer.alloc(0),
    head(2, 1),
    head(1, 9),
    Buffer.from([1, 1, 0]),
    Buffer.concat([head(1, 2), proof]),
    Buffer.concat([head(1, 1), Buffer.alloc(400)]),
    Buffer.alloc(PAIRING_REQUEST_MAX_BYTES + 1, 1),
  ]
  for (const bytes of requests) t.throws(() => decodePairingRequest(bytes), invalid)
  for (const bytes of [
    Buffer.alloc(0),
    Buffer.alloc(PAIRING_REPLY_MAX_BYTES + 1, 1),
    Buffer.from([1, 0, 0]),
    Buffer.from([1, 2, 0]),
    Buffer.from([1, 9]),
  ]) {
    t.throws(() => decodePairingReply(bytes), invalid)
  }
  for (const text of ['', 'two words', 'a\nb', `a\n${facts.nixKey}\nc`]) {
    t.throws(() => decodeJoinFacts(Buffer.from(text)), invalid, text)
  }
})

t.test('the site key on paper', async t => {
  const seed = randomBytes(32)
  const lines = formatRecovery(seed)
  t.equal(lines.length, 4)
  for (const line of lines)
    t.match(line, /^[1-4]: ([0-9a-hjkmnp-tv-z]{4} ){3}[0-9a-hjkmnp-tv-z]{4}$/)
  t.ok(parseRecovery(lines.join('\n')).equals(seed))
  const careless = `# the safe, shelf 2\n\n${lines.map(line => line.slice(3).toUpperCase().replaceAll(' ', '-')).join('\r\n')}\n`
  t.ok(parseRecovery(careless).equals(seed), 'without numbers, in capitals, with remarks')
  const fixed = formatRecovery(Buffer.alloc(32, 0x11))
  const change = (at: number, to: (line: string) => string) =>
    fixed.map((line, n) => (n === at ? to(line) : line)).join('\n')
  const rows: readonly (readonly [string, string, RegExp])[] = [
    ['three lines', fixed.slice(1).join('\n'), /has 3 lines, 4/],
    ['a slip of the pen', change(2, line => line.replace(/^3: ./, '3: z')), /line 3 is mistyped/],
    ['lines swapped', [fixed[1], fixed[0], fixed[2], fixed[3]].join('\n'), /line 1 is mistyped/],
    ['a digit lost', change(1, line => line.slice(0, -2)), /line 2 /],
    ['half a line', change(1, () => '2: 0000 0000'), /line 2 has 8 characters/],
    ['no digit', change(3, line => `${line.slice(0, -1)}!`), /line 4 has a character/],
    ['a book', 'x'.repeat(5000), /too long/],
  ]
  for (const [name, text, said] of rows) {
    t.throws(() => parseRecovery(text), { code: 'RECOVERY_INVALID', message: said }, name)
  }
})
