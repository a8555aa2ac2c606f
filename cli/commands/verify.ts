import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import type { VerifiedTarget, VerifyRequest, VerifyResult } from '../../protocol/api-shipments.ts'
import type { Command } from '../command.ts'
import { exitOfJob, followJob } from '../follow-job.ts'
import { formatCount, formatSize, plural, printable } from '../format.ts'
import type { Io, Output } from '../output.ts'

/** Paths told to a person; `--json` has more. */
const SHOWN = 50

/** A directory by its path, or a drive by its name. */
const placeOf = (text: string): string =>
  text.includes('/') || existsSync(text) ? resolve(text) : text

function print(out: Output, target: VerifiedTarget): void {
  const { dir, paths, good, fileBytes, unsigned, damagedPaths, repairedPaths } = target
  out.print(
    `${printable(dir)}: ${formatCount(good)} of ${plural(paths, 'path')} are right, ${formatSize(fileBytes)} read`,
  )
  if (damagedPaths > 0) {
    out.print(`${plural(damagedPaths, 'path')} damaged, ${formatCount(repairedPaths)} repaired`)
  }
  if (unsigned > 0) {
    out.print(`${plural(unsigned, 'path')} without a signature that this host trusts: not offered`)
  }
}

function listRest({ stderr }: Io, target: VerifiedTarget): void {
  const list = (count: number, what: string, lines: readonly string[]): void => {
    if (count === 0) return
    stderr.write(`narwharf: ${what}:\n`)
    for (const line of lines.slice(0, SHOWN)) stderr.write(`  ${printable(line)}\n`)
    if (count > SHOWN) stderr.write(`  and ${formatCount(count - SHOWN)} more\n`)
  }
  const { damaged, damagedPaths, incomplete, incompletePaths, problems } = target
  list(
    damagedPaths,
    'damaged',
    damaged.map(({ storePath, problem, repairedFrom }) => {
      const mended = repairedFrom === undefined ? 'not repaired' : `repaired from ${repairedFrom}`
      return `${storePath}: ${problem} (${mended})`
    }),
  )
  list(
    incompletePaths,
    'not complete',
    incomplete.map(({ storePath, problem }) => `${storePath}: ${problem}`),
  )
  list(problems.length, 'manifest and index', problems)
}

/** `narwharf verify [TARGET...]`: reads everything in the cache, a directory or a drive. */
export const verify: Command = async ({ client, io, out, arguments: args, options }) => {
  const request: VerifyRequest = {
    targets: args.map(placeOf),
    repair: options.repair === true,
  }
  const asked = await client()
  const job = await followJob(io, out, onEvent => asked.startJob('verify', request, onEvent))
  const result = job.result as VerifyResult | undefined
  for (const target of result?.targets ?? []) {
    if (!out.asJson) print(out, target)
    listRest(io, target)
  }
  if (out.asJson && result !== undefined) out.json(result)
  return exitOfJob(job)
}
