#!/usr/bin/env node
// node bench/run.mjs [--rounds N] [--quick] NAME...   compiles bench/ with tsc and runs bench/NAME.ts with node.
// The daemon measured is dist/ (npm run build), in processes of its own.
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const names = readdirSync(join(root, 'bench'))
  .filter(file => file.endsWith('.ts'))
  .map(file => file.slice(0, -3))
const words = process.argv.slice(2)
const wanted = words.filter(word => names.includes(word))
if (wanted.length === 0) {
  console.error(
    `usage: node bench/run.mjs [--rounds N] [--quick] NAME...\nnames: ${names.join(', ')}`,
  )
  process.exit(2)
}

// Below node_modules, so that the compiled files find the packages; one per process, so that two runs do not meet.
const out = join(root, `node_modules/.cache/narwharf-bench-${process.pid}`)
let status = 0
try {
  mkdirSync(out, { recursive: true })
  const tsc = join(root, 'node_modules/typescript/bin/tsc')
  const compiled = spawnSync(
    process.execPath,
    [
      tsc,
      '-p',
      'tsconfig.json',
      '--outDir',
      out,
      '--declaration',
      'false',
      '--noEmitOnError',
      'false',
    ],
    { cwd: root, stdio: 'inherit' },
  )
  if (compiled.status !== 0) console.error('bench: compiled with the errors above')
  // tsc leaves out what is JavaScript already.
  mkdirSync(join(out, 'test/lab'), { recursive: true })
  cpSync(join(root, 'test/lab/chroots.mjs'), join(out, 'test/lab/chroots.mjs'))
  const options = words.filter(word => !wanted.includes(word))
  for (const name of wanted) {
    const run = spawnSync(process.execPath, [join(out, 'bench', `${name}.js`), ...options], {
      cwd: root,
      stdio: 'inherit',
    })
    status ||= run.status ?? 1
  }
} finally {
  rmSync(out, { recursive: true, force: true })
}
process.exitCode = status
