import type { Command } from '../command.ts'
import { CommandError, EXIT } from '../exit.ts'
import { formatDuration, printable } from '../format.ts'

const UNITS_MS = { s: 1000, min: 60_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const

function parseSpan(text: unknown): number | undefined {
  if (typeof text !== 'string') return undefined
  const [, amount = '', unit = ''] = /^(\d{1,6})\s*(s|min|m|h|d)$/.exec(text.trim()) ?? []
  const ms = Number(amount) * (UNITS_MS[unit as keyof typeof UNITS_MS] ?? 0)
  if (ms > 0) return ms
  throw new CommandError(
    `--expires cannot be ${text}`,
    'give a number and s, min, h or d, such as 24h',
    EXIT.usage,
  )
}

/** `narwharf invite`: a code that lets one host in; alone on the last line. */
export const invite: Command = async ({ client, out, options }) => {
  const expiresInMs = parseSpan(options.expires)
  const name = typeof options.name === 'string' ? options.name : undefined
  const wish = { expiresInMs, name, admin: options.admin === true }
  const reply = await (await client()).invite(wish)
  if (out.asJson) {
    out.json(reply)
    return EXIT.done
  }
  const until = formatDuration(reply.expiresInMs)
  out.note(`lets one host into the site ${printable(reply.site)}, once, within ${until};`)
  out.note('on that host: narwharf join CODE')
  out.print(reply.code)
  return EXIT.done
}
