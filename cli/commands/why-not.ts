import { EXIT } from '../exit.ts'
import { printable } from '../format.ts'
import type { Command } from '../command.ts'
import { formatTable } from '../table.ts'

const yesNo = (offered: boolean): string => (offered ? 'yes' : 'no')

/** `narwharf why-not PATH`: whether a path is offered and, holder by holder, why not. */
export const whyNot: Command = async ({ client, out, arguments: [path = ''] }) => {
  const reply = await (await client()).whyNot(path)
  if (out.asJson) {
    out.json(reply)
    return EXIT.done
  }
  out.print(
    printable(reply.summary),
    `offered to this machine  ${yesNo(reply.offeredOnLoopback)}`,
    `offered to the network   ${yesNo(reply.offeredOnLan)}`,
  )
  if (reply.hint !== undefined) out.print(`to do  ${printable(reply.hint)}`)
  if (reply.holders.length > 0) {
    const rows = reply.holders.map(({ id, title, verdict, detail }) => [
      printable(title ?? id),
      verdict,
      printable(detail),
    ])
    out.print('', formatTable(rows, { head: ['HOLDER', 'VERDICT', 'DETAIL'], width: out.width }))
  }
  return EXIT.done
}
