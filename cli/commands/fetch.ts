import type { FetchEvent } from '../../protocol/api.ts'
import type { Command } from '../command.ts'
import { CommandError, EXIT } from '../exit.ts'
import { formatSize, plural, printable } from '../format.ts'

type Ended = Extract<FetchEvent, { event: 'end' }>

/** `narwharf fetch PATH...`: brings closures into this host's cache, one line per path. */
export const fetch: Command = async ({ client, out, io, arguments: paths }) => {
  let ended: Ended | undefined
  await (
    await client()
  ).fetch(paths, event => {
    switch (event.event) {
      case 'fetched': {
        const where = `${event.done} of ${event.paths}`
        if (!out.asJson) {
          out.note(`${printable(event.storePath)}  ${formatSize(event.narSize)}  (${where})`)
        }
        return
      }
      case 'end':
        ended = event
        return
      case 'failed':
        throw new CommandError(event.error.message, event.error.hint)
      default:
    }
  })
  if (ended === undefined) {
    throw new CommandError(
      'the daemon broke off',
      'run it again: what is in the cache already is not fetched twice',
    )
  }
  const { fetched, here, bytes, missing } = ended
  if (out.asJson) out.json({ fetched, here, bytes, missing })
  else {
    out.print(`fetched ${plural(fetched, 'path')}, ${formatSize(bytes)}; ${here} were here already`)
  }
  for (const { storePath, problem } of missing) {
    io.stderr.write(`narwharf: ${printable(storePath)}: ${printable(problem)}\n`)
  }
  if (missing.length === 0) return EXIT.done
  return fetched + here === 0 ? EXIT.failed : EXIT.partly
}
