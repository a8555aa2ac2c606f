import { readFile, stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import type {
  MissingEvent,
  MissingGroup,
  MissingPath,
  MissingPlace,
  MissingReason,
  MissingReply,
  MissingRequest,
  Whereabouts,
} from '../../protocol/api-wants.ts'
import { HAVE_DIGEST_MAX_BYTES } from '../../protocol/have-digest.ts'
import type { Command, Context } from '../command.ts'
import { CommandError, EXIT } from '../exit.ts'
import { formatCount, formatSize, plural, printable } from '../format.ts'
import { expressionOf, instantiate } from '../instantiate.ts'
import type { Output } from '../output.ts'
import { resolveRoots } from '../roots.ts'

/** Paths of a group shown to a person; `--paths` and `--json` have all. */
const SHOWN = 20

const HEADINGS: Readonly<Record<MissingReason, string>> = {
  elsewhere: 'the site has it, this place has not',
  upstream: 'an upstream cache has it',
  away: 'who has it is off, or it is on a drive that is not plugged',
  untrusted: 'somebody has it, but nobody trusted answers for it',
  source: 'a source to be fetched',
  buildable: 'can be built from what is there',
  unknown: 'nobody has it',
}

async function digestOf(file: string): Promise<string> {
  try {
    const { size } = await stat(file)
    if (size > HAVE_DIGEST_MAX_BYTES) throw new Error('it is too large for a have digest')
    return (await readFile(file)).toString('base64')
  } catch (error) {
    throw new CommandError(
      `${printable(file)} cannot be read: ${(error as Error).message}`,
      'name a file that narwharf have -o wrote',
      EXIT.failed,
      error,
    )
  }
}

async function placeOf({ options }: Context): Promise<MissingPlace> {
  const { here, cache, drive, have } = options
  const given = [here === true, cache, drive, have].filter(
    one => one !== undefined && one !== false,
  )
  if (given.length > 1) {
    throw new CommandError(
      'more than one place was given',
      'give one of --here, --cache, --drive and --have, or none for the site',
      EXIT.usage,
    )
  }
  if (here === true) return { kind: 'here' }
  if (typeof cache === 'string') {
    return { kind: 'cache', cache: /^[a-z]+:\/\//.test(cache) ? cache : resolve(cache) }
  }
  if (typeof drive === 'string') return { kind: 'drive', drive }
  if (typeof have === 'string') return { kind: 'have', have: await digestOf(have), name: have }
  return { kind: 'site' }
}

async function requestOf(context: Context): Promise<MissingRequest> {
  const { arguments: texts, options, io, out } = context
  const place = await placeOf(context)
  const expression = expressionOf(options)
  const { config } = await context.settings()
  const roots = await resolveRoots(texts, config.store.dir, io, out)
  if (expression !== undefined) roots.push(...(await instantiate(expression, io)))
  const wants = options.wants === true
  if (roots.length === 0 && !wants) {
    throw new CommandError(
      'no root was given',
      'give store paths, .drv files, a list of paths, an expression, or --wants',
      EXIT.usage,
    )
  }
  return { roots, wants, build: options.build === true, place }
}

function whereText({ host, up, drive, plugged, lastSeen }: Whereabouts): string {
  const when = lastSeen === undefined ? '' : ` on ${lastSeen}`
  if (drive === undefined)
    return up ? host : `${host}, off${when === '' ? '' : `, last seen${when}`}`
  if (plugged !== true) return `on drive ${drive}, last seen on ${host}${when}, not plugged`
  return `on drive ${drive}, plugged at ${host}${up ? '' : ', which is off'}`
}

/** One line below a missing path, where there is something to say. */
function detailOf({ where = [], urls = [] }: MissingPath): string | undefined {
  if (urls.length > 0) return urls[0]
  return where.length === 0 ? undefined : where.map(whereText).join('; ')
}

const sizes = ({ narBytes, fileBytes, unsized, paths }: MissingGroup): string => {
  if (unsized === paths) return ''
  const unpacked = `, ${formatSize(narBytes)} unpacked`
  const packed = fileBytes > 0 ? `, ${formatSize(fileBytes)} to fetch` : ''
  return `${unpacked}${packed}${unsized > 0 ? `, ${formatCount(unsized)} of unknown size` : ''}`
}

function printPaths(out: Output, paths: readonly MissingPath[]): void {
  for (const path of paths.slice(0, SHOWN)) {
    const size = path.narSize === undefined ? '' : `  ${formatSize(path.narSize)}`
    out.print(`  ${printable(path.storePath)}${size}`)
    const detail = detailOf(path)
    if (detail !== undefined) out.print(`    ${printable(detail)}`)
  }
  if (paths.length > SHOWN) out.print(`  and ${formatCount(paths.length - SHOWN)} more (--paths)`)
}

function print(out: Output, reply: MissingReply): void {
  const { place, closure, missing, groups, sourcesToBuild } = reply
  for (const group of groups) {
    out.print(
      out.colors.bold(`${HEADINGS[group.reason]}: ${plural(group.paths, 'path')}${sizes(group)}`),
    )
    printPaths(
      out,
      missing.filter(({ reason }) => reason === group.reason),
    )
  }
  if (sourcesToBuild.length > 0) {
    out.print(
      out.colors.bold(
        `to build the rest, ${plural(sourcesToBuild.length, 'source')} would have to come`,
      ),
    )
    printPaths(out, sourcesToBuild)
  }
  const summary =
    missing.length === 0
      ? `nothing is missing: ${printable(place)} has all ${plural(closure, 'path')}`
      : `${printable(place)} lacks ${formatCount(missing.length)} of ${plural(closure, 'path')}`
  out.print(summary)
}

function noteDoubts(out: Output, { unsure, derivationsAbsent }: MissingReply): void {
  if (unsure > 0) {
    out.note(`of ${plural(unsure, 'path')} that are there, nobody here knows what they refer to`)
  }
  if (derivationsAbsent.length > 0) {
    out.note(
      `not looked into, as they are not here: ${derivationsAbsent.slice(0, 3).map(printable).join(', ')}` +
        (derivationsAbsent.length > 3 ? ` and ${derivationsAbsent.length - 3} more` : ''),
    )
  }
}

/** `narwharf missing ROOT...`: what a closure needs and a place lacks. */
export const missing: Command = async context => {
  const { client, out, options } = context
  const request = await requestOf(context)
  let ended: Extract<MissingEvent, { event: 'end' }> | undefined
  await (
    await client()
  ).missing(request, event => {
    if (event.event === 'failed') throw new CommandError(event.error.message, event.error.hint)
    if (event.event === 'end') ended = event
    else
      out.note(`${plural(event.looked, 'path')} looked at, ${formatCount(event.missing)} missing`)
  })
  if (ended === undefined) {
    throw new CommandError('the daemon broke off', 'look at its log: journalctl -u narwharf')
  }
  const { event: _, ...reply } = ended
  if (out.asJson) out.json(reply)
  else if (options.paths === true) out.print(...reply.missing.map(({ storePath }) => storePath))
  else print(out, reply)
  noteDoubts(out, reply)
  return reply.missing.length === 0 ? EXIT.done : EXIT.partly
}
