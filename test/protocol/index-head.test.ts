import t from 'tap'
import { keyPairFromSeed } from '../../protocol/ed25519.ts'
import { isNarwharfError } from '../../protocol/errors.ts'
import { openIndexHead, signIndexHead, SIGNED_HEAD_BYTES } from '../../protocol/index-head.ts'
import type { IndexHead } from '../../protocol/index-head.ts'
import { mutations } from '../helpers/mutate.ts'

const keys = keyPairFromSeed(Buffer.alloc(32, 1))
const others = keyPairFromSeed(Buffer.alloc(32, 2))
const host = keys.publicKey.toString('hex')
const head: IndexHead = { host, epoch: 3, core: 'cd'.repeat(32), length: 2000 }

const problem = (work: () => unknown): string => {
  try {
    work()
  } catch (error) {
    if (isNarwharfError(error, 'HEAD_INVALID')) return error.message
    throw error
  }
  return 'nothing wrong'
}

t.test('what is signed is opened', t => {
  const signed = signIndexHead(head, keys.secretKey)
  t.equal(signed.length, SIGNED_HEAD_BYTES)
  t.strictSame(openIndexHead(signed), head)
  t.strictSame(openIndexHead(new Uint8Array(signed), host), head)
  const largest = { ...head, epoch: Number.MAX_SAFE_INTEGER, length: Number.MAX_SAFE_INTEGER }
  t.strictSame(openIndexHead(signIndexHead(largest, keys.secretKey)), largest)
  t.end()
})

t.test('refused', t => {
  const signed = signIndexHead(head, keys.secretKey)
  const withByte = (at: number, value: number) => {
    const bytes = Buffer.from(signed)
    bytes[at] = value
    return bytes
  }
  const cases: [name: string, work: () => unknown, problem: RegExp][] = [
    ['too short', () => openIndexHead(signed.subarray(1)), /143 bytes, not 144/],
    [
      'of another host',
      () => openIndexHead(signed, others.publicKey.toString('hex')),
      /of another host/,
    ],
    ['another epoch', () => openIndexHead(withByte(39, 9)), /not signed by the host/],
    ['another length', () => openIndexHead(withByte(79, 9)), /not signed by the host/],
    ['another signature', () => openIndexHead(withByte(100, 9)), /not signed by the host/],
    ['an epoch too large', () => openIndexHead(withByte(32, 9)), /is too large/],
    ['a length too large', () => openIndexHead(withByte(72, 9)), /is too large/],
    [
      'a key that is none',
      () => signIndexHead({ ...head, core: 'x' }, keys.secretKey),
      /64 lower-case hex/,
    ],
    [
      'a host that is none',
      () => signIndexHead({ ...head, host: host.toUpperCase() }, keys.secretKey),
      /64 lower-case hex/,
    ],
    [
      'half an epoch',
      () => signIndexHead({ ...head, epoch: 0.5 }, keys.secretKey),
      /0.5 is no number/,
    ],
    [
      'less than nothing',
      () => signIndexHead({ ...head, length: -1 }, keys.secretKey),
      /-1 is no number/,
    ],
    ['for another key', () => signIndexHead(head, others.secretKey), /not for the key/],
    [
      'for a key of another length',
      () => signIndexHead(head, keys.secretKey.subarray(1)),
      /not for the key/,
    ],
  ]
  for (const [name, work, expected] of cases) t.match(problem(work), expected, name)
  t.end()
})

t.test('damaged bytes are never a head', t => {
  const signed = signIndexHead(head, keys.secretKey)
  for (const bad of mutations(signed, 500, 7)) {
    if (bad.equals(signed)) continue
    t.not(
      problem(() => openIndexHead(bad)),
      'nothing wrong',
      bad.toString('hex'),
    )
  }
  t.end()
})
