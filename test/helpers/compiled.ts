import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import ts from 'typescript'
import type { Scope } from './scope.ts'

/** What a program of test/helpers may need. */
const FOLDERS = ['protocol', 'daemon', 'test/helpers'] as const

/**
 * Makes JavaScript of the sources in a folder that goes with the scope, for processes that are started again and again: each
 * thread of one that reads TypeScript takes a second to start. Types are not checked.
 */
export function compileSources(scope: Scope): string {
  const root = process.cwd()
  // Below node_modules, so that packages are found.
  const out = join(root, `node_modules/.cache/narwharf-test-${process.pid}`)
  scope.teardown(() => rmSync(out, { recursive: true, force: true }))
  const files = FOLDERS.flatMap(folder =>
    readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
      .filter(entry => entry.isFile())
      .map(entry => relative(root, join(entry.parentPath, entry.name))),
  )
  for (const file of files) {
    const target = join(out, file)
    mkdirSync(dirname(target), { recursive: true })
    if (!file.endsWith('.ts') || file.endsWith('.d.ts')) {
      copyFileSync(join(root, file), target)
      continue
    }
    const { outputText } = ts.transpileModule(readFileSync(join(root, file), 'utf8'), {
      compilerOptions: {
        module: ts.ModuleKind.ESNext,
        target: ts.ScriptTarget.ES2023,
        rewriteRelativeImportExtensions: true,
      },
    })
    writeFileSync(target.replace(/\.ts$/, '.js'), outputText)
  }
  return out
}
