import type { Command } from '../command.ts'
import { EXIT } from '../exit.ts'
import { printable } from '../format.ts'

/** `narwharf revoke HOST`: shut out for good. */
export const revoke: Command = async ({ client, out, options, arguments: [host = ''] }) => {
  const reply = await (await client()).revoke(host, { entirely: options.entirely === true })
  if (out.asJson) {
    out.json(reply)
    return EXIT.done
  }
  out.print(`${printable(reply.name)} is revoked`)
  const list = (names: readonly string[]) => names.map(printable).join(', ')
  if (reply.kept.length > 0) {
    out.note(`signed anew, as they stood by its word alone: ${list(reply.kept)}`)
    out.note('revoke those that you do not know: narwharf members')
  }
  if (reply.back.length > 0) {
    out.note(`members again, as only it had revoked them: ${list(reply.back)}`)
  }
  return EXIT.done
}
