import { once } from 'node:events'
import { isNarwharfError, problemOf } from '../../protocol/errors.ts'
import { hashPartOf, type HashPart, type StorePath } from '../../protocol/store-path.ts'
import type { EventBus } from '../events.ts'
import type { JobHandle, JobOutcome, Jobs } from '../jobs/jobs.ts'
import type { PeerKey } from '../site.ts'
import { isOwn, type MergeShare } from './merge-share.ts'
import { PATH_OVERHEAD_BYTES, type CacheSpace } from './merge-space.ts'

// A shipment is plugged into some host, and kept by another: what a peer's drive has comes over the network into the cache of a
// keeper, as a merge of a drive of its own would bring it. Which paths are on the drive the peer's note says (the digest of the
// drive), what they are its index does.

/** A shipment on a drive that is plugged at another host within reach. */
export interface FarDrive {
  readonly host: PeerKey
  readonly hostName: string
  readonly id: string
  readonly name: string
  readonly shipment: string
  readonly part: number
  has(hashPart: HashPart): boolean
}

/** What it came to; {@link GatherResult.problems} names the first hundred. */
export interface GatherResult {
  readonly drive: { readonly id: string; readonly name: string; readonly host: string }
  readonly came: number
  readonly bytes: number
  readonly wasThere: number
  readonly elsewhere: number
  readonly missing: number
  readonly noRoom: number
  readonly problems: readonly { readonly storePath: string; readonly problem: string }[]
}

export interface GatherOptions {
  readonly drives: () => readonly FarDrive[]
  /** What that host tells that it has, references first. */
  readonly told: (host: PeerKey) => AsyncIterable<readonly StorePath[]>
  /** Whether this host has merged that part whole. */
  readonly isMerged: (shipment: string, part: number) => boolean
  readonly share: (drive: FarDrive) => MergeShare
  /** In this host's cache. */
  readonly has: (hashPart: HashPart) => boolean
  readonly wanted: (hashPart: HashPart) => number | undefined
  /** Brings a path into the cache, checked; gives the bytes of its NAR. Its references may be elsewhere at the site. */
  readonly bring: (storePath: StorePath) => Promise<number>
  /** The room of the cache, counted anew. */
  readonly openSpace: () => Promise<Pick<CacheSpace, 'room' | 'took'>>
  readonly jobs: Jobs
  readonly events: EventBus
  /** How long an index may rest before it is taken for told to its end, ms. */
  readonly settleMs?: number | undefined
}

/** Feeding an index pauses longer than that only when it is through. */
const SETTLE_MS = 3000

/** Least urgent: what nobody wishes for. */
const UNWANTED = 10

const LISTED_MAX = 100

/** A cache with less room than this takes nothing more: the size of a path is known when it is there. */
const LEAST_ROOM_BYTES = 64 * 1024 * 1024

