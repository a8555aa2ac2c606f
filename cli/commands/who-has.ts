import type { PathHolders, WhoHasResult } from '../../protocol/api.ts'
import { EXIT } from '../exit.ts'
import { formatSize, plural, printable } from '../format.ts'
import type { Command } from '../command.ts'
import { formatTable } from '../table.ts'

type Holding = PathHolders['holders'][number]

const stateOf = ({ up, lastSeen }: Holding): string =>
  up ? 'up' : lastSeen === undefined ? 'down' : `down, last seen ${lastSeen}`

/** A row per holder; the path and its size stand at its first. */
const rowsOf = ({ storePath, narSize, holders }: PathHolders): string[][] =>
  holders.map((holder, i) => [
    i === 0 ? printable(storePath) : '',
    i > 0 || narSize === undefined ? '' : formatSize(narSize),
    printable(holder.id),
    printable(holder.host),
    printable(stateOf(holder)),
  ])

const answered = ({ matches }: WhoHasResult): boolean =>
  matches.some(({ holders }) => holders.length > 0)

/** `narwharf who-has QUERY...`: holders of store paths. */
export const whoHas: Command = async ({ client, out, io, arguments: queries }) => {
  const reply = await (await client()).whoHas(queries)
  const { results } = reply
  if (out.asJson) {
    out.json(reply)
  } else {
    const rows = results.flatMap(({ matches }) => matches.flatMap(rowsOf))
    const head = ['PATH', 'SIZE', 'HOLDER', 'HOST', 'STATE']
    if (rows.length > 0) out.print(formatTable(rows, { head, right: [1], width: out.width }))
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
