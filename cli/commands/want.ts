import { hostname, userInfo } from 'node:os'
import type { WantAddRequest, WantStatus } from '../../protocol/api-wants.ts'
import type { Command, Context } from '../command.ts'
import { CommandError, EXIT } from '../exit.ts'
import { formatDuration, plural, printable } from '../format.ts'
import { expressionOf, instantiate } from '../instantiate.ts'
import type { Output } from '../output.ts'
import { formatTable } from '../table.ts'
import { writeOutput } from './have.ts'

/** `user@host`; a user without a name is its number. */
function whoAsks(): string {
  try {
    return `${userInfo().username}@${hostname()}`
  } catch {
    return `${process.getuid?.() ?? 'somebody'}@${hostname()}`
  }
}

function priorityOf(value: unknown): number | undefined {
  if (typeof value !== 'string') return undefined
  if (/^[1-9]$/.test(value)) return Number(value)
  throw new CommandError(
    `${printable(value)} is no priority`,
    'give a number from 1 (most urgent) to 9',
    EXIT.usage,
  )
}

/** How much is there, in a few words. */
function standing({ kind, paths, have, fulfilled }: WantStatus): string {
  if (kind === 'pattern') return fulfilled ? plural(have, 'path') : 'nothing yet'
  if (fulfilled) return 'all here'
  return paths === 1 ? 'missing' : `${have} of ${paths}`
}

function print(out: Output, wants: readonly WantStatus[], now: number): void {
  if (wants.length === 0) {
    out.print('nothing is wished for')
    return
  }
  const rows = wants.map(want => [
    want.id,
    String(want.priority),
    printable(want.text),
    standing(want),
    printable(want.by),
    printable(want.host),
    formatDuration(now - Date.parse(want.since)),
  ])
  const head = ['ID', 'PRIORITY', 'WANT', 'THERE', 'BY', 'ON', 'SINCE']
  out.print(formatTable(rows, { head, right: [1], width: out.width }))
}

async function wishesOf(context: Context): Promise<WantAddRequest['wants']> {
  const { arguments: texts, options, io } = context
  const expression = expressionOf(options)
  const wants: WantAddRequest['wants'][number][] = texts.map(text => ({ text }))
  if (expression !== undefined) {
    const derivations = await instantiate(expression, io)
    const name = typeof options.name === 'string' ? options.name : expression.name
    wants.push({ text: name, derivations, build: options.build === true })
  }
  if (wants.length > 0) return wants
  throw new CommandError(
    'nothing was asked for',
    'give paths, .drv files, patterns such as "firefox-*", or an expression: narwharf want add --help',
    EXIT.usage,
  )
}

/** `narwharf want add`: one more wish. */
export const wantAdd: Command = async context => {
  const { client, out, options } = context
  const priority = priorityOf(options.priority)
  const wants = await wishesOf(context)
  const by = typeof options.by === 'string' ? options.by : whoAsks()
  const reply = await (await client()).wantAdd({ wants, priority, by })
  if (out.asJson) out.json(reply)
  else print(out, reply.wants, Date.now())
  return EXIT.done
}

/** `narwharf want remove`: takes wishes back. */
export const wantRemove: Command = async ({ client, out, arguments: wants }) => {
  const reply = await (await client()).wantRemove(wants)
  if (out.asJson) out.json(reply)
  else out.print(...reply.removed.map(({ text }) => `no longer wanted: ${printable(text)}`))
  return EXIT.done
}

/** `narwharf want list`: what the site wishes for. */
export const wantList: Command = async ({ client, out }) => {
  const reply = await (await client()).wants()
  if (out.asJson) out.json(reply)
  else print(out, reply.wants, Date.now())
  return EXIT.done
}

/** `narwharf want export`: the want list as a file. */
export const wantExport: Command = async ({ client, out, io, options }) => {
  const bytes = await (await client()).wantExport()
  const file = typeof options.output === 'string' ? options.output : '-'
  await writeOutput(file, bytes, io.stdout)
  if (file !== '-') out.note(`the want list is written to ${printable(file)}`)
  return EXIT.done
}
