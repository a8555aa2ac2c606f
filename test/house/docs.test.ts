import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { ERRORS, type ErrorEntry } from '../../protocol/errors.ts'

const FILE = 'docs/errors.md'

const HEAD = `# Errors

Every error that narwharf raises about data or state has a stable code: in \`--json\` output and in API replies as
\`error.code\`, in the log as \`code\`. \`{field}\` stands for a fact of the case. Written from \`protocol/errors.ts\` by
\`npx tap run --snapshot test/house/docs.test.ts\`.
`

const escape = (text: string): string =>
  text.replaceAll('<', '&lt;').replaceAll('_', '\\_').replaceAll('*', '\\*')

const section = ([code, { message, hint }]: [string, ErrorEntry]): string =>
  `\n## \`${code}\`\n\n${escape(message)}\n\nWhat to do: ${escape(hint)}\n`

t.test('docs/errors.md says what protocol/errors.ts says', async t => {
  const wanted = HEAD + Object.entries(ERRORS).map(section).join('')
  if (process.env.TAP_SNAPSHOT === '1') writeFileSync(FILE, wanted)
  t.equal(readFileSync(FILE, 'utf8'), wanted, 'write it anew with tap run --snapshot')
})

t.test('the map names every room', async t => {
  const map = readFileSync('ARCHITECTURE.md', 'utf8')
  const rooms = readdirSync('daemon', { withFileTypes: true }).filter(entry => entry.isDirectory())
  for (const { name } of rooms) t.match(map, `\`daemon/${name}/\``, name)
})
