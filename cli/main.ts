#!/usr/bin/env -S node --max-semi-space-size=2 --v8-pool-size=1
import { basename, relative } from 'node:path'
import { run } from './run.ts'

// `narwharf status | head -1` closes the pipe early, which is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0)
  throw error
})

/** The installed command, or this file as a clone runs it. */
const script = process.argv[1] ?? ''
const program = basename(script) === 'narwharf' ? 'narwharf' : `node ${relative('', script)}`

const { stdin, stdout, stderr, env } = process
process.exitCode = await run(process.argv.slice(2), { stdin, stdout, stderr, env, program })
