import t from 'tap'
import {
  formatCanonicalJson,
  jsonFields,
  parseCanonicalJson,
  type JsonValue,
} from '../../protocol/canonical-json.ts'

const invalid = (problem: string): never => {
  throw new Error(problem)
}
const format = (value: JsonValue): string => formatCanonicalJson(value, invalid)
const parse = (text: string | Uint8Array) =>
  parseCanonicalJson(typeof text === 'string' ? Buffer.from(text) : text, invalid)
const nested = (levels: number): string => `${'['.repeat(levels)}${']'.repeat(levels)}`

t.test('one spelling for each value', async t => {
  const cases: [value: JsonValue, text: string][] = [
    [{}, '{}'],
    [[], '[]'],
    [null, 'null'],
    [[true, false, 0, -7, Number.MAX_SAFE_INTEGER], '[true,false,0,-7,9007199254740991]'],
    [{ b: 1, a: { d: [], c: 'x' } }, '{"a":{"c":"x","d":[]},"b":1}'],
    [{ 10: 'ten', 9: 'nine', '-': 'dash' }, '{"-":"dash","10":"ten","9":"nine"}'],
    [{ a: undefined, b: 1 }, '{"b":1}'],
    // By UTF-16 units: the clef is a pair that begins with d834, before fb33.
    [{ '\ufb33': 1, '\u{1d11e}': 2, é: 3 }, '{"é":3,"\u{1d11e}":2,"\ufb33":1}'],
    ['"\\\n\u0007/é', '"\\"\\\\\\n\\u0007/é"'],
  ]
  for (const [value, text] of cases) t.equal(format(value), text, text)
})

t.test('what has no spelling', async t => {
  let deep: JsonValue = 1
  for (let level = 0; level < 17; level++) deep = [deep]
  const cases: [name: string, value: JsonValue, problem: RegExp][] = [
    ['a fraction', 0.5, /no whole number/],
    ['minus zero', -0, /no whole number/],
    ['beyond 53 bits', 2 ** 53, /no whole number/],
    ['NaN', NaN, /no whole number/],
    ['half a character', 'a\ud800b', /half a character/],
    ['half a character in a name', { '\udfff': 1 }, /half a character/],
    ['too deep', deep, /deeper than 16/],
  ]
  for (const [name, value, problem] of cases) t.throws(() => format(value), problem, name)
})

t.test('reads what it wrote', async t => {
  t.strictSame(parse('{"a":[1,"é",null],"b":true}\n'), { a: [1, 'é', null], b: true })
  const odd = parse('{"__proto__":{"a":1},"constructor":2}\n')
  t.same(Object.keys(odd), ['__proto__', 'constructor'])
  t.equal(Object.getPrototypeOf(odd), Object.prototype)
})

t.test('reads no other spelling', async t => {
  const cases: [name: string, text: string | Uint8Array, problem: RegExp][] = [
    ['nothing', '', /JSON/],
    ['no JSON', '{"a":\n', /JSON/],
    ['a list', '[]\n', /no object/],
    ['a text', '"a"\n', /no object/],
    ['null', 'null\n', /no object/],
    ['no newline', '{}', /canonical/],
    ['two newlines', '{}\n\n', /canonical/],
    ['white space', '{ }\n', /canonical/],
    ['names in another order', '{"b":1,"a":1}\n', /canonical/],
    ['a name twice', '{"a":1,"a":2}\n', /canonical/],
    ['a number in another spelling', '{"a":1e3}\n', /canonical/],
    ['a number with a point', '{"a":1.0}\n', /canonical/],
    ['a fraction', '{"a":1.5}\n', /no whole number/],
    ['an escape that need not be', '{"a":"\\u0041"}\n', /canonical/],
    ['half a character', '{"a":"\\ud800"}\n', /half a character/],
    ['a byte order mark', '\ufeff{}\n', /JSON/],
    ['not UTF-8', Buffer.from([0x7b, 0xff, 0x7d, 0x0a]), /UTF-8/],
    ['a UTF-8 surrogate', Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22, 0x0a]), /UTF-8/],
    ['deep', `{"a":${nested(20)}}\n`, /deeper/],
    ['as deep as the stack', `{"a":${nested(200_000)}}\n`, /deeper/],
  ]
  for (const [name, text, problem] of cases) t.throws(() => parse(text), problem, name)
})

t.test('the fields of an object', async t => {
  const value = { text: 'a', number: 3, flag: false, list: ['x', 'y'], object: { text: 'b' } }
  const fields = jsonFields(value, 'it', invalid)
  t.equal(
    fields.text('text', text => text.toUpperCase()),
    'A',
  )
  t.equal(fields.optionalText('text', String), 'a')
  t.equal(fields.optionalText('none', String), undefined)
  t.equal(fields.number('number', 3, 3), 3)
  t.equal(fields.flag('flag'), false)
  t.same(fields.texts('list', 2, String), ['x', 'y'])
  t.same(
    fields.list('list', 2, (item, where) => [item, where]),
    [
      ['x', 'it.list[0]'],
      ['y', 'it.list[1]'],
    ],
  )
  t.equal(
    fields.optionalObject('object', inner => inner.text('text', String)),
    'b',
  )
  t.equal(
    fields.optionalObject('none', () => 1),
    undefined,
  )
  const refuse = (): never => invalid('refused')
  const cases: [name: string, read: () => unknown, problem: string][] = [
    ['no object', () => jsonFields([], 'that', invalid), 'that is no object'],
    ['null', () => jsonFields(null, 'that', invalid), 'that is no object'],
    ['a text', () => jsonFields('{}', 'that', invalid), 'that is no object'],
    ['an absent text', () => fields.text('none', String), 'it.none is no text'],
    ['an inherited one', () => fields.text('toString', String), 'it.toString is no text'],
    ['a number as text', () => fields.text('number', String), 'it.number is no text'],
    ['a refused text', () => fields.text('text', refuse), 'it.text: refused'],
    ['a refused item', () => fields.texts('list', 9, refuse), 'it.list[0]: refused'],
    ['too large', () => fields.number('number', 2), 'it.number is no whole number from 0 to 2'],
    ['too small', () => fields.number('number', 9, 4), 'it.number is no whole number from 4 to 9'],
    ['a text as number', () => fields.number('text', 2), 'it.text is no whole number from 0 to 2'],
    ['no flag', () => fields.flag('text'), 'it.text is neither true nor false'],
    ['no list', () => fields.texts('object', 2, String), 'it.object is no list'],
    ['too long', () => fields.texts('list', 1, String), 'it.list has more than 1 items'],
    ['no object inside', () => fields.optionalObject('list', String), 'it.list is no object'],
  ]
  for (const [name, read, problem] of cases) t.throws(read, { message: problem }, name)
})
