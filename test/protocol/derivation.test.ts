import { existsSync, readFileSync, readdirSync } from 'node:fs'
import t from 'tap'
import {
  DERIVATION_LIST_MAX,
  DERIVATION_MAX_BYTES,
  fixedOutput,
  formatDerivation,
  parseDerivation,
} from '../../protocol/derivation.ts'
import type { Derivation } from '../../protocol/derivation.ts'
import { isNarwharfError } from '../../protocol/errors.ts'
import { hashOf } from '../../protocol/hash.ts'
import {
  computeTextPath,
  nameOf,
  parseBaseName,
  parseStorePath,
} from '../../protocol/store-path.ts'
import { mutations } from '../helpers/mutate.ts'

const GOLDEN = 'test/fixtures/protocol/drv'
const HOSTILE = 'test/fixtures/protocol/hostile'
const SHARED = '../shared/data/bad/drv'
const files = readdirSync(GOLDEN)
const read = (part: string) =>
  readFileSync(`${GOLDEN}/${files.find(file => file.slice(33) === part) ?? part}`)
const parse = (text: string) => parseDerivation(Buffer.from(text))
const PATH = `/nix/store/${'0'.repeat(32)}-x`
const HEX = 'a'.repeat(64)

/** A small derivation with other text in some places. */
const derivation = (
  parts: { outputs?: string; inputs?: string; sources?: string; args?: string; env?: string } = {},
): string => {
  const { outputs = '("out","","","")', inputs = '', sources = '', args = '', env = '' } = parts
  return `Derive([${outputs}],[${inputs}],[${sources}],"x86_64-linux","/bin/sh",[${args}],[${env}])`
}

t.test('what a real Nix wrote is read, written byte for byte, and its path computed', async t => {
  t.equal(files.length, 7)
  for (const file of files) {
    const bytes = readFileSync(`${GOLDEN}/${file}`)
    const drv = parseDerivation(bytes)
    t.equal(formatDerivation(drv), bytes.toString(), file)
    const references = [...drv.inputDerivations.keys(), ...drv.inputSources].map(path =>
      parseBaseName(path.slice('/nix/store/'.length)),
    )
    const text = { name: file.slice(33), hash: hashOf('sha256', bytes), references }
    t.equal(computeTextPath(text), `/nix/store/${file}`)
  }
})

t.test('the fields', async t => {
  const odd = parseDerivation(read('odd.drv'))
  t.equal(
    odd.env.get('odd'),
    'quote " backslash \\ newline \n return \r tab \t dollar $ umlaut äöü €',
  )
  t.equal(odd.system, 'x86_64-linux')
  t.equal(odd.builder, '/bin/sh')
  t.strictSame(odd.args, ['-c', 'echo odd > $out'])
  const many = parseDerivation(read('many-1.0.drv'))
  t.strictSame([...many.outputs.keys()], ['dev', 'out'])
  t.match(many.outputs.get('dev'), { kind: 'input-addressed', path: /-many-1\.0-dev$/ })
  t.strictSame(
    [...many.inputDerivations].map(([path, names]) => [nameOf(path), names]),
    [
      ['leaf-1.0.drv', ['out']],
      ['self-1.0.drv', ['out']],
    ],
  )
  const floating = { kind: 'floating', method: 'recursive', algorithm: 'sha256' }
  t.strictSame(parseDerivation(read('addressed.drv')).outputs.get('out'), floating)
})

t.test('kinds of outputs', async t => {
  const fixed = (algorithm: string, digits: string) =>
    `("out","${PATH}","${algorithm}","${digits}")`
  const cases: [outputs: string, kind: string][] = [
    ['("out","","","")', 'deferred'],
    [`("out","${PATH}","","")`, 'input-addressed'],
    ['("out","","sha256","")', 'floating'],
    ['("out","","r:sha512","impure")', 'impure'],
    [fixed('md5', HEX.slice(0, 32)), 'fixed'],
    [fixed('r:sha1', HEX.slice(0, 40)), 'fixed'],
    [fixed('text:sha256', HEX), 'fixed'],
    [fixed('git:sha1', HEX.slice(0, 40)), 'fixed'],
  ]
  for (const [outputs, kind] of cases) {
    const drv = parse(derivation({ outputs }))
    t.equal(drv.outputs.get('out')?.kind, kind, outputs)
    t.equal(formatDerivation(drv), derivation({ outputs }))
  }
})