/** Brings what is on drives of other hosts, whenever one comes, into the cache of this keeper. */
export function createGathering(options: GatherOptions) {
  const { drives, told, share, has, wanted, bring, jobs, events } = options
  const { settleMs = SETTLE_MS } = options
  const begun = new Set<string>()

  const isGone = (drive: FarDrive): boolean =>
    !drives().some(({ id, host }) => id === drive.id && host === drive.host)

  /** Paths on the drive that are known by now and were not looked at before, the most wanted first. */
  const next = async (drive: FarDrive, seen: Set<HashPart>): Promise<StorePath[]> => {
    const found: StorePath[] = []
    for await (const paths of told(drive.host)) {
      for (const path of paths) {
        const part = hashPartOf(path)
        if (seen.has(part) || !drive.has(part)) continue
        seen.add(part)
        found.push(path)
      }
    }
    const priority = (path: StorePath) => wanted(hashPartOf(path)) ?? UNWANTED
    return found.sort((a, b) => priority(a) - priority(b))
  }

  /** Resolves to whether the host's index said anything new within the time. */
  const changes = async ({ host }: FarDrive, signal: AbortSignal): Promise<boolean> => {
    const until = AbortSignal.any([signal, AbortSignal.timeout(settleMs)])
    try {
      for (;;) {
        const [key] = (await once(events, 'index:changed', { signal: until })) as [PeerKey]
        if (key === host) return true
      }
    } catch {
      return false
    }
  }

  const gather = async (drive: FarDrive, job: JobHandle): Promise<JobOutcome> => {
    const { signal } = job
    const space = await options.openSpace()
    const sharing = share(drive)
    const count = { came: 0, bytes: 0, wasThere: 0, elsewhere: 0, missing: 0, noRoom: 0 }
    const problems: { storePath: string; problem: string }[] = []
    const theirs: StorePath[] = []
    const seen = new Set<HashPart>()

    const take = async (storePath: StorePath): Promise<void> => {
      try {
        if ((await space.room()) < LEAST_ROOM_BYTES) {
          count.noRoom++
          return
        }
        const bytes = await bring(storePath)
        space.took(bytes + PATH_OVERHEAD_BYTES)
        count.bytes += bytes
        count.came++
      } catch (error) {
        if (isNarwharfError(error, 'CACHE_UNWRITABLE')) throw error
        count.missing++
        if (problems.length < LISTED_MAX) problems.push({ storePath, problem: problemOf(error) })
      }
    }
    const each = async (paths: readonly StorePath[], others: boolean): Promise<void> => {
      for (const [index, path] of paths.entries()) {
        signal.throwIfAborted()
        if (isGone(drive)) return
        const part = hashPartOf(path)
        if (has(part)) count.wasThere++
        else if (sharing.kept(part)) count.elsewhere++
        else if (!others && !isOwn(sharing, part)) theirs.push(path)
        else await take(path)
        job.progress({ done: index + 1, total: paths.length, bytes: count.bytes, what: path })
      }
    }
    const outcome = (): JobOutcome => {
      const { came, bytes, wasThere, elsewhere, missing, noRoom } = count
      const at = { id: drive.id, name: drive.name, host: drive.hostName }
      const result: GatherResult = { drive: at, ...count, problems }
      const left = missing + noRoom
      const summary = `${came} paths came (${bytes} bytes of NARs), ${wasThere} were here, ${elsewhere} kept elsewhere${
        left === 0 ? '' : `, ${left} did not come`
      }`
      if (isGone(drive)) return { state: 'partly', summary: `the drive went: ${summary}`, result }
      return { state: left === 0 ? 'done' : 'partly', summary, result }
    }

    let ended: JobOutcome | undefined
    try {
      do await each(await next(drive, seen), false)
      while (await changes(drive, signal))
      signal.throwIfAborted()
      sharing.shareDone()
      await sharing.othersDone(signal)
      await each(theirs.splice(0), true)
      ended = outcome()
      return ended
    } finally {
      sharing.end(ended?.state === 'done')
    }
  }

  const look = (): void => {
    const now = drives()
    const keys = new Set(now.map(({ host, id, shipment }) => `${host} ${id} ${shipment}`))
    for (const key of begun) if (!keys.has(key)) begun.delete(key)
    for (const drive of now) {
      const key = `${drive.host} ${drive.id} ${drive.shipment}`
      if (begun.has(key) || options.isMerged(drive.shipment, drive.part)) continue
      begun.add(key)
      jobs.start(
        {
          kind: 'merge',
          title: `merge ${drive.name} at ${drive.hostName}`,
          subject: `${drive.host} ${drive.id}`,
        },
        job => gather(drive, job),
      )
    }
  }
  const notices = ['note:changed', 'peer:up', 'peer:down'] as const

  return {
    open() {
      for (const notice of notices) events.on(notice, look)
      look()
    },
    close() {
      for (const notice of notices) events.off(notice, look)
    },
  }
}
