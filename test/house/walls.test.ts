import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import t from 'tap'

const root = process.cwd()

/** tap's hooks, handed on by NODE_OPTIONS, cannot load the linter's launcher: it is started without them. */
const lint = (cwd: string, folders: readonly string[]) =>
  spawnSync(
    'env',
    [
      '-u',
      'NODE_OPTIONS',
      process.execPath,
      join(root, 'node_modules/oxlint/bin/oxlint'),
      '--format=json',
      ...folders,
    ],
    { cwd, encoding: 'utf8', maxBuffer: 1 << 26 },
  )

/** File, what it imports, and words of the reason that must be shown; without words the import is allowed. */
const IMPORTS: readonly (readonly [file: string, imported: string, reason?: string])[] = [
  ['protocol/a.ts', 'node:fs', 'no I/O'],
  ['protocol/a.ts', 'node:fs/promises', 'no I/O'],
  ['protocol/a.ts', 'fs', 'no I/O'],
  ['protocol/a.ts', 'node:net', 'no I/O'],
  ['protocol/a.ts', 'node:http', 'no I/O'],
  ['protocol/a.ts', 'node:child_process', 'no I/O'],
  ['protocol/nar/a.ts', 'node:worker_threads', 'no I/O'],
  ['protocol/a.ts', 'zod', 'no package'],
  ['protocol/a.ts', '../daemon/events.ts', 'knows nothing of who uses it'],
  ['protocol/nar/a.ts', '../../daemon/catalog/catalog.ts', 'knows nothing of who uses it'],
  ['protocol/a.ts', '../cli/output.ts', 'knows nothing of who uses it'],
  ['protocol/a.ts', 'node:crypto'],
  ['protocol/nar/a.ts', '../errors.ts'],
  ['daemon/compression/a.ts', '../workers/nar-pool.ts', 'go one way'],
  ['daemon/workers/a.ts', '../compression/encoder.ts'],
  ['daemon/workers/a.ts', '../holders/holder.ts', 'go one way'],
  ['daemon/catalog/a.ts', '../holders/nix-store.ts', 'do not import one another'],
  ['daemon/catalog/a.ts', '../holders/holder.ts'],
  ['daemon/catalog/a.ts', '../substitution/substitution.ts', 'go one way'],
  ['daemon/holders/a.ts', '../catalog/catalog.ts', 'do not import one another'],
  ['daemon/holders/a.ts', '../trust/trust.ts', 'go one way'],
  ['daemon/holders/a.ts', '../workers/nar-pool.ts'],
  ['daemon/trust/a.ts', '../inventory/inventory.ts', 'do not import one another'],
  ['daemon/inventory/a.ts', '../trust/trust.ts', 'do not import one another'],
  ['daemon/trust/a.ts', '../substitution/substitution.ts', 'go one way'],
  ['daemon/trust/a.ts', '../catalog/catalog.ts'],
  ['daemon/gossip/a.ts', '../membership/membership.ts', 'do not import one another'],
  ['daemon/gossip/a.ts', '../peering/peering.ts', 'do not import one another'],
  ['daemon/discovery/a.ts', '../gossip/gossip.ts', 'do not import one another'],
  ['daemon/peering/a.ts', '../substitution/substitution.ts', 'go one way'],
  ['daemon/holders/a.ts', '../peering/peering.ts', 'go one way'],
  ['daemon/membership/a.ts', '../http/server.ts', 'go one way'],
  ['daemon/gossip/a.ts', '../catalog/catalog.ts'],
  ['daemon/peering/a.ts', '../site.ts'],
  ['daemon/drives/a.ts', '../jobs/jobs.ts', 'do not import one another'],
  ['daemon/drives/a.ts', '../trust/trust.ts', 'do not import one another'],
  ['daemon/drives/a.ts', '../substitution/substitution.ts', 'go one way'],
  ['daemon/drives/a.ts', '../drive-rooms.ts', 'Only main opens rooms'],
  ['daemon/drives/a.ts', '../holders/drive.ts'],
  ['daemon/jobs/a.ts', '../drives/drives.ts', 'do not import one another'],
  ['daemon/jobs/a.ts', '../catalog/catalog.ts'],
  ['daemon/holders/a.ts', '../drives/drive.ts', 'go one way'],
  ['daemon/inventory/a.ts', '../drives/drives.ts', 'do not import one another'],
  ['daemon/substitution/a.ts', '../drives/drive.ts'],
  ['daemon/drive-rooms.ts', './drives/drives.ts'],
  ['daemon/events.ts', './drives/drive.ts', 'they know none'],
  ['daemon/site.ts', './gossip/gossip.ts', 'they know none'],
  ['daemon/substitution/a.ts', '../http/server.ts', 'go one way'],
  ['daemon/substitution/a.ts', '../trust/trust.ts'],
  ['daemon/substitution/a.ts', '../shipments/merge.ts', 'go one way'],
  ['daemon/jobs/a.ts', '../shipments/merge.ts', 'go one way'],
  ['daemon/shipments/a.ts', '../wants/wants.ts', 'do not import one another'],
  ['daemon/shipments/a.ts', '../http/server.ts', 'go one way'],
  ['daemon/shipments/a.ts', '../merge-rooms.ts', 'Only main opens rooms'],
  ['daemon/shipments/a.ts', '../drives/drive.ts'],
  ['daemon/shipments/a.ts', '../substitution/substitution.ts'],
  ['daemon/wants/a.ts', '../shipments/merge.ts', 'do not import one another'],
  ['daemon/wants/a.ts', '../substitution/substitution.ts'],
  ['daemon/http/a.ts', '../main.ts', 'Only main opens rooms'],
  ['daemon/http/a.ts', '../state-dir.ts', 'Only main opens rooms'],
  ['daemon/http/a.ts', '../../cli/output.ts', 'does not know the command line'],
  ['daemon/http/a.ts', '../substitution/substitution.ts'],
  ['daemon/config.ts', './catalog/catalog.ts', 'they know none'],
  ['daemon/events.ts', './main.ts', 'Only main opens rooms'],
  ['daemon/main.ts', '../cli/main.ts', 'does not know the command line'],
  ['daemon/main.ts', './http/server.ts'],
  ['cli/output.ts', '../daemon/config.ts', 'over the control API'],
  ['cli/commands/status.ts', '../../daemon/main.ts', 'over the control API'],
  ['cli/commands/daemon.ts', '../../daemon/http/server.ts', 'over the control API'],
  ['cli/commands/daemon.ts', '../../daemon/main.ts'],
  ['cli/settings.ts', '../daemon/main.ts', 'over the control API'],
  ['cli/settings.ts', '../daemon/config.ts'],
  ['cli/commands/status.ts', '../../protocol/api.ts'],
]