t.test('fixed outputs', async t => {
  const flat = fixedOutput(parseDerivation(read('fixed.txt.drv')))
  t.match(flat, { method: 'flat', path: /-fixed\.txt$/, hash: hashOf('sha256', 'fixed\n') })
  const tree = fixedOutput(parseDerivation(read('fixed-tree.drv')))
  t.match(tree, { method: 'recursive', path: /-fixed-tree$/ })
  for (const name of ['leaf-1.0.drv', 'many-1.0.drv', 'addressed.drv']) {
    t.equal(fixedOutput(parseDerivation(read(name))), undefined, name)
  }
  for (const [kind, digits] of [
    ['text:sha256', HEX],
    ['git:sha1', HEX.slice(0, 40)],
  ] as const) {
    const experimental = parse(derivation({ outputs: `("out","${PATH}","${kind}","${digits}")` }))
    t.equal(fixedOutput(experimental), undefined, kind)
  }
  const forged = parse(derivation({ outputs: `("out","${PATH}","sha256","${HEX}")` }))
  t.throws(() => fixedOutput(forged), { code: 'DERIVATION_INVALID', message: /does not follow/ })
  const gnu = parseDerivation(
    Buffer.from(read('fixed.txt.drv').toString().replaceAll('/nix/store', '/gnu/store')),
    { storeDir: '/gnu/store' },
  )
  t.throws(() => fixedOutput(gnu), /does not follow/, 'the path depends on the store directory')
})

