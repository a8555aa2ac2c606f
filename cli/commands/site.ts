import type { RecoveryReply, SiteState } from '../../protocol/api.ts'
import type { Command, Context } from '../command.ts'
import { EXIT } from '../exit.ts'
import { printable } from '../format.ts'
import { readInput } from '../input.ts'

function printKey({ out }: Context, { lines }: RecoveryReply, note: string): void {
  out.note(note)
  out.print(...lines)
}

/** What a host is to its site, in one line. */
export const standing = ({ name, site, admin }: SiteState): string =>
  site === undefined
    ? `${printable(name)} belongs to no site`
    : `${printable(name)} is ${admin ? 'an admin' : 'a member'} of the site ${printable(site.name)}`

/** `narwharf site init NAME`: a new site, and its key to write down. */
export const siteInit: Command = async context => {
  const [name = ''] = context.arguments
  const reply = await (await context.client()).siteInit(name)
  if (context.out.asJson) context.out.json(reply)
  else {
    const what = `the site ${printable(reply.site)} is made; write down its key, and put it in a safe:`
    printKey(context, reply, what)
  }
  return EXIT.done
}

/** `narwharf site recovery`: the key again. */
export const siteRecovery: Command = async context => {
  const client = await context.client()
  const reply = await client.siteRecovery()
  if (context.out.asJson) context.out.json(reply)
  else printKey(context, reply, `the key of the site ${printable(reply.site)}:`)
  if (context.options.forget === true) {
    // After it was printed: what could not be shown must not be lost.
    await client.siteForgetKey()
    context.out.note('it is no longer on this host')
  }
  return EXIT.done
}

/** `narwharf site restore`: the key from paper. */
export const siteRestore: Command = async ({ client, io, out, options }) => {
  const text = await readInput(io, out, 'the four lines of the site key, then Ctrl-D:')
  const state = await (await client()).siteRecover(text, { leave: options.leave === true })
  if (out.asJson) out.json(state)
  else out.print(standing(state))
  return EXIT.done
}

/** `narwharf site admin HOST`: one more admin. */
export const siteAdmin: Command = async ({ client, out, arguments: [host = ''] }) => {
  const reply = await (await client()).promote(host)
  if (out.asJson) out.json(reply)
  else out.print(`${printable(reply.name)} is an admin now`)
  return EXIT.done
}
