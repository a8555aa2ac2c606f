import { problemOf } from '../../protocol/errors.ts'
import { parseNarinfo } from '../../protocol/narinfo.ts'
import type { NarInfo } from '../../protocol/path-info.ts'
import type { HashPart, StorePath } from '../../protocol/store-path.ts'
import type { Clock } from './clock.ts'
import { createWeightedCache } from './weighted-cache.ts'

// What an upstream said of paths, so that it is asked once: narinfos for a month as in Nix, "no" for an hour and only where
// it was really said. Nothing that went wrong on the way is an answer.

/** An answer as it is kept over restarts. */
export interface RememberedNarinfo {
  /** The narinfo as it came; undefined: the upstream said that it has none. */
  readonly text: string | undefined
  /** When it was said, ms since 1970. */
  readonly at: number
}

/** Where an upstream's answers are kept over restarts (the catalog); asked on the narinfo path, so synchronous. */
export interface NarinfoMemory {
  get(hashPart: HashPart): RememberedNarinfo | undefined
  put(hashPart: HashPart, answer: RememberedNarinfo): void
  delete(hashPart: HashPart): void
  /** Store paths of the narinfos kept. */
  paths(): Iterable<StorePath>
}

/** How long answers stand, ms. */
export interface NarinfoTimes {
  readonly presentMs: number
  readonly absentMs: number
  /** Refused without being a clear "no" (401, 403, a malformed narinfo): soon asked again, but not at every question. */
  readonly refusedMs: number
}

/** As Nix: 30 days (`narinfo-cache-positive-ttl`) and an hour. */
export const NARINFO_TIMES: NarinfoTimes = {
  presentMs: 30 * 24 * 3600_000,
  absentMs: 3600_000,
  refusedMs: 60_000,
}

/** What is known of a hash part. */
export type KnownNarinfo = { readonly info: NarInfo; readonly at: number } | 'absent'

interface Kept {
  readonly known: KnownNarinfo
  readonly until: number
}

/** Most answers kept in memory and the bytes of their narinfos, some 16 MiB with what is made of them. */
const KEPT_MAX_ENTRIES = 20_000
const KEPT_MAX_BYTES = 8 * 1024 * 1024

/** What an answer "no" weighs. */
const ABSENT_BYTES = 64

export interface UpstreamNarinfos {
  /** At once, undefined where the upstream must be asked. */
  known(hashPart: HashPart): KnownNarinfo | undefined
  /** Takes the body of a reply of 200; gives why it is refused, if it is. */
  present(hashPart: HashPart, body: Uint8Array, storeDir: string): string | undefined
  absent(hashPart: HashPart): void
  refused(hashPart: HashPart): void
  forget(hashPart: HashPart): void
  /** Which path asked for lately has its NAR at that URL. */
  byUrl(url: string): StorePath | undefined
  /** Every path known to be there. */
  paths(): Iterable<StorePath>
  /** Changes with `paths`. */
  readonly generation: number
}

/** Makes the memory of one upstream. */
export function createUpstreamNarinfos(options: {
  readonly clock: Clock
  readonly storeDir: () => string
  readonly times: NarinfoTimes
  readonly memory?: NarinfoMemory | undefined
}): UpstreamNarinfos {
  const { clock, times, memory } = options
  const cache = createWeightedCache<Kept>(KEPT_MAX_ENTRIES, KEPT_MAX_BYTES)
  /** Without a memory behind it: the paths in the order they came, as many as the cache has. */
  const seen = new Map<HashPart, StorePath>()
  let generation = 0

  const keep = (hashPart: HashPart, known: KnownNarinfo, until: number, weight: number): void => {
    cache.set(hashPart, { known, until }, weight)
    if (known === 'absent') return
    if (!seen.has(hashPart)) generation++
    seen.set(hashPart, known.info.storePath)
    if (seen.size <= KEPT_MAX_ENTRIES) return
    for (const oldest of seen.keys()) {
      seen.delete(oldest)
      break
    }
  }

  const forget = (hashPart: HashPart): void => {
    cache.delete(hashPart)
    memory?.delete(hashPart)
    if (seen.delete(hashPart)) generation++
  }

  /** An answer of an earlier run. */
  const recall = (hashPart: HashPart): Kept | undefined => {
    const answer = memory?.get(hashPart)
    if (answer === undefined) return undefined
    const lifeMs = answer.text === undefined ? times.absentMs : times.presentMs
    const until = answer.at + lifeMs
    // From the future: the clock was wrong then or is now.
    if (until <= clock.now() || answer.at > clock.now()) return undefined
    if (answer.text === undefined) {
      keep(hashPart, 'absent', until, ABSENT_BYTES)
    } else {
      try {
        const body = Buffer.from(answer.text, 'latin1')
        const info = parseNarinfo(body, { storeDir: options.storeDir(), expected: hashPart })
        keep(hashPart, { info, at: answer.at }, until, body.length)
      } catch {
        // Kept by a version that was less strict.
        memory?.delete(hashPart)
      }
    }
    return cache.get(hashPart)
  }

  return {
    known(hashPart) {
      const kept = cache.get(hashPart) ?? recall(hashPart)
      if (kept === undefined) return undefined
      if (kept.until > clock.now()) return kept.known
      forget(hashPart)
      return undefined
    },
    present(hashPart, body, storeDir) {
      let info: NarInfo
      try {
        info = parseNarinfo(body, { storeDir, expected: hashPart })
      } catch (error) {
        return problemOf(error)
      }
      const at = clock.now()
      keep(hashPart, { info, at }, at + times.presentMs, body.length)
      memory?.put(hashPart, { text: Buffer.from(body).toString('latin1'), at })
      return undefined
    },
    absent(hashPart) {
      const at = clock.now()
      forget(hashPart)
      keep(hashPart, 'absent', at + times.absentMs, ABSENT_BYTES)
      memory?.put(hashPart, { text: undefined, at })
    },
    refused(hashPart) {
      forget(hashPart)
      keep(hashPart, 'absent', clock.now() + times.refusedMs, ABSENT_BYTES)
    },
    forget,
    byUrl(url) {
      for (const [hashPart, storePath] of seen) {
        const known = cache.get(hashPart)?.known
        if (known !== undefined && known !== 'absent' && known.info.url === url) return storePath
      }
      return undefined
    },
    paths: () => memory?.paths() ?? seen.values(),
    get generation() {
      return generation
    },
  }
}
