import type { DriveStatus } from '../../protocol/api-drives.ts'
import type { Command } from '../command.ts'
import { EXIT } from '../exit.ts'
import { formatCount, formatDuration, formatSize, plural, printable } from '../format.ts'
import type { Output } from '../output.ts'
import { formatTable } from '../table.ts'

const UNKNOWN = '-'

function contentsOf({ shipment, cache, archives }: DriveStatus): string {
  const parts: string[] = []
  if (shipment !== undefined) {
    const part = shipment.parts > 1 ? ` ${shipment.part}/${shipment.parts}` : ''
    parts.push(`shipment${part} of ${shipment.depot}`)
  } else if (cache) {
    parts.push('cache')
  }
  if (archives.length > 0) parts.push(plural(archives.length, 'archive'))
  return parts.length === 0 ? 'nothing for narwharf' : parts.join(', ')
}

const row = (drive: DriveStatus, now: number): string[] => [
  printable(drive.name),
  drive.plugged
    ? printable(drive.dir)
    : `not plugged, seen ${formatDuration(now - Date.parse(drive.lastSeen))} ago`,
  printable(contentsOf(drive)),
  drive.paths === undefined ? UNKNOWN : formatCount(drive.paths),
  drive.narBytes === undefined ? UNKNOWN : formatSize(drive.narBytes),
]

function print(out: Output, drives: readonly DriveStatus[], now: number): void {
  if (drives.length === 0) {
    out.print('no drive was seen yet')
    return
  }
  const head = ['DRIVE', 'WHERE', 'CONTENTS', 'PATHS', 'SIZE']
  out.print(
    formatTable(
      drives.map(drive => row(drive, now)),
      { head, right: [3, 4], width: out.width },
    ),
  )
  for (const { name, problems } of drives) {
    for (const problem of problems) {
      out.print('', `${out.colors.yellow('problem:')} ${printable(name)}: ${printable(problem)}`)
    }
  }
}

/** `narwharf drives`: the drives this host knows. */
export const drives: Command = async ({ client, out }) => {
  const reply = await (await client()).drives()
  if (out.asJson) out.json(reply)
  else print(out, reply.drives, Date.now())
  return EXIT.done
}
