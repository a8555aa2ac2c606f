import { isAbsolute } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { MissingPlace } from '../../protocol/api-wants.ts'
import { fail, isNarwharfError, problemOf } from '../../protocol/errors.ts'
import { decodeHaveDigest } from '../../protocol/have-digest.ts'
import { NARINFO_MAX_BYTES, parseNarinfo } from '../../protocol/narinfo.ts'
import type { NarInfo, PathInfo } from '../../protocol/path-info.ts'
import { hashPartOf, type StorePath } from '../../protocol/store-path.ts'
import { createCacheDirHolder } from '../holders/cache-dir.ts'
import type { Holder } from '../holders/holder.ts'
import { readSmall } from '../holders/upstream-relay.ts'
import { createHttpTransport } from '../holders/upstream-transport.ts'
import type { NarPool } from '../workers/nar-pool.ts'
import type { Known, Look } from './knowledge.ts'

// The places that something may be lacking in, behind one question.

/** What a place says of a path. */
export interface Presence {
  readonly there: boolean
  /** As the place has it, where it says. */
  readonly info?: PathInfo | undefined
  /** What the site knows, where that was looked up for the answer. */
  readonly known?: Known | undefined
}

export interface Place {
  readonly name: string
  /** Rejects when the place cannot be asked: then nothing is known of what it lacks. */
  ask(path: StorePath): Promise<Presence>
  close(): Promise<void>
}

export interface PlaceParts {
  readonly look: Look
  readonly storeDir: string
  readonly hostName: string
  readonly siteName: () => string | undefined
  readonly pool: NarPool
  /** A drive that is plugged, or one of which only a list of paths is known; undefined for a name that no drive has. */
  readonly drive: (
    name: string,
  ) => Promise<
    | { readonly name: string; readonly holder: Holder }
    | { readonly name: string; readonly has: (path: StorePath) => boolean | Promise<boolean> }
    | undefined
  >
}

/** How often an answer that did not come is asked for again, and how long one may take. */
const ATTEMPTS = 3
const ANSWER_MS = 20_000
const RETRY_MS = 500

const open = async () => {}

function unreadable(holder: string, problem: string, cause?: unknown): never {
  return fail('HOLDER_UNREADABLE', { holder, problem }, cause)
}

async function placeOfHolder(name: string, holder: Holder, own: boolean): Promise<Place> {
  if (own) await holder.open()
  const problem = holder.problem?.()
  if (problem !== undefined) {
    if (own) await holder.close()
    return unreadable(name, problem)
  }
  return {
    name,
    async ask(path) {
      const holding = await holder.find(hashPartOf(path))
      const there = holding?.info.storePath === path
      return there ? { there, info: holding.info } : { there: false }
    },
    close: own ? () => holder.close() : open,
  }
}

/** A cache behind HTTP: a narinfo asked for each path, as it has no index. */
function placeOfUrl(url: string, storeDir: string): Place {
  const transport = createHttpTransport(new URL(url), 'anywhere')
  const attempt = async (path: StorePath): Promise<NarInfo | 'absent'> => {
    const hashPart = hashPartOf(path)
    const signal = AbortSignal.timeout(ANSWER_MS)
    const reply = await transport.get({ path: `${hashPart}.narinfo`, signal })
    if (reply.status === 404 || reply.status === 403) {
      reply.destroy()
      return 'absent'
    }
    if (reply.status !== 200) {
      reply.destroy()
      throw new Error(`HTTP status ${reply.status}`)
    }
    const bytes = await readSmall(reply, NARINFO_MAX_BYTES)
    // One that cannot be read is one that no Nix would take.
    try {
      return bytes === undefined ? 'absent' : parseNarinfo(bytes, { storeDir, expected: hashPart })
    } catch (error) {
      if (isNarwharfError(error)) return 'absent'
      throw error
    }
  }
  return {
    name: url,
    async ask(path) {
      for (let tries = 1; ; tries++) {
        try {
          const info = await attempt(path)
          return info === 'absent' || info.storePath !== path
            ? { there: false }
            : { there: true, info }
        } catch (error) {
          if (tries === ATTEMPTS) return unreadable(url, problemOf(error), error)
          await new Promise(resolve => setTimeout(resolve, RETRY_MS * tries))
        }
      }
    },
    close: async () => transport.close(),
  }
}

async function placeOfCache(cache: string, parts: PlaceParts): Promise<Place> {
  const { pool, storeDir } = parts
  if (/^https?:\/\//.test(cache)) {
    if (!URL.canParse(cache)) return unreadable(cache, 'no URL')
    return placeOfUrl(cache, storeDir)
  }
  const dir = cache.startsWith('file://') ? fileURLToPath(cache) : cache
  if (!isAbsolute(dir)) return unreadable(cache, 'neither a URL nor an absolute path')
  return placeOfHolder(cache, createCacheDirHolder({ dir, pool, expectedStoreDir: storeDir }), true)
}

/** Opens a place. Rejects with HOLDER_UNREADABLE, HAVE_DIGEST_INVALID, DRIVE_UNKNOWN. */
export async function openPlace(place: MissingPlace, parts: PlaceParts): Promise<Place> {
  const { look, hostName } = parts
  switch (place.kind) {
    case 'site':
      return {
        name: parts.siteName() === undefined ? `host ${hostName}` : `site ${parts.siteName()}`,
        async ask(path) {
          const known = await look(path)
          return { there: known.reach !== undefined, info: known.info, known }
        },
        close: open,
      }
    case 'here':
      return {
        name: `host ${hostName}`,
        async ask(path) {
          const known = await look(path)
          return { there: known.here, info: known.info, known }
        },
        close: open,
      }
    case 'have': {
      const digest = decodeHaveDigest(Buffer.from(place.have, 'base64'))
      return {
        name: `the digest of ${digest.site} of ${digest.createdAt}`,
        ask: async path => ({ there: digest.has(hashPartOf(path)) }),
        close: open,
      }
    }
    case 'drive': {
      const drive = await parts.drive(place.drive)
      if (drive === undefined) return fail('DRIVE_UNKNOWN', { name: place.drive })
      const name = `drive ${drive.name}`
      if ('holder' in drive) return placeOfHolder(name, drive.holder, false)
      return {
        name: `${name}, as it was when it was seen last`,
        ask: async path => ({ there: await drive.has(path) }),
        close: open,
      }
    }
    case 'cache':
      return placeOfCache(place.cache, parts)
  }
}
