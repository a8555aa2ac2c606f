// Every check of the project: types, lint, format, protocol/ with full coverage, all other tests. Closes with
// `N passed, N failed, N skipped`, counted by tap itself, each of the checks counting as one.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const temp = mkdtempSync(join(tmpdir(), 'narwharf-test-'))
const bin = name => join(root, 'node_modules/.bin', name)

/** Lines of the TAP files that skip something: the reason follows the directive. */
const SKIPPED = /^\s*ok \d+(?: - (.*?))? # SKIP ?(.*)$/i

const total = { passed: 0, failed: 0, skipped: 0 }
const skips = new Map()

function run(what, command, args) {
  console.log(`\n# ${what}`)
  const started = Date.now()
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' })
  if (error) console.log(error.message)
  const passed = status === 0
  console.log(
    `# ${what}: ${passed ? 'passed' : 'FAILED'} (${Math.round((Date.now() - started) / 1000)} s)`,
  )
  return passed
}

function check(what, command, args) {
  total[run(what, command, args) ? 'passed' : 'failed'] += 1
}

/** tap's own closing line, `# { total: 6, pass: 1, fail: 2, todo: 1, skip: 2 }`; undefined when tap did not get that far. */
function readCounts(tapFile) {
  let lines
  try {
    lines = readFileSync(tapFile, 'utf8').split('\n')
  } catch {
    return undefined
  }
  let file = ''
  for (const line of lines) {
    file = /^# Subtest: (.*)$/.exec(line)?.[1] ?? file
    const [, name = '', reason = ''] = SKIPPED.exec(line) ?? []
    if (SKIPPED.test(line)) skips.set(`${file} > ${name}`, reason || 'no reason given')
  }
  const closing = lines.findLast(line => /^# \{ total: \d+/.test(line))
  if (closing === undefined) return undefined
  const count = field => Number(new RegExp(`\\b${field}: (\\d+)`).exec(closing)?.[1] ?? 0)
  return { passed: count('pass'), failed: count('fail'), skipped: count('skip') + count('todo') }
}

function tests(what, files, options) {
  const tapFile = join(temp, `${what.replaceAll(/\W+/g, '-')}.tap`)
  const passed = run(what, bin('tap'), [
    'run',
    '--reporter=terse',
    `--output-file=${tapFile}`,
    ...options,
    ...files,
  ])
  const counts = readCounts(tapFile)
  if (counts !== undefined && counts.passed + counts.failed + counts.skipped > 0) {
    for (const field of Object.keys(total)) total[field] += counts[field]
    // tap fails without a failed test when coverage falls short or a file dies between tests.
    if (!passed && counts.failed === 0) total.failed += 1
  } else {
    console.log(`# ${what}: tap counted no test`)
    total.failed += 1
  }
}

const testFiles = readdirSync(join(root, 'test'), { recursive: true, withFileTypes: true })
  .filter(entry => entry.isFile() && entry.name.endsWith('.test.ts'))
  .map(entry => relative(root, join(entry.parentPath ?? entry.path, entry.name)))
  .sort()
const isProtocol = file => file.startsWith('test/protocol/')

try {
  check('types', bin('tsc'), ['--noEmit'])
  check('lint', bin('oxlint'), ['--type-aware', '--deny-warnings'])
  check('format', bin('prettier'), ['--check', '--log-level=warn', '.'])
  const full = ['statements', 'branches', 'functions', 'lines'].map(name => `--${name}=100`)
  tests('protocol, 100 % covered', testFiles.filter(isProtocol), [
    ...full,
    '--no-allow-incomplete-coverage',
    '--coverage-report=text',
  ])
  const others = testFiles.filter(file => !isProtocol(file))
  if (others.length > 0) tests('all other tests', others, ['--disable-coverage'])
} finally {
  rmSync(temp, { recursive: true, force: true })
}

if (skips.size > 0) {
  console.log('\n# skipped')
  for (const [name, reason] of skips) console.log(`  ${name}: ${reason}`)
}
const { passed, failed, skipped } = total
console.log(`\n${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`)
process.exitCode = failed === 0 ? 0 : 1
