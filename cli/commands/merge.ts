import { resolve } from 'node:path'
import { existsSync } from 'node:fs'
import type { JobStatus, MergeResult, MergeWish } from '../../protocol/api-jobs.ts'
import type { Command, Context } from '../command.ts'
import { exitOfJob, followJob } from '../follow-job.ts'
import { formatSize, plural, printable } from '../format.ts'
import type { Output } from '../output.ts'

/** A folder is named as the user sees it; the daemon stands elsewhere. */
const placeOf = (text: string): string =>
  text.includes('/') || existsSync(text) ? resolve(text) : text

/** Paths that went wrong, on stderr as in other commands: the result itself stays short. */
function complain({ io }: Context, result: MergeResult): void {
  const say = (what: string, problem: string): void =>
    void io.stderr.write(`narwharf: ${printable(what)}: ${printable(problem)}\n`)
  for (const { storePath, lacking } of result.parkedPaths) {
    say(storePath, `left out, as nobody has what it refers to: ${lacking}`)
  }
  for (const { storePath, problem } of result.refusedPaths) say(storePath, problem)
  for (const { file, problem } of result.files?.damagedFiles ?? []) say(file, problem)
  for (const storePath of result.wantsMissing?.storePaths ?? []) say(storePath, 'still wished for')
  if (result.receiptProblem !== undefined) say('no receipt', result.receiptProblem)
}

function print(out: Output, job: JobStatus, result: MergeResult): void {
  const { shipment, files } = result
  const origin =
    shipment === undefined
      ? ''
      : ` (part ${shipment.part} of ${shipment.parts} by ${shipment.depot})`
  const line = (count: number, about: string): string[] =>
    count === 0 ? [] : [`  ${plural(count, 'path')} ${about}`]
  out.print(
    `${printable(job.title)}${printable(origin)}: ${job.state}`,
    `  ${plural(result.came, 'path')} came, ${formatSize(result.bytes)}`,
    ...line(result.wasThere, 'here already'),
    ...line(result.elsewhere, 'kept by other hosts'),
    ...line(result.repaired, 'damaged on the drive and repaired from another holder'),
    ...line(result.damaged - result.repaired, 'damaged on the drive'),
    ...line(result.refused, 'without a trusted signature (merge --trust takes them)'),
    ...line(result.parked, 'left out, as what they refer to is nowhere'),
    ...line(result.noRoom, 'found no room (cache.maxSize, or the disk)'),
    ...line(result.left, 'not come to'),
    ...line(result.wantsMissing?.paths ?? 0, 'still wished for'),
    ...(files === undefined || files.came === 0
      ? []
      : [`  ${plural(files.came, 'file')} of channels, flakes and tarballs came`]),
    ...(result.receipt === undefined ? [] : [`  receipt on the drive: ${result.receipt}`]),
  )
}

/** `narwharf merge DRIVE`: brings what lies on a drive into this host's cache. */
export const merge: Command = async context => {
  const { client, io, out, options, arguments: args } = context
  const wish: MergeWish = {
    drive: placeOf(args[0] ?? ''),
    ...(options.trust === true && { trust: true }),
    ...(options.everything === true && { everything: true }),
  }
  const asked = await client()
  const job = await followJob(io, out, onEvent => asked.startJob('merge', wish, onEvent))
  const result = job.result as MergeResult | undefined
  if (out.asJson) out.json({ job })
  else if (result !== undefined) {
    print(out, job, result)
    complain(context, result)
  }
  return exitOfJob(job)
}
