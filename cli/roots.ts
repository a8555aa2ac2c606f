import { readFile, realpath, stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import { CommandError, EXIT } from './exit.ts'
import { printable } from './format.ts'
import { readInput } from './input.ts'
import type { Io, Output } from './output.ts'

// What a person names as roots of a closure, as store paths: paths, links into the store, lists of them.

/** Bytes of a list: every path of a large channel. */
const LIST_MAX_BYTES = 32 * 1024 * 1024

/** The path below the store directory that a path is or lies in; undefined where it is elsewhere. */
function inStore(path: string, storeDir: string): string | undefined {
  if (!path.startsWith(`${storeDir}/`)) return undefined
  const [name = ''] = path.slice(storeDir.length + 1).split('/')
  return name === '' ? undefined : `${storeDir}/${name}`
}

const linesOf = (text: string): string[] =>
  text
    .split('\n')
    .map(line => line.trim())
    .filter(line => line !== '' && !line.startsWith('#'))

async function rootsOf(text: string, storeDir: string): Promise<string[]> {
  const named = inStore(text, storeDir)
  if (named !== undefined) return [named]
  const unknown = (problem: string): never => {
    throw new CommandError(
      `${printable(text)} is nothing to pack: ${problem}`,
      'name store paths, .drv files, links into the store such as ./result, or a file with a list of paths',
      EXIT.usage,
    )
  }
  const path = resolve(text)
  const real = await realpath(path).catch((error: Error) => unknown(error.message))
  const linked = inStore(real, storeDir)
  if (linked !== undefined) return [linked]
  const facts = await stat(real)
  if (!facts.isFile()) return unknown('it leads to nothing in the store')
  if (facts.size > LIST_MAX_BYTES) return unknown(`a list of more than ${LIST_MAX_BYTES} bytes`)
  return linesOf(await readFile(real, 'utf8')).map(
    line => inStore(line, storeDir) ?? unknown(`its line “${line.slice(0, 100)}” is no store path`),
  )
}

/**
 * Store paths of the roots a person named: store paths, `.drv` files, links and profiles that lead into the store, files with a
 * path a line, `-` for such a list on standard input. Throws CommandError.
 */
export async function resolveRoots(
  texts: readonly string[],
  storeDir: string,
  io: Io,
  out: Output,
): Promise<string[]> {
  const roots: string[] = []
  for (const text of texts) {
    if (text !== '-') roots.push(...(await rootsOf(text, storeDir)))
    else {
      const list = await readInput(
        io,
        out,
        'one store path a line, ended by Ctrl-D:',
        LIST_MAX_BYTES,
      )
      roots.push(...linesOf(list))
    }
  }
  return [...new Set(roots)]
}
