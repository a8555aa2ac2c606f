import type { PathHolders, WhoHasResult } from '../../protocol/api.ts'
import { EXIT } from '../exit.ts'
import { formatSize, plural, printable } from '../format.ts'
import type { Command } from '../command.ts'
import type { Output } from '../output.ts'

type Holding = PathHolders['holders'][number]

const stateOf = ({ kind, up, lastSeen, mountPoint }: Holding): string => {
  if (kind === 'drive') {
    if (up) return mountPoint === undefined ? 'plugged' : `plugged, ${mountPoint}`
    return lastSeen === undefined ? 'not plugged' : `last seen here on ${lastSeen}, not plugged`
  }
  return up ? 'up' : lastSeen === undefined ? 'down' : `down, last seen ${lastSeen}`
}

/** A peer is its host: its key would push what people read off the line, and `--json` has it. A drive has a name. */
const nameOf = ({ id, kind, name }: Holding): string =>
  kind === 'peer' ? 'peer' : kind === 'drive' ? `on drive ${name ?? id}` : id

/** A path whole on a line of its own, so that it can be copied; its holders below, in columns. */
function print(out: Output, matches: readonly PathHolders[]): void {
  const holders = matches.flatMap(match => match.holders)
  const width = (text: (holder: Holding) => string): number =>
    Math.max(...holders.map(holder => printable(text(holder)).length))
  const idWidth = width(nameOf)
  const hostWidth = width(({ host }) => host)
  for (const { storePath, narSize, holders: own } of matches) {
    const size = narSize === undefined ? '' : `  ${formatSize(narSize)}`
    out.print(`${out.colors.bold(printable(storePath))}${size}`)
    for (const holder of own) {
      const id = printable(nameOf(holder)).padEnd(idWidth)
      const host = printable(holder.host).padEnd(hostWidth)
      out.print(`  ${id}  ${host}  ${printable(stateOf(holder))}`)
    }
  }
}

const answered = ({ matches }: WhoHasResult): boolean =>
  matches.some(({ holders }) => holders.length > 0)

/** `narwharf who-has QUERY...`: holders of store paths. */
export const whoHas: Command = async ({ client, out, io, arguments: queries }) => {
  const reply = await (await client()).whoHas(queries)
  const { results } = reply
  if (out.asJson) {
    out.json(reply)
  } else {
    print(
      out,
      results.flatMap(({ matches }) => matches),
    )
    for (const { query, more } of results.filter(result => result.more > 0)) {
      out.note(`${printable(query)}: and ${plural(more, 'path')} more (ask more narrowly)`)
    }
  }
  const missing = results.filter(result => !answered(result))
  for (const { query, problem } of missing) {
    const why = problem === undefined ? 'nobody has it' : problem
    io.stderr.write(`narwharf: ${printable(query)}: ${printable(why)}\n`)
  }
  if (missing.length === 0) return EXIT.done
  return missing.length === results.length ? EXIT.failed : EXIT.partly
}
