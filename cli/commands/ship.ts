import { resolve } from 'node:path'
import type { ShipRequest, ShipResult } from '../../protocol/api-shipments.ts'
import type { Command, Context } from '../command.ts'
import { CommandError, EXIT } from '../exit.ts'
import { exitOfJob, followJob } from '../follow-job.ts'
import { formatCount, formatSize, plural, printable } from '../format.ts'
import type { Io, Output } from '../output.ts'
import { resolveRoots } from '../roots.ts'
import { formatTable } from '../table.ts'

/** Paths told to a person of what is left or missing; `--json` has more. */
const SHOWN = 20

const isUrl = (text: string): boolean => /^https?:\/\//i.test(text)

/** A number of parts as a person writes it. */
function numberOf(flag: string, value: unknown): number | undefined {
  if (value === undefined) return undefined
  const text = typeof value === 'string' ? value : ''
  if (/^[1-9]\d{0,3}$/.test(text)) return Number(text)
  throw new CommandError(
    `${flag} ${printable(text)} is no number of drives`,
    'give a whole number from 1 on',
    EXIT.usage,
  )
}

/** SOURCE_DATE_EPOCH as a time: the same shipment to the byte. */
function dateOf({ env }: Io): string | undefined {
  const seconds = env.SOURCE_DATE_EPOCH
  if (seconds === undefined || !/^\d{1,11}$/.test(seconds)) return undefined
  return new Date(Number(seconds) * 1000).toISOString()
}

const filesOf = (value: unknown): string[] | undefined =>
  typeof value === 'string' ? [resolve(value)] : undefined

const textOf = (value: unknown): string | undefined =>
  typeof value === 'string' ? value : undefined

async function requestOf(context: Context): Promise<ShipRequest> {
  const { arguments: args, options, io, out } = context
  const [dir = '', ...texts] = args
  const { config } = await context.settings()
  const { from, part, split } = options
  const wish = {
    split: numberOf('--split', split),
    part: numberOf('--part', part),
  }
  if (wish.part !== undefined && wish.part > (wish.split ?? 1)) {
    throw new CommandError(
      `--part ${wish.part} of ${wish.split ?? 1} does not exist`,
      'say how many drives there are: --split N',
      EXIT.usage,
    )
  }
  const where = textOf(from)
  const channels = textOf(options.channel)?.split(',')
  const files = { have: filesOf(options.have), want: filesOf(options.want) }
  const roots = await resolveRoots(texts, config.store.dir, io, out)
  const isNothing =
    roots.length === 0 &&
    files.want === undefined &&
    channels === undefined &&
    options.channels !== true
  if (isNothing) {
    throw new CommandError(
      'nothing to pack was named',
      'name store paths, .drv files or a list of them, or give a want list: --want FILE',
      EXIT.usage,
    )
  }
  return {
    ...wish,
    ...files,
    ...{ dir: resolve(dir), roots, channels, createdAt: dateOf(io) },
    from: where === undefined || isUrl(where) ? where : resolve(where),
    sizeLimit: textOf(options.sizeLimit),
    maxFileSize: textOf(options.maxFileSize),
    name: textOf(options.name),
    allChannels: options.channels === true || undefined,
    replace: options.replace === true || undefined,
    verify: options.verify === true || undefined,
    dryRun: options.dryRun === true || undefined,
  }
}

function print(out: Output, result: ShipResult): void {
  const { parts, of, dryRun, had, room } = result
  const rows = parts.map(part => [
    of === 1 ? result.name : `${result.name} ${part.part}/${of}`,
    formatCount(part.paths),
    formatSize(part.narBytes),
    formatSize(part.fileBytes),
    formatCount(part.there),
    dryRun ? '-' : formatSize(part.writtenBytes),
  ])
  const head = ['DRIVE', 'PATHS', 'UNPACKED', dryRun ? 'AT MOST' : 'PACKED', 'THERE', 'WRITTEN']
  out.print(
    ...formatTable(
      rows.map(row => row.map(printable)),
      {
        ...{ head, right: [1, 2, 3, 4, 5] },
        width: out.width,
      },
    ).split('\n'),
  )
  if (had > 0) out.note(`${plural(had, 'path')} they have already, with all below, do not go`)
  if (dryRun && room !== undefined) out.note(`there is room for ${formatSize(room)}`)
}

function listRest({ stderr }: Io, result: ShipResult): void {
  const { left, leftPaths, leftBytes, missing, missingPaths } = result
  if (leftPaths > 0) {
    stderr.write(
      `narwharf: ${plural(leftPaths, 'path')} of ${formatSize(leftBytes)} found no room:\n`,
    )
    for (const path of left.slice(0, SHOWN)) stderr.write(`  ${printable(path)}\n`)
    if (leftPaths > SHOWN) stderr.write(`  and ${formatCount(leftPaths - SHOWN)} more\n`)
  }
  if (missingPaths > 0) {
    stderr.write(`narwharf: ${plural(missingPaths, 'path')} could not be had:\n`)
    for (const { storePath, problem } of missing.slice(0, SHOWN)) {
      stderr.write(`  ${printable(storePath)}: ${printable(problem)}\n`)
    }
    if (missingPaths > SHOWN) stderr.write(`  and ${formatCount(missingPaths - SHOWN)} more\n`)
  }
}

/** `narwharf ship DIR [ROOT...]`: packs a shipment. */
export const ship: Command = async context => {
  const { client, io, out } = context
  const request = await requestOf(context)
  const asked = await client()
  const job = await followJob(io, out, onEvent => asked.startJob('ship', request, onEvent))
  const result = job.result as ShipResult | undefined
  if (result !== undefined) {
    if (out.asJson) out.json(result)
    else print(out, result)
    listRest(io, result)
  }
  return exitOfJob(job)
}
