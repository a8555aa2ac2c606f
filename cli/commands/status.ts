import type { HolderStatus, StatusReply } from '../../protocol/api.ts'
import { EXIT } from '../exit.ts'
import { formatCount, formatDuration, formatSize, plural, printable } from '../format.ts'
import type { Output } from '../output.ts'
import type { Command } from '../command.ts'
import { formatTable } from '../table.ts'

const UNKNOWN = '-'

const holderRow = (holder: HolderStatus): string[] => [
  printable(holder.title ?? holder.id),
  holder.up ? 'up' : 'down',
  holder.paths === undefined ? UNKNOWN : formatCount(holder.paths),
  holder.narBytes === undefined ? UNKNOWN : formatSize(holder.narBytes),
]

function print(out: Output, status: StatusReply, now: number): void {
  const { colors } = out
  const { served, http } = status
  const up = formatDuration(now - Date.parse(status.startedAt))
  const reach = http.openToLan ? 'this machine and the network' : 'this machine only'
  out.print(
    `${colors.bold(printable(status.hostName))}  narwharf ${status.version}, up ${up}, pid ${status.pid}`,
    `address  ${http.url} (${reach})`,
    `key      ${status.publicKey}`,
    `state    ${printable(status.stateDir)}`,
    `memory   ${formatSize(status.memoryBytes)}`,
    `served   ${plural(served.narinfos, 'narinfo')} (${formatCount(served.misses)} not held), ` +
      `${plural(served.nars, 'NAR')}, ${formatSize(served.narBytes)}`,
    '',
  )
  if (status.holders.length > 0) {
    const head = ['HOLDER', 'STATE', 'PATHS', 'SIZE']
    const table = { head, right: [2, 3], width: out.width }
    out.print(formatTable(status.holders.map(holderRow), table))
  } else {
    out.print('no holder: nothing is served')
  }
  for (const { what, hint } of status.problems) {
    out.print('', `${colors.yellow('problem:')} ${printable(what)}`, `  ${printable(hint)}`)
  }
}

/** `narwharf status`: the daemon of this host. */
export const status: Command = async ({ client, out }) => {
  const reply = await (await client()).status()
  if (out.asJson) out.json(reply)
  else print(out, reply, Date.now())
  return EXIT.done
}
