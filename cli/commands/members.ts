import type { SiteMember } from '../../protocol/api.ts'
import type { Command } from '../command.ts'
import { EXIT } from '../exit.ts'
import { plural, printable } from '../format.ts'
import { formatTable } from '../table.ts'
import { standing } from './site.ts'

const STATES = {
  member: 'member',
  orphaned: 'to be invited anew',
  revoked: 'revoked',
} as const satisfies Record<SiteMember['state'], string>

/** Enough to tell hosts apart and to name one; `--json` has the whole key. */
const KEY_DIGITS = 16

const row = ({ name, key, admin, state, self }: SiteMember): string[] => [
  name === '' ? '-' : printable(name),
  admin ? 'admin' : STATES[state],
  key.slice(0, KEY_DIGITS),
  self ? 'this host' : '',
]

/** `narwharf members`: the hosts of the site. */
export const members: Command = async ({ client, out }) => {
  const reply = await (await client()).members()
  if (out.asJson) {
    out.json(reply)
    return EXIT.done
  }
  const { site } = reply.state
  out.print(standing(reply.state))
  if (site === undefined) {
    out.note('make one with narwharf site init NAME, or join one with narwharf join CODE')
    return EXIT.done
  }
  const head = ['HOST', 'STANDING', 'KEY', '']
  out.print('', formatTable(reply.members.map(row), { head, width: out.width }))
  if (site.openInvites > 0) out.note(`${plural(site.openInvites, 'invite')} open`)
  return EXIT.done
}
