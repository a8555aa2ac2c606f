import type { PeerStatus } from '../../protocol/api.ts'
import type { Command } from '../command.ts'
import { EXIT } from '../exit.ts'
import { formatCount, formatDuration, formatSize, printable } from '../format.ts'
import type { Output } from '../output.ts'
import { formatTable } from '../table.ts'

const UNKNOWN = '-'

function lastSeen(peer: PeerStatus, now: number): string {
  if (peer.up) return 'now'
  if (peer.lastSeen === undefined) return 'never'
  return `${formatDuration(now - Date.parse(peer.lastSeen))} ago`
}

const row = (peer: PeerStatus, now: number): string[] => [
  printable(peer.name),
  peer.up ? 'up' : 'down',
  lastSeen(peer, now),
  formatCount(peer.paths),
  formatSize(peer.narBytes),
  peer.address ?? UNKNOWN,
]

function print(out: Output, peers: readonly PeerStatus[], now: number): void {
  if (peers.length === 0) {
    out.print('no other host of the site is known yet')
    return
  }
  const head = ['HOST', 'STATE', 'LAST SEEN', 'PATHS', 'SIZE', 'ADDRESS']
  const table = { head, right: [3, 4], width: out.width }
  out.print(
    formatTable(
      peers.map(peer => row(peer, now)),
      table,
    ),
  )
  for (const { name, problem, lag } of peers) {
    if (problem !== undefined) {
      out.print('', `${out.colors.yellow('problem:')} ${printable(name)}: ${printable(problem)}`)
    } else if (lag > 0) {
      out.print('', `${printable(name)}: ${formatCount(lag)} blocks of its index are on their way`)
    }
  }
}

/** `narwharf peers`: the other hosts of the site. */
export const peers: Command = async ({ client, out }) => {
  const reply = await (await client()).peers()
  if (out.asJson) out.json(reply)
  else print(out, reply.peers, Date.now())
  return EXIT.done
}
