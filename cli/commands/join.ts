import { isIP } from 'node:net'
import type { InviterAddress } from '../client.ts'
import type { Command } from '../command.ts'
import { CommandError, EXIT } from '../exit.ts'
import { readInput } from '../input.ts'
import { standing } from './site.ts'

function parseAddress(text: string): InviterAddress {
  const [, bracketed, plain, digits] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text) ?? []
  const host = bracketed ?? plain ?? ''
  const port = Number(digits)
  if (isIP(host) !== 0 && port >= 1 && port <= 65535) return { host, port }
  throw new CommandError(
    `--address cannot be ${text}`,
    'give a numeric address and a port, such as 10.0.0.5:6280 or [fd00::5]:6280',
    EXIT.usage,
  )
}

/** `narwharf join CODE`: into the site that the code is for. */
export const join: Command = async ({ client, io, out, options, arguments: [given = ''] }) => {
  const places = Array.isArray(options.address) ? (options.address as string[]) : []
  const addresses = places.map(parseAddress)
  const code = given === '-' ? await readInput(io, out, 'the code, then Ctrl-D:') : given
  const state = await (
    await client()
  ).join(code.trim(), {
    addresses,
    leave: options.leave === true,
  })
  if (out.asJson) out.json(state)
  else out.print(standing(state))
  return EXIT.done
}