/** The ways to import, each one line, `n` making its name its own. */
const FORMS = {
  value: (from: string, n: number) => `import { a as v${n} } from '${from}'; v${n}()`,
  type: (from: string, n: number) =>
    `import type { A as T${n} } from '${from}'; export type U${n} = T${n}`,
  lazy: (from: string, n: number) => `export const l${n} = () => import('${from}')`,
  passing: (from: string, n: number) => `export { a as p${n} } from '${from}'`,
} as const

interface Diagnostic {
  readonly code: string
  readonly help: string
  readonly filename: string
  readonly labels: readonly { readonly span: { readonly line: number } }[]
}

t.test('every wall of the house is held by the linter, whatever the form of the import', t => {
  const dir = mkdtempSync(join(tmpdir(), 'narwharf-walls-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  copyFileSync(join(root, '.oxlintrc.json'), join(dir, '.oxlintrc.json'))
  const files = new Map<string, string[]>()
  const cases = IMPORTS.flatMap(([file, imported, reason]) =>
    Object.entries(FORMS).map(([form, write], n) => {
      const lines = files.get(file) ?? []
      files.set(file, lines)
      const line = lines.push(write(imported, lines.length * 10 + n))
      return { file, imported, reason, form, line }
    }),
  )
  for (const [file, lines] of files) {
    mkdirSync(dirname(join(dir, file)), { recursive: true })
    writeFileSync(join(dir, file), `${lines.join('\n')}\n`)
  }
  const { stdout, stderr, status } = lint(dir, ['.'])
  t.equal(status, 1, `the linter fails ${stderr}`)
  const { diagnostics } = JSON.parse(stdout) as { readonly diagnostics: readonly Diagnostic[] }
  const walls = diagnostics.filter(({ code }) => code.includes('no-restricted-imports'))
  for (const { file, imported, reason, form, line } of cases) {
    const found = walls.filter(
      ({ filename, labels }) =>
        relative(dir, resolve(dir, filename)) === file && labels[0]?.span.line === line,
    )
    const name = `${file} <- ${imported} (${form})`
    if (reason === undefined) t.same(found, [], `${name} is allowed`)
    else t.match(found[0]?.help ?? '', reason, `${name}: the reason is given`)
  }
  t.end()
})

t.test('the project itself keeps to them', t => {
  const { stdout } = lint(root, ['protocol', 'daemon', 'cli'])
  const { diagnostics } = JSON.parse(stdout) as { readonly diagnostics: readonly Diagnostic[] }
  const walls = diagnostics.filter(({ code }) => /no-restricted-imports|no-cycle/.test(code))
  t.same(
    walls.map(({ filename, help }) => `${filename}: ${help}`),
    [],
  )
  t.end()
})
