// Every check of the project: types, lint, format, protocol/ with full coverage, all other tests. Closes with
// `N passed, N failed, N skipped`, counted by tap itself, each of the checks counting as one.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const bin = name => join(root, 'node_modules/.bin', name)

/** Lines of TAP that skip something: the reason follows the directive. */
const SKIPPED = /^\s*ok \d+(?: - (.*?))? # SKIP ?(.*)$/i

const total = { passed: 0, failed: 0, skipped: 0 }
const skips = new Map()

const seconds = since => `${Math.round((Date.now() - since) / 1000)} s`

/** Runs one check, what it prints shown as it comes; it counts as one. */
function check(what, command, args) {
  console.log(`\n# ${what}`)
  const started = Date.now()
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' })
  if (error) console.log(error.message)
  total[status === 0 ? 'passed' : 'failed'] += 1
  console.log(`# ${what}: ${status === 0 ? 'passed' : 'FAILED'} (${seconds(started)})`)
}

/** Shows of TAP what a reader wants: a line per file, failures with their details, the coverage table. */
function createDigest() {
  let inDetails = false
  return line => {
    const failure = /^\s+not ok \d/.test(line)
    if (failure) inDetails = true
    const quiet = /^(TAP version|1\.\.|# Subtest|\s+---$|# time=|$)/.test(line)
    const coverage = /^.*\|(?:\s*[\d.]+ \|){4}/.test(line)
    if (failure || inDetails || coverage || (!quiet && !/^\s/.test(line))) console.log(line)
    if (/^\s+\.\.\.$/.test(line) || (/^\s+(?:ok \d|\d+\.\.\d|# )/.test(line) && !failure)) {
      inDetails = false
    }
  }
}

/** tap's own closing line, `# { total: 6, pass: 1, fail: 2, todo: 1, skip: 2 }`; undefined when tap did not get that far. */
function readCounts(lines) {
  let file = ''
  for (const line of lines) {
    file = /^# Subtest: (.*)$/.exec(line)?.[1] ?? file
    const skip = SKIPPED.exec(line)
    if (skip) skips.set(`${file} > ${skip[1] ?? ''}`, skip[2] || 'no reason given')
  }
  const closing = lines.findLast(line => /^# \{ total: \d+/.test(line))
  if (closing === undefined) return undefined
  const count = field => Number(new RegExp(`\\b${field}: (\\d+)`).exec(closing)?.[1] ?? 0)
  return { passed: count('pass'), failed: count('fail'), skipped: count('skip') + count('todo') }
}

/** Runs test files by tap and adds its counts. */
async function tests(what, files, options) {
  console.log(`\n# ${what}`)
  const started = Date.now()
  const tap = spawn(bin('tap'), ['run', '--reporter=tap', ...options, ...files], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const digest = createDigest()
  const lines = []
  for await (const line of createInterface({ input: tap.stdout })) {
    lines.push(line)
    digest(line)
  }
  const status = tap.exitCode ?? (await once(tap, 'close'))[0]
  const counts = readCounts(lines)
  if (counts !== undefined && counts.passed + counts.failed + counts.skipped > 0) {
    for (const field of Object.keys(total)) total[field] += counts[field]
    // tap also fails without a failed test: when coverage falls short, or a file dies between two tests.
    if (status !== 0 && counts.failed === 0) total.failed += 1
  } else {
    console.log('# tap counted no test')
    total.failed += 1
  }
  console.log(`# ${what}: ${status === 0 ? 'passed' : 'FAILED'} (${seconds(started)})`)
}

const testFiles = readdirSync(join(root, 'test'), { recursive: true, withFileTypes: true })
  .filter(entry => entry.isFile() && entry.name.endsWith('.test.ts'))
  .map(entry => relative(root, join(entry.parentPath ?? entry.path, entry.name)))
  .sort()
const isProtocol = file => file.startsWith('test/protocol/')

check('types', bin('tsc'), ['--noEmit'])
check('lint', bin('oxlint'), ['--type-aware', '--deny-warnings'])
check('format', bin('prettier'), ['--check', '--log-level=warn', '.'])
const full = ['statements', 'branches', 'functions', 'lines'].map(name => `--${name}=100`)
await tests('protocol, 100 % covered', testFiles.filter(isProtocol), [
  ...full,
  '--no-allow-incomplete-coverage',
  '--coverage-report=text',
])
await tests(
  'all other tests',
  testFiles.filter(file => !isProtocol(file)),
  ['--disable-coverage'],
)

if (skips.size > 0) {
  console.log('\n# skipped')
  for (const [name, reason] of skips) console.log(`  ${name}: ${reason}`)
}
const { passed, failed, skipped } = total
console.log(`\n${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`)
process.exitCode = failed === 0 ? 0 : 1
