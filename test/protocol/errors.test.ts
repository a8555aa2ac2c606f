import t from 'tap'
import { ERRORS, NarwharfError, fail, isNarwharfError, problemOf } from '../../protocol/errors.ts'
import type { ErrorCode, ErrorEntry } from '../../protocol/errors.ts'

t.test('every row says what happened and what to do, as a user reads it', async t => {
  const rows = Object.entries<ErrorEntry>(ERRORS)
  t.ok(rows.length > 15)
  for (const [code, { message, hint }] of rows) {
    t.match(code, /^[A-Z][A-Z0-9]*(_[A-Z0-9]+)+$/, code)
    for (const text of [message, hint]) {
      t.ok(text.length > 5, `${code} has a text`)
      t.notMatch(text, /\.$|^\s|\s$/, `${code}: no full stop, no stray space`)
    }
    t.equal(message.split('{').length, message.split(/\{\w+\}/).length, `${code}: whole holes`)
    t.notMatch(hint, /[{}]/, `${code}: a hint has no holes`)
  }
})

t.test('a message is filled from the data', async t => {
  const cases: [
    name: string,
    code: ErrorCode,
    data: Record<string, string | number>,
    text: string,
  ][] = [
    [
      'all fields',
      'NAR_MISMATCH',
      { path: '/nix/store/x', field: 'NarSize', actual: 1, expected: 2 },
      'NAR of /nix/store/x has NarSize 1, expected 2',
    ],
    ['a missing field', 'CACHE_INFO_INVALID', {}, 'invalid nix-cache-info: undefined'],
    [
      'a long value is cut',
      'KEY_INVALID',
      { problem: 'x'.repeat(500) },
      `invalid key: ${'x'.repeat(120)}…`,
    ],
    [
      'nothing steers the terminal',
      'KEY_INVALID',
      { problem: 'a\u001b[2J\r\n\u202eb' },
      'invalid key: a\\x1b[2J\\x0d\\x0a\\x202eb',
    ],
    [
      'a value is not a template',
      'KEY_INVALID',
      { problem: '{hint} $&' },
      'invalid key: {hint} $&',
    ],
  ]
  for (const [name, code, data, text] of cases) {
    const error = new NarwharfError(code, data)
    t.equal(error.message, text, name)
    t.equal(error.code, code)
    t.equal(error.data, data)
    t.equal(error.hint, ERRORS[code].hint)
    t.equal(error.name, 'NarwharfError')
    t.equal(error.cause, undefined)
  }
  t.same(new NarwharfError('KEY_INVALID').data, {})
})

t.test('fail, isNarwharfError, problemOf', async t => {
  const cause = new Error('below')
  try {
    fail('KEY_INVALID', { problem: 'p' }, cause)
  } catch (error) {
    t.ok(isNarwharfError(error))
    t.ok(isNarwharfError(error, 'KEY_INVALID'))
    t.notOk(isNarwharfError(error, 'HASH_INVALID'))
    t.equal((error as Error).cause, cause)
    t.equal(problemOf(error), 'invalid key: p')
  }
  t.throws(() => fail('KEY_INVALID'), { code: 'KEY_INVALID' })
  t.notOk(isNarwharfError(cause))
  t.equal(problemOf('thrown text'), 'thrown text')
})
