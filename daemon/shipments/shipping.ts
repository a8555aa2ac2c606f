import { stat } from 'node:fs/promises'
import { isAbsolute, join, resolve } from 'node:path'
import type { FetchEvent } from '../../protocol/api.ts'
import type { VerifiedTarget, VerifyRequest, VerifyResult } from '../../protocol/api-shipments.ts'
import { fail } from '../../protocol/errors.ts'
import type { Keyring } from '../../protocol/signature.ts'
import type { StorePath } from '../../protocol/store-path.ts'
import type { Drive, Drives } from '../drives/drive.ts'
import { createCacheDirHolder } from '../holders/cache-dir.ts'
import type { Holder } from '../holders/holder.ts'
import type { Downloads } from '../holders/upstream-downloads.ts'
import { createUpstreamHolder } from '../holders/upstream.ts'
import type { JobHandle, JobOutcome, Jobs, RunningJob } from '../jobs/jobs.ts'
import { createShip } from './pack.ts'
import type { DriveAt, ShipHost, ShipWish } from './pack-prepare.ts'
import { createCacheRepair, createDirectoryRepair, type Repair } from './verify-repair.ts'
import { verifyDirectory } from './verify.ts'

// `ship` and `verify` as jobs: what they need of the host, and the drive that must not be ejected under them.

export interface ShippingOptions extends Omit<ShipHost, 'openFrom' | 'driveAt'> {
  readonly jobs: Jobs
  /** Keys whose manifests count, asked anew. */
  readonly keys: () => Keyring
  readonly downloads: Downloads
  readonly fetch: (paths: readonly StorePath[], signal: AbortSignal) => AsyncIterable<FetchEvent>
  readonly drives?: Pick<Drives, 'find' | 'use' | 'look'> | undefined
}

/** Starts the work; one of a kind at a time on each place. */
export interface Shipping {
  ship(wish: ShipWish): RunningJob
  /** Throws DRIVE_UNKNOWN for a name that no drive has. */
  verify(request: VerifyRequest): RunningJob
}

const isUrl = (text: string): boolean => /^https?:\/\//i.test(text)

/** Makes the room's jobs. */
export function createShipping(options: ShippingOptions): Shipping {
  const { jobs, drives, storeDir, pool, cacheDir } = options

  const openFrom = async (from: string): Promise<Holder> => {
    const dir = resolve(from)
    if (
      !isUrl(from) &&
      !(await stat(join(dir, 'nix-cache-info')).catch(() => undefined))?.isFile()
    ) {
      fail('HOLDER_UNREADABLE', { holder: dir, problem: 'there is no nix-cache-info in it' })
    }
    const holder = isUrl(from)
      ? createUpstreamHolder({
          ...{ url: from, pool, expectedStoreDir: storeDir },
          downloads: options.downloads,
        })
      : createCacheDirHolder({ dir, pool, expectedStoreDir: storeDir })
    await holder.open()
    return holder
  }

  /** The drive that a place is on, kept from being ejected until it is done with. */
  const use = (drive: Drive | undefined, what: string): DriveAt | undefined => {
    const used = drive && drives?.use(drive.id, what)
    if (drive === undefined || used === undefined) return undefined
    return {
      name: drive.label ?? drive.name,
      holderId: drive.holder?.id,
      signal: used.signal,
      done() {
        used.done()
        // What was written changes what is on it.
        void drives?.look(drive.id).catch(() => undefined)
      },
    }
  }

  const ship = createShip({
    ...options,
    openFrom,
    driveAt: dir => use(drives?.find(dir), 'ship'),
  })

  const repairOf = (dir: string, drive: Drive | undefined, job: JobHandle): Promise<Repair> => {
    const without = [`cache-dir:${dir}`, ...(drive?.holder === undefined ? [] : [drive.holder.id])]
    const common = { ...options, dir, without, job, signal: job.signal }
    return dir === resolve(cacheDir) ? createCacheRepair(common) : createDirectoryRepair(common)
  }

  const verifyOne = async (
    dir: string,
    drive: Drive | undefined,
    repair: boolean,
    job: JobHandle,
  ): Promise<VerifiedTarget> => {
    const used = use(drive, 'verify')
    const signal = used === undefined ? job.signal : AbortSignal.any([job.signal, used.signal])
    let repairing: Repair | undefined
    try {
      repairing = repair ? await repairOf(dir, drive, { ...job, signal }) : undefined
      const mend = repairing?.mend.bind(repairing)
      const found = await verifyDirectory({
        ...{ dir, storeDir, pool, job, signal, repair: mend },
        trust: options.trust,
        keys: options.keys(),
        substitution: options.substitution,
      })
      await repairing?.finish()
      return found
    } finally {
      await repairing?.close()
      used?.done()
    }
  }

  return {
    ship: wish =>
      jobs.start(
        { kind: 'ship', title: `ship ${wish.name ?? wish.dir}`, subject: resolve(wish.dir) },
        job => ship(wish, job),
      ),
    verify({ targets = [], repair = false }) {
      const places = (targets.length === 0 ? [cacheDir] : targets).map(target => {
        const drive = drives?.find(target)
        if (drive !== undefined) return { dir: drive.dir, drive }
        if (isAbsolute(target)) return { dir: resolve(target), drive: undefined }
        return fail('DRIVE_UNKNOWN', { name: target })
      })
      const subject = places.map(({ dir }) => dir).join('\n')
      const title = `verify ${targets.length === 0 ? 'the cache' : targets.join(', ')}`
      return jobs.start({ kind: 'verify', title, subject }, async job => {
        const found: VerifiedTarget[] = []
        for (const { dir, drive } of places) found.push(await verifyOne(dir, drive, repair, job))
        return outcomeOf(found)
      })
    },
  }
}

const total = (targets: readonly VerifiedTarget[], of: (one: VerifiedTarget) => number): number =>
  targets.reduce((sum, target) => sum + of(target), 0)

function outcomeOf(targets: readonly VerifiedTarget[]): JobOutcome {
  const result: VerifyResult = { targets }
  const good = total(targets, ({ good: count }) => count)
  const damaged = total(targets, ({ damagedPaths }) => damagedPaths)
  const repaired = total(targets, ({ repairedPaths }) => repairedPaths)
  const incomplete = total(targets, ({ incompletePaths }) => incompletePaths)
  const problems = total(targets, target => target.problems.length)
  const words = [
    `${good} paths are right`,
    ...(damaged > 0 ? [`${damaged} damaged, ${repaired} of them repaired`] : []),
    ...(incomplete > 0 ? [`${incomplete} lack what they refer to`] : []),
    ...(problems > 0 ? [`${problems} problems of manifest and index`] : []),
  ]
  const isWhole = damaged === repaired && incomplete === 0 && problems === 0
  return {
    state: isWhole ? 'done' : good + repaired > 0 ? 'partly' : 'failed',
    summary: words.join('; '),
    result,
  }
}