t.test('refused', async t => {
  const output = (name: string, path: string, algorithm: string, digits: string) =>
    derivation({ outputs: `("${name}","${path}","${algorithm}","${digits}")` })
  const cases: [name: string, text: string, problem: RegExp][] = [
    ['nothing', '', /ends too soon \(at byte 0\)/],
    ['not a derivation', '<html>', /Derive\( expected/],
    ['leading space', ` ${derivation()}`, /Derive\( expected \(at byte 0\)/],
    ['trailing newline', `${derivation()}\n`, /follows the end/],
    ['versioned', `DrvWithVersion("xp-dyn-drv",[])`, /Derive\( expected/],
    ['white space', derivation().replace(',[', ', ['), /\[ expected/],
    ['no output', derivation({ outputs: '' }), /no output/],
    [
      'two outputs of a name',
      derivation({ outputs: '("o","","",""),("o","","","")' }),
      /o given twice/,
    ],
    ['output name empty', output('', '', '', ''), /no output name/],
    ['output name climbing', output('../x', '', '', ''), /no output name/],
    ['output outside the store', output('out', '/etc/passwd', '', ''), /not below \/nix\/store/],
    ['hash without algorithm', output('out', PATH, '', HEX), /without its algorithm/],
    ['unknown algorithm', output('out', PATH, 'blake3', HEX), /unknown hash algorithm/],
    ['inherited algorithm', output('out', PATH, 'constructor', HEX), /unknown hash algorithm/],
    ['unknown method', output('out', PATH, 'x:sha256', HEX), /unknown hash algorithm/],
    ['floating with a path', output('out', PATH, 'sha256', ''), /not known yet/],
    ['impure with a path', output('out', PATH, 'sha256', 'impure'), /not known yet/],
    ['fixed without a path', output('out', '', 'sha256', HEX), /not below/],
    ['hash too short', output('out', PATH, 'sha256', 'zz'), /not 64 hex digits/],
    ['hash in nix32', output('out', PATH, 'sha256', '0'.repeat(52)), /not 64 hex digits/],
    ['hash not hex', output('out', PATH, 'sha256', 'g'.repeat(64)), /not hexadecimal/],
    ['hash in upper case', output('out', PATH, 'sha256', 'A'.repeat(64)), /upper case/],
    ['fixed of another name', output('dev', PATH, 'sha256', HEX), /named "out"/],
    ['input not a path', derivation({ inputs: '("x",["out"])' }), /not below/],
    ['input twice', derivation({ inputs: `("${PATH}",[]),("${PATH}",[])` }), /given twice/],
    ['input output name', derivation({ inputs: `("${PATH}",["a b"])` }), /no output name/],
    ['source not a path', derivation({ sources: '"/etc/passwd"' }), /not below/],
    ['source twice', derivation({ sources: `"${PATH}","${PATH}"` }), /given twice/],
    ['trailing comma', derivation({ args: '"a",' }), /" expected/],
    ['no comma', derivation({ args: '"a""b"' }), /, expected/],
    ['nested list', derivation({ args: '['.repeat(100_000) }), /" expected/],
    ['variable twice', derivation({ env: '("a","1"),("a","2")' }), /a given twice/],
    ['variable of three', derivation({ env: '("a","1","2")' }), /\) expected/],
    ['unknown escape', derivation({ args: '"\\x41"' }), /unknown escape \(at byte/],
    ['raw newline', derivation({ args: '"a\n"' }), /unescaped white space/],
    ['raw return', derivation({ args: '"a\r"' }), /unescaped white space/],
    ['raw tab', derivation({ args: '"\t"' }), /unescaped white space/],
    ['high byte escaped', derivation({ args: '"\\ä"' }), /unknown escape/],
    ['unterminated', derivation().slice(0, 11), /unterminated string/],
    ['ends behind a backslash', 'Derive([("out\\', /unterminated string/],
    ['ends in a token', 'Deri', /ends too soon/],
  ]
  for (const [name, text, message] of cases) {
    t.throws(() => parse(text), { code: 'DERIVATION_INVALID', message }, name)
  }
})

t.test('a name is one like any other', async t => {
  const text = derivation({ env: '("__proto__","x"),("constructor","y")' })
  const drv = parse(text)
  t.equal(drv.env.get('__proto__'), 'x')
  t.equal(drv.env.size, 2)
  t.notOk('x' in {})
  t.equal(formatDerivation(drv), text)
})

t.test('limits, in bounded time', async t => {
  const large = Buffer.alloc(DERIVATION_MAX_BYTES + 1)
  t.throws(() => parseDerivation(large), { message: /larger than 67108864/ })
  const items = (count: number) => derivation({ args: Array(count).fill('""').join(',') })
  t.equal(parse(items(DERIVATION_LIST_MAX)).args.length, DERIVATION_LIST_MAX)
  t.throws(() => parse(items(DERIVATION_LIST_MAX + 1)), { message: /more than 1000000 items/ })
  const started = process.cpuUsage()
  const megabytes = 4 * 1024 * 1024
  t.throws(() => parse(`Derive([("${'a'.repeat(megabytes)}`), { message: /unterminated/ })
  t.throws(() => parse(`Derive([("${'\\\\'.repeat(megabytes)}`), { message: /unterminated/ })
  const escapes = parse(derivation({ args: `"${'\\n'.repeat(megabytes)}"` }))
  t.equal(escapes.args[0]?.length, megabytes)
  const entries = Array.from({ length: 200_000 }, (_, n) => `("v${n}","")`).join(',')
  t.equal(parse(derivation({ env: entries })).env.size, 200_000)
  const { user } = process.cpuUsage(started)
  t.ok(user < 15e6, `${user / 1e6} s of CPU`)
})

t.test('a view into a larger buffer', async t => {
  const bytes = read('odd.drv')
  const larger = new Uint8Array(bytes.length + 20).fill(0x22)
  larger.set(bytes, 7)
  t.equal(formatDerivation(parseDerivation(larger.subarray(7, 7 + bytes.length))), bytes.toString())
})

/** The careful reaction to each file of shared data/bad/drv: a problem it is refused for, or what is read. */
const REACTIONS: Record<string, RegExp | ((drv: Derivation) => unknown)> = {
  '00-good-fod': drv => fixedOutput(drv)?.method === 'flat',
  '01-truncated': /unterminated string/,
  '02-unterminated-string': /unterminated string/,
  '04-outpath-outside-store': /not below/,
  '05-outpath-traversal': /invalid store path/,
  // Whoever walks inputs must remember where it has been: the file alone cannot know its own path.
  '07-inputdrv-self-cycle': drv => drv.inputDerivations.size === 1,
  '08-fod-bad-hex': /not 64 hex digits/,
  '10-fod-hash-path-mismatch': forgedPath,
  '11-fod-two-outputs': /only one and named "out"/,
  // URLs are data here; who fetches must look at them. Their paths are forged as well.
  '13-url-ssrf': forgedPath,
  '14-url-newline-shell': drv => drv.env.get('url') === 'http://x/$(touch /tmp/pwned)\n;id',
  '17-bad-escapes': /unknown escape/,
  '19-json-garbage': drv => drv.env.get('__json') === '{not json',
  '20-json-proto': drv => drv.env.size === 1 && !('polluted' in {}),
  '22-duplicate-env': /urls given twice/,
  '23-xp-dyn-version': /Derive\( expected/,
  '25-ca-floating': drv => drv.outputs.get('out')?.kind === 'floating' && isNotFixed(drv),
  '26-impure': drv => drv.outputs.get('out')?.kind === 'impure' && isNotFixed(drv),
  '28-trailing-garbage': /follows the end/,
  '29-leading-space': /Derive\( expected/,
  '31-git-hash': isNotFixed,
  '32-text-hash': isNotFixed,
}

function forgedPath(drv: Derivation): boolean {
  try {
    fixedOutput(drv)
    return false
  } catch (error) {
    return isNarwharfError(error, 'DERIVATION_INVALID')
  }
}

function isNotFixed(drv: Derivation): boolean {
  return fixedOutput(drv) === undefined
}

t.test(
  'hostile derivations of the shared data',
  { skip: !existsSync(SHARED) && `${SHARED} is absent` },
  async t => {
    for (const file of readdirSync(SHARED)) {
      const reaction = REACTIONS[file.replace('.drv', '')]
      const read = () => parseDerivation(readFileSync(`${SHARED}/${file}`))
      if (reaction === undefined) t.fail(`${file}: which reaction is careful?`)
      else if (typeof reaction === 'function') t.ok(reaction(read()), file)
      else t.throws(read, { code: 'DERIVATION_INVALID', message: reaction }, file)
    }
  },
)

t.test('hostile derivations of our own', async t => {
  const reactions: Record<string, RegExp> = {
    'not-utf8': /not UTF-8/,
    'source-twice': /given twice/,
    'escape-at-end': /unterminated string/,
    'output-name-climbs': /no output name/,
  }
  for (const [name, message] of Object.entries(reactions)) {
    const read = () => parseDerivation(readFileSync(`${HOSTILE}/${name}.drv`))
    t.throws(read, { code: 'DERIVATION_INVALID', message }, name)
  }
  const proto = parseDerivation(readFileSync(`${HOSTILE}/proto-variable.drv`))
  t.equal(proto.env.get('__proto__'), 'polluted')
})

t.test('5000 damaged derivations: read or refused, nothing else', async t => {
  let refused = 0
  for (const [seed, name] of ['odd.drv', 'many-1.0.drv', 'fixed.txt.drv'].entries()) {
    for (const bytes of mutations(read(name), 1700, seed)) {
      try {
        const drv = parseDerivation(bytes)
        if (formatDerivation(drv) !== bytes.toString()) t.fail(bytes.toString('latin1'))
        fixedOutput(drv)
      } catch (error) {
        refused++
        if (!isNarwharfError(error, 'DERIVATION_INVALID')) t.error(error, bytes.toString('latin1'))
      }
    }
  }
  t.ok(refused > 2000 && refused < 5100, `${refused} refused`)
})

t.test('a path of another store', async t => {
  const path = parseStorePath(PATH.replace('nix', 'gnu'), '/gnu/store')
  const text = derivation({ sources: `"${path}"` })
  t.throws(() => parse(text), { code: 'DERIVATION_INVALID' })
  const drv = parseDerivation(Buffer.from(text), { storeDir: '/gnu/store' })
  t.strictSame(drv.inputSources, [path])
})
