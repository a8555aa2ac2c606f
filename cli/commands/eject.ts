import type { Command } from '../command.ts'
import { EXIT } from '../exit.ts'
import { printable } from '../format.ts'

/** `narwharf eject DRIVE`: safe to unplug. */
export const eject: Command = async ({ client, out, arguments: [drive = ''] }) => {
  const reply = await (await client()).eject(drive)
  const { name, mountPoint, unmounted, hint } = reply
  if (out.asJson) out.json(reply)
  else if (unmounted) out.print(`${printable(name)} is unmounted: unplug it`)
  else {
    const what = hint === undefined ? '' : `: ${hint}`
    out.print(`${printable(name)} is not used any more; safe to unmount${printable(what)}`)
    out.note(`it is still mounted at ${printable(mountPoint)}`)
  }
  return unmounted ? EXIT.done : EXIT.partly
}
